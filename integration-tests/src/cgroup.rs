//! Cgroups that tests make for the programs they start.
//!
//! On v2 whatever starts toolcell has to give it a cgroup that is delegated and that nothing else is
//! in. Tests make one for each program, beside the leaf that `in-own-cgroup.sh` has put them into.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// Where version 2 is mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Name of the leaf that the tests are in.
const LEAF: &str = "toolcell-tests";
/// What cells need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Deepest group that is looked at: a world's, a program's, the cells', one within a cell.
const DEPTH_MAX: usize = 6;

/// Whether this host has version 2 alone.
#[must_use]
pub fn unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The directory in which tests may make groups on version 2; none if nobody prepared one.
#[must_use]
pub fn beside_us() -> Option<PathBuf> {
    if !unified() {
        return None;
    }
    let own = fs::read_to_string("/proc/self/cgroup").expect("proc is mounted");
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let above = Path::new(path).parent()?;
    (Path::new(path).file_name()? == LEAF).then(|| Path::new(MOUNT).join(above))
}

/// Makes a group that hands on each controller that it has itself.
///
/// # Errors
/// The kernel's, as of making a directory.
pub fn make(group: &Path) -> io::Result<()> {
    fs::create_dir(group)?;
    let found = fs::read_to_string(group.join("cgroup.controllers"))?;
    for name in CONTROLLERS {
        if found.split_whitespace().any(|word| word == name) {
            fs::write(group.join("cgroup.subtree_control"), format!("+{name}"))?;
        }
    }
    Ok(())
}

/// Makes a group that is delegated to a user; returns the file by which a process enters it.
#[must_use]
pub fn delegate(group: &Path, uid: Option<u32>) -> PathBuf {
    fs::create_dir(group).expect("the group above is ours");
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        chown(group.join(name), uid, uid).expect("only root does this for others");
    }
    group.join("cgroup.procs")
}

/// A group and all below it, the deepest first.
#[must_use]
pub fn tree(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    descend(group, DEPTH_MAX, &mut found);
    found
}

fn descend(group: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in entries {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), depth - 1, found);
        }
    }
    found.push(group.to_owned());
}

/// The processes in a group and in all below it, by PID; one in a PID namespace that is not ours to
/// see is 0.
#[must_use]
pub fn processes(group: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for group in tree(group) {
        // One may be removed while we look.
        let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(list.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    pids
}
