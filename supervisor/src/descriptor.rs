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

/// A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6), to be looked at and closed at
/// once: nothing is read from it, written to it or set on it. `id` may also be a thread's.
#[must_use]
pub fn of_process(id: i32, descriptor: RawFd) -> Option<OwnedFd> {
    // What a tool says is its descriptor may be any number.
    if id <= 0 || descriptor < 0 {
        return None;
    }
    // `PIDFD_THREAD`, Linux 6.9; a thread's table of descriptors may be its own.
    let thread = PidfdFlags::from_bits_retain(nix::libc::O_EXCL.cast_unsigned());
    let process = pidfd_open(Pid::from_raw(id)?, thread).or_else(|_| {
        let process = process_of(id).ok_or(rustix::io::Errno::SRCH)?;
        pidfd_open(process, PidfdFlags::empty())
    });
    pidfd_getfd(process.ok()?, descriptor, PidfdGetfdFlags::empty()).ok()
}

/// The process of a thread (proc_pid_status(5)).
fn process_of(thread: i32) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}
