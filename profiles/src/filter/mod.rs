//! The seccomp filter: which system calls a profile allows, and the program that says so.
//!
//! A [`Policy`] holds the rules as plain data: a decision for each call of [`crate::syscalls`], with
//! the argument checks of `arguments` and the inspections of [`paths`]. It can be asked directly
//! ([`Policy::decide`]), which is how the supervisor learns what a notification is about, and it can
//! be assembled into a classic BPF program ([`Policy::assemble`]).
//!
//! `seccompiler` models the argument checks and compiles them. Around its output `dispatch` lays a
//! search by ranges of numbers, because `seccompiler` by itself tests one number after another (a
//! list as long as ours installs in 330 µs instead of 85), knows one answer besides the default, cannot notify, and kills
//! on a foreign architecture. The tests run both programs and hold every answer equal.

pub mod addresses;
mod arguments;
mod describe;
mod dispatch;
#[cfg(test)]
mod evaluate;
pub mod own;
pub mod paths;
#[cfg(test)]
mod proofs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use runner::spec::Filter;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::host::Arch;
use crate::syscalls::{self, GroupAction, Syscall};
use addresses::AddressCall;
use arguments::{Case, Decision};
use paths::PathCall;

/// Most BPF instructions in a program of ours.
///
/// The kernel's own limit is 4,096; it charges each one against the memory of the cell and walks the
/// program once for each system call that it has when the filter is installed.
pub const PROGRAM_INSTRUCTIONS_MAX: usize = 1280;

/// What a profile says about system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallRules {
    /// Names allowed beyond the default groups.
    pub allow: Vec<String>,
    /// Names denied out of the default groups; they win over `allow`.
    pub deny: Vec<String>,
}

/// The facts that one filter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "one independent fact each")]
pub struct FilterFacts {
    /// Architecture of the kernel.
    pub arch: Arch,
    /// Whether what is denied is told to a listener, so that it can be named. The kernel must know
    /// `SECCOMP_USER_NOTIF_FLAG_CONTINUE` (Linux 5.5) too, if paths are to be explained.
    pub notify: bool,
    /// Whether Unix sockets may be made: only where the minimal root and the kernel's Landlock
    /// leave none of the host's in reach.
    pub unix_sockets: bool,
    /// Whether TCP sockets may be made. Where programs may not talk TCP, Landlock says so from ABI 4
    /// on, when they connect or listen; before it, they get no socket for it.
    pub tcp_sockets: bool,
    /// Whether nameless memory files may be executable: only where everything may be executed.
    pub memfd_exec: bool,
    /// Which calls that name a path are shown to the listener before they go on.
    pub explain_paths: PathNotify,
    /// Whether calls that name a network address are shown to the listener before they go on; only
    /// with `notify`, and of Linux 5.5 as well.
    pub explain_network: AddressNotify,
}

/// Which calls that name a path are shown to the listener.
///
/// They are only looked at and then go on; it is Landlock and the minimal root that decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathNotify {
    /// None.
    #[default]
    Off,
    /// Those that write, create, remove, rename or execute; opening to read costs nothing more.
    Writes,
    /// All, also those that only read or look.
    All,
}

/// Whether calls that name a network address are shown to the listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressNotify {
    /// They are not.
    #[default]
    Off,
    /// They are, where the address can be told cheaply; see [`addresses`].
    On,
}

impl From<bool> for AddressNotify {
    fn from(explain: bool) -> Self {
        if explain { Self::On } else { Self::Off }
    }
}

impl From<bool> for PathNotify {
    /// A profile's `[explain] paths`: everything, or nothing.
    fn from(explain: bool) -> Self {
        if explain { Self::All } else { Self::Off }
    }
}

