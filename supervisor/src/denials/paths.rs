//! Paths that a tool tries: whether the cell has them, and which rule keeps them away.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use profiles::compile::{Exception, ExceptionKind};
use profiles::filter::paths::{Effect, PathCall, Place};
use profiles::resolve::{SHM, TMP, WORK};
use runner::spec::LandlockRule;
use runner::sys;
use runner::wire::{Answer, Base, NamedPath, Question};

use super::Allowed;
use crate::outcome::{Denial, DenialKind, REMOVE};
use crate::reader::Reader;

/// What the C library and common programs look for on every start and do well without: naming these
/// would hide what matters.
const ROUTINE: [&str; 13] = [
    "/etc/ld.so.preload",
    "/etc/selinux/config",
    "/selinux",
    "/sys/fs/selinux",
    "/sys/devices/system/cpu/online",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
    "/etc/host.conf",
    "/etc/gai.conf",
    // Daemons that the C library asks first, and the system's log.
    "/var/run/nscd/socket",
    "/run/nscd/socket",
    "/run/systemd/userdb/io.systemd.DynamicUser",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/dev/log",
];

/// What a call denies itself by naming a path that it may not use; nothing if it may.
pub(super) async fn look(
    call: &sys::Notification,
    named: &PathCall,
    allowed: &Allowed,
    reader: &Reader,
) -> Option<Denial> {
    let (root, paths) = paths_of(call, named, reader).await?;
    let attempts = paths.into_iter();
    attempts
        .filter_map(|(index, path)| {
            let (found, rest) = nearest(&root, &path, named.follows())?;
            // `found` is a place, and by its descriptor the kernel says where that is.
            let at = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
            Some(Attempt {
                call: named,
                arguments: &call.arguments,
                index,
                absent: !rest.as_os_str().is_empty(),
                canonical: at.join(rest),
                path,
                found,
                root: &root,
            })
        })
        .find_map(|attempt| attempt.denied(allowed))
}

/// A socket's path that a tool connects to and that the cell does not have.
pub(super) async fn look_at_socket(pid: i32, path: &Path, reader: &Reader) -> Option<Denial> {
    let (root, _) = ask(pid, vec![], reader).await?;
    let (found, rest) = nearest(&root, path, true)?;
    let absent = !rest.as_os_str().is_empty();
    if !absent || !same_device(&root, &found) || is_routine(path) {
        return None;
    }
    Some(Denial {
        kind: DenialKind::Path,
        what: format!("connect to socket {}", path.display()),
        rule: "no entry of `sockets.connect` covers it".to_owned(),
        allow_with: format!("sockets.connect = [{:?}]", path.display().to_string()),
        count: 1,
    })
}

/// One path of one call.
struct Attempt<'a> {
    call: &'a PathCall,
    arguments: &'a [u64; 6],
    /// Which of the call's paths it is.
    index: usize,
    path: PathBuf,
    root: &'a OwnedFd,
    /// The nearest there is to the path in the cell.
    found: OwnedFd,
    /// Whether that is only something above it.
    absent: bool,
    /// The path without links, as far as there is something.
    canonical: PathBuf,
}

struct Need {
    verb: &'static str,
    /// Key of the profile's `[files]` table.
    key: &'static str,
    /// A Landlock right (landlock(7)) that a covering rule has.
    right: u64,
}

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;

impl Attempt<'_> {
    fn denied(&self, allowed: &Allowed) -> Option<Denial> {
        let need = self.need();
        let (rule, allow_with) = match self.excepted(&need, allowed) {
            Some(exception) => because_of(exception),
            None => (
                format!("no entry of `files.{}` covers it", need.key),
                self.missing(&need, allowed)?,
            ),
        };
        Some(Denial {
            kind: DenialKind::Path,
            what: format!("{} {}", need.verb, self.path.display()),
            rule,
            allow_with,
            count: 1,
        })
    }

    fn need(&self) -> Need {
        // An open that would create, and need not, is like any other.
        let only_creates = self.call.creates_only_if_absent(self.arguments);
        let (verb, key, right) = if self.call.effect == Effect::Execute {
            ("execute", "exec", EXECUTE)
        } else if self.call.writes_with(self.arguments) && (self.absent || !only_creates) {
            ("write", "write", WRITE_FILE)
        } else if self.call.effect == Effect::Look {
            ("look at", "read", READ_FILE | READ_DIR)
        } else {
            ("read", "read", READ_FILE | READ_DIR)
        };
        Need { verb, key, right }
    }

    /// The rule that takes the path away again, although another lists it.
    fn excepted<'a>(&self, need: &Need, allowed: &'a Allowed) -> Option<&'a Exception> {
        if self.is_there_already(allowed) {
            return None;
        }
        // What is covered itself can be looked at, and looks empty.
        let looks = self.call.effect == Effect::Look && !self.call.asks_for_access(self.arguments);
        let path = &self.canonical;
        let writable = |path: &Path| covers(&allowed.rules, path, WRITE_FILE);
        allowed.exceptions.iter().find(|exception| {
            let within = path.starts_with(&exception.path);
            // Each directory above is pinned: the rule would move along with it.
            let above = self.call.moves(self.arguments)
                && path != &exception.path
                && exception.path.starts_with(path)
                && path.parent().is_some_and(writable);
            match exception.kind {
                ExceptionKind::Deny => above || within && !(looks && *path == exception.path),
                ExceptionKind::Protect => {
                    need.key == "write" && (within || above && path != Path::new(WORK))
                }
            }
        })
    }

    /// Whether the call would make what there is already: that fails whoever asks. What stands for
    /// a protected name is there for this cell alone.
    fn is_there_already(&self, allowed: &Allowed) -> bool {
        self.call.makes(self.index) && !self.absent && !allowed.stubs.contains(&self.canonical)
    }

    /// The line that would allow a path which the cell does not have, or has without the rights
    /// that are needed; nothing if it is not denied.
    ///
    /// What is absent from a directory that the cell does have is no denial: it is absent for
    /// everybody, or the tool's own affair.
    fn missing(&self, need: &Need, allowed: &Allowed) -> Option<String> {
        if self.absent && is_routine(&self.path) || self.is_there_already(allowed) {
            return None;
        }
        if self.absent && need.key != "write" {
            return same_device(self.root, &self.found).then(|| self.line(need.key));
        }
        // Reading what leads to an allowed place, such as `/` itself, is part of the cell.
        let beneath = |rule: &LandlockRule| rule.path.starts_with(&self.canonical);
        let leads_on = need.key == "read" && allowed.rules.iter().any(beneath);
        let denied = !leads_on && !covers(&allowed.rules, &self.canonical, need.right);
        denied.then(|| self.line(need.key))
    }

    fn line(&self, key: &str) -> String {
        line(key, &self.path, self.root, &self.found, self.absent)
    }
}

