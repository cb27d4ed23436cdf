//! The calls that name a path, and where in their arguments it is.
//!
//! For these a filter can notify so that a listener sees which paths a tool tries. The listener reads
//! the path from the tool's memory, where it may change at any time; so nothing is ever decided by
//! it, and the call goes on to Landlock and the minimal root.

use Effect::{Execute, Look, Read, Write};
use Place::{At, Plain};

/// What a call does to the path that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Only looks at metadata.
    Look,
    /// Reads it.
    Read,
    /// Creates, changes, renames or removes it, or its metadata.
    Write,
    /// Executes it.
    Execute,
    /// Reads it or writes it, as the flags in this argument say; see [`OPEN_WRITES`].
    Open {
        /// Index of the argument with the flags of `open(2)`.
        flags: u8,
    },
}

/// Where a path is among a call's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The argument of this index points to a path that is relative to the working directory.
    Plain(u8),
    /// The second argument points to a path that is relative to the directory in the first, which
    /// can be `AT_FDCWD`; if the path is empty, some calls mean the descriptor itself.
    At(u8, u8),
}

/// A call that names one or two paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathCall {
    /// Its name.
    pub name: &'static str,
    /// What it does to them.
    pub effect: Effect,
    /// Where they are.
    pub places: &'static [Place],
    /// Index of the argument with the flags of `open(2)`, if it has one.
    pub open_flags: Option<u8>,
}

impl PathCall {
    /// Whether the call can do more than read.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.effect, Look | Read)
    }

    /// Whether the call, with these arguments, does more than read.
    #[must_use]
    pub fn writes_with(&self, arguments: &[u64; 6]) -> bool {
        match self.open_flags {
            Some(flags) => arguments[usize::from(flags)] & u64::from(OPEN_WRITES) != 0,
            None => self.writes(),
        }
    }

    /// Whether the call, with these arguments, writes only if what it names is not there yet.
    #[must_use]
    pub fn creates_only_if_absent(&self, arguments: &[u64; 6]) -> bool {
        const O_CREAT: u64 = 0o100;
        self.open_flags
            .is_some_and(|flags| arguments[usize::from(flags)] & u64::from(OPEN_WRITES) == O_CREAT)
    }

    /// Whether the last part of its paths, if it is a link, is followed; with flags that say
    /// otherwise it may not be.
    #[must_use]
    pub fn follows(&self) -> bool {
        !matches!(
            self.name,
            "unlink"
                | "unlinkat"
                | "rmdir"
                | "rename"
                | "renameat"
                | "renameat2"
                | "link"
                | "linkat"
                | "symlink"
                | "symlinkat"
                | "mkdir"
                | "mkdirat"
                | "mknod"
                | "mknodat"
                | "readlink"
                | "readlinkat"
                | "lstat"
                | "lchown"
                | "lsetxattr"
                | "lremovexattr"
                | "lgetxattr"
                | "llistxattr"
        )
    }

    /// Whether the call makes what its path of this index names, so that it fails if that is there.
    #[must_use]
    pub fn makes(&self, index: usize) -> bool {
        match self.name {
            "mkdir" | "mkdirat" | "mknod" | "mknodat" | "symlink" | "symlinkat" => true,
            "link" | "linkat" => index == 1,
            _ => false,
        }
    }

    /// Whether the call, with these arguments, renames or removes directories too.
    #[must_use]
    pub fn moves(&self, arguments: &[u64; 6]) -> bool {
        const AT_REMOVEDIR: u64 = 0x200;
        match self.name {
            "rename" | "renameat" | "renameat2" | "rmdir" => true,
            "unlinkat" => arguments[2] & AT_REMOVEDIR != 0,
            _ => false,
        }
    }

    /// Whether the call, with these arguments, asks if a path may be used, and not only for it.
    #[must_use]
    pub fn asks_for_access(&self, arguments: &[u64; 6]) -> bool {
        let mode = match self.name {
            "access" => arguments[1],
            "faccessat" | "faccessat2" => arguments[2],
            _ => 0,
        };
        mode & 0o7 != 0
    }
}

