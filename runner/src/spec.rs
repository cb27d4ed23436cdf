//! Complete orders for one cell, as plain data.
//!
//! `profiles` writes these, the launcher obeys them. Nothing here is derived from the machine and
//! nothing is optional by absence: a list that is empty allows nothing.
//!
//! A [`Template`] holds what depends on the profile alone and is sent to the launcher once; a
//! [`Call`] holds what one call adds. Together they are a [`CellSpec`].

use std::ffi::CString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Largest encoded [`Template`] or [`Call`] in bytes.
///
/// One message must fit the socket's send buffer (212,992 bytes by default, of which the kernel
/// uses a part for itself).
pub const SPEC_BYTES_MAX: usize = 160 * 1024;
/// Largest file that [`Mount::Appended`] copies: bundles of certificates have about 220 KiB.
pub const APPENDED_BYTES_MAX: u64 = 1 << 20;
/// Most mounts in one cell, profile and call together.
pub const MOUNTS_MAX: usize = 256;
/// Most Landlock rules in one cell.
pub const LANDLOCK_RULES_MAX: usize = 512;
/// Most BPF instructions in one filter (the kernel's `BPF_MAXINSNS`).
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// Orders for one cell: what the profile says, and what the call adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSpec {
    /// What depends on the profile alone.
    pub template: Template,
    /// What this one call adds.
    pub call: Call,
}

/// The part of the orders that is the same for every call of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Host name inside the cell.
    pub hostname: String,
    /// User and group as the tool sees itself; never 0.
    pub inside: Ids,
    /// Size of the tmpfs that is the root directory, in bytes; it only holds mount points and files
    /// such as `/etc/passwd`, and is read-only once the cell is built.
    pub root_bytes: u64,
    /// What exists in the cell, parents before children.
    pub mounts: Vec<Mount>,
    /// The Landlock ruleset.
    pub landlock: Landlock,
    /// The seccomp filter.
    pub filter: Filter,
    /// Resource limits of the tool's process (`setrlimit(2)`).
    pub rlimits: Vec<Rlimit>,
    /// The network namespace.
    pub network: Network,
    /// Directories in the cell, in this order, whose descriptors go to the supervisor, so that it can
    /// measure them (`fstatvfs(3)`) and collect files from them after the call.
    pub handed_back: Vec<PathBuf>,
    /// Whether the cell's lists of System V objects ([`SYSTEM_V_LISTS`]) go to the supervisor too, so
    /// that it can count what no control group counts.
    pub system_v_counted: bool,
}

/// The lists of a cell's System V shared memory, message queues and semaphores (proc_sysvipc(5)): each
/// is that of the IPC namespace in which it was opened.
pub const SYSTEM_V_LISTS: [&str; 3] = [
    "/proc/sysvipc/shm",
    "/proc/sysvipc/msg",
    "/proc/sysvipc/sem",
];

/// What one call adds to its profile's template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What is executed. A cell without waits, confined, until it is told ([`crate::wire::Begin`]).
    pub program: Option<Program>,
    /// The user and group that the cell has on the host; the user is never 0.
    pub host: Ids,
    /// What the call found out about mounts of the template's.
    pub shown: Vec<Shown>,
    /// Mounts on top of the template's: the workspace, a path argument, protected paths.
    pub mounts: Vec<Mount>,
    /// Landlock rules on top of the template's.
    pub rules: Vec<LandlockRule>,
}

