//! The files of the log: found as they were left, appended to under a lock, rotated by size.
//!
//! `audit.head` is the lock that several supervisors of one user share, and says how many lines the
//! log has and the hash of the last, so that a cut at the end shows too. It is rewritten in place:
//! a few bytes in one sector, which a crash leaves old or new.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use super::AuditError;
use super::chain::{BreakReason, Entry, FORMAT, LINE_BYTES_MAX, Line, Link, digest};
use super::end::{Judgement, judge, read_end};

/// The file that is written.
pub const LOG_FILE: &str = "audit.jsonl";
/// The lock, and the count and hash of the last line.
pub const HEAD_FILE: &str = "audit.head";
/// The key of the argument digests.
pub const KEY_FILE: &str = "audit.key";
/// Size at which a file is set aside and the next begun.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest wait for another supervisor's append, each of which takes milliseconds.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Pause between two tries for the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// Size of the head file; it never changes, so that rewriting it needs no truncation.
const HEAD_BYTES: usize = 128;
const KEY_BYTES: usize = 32;
/// Permission bits of every file: receipts are nobody else's business.
const MODE: u32 = 0o600;
/// Room set aside on the disk at a time.
const RESERVE_BYTES: u64 = 1 << 20;

/// When an append counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When the disk has it (`fdatasync(2)`): a receipt outlives a power failure.
    #[default]
    Disk,
    /// When the kernel has it: a receipt outlives the supervisor, but not a power failure.
    Kernel,
}

/// The log of one state directory.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    durability: Durability,
    file_bytes_max: u64,
    /// What this supervisor left at the end, to recognise it without reading.
    left: Option<Left>,
    /// The file, by inode, that has room on the disk set aside, and up to which byte.
    reserved: (u64, u64),
    key: Option<[u8; KEY_BYTES]>,
}

/// How an append left the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    inode: u64,
    bytes: u64,
    link: Link,
}

/// The log, locked, and as it should be.
struct Locked {
    head: File,
    log: File,
    left: Left,
}

impl Log {
    /// The log in this directory; nothing is touched yet.
    #[must_use]
    pub fn new(directory: PathBuf, durability: Durability) -> Self {
        Self {
            directory,
            durability,
            file_bytes_max: FILE_BYTES_MAX,
            left: None,
            reserved: (0, 0),
            key: None,
        }
    }

    /// The same with another size at which files are set aside.
    #[must_use]
    pub fn with_file_bytes_max(mut self, bytes: u64) -> Self {
        self.file_bytes_max = bytes;
        self
    }

    /// Checks that the next append will succeed, as far as that can be known: the files open and
    /// lock, the log is whole, and the disk has set aside room for this many lines.
    pub fn reserve(&mut self, lines: u64) -> Result<(), AuditError> {
        let locked = self.locked()?;
        let needed = locked.left.bytes + lines * LINE_BYTES_MAX as u64;
        let (inode, reserved) = self.reserved;
        if inode == locked.left.inode && needed <= reserved {
            return Ok(());
        }
        let end = locked.left.bytes;
        let exactly = needed - end;
        // In large steps, so that it is not done for each call; a disk that is nearly full has room
        // for this call all the same.
        let reserved = match set_aside(&locked.log, end, exactly.max(RESERVE_BYTES)) {
            Err(Errno::ENOSPC) => set_aside(&locked.log, end, exactly).map(|()| needed),
            other => other.map(|()| end + exactly.max(RESERVE_BYTES)),
        };
        let reserved =
            reserved.map_err(|errno| self.error("set aside room in", LOG_FILE, errno.into()))?;
        self.reserved = (locked.left.inode, reserved);
        Ok(())
    }

    /// Appends one line, and says where it went.
    pub fn append(&mut self, entry: Entry) -> Result<Link, AuditError> {
        let key_name = self.key_name()?;
        let mut locked = self.locked()?;
        if locked.left.bytes > self.file_bytes_max {
            locked = self.rotate(locked, &key_name)?;
        }
        self.write(&mut locked, entry)?;
        let link = locked.left.link.clone();
        self.left = Some(locked.left);
        Ok(link)
    }

