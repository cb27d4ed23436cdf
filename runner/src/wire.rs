//! Messages from the supervisor to the launcher and to a cell, and how all messages are encoded.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::spec::{Call, Filter, SPEC_BYTES_MAX, Template};

/// Identifies the build: supervisor and launcher are the same executable, and check it.
pub const BUILD: &str = concat!("toolcell ", env!("CARGO_PKG_VERSION"), " protocol 3");

/// Most descriptors in one message: the streams, the report socket, and a cgroup v1 entry for each
/// controller.
pub const DESCRIPTORS_MAX: usize = 32;

/// Size of the buffer that receives one message.
pub const MESSAGE_BYTES_MAX: usize = SPEC_BYTES_MAX + 4096;

/// An order to the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The first message; the launcher answers with its own [`BUILD`], and exits if they differ.
    Hello {
        /// The supervisor's [`BUILD`].
        build: String,
        /// The filter of the readers that it makes.
        reader: Filter,
    },
    /// Make a launcher that obeys the socket that comes along, and stands by until it is needed.
    Standby,
    /// Keep a template under a number.
    Template {
        /// The number that `Start` will name.
        id: u32,
        /// The orders.
        template: Box<Template>,
    },
    /// Forget a template.
    Forget {
        /// Its number.
        id: u32,
    },
    /// Start one cell. Descriptors: the call's report socket, standard input, output and error, a
    /// reader's socket if one is asked for, then what `cgroup` says.
    Start {
        /// Number of the template.
        template: u32,
        /// What the call adds.
        call: Box<Call>,
        /// Make a reader for the cell.
        reader: bool,
        /// How the cell enters its cgroup.
        cgroup: CgroupEntry,
        /// What the launcher must remove if the supervisor vanishes during the call.
        leftovers: Leftovers,
    },
    /// The call of this number is over, and its leftovers are removed.
    Over {
        /// Its number.
        call: u64,
    },
}

/// What a call has on the host while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// A number that no other running call has.
    pub call: u64,
    /// Directories that will be empty once the cell has ended, children before parents.
    pub directories: Vec<PathBuf>,
}

/// How a cell enters its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupEntry {
    /// It has none; the tier says so.
    None,
    /// One descriptor: the directory, for `CLONE_INTO_CGROUP`.
    V2,
    /// This many descriptors: each hierarchy's `cgroup.procs`, open for writing.
    V1(u8),
}

/// An order to a cell's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellOrder {
    /// Ask every process in the cell to end (`SIGTERM`, and `SIGCONT` for those that are stopped).
    Terminate,
}

/// What a cell's reader is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Which paths a process of the cell names in a system call; its root comes with the answer.
    Paths {
        /// The process, in the supervisor's PID namespace.
        pid: i32,
        /// Where a relative path begins and where the text is in the process's memory;
        /// [`PLACES_MAX`] at most.
        places: Vec<(Base, u64)>,
    },
    /// How much memory a process shares, each page divided by those who share it.
    SharedMemory {
        /// The process.
        pid: i32,
    },
}

/// Most paths that one system call names.
pub const PLACES_MAX: usize = 2;

/// Where a relative path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// In the working directory.
    WorkingDirectory,
    /// In an open directory of the process.
    Descriptor(i32),
}

/// What a cell's reader answers. The contents are the tool's: they may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// For each place what was found; the process's root directory comes along.
    Paths(Vec<Option<NamedPath>>),
    /// The head of `smaps_rollup`; see proc_pid_smaps(5).
    SharedMemory(String),
    /// It is no process of the cell, or will not be looked into.
    Nothing,
}

/// A path as a process named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPath {
    /// The text, without its NUL.
    pub text: Vec<u8>,
    /// Where it begins if it is relative, as the host sees it.
    pub base: Option<PathBuf>,
}

/// Longest path that is read, with its NUL (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Size of the buffers for questions and answers: two paths with where they begin.
pub const ANSWER_BYTES_MAX: usize = 6 * PATH_BYTES_MAX;

/// Encodes a message.
///
/// # Errors
/// If a string or list does not fit the encoding; plain data of this crate always does.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(message)
}

/// Decodes a message.
///
/// # Errors
/// If the bytes are not exactly one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}
