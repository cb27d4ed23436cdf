//! What the compiler is told about the machine.
//!
//! Nothing here is probed by this crate: the supervisor gathers the facts and passes them in, so
//! that a profile can be compiled for a kernel and an architecture that are not at hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The processor architectures that filters are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86 (`AUDIT_ARCH_X86_64`).
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm (`AUDIT_ARCH_AARCH64`).
    Aarch64,
}

impl Arch {
    /// The architecture that this program was built for, if filters exist for it.
    #[must_use]
    pub fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// The name as `uname -m` gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// How much of the design the host lets Toolcell enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Every layer, with cgroup limits.
    Full,
    /// Without cgroups: what a control group would cap for the whole cell is capped for each process
    /// by `setrlimit(2)`.
    Rlimits,
}

/// The facts that one compilation depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Architecture of the kernel.
    pub arch: Arch,
    /// Landlock ABI of the kernel; 0 where Landlock is missing.
    pub landlock_abi: u32,
    /// Whether seccomp can notify a listener.
    pub notify: bool,
    /// What the host can enforce.
    pub tier: Tier,
    /// What lies at each path that [`crate::resolve::Resolved::paths`] names, and at each ancestor
    /// of such a path that is a symbolic link.
    pub paths: BTreeMap<PathBuf, PathFact>,
}

impl Host {
    /// What lies at a path; what nobody looked at is taken for absent.
    #[must_use]
    pub fn at(&self, path: &Path) -> &PathFact {
        self.paths.get(path).unwrap_or(&PathFact::Absent)
    }
}

/// What lies at a path of the host, as `lstat(2)` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathFact {
    /// Nothing, or nothing that the supervisor may look at.
    Absent,
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether any execute bit is set.
        executable: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to, as written in it.
        link: PathBuf,
        /// The path that it leads to in the end, without any link in it; absent if it dangles.
        canonical: PathBuf,
    },
    /// A device node, a socket or a FIFO.
    Other,
}
