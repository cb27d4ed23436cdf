//! Landlock's access rights, and which of them a kernel knows; see landlock(7).
//!
//! The numbers are the kernel's (`include/uapi/linux/landlock.h`). What they do not stop at any ABI
//! that is out (`stat`, `chdir`, `O_PATH`, changing modes, owners and times) is stopped by the
//! minimal root, in which nothing else exists, and by read-only mounts.

use runner::spec::{Landlock, LandlockRule};

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_SYM: u64 = 1 << 12;
/// Since ABI 2; before it, nothing can be renamed or linked into another directory.
const REFER: u64 = 1 << 13;
/// Since ABI 3; before it, read-only mounts are what stops truncation.
const TRUNCATE: u64 = 1 << 14;
/// Since ABI 5; before it, the seccomp filter's check of `ioctl` and the few devices in a cell.
const IOCTL_DEV: u64 = 1 << 15;
/// Since ABI 9; before it, no directory that may hold a socket of the host is shown, or the filter
/// lets no Unix socket be made.
const RESOLVE_UNIX: u64 = 1 << 16;

/// Every right of ABI 1.
const ALL_OF_ABI_1: u64 = (1 << 13) - 1;
/// Rights that a rule on anything but a directory may have; the kernel refuses others.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX;

const NET_BIND_TCP: u64 = 1 << 0;
const NET_CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The newest ABI whose rights are used; a newer kernel keeps to this one.
pub const ABI_MAX: u32 = 9;
/// The ABI since which TCP can be refused; before it, a cell that is to have none gets no socket for it.
pub(super) const ABI_TCP: u32 = 4;
/// The ABI since which connecting to a socket of the host by its path can be refused.
pub(super) const ABI_RESOLVE_UNIX: u32 = 9;

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// List directories only.
    List,
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write, in a directory of the host.
    Write,
    /// Read, write, and make sockets and FIFOs, in a file system of the cell's own.
    WriteOwn,
    /// Read and write a device node.
    Device,
    /// Read, write and control terminals.
    Terminal,
    /// Send to and receive from message queues. To make and to remove one takes no right, because
    /// `mq_open` and `mq_unlink` name no path that Landlock looks at; to open it does.
    Queue,
    /// Connect to a Unix socket.
    Connect,
}

/// The access rights that one kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    abi: u32,
}

impl Rights {
    /// The rights of an ABI, at most [`ABI_MAX`].
    #[must_use]
    pub fn of_abi(abi: u32) -> Self {
        Self {
            abi: abi.min(ABI_MAX),
        }
    }

    /// Every right that the kernel knows: what a ruleset handles.
    #[must_use]
    pub fn handled(self) -> u64 {
        let since = [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV), (9, RESOLVE_UNIX)];
        since
            .into_iter()
            .filter(|(abi, _)| *abi <= self.abi)
            .fold(ALL_OF_ABI_1, |all, (_, right)| all | right)
    }

    /// A ruleset with these rules that handles everything the kernel knows.
    pub(super) fn ruleset(self, rules: Vec<LandlockRule>, tcp: bool) -> Landlock {
        // Where programs may talk TCP, it is left to the network namespace: Landlock tells ports
        // apart, not addresses, and nothing leaves the namespace but through the sockets that the
        // supervisor holds.
        let net = self.abi >= ABI_TCP && !tcp;
        let scopes = self.abi >= 6;
        Landlock {
            abi: self.abi,
            handled_fs: self.handled(),
            handled_net: if net {
                NET_BIND_TCP | NET_CONNECT_TCP
            } else {
                0
            },
            scoped: if scopes {
                SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
            } else {
                0
            },
            rules,
        }
    }

    /// The rights that a use takes, as far as the kernel knows them.
    ///
    /// Device nodes are never made, and a socket or a FIFO in a directory of the host would be one
    /// that a process outside may run into.
    pub(super) fn access(self, what: Use, directory: bool) -> u64 {
        let read = READ_FILE | READ_DIR;
        let write = read
            | WRITE_FILE
            | TRUNCATE
            | REMOVE_DIR
            | REMOVE_FILE
            | MAKE_DIR
            | MAKE_REG
            | MAKE_SYM
            | REFER;
        let access = match what {
            Use::List => READ_DIR,
            Use::Read => read,
            Use::Execute => read | EXECUTE,
            Use::Write => write,
            Use::WriteOwn => write | MAKE_SOCK | MAKE_FIFO,
            Use::Device => READ_FILE | WRITE_FILE,
            Use::Queue => read | WRITE_FILE,
            Use::Connect => RESOLVE_UNIX,
            Use::Terminal => read | WRITE_FILE | IOCTL_DEV,
        };
        let of_kind = if directory { u64::MAX } else { OF_FILES };
        access & of_kind & self.handled()
    }
}
