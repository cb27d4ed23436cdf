//! Where things of Toolcell's lie on this machine.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Profiles of the machine's administrator.
pub const SYSTEM_PROFILES: &str = "/etc/toolcell/profiles";
/// State of a supervisor that root started.
const ROOT_STATE: &str = "/var/lib/toolcell";
/// Configuration of a supervisor that root started.
const ROOT_CONFIG: &str = "/etc/toolcell";
/// Only the owner gets in: receipts and workspaces are nobody else's business.
const PRIVATE: u32 = 0o700;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    /// Neither `$STATE_DIRECTORY` nor `$XDG_STATE_HOME` nor `$HOME` says where state goes.
    #[error(
        "nothing says where state goes; hint: set `XDG_STATE_HOME` or `HOME` to an absolute path"
    )]
    NoState,
    /// The system refused.
    #[error("could not make the directory `{}`: {source}", path.display())]
    Make {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read or replace what is kept there.
    #[error(
        "the directory `{}` belongs to another user or is open to others; hint: `chmod 700` it, or \
         set `STATE_DIRECTORY`",
        path.display()
    )]
    NotPrivate {
        /// Which directory.
        path: PathBuf,
    },
}

/// Directories with profiles that are always read, whether or not they exist.
#[must_use]
pub fn profiles() -> Vec<PathBuf> {
    let user = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    std::iter::once(PathBuf::from(SYSTEM_PROFILES))
        .chain(user.map(|directory| directory.join("toolcell/profiles")))
        .collect()
}

/// Where systemd puts the secrets of this service (`$CREDENTIALS_DIRECTORY`, systemd.exec(5)).
#[must_use]
pub fn credentials() -> Option<PathBuf> {
    absolute("CREDENTIALS_DIRECTORY")
}

/// The user's own secrets: `$XDG_CONFIG_HOME/toolcell/secrets`, else `~/.config/toolcell/secrets`.
#[must_use]
pub fn secrets() -> Option<PathBuf> {
    let user = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    user.map(|directory| directory.join("toolcell/secrets"))
}

/// Where API keys are kept: in `$CONFIGURATION_DIRECTORY` (systemd's), for root else
/// `/etc/toolcell`, else `$XDG_CONFIG_HOME/toolcell` or `~/.config/toolcell`. The supervisor reads
/// them, and cannot write there.
#[must_use]
pub fn keys() -> Option<PathBuf> {
    let directory = absolute("CONFIGURATION_DIRECTORY")
        .or_else(|| Some(absolute("XDG_CONFIG_HOME")?.join("toolcell")))
        .or_else(|| nix::unistd::geteuid().is_root().then(|| ROOT_CONFIG.into()))
        .or_else(|| Some(absolute("HOME")?.join(".config/toolcell")))?;
    Some(directory.join("keys.toml"))
}

/// The state directory: `$STATE_DIRECTORY` (systemd's), `/var/lib/toolcell` for root, else
/// `$XDG_STATE_HOME/toolcell`, else `~/.local/state/toolcell`. It is made if it is missing.
pub fn state() -> Result<PathBuf, DirsError> {
    let directory = absolute("STATE_DIRECTORY")
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("toolcell")))
        .or_else(|| nix::unistd::geteuid().is_root().then(|| ROOT_STATE.into()))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/toolcell")))
        .ok_or(DirsError::NoState)?;
    private(&directory)?;
    Ok(directory)
}

/// Makes a directory that only its owner gets into, or checks that it is one.
pub fn private(path: &Path) -> Result<(), DirsError> {
    let failed = |source| DirsError::Make {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let writable_by_others = found.permissions().mode() & 0o022 != 0;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || writable_by_others {
        return Err(DirsError::NotPrivate {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// An absolute path in the environment; the XDG specification wants relative ones ignored.
/// systemd separates several directories by colons, of which the first is meant.
fn absolute(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable)?;
    let value = value.to_str()?.split(':').next()?;
    let path = PathBuf::from(value);
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_directory_is_made_with_its_parents_and_taken_again() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        private(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE
        );
        private(&path).unwrap();
    }

    #[test]
    fn directory_open_to_others_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(private(&path), Err(DirsError::NotPrivate { .. })));
    }

    #[test]
    fn symbolic_link_is_no_private_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("link");
        std::os::unix::fs::symlink(temporary.path(), &path).unwrap();
        assert!(matches!(private(&path), Err(DirsError::NotPrivate { .. })));
    }
}
