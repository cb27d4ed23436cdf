//! The credential store: secrets by name, read when a call needs them.
//!
//! A name is a file in one of two directories: systemd's (`$CREDENTIALS_DIRECTORY`, systemd.exec(5)),
//! and the user's `$XDG_CONFIG_HOME/toolcell/secrets`. What is read goes into [`Secret`], which has no
//! text form, and from there into the gateway's orders: to no log, receipt, message or environment.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use profiles::egress::is_secret_name;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::dirs;

/// Longest secret in bytes: a header must hold it, and servers take 8 KiB of one.
const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Most secrets that are looked at in one directory.
const SECRETS_MAX: usize = 1024;
/// Permissions for others than the owner.
const OTHERS: u32 = 0o077;
/// Permissions for everybody; systemd lets a service's user in by an access control list, which shows
/// as the group's.
const EVERYBODY: u32 = 0o007;
/// Permissions by which others could put a secret of theirs in the place of ours.
const WRITABLE: u32 = 0o022;

/// Bytes that are shown to nobody, and overwritten when they are no longer needed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that they are meant for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why there is no secret; never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No file has its name.
    #[error(
        "there is no secret `{0}`; hint: put it into `~/.config/toolcell/secrets/{0}`, readable by \
         nobody else"
    )]
    None(String),
    /// Others can read it, or put another in its place.
    #[error(
        "the secret `{0}` is open to others: `{path}`; hint: `chmod {mode}` it, as its owner",
        path = .1.display(),
        mode = .2
    )]
    Open(String, PathBuf, &'static str),
    /// It cannot go into a header.
    #[error(
        "the secret `{0}` is not one line of at most {SECRET_BYTES_MAX} visible characters; hint: \
         write it again"
    )]
    Unfit(String),
    /// The system refused.
    #[error("could not read the secret `{0}`: {1}")]
    Read(String, io::Error),
}

/// Where secrets are looked for, in this order.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// systemd's, who has seen to its permissions.
    systemd: Option<PathBuf>,
    /// The user's.
    own: Option<PathBuf>,
}

impl Store {
    /// Where this process's environment says that they are.
    #[must_use]
    pub fn here() -> Self {
        Self {
            systemd: dirs::credentials(),
            own: dirs::secrets(),
        }
    }

    /// The names of all that are there, whether or not they can be read.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let directories = [&self.systemd, &self.own].into_iter().flatten();
        let entries = directories.filter_map(|path| std::fs::read_dir(path).ok());
        entries
            .flat_map(|entries| entries.flatten().take(SECRETS_MAX))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_secret_name(name))
            .collect()
    }

    /// Reads one, as it is now.
    ///
    /// # Errors
    /// If it is not there, others could read it, or it cannot go into a header.
    pub fn read(&self, name: &str) -> Result<Secret, SecretError> {
        let none = || SecretError::None(name.to_owned());
        if !is_secret_name(name) {
            return Err(none());
        }
        for (directory, forbidden) in [(&self.systemd, EVERYBODY), (&self.own, OTHERS)] {
            let Some(directory) = directory else { continue };
            if let Some(secret) = read_in(directory, name, forbidden)? {
                return Ok(secret);
            }
        }
        Err(none())
    }
}

/// Reads a secret in a directory, if it is there.
fn read_in(directory: &Path, name: &str, forbidden: u32) -> Result<Option<Secret>, SecretError> {
    let failed = |error: Errno| SecretError::Read(name.to_owned(), error.into());
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = match open(directory, flags | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        place => place.map_err(failed)?,
    };
    // Opening a FIFO must not wait for a writer.
    let waiting = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match openat(&place, name, flags | waiting, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        file => file.map_err(failed)?,
    };
    let read_failed = |error| SecretError::Read(name.to_owned(), error);
    let (place, file) = (File::from(place), File::from(file));
    // Who owns the directory can replace what is in it.
    check(&place, WRITABLE)
        .map_err(read_failed)?
        .then_some(())
        .ok_or_else(|| SecretError::Open(name.to_owned(), directory.to_owned(), "700"))?;
    let path = directory.join(name);
    check(&file, forbidden)
        .map_err(read_failed)?
        .then_some(())
        .ok_or_else(|| SecretError::Open(name.to_owned(), path, "600"))?;
    if !file.metadata().map_err(read_failed)?.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(read_failed(error));
    }
    contents(file, name).map(Some)
}

