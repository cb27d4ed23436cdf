//! Resource limits of the tool's process; see getrlimit(2).

use nix::errno::Errno;

use crate::confine::At;
use crate::report::{SetupFailure, Step};
use crate::spec::Rlimit;
use crate::sys;

/// Sets every limit.
pub(crate) fn apply(limits: &[Rlimit]) -> Result<(), SetupFailure> {
    for (index, limit) in limits.iter().enumerate() {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).at_item(Step::Rlimit, index)?;
    }
    Ok(())
}

/// Whether every limit reads back as it was set.
pub(crate) fn hold(limits: &[Rlimit]) -> Result<bool, Errno> {
    for limit in limits {
        if sys::get_rlimit(limit.resource)? != (limit.soft, limit.hard) {
            return Ok(false);
        }
    }
    Ok(true)
}