/// Why a profile's rules make no filter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// No system call has this name.
    #[error("unknown system call `{name}`")]
    Unknown {
        /// The name as written.
        name: String,
        /// The known name that is most like it.
        nearest: Option<&'static str>,
    },
    /// Allowing it would take the cell apart.
    #[error("`{name}` can never be allowed: {why}")]
    NeverAllowed {
        /// Its name.
        name: &'static str,
        /// What it would do.
        why: &'static str,
    },
    /// Allowing it again would look like a weakening and be none.
    #[error("`{name}` is already allowed, in the group `{group}`: {why}")]
    AlreadyAllowed {
        /// Its name.
        name: &'static str,
        /// Its group.
        group: &'static str,
        /// What it is good for, and what of it stays refused.
        why: &'static str,
    },
    /// No program starts without it.
    #[error("`{name}` cannot be denied, because nothing starts without it: {why}")]
    Vital {
        /// Its name.
        name: &'static str,
        /// What it is good for.
        why: &'static str,
    },
    /// Paths cannot be shown to a listener that is not there.
    #[error("paths cannot be explained on a kernel without seccomp's user notification")]
    ExplainWithoutNotify,
    /// The assembled program is longer than [`PROGRAM_INSTRUCTIONS_MAX`].
    #[error("the filter has {0} instructions, more than {PROGRAM_INSTRUCTIONS_MAX}")]
    TooLong(usize),
    /// `seccompiler` did not take an argument check, or compiled it into an unexpected form.
    #[error("an argument check could not be compiled: {0}")]
    Check(String),
}

impl FilterError {
    /// What would mend it, if that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest, .. } => nearest.map(|name| format!("did you mean `{name}`?")),
            Self::AlreadyAllowed { .. } => {
                Some("take the name out; what is refused of its arguments stays so".to_owned())
            }
            Self::NeverAllowed { .. } | Self::Vital { .. } => Some("take the name out".to_owned()),
            Self::ExplainWithoutNotify => {
                Some("take `[explain] paths` out, or use Linux 5.5 or later".to_owned())
            }
            Self::TooLong(_) => Some("deny or allow fewer system calls by name".to_owned()),
            Self::Check(_) => None,
        }
    }
}

/// What the filter answers to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It goes on.
    Allow,
    /// It is answered with success and not done, and nobody hears of it.
    Pretend,
    /// It fails with this error, and nobody hears of it.
    Refuse(Errno),
    /// It fails with this error, and is named in the call's denials if there is a listener.
    Deny(Errno),
    /// The listener looks at the path that it names, and lets it go on.
    Inspect,
    /// The listener looks at the network address that it names, and lets it go on.
    InspectAddress,
    /// The listener answers with a memory file that is sealed and cannot be executed.
    SealedMemfd,
}

/// The error numbers that filters answer with; the same on both architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Errno {
    /// `EPERM`: what a kernel says for want of a capability.
    NotPermitted = 1,
    /// `ENOMEM`.
    NoMemory = 12,
    /// `EACCES`: what Landlock says.
    NoAccess = 13,
    /// `EINVAL`: what a kernel says that was built without the feature.
    Invalid = 22,
    /// `ENOSYS`: what a kernel says that does not have the call.
    NoSystemCall = 38,
    /// `EPROTONOSUPPORT`.
    NoProtocol = 93,
    /// `ESOCKTNOSUPPORT`.
    NoSocketType = 94,
    /// `EOPNOTSUPP`.
    NotSupported = 95,
    /// `EAFNOSUPPORT`.
    NoAddressFamily = 97,
}

impl Errno {
    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "EPERM",
            Self::NoMemory => "ENOMEM",
            Self::NoAccess => "EACCES",
            Self::Invalid => "EINVAL",
            Self::NoSystemCall => "ENOSYS",
            Self::NoProtocol => "EPROTONOSUPPORT",
            Self::NoSocketType => "ESOCKTNOSUPPORT",
            Self::NotSupported => "EOPNOTSUPP",
            Self::NoAddressFamily => "EAFNOSUPPORT",
        })
    }
}

/// What a notification of the filter is about, and how it must be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// A call that is denied: record it, and answer with the error.
    Denied {
        /// What was tried, for people: the call's name, and which of its arguments was refused.
        what: String,
        /// The error to answer with.
        errno: Errno,
        /// Which rule denied it: a group with the call's reason, or the profile's `deny`.
        rule: String,
        /// The line of a profile that would allow it, if one can.
        allow: Option<String>,
    },
    /// A call that names a path: look, and let it go on.
    Inspect(&'static PathCall),
    /// A call that names a network address: look, and let it go on.
    InspectAddress(AddressCall),
    /// `memfd_create`: answer with a memory file that is sealed and cannot be executed.
    SealedMemfd,
}

