//! What a session could have left on the host, looked at from the host's side.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Deepest cgroup that is looked for.
const DEPTH_MAX: usize = 16;
/// Longest wait for processes that are on their way out, and how often they are looked for.
const GOING_MAX: Duration = Duration::from_secs(5);
const GOING_STEP: Duration = Duration::from_millis(5);

/// Everything of a kind that a cell could leave behind and that outlives processes.
#[derive(PartialEq, Eq)]
pub struct Traces {
    /// Our view of the host's mounts.
    mounts: BTreeSet<String>,
    /// System V segments, semaphores and queues.
    ipc: BTreeSet<String>,
}

impl Traces {
    /// Looks at the host.
    pub fn look() -> Self {
        let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let ipc = ["shm", "sem", "msg"].map(|kind| lines(&format!("/proc/sysvipc/{kind}")));
        Self {
            mounts: lines("/proc/self/mounts")
                .lines()
                .map(str::to_owned)
                .collect(),
            // Key and id; the other columns change as others use what is theirs.
            ipc: ipc
                .iter()
                .flat_map(|table| table.lines().skip(1))
                .map(identity)
                .collect(),
        }
    }

    /// Whether there is a mount now that there was not before.
    pub fn new_mounts(&self, before: &Self) -> bool {
        !self.mounts.is_subset(&before.mounts)
    }

    /// Whether there is an IPC object now that there was not before.
    pub fn new_ipc(&self, before: &Self) -> bool {
        !self.ipc.is_subset(&before.ipc)
    }
}

fn identity(line: &str) -> String {
    line.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Takes over every process below this one whose parent ends, so that none can be lost sight of.
pub fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Whether a process is left below this one. Those that have ended are reaped. The launchers see the
/// end of the supervisor's sockets and go by themselves, a moment after it.
pub fn process_left() -> bool {
    let deadline = Instant::now() + GOING_MAX;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                std::thread::sleep(GOING_STEP);
            }
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether a cgroup of this supervisor's is left in any hierarchy.
pub fn cgroup_left(supervisor: u32) -> bool {
    has_cgroup(
        Path::new("/sys/fs/cgroup"),
        &format!("toolcell.{supervisor}."),
        DEPTH_MAX,
    )
}

fn has_cgroup(directory: &Path, prefix: &str, depth: usize) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    depth > 0
        && below.any(|entry| {
            entry.file_name().to_string_lossy().starts_with(prefix)
                || has_cgroup(&entry.path(), prefix, depth - 1)
        })
}

/// Whether a directory has nothing in it.
pub fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
