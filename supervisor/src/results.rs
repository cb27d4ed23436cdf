//! Outputs too long for an answer, and artifacts, kept for `resources/read`.
//!
//! They live in anonymous temporary files, so that nothing of them outlasts the process, however it
//! ends. Everything has a limit: bytes and calls in all (the oldest call's results make room), and
//! an age.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::outcome::Artifact;
use crate::service::Stream;

/// Bytes of all kept results together; beyond it, the oldest call's go first.
pub const KEPT_BYTES_MAX: u64 = 512 << 20;
/// Most calls whose results are kept.
pub const KEPT_CALLS_MAX: usize = 256;
/// Most artifacts of one call.
pub const ARTIFACTS_MAX: usize = 64;
/// How long a result is kept: longer than a conversation needs it, shorter than a disk minds it.
pub const KEPT_FOR: Duration = Duration::from_hours(1);
/// Most bytes in one answer to `resources/read`; the rest is read from an offset. Clients hold an
/// answer in memory several times over, and some refuse messages of more than a few MiB.
pub const READ_BYTES_MAX: u64 = 1 << 20;

/// Bytes copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// What stays as it is in the path of a result's URI.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Why something was not kept, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The temporary file could not be made, written or read.
    #[error("could not use a temporary file in `{}`: {source}", directory.display())]
    File {
        /// Where temporary files are made.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What should be kept could not be read.
    #[error("could not read `{name}`: {source}")]
    Source {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than the bytes it may have.
    #[error("`{name}` is larger than {limit} bytes")]
    TooLarge {
        /// Its name.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// Results of running calls fill the space already.
    #[error("kept results fill their {limit} bytes")]
    Full {
        /// Bytes of all results together.
        limit: u64,
    },
    /// The call has its most artifacts already.
    #[error("a call keeps no more than {ARTIFACTS_MAX} artifacts")]
    TooMany,
    /// There is no such result, or it belongs to someone else, or its time is over.
    #[error("no result `{uri}`: it never was, or it has expired")]
    Unknown {
        /// What was asked for.
        uri: String,
    },
    /// The offset lies beyond the end, or is no number.
    #[error("`{uri}` has no such offset: the result has {bytes} bytes")]
    Offset {
        /// What was asked for.
        uri: String,
        /// The result's size.
        bytes: u64,
    },
}

/// All kept results; clones share them.
#[derive(Clone)]
pub struct Results(Arc<Shared>);

/// How much is kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptLimits {
    /// Bytes of all results together.
    pub bytes: u64,
    /// Calls.
    pub calls: usize,
    /// Age.
    pub age: Duration,
}

impl Default for KeptLimits {
    fn default() -> Self {
        Self {
            bytes: KEPT_BYTES_MAX,
            calls: KEPT_CALLS_MAX,
            age: KEPT_FOR,
        }
    }
}

struct Shared {
    directory: PathBuf,
    limits: KeptLimits,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Bytes in files, those of spools that are still written included.
    bytes: u64,
    /// Oldest first.
    calls: VecDeque<Call>,
}

struct Call {
    id: String,
    caller: String,
    tool: String,
    since: Instant,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    name: String,
    mime_type: String,
    held: Held,
}

/// A file whose bytes are counted for as long as it exists.
struct Held {
    shared: Arc<Shared>,
    file: Arc<File>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Entries are taken out of the table under its lock and dropped after it: never here.
        let mut kept = lock(&self.shared);
        kept.bytes = kept.bytes.saturating_sub(self.bytes);
    }
}

/// One kept result, as `resources/list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it is read.
    pub uri: String,
    /// The stream or the artifact.
    pub name: String,
    /// The tool that it came from.
    pub tool: String,
    /// Media type.
    pub mime_type: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// A part of a kept result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The bytes.
    pub contents: Vec<u8>,
    /// Media type of the whole.
    pub mime_type: String,
    /// Size of the whole.
    pub total: u64,
    /// Where the next part is read, if there is one.
    pub next: Option<String>,
}