fn because_of(exception: &Exception) -> (String, String) {
    let Exception { text, place, .. } = exception;
    let key = exception.kind.key();
    let does = match exception.kind {
        ExceptionKind::Deny => "covers it",
        ExceptionKind::Protect => "keeps it as it is",
    };
    (
        format!("`{key}` {does} (`{text}`, {place})"),
        format!("{REMOVE}`{text}` from `{key}`"),
    )
}

fn is_routine(path: &Path) -> bool {
    ROUTINE.iter().any(|routine| path == Path::new(routine))
}

/// The line that lets a path be used; empty if a profile cannot have such a line.
///
/// `found` is the nearest there is to the path in the cell.
fn line(key: &str, path: &Path, root: &OwnedFd, found: &OwnedFd, absent: bool) -> String {
    let within = |place: &&str| path.starts_with(place);
    // Beneath one of these there may be something of the host, which has a line of its own.
    let whole = [WORK, TMP, SHM].into_iter().filter(within).find(|place| {
        nearest(root, Path::new(place), true).is_some_and(|(place, _)| same_device(&place, found))
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
/// Links are followed as the tool would follow them, the last one only if `follow` says so, but never
/// out of the cell, and nothing is opened for more than its place (`O_PATH`). What is beneath
/// something that may not be entered, such as a cover, cannot be told from what is not there.
fn nearest(root: &OwnedFd, path: &Path, follow: bool) -> Option<(OwnedFd, PathBuf)> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let place = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let mut last = if follow {
        place
    } else {
        place | OFlag::O_NOFOLLOW
    };
    for ancestor in path.ancestors() {
        let how = OpenHow::new().flags(last).resolve(resolve);
        match openat2(root, ancestor, how) {
            Ok(found) => return Some((found, path.strip_prefix(ancestor).ok()?.to_owned())),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
            Err(_) => return None,
        }
        last = place;
    }
    None
}

/// Whether two things are in one file system, and so neither is in something mounted on the other's.
fn same_device(one: &OwnedFd, other: &OwnedFd) -> bool {
    let device = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|stat| stat.st_dev);
    device(one).is_ok_and(|one| device(other) == Ok(one))
}

/// The absolute paths that a call names, as text, with which of its places each is, and the root that
/// they are looked up in; those that cannot be read are left out.
async fn paths_of(
    call: &sys::Notification,
    path_call: &PathCall,
    reader: &Reader,
) -> Option<(OwnedFd, Vec<(usize, PathBuf)>)> {
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
    let places = path_call.places.iter().map(place).collect();
    let (root, named) = ask(i32::try_from(call.pid).ok()?, places, reader).await?;
    let absolute = |named: NamedPath| {
        let text = String::from_utf8_lossy(&named.text).into_owned();
        if text.is_empty() {
            return None;
        }
        // Joined to what is absolute, it is that.
        let base = named.base.unwrap_or_else(|| PathBuf::from("/"));
        Some(normal(&base.join(text)))
    };
    let named = named.into_iter().enumerate();
    let paths = named.filter_map(|(index, named)| Some((index, absolute(named?)?)));
    Some((root, paths.collect()))
}

/// The root directory of a tool's process, and what stands at these places.
async fn ask(
    pid: i32,
    places: Vec<(Base, u64)>,
    reader: &Reader,
) -> Option<(OwnedFd, Vec<Option<NamedPath>>)> {
    match reader.ask(&Question::Paths { pid, places }).await? {
        (Answer::Paths(named), Some(root)) => Some((root, named)),
        _ => None,
    }
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
