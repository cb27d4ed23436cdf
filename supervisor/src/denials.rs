//! What a cell's seccomp filter reports: answered, and recorded with the line that would allow it.
//!
//! See seccomp_unotify(2). A denied call gets its error from here; a call that names a path is only
//! looked at and goes on to the minimal root and to Landlock, which decide. The path is read from
//! memory that the tool can change meanwhile, so nothing is ever decided by it; and it is read by the
//! cell's [`Reader`], since a supervisor in a Landlock domain looks into no process outside.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use profiles::compile::{Compiled, Exception};
use profiles::filter::{Notification, Policy};
use profiles::resolve::WORK;
use runner::spec::{Call, LandlockRule, Mount};
use runner::sys::{self, Answer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::outcome::{Denial, DenialKind};
use crate::reader::Reader;

mod network;
mod paths;

/// Most different denials that one call records; further ones are counted together.
pub const DENIALS_MAX: usize = 64;

/// What the paths and addresses that a tool tries are compared with.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The cell's Landlock rules, the template's and the call's.
    rules: Vec<LandlockRule>,
    /// Rules of the profile that take something away again.
    exceptions: Vec<Exception>,
    /// What stands in the cell for protected names that do not exist.
    stubs: Vec<PathBuf>,
    /// Whether Landlock refuses TCP within the cell too.
    no_loopback: bool,
}

impl Allowed {
    /// What holds for one call of a profile.
    #[must_use]
    pub fn new(compiled: &Compiled, call: &Call) -> Self {
        let landlock = &compiled.template.landlock;
        let stubs = call.mounts.iter().filter_map(|mount| match mount {
            Mount::Guarded { blocked, .. } => Some(blocked),
            _ => None,
        });
        Self {
            rules: landlock.rules.iter().chain(&call.rules).cloned().collect(),
            exceptions: compiled.exceptions.clone(),
            stubs: stubs
                .flatten()
                .map(|name| PathBuf::from(WORK).join(name))
                .collect(),
            no_loopback: landlock.handled_net != 0,
        }
    }
}

/// The denials of one call.
#[derive(Debug, Default)]
pub struct Recorded {
    by_kind: BTreeMap<(DenialKind, String), Denial>,
    /// Denials beyond [`DENIALS_MAX`] different ones.
    more: u64,
    /// Name lookups of which only the connection to a resolver was seen so far.
    nameless_lookups: u64,
}

impl Recorded {
    /// Records one.
    pub fn add(&mut self, denial: Denial) {
        let key = (denial.kind, denial.what.clone());
        if let Some(known) = self.by_kind.get_mut(&key) {
            known.count += denial.count;
        } else if self.by_kind.len() < DENIALS_MAX {
            self.by_kind.insert(key, denial);
        } else {
            self.more += denial.count;
        }
    }

    fn add_attempt(&mut self, attempt: network::Attempt) {
        match attempt {
            network::Attempt::Denied(denial) => self.add(denial),
            network::Attempt::Resolver => self.nameless_lookups += 1,
            network::Attempt::Lookup { name, connected } => {
                if connected {
                    self.nameless_lookups = self.nameless_lookups.saturating_sub(1);
                }
                self.add(network::lookup(&name));
            }
        }
    }

    /// All of them, in a stable order.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Denial> {
        let nameless = std::mem::take(&mut self.nameless_lookups);
        if nameless > 0 {
            self.add(network::nameless_lookup(nameless));
        }
        let more = (self.more > 0).then(|| Denial {
            kind: DenialKind::Limit,
            what: format!("more than {DENIALS_MAX} different denials"),
            rule: "only that many are listed".to_owned(),
            allow_with: String::new(),
            count: self.more,
        });
        self.by_kind.into_values().chain(more).collect()
    }
}

/// What is needed to tell what a notification is about.
#[derive(Debug, Clone, Copy)]
pub struct Looker<'a> {
    /// The cell's filter.
    pub policy: &'a Policy,
    /// What the paths and addresses are compared with.
    pub allowed: &'a Allowed,
    /// What looks into the cell's processes.
    pub reader: Option<&'a Reader>,
}

