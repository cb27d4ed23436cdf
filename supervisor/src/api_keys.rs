//! API keys: what a caller shows to be known. Kept as hashes, in a file that nobody else can read or
//! write, which is looked at anew for each request: a revoked key is of no use from then on.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::caller::Caller;

/// What every key begins with, so that one that has got out is recognised.
pub const PREFIX: &str = "toolcell_";
/// Most keys in a file.
pub const KEYS_MAX: usize = 1024;
/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of a key that is shown: ours are shorter.
pub const PRESENTED_BYTES_MAX: usize = 256;
/// Longest name of a key, a role, or a tool of one.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of chance in a key.
const SECRET_BYTES: usize = 32;
/// Version of the file.
const FORMAT: u32 = 1;
/// Only the owner reads and writes it.
const PRIVATE: u32 = 0o600;

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The system refused.
    #[error("could not use the keys in `{}`: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read or replace it.
    #[error(
        "the keys in `{}` could be read or written by others than their owner; hint: `chmod 600` it, \
         and give it to the user that serves",
        .0.display()
    )]
    NotPrivate(PathBuf),
    /// It is not what was written.
    #[error("the keys in `{}` cannot be read: {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is one of that name.
    #[error("there is a key `{0}`; hint: `toolcell key revoke {0}` first, or choose another name")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no key `{0}`; hint: `toolcell key list` shows those that there are")]
    Unknown(String),
    /// It cannot be a name.
    #[error(
        "`{0}` is no name; expected letters, digits, `-`, `_` and `.`, {NAME_BYTES_MAX} at most"
    )]
    Name(String),
    /// There are too many.
    #[error("there are {KEYS_MAX} keys already; hint: `toolcell key revoke` those not needed")]
    TooMany,
}

/// A key, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its name, which receipts have.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal. A key has 256 bits of chance, so that there is nothing to
    /// be found by trying.
    pub sha256: String,
    /// Roles of whoever has it.
    pub roles: Vec<String>,
    /// If given, it is good for these tools only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tools: Option<Vec<String>>,
    /// When it was made.
    #[serde(with = "time")]
    pub created: SystemTime,
    /// When it ceases to be good.
    #[serde(with = "time::maybe", skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<SystemTime>,
}

impl Key {
    /// Whoever shows it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let id = format!("key:{}", self.name);
        Caller::with_roles(id, &self.roles, self.tools.clone())
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// What a new key is to be good for.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Its name.
    pub name: String,
    /// Roles.
    pub roles: Vec<String>,
    /// If given, these tools only.
    pub tools: Option<Vec<String>>,
    /// When it ceases to be good.
    pub expires: Option<SystemTime>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    #[serde(default, rename = "key")]
    keys: Vec<Key>,
}

/// A file of keys.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    known: Mutex<Known>,
    /// Whether there was one once: then keys are asked for from then on, whatever becomes of it.
    seen: AtomicBool,
}

/// What is known of a file, and when it was so.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    keys: Arc<[Key]>,
}