/// Whether root or this user owns it, and nobody has these permissions.
fn check(file: &File, forbidden: u32) -> io::Result<bool> {
    let found = file.metadata()?;
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
    Ok(ours && found.permissions().mode() & forbidden == 0)
}

/// What is in the file, without the line end that editors leave.
fn contents(file: File, name: &str) -> Result<Secret, SecretError> {
    let unfit = || SecretError::Unfit(name.to_owned());
    // As large as it may get, so that no part of it stays behind where it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 3));
    file.take(SECRET_BYTES_MAX as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|error| SecretError::Read(name.to_owned(), error))?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    if bytes.ends_with(b"\r") {
        bytes.pop();
    }
    let visible = |byte: &u8| (b' '..=b'~').contains(byte);
    let fits = !bytes.is_empty() && bytes.len() <= SECRET_BYTES_MAX && bytes.iter().all(visible);
    if !fits || bytes.starts_with(b" ") || bytes.ends_with(b" ") {
        return Err(unfit());
    }
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt as _, symlink};

    use super::*;

    struct Place {
        temporary: tempfile::TempDir,
        store: Store,
    }

    impl Place {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let own = temporary.path().join("secrets");
            fs::DirBuilder::new().mode(0o700).create(&own).unwrap();
            let store = Store {
                systemd: None,
                own: Some(own),
            };
            Self { temporary, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.temporary.path().join("secrets").join(name)
        }

        fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn a_secret_is_read_without_its_line_end_and_never_shown() {
        let place = Place::new();
        place.write("openai", "sk-hidden\n", 0o600);
        let secret = place.store.read("openai").unwrap();
        assert_eq!(secret.expose(), b"sk-hidden");
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(
            place.store.names().into_iter().collect::<Vec<_>>(),
            ["openai"]
        );
    }

    #[test]
    fn what_others_could_read_or_replace_is_refused() {
        let place = Place::new();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            place.write("open", "sk-hidden", mode);
            let error = place.store.read("open").unwrap_err();
            assert!(matches!(error, SecretError::Open(..)), "{mode:o}: {error}");
            assert!(!error.to_string().contains("sk-hidden"));
        }
        place.write("open", "sk-hidden", 0o600);
        assert!(place.store.read("open").is_ok());
        fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            place.store.read("open"),
            Err(SecretError::Open(..))
        ));
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let place = Place::new();
        place.write("real", "sk-hidden", 0o600);
        symlink("real", place.path("link")).unwrap();
        fs::create_dir(place.path("directory")).unwrap();
        fs::set_permissions(place.path("directory"), fs::Permissions::from_mode(0o700)).unwrap();
        nix::unistd::mkfifo(&place.path("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        for name in ["link", "directory", "fifo"] {
            assert!(
                matches!(place.store.read(name), Err(SecretError::Read(..))),
                "{name}"
            );
        }
        for name in ["missing", "../secrets/real", "", "."] {
            assert!(
                matches!(place.store.read(name), Err(SecretError::None(_))),
                "{name}"
            );
        }
        assert!(place.store.read("real").is_ok());
    }

    #[test]
    fn what_could_not_stand_in_a_header_is_refused() {
        let place = Place::new();
        let long = "x".repeat(SECRET_BYTES_MAX + 1);
        for text in ["", "\n", "a\nb", "a\r\nHost: b", "a\0b", "é", " a", &long] {
            place.write("unfit", text, 0o600);
            let error = place.store.read("unfit").unwrap_err();
            assert!(matches!(error, SecretError::Unfit(_)), "{text:?}: {error}");
        }
        place.write("unfit", "x".repeat(SECRET_BYTES_MAX) + "\r\n", 0o600);
        assert!(place.store.read("unfit").is_ok());
    }

    #[test]
    fn systemds_come_first_and_may_be_the_groups() {
        let mut place = Place::new();
        place.write("openai", "own", 0o600);
        let systemd = place.temporary.path().join("systemd");
        fs::DirBuilder::new().mode(0o700).create(&systemd).unwrap();
        fs::write(systemd.join("openai"), "systemd").unwrap();
        fs::set_permissions(systemd.join("openai"), fs::Permissions::from_mode(0o440)).unwrap();
        place.store.systemd = Some(systemd);
        assert_eq!(place.store.read("openai").unwrap().expose(), b"systemd");
    }
}