/// What is executed in a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; the first is an absolute path in the cell.
    pub argv: Vec<CString>,
    /// The whole environment, `NAME=value` each.
    pub env: Vec<CString>,
    /// Working directory in the cell, absolute.
    pub cwd: PathBuf,
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One thing that exists in the cell.
///
/// Every `target` is absolute and names no symbolic link. Missing mount points are made, with their
/// parents, but only in the cell's own root, never through a bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host; names no symbolic link.
        source: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// A directory, as opposed to anything else.
        directory: bool,
        /// Whether it can be written to.
        writable: bool,
        /// Whether programs in it can be executed (or mapped executable).
        exec: bool,
        /// Device and inode that the source must still have: set for what a caller chose, so that
        /// nothing can be swapped between check and use.
        identity: Option<Identity>,
        /// Show the owner on disk as the cell's user (an idmapped mount, `mount_setattr(2)`), which
        /// a cell of a supervisor that runs as root needs to write to directories of others.
        owner: Option<Ids>,
    },
    /// A host directory with absent names blocked: an overlay whose upper layer is the directory and
    /// whose lower layer holds a stub for each blocked name, so that the name exists (read-only)
    /// in the cell and never on the host.
    Guarded {
        /// Absolute path of the directory on the host; the upper layer.
        source: PathBuf,
        /// An empty directory on the same mount; the overlay's work directory.
        work: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// Whether programs in it can be executed.
        exec: bool,
        /// Device and inode that the source must still have.
        identity: Option<Identity>,
        /// Names relative to the directory that must not come into existence.
        blocked: Vec<PathBuf>,
    },
    /// A fresh, empty, size-capped file system in memory.
    Tmpfs {
        /// Where it appears.
        target: PathBuf,
        /// Capacity in bytes.
        bytes: u64,
        /// Most inodes.
        inodes: u64,
        /// Permission bits of its root.
        mode: u32,
        /// Whether programs in it can be executed (or mapped executable).
        exec: bool,
    },
    /// A `proc` of the cell's own PID namespace.
    Proc {
        /// Where it appears.
        target: PathBuf,
    },
    /// A `devpts` instance of the cell's own.
    Devpts {
        /// Where it appears.
        target: PathBuf,
    },
    /// The POSIX message queues of the cell's own IPC namespace (`mq_overview(7)`), read-only: queues
    /// are made by `mq_open(3)` and not by way of the mount, which is there for Landlock. A rule can
    /// name its root, and that is the parent of every queue wherever it is reached from.
    Queues {
        /// Where it appears; an empty directory on a kernel without such queues.
        target: PathBuf,
    },
    /// One of the host's harmless device nodes, bound read-only so that its inode cannot be changed.
    Device {
        /// Path of the node on the host, such as `/dev/null`.
        source: PathBuf,
        /// Where it appears.
        target: PathBuf,
    },
    /// A small regular file in the cell's root.
    File {
        /// Where it appears.
        target: PathBuf,
        /// What it holds.
        contents: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// A copy of a regular file of the host with something appended, in the cell's root.
    Appended {
        /// Absolute path on the host; names no symbolic link. The cell's user must be able to read it.
        source: PathBuf,
        /// Where the copy appears.
        target: PathBuf,
        /// What is appended.
        contents: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// An empty directory in the cell's root.
    Directory {
        /// Where it appears.
        target: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link in the cell's root.
    Symlink {
        /// Where it appears.
        target: PathBuf,
        /// What it points to.
        link: PathBuf,
    },
    /// Something unreadable over a path within an allowed tree.
    Mask {
        /// What is covered; it must exist.
        target: PathBuf,
        /// Covers a directory, as opposed to anything else.
        directory: bool,
    },
    /// A read-only view of what is already there, for a protected path in a writable tree.
    Protect {
        /// What becomes read-only; it must exist.
        target: PathBuf,
    },
    /// Makes a writable directory a mount point of its own, so that it can be neither renamed nor
    /// removed. Each ancestor of a protected path needs this: renaming an ancestor would carry the
    /// protection away with it and leave the name free.
    Pin {
        /// The directory; it must exist.
        target: PathBuf,
    },
}

/// What one call found out about a bind of the template's. It holds in place of what the bind says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which mount: its index in the template.
    pub mount: u32,
    /// Device and inode that the source must still have.
    pub identity: Identity,
    /// The owner on disk who is shown as the cell's user, as in [`Mount::Bind`].
    pub owner: Option<Ids>,
}

/// Identity of a file: device and inode as in `stat(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// The Landlock ruleset; see `landlock(7)`. Access rights are the kernel's bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landlock {
    /// ABI that the ruleset was compiled for: the kernel must have at least this one.
    pub abi: u32,
    /// `handled_access_fs`.
    pub handled_fs: u64,
    /// `handled_access_net`; nothing is allowed by a rule, so what is handled is denied.
    pub handled_net: u64,
    /// `scoped`.
    pub scoped: u64,
    /// What is allowed.
    pub rules: Vec<LandlockRule>,
}

/// One `LANDLOCK_RULE_PATH_BENEATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockRule {
    /// Absolute path in the cell.
    pub path: PathBuf,
    /// `allowed_access`; a subset of `handled_fs`.
    pub access: u64,
}

/// The seccomp filter: an assembled classic BPF program; see `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Instructions of the program.
    pub program: Vec<Instruction>,
    /// Whether the program uses `SECCOMP_RET_USER_NOTIF`, so that a listener must be handed over.
    pub notifies: bool,
}

/// One classic BPF instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which one.
    pub resource: Resource,
    /// Soft limit in the resource's own unit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The resources that cells limit; see `getrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Largest file in bytes.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes and threads of the cell's user within its user namespace.
    Processes,
    /// CPU seconds of one process.
    CpuSeconds,
    /// Private writable memory of one process in bytes (`RLIMIT_DATA`).
    Data,
    /// Core dump size in bytes.
    Core,
    /// Locked memory in bytes.
    LockedMemory,
    /// Bytes in POSIX message queues.
    MessageQueue,
    /// Queued signals.
    PendingSignals,
    /// Stack of one process in bytes.
    Stack,
}

/// The cell's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Empty but for the loopback interface, which is up.
    None,
    /// Every address is the cell's own, and sockets that stand for hosts are handed out: see
    /// [`crate::network`].
    Egress {
        /// These sockets, beside the resolver's two and the watchers; at most [`CELL_SOCKETS_MAX`].
        sockets: Vec<CellSocket>,
    },
}

/// Most [`CellSocket`]s of one cell.
pub const CELL_SOCKETS_MAX: usize = 240;

/// A TCP socket that stands for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSocket {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Whether it listens; if not, a connection to it is refused.
    pub listens: bool,
}
