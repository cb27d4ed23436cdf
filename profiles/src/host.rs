//! What the compiler is told about the machine.
//!
//! Nothing here is probed by this crate: the supervisor gathers the facts and passes them in, so
//! that a profile can be compiled for a kernel and an architecture that are not at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::tier::Tier;

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
    /// Names of the secrets in the credential store.
    pub secrets: BTreeSet<String>,
    /// What lies at each path that [`crate::resolve::Resolved::paths`] names; see [`Host::gather`].
    pub paths: BTreeMap<PathBuf, PathFact>,
}

impl Host {
    /// Looks at every path with `look`, and at the paths that links among them lead to, which is
    /// what [`Host::paths`] must hold.
    ///
    /// `look` must not follow a link in the last component (`lstat(2)`).
    pub fn gather(
        paths: &BTreeSet<PathBuf>,
        mut look: impl FnMut(&Path) -> PathFact,
    ) -> BTreeMap<PathBuf, PathFact> {
        let mut facts = BTreeMap::new();
        for path in paths {
            let fact = look(path);
            if let PathFact::Symlink { canonical, .. } = &fact
                && !facts.contains_key(canonical)
            {
                facts.insert(canonical.clone(), look(canonical));
            }
            facts.insert(path.clone(), fact);
        }
        facts
    }

    /// What lies at a path; what nobody looked at is taken for absent.
    #[must_use]
    pub fn at(&self, path: &Path) -> &PathFact {
        self.paths.get(path).unwrap_or(&PathFact::Absent)
    }

    /// The path without any link in it, and what lies there; `None` if nothing does.
    #[must_use]
    pub fn canonical(&self, path: &Path) -> Option<(PathBuf, &PathFact)> {
        match self.at(path) {
            PathFact::Absent => None,
            PathFact::Symlink { canonical, .. } => match self.at(canonical) {
                PathFact::Absent | PathFact::Symlink { .. } => None,
                fact => Some((canonical.clone(), fact)),
            },
            fact => Some((self.without_links_above(path), fact)),
        }
    }

    /// The path with links replaced in all but its last component.
    pub(crate) fn without_links_above(&self, path: &Path) -> PathBuf {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.to_owned();
        };
        let parent = match self.at(parent) {
            PathFact::Symlink { canonical, .. } => canonical.clone(),
            _ => self.without_links_above(parent),
        };
        parent.join(name)
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
    /// A Unix socket.
    Socket,
    /// A device node or a FIFO.
    Other,
}
