//! What every cell has of its own: `/proc`, `/dev`, a few files in `/etc`, and empty directories.

use std::path::{Path, PathBuf};

use runner::spec::{LandlockRule, Mount};

use crate::diagnostics::{Diagnostic, Kind, Problems};
use crate::egress::RESOLVER;
use crate::host::{Host, PathFact};
use crate::resolve::{DEVICES, Place, Resolved, SHM, TMP, WORK, Workspace};

use super::landlock::{Rights, Use};
use super::{HOSTNAME, INSIDE, USER};

/// A file system in memory gets an inode for this many bytes, so that empty files cannot take more
/// kernel memory than full ones.
const BYTES_PER_INODE: u64 = 4096;
/// Where the cell's POSIX message queues are listed.
const QUEUES: &str = "/dev/mqueue";
/// Fewest inodes of a file system in memory.
const INODES_MIN: u64 = 256;
/// Most inodes of a file system in memory.
const INODES_MAX: u64 = 262_144;

/// The device nodes that the cell gets: those that the host has.
pub(super) fn devices(
    resolved: &Resolved,
    host: &Host,
    problems: &mut Problems,
) -> Vec<&'static str> {
    let mut devices = Vec::new();
    for (path, demanded) in DEVICES {
        match host.at(Path::new(path)) {
            PathFact::Other => devices.push(path),
            _ if demanded => problems.push(
                Diagnostic::at(&resolved.origin, format!("the host has no `{path}`"))
                    .with_kind(Kind::HostTooWeak),
            ),
            _ => {}
        }
    }
    devices
}

/// The mounts that come before anything of the host, parents before children.
pub(super) fn mounts(resolved: &Resolved, devices: &[&str], resolver: bool) -> Vec<Mount> {
    let directory = |target: &str| Mount::Directory {
        target: target.into(),
        mode: 0o755,
    };
    let link = |target: &str, link: &str| Mount::Symlink {
        target: target.into(),
        link: link.into(),
    };
    let mut mounts = vec![
        Mount::Proc {
            target: "/proc".into(),
        },
        directory("/etc"),
    ];
    mounts.extend(etc(resolver).into_iter().map(|(target, text)| Mount::File {
        target: target.into(),
        contents: text.into_bytes(),
        mode: 0o444,
    }));
    mounts.push(directory("/dev"));
    mounts.extend(devices.iter().map(|device| Mount::Device {
        source: device.into(),
        target: device.into(),
    }));
    mounts.extend([
        Mount::Devpts {
            target: "/dev/pts".into(),
        },
        Mount::Queues {
            target: QUEUES.into(),
        },
        link("/dev/ptmx", "pts/ptmx"),
        link("/dev/fd", "/proc/self/fd"),
        link("/dev/stdin", "/proc/self/fd/0"),
        link("/dev/stdout", "/proc/self/fd/1"),
        link("/dev/stderr", "/proc/self/fd/2"),
    ]);
    let tmpfs = |target: &str, place: Place, bytes: u64, mode: u32| Mount::Tmpfs {
        target: target.into(),
        bytes,
        inodes: (bytes / BYTES_PER_INODE).clamp(INODES_MIN, INODES_MAX),
        mode,
        exec: resolved.files.exec.iter().any(|rule| rule.place == place),
    };
    let limits = &resolved.limits;
    mounts.push(if writes(resolved, &Place::Tmp) {
        tmpfs(TMP, Place::Tmp, limits.tmp, 0o1777)
    } else {
        directory(TMP)
    });
    if writes(resolved, &Place::Shm) {
        mounts.push(tmpfs(SHM, Place::Shm, limits.shm, 0o1777));
    }
    mounts.push(match resolved.workspace {
        // What a call may read and not write would stay as empty as it was made.
        Workspace::Ephemeral { bytes } if writes(resolved, &Place::Work) => {
            tmpfs(WORK, Place::Work, bytes, 0o777)
        }
        _ => directory(WORK),
    });
    mounts
}

