//! The cell's first process after the tool has been forked: it reaps, passes on one order, and says
//! how the tool ended. When it exits, the kernel kills everything left in the cell.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use crate::confine::{Cell, report};
use crate::report::{End, Report, Usage};
use crate::wire::CellOrder;
use crate::{descriptors, landlock, sys, wire};

/// Gives SIGCHLD its default disposition and blocks it, so that no end of a child is missed.
pub(crate) fn expect_children() -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    sys::set_signal_action(Signal::SIGCHLD, &default)?;
    only_sigchld().thread_block()
}

fn only_sigchld() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// Reaps until the tool has ended, or the supervisor has gone.
///
/// Errors end the cell: nothing here can be mended, and a cell without its first process is dead.
pub(crate) fn watch(cell: &Cell<'_>, tool: i32) {
    let Ok(socket) = settle(cell) else { return };
    if let Ok(Some(end)) = wait_for_end(socket, tool) {
        report(
            &socket,
            &Report::Ended {
                end,
                usage: usage(),
            },
        );
    }
}

/// Leaves this process with no descriptor but the socket and no file that it may open; capabilities
/// went before the fork. Returns the socket.
fn settle<'a>(cell: &Cell<'_>) -> Result<BorrowedFd<'a>, Errno> {
    sys::duplicate_onto(cell.socket.as_fd(), descriptors::REPORT, true)?;
    sys::close_from(descriptors::REPORT + 1)?;
    landlock::enforce_nothing_allowed(&cell.template.landlock)?;
    sys::borrow_open(descriptors::REPORT)
}

fn wait_for_end(socket: BorrowedFd<'_>, tool: i32) -> Result<Option<End>, Errno> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        if let Some(end) = reap(tool)? {
            return Ok(Some(end));
        }
        let mut ready = [
            PollFd::new(socket, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [order, _] = ready.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if !order.is_empty() && !obey(socket)? {
            return Ok(None);
        }
        while signals.read_signal()?.is_some() {}
    }
}

/// Carries one order out; false if the supervisor has gone.
fn obey(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [0; 64];
    let (length, _) = sys::receive(socket, &mut buffer)?;
    if length == 0 {
        return Ok(false);
    }
    match wire::decode(&buffer[..length]) {
        Ok(CellOrder::Terminate) => {
            // -1 is every process of this PID namespace but this one (kill(2)). ESRCH: none is left.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                match kill(Pid::from_raw(-1), signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        }
        Err(_) => Ok(false),
    }
}

/// Reaps all that have ended; returns the tool's end if it is among them.
fn reap(tool: i32) -> Result<Option<End>, Errno> {
    loop {
        match sys::reap() {
            Ok(Some((pid, end))) if pid == tool => return Ok(Some(end)),
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or_else(
        |_| Usage::default(),
        |usage| Usage {
            user_micros: unsigned(usage.user_time().num_microseconds()),
            system_micros: unsigned(usage.system_time().num_microseconds()),
            max_rss_bytes: unsigned(usage.max_rss()).saturating_mul(1024),
        },
    )
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