impl Results {
    /// Keeps results in anonymous files of this directory.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self::with_limits(directory, KeptLimits::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(directory: PathBuf, limits: KeptLimits) -> Self {
        Self(Arc::new(Shared {
            directory,
            limits,
            kept: Mutex::default(),
        }))
    }

    /// A place for the results of one call, which only this caller can read.
    #[must_use]
    pub fn keep(&self, caller: &str, tool: &str) -> Keep {
        Keep {
            results: self.clone(),
            // 122 random bits: nobody finds another caller's results by trying.
            id: uuid::Uuid::new_v4().simple().to_string(),
            caller: caller.to_owned(),
            tool: tool.to_owned(),
        }
    }

    /// Everything that this caller can read, oldest first.
    #[must_use]
    pub fn list(&self, caller: &str) -> Vec<Listed> {
        self.expire();
        let kept = lock(&self.0);
        kept.calls
            .iter()
            .filter(|call| call.caller == caller)
            .flat_map(|call| {
                call.entries.iter().map(|(uri, entry)| Listed {
                    uri: uri.clone(),
                    name: entry.name.clone(),
                    tool: call.tool.clone(),
                    mime_type: entry.mime_type.clone(),
                    bytes: entry.held.bytes,
                })
            })
            .collect()
    }

    /// Reads a result, or the part of it that `?offset=` in its URI names, up to
    /// [`READ_BYTES_MAX`].
    pub fn read(&self, caller: &str, uri: &str) -> Result<Part, ResultsError> {
        self.expire();
        let (base, offset) = match uri.split_once("?offset=") {
            Some((base, offset)) => (base, offset.parse::<u64>().ok()),
            None => (uri, Some(0)),
        };
        let (file, mime_type, total) = {
            let kept = lock(&self.0);
            let entry = kept
                .calls
                .iter()
                .filter(|call| call.caller == caller)
                .find_map(|call| call.entries.get(base))
                .ok_or_else(|| ResultsError::Unknown {
                    uri: uri.to_owned(),
                })?;
            (
                Arc::clone(&entry.held.file),
                entry.mime_type.clone(),
                entry.held.bytes,
            )
        };
        let offset =
            offset
                .filter(|offset| *offset <= total)
                .ok_or_else(|| ResultsError::Offset {
                    uri: uri.to_owned(),
                    bytes: total,
                })?;
        let length = (total - offset).min(READ_BYTES_MAX);
        let length_in_memory =
            usize::try_from(length).expect("READ_BYTES_MAX fits every pointer size");
        let mut contents = vec![0; length_in_memory];
        file.read_exact_at(&mut contents, offset)
            .map_err(|source| self.file_error(source))?;
        let more = offset + length < total;
        if more {
            // A character that is cut in two belongs to the next part.
            contents.truncate(whole_characters(&contents));
        }
        let end = offset + contents.len() as u64;
        Ok(Part {
            contents,
            mime_type,
            total,
            next: more.then(|| format!("{base}?offset={end}")),
        })
    }

    /// Forgets what is too old.
    pub fn expire(&self) {
        self.evict(|kept| {
            kept.calls
                .front()
                .is_some_and(|call| call.since.elapsed() > self.0.limits.age)
        });
    }

    /// Takes out the oldest call's results for as long as there is need.
    fn evict(&self, need: impl Fn(&Kept) -> bool) {
        loop {
            let oldest = {
                let mut kept = lock(&self.0);
                if !need(&kept) {
                    return;
                }
                kept.calls.pop_front()
            };
            // Dropped outside the lock, which `Held` takes to give its bytes back.
            if oldest.is_none() {
                return;
            }
        }
    }

    /// Counts bytes that are about to be written, making room for them.
    fn reserve(&self, bytes: u64) -> Result<(), ResultsError> {
        let limit = self.0.limits.bytes;
        self.evict(|kept| kept.bytes + bytes > limit);
        let mut kept = lock(&self.0);
        if kept.bytes + bytes > limit {
            return Err(ResultsError::Full { limit });
        }
        kept.bytes += bytes;
        Ok(())
    }

    fn file(&self) -> Result<Held, ResultsError> {
        let file =
            tempfile::tempfile_in(&self.0.directory).map_err(|source| self.file_error(source))?;
        Ok(Held {
            shared: Arc::clone(&self.0),
            file: Arc::new(file),
            bytes: 0,
        })
    }

    fn append(&self, held: &mut Held, bytes: &[u8]) -> Result<(), ResultsError> {
        self.reserve(bytes.len() as u64)?;
        held.bytes += bytes.len() as u64;
        (&*held.file)
            .write_all(bytes)
            .map_err(|source| self.file_error(source))
    }

    fn file_error(&self, source: io::Error) -> ResultsError {
        ResultsError::File {
            directory: self.0.directory.clone(),
            source,
        }
    }
}