/// Answers a cell's notifications until the cell has ended, and adds what was denied.
///
/// # Errors
/// If the listener cannot be watched. Dropping the listener makes the kernel answer `ENOSYS`.
pub async fn listen(
    listener: OwnedFd,
    looker: Looker<'_>,
    recorded: &std::sync::Mutex<Recorded>,
) -> std::io::Result<()> {
    // An older kernel refuses this, and is only slower.
    let _ = sys::wake_synchronously(listener.as_fd());
    let listener = crate::descriptor::watch(listener, Interest::READABLE)?;
    loop {
        let mut ready = listener.readable().await?;
        if ready.ready().is_read_closed() || !is_readable(&listener)? {
            if ready.ready().is_read_closed() {
                return Ok(());
            }
            ready.clear_ready();
            continue;
        }
        match sys::receive_notification(listener.as_fd()) {
            Ok(notification) => {
                let attempts = handle(&listener, &notification, looker).await;
                let mut recorded = recorded
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                for attempt in attempts {
                    recorded.add_attempt(attempt);
                }
            }
            // The caller was killed between the wake-up and now.
            Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a notification waits: `SECCOMP_IOCTL_NOTIF_RECV` would block without one.
fn is_readable(listener: &AsyncFd<OwnedFd>) -> std::io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// Answers one notification; returns what was denied by it.
async fn handle(
    listener: &AsyncFd<OwnedFd>,
    call: &sys::Notification,
    looker: Looker<'_>,
) -> Vec<network::Attempt> {
    let number = u32::try_from(call.number).unwrap_or(u32::MAX);
    // An answer to a caller that has been killed meanwhile fails, and nobody misses it.
    let answer = |answer| {
        let _ = sys::answer(listener.as_fd(), call.id, answer);
    };
    match looker.policy.classify(number, &call.arguments) {
        Notification::Denied {
            what,
            errno,
            rule,
            allow,
        } => {
            answer(Answer::Fail(Errno::from_raw(i32::from(errno.number()))));
            vec![network::Attempt::Denied(Denial {
                kind: DenialKind::Syscall,
                what,
                rule,
                allow_with: allow.unwrap_or_default(),
                count: 1,
            })]
        }
        Notification::SealedMemfd => {
            if let Err(error) = give_sealed_memfd(listener, call) {
                answer(Answer::Fail(error));
            }
            vec![]
        }
        Notification::Inspect(path_call) => {
            let denied = match looker.reader {
                Some(reader) => paths::look(call, path_call, looker.allowed, reader).await,
                None => None,
            };
            let seen = denied.map(network::Attempt::Denied).into_iter().collect();
            go_on(listener, call, seen)
        }
        Notification::InspectAddress(address_call) => {
            let seen = match looker.reader {
                Some(reader) => network::look(call, address_call, looker.allowed, reader).await,
                None => vec![],
            };
            go_on(listener, call, seen)
        }
    }
}

/// Lets a call go on that was only looked at. What was seen counts if the caller waited meanwhile:
/// then it was the caller's own memory.
fn go_on<T>(listener: &AsyncFd<OwnedFd>, call: &sys::Notification, seen: Vec<T>) -> Vec<T> {
    let still_there = sys::notification_is_valid(listener.as_fd(), call.id);
    let _ = sys::answer(listener.as_fd(), call.id, Answer::Continue);
    if still_there { seen } else { vec![] }
}

/// Answers `memfd_create` with a file that cannot be executed, as executing is allowed beneath the
/// profile's `files.exec` only, and a memory file is beneath nothing.
fn give_sealed_memfd(listener: &AsyncFd<OwnedFd>, call: &sys::Notification) -> Result<(), Errno> {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    const NOEXEC_SEAL: u64 = 8;
    let flags = call.arguments[1];
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL) != 0 {
        return Err(Errno::EINVAL);
    }
    let sealing = flags & ALLOW_SEALING != 0;
    // The caller's name for it only shows in its own /proc/self/fd.
    // Before Linux 6.3 there is no such file: then there is none at all, and programs fall back.
    let file = sys::memfd_without_exec(c"toolcell", sealing).map_err(|_| Errno::ENOSYS)?;
    sys::answer_with_descriptor(
        listener.as_fd(),
        call.id,
        file.as_fd(),
        flags & CLOEXEC != 0,
    )
}
