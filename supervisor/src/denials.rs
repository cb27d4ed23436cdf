//! What a cell's seccomp filter reports: answered, and recorded with the line that would allow it.
//!
//! See seccomp_unotify(2). A denied call gets its error from here; a call that names a path is only
//! looked at and goes on to the minimal root and to Landlock, which decide. The path is read from
//! memory that the tool can change meanwhile, so nothing is ever decided by it; and it is read by the
//! cell's [`Reader`], since a supervisor in a Landlock domain looks into no process outside.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use profiles::filter::paths::{Effect, PathCall, Place};
use profiles::filter::{Notification, Policy};
use profiles::resolve::{SHM, TMP, WORK};
use runner::spec::LandlockRule;
use runner::sys::{self, Answer};
use runner::wire::{self, Base, Question};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::launch::Reader;
use crate::outcome::{Denial, DenialKind};

/// Most different denials that one call records; further ones are counted together.
pub const DENIALS_MAX: usize = 64;

/// What the C library and common programs look for on every start and do well without: naming these
/// would hide what matters.
const ROUTINE: [&str; 6] = [
    "/etc/ld.so.preload",
    "/etc/selinux/config",
    "/selinux",
    "/sys/fs/selinux",
    "/sys/devices/system/cpu/online",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
];

/// What the paths that a tool tries are compared with.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The cell's Landlock rules, the template's and the call's.
    pub rules: Vec<LandlockRule>,
}

/// The denials of one call.
#[derive(Debug, Default)]
pub struct Recorded {
    by_kind: BTreeMap<(DenialKind, String), Denial>,
    /// Denials beyond [`DENIALS_MAX`] different ones.
    more: u64,
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