/// Where one call's results are kept; clones are the same place.
#[derive(Clone)]
pub struct Keep {
    results: Results,
    id: String,
    caller: String,
    tool: String,
}

impl Keep {
    /// Begins to keep an output stream. The file is made with the first byte.
    #[must_use]
    pub fn spool(&self, stream: Stream) -> Spool {
        Spool {
            keep: self.clone(),
            stream,
            held: None,
        }
    }

    /// Keeps an artifact: copies it, up to `limit` bytes, from what the supervisor has opened beneath
    /// the workspace's `out/`.
    pub fn artifact(
        &self,
        name: &str,
        mime_type: &str,
        mut from: impl Read,
        limit: u64,
    ) -> Result<Artifact, ResultsError> {
        let uri = self.uri(&format!("files/{name}"));
        if self.artifacts() >= ARTIFACTS_MAX {
            return Err(ResultsError::TooMany);
        }
        let mut held = self.results.file()?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = from
                .read(&mut buffer)
                .map_err(|source| ResultsError::Source {
                    name: name.to_owned(),
                    source,
                })?;
            if count == 0 {
                break;
            }
            if held.bytes + count as u64 > limit {
                return Err(ResultsError::TooLarge {
                    name: name.to_owned(),
                    limit,
                });
            }
            self.results.append(&mut held, &buffer[..count])?;
        }
        let bytes = held.bytes;
        self.publish(uri.clone(), name, mime_type, held);
        Ok(Artifact {
            name: name.to_owned(),
            bytes,
            mime_type: mime_type.to_owned(),
            resource: uri,
        })
    }

    fn artifacts(&self) -> usize {
        let kept = lock(&self.results.0);
        kept.calls
            .iter()
            .find(|call| call.id == self.id)
            .map_or(0, |call| call.entries.len())
    }

    fn uri(&self, path: &str) -> String {
        format!(
            "toolcell://results/{}/{}",
            self.id,
            utf8_percent_encode(path, PATH)
        )
    }

    fn publish(&self, uri: String, name: &str, mime_type: &str, held: Held) {
        let entry = Entry {
            name: name.to_owned(),
            mime_type: mime_type.to_owned(),
            held,
        };
        let replaced = {
            let mut kept = lock(&self.results.0);
            if let Some(call) = kept.calls.iter_mut().find(|call| call.id == self.id) {
                call.entries.insert(uri, entry)
            } else {
                kept.calls.push_back(Call {
                    id: self.id.clone(),
                    caller: self.caller.clone(),
                    tool: self.tool.clone(),
                    since: Instant::now(),
                    entries: BTreeMap::from([(uri, entry)]),
                });
                None
            }
        };
        drop(replaced);
        let most = self.results.0.limits.calls;
        self.results.evict(|kept| kept.calls.len() > most);
    }
}

/// An output stream as it is being kept.
///
/// Writes go to the page cache of a local file and do not wait for a disk, so they are made right
/// where the output is read.
pub struct Spool {
    keep: Keep,
    stream: Stream,
    held: Option<Held>,
}

impl Spool {
    /// Appends what the tool wrote. After an error, what was kept so far is still whole, but the
    /// stream's end is lost.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ResultsError> {
        let held = match &mut self.held {
            Some(held) => held,
            empty => empty.insert(self.keep.results.file()?),
        };
        self.keep.results.append(held, bytes)
    }

    /// Makes what was appended readable, and says where; `None` if nothing was. A spool that is
    /// dropped instead keeps nothing.
    #[must_use]
    pub fn publish(self) -> Option<String> {
        let name = self.stream.name();
        let uri = self.keep.uri(name);
        let held = self.held?;
        self.keep
            .publish(uri.clone(), name, "text/plain; charset=utf-8", held);
        Some(uri)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Kept> {
    // Nothing panics while it holds the lock, and the table is whole between any two statements.
    shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many bytes are left without a character that is cut off at the end; all of them if the text
/// is not UTF-8 anyway.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}
