//! The seccomp filter, installed last but for the exec.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::spec::Filter;
use crate::sys;

/// Installs the filter on this process; returns the listener if the filter notifies.
pub(crate) fn install(filter: &Filter) -> Result<Option<OwnedFd>, Errno> {
    if filter.program.is_empty() {
        return Err(Errno::EINVAL);
    }
    sys::install_filter(&filter.program, filter.notifies)
}