/// The rules of one profile for one architecture, as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    facts: FilterFacts,
    /// Names that the profile denies.
    denied: BTreeSet<&'static str>,
    /// What is not here gets `ENOSYS`.
    decisions: BTreeMap<u32, Decision>,
}

/// Compiles a profile's rules to a filter.
pub fn assemble(rules: &SyscallRules, facts: &FilterFacts) -> Result<Filter, FilterError> {
    Policy::new(rules, facts)?.assemble()
}

/// Checks one name of `[syscalls] allow`.
pub fn check_allow(name: &str) -> Result<&'static Syscall, FilterError> {
    let syscall = known(name)?;
    if syscall.group.action == GroupAction::Allow {
        let (name, group, why) = (&syscall.name, syscall.group.name, &syscall.why);
        return Err(FilterError::AlreadyAllowed { name, group, why });
    }
    if !syscall.allowable {
        return Err(FilterError::NeverAllowed {
            name: &syscall.name,
            why: &syscall.why,
        });
    }
    Ok(syscall)
}

/// Checks one name of `[syscalls] deny`.
pub fn check_deny(name: &str) -> Result<&'static Syscall, FilterError> {
    let syscall = known(name)?;
    if syscall.vital {
        return Err(FilterError::Vital {
            name: &syscall.name,
            why: &syscall.why,
        });
    }
    Ok(syscall)
}

fn known(name: &str) -> Result<&'static Syscall, FilterError> {
    syscalls::by_name(name).ok_or_else(|| FilterError::Unknown {
        name: name.to_owned(),
        nearest: syscalls::nearest(name),
    })
}

