//! Every process that a world starts, whatever it does to hide: a cgroup of their own, which no process
//! inside a cell can leave. On v1 it is in a hierarchy that Toolcell does not use; on v2 Toolcell's own
//! groups lie below it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::cgroup;

/// Hierarchies of cgroup v1 in which Toolcell makes nothing.
const UNUSED: [&str; 3] = ["freezer", "devices", "blkio"];
/// Longest wait for killed processes when a world ends.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);

/// Where the processes of one world are found again.
#[derive(Debug)]
pub struct Track {
    /// The group; none where there is no such hierarchy, or it is not ours to write.
    group: Option<PathBuf>,
    /// How many programs got a group below it, on v2.
    programs: AtomicU32,
    /// PIDs of the supervisors that were started, a line each.
    supervisors: NamedTempFile,
}

impl Track {
    pub(crate) fn new() -> Self {
        let supervisors = NamedTempFile::with_prefix("toolcell-test-").expect("/tmp is writable");
        let unique = supervisors.path().file_name().expect("it has a name");
        let group = match cgroup::beside_us() {
            Some(above) => {
                let group = above.join(unique);
                cgroup::make(&group).expect("what is beside our leaf is ours");
                Some(group)
            }
            None => UNUSED.into_iter().find_map(|hierarchy| {
                let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(unique);
                fs::create_dir(&group).ok().map(|()| group)
            }),
        };
        Self {
            group,
            programs: AtomicU32::new(0),
            supervisors,
        }
    }

    /// Shell commands by which a process enters; on v2 a group that is this user's, if not our own.
    pub(crate) fn enter(&self, user: Option<u32>) -> String {
        let list = self.supervisors.path().display();
        let procs = self.group.as_ref().map(|group| {
            if cgroup::unified() {
                let number = self.programs.fetch_add(1, Ordering::Relaxed);
                cgroup::delegate(&group.join(format!("program-{number}")), user)
            } else {
                group.join("cgroup.procs")
            }
        });
        let enter = procs.map(|procs| format!("echo $$ > {} && ", procs.display()));
        format!("echo $$ >> {list} && {}", enter.unwrap_or_default())
    }

    /// The supervisors that were started so far, living or dead.
    #[must_use]
    pub fn supervisors(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.supervisors.path()).expect("the list is ours");
        list.lines()
            .map(|pid| pid.parse().expect("the shell wrote a number"))
            .collect()
    }

    /// Living processes of the world, on v1 zombies among them, each with its name; nothing if this
    /// host does not let them be followed.
    #[must_use]
    pub fn processes(&self) -> Option<Vec<(i32, String)>> {
        let named = |pid: i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (pid, name.trim_end().to_owned())
        };
        let pids = cgroup::processes(self.group.as_ref()?);
        Some(pids.into_iter().map(named).collect())
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else {
            return;
        };
        let gone = crate::within(CLEAN_UP_MAX, || {
            for pid in cgroup::processes(&group).into_iter().filter(|pid| *pid > 0) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            for group in cgroup::tree(&group) {
                let _ = fs::remove_dir(group);
            }
            !group.exists()
        });
        if !gone {
            let _ = writeln!(std::io::stderr(), "{} cannot be removed", group.display());
        }
    }
}
