//! What the launcher and the cell tell the supervisor.
//!
//! Every message travels on the call's own socket, so nothing of one call can be taken for
//! another's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One message about a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// From the launcher: the cell's first process exists; its pidfd and its PID namespace come along.
    Started {
        /// PID of the cell's first process, as the launcher sees it.
        pid: i32,
    },
    /// From the launcher or the cell: it could not be built, and is gone or on its way.
    Failed(SetupFailure),
    /// From the cell's first process, if its template has egress, before [`Report::Built`]: its
    /// sockets come along, all non-blocking, which are the resolver's over UDP and over TCP, the
    /// watchers, and the template's in their order.
    Network {
        /// How many watchers: two for each version of the protocol that the kernel has.
        watchers: u8,
    },
    /// From the cell's first process: the root is complete; the descriptors of the template's
    /// `handed_back` directories come along, and then those of the lists of System V objects if the
    /// template wants them counted and the kernel has them.
    Built,
    /// From the process that will exec the tool, if its call has no program: all but its filter is in
    /// force, and it waits for [`crate::wire::Begin`].
    Waiting,
    /// From the process that is about to exec the tool, with what it read back from the kernel; the
    /// seccomp listener comes along if the filter notifies.
    Confined(Confirmed),
    /// From the cell's first process: the tool's own process has ended, and everything else in the
    /// cell is about to.
    Ended {
        /// How it ended.
        end: End,
        /// What the tool and its waited-for descendants used.
        usage: Usage,
    },
}

/// How the tool's own process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By `exit(2)`, with this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// `getrusage(RUSAGE_CHILDREN)` of the cell's first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// User CPU time in microseconds.
    pub user_micros: u64,
    /// System CPU time in microseconds.
    pub system_micros: u64,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

/// What the confined process read back from the kernel about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // one independent fact each
pub struct Confirmed {
    /// `PR_GET_NO_NEW_PRIVS` says 1.
    pub no_new_privs: bool,
    /// All five capability sets are empty.
    pub no_capabilities: bool,
    /// A read that no Landlock rule allows was refused with `EACCES` in the finished domain.
    pub landlock_refuses: bool,
    /// `PR_GET_SECCOMP` says filter mode.
    pub seccomp_filter: bool,
    /// User id as seen inside.
    pub uid: u32,
    /// The root directory's file system is read-only (`fstatvfs(3)`).
    pub root_read_only: bool,
    /// Every resource limit reads back as ordered.
    pub rlimits: bool,
    /// With egress, an address of the world outside is the cell's own, and so is every other.
    /// Without, the loopback interface came up and nothing else was ordered.
    pub network: bool,
}

/// One step of building or confining a cell, in the order in which they are taken.
///
/// [`crate::confine`] is the list itself; a test holds the two, and ARCHITECTURE.md's table, equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // each variant's text is in `Step::what`
pub enum Step {
    Decode,
    Clone,
    ShowOwner,
    MapIds,
    Cgroup,
    ParentDeathSignal,
    Identity,
    SessionKeyring,
    Network,
    Hostname,
    MountPropagation,
    Staging,
    Mount,
    HandBack,
    PivotRoot,
    RootReadOnly,
    Fork,
    Stdio,
    NewProcessGroup,
    Rlimit,
    WorkingDirectory,
    DropCapabilities,
    NoNewPrivileges,
    Landlock,
    CloseDescriptors,
    Seccomp,
    ReadBack,
    Wait,
    Exec,
}

impl Step {
    /// What the step does, for people: completes "could not …".
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Decode => "read its orders",
            Self::Clone => "create the namespaces",
            Self::ShowOwner => "show a directory of the host as the cell's own",
            Self::MapIds => "map the user and group ids",
            Self::Cgroup => "enter its cgroup",
            Self::ParentDeathSignal => "bind its life to its parent's",
            Self::Identity => "take on its user and group",
            Self::SessionKeyring => "leave the session keyring",
            Self::Network => "set up the network",
            Self::Hostname => "set the host name",
            Self::MountPropagation => "cut mount propagation to the host",
            Self::Staging => "mount an empty root",
            Self::Mount => "mount",
            Self::HandBack => "hand descriptors to the supervisor",
            Self::PivotRoot => "enter the new root",
            Self::RootReadOnly => "make the root read-only",
            Self::Fork => "fork the tool's process",
            Self::Stdio => "connect the standard streams",
            Self::NewProcessGroup => "leave the terminal and start a process group",
            Self::Rlimit => "set a resource limit",
            Self::WorkingDirectory => "enter the working directory",
            Self::DropCapabilities => "drop its capabilities",
            Self::NoNewPrivileges => "set no_new_privs",
            Self::Landlock => "enforce the Landlock ruleset",
            Self::CloseDescriptors => "close inherited descriptors",
            Self::Seccomp => "install the seccomp filter",
            Self::ReadBack => "read back what is enforced",
            Self::Wait => "learn what to execute",
            Self::Exec => "execute the program",
        }
    }
}

/// A step that failed: which, why, and on which item of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupFailure {
    /// The step.
    pub step: Step,
    /// `errno` of the call that failed; 0 where the kernel said no error (a read-back that differs).
    pub errno: i32,
    /// Index into the list that the step works through (mounts: the template's, then the call's);
    /// 0 where there is none.
    pub index: u32,
}

impl fmt::Display for SetupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno);
        write!(
            f,
            "could not {} (item {}): {error}",
            self.step.what(),
            self.index
        )
    }
}

impl std::error::Error for SetupFailure {}