/// What differs when a file has been replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl Keys {
    /// The keys in a file, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let keys = Self {
            path,
            known: Mutex::default(),
            seen: AtomicBool::new(false),
        };
        // From the start on it is remembered.
        keys.are_asked_for();
        keys
    }

    /// Where they are kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, from which callers are asked for keys also where there is none yet: somebody named it.
    #[must_use]
    pub fn named(self) -> Self {
        self.seen.store(true, Ordering::Relaxed);
        self
    }

    /// Whether callers are asked for keys: there is a file of them, or was one, or must be one.
    pub fn are_asked_for(&self) -> bool {
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        // Where it cannot be told, they are.
        if !fs::symlink_metadata(&self.path).is_err_and(gone) {
            self.seen.store(true, Ordering::Relaxed);
        }
        self.seen.load(Ordering::Relaxed)
    }

    /// Who shows this key; nobody if it is unknown, revoked, or its time is over.
    pub fn caller(&self, presented: &[u8]) -> Result<Option<Caller>, KeysError> {
        if presented.len() > PRESENTED_BYTES_MAX {
            return Ok(None);
        }
        let hash = hash(presented);
        let keys = self.current()?;
        // As long for each of them, whichever it is.
        let matching = keys.iter().fold(None, |found, key| {
            let same = bool::from(key.sha256.as_bytes().ct_eq(hash.as_bytes()));
            if same { Some(key) } else { found }
        });
        let now = SystemTime::now();
        Ok(matching.filter(|key| !key.is_expired(now)).map(Key::caller))
    }

    /// All keys, read anew if the file is another than before. What cannot be read is no key.
    pub fn current(&self) -> Result<Arc<[Key]>, KeysError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *known = Known::default();
                return Ok(Arc::default());
            }
            Err(source) => return Err(self.io(source)),
        };
        self.seen.store(true, Ordering::Relaxed);
        let found = file.metadata().map_err(|source| self.io(source))?;
        let stamp = Stamp::of(&found);
        if known.stamp == Some(stamp) {
            return Ok(Arc::clone(&known.keys));
        }
        *known = Known::default();
        let keys: Arc<[Key]> = self.read(file, &found)?.into();
        known.keys = Arc::clone(&keys);
        known.stamp = Some(stamp);
        Ok(keys)
    }

    /// Makes a key; what is returned is shown once and kept nowhere.
    pub fn add(&self, grant: Grant) -> Result<String, KeysError> {
        let names = std::iter::once(&grant.name).chain(&grant.roles);
        for name in names.chain(grant.tools.iter().flatten()) {
            check_name(name)?;
        }
        let secret = secret().map_err(|source| self.io(source))?;
        let Grant {
            name,
            roles,
            tools,
            expires,
        } = grant;
        self.change(|keys| {
            if keys.iter().any(|key| key.name == name) {
                return Err(KeysError::Exists(name));
            }
            if keys.len() >= KEYS_MAX {
                return Err(KeysError::TooMany);
            }
            keys.push(Key {
                name,
                sha256: hash(secret.as_bytes()),
                roles,
                tools,
                created: SystemTime::now(),
                expires,
            });
            Ok(())
        })?;
        Ok(secret)
    }

    /// Removes a key.
    pub fn revoke(&self, name: &str) -> Result<(), KeysError> {
        self.change(|keys| {
            let before = keys.len();
            keys.retain(|key| key.name != name);
            if keys.len() == before {
                return Err(KeysError::Unknown(name.to_owned()));
            }
            Ok(())
        })
    }

    fn io(&self, source: io::Error) -> KeysError {
        KeysError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn read(&self, file: File, found: &fs::Metadata) -> Result<Vec<Key>, KeysError> {
        let malformed = |what: String| KeysError::Malformed {
            path: self.path.clone(),
            what,
        };
        let own = nix::unistd::geteuid().as_raw();
        let owned = found.uid() == own || found.uid() == 0;
        // Root may let the group that serves read it.
        let open = if found.uid() == 0 { 0o027 } else { 0o077 };
        if !found.is_file() || !owned || found.permissions().mode() & open != 0 {
            return Err(KeysError::NotPrivate(self.path.clone()));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|source| self.io(source))?;
        // What is cut off could be when a key ends.
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(malformed(format!("more than {FILE_BYTES_MAX} bytes")));
        }
        let contents: Contents =
            toml::from_str(&text).map_err(|error| malformed(error.message().to_owned()))?;
        if contents.format != FORMAT {
            return Err(malformed(format!(
                "format {} is not known",
                contents.format
            )));
        }
        if contents.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        Ok(contents.keys)
    }

    /// Changes the file as a whole: whoever reads it sees the old one or the new.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Key>) -> Result<(), KeysError>,
    ) -> Result<(), KeysError> {
        let failed = |source| self.io(source);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(failed)?;
        // Two who change it at once do so one after the other.
        let lock = File::open(directory).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let before = fs::metadata(&self.path).ok();
        let mut keys = self.current()?.to_vec();
        change(&mut keys)?;
        let format = FORMAT;
        let text = toml::to_string(&Contents { format, keys });
        let text = text.map_err(|error| failed(io::Error::other(error)))?;

        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        // It stays with whom it was given to.
        if let Some(before) = before {
            let owner = (Some(before.uid()), Some(before.gid()));
            std::os::unix::fs::fchown(&file, owner.0, owner.1).map_err(failed)?;
            let mode = fs::Permissions::from_mode(before.mode() & 0o640);
            file.as_file().set_permissions(mode).map_err(failed)?;
        } else {
            let mode = fs::Permissions::from_mode(PRIVATE);
            file.as_file().set_permissions(mode).map_err(failed)?;
        }
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path)
            .map_err(|error| failed(error.error))?;
        lock.sync_all().map_err(failed)
    }
}

