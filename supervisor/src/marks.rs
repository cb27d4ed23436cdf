//! The marks that an overlay leaves on directories of the host: extended attributes by which the
//! kernel would know copies again (kernel: filesystems/overlayfs).
//!
//! Where names are protected that do not exist, a tool that writes into one of the directories above
//! them has the overlay make it on the host. The directory is the tool's doing; its marks are ours,
//! and would go wherever the workspace is copied or committed to.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::workspace::open_beneath;

/// What overlays that are mounted with `userxattr` write on directories.
const MARKS: [&str; 3] = [
    "user.overlay.impure",
    "user.overlay.origin",
    "user.overlay.uuid",
];

/// Directories that an overlay may mark. The marks go when this is dropped.
#[derive(Debug)]
pub struct Marks {
    root: OwnedFd,
    directories: BTreeSet<PathBuf>,
}

impl Marks {
    /// Those on the workspace and on every directory above an absent protected path in it.
    #[must_use]
    pub fn above<'a>(root: OwnedFd, absent: impl Iterator<Item = &'a Path>) -> Self {
        let directories = absent.flat_map(|path| path.ancestors().skip(1).map(Path::to_owned));
        Self {
            root,
            directories: directories.collect(),
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for directory in &self.directories {
            // The tool may have made something else of it, or nothing; no link is followed.
            let Ok(directory) = open_beneath(&self.root, directory) else {
                continue;
            };
            let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
            for mark in MARKS {
                let _ = rustix::fs::removexattr(&path, mark);
            }
        }
    }
}