pub(super) fn writes(resolved: &Resolved, place: &Place) -> bool {
    resolved.files.write.iter().any(|rule| rule.place == *place)
}

/// The files that a cell has in `/etc`: enough to know who and where it is, and nothing of the
/// host.
///
/// A cell with a resolver asks it for whatever `/etc/hosts` does not have. No `options`: its answers
/// hold one address, so they need neither EDNS nor TCP, and they come at once.
fn etc(resolver: bool) -> [(&'static str, String); 5] {
    let (uid, gid) = (INSIDE.uid, INSIDE.gid);
    let (nameserver, hosts) = if resolver {
        (format!("nameserver {RESOLVER}\n"), "files dns")
    } else {
        // A question fails at once; it is only asked so that it can be named. The last word is with
        // `files`: an unknown name is unknown, and not to be tried again.
        let nobody = "# This cell resolves no names.\noptions attempts:1 timeout:1\n";
        (nobody.to_owned(), "files dns files")
    };
    [
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\n\
                 {USER}:x:{uid}:{gid}:{USER}:{TMP}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        (
            "/etc/group",
            format!("root:x:0:\n{USER}:x:{gid}:\nnogroup:x:65534:\n"),
        ),
        (
            "/etc/hosts",
            format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost {HOSTNAME}\n"),
        ),
        ("/etc/resolv.conf", nameserver),
        (
            "/etc/nsswitch.conf",
            format!(
                "passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\nnetworks: files\n\
                 protocols: files\nservices: files\n"
            ),
        ),
    ]
}

/// The Landlock rules for what is the cell's own.
///
/// Landlock looks a path up through mount points to the parents of what is mounted, so a rule on a
/// directory of the root also holds for everything of the host beneath it. `/` therefore gets no
/// right but to list directories: to list is all that it grants anywhere, which is acceptable
/// because what is not listed in the profile does not exist in the cell, and what `deny` names is
/// covered by a directory without permissions. No rule covers the file `/.unreadable`, which the
/// runner tries to read in order to prove that the domain refuses. For the same reason nothing but
/// files, directories and links is made in a directory of the cell's own that holds one of the
/// host's, which `shows_host` says.
pub(super) fn rules(
    resolved: &Resolved,
    devices: &[&str],
    rights: Rights,
    shows_host: impl Fn(&Path) -> bool,
) -> Vec<LandlockRule> {
    let rule = |path: &str, what: Use, directory: bool| LandlockRule {
        path: PathBuf::from(path),
        access: rights.access(what, directory),
    };
    let mut rules = vec![
        rule("/", Use::List, true),
        rule("/etc", Use::Read, true),
        rule("/proc", Use::Read, true),
        rule("/dev/pts", Use::Terminal, true),
        rule(QUEUES, Use::Queue, true),
    ];
    rules.extend(devices.iter().map(|device| match *device {
        "/dev/tty" => rule(device, Use::Terminal, false),
        _ => rule(device, Use::Device, false),
    }));
    let mut own = vec![(TMP, Place::Tmp), (SHM, Place::Shm)];
    if matches!(resolved.workspace, Workspace::Ephemeral { .. }) {
        own.push((WORK, Place::Work));
    }
    rules.extend(own.into_iter().filter_map(|(path, place)| {
        let path = PathBuf::from(path);
        let write = if shows_host(&path) {
            Use::Write
        } else {
            Use::WriteOwn
        };
        let access = own_access(resolved, &place, write, rights);
        (access != 0).then_some(LandlockRule { path, access })
    }));
    rules
}

/// The rights on one of the cell's own directories, or on the workspace: none if no rule lists it.
pub(super) fn own_access(resolved: &Resolved, place: &Place, write: Use, rights: Rights) -> u64 {
    let files = &resolved.files;
    [
        (&files.read, Use::Read),
        (&files.exec, Use::Execute),
        (&files.write, write),
    ]
    .into_iter()
    .filter(|(list, _)| list.iter().any(|rule| rule.place == *place))
    .fold(0, |access, (_, what)| access | rights.access(what, true))
}
