//! The processes in a control group, and how they are ended where the kernel has no `cgroup.kill`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::CgroupError;
use super::directories::children;

/// Most rounds of listing and killing in one go. With forking stopped the second finds nobody new.
const ROUNDS_MAX: usize = 16;
/// Most processes that one round kills: each needs a descriptor for a moment.
const ROUND_PROCESSES_MAX: usize = 256;

/// Whether no living process is in this group or below it. A group that cannot be read is not empty,
/// unless it is gone.
pub(super) fn is_empty(group: &Path) -> bool {
    match list(group) {
        Ok(pids) => pids.is_empty() && children(group).iter().all(|child| is_empty(child)),
        Err(_) => !group.exists(),
    }
}

/// Ends everything in a group and below it, by `cgroup.kill` where there is one.
pub(super) fn end_all(group: &Path) {
    // v1, and v2 before Linux 5.14, have no such file.
    if super::file::write(&group.join("cgroup.kill"), "1").is_err() {
        kill_each(&[group]);
    }
}

/// Sends SIGKILL to every process in the groups and below them, until no listed one is new.
///
/// A listed PID may be another process by the time it is signalled. So it is pinned by a pidfd first
/// and the group is listed again: a PID that is still listed then belongs to the pinned process, or
/// that one is dead and the signal goes nowhere.
pub(super) fn kill_each<P: AsRef<Path>>(groups: &[P]) {
    // One set for all: a process is in every hierarchy of v1.
    let mut signalled = BTreeSet::new();
    for group in groups {
        kill_below(group.as_ref(), &mut signalled);
    }
}

fn kill_below(group: &Path, signalled: &mut BTreeSet<i32>) {
    for child in children(group) {
        kill_below(&child, signalled);
    }
    for _ in 0..ROUNDS_MAX {
        let listed = list(group).unwrap_or_default();
        let new: Vec<i32> = listed.difference(signalled).copied().collect();
        let pinned: Vec<(i32, OwnedFd)> = new
            .into_iter()
            .take(ROUND_PROCESSES_MAX)
            .filter_map(|pid| {
                let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
                Some((pid, pidfd))
            })
            .collect();
        if pinned.is_empty() {
            return;
        }
        let still = list(group).unwrap_or_default();
        for (pid, pidfd) in pinned.iter().filter(|(pid, _)| still.contains(pid)) {
            // ESRCH is the aim already reached; anything else shows in a group that stays populated.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            signalled.insert(*pid);
        }
    }
}

/// PIDs in `cgroup.procs`. One of a PID namespace that we cannot see into reads as 0: it counts, but
/// cannot be signalled; no process of a cell is one.
fn list(group: &Path) -> Result<BTreeSet<i32>, CgroupError> {
    let text = super::file::read(&group.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
