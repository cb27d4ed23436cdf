//! Descriptors that the runtime watches, and those of other processes.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor.
///
/// # Errors
/// If epoll(7) cannot take it.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "deprecated in favour of an unsafe function, for types whose descriptor can be \
                  closed or exchanged while it is watched; an `OwnedFd` within an `AsyncFd` cannot"
    )]
    AsyncFd::with_interest(descriptor, interest)
}

/// Another process or thread, whose descriptors can be copied (pidfd_getfd(2), Linux 5.6), to be
/// looked at and closed at once: nothing is read from them, written to them or set on them.
#[derive(Debug)]
pub struct Other(OwnedFd);

impl Other {
    /// Opens it by its id.
    #[must_use]
    pub fn open(id: i32) -> Option<Self> {
        let own = Pid::from_raw(id.max(0))?;
        // `PIDFD_THREAD`, Linux 6.9; a thread's table of descriptors may be its own.
        let thread = PidfdFlags::from_bits_retain(nix::libc::O_EXCL.cast_unsigned());
        let opened = pidfd_open(own, thread).or_else(|_| {
            let process = process_of(id).ok_or(rustix::io::Errno::SRCH)?;
            pidfd_open(process, PidfdFlags::empty())
        });
        opened.ok().map(Self)
    }

    /// A copy of one of its descriptors; what a tool says is one may be any number.
    #[must_use]
    pub fn copy(&self, descriptor: RawFd) -> Option<OwnedFd> {
        let number = (descriptor >= 0).then_some(descriptor)?;
        pidfd_getfd(&self.0, number, PidfdGetfdFlags::empty()).ok()
    }
}

/// The process of a thread (proc_pid_status(5)).
fn process_of(thread: i32) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}
