//! The directories of one cell: one on cgroup v2, one in each hierarchy on v1.
//!
//! Their name is `toolcell.PID.CALL`. Whether a cell is alive is not told by the PID, which is there
//! for people to read and may belong to another PID namespace: the supervisor holds a lock
//! (flock(2)) on each directory for as long as the cell is its own, and the kernel drops the locks
//! with the supervisor, however it ends. Each, because on v1 two supervisors may share their place in
//! one hierarchy and not in another, and then see only some of each other's directories.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{CgroupError, processes};

/// What the names of our directories begin with.
const PREFIX: &str = "toolcell.";
/// Longest identifier of a call in a name; with the rest it stays far below NAME_MAX.
const CALL_BYTES_MAX: usize = 128;
/// Only the owner gets in, so that nobody else can take the lock.
const PRIVATE: u32 = 0o700;
/// How often a directory is made anew when another supervisor's sweep took it in the moment between
/// its making and its lock: with sixteen supervisors that start at once, three times were too few.
const SWEPT_AWAY_MAX: usize = 100;
/// Deepest nesting below a cell's directory that is removed; a cell has no way to make any.
const DEPTH_MAX: usize = 16;
/// How often a held lock is tried, and how long between: a sweep that holds it is gone in less, even
/// where it has to wait for a processor meanwhile.
const LOCK_TRIES: usize = 1000;
const LOCK_STEP: Duration = Duration::from_millis(1);
/// How long a sweep waits for one dead supervisor's cell to be empty.
const SWEEP_DEADLINE: Duration = Duration::from_secs(2);
/// How often a sweep tries in that time.
const SWEEP_STEP: Duration = Duration::from_millis(5);

/// A cell's directories, removed when dropped if they are empty.
#[derive(Debug)]
pub(super) struct Directories {
    paths: Vec<PathBuf>,
    removed: bool,
    /// One for each path.
    locks: Vec<File>,
}

impl Directories {
    /// Makes a directory for this call below each parent.
    pub fn make(parents: &[&Path], call: &str) -> Result<Self, CgroupError> {
        let name = name(call)?;
        if parents.is_empty() {
            return Err(CgroupError::NoParent);
        }
        let mut made = Self {
            paths: Vec::new(),
            removed: false,
            locks: Vec::new(),
        };
        for parent in parents {
            let path = parent.join(&name);
            made.locks.push(make_and_lock(&path)?);
            made.paths.push(path);
        }
        Ok(made)
    }

    /// The directories, in the order of the parents.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Removes them; false while a process is left in one.
    pub fn try_remove(&mut self) -> Result<bool, CgroupError> {
        if !self.removed {
            self.removed = remove_all(&self.paths)?;
        }
        Ok(self.removed)
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        let _ = self.try_remove();
    }
}

/// Removes every cell below these parents that no living supervisor holds, and kills what still runs
/// in one. Returns how many there were.
pub(super) fn sweep(parents: &[&Path]) -> usize {
    let mut names: Vec<String> = parents.iter().flat_map(|parent| ours(parent)).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().filter(|name| sweep_one(parents, name)).count()
}

fn sweep_one(parents: &[&Path], name: &str) -> bool {
    let (mut paths, mut locks) = (Vec::new(), Vec::new());
    for path in parents.iter().map(|parent| parent.join(name)) {
        let directory = match File::open(&path) {
            Ok(directory) => directory,
            // A crash in the middle of making or removing leaves only some. Such a path is not touched:
            // another sweep may just have removed it, and its name may be in use again by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return false,
        };
        if directory.try_lock().is_err() {
            return false;
        }
        if is_at(&directory, &path) {
            paths.push(path);
            locks.push(directory);
        }
    }
    if paths.is_empty() {
        return false;
    }
    let give_up = Instant::now() + SWEEP_DEADLINE;
    loop {
        for path in &paths {
            processes::end_all(path);
        }
        match remove_all(&paths) {
            Ok(true) => return true,
            Ok(false) if Instant::now() < give_up => std::thread::sleep(SWEEP_STEP),
            Ok(false) | Err(_) => return false,
        }
    }
}

/// Whether a path leads to this very directory: what is removed can still be locked.
fn is_at(directory: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let there = fs::symlink_metadata(path).map(identity).ok();
    there.is_some() && there == directory.metadata().map(identity).ok()
}

