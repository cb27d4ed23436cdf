//! Files that a tool left in its workspace's `out/`, collected after everything in the cell ended.
//!
//! The directory's contents are the tool's: each name is opened beneath the workspace's descriptor
//! without following links, and only regular files are read.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::outcome::Artifact;
use crate::results::{ARTIFACTS_MAX, Keep};

/// The directory in the workspace.
pub const OUT: &str = "out";
/// Deepest directory in it that is looked into.
const DEPTH_MAX: usize = 4;
/// Most directory entries that are looked at.
const ENTRIES_MAX: usize = 4096;
/// Largest file that is kept.
pub const ARTIFACT_BYTES_MAX: u64 = 64 << 20;

/// Collects the files that were changed since `since`; says what was left out, if anything was.
#[must_use]
pub fn collect(
    workspace: &OwnedFd,
    since: SystemTime,
    keep: &Keep,
) -> (Vec<Artifact>, Vec<String>) {
    let mut found = Found {
        since,
        files: Vec::new(),
        left_out: BTreeSet::new(),
        entries: 0,
    };
    // An `Err` has been noted as left out.
    let _ = found.walk(workspace, Path::new(OUT), 0);
    found.files.sort();
    let Found {
        files, left_out, ..
    } = found;
    let mut left_out = Vec::from_iter(left_out);
    let mut artifacts = Vec::new();
    for path in files {
        let name = path
            .strip_prefix(OUT)
            .unwrap_or(&path)
            .display()
            .to_string();
        match collect_one(workspace, &path, &name, since, keep) {
            Ok(Some(artifact)) => artifacts.push(artifact),
            Ok(None) => {}
            Err(error) => left_out.push(format!("`{OUT}/{name}` was not collected: {error}")),
        }
    }
    left_out.truncate(ARTIFACTS_MAX);
    (artifacts, left_out)
}

struct Found {
    since: SystemTime,
    files: Vec<PathBuf>,
    left_out: BTreeSet<String>,
    entries: usize,
}

/// Enough was found.
struct Full;

impl Found {
    fn walk(&mut self, workspace: &OwnedFd, directory: &Path, depth: usize) -> Result<(), Full> {
        let shown = directory.display();
        if depth > DEPTH_MAX {
            let what = format!("`{shown}` is too deep and was not looked into");
            self.left_out.insert(what);
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let opened = match open(workspace, directory, flags) {
            Ok(opened) => opened,
            // No `out/` is the usual case.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(error) => {
                let what = format!("`{shown}` was not read: {error}");
                self.left_out.insert(what);
                return Ok(());
            }
        };
        let Ok(listing) = Dir::from_fd(opened) else {
            return Ok(());
        };
        for entry in listing.into_iter().flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                let what = format!("`{OUT}` has more than {ENTRIES_MAX} entries");
                self.left_out.insert(what);
                return Err(Full);
            }
            let Ok(name) = std::str::from_utf8(name) else {
                let what = format!("a name in `{shown}` is not UTF-8 and was left out");
                self.left_out.insert(what);
                continue;
            };
            self.look_at(workspace, directory.join(name), depth)?;
        }
        Ok(())
    }

    fn look_at(&mut self, workspace: &OwnedFd, path: PathBuf, depth: usize) -> Result<(), Full> {
        let Ok(stat) = open(workspace, &path, OFlag::O_PATH).and_then(fstat) else {
            // A link, or gone.
            return Ok(());
        };
        match file_kind(&stat) {
            SFlag::S_IFDIR => self.walk(workspace, &path, depth + 1),
            // What was there before the call is no result of it.
            SFlag::S_IFREG if !changed_since(&stat, self.since) => Ok(()),
            SFlag::S_IFREG if self.files.len() < ARTIFACTS_MAX => {
                self.files.push(path);
                Ok(())
            }
            SFlag::S_IFREG => {
                let what = format!("`{OUT}` holds more than {ARTIFACTS_MAX} files");
                self.left_out.insert(what);
                Err(Full)
            }
            // Links, sockets, pipes and devices are not results.
            _ => Ok(()),
        }
    }
}

fn collect_one(
    workspace: &OwnedFd,
    path: &Path,
    name: &str,
    since: SystemTime,
    keep: &Keep,
) -> Result<Option<Artifact>, String> {
    // NONBLOCK: were it swapped for a pipe, opening it must not wait. The cell is dead, but a host
    // workspace has other users.
    let file = open(workspace, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
        .map_err(|error| error.to_string())?;
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    if file_kind(&stat) != SFlag::S_IFREG || !changed_since(&stat, since) {
        return Ok(None);
    }
    let mime = mime_guess::from_path(name).first_or_octet_stream();
    keep.artifact(
        name,
        mime.essence_str(),
        File::from(file),
        ARTIFACT_BYTES_MAX,
    )
    .map(Some)
    .map_err(|error| error.to_string())
}

fn open(workspace: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(resolve);
    openat2(workspace, path, how)
}

fn file_kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// By the change time, which a tool cannot set, with a second's allowance for coarse clocks.
fn changed_since(stat: &FileStat, since: SystemTime) -> bool {
    let since = since
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    u64::try_from(stat.st_ctime).unwrap_or(0) + 1 >= since
}