fn check_name(name: &str) -> Result<(), KeysError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fine) {
        return Err(KeysError::Name(name.to_owned()));
    }
    Ok(())
}

fn secret() -> io::Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn hash(key: &[u8]) -> String {
    let digest = Sha256::digest(key);
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Times as text (RFC 3339).
mod time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }

    pub mod maybe {
        use super::{Deserializer, Serializer, SystemTime};

        #[allow(clippy::ref_option)] // it is serde that calls it so
        pub fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keys(directory: &tempfile::TempDir) -> Keys {
        Keys::new(directory.path().join("made/keys.toml"))
    }

    fn grant(name: &str) -> Grant {
        Grant {
            name: name.to_owned(),
            roles: vec!["user".to_owned()],
            ..Grant::default()
        }
    }

    #[test]
    fn a_key_is_known_until_it_is_revoked_and_no_other_ever_is() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory);
        assert!(!keys.are_asked_for());
        let (first, second) = (keys.add(grant("a")).unwrap(), keys.add(grant("b")).unwrap());
        assert!(keys.are_asked_for());
        let other = Keys::new(keys.path().to_owned());
        let id = |key: &str| {
            other
                .caller(key.as_bytes())
                .unwrap()
                .map(|caller| caller.id)
        };
        assert_eq!(id(&first).as_deref(), Some("key:a"));
        assert_eq!(id(&second).as_deref(), Some("key:b"));
        for wrong in [
            "",
            "toolcell_",
            &first[1..],
            &first[..first.len() - 1],
            &"x".repeat(10_000),
        ] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
        keys.revoke("a").unwrap();
        assert_eq!(id(&first), None);
        assert_eq!(id(&second).as_deref(), Some("key:b"));
        keys.revoke("b").unwrap();
        assert_eq!(id(&second), None);
        fs::remove_file(keys.path()).unwrap();
        assert!(
            keys.are_asked_for() && other.are_asked_for(),
            "nobody gets in because a file is gone"
        );
    }

    #[test]
    fn neither_the_file_nor_the_list_has_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory);
        let key = keys.add(grant("a")).unwrap();
        let kept = fs::read_to_string(keys.path()).unwrap();
        let secret = key.strip_prefix(PREFIX).unwrap();
        assert!(!kept.contains(secret));
        assert!(!format!("{:?}", keys.current().unwrap()).contains(secret));
        let mode = fs::metadata(keys.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }

    #[test]
    fn a_key_is_good_until_it_expires() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory);
        let now = SystemTime::now();
        let over = Some(now - Duration::from_secs(2));
        let later = Some(now + Duration::from_hours(1));
        for (name, expires, good) in [("over", over, false), ("later", later, true)] {
            let grant = Grant {
                expires,
                ..grant(name)
            };
            let key = keys.add(grant).unwrap();
            assert_eq!(
                keys.caller(key.as_bytes()).unwrap().is_some(),
                good,
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_wrong_has_no_keys() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory);
        let key = keys.add(grant("a")).unwrap();
        for mode in [0o644, 0o660, 0o602] {
            fs::set_permissions(keys.path(), fs::Permissions::from_mode(mode)).unwrap();
            let found = keys.caller(key.as_bytes());
            assert!(matches!(found, Err(KeysError::NotPrivate(_))), "{mode:o}");
        }
        fs::set_permissions(keys.path(), fs::Permissions::from_mode(PRIVATE)).unwrap();
        assert!(keys.caller(key.as_bytes()).unwrap().is_some());
        let kept = fs::read_to_string(keys.path()).unwrap();
        for wrong in ["nonsense", "format = 2\n", &kept.replace("roles", "rolls")] {
            fs::write(keys.path(), wrong).unwrap();
            let found = keys.caller(key.as_bytes());
            assert!(matches!(found, Err(KeysError::Malformed { .. })), "{wrong}");
        }
    }

    #[test]
    fn names_are_words_and_there_is_one_of_each() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory);
        for name in ["", "a b", "a/b", "a\n", &"x".repeat(65)] {
            assert!(
                matches!(keys.add(grant(name)), Err(KeysError::Name(_))),
                "{name:?}"
            );
        }
        keys.add(grant("a")).unwrap();
        assert!(matches!(keys.add(grant("a")), Err(KeysError::Exists(_))));
        assert!(matches!(keys.revoke("b"), Err(KeysError::Unknown(_))));
    }
}
