//! Messages from the supervisor to the launcher and to a cell, and how all messages are encoded.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::spec::{Call, SPEC_BYTES_MAX, Template};

/// Identifies the build: supervisor and launcher are the same executable, and check it.
pub const BUILD: &str = concat!("toolcell ", env!("CARGO_PKG_VERSION"), " protocol 3");

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
    },
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
    /// what `cgroup` says.
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
    /// Start this executable as a gateway ([`crate::launcher::GATEWAY_ARGUMENT`]). One descriptor: the
    /// socket that it obeys.
    Gateway,
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
