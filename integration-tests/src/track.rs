//! Every process that a world starts, whatever it does to hide: a cgroup of their own in a hierarchy
//! that Toolcell does not use, which no process inside a cell can leave.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

/// Hierarchies of cgroup v1 in which Toolcell makes nothing.
const UNUSED: [&str; 3] = ["freezer", "devices", "blkio"];
/// Longest wait for killed processes when a world ends.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);

/// Where the processes of one world are found again.
#[derive(Debug)]
pub struct Track {
    /// The group; none where there is no such hierarchy, or it is not ours to write.
    group: Option<PathBuf>,
    /// PIDs of the supervisors that were started, a line each.
    supervisors: NamedTempFile,
}

impl Track {
    pub(crate) fn new() -> Self {
        let supervisors = NamedTempFile::with_prefix("toolcell-test-").expect("/tmp is writable");
        let unique = supervisors.path().file_name().expect("it has a name");
        let group = UNUSED.into_iter().find_map(|hierarchy| {
            let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(unique);
            fs::create_dir(&group).ok().map(|()| group)
        });
        Self { group, supervisors }
    }

    /// Shell commands by which a process enters.
    pub(crate) fn enter(&self) -> String {
        let list = self.supervisors.path().display();
        let group = self
            .group
            .as_ref()
            .map(|group| format!("echo $$ > {} && ", group.join("cgroup.procs").display()));
        format!("echo $$ >> {list} && {}", group.unwrap_or_default())
    }

    /// The supervisors that were started so far, living or dead.
    #[must_use]
    pub fn supervisors(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.supervisors.path()).expect("the list is ours");
        list.lines()
            .map(|pid| pid.parse().expect("the shell wrote a number"))
            .collect()
    }

    /// Living processes of the world, zombies among them, each with its name; nothing if this host
    /// does not let them be followed.
    #[must_use]
    pub fn processes(&self) -> Option<Vec<(i32, String)>> {
        let procs = fs::read_to_string(self.group.as_ref()?.join("cgroup.procs"));
        let procs = procs.expect("the group is ours");
        let named = |pid: &str| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (
                pid.parse().expect("the kernel wrote a number"),
                name.trim_end().to_owned(),
            )
        };
        // A process of a PID namespace that is not ours to see is 0.
        Some(procs.lines().map(named).collect())
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else {
            return;
        };
        let gone = crate::within(CLEAN_UP_MAX, || {
            for pid in living(&group) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            fs::remove_dir(&group).is_ok()
        });
        if !gone {
            let _ = writeln!(std::io::stderr(), "{} cannot be removed", group.display());
        }
    }
}

fn living(group: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let pids = procs.lines().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| *pid > 0).collect()
}
