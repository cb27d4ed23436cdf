//! Which descriptors a cell's processes hold: the standard streams and nothing else.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::sys;

/// Number of the report socket in the process that becomes the tool, until the exec closes it.
pub(crate) const REPORT: RawFd = 3;
/// Number of the socket on which a process that waits is told to begin, until the exec closes it.
pub(crate) const BEGIN: RawFd = 4;
/// Exit status of that process when it could not exec; the report says why.
pub(crate) const EXIT_NOT_STARTED: i32 = 125;

/// Puts the streams on 0, 1 and 2, the report socket on [`REPORT`] and the other one, if there is one, on
/// [`BEGIN`], both closed on exec.
pub(crate) fn connect(
    streams: &[OwnedFd; 3],
    socket: &OwnedFd,
    begin: Option<&OwnedFd>,
) -> Result<(), Errno> {
    // The launcher holds every descriptor of a cell at 5 or above ([`launcher`](crate::launcher)
    // keeps 0 to 4 occupied), so none of these overwrites one that is still needed.
    for (number, stream) in (0..).zip(streams) {
        sys::duplicate_onto(stream.as_fd(), number, false)?;
    }
    sys::duplicate_onto(socket.as_fd(), REPORT, true)?;
    match begin {
        Some(begin) => sys::duplicate_onto(begin.as_fd(), BEGIN, true),
        None => Ok(()),
    }
}

/// Closes everything but the standard streams and what [`connect`] put above them, whatever its flags.
pub(crate) fn close_all_but_standard(waits: bool) -> Result<(), Errno> {
    sys::close_from(if waits { BEGIN } else { REPORT } + 1)
}