    /// The key of the argument digests; made with the first use.
    pub fn key(&mut self) -> Result<[u8; KEY_BYTES], AuditError> {
        if let Some(key) = self.key {
            return Ok(key);
        }
        let mut file = self.open(KEY_FILE)?;
        self.lock(&file, KEY_FILE)?;
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        file.read_to_end(&mut bytes)
            .map_err(|error| self.error("read", KEY_FILE, error))?;
        if bytes.is_empty() {
            // Two v4 UUIDs hold 244 random bits from the system's generator.
            for _ in 0..2 {
                bytes.extend_from_slice(uuid::Uuid::new_v4().as_bytes());
            }
            file.write_all(&bytes)
                .and_then(|()| file.sync_all())
                .map_err(|error| self.error("write", KEY_FILE, error))?;
        }
        let key = bytes.try_into().map_err(|_| {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it does not hold 32 bytes");
            self.error("read", KEY_FILE, error)
        })?;
        Ok(*self.key.insert(key))
    }

    fn key_name(&mut self) -> Result<String, AuditError> {
        Ok(digest(&self.key()?)[..16].to_owned())
    }

    /// Locks the log, and mends what a crash left or records what somebody did to it.
    fn locked(&mut self) -> Result<Locked, AuditError> {
        let key_name = self.key_name()?;
        let head = self.open(HEAD_FILE)?;
        self.lock(&head, HEAD_FILE)?;
        let log = self.open(LOG_FILE)?;
        let found = log
            .metadata()
            .map_err(|error| self.error("look at", LOG_FILE, error))?;
        let expected = read_head(&head).map_err(|error| self.error("read", HEAD_FILE, error))?;
        if let (Some(left), Some(expected)) = (&self.left, &expected)
            && (left.inode, left.bytes) == (found.ino(), found.len())
            && left.link == *expected
        {
            let left = left.clone();
            return Ok(Locked { head, log, left });
        }
        let mut locked = Locked {
            head,
            log,
            left: Left {
                inode: found.ino(),
                bytes: found.len(),
                link: Link::origin(),
            },
        };
        let end = read_end(&locked.log, found.len())
            .map_err(|error| self.error("read", LOG_FILE, error))?;
        match judge(&end, expected.as_ref()) {
            Judgement::New(link) => {
                self.take_back(&mut locked, 0)?;
                locked.left.link = link;
                self.write(&mut locked, header(key_name))?;
            }
            Judgement::Whole(link) => locked.left.link = link,
            Judgement::Torn(link) => {
                self.take_back(&mut locked, end.whole_bytes)?;
                locked.left.link = link.clone();
                let entry = Entry::Break {
                    reason: BreakReason::Torn,
                    expected,
                    found: Some(link),
                };
                self.write(&mut locked, entry)?;
            }
            Judgement::Broken(reason, link) => {
                locked.left.link = link;
                if found.len() > 0 {
                    locked = self.rotate(locked, &key_name)?;
                } else {
                    self.write(&mut locked, header(key_name))?;
                }
                let entry = Entry::Break {
                    reason,
                    expected,
                    found: end.last,
                };
                self.write(&mut locked, entry)?;
            }
        }
        self.left = Some(locked.left.clone());
        Ok(locked)
    }

    /// Sets the file aside under the number of its successor's first line, and begins that one.
    fn rotate(&self, locked: Locked, key_name: &str) -> Result<Locked, AuditError> {
        let from = self.directory.join(LOG_FILE);
        let mut to = self
            .directory
            .join(set_aside_name(locked.left.link.records, 0));
        for attempt in 1..=u8::MAX {
            if !to.exists() {
                break;
            }
            to = self
                .directory
                .join(set_aside_name(locked.left.link.records, attempt));
        }
        std::fs::rename(&from, &to).map_err(|error| self.error("set aside", LOG_FILE, error))?;
        let log = self.open(LOG_FILE)?;
        let found = log
            .metadata()
            .map_err(|error| self.error("look at", LOG_FILE, error))?;
        let mut next = Locked {
            head: locked.head,
            log,
            left: Left {
                inode: found.ino(),
                bytes: found.len(),
                link: locked.left.link,
            },
        };
        self.write(&mut next, header(key_name.to_owned()))?;
        Ok(next)
    }

    /// Takes a piece of a line off the end.
    fn take_back(&self, locked: &mut Locked, whole_bytes: u64) -> Result<(), AuditError> {
        locked
            .log
            .set_len(whole_bytes)
            .map_err(|error| self.error("mend", LOG_FILE, error))?;
        locked.left.bytes = whole_bytes;
        Ok(())
    }