impl Policy {
    /// Decides for every system call.
    ///
    /// A name that the architecture does not have is checked all the same and then has no effect, so
    /// that one profile serves both.
    pub fn new(rules: &SyscallRules, facts: &FilterFacts) -> Result<Self, FilterError> {
        if facts.explain_paths != PathNotify::Off && !facts.notify {
            return Err(FilterError::ExplainWithoutNotify);
        }
        let names = |names: &[String], check: fn(&str) -> Result<&'static Syscall, FilterError>| {
            names
                .iter()
                .map(|name| check(name).map(|syscall| syscall.name.as_str()))
                .collect::<Result<BTreeSet<&'static str>, _>>()
        };
        let allowed = names(&rules.allow, check_allow)?;
        let denied = names(&rules.deny, check_deny)?;
        let decisions = syscalls::all()
            .filter_map(|syscall| {
                let number = syscall.number(facts.arch)?;
                let name = syscall.name.as_str();
                let action = match syscall.group.action {
                    _ if denied.contains(name) => GroupAction::Deny,
                    _ if allowed.contains(name) => GroupAction::Allow,
                    action => action,
                };
                let decision = match action {
                    GroupAction::Allow => allowed_decision(name, *facts),
                    GroupAction::Deny => Decision::always(Action::Deny(Errno::NotPermitted)),
                    GroupAction::Unknown => Decision::always(UNKNOWN),
                };
                Some((number, decision))
            })
            .collect();
        Ok(Self {
            facts: *facts,
            denied,
            decisions,
        })
    }

    /// What the filter answers to a call of its own architecture, read directly from the rules.
    #[must_use]
    pub fn decide(&self, number: u32, arguments: &[u64; 6]) -> Action {
        self.decisions
            .get(&number)
            .map_or(UNKNOWN, |decision| decision.decide(arguments))
    }

    /// What a notification of the assembled filter is about.
    ///
    /// A call that the filter never notifies about is denied: then the notification is of another
    /// filter or the caller is mistaken, and neither must let it go on.
    #[must_use]
    pub fn classify(&self, number: u32, arguments: &[u64; 6]) -> Notification {
        let syscall = syscalls::by_number(self.facts.arch, number);
        let name = syscall.map(|syscall| syscall.name.as_str());
        match self.decide(number, arguments) {
            Action::Inspect => {
                if let Some(call) = name.and_then(paths::by_name) {
                    return Notification::Inspect(call);
                }
                self.denied(syscall, number, arguments, Errno::NotPermitted)
            }
            Action::InspectAddress => match name.and_then(addresses::by_name) {
                Some(call) => Notification::InspectAddress(call),
                None => self.denied(syscall, number, arguments, Errno::NotPermitted),
            },
            Action::SealedMemfd => Notification::SealedMemfd,
            Action::Deny(errno) | Action::Refuse(errno) => {
                self.denied(syscall, number, arguments, errno)
            }
            Action::Allow | Action::Pretend => {
                self.denied(syscall, number, arguments, Errno::NotPermitted)
            }
        }
    }

    fn denied(
        &self,
        syscall: Option<&'static Syscall>,
        number: u32,
        arguments: &[u64; 6],
        errno: Errno,
    ) -> Notification {
        let Some(syscall) = syscall else {
            let rule = "no group has this call".to_owned();
            return Notification::Denied {
                what: format!("call {number}"),
                errno,
                rule,
                allow: None,
            };
        };
        let Syscall {
            name, group, why, ..
        } = syscall;
        let by_profile = self.denied.contains(name.as_str());
        let checked = group.action == GroupAction::Allow && !by_profile;
        let sockets = match name.as_str() {
            _ if by_profile => None,
            "socket" | "socketpair" => self.sockets_would_do(arguments, errno),
            _ => None,
        };
        let allow = !by_profile && group.action != GroupAction::Allow && syscall.allowable;
        Notification::Denied {
            what: if checked {
                describe::refused(name, arguments)
            } else {
                name.clone()
            },
            errno,
            rule: if by_profile {
                format!("`{name}` is in the profile's `[syscalls] deny`")
            } else if let Some((rule, _)) = sockets {
                rule.to_owned()
            } else {
                format!("syscall group `{}`: {why}", group.name)
            },
            allow: if allow {
                Some(format!("syscalls.allow = [\"{name}\"]"))
            } else {
                sockets.map(|(_, allow)| allow.to_owned())
            },
        }
    }

    /// Why a kind of sockets is denied, and the line that allows it, if one does.
    fn sockets_would_do(
        &self,
        arguments: &[u64; 6],
        errno: Errno,
    ) -> Option<(&'static str, &'static str)> {
        // The kernel looks at the low 32 bits only.
        let family = arguments[0] & u64::from(u32::MAX);
        if !self.facts.unix_sockets && family == u64::from(arguments::AF_UNIX) {
            return Some((
                "no Unix sockets where a directory of the host is in the cell, which may hold the \
                 host's",
                "network.unix = true",
            ));
        }
        // Nothing else of a socket is answered so.
        (!self.facts.tcp_sockets && errno == Errno::NoAccess).then_some((
            "no host is listed and `network.loopback` is false, and this kernel, before Landlock ABI 4, \
             can only refuse the socket itself",
            "network.loopback = true",
        ))
    }

    /// Assembles the BPF program.
    pub fn assemble(&self) -> Result<Filter, FilterError> {
        let program = dispatch::program(self.facts, &self.decisions)?;
        if program.len() > PROGRAM_INSTRUCTIONS_MAX {
            return Err(FilterError::TooLong(program.len()));
        }
        let notifies = self.facts.notify;
        Ok(Filter { program, notifies })
    }
}

/// The answer to what is in no group.
const UNKNOWN: Action = Action::Refuse(Errno::NoSystemCall);

/// The decision for an allowed call: its argument check, if it has one, and in the places where that
/// allows, the inspection of its path or address.
fn allowed_decision(name: &str, facts: FilterFacts) -> Decision {
    let decision = arguments::check(name, facts).unwrap_or_else(|| Decision::always(Action::Allow));
    if let Some(call) = addresses::by_name(name)
        && facts.explain_network == AddressNotify::On
        && facts.notify
    {
        return call.inspected(decision, facts.explain_paths);
    }
    let Some(call) = paths::by_name(name) else {
        return decision;
    };
    match facts.explain_paths {
        PathNotify::Off => decision,
        PathNotify::Writes if !call.writes() => decision,
        PathNotify::All => decision.replaced(Action::Allow, Action::Inspect),
        PathNotify::Writes => {
            let mut decision = decision.replaced(Action::Allow, Action::Inspect);
            if let Some(flags) = call.open_flags {
                let reads = arguments::none_of(flags, paths::OPEN_WRITES);
                decision.cases.insert(0, Case::new([reads], Action::Allow));
            }
            decision
        }
    }
}
