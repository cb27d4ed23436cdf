//! What of the host is shown to a cell as its own user's: what lies within the roots of its profile.
//!
//! Under root every cell has a user of its own, to whom a directory that only its owner may read
//! would be closed. Whoever gave a root meant it to be worked on, so its owner is found out here, and
//! the launcher shows it as the cell's user (`Mount::Bind`). What a profile lists by its path, and
//! what is the system's, keeps the kernel's permissions.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use profiles::compile::{Shown, ShownFact};
use profiles::resolve::is_the_systems;
use runner::spec::{Identity, Ids};

use crate::workspace;

/// Why what lies within a root cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// It cannot be opened.
    #[error("`{}`, within a root: {why}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is a file where there was a directory, or the other way round.
    #[error(
        "`{}`, within a root, is not what it was when its profile was read; hint: start anew, or \
         change the profile's file",
        path.display()
    )]
    Changed {
        /// Its path.
        path: PathBuf,
    },
}

/// The owner of a path, if it is to be shown to a cell whose user is another.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// The user that the cell has on the host.
    pub host: Ids,
    /// Whether the supervisor is root, who alone can show anything as another's.
    pub as_root: bool,
}

impl Viewer {
    /// Whose it is on the disk, where that must be shown as the cell's.
    #[must_use]
    pub fn owner(self, path: &Path, owner: Ids) -> Option<Ids> {
        (self.as_root && owner != self.host && !is_the_systems(path)).then_some(owner)
    }
}

/// Opens and identifies everything that a profile shows within roots.
///
/// # Errors
/// If any of it cannot be had as it was when the profile was read.
pub fn look(shown: &[Shown], viewer: Viewer) -> Result<Vec<ShownFact>, ShownError> {
    shown.iter().map(|shown| look_at(shown, viewer)).collect()
}

fn look_at(shown: &Shown, viewer: Viewer) -> Result<ShownFact, ShownError> {
    let path = &shown.path;
    let failed = |error: Errno| ShownError::Open {
        path: path.clone(),
        why: workspace::lookup(error),
    };
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let opened = openat2(AT_FDCWD, path, how).map_err(failed)?;
    let stat = fstat(&opened).map_err(failed)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let expected = if shown.directory {
        SFlag::S_IFDIR
    } else {
        SFlag::S_IFREG
    };
    if kind != expected {
        return Err(ShownError::Changed { path: path.clone() });
    }
    let owner = Ids {
        uid: stat.st_uid,
        gid: stat.st_gid,
    };
    Ok(ShownFact {
        identity: Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        owner: viewer.owner(path, owner),
    })
}