    /// Writes one line and the head. A line that does not get to the disk whole is taken back.
    fn write(&self, locked: &mut Locked, entry: Entry) -> Result<(), AuditError> {
        let line = Line {
            sequence: locked.left.link.records,
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            previous: locked.left.link.hash.clone(),
            entry,
        };
        let (text, next) = line.encode().map_err(|error| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            self.error("write", LOG_FILE, error)
        })?;
        if text.len() > LINE_BYTES_MAX {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the receipt is too long");
            return Err(self.error("write", LOG_FILE, error));
        }
        if let Err(error) = self.write_text(&locked.log, &text) {
            // If even this fails, the next append finds a torn line, and says so.
            let _ = locked.log.set_len(locked.left.bytes);
            return Err(self.error("write", LOG_FILE, error));
        }
        locked.left.bytes += text.len() as u64;
        locked.left.link = next;
        write_head(&locked.head, &locked.left.link)
            .map_err(|error| self.error("write", HEAD_FILE, error))
    }

    fn write_text(&self, mut log: &File, text: &str) -> io::Result<()> {
        // The file is open with `O_APPEND`; a disk that fills up makes this one write short.
        let written = log.write(text.as_bytes())?;
        if written != text.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match self.durability {
            Durability::Disk => log.sync_data(),
            Durability::Kernel => Ok(()),
        }
    }

    fn open(&self, name: &str) -> Result<File, AuditError> {
        let append = name == LOG_FILE;
        let file = OpenOptions::new()
            .read(true)
            .write(!append)
            .append(append)
            .create(true)
            .mode(MODE)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits())
            .open(self.directory.join(name))
            .map_err(|error| self.error("open", name, error))?;
        let found = file
            .metadata()
            .map_err(|error| self.error("look at", name, error))?;
        let private = found.is_file()
            && found.uid() == nix::unistd::geteuid().as_raw()
            && found.mode() & 0o777 == MODE
            && found.nlink() == 1;
        if private {
            Ok(file)
        } else {
            Err(AuditError::NotPrivate {
                path: self.directory.join(name),
            })
        }
    }

    fn lock(&self, file: &File, name: &str) -> Result<(), AuditError> {
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(self.error("lock", name, io::ErrorKind::TimedOut.into()));
                }
                Err(TryLockError::Error(error)) => return Err(self.error("lock", name, error)),
            }
        }
    }

    fn error(&self, act: &'static str, name: &str, source: io::Error) -> AuditError {
        AuditError::File {
            act,
            path: self.directory.join(name),
            source,
        }
    }
}

/// Every file of a log in this directory, in the order of its lines.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && let Some(name) = name.strip_suffix(".jsonl")
            && name.starts_with("audit-")
        {
            names.push(format!("{name}.jsonl"));
        }
    }
    names.sort_unstable();
    let mut paths: Vec<_> = names.iter().map(|name| directory.join(name)).collect();
    let current = directory.join(LOG_FILE);
    if current.exists() {
        paths.push(current);
    }
    Ok(paths)
}

/// Has the disk set aside room behind the end of a file.
fn set_aside(log: &File, end: u64, bytes: u64) -> nix::Result<()> {
    let (Ok(end), Ok(bytes)) = (i64::try_from(end), i64::try_from(bytes)) else {
        return Err(Errno::EFBIG);
    };
    match fallocate(log, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, bytes) {
        // Some file systems cannot: there, the append itself will tell.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Reads what the head file says: nothing if it is new or no head.
pub fn read_head(head: &File) -> io::Result<Option<Link>> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    head.take(HEAD_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

fn write_head(head: &File, link: &Link) -> io::Result<()> {
    let mut text = serde_json::to_string(link)?;
    let padding = HEAD_BYTES.saturating_sub(text.len() + 1);
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    head.write_all_at(text.as_bytes(), 0)
}

fn header(key: String) -> Entry {
    Entry::Log {
        format: FORMAT,
        program: concat!("toolcell ", env!("CARGO_PKG_VERSION")).to_owned(),
        key,
    }
}

fn set_aside_name(next: u64, attempt: u8) -> String {
    format!("audit-{next:012}-{attempt:03}.jsonl")
}
