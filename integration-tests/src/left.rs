//! Nothing of a call is left on the host: looked at from outside, before and after.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{USER, World, cgroup, within};

/// How long what was left may take to go: a killed process needs an RCU grace period or two, and
/// the machine may be busy.
const GONE_MAX: Duration = Duration::from_secs(20);
/// First user id that cells of root get (`supervisor/src/ids.rs`).
const CELL_UIDS_FIRST: u32 = 2_000_000_000;
/// Deepest cgroup that is looked at.
const CGROUP_DEPTH_MAX: usize = 6;

/// What of the host a call could leave something in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    mounts: BTreeSet<String>,
    ipc: BTreeSet<String>,
    shared: BTreeSet<String>,
    temporary: BTreeSet<String>,
}

impl Host {
    /// Looks at the host as it is.
    #[must_use]
    pub fn look() -> Self {
        Self {
            mounts: mounts(),
            ipc: ipc(),
            shared: shared(),
            temporary: temporary(),
        }
    }
}

/// Asserts that the host is as it was before this world's calls, but for receipts and for what
/// tools were allowed to write: no process, no cgroup, no mount, no IPC object, no temporary file.
/// Waits, within bounds, for what is still on its way out.
#[track_caller]
pub fn assert_nothing_left(world: &World, before: &Host) {
    let mut found = String::new();
    let gone = within(GONE_MAX, || {
        found = left(world, before);
        found.is_empty()
    });
    assert!(gone, "{:?}: left on the host:\n{found}", world.who);
}

/// Everything that this world has left, a line each.
fn left(world: &World, before: &Host) -> String {
    let mut found = String::new();
    let mut say = |what: &str, items: &mut dyn Iterator<Item = String>| {
        for item in items {
            writeln!(found, "{what} {item}").expect("a string takes it");
        }
    };
    let processes = world.track.processes().unwrap_or_default();
    say(
        "process",
        &mut processes
            .into_iter()
            .map(|(pid, name)| format!("{pid} {name}")),
    );
    say(
        "cgroup",
        &mut cgroups(world)
            .into_iter()
            .map(|path| path.display().to_string()),
    );
    let now = Host::look();
    say("mount", &mut now.mounts.difference(&before.mounts).cloned());
    say("ipc", &mut now.ipc.difference(&before.ipc).cloned());
    say(
        "shared memory",
        &mut now.shared.difference(&before.shared).cloned(),
    );
    say(
        "temporary file",
        &mut now.temporary.difference(&before.temporary).cloned(),
    );
    for kept in ["tmp", "state/overlays", "state/toolcell/overlays"] {
        say("temporary file", &mut names(&world.path(kept)).into_iter());
    }
    found
}

/// Cgroups of the cells of this world's supervisors.
#[must_use]
pub fn cgroups(world: &World) -> Vec<PathBuf> {
    let prefixes: Vec<_> = world
        .track
        .supervisors()
        .iter()
        .map(|pid| format!("toolcell.{pid}."))
        .collect();
    let mut found = Vec::new();
    // A user's own groups lie deep.
    let of_world = world.track.group().filter(|_| cgroup::unified());
    descend(
        of_world.unwrap_or(Path::new("/sys/fs/cgroup")),
        CGROUP_DEPTH_MAX,
        &mut |path, name| {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                found.push(path.to_owned());
            }
        },
    );
    found
}

/// How many cells of this world's supervisors have a cgroup.
#[must_use]
pub fn cells(world: &World) -> usize {
    let groups = cgroups(world);
    let names: BTreeSet<_> = groups.iter().filter_map(|path| path.file_name()).collect();
    names.len()
}

fn descend(directory: &Path, depth: usize, visit: &mut impl FnMut(&Path, &str)) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), &entry.file_name().to_string_lossy());
            if depth > 0 {
                descend(&entry.path(), depth - 1, visit);
            }
        }
    }
}

/// Mounts of this mount namespace, but for those that other tests make in directories of theirs, and that
/// the host makes for users who log in.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    table
        .lines()
        .filter(|line| !line.contains("/toolcell-test-") && !line.contains(" /run/user/"))
        .map(str::to_owned)
        .collect()
}

/// System V objects that a cell's user owns: key and id in the first columns, the owner further on.
fn ipc() -> BTreeSet<String> {
    [("shm", 7), ("sem", 4), ("msg", 7)]
        .into_iter()
        .flat_map(|(kind, owner)| {
            let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            let of_cells = table.lines().skip(1).filter(move |line| {
                let uid = line.split_whitespace().nth(owner);
                uid.and_then(|uid| uid.parse().ok())
                    .is_some_and(is_of_cells)
            });
            let id = |line: &str| {
                line.split_whitespace()
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            of_cells
                .map(|line| format!("{kind} {}", id(line)))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// POSIX shared memory and message queues that a cell's user owns.
fn shared() -> BTreeSet<String> {
    owned(Path::new("/dev/shm"))
        .chain(owned(Path::new("/dev/mqueue")))
        .collect()
}

/// Temporary files that a cell's user owns. (What toolcell makes itself is in the world's own
/// `TMPDIR`.)
fn temporary() -> BTreeSet<String> {
    ["/tmp", "/var/tmp"]
        .into_iter()
        .flat_map(|directory| owned(Path::new(directory)))
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// What a cell's user owns there. An ordinary user has other things as well: of those, what the
/// tests' tools name for us.
fn owned(directory: &Path) -> impl Iterator<Item = String> {
    names(directory).into_iter().filter(|path| {
        let owner = fs::symlink_metadata(path).map_or(0, |found| found.uid());
        owner >= CELL_UIDS_FIRST || (is_of_cells(owner) && path.contains("/toolcell-left"))
    })
}

/// Whether a cell may run as this user of the host.
fn is_of_cells(uid: u32) -> bool {
    let own = nix::unistd::geteuid();
    uid >= CELL_UIDS_FIRST || (uid == USER && own.is_root())
}