fn ours(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_ours(name))
        .collect()
}

fn is_ours(name: &str) -> bool {
    let parts = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(pid, call)| pid.parse::<u32>().is_ok() && is_name(call))
}

fn is_name(call: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=CALL_BYTES_MAX).contains(&call.len()) && call.bytes().all(allowed)
}

fn name(call: &str) -> Result<String, CgroupError> {
    if is_name(call) {
        Ok(format!("{PREFIX}{}.{call}", std::process::id()))
    } else {
        Err(CgroupError::Name {
            call: call.chars().take(CALL_BYTES_MAX).collect(),
        })
    }
}

/// Makes a directory that must not exist yet. (`Controller::create` of cgroups-rs would take over
/// one that does, with the counters and processes it has.)
fn make(path: &Path) -> Result<(), CgroupError> {
    let result = DirBuilder::new().mode(PRIVATE).create(path);
    result.map_err(|source| CgroupError::Make {
        path: path.to_owned(),
        source,
    })
}

fn make_and_lock(path: &Path) -> Result<File, CgroupError> {
    for _ in 0..SWEPT_AWAY_MAX {
        make(path)?;
        let result = File::open(path).and_then(lock);
        match result {
            // A sweep may have removed it in between.
            Ok(directory) if is_at(&directory, path) => return Ok(directory),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                let _ = fs::remove_dir(path);
                let path = path.to_owned();
                return Err(CgroupError::Make { path, source });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Err(CgroupError::Make {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Takes the lock of a directory just made. Only a sweep that took the directory for a dead one can
/// hold it, and removes it at once.
fn lock(directory: File) -> io::Result<File> {
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_STEP),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Removes directories, the first one last; false while a process is left in one.
///
/// (`Controller::delete` of cgroups-rs sleeps its thread up to 150 ms.)
fn remove_all(paths: &[PathBuf]) -> Result<bool, CgroupError> {
    for path in paths.iter().rev() {
        if !remove(path, DEPTH_MAX)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove(path: &Path, depth: usize) -> Result<bool, CgroupError> {
    let failed = |source| CgroupError::Remove {
        path: path.to_owned(),
        source,
    };
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        Err(error) => return Err(failed(error)),
    }
    let children = children(path);
    if depth == 0 || children.is_empty() {
        return Ok(false);
    }
    for child in children {
        if !remove(&child, depth - 1)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(true),
    }
}

/// Groups directly below this one. Where there is none, which is always so but in a test, it costs
/// one stat(2).
pub(super) fn children(path: &Path) -> Vec<PathBuf> {
    /// A directory's own entry and its `.`: more links than that are subdirectories.
    const LINKS_OF_A_LEAF: u64 = 2;
    if fs::symlink_metadata(path).is_ok_and(|found| found.nlink() <= LINKS_OF_A_LEAF) {
        return Vec::new();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_cannot_name_a_directory_elsewhere() {
        for call in [
            "",
            "a/b",
            "..",
            "a\0b",
            "a b",
            &"x".repeat(CALL_BYTES_MAX + 1),
        ] {
            let named = name(call);
            let elsewhere = named.is_ok_and(|name| Path::new(&name).components().count() != 1);
            assert!(!elsewhere, "{call:?}");
        }
        assert!(name("a/b").is_err());
        assert!(name("0192-abc_d.e").unwrap().ends_with(".0192-abc_d.e"));
    }

    #[test]
    fn a_sweep_that_shares_only_one_hierarchy_leaves_a_living_cell() {
        let hierarchies = tempfile::tempdir().unwrap();
        let [first, shared, other] = ["first", "shared", "other"].map(|name| {
            let path = hierarchies.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        let living = Directories::make(&[&first, &shared], "living").unwrap();
        let dead = shared.join("toolcell.1.dead");
        fs::create_dir(&dead).unwrap();

        assert_eq!(sweep(&[&other, &shared]), 1);
        assert!(!dead.exists());
        assert!(living.paths().iter().all(|path| path.exists()));
    }

    #[test]
    fn only_our_own_names_are_swept() {
        assert!(is_ours("toolcell.12.a-b"));
        for name in [
            "toolcell",
            "toolcell-0",
            "toolcell.x.a",
            "toolcell.1",
            "toolcell.1.",
            "cell.1.a",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