/// Flags of `open(2)` by any of which it does more than read: `O_WRONLY`, `O_RDWR`, `O_CREAT`,
/// `O_TRUNC` and the bit by which `O_TMPFILE` differs from `O_DIRECTORY`. The numbers are the same
/// on both architectures.
pub const OPEN_WRITES: u32 = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20_000_000;

/// The call of a name, if it names a path.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static PathCall> {
    PATH_CALLS.iter().find(|call| call.name == name)
}

const fn call(name: &'static str, effect: Effect, places: &'static [Place]) -> PathCall {
    let open_flags = match effect {
        Effect::Open { flags } => Some(flags),
        _ => None,
    };
    PathCall {
        name,
        effect,
        places,
        open_flags,
    }
}

/// All of them, both architectures together.
pub const PATH_CALLS: &[PathCall] = &[
    call("open", Effect::Open { flags: 1 }, &[Plain(0)]),
    call("openat", Effect::Open { flags: 2 }, &[At(0, 1)]),
    call("creat", Write, &[Plain(0)]),
    call("truncate", Write, &[Plain(0)]),
    call("execve", Execute, &[Plain(0)]),
    call("execveat", Execute, &[At(0, 1)]),
    call("mkdir", Write, &[Plain(0)]),
    call("mkdirat", Write, &[At(0, 1)]),
    call("mknod", Write, &[Plain(0)]),
    call("mknodat", Write, &[At(0, 1)]),
    call("rmdir", Write, &[Plain(0)]),
    call("unlink", Write, &[Plain(0)]),
    call("unlinkat", Write, &[At(0, 1)]),
    call("rename", Write, &[Plain(0), Plain(1)]),
    call("renameat", Write, &[At(0, 1), At(2, 3)]),
    call("renameat2", Write, &[At(0, 1), At(2, 3)]),
    call("link", Write, &[Plain(0), Plain(1)]),
    call("linkat", Write, &[At(0, 1), At(2, 3)]),
    // What a symbolic link points to is text, and no path that the call opens.
    call("symlink", Write, &[Plain(1)]),
    call("symlinkat", Write, &[At(1, 2)]),
    call("chmod", Write, &[Plain(0)]),
    call("fchmodat", Write, &[At(0, 1)]),
    call("fchmodat2", Write, &[At(0, 1)]),
    call("chown", Write, &[Plain(0)]),
    call("lchown", Write, &[Plain(0)]),
    call("fchownat", Write, &[At(0, 1)]),
    call("utime", Write, &[Plain(0)]),
    call("utimes", Write, &[Plain(0)]),
    call("futimesat", Write, &[At(0, 1)]),
    call("utimensat", Write, &[At(0, 1)]),
    call("setxattr", Write, &[Plain(0)]),
    call("lsetxattr", Write, &[Plain(0)]),
    call("setxattrat", Write, &[At(0, 1)]),
    call("removexattr", Write, &[Plain(0)]),
    call("lremovexattr", Write, &[Plain(0)]),
    call("removexattrat", Write, &[At(0, 1)]),
    call("file_setattr", Write, &[At(0, 1)]),
    call("inotify_add_watch", Read, &[Plain(1)]),
    call("stat", Look, &[Plain(0)]),
    call("lstat", Look, &[Plain(0)]),
    call("newfstatat", Look, &[At(0, 1)]),
    call("statx", Look, &[At(0, 1)]),
    call("statfs", Look, &[Plain(0)]),
    call("access", Look, &[Plain(0)]),
    call("faccessat", Look, &[At(0, 1)]),
    call("faccessat2", Look, &[At(0, 1)]),
    call("readlink", Look, &[Plain(0)]),
    call("readlinkat", Look, &[At(0, 1)]),
    call("chdir", Look, &[Plain(0)]),
    call("getxattr", Look, &[Plain(0)]),
    call("lgetxattr", Look, &[Plain(0)]),
    call("getxattrat", Look, &[At(0, 1)]),
    call("listxattr", Look, &[Plain(0)]),
    call("llistxattr", Look, &[Plain(0)]),
    call("listxattrat", Look, &[At(0, 1)]),
    call("file_getattr", Look, &[At(0, 1)]),
    call("name_to_handle_at", Look, &[At(0, 1)]),
];
