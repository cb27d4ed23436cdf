//! Which descriptors a cell's processes hold: the standard streams and nothing else.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::sys;

/// Number of the report socket in the process that becomes the tool, until the exec closes it.
pub(crate) const REPORT: RawFd = 3;
/// Exit status of that process when it could not exec; the report says why.
pub(crate) const EXIT_NOT_STARTED: i32 = 125;

/// Puts the streams on 0, 1 and 2 and the report socket on [`REPORT`], closed on exec.
pub(crate) fn connect(streams: &[OwnedFd; 3], socket: &OwnedFd) -> Result<(), Errno> {
    // The launcher holds every descriptor of a cell at 4 or above ([`launcher`](crate::launcher)
    // keeps 0 to 3 occupied), so none of these overwrites one that is still needed.
    for (number, stream) in (0..).zip(streams) {
        sys::duplicate_onto(stream.as_fd(), number, false)?;
    }
    sys::duplicate_onto(socket.as_fd(), REPORT, true)
}

/// Closes everything above [`REPORT`], whatever its flags.
pub(crate) fn close_all_but_standard() -> Result<(), Errno> {
    sys::close_from(REPORT + 1)
}
