//! Messages from the supervisor to the launcher and to a cell, and how all messages are encoded.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::spec::{Call, Filter, Program, SPEC_BYTES_MAX, Template};

/// Identifies the build: supervisor and launcher are the same executable, and check it.
pub const BUILD: &str = concat!("toolcell ", env!("CARGO_PKG_VERSION"), " protocol 5");

/// Most descriptors in one message, which is what the kernel passes at once (`SCM_MAX_FD`, unix(7)): a
/// cell's sockets are the most, and a new cell's streams, report socket and cgroup are few.
pub const DESCRIPTORS_MAX: usize = 253;

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
    /// Start one cell. Descriptors: the call's report socket, standard input, output and error, then
    /// the socket that [`Begin`] comes on if the call has no program, then what `cgroup` says.
    Start {
        /// Number of the template.
        template: u32,
        /// What the call adds.
        call: Box<Call>,
        /// How the cell enters its cgroup.
        cgroup: CgroupEntry,
        /// What the launcher must remove if the supervisor vanishes during the call.
        leftovers: Leftovers,
    },
    /// Make a reader of a cell. Descriptors: the reader's socket, and the cell's PID namespace as it
    /// came with [`crate::report::Report::Started`].
    Reader {
        /// Whether it is to find mapped files in memory, too, which takes a capability.
        counts: bool,
    },
    /// Start this executable as a gateway ([`crate::launcher::GATEWAY_ARGUMENT`]). One descriptor: the
    /// socket that it obeys.
    Gateway,
    /// Say that the launcher takes orders. One descriptor: the socket that gets one byte for it.
    Answer,
    /// The call of this number is over, and its leftovers are removed.
    Over {
        /// Its number.
        call: u64,
    },
}

/// What a cell that waits is told, once: the call has come. If its socket ends first, the cell does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    /// What is executed.
    pub program: Program,
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

/// What a cell's reader is asked. Processes and threads are named by their ids in the supervisor's
/// PID namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Which paths a system call names; the process's root comes with the answer.
    Paths {
        /// The process or thread.
        pid: i32,
        /// Where a relative path begins and where the text is in the process's memory;
        /// [`PLACES_MAX`] at most.
        places: Vec<(Base, u64)>,
    },
    /// What stands in the memory of a process.
    Memory {
        /// The process or thread.
        pid: i32,
        /// Addresses and lengths: [`PIECES_MAX`] at most, each of [`PIECE_BYTES_MAX`] at most.
        pieces: Vec<(u64, u16)>,
    },
    /// What kind of socket a descriptor is.
    Socket {
        /// The process or thread.
        pid: i32,
        /// The descriptor.
        descriptor: i32,
    },
    /// How much memory a process shares, each page divided by those who share it.
    SharedMemory {
        /// The process.
        pid: i32,
    },
    /// Which memory a process holds in open or mapped files.
    Held {
        /// The process, or a thread with a table of descriptors of its own.
        pid: i32,
        /// Where the files are looked for.
        place: HeldIn,
        /// The first descriptor, or the first address of a mapping, that is looked at.
        from: u64,
    },
}

/// Most paths that one system call names.
pub const PLACES_MAX: usize = 2;
/// Most pieces of memory that are read at once: two for each of eight messages to a resolver.
pub const PIECES_MAX: usize = 16;
/// Longest piece: a question to a resolver over UDP without extensions (RFC 1035, 2.3.4).
pub const PIECE_BYTES_MAX: usize = 512;

/// Where a relative path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// In the working directory.
    WorkingDirectory,
    /// In an open directory of the process.
    Descriptor(i32),
}

/// Where a process holds files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldIn {
    /// Among its descriptors, of which it has this many at most.
    Descriptors(u32),
    /// Among its mappings.
    Mappings,
}

/// What a cell's reader answers. The contents are the tool's: they may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// For each place what was found; the process's root directory comes along.
    Paths(Vec<Option<NamedPath>>),
    /// For each piece what was found, which is less where the memory ends before.
    Memory(Vec<Option<Vec<u8>>>),
    /// The kind (`SO_TYPE`, socket(7)), and where a socket for datagrams is connected to.
    Socket(i32, Option<SocketAddr>),
    /// The head of `smaps_rollup`; see proc_pid_smaps(5).
    SharedMemory(String),
    /// Files that hold memory.
    Held(Held),
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

/// Files that hold memory, and how far was looked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What was found: [`HELD_FILES_MAX`] at most.
    pub files: Vec<HeldFile>,
    /// How many descriptors or mappings were looked at.
    pub looked: u32,
    /// Where the next question goes on; absent at the end.
    pub next: Option<u64>,
}

/// A file that holds memory. Device and inode tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// The device.
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
    /// What it holds.
    pub memory: HeldMemory,
}

/// What a file holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldMemory {
    /// A nameless file in memory (memfd_create(2)): its pages.
    File(u64),
    /// A pipe: what waits in it.
    Pipe(u64),
    /// A socket.
    Socket {
        /// What can be read from it.
        readable: u64,
        /// What the kernel accounts to it: received and not yet read, sent and not yet taken.
        accounted: u64,
    },
}

/// Most files in one answer: as many as fit it.
pub const HELD_FILES_MAX: usize = 256;
/// Longest path that is read, with its NUL (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Size of the buffers for questions and answers: two paths with where they begin.
pub const ANSWER_BYTES_MAX: usize = 6 * PATH_BYTES_MAX;
const _: () = assert!(PIECES_MAX * (PIECE_BYTES_MAX + 8) < ANSWER_BYTES_MAX);
/// An encoded number takes ten bytes at most, and a file is four of them and a kind.
const _: () = assert!(HELD_FILES_MAX * 41 + 64 < ANSWER_BYTES_MAX);

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