    /// All of them, in a stable order.
    #[must_use]
    pub fn into_list(self) -> Vec<Denial> {
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

/// Answers a cell's notifications until the cell has ended, and adds what was denied.
///
/// # Errors
/// If the listener cannot be watched. Dropping the listener makes the kernel answer `ENOSYS`.
pub async fn listen(
    listener: OwnedFd,
    policy: &Policy,
    allowed: &Allowed,
    recorded: &std::sync::Mutex<Recorded>,
    reader: Option<&tokio::sync::Mutex<Reader>>,
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
                let denial = handle(&listener, &notification, policy, allowed, reader).await;
                if let Some(denial) = denial {
                    recorded
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .add(denial);
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
    policy: &Policy,
    allowed: &Allowed,
    reader: Option<&tokio::sync::Mutex<Reader>>,
) -> Option<Denial> {
    let number = u32::try_from(call.number).unwrap_or(u32::MAX);
    // An answer to a caller that has been killed meanwhile fails, and nobody misses it.
    let answer = |answer| {
        let _ = sys::answer(listener.as_fd(), call.id, answer);
    };
    match policy.classify(number, &call.arguments) {
        Notification::Denied {
            what,
            errno,
            rule,
            allow,
        } => {
            answer(Answer::Fail(Errno::from_raw(i32::from(errno.number()))));
            let allow_with = allow.unwrap_or_default();
            Some(Denial {
                kind: DenialKind::Syscall,
                what,
                rule,
                allow_with,
                count: 1,
            })
        }
        Notification::SealedMemfd => {
            if let Err(error) = give_sealed_memfd(listener, call) {
                answer(Answer::Fail(error));
            }
            None
        }
        Notification::Inspect(path_call) => {
            let need = need_of(path_call, &call.arguments);
            let denied = match paths_of(call, path_call, reader).await {
                Some((root, paths)) => paths
                    .into_iter()
                    .find_map(|path| Some((denied(&root, &path, &need, allowed)?, path))),
                None => None,
            };
            let still_there = sys::notification_is_valid(listener.as_fd(), call.id);
            answer(Answer::Continue);
            let (allow_with, path) = denied.filter(|_| still_there)?;
            Some(Denial {
                kind: DenialKind::Path,
                what: format!("{} {}", need.verb, path.display()),
                rule: format!("no entry of `files.{}` covers it", need.key),
                allow_with,
                count: 1,
            })
        }
    }
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

struct Need {
    verb: &'static str,
    /// Key of the profile's `[files]` table.
    key: &'static str,
    /// A Landlock right (landlock(7)) that a covering rule has.
    right: u64,
}

fn need_of(call: &PathCall, arguments: &[u64; 6]) -> Need {
    const EXECUTE: u64 = 1;
    const WRITE_FILE: u64 = 1 << 1;
    const READ_FILE: u64 = 1 << 2;
    const READ_DIR: u64 = 1 << 3;
    if call.effect == Effect::Execute {
        Need {
            verb: "execute",
            key: "exec",
            right: EXECUTE,
        }
    } else if call.writes_with(arguments) {
        Need {
            verb: "write",
            key: "write",
            right: WRITE_FILE,
        }
    } else if call.effect == Effect::Look {
        Need {
            verb: "look at",
            key: "read",
            right: READ_FILE | READ_DIR,
        }
    } else {
        Need {
            verb: "read",
            key: "read",
            right: READ_FILE | READ_DIR,
        }
    }
}

/// The line that would allow a path which the cell does not have, or has without the rights that are
/// needed; nothing if it is not denied.
///
/// What is absent from a directory that the cell does have is no denial: it is absent for
/// everybody, or the tool's own affair.
fn denied(root: &OwnedFd, path: &Path, need: &Need, allowed: &Allowed) -> Option<String> {
    let (found, rest) = nearest(root, path)?;
    let absent = !rest.as_os_str().is_empty();
    if absent && ROUTINE.iter().any(|routine| path == Path::new(routine)) {
        return None;
    }
    let line = || line(need.key, path, root, &found, absent);
    if absent && need.key != "write" {
        return same_device(root, &found).then(line);
    }
    // Reading what leads to an allowed place, such as `/` itself, is part of the cell.
    let canonical = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    let canonical = canonical.join(rest);
    let leads_on =
        need.key == "read" && allowed.rules.iter().any(|r| r.path.starts_with(&canonical));
    (!leads_on && !covers(&allowed.rules, &canonical, need.right)).then(line)
}

/// The line that lets a path be used; empty if a profile cannot have such a line.
///
/// `found` is the nearest there is to the path in the cell.
fn line(key: &str, path: &Path, root: &OwnedFd, found: &OwnedFd, absent: bool) -> String {
    let within = |place: &&str| path.starts_with(place);
    // Beneath one of these there may be something of the host, which has a line of its own.
    let whole = [WORK, TMP, SHM].into_iter().filter(within).find(|place| {
        nearest(root, Path::new(place)).is_some_and(|(place, _)| same_device(&place, found))
    });
    if let Some(place) = whole {
        // A profile lists these as a whole, and what it writes it can also read.
        let key = if key == "exec" { key } else { "write" };
        return format!("files.{key} = [{place:?}]");
    }
    // The cell has its own, and what exists in its own root is generated.
    let generated = !absent && same_device(root, found);
    if generated || ["/proc", "/dev"].iter().any(within) {
        return String::new();
    }
    format!("files.{key} = [{:?}]", path.display().to_string())
}

/// Whether a rule with any of these rights is on the path or on one of its ancestors; the root's own
/// rule only lets directories be listed.
fn covers(rules: &[LandlockRule], path: &Path, right: u64) -> bool {
    rules
        .iter()
        .filter(|rule| rule.path != Path::new("/"))
        .any(|rule| rule.access & right != 0 && path.starts_with(&rule.path))
}

/// The longest part of a path that exists in the cell, and the rest.
///
/// Links are followed as the tool would follow them, but never out of the cell, and nothing is
/// opened for more than its place (`O_PATH`).
fn nearest(root: &OwnedFd, path: &Path) -> Option<(OwnedFd, PathBuf)> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    for ancestor in path.ancestors() {
        match openat2(root, ancestor, how) {
            Ok(found) => return Some((found, path.strip_prefix(ancestor).ok()?.to_owned())),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(_) => return None,
        }
    }
    None
}

/// Whether two things are in one file system, and so neither is in something mounted on the other's.
fn same_device(one: &OwnedFd, other: &OwnedFd) -> bool {
    let device = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|stat| stat.st_dev);
    device(one).is_ok_and(|one| device(other) == Ok(one))
}

/// The absolute paths that a call names, as text, and the root that they are looked up in; those that
/// cannot be read are left out.
async fn paths_of(
    call: &sys::Notification,
    path_call: &PathCall,
    reader: Option<&tokio::sync::Mutex<Reader>>,
) -> Option<(OwnedFd, Vec<PathBuf>)> {
    let place = |place: &Place| match *place {
        Place::Plain(path) => (Base::WorkingDirectory, call.arguments[usize::from(path)]),
        Place::At(directory, path) => {
            // The kernel looks at the low 32 bits only.
            #[allow(clippy::cast_possible_truncation)]
            let fd = call.arguments[usize::from(directory)] as u32;
            let base = match fd.cast_signed() {
                nix::libc::AT_FDCWD => Base::WorkingDirectory,
                fd => Base::Descriptor(fd),
            };
            (base, call.arguments[usize::from(path)])
        }
    };
    let question = Question::Paths {
        pid: i32::try_from(call.pid).ok()?,
        places: path_call.places.iter().map(place).collect(),
    };
    let (answer, root) = match reader?.lock().await.ask(&question).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "a cell's reader does not answer: its denied paths are not named");
            return None;
        }
    };
    let wire::Answer::Paths(named) = answer else {
        return None;
    };
    let absolute = |named: wire::NamedPath| {
        let text = String::from_utf8_lossy(&named.text).into_owned();
        if text.is_empty() {
            return None;
        }
        // Joined to what is absolute, it is that.
        let base = named.base.unwrap_or_else(|| PathBuf::from("/"));
        Some(normal(&base.join(text)))
    };
    let paths = named.into_iter().flatten().filter_map(absolute).collect();
    Some((root?, paths))
}

/// A path without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::Normal(name) => result.push(name),
            _ => {}
        }
    }
    result
}
