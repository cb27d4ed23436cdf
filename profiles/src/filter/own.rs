//! The filters of Toolcell's own processes, from `profiles/own/`: what each may call, with reasons.
//!
//! Like a cell's, they allow what is listed and nothing else. A file lists groups of
//! [`crate::syscalls`], of which it takes what a cell may call, names more, and takes names out.

use std::collections::BTreeMap;

use runner::spec::Filter;
use serde::Deserialize;

use super::arguments::{self, Decision};
use super::{
    Action, AddressNotify, Errno, FilterError, FilterFacts, PathNotify, Policy, UNKNOWN, known,
};
use crate::host::Arch;
use crate::syscalls::{self, GroupAction};

/// A process of Toolcell's own that filters itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The supervisor, with all its threads.
    Supervisor,
    /// The supervisor where it listens: it accepts connections as well.
    Listener,
    /// What looks into one cell's processes for it.
    Reader,
    /// What relays for cells.
    Gateway,
}

/// Compiles the filter of a process.
///
/// # Errors
/// Never for the files that this program is built with; a test compiles each of them.
pub fn filter(process: Process, arch: Arch) -> Result<Filter, FilterError> {
    policy(process, arch)?.assemble()
}

/// One file, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code)] // for people
    about: String,
    groups: Vec<String>,
    #[serde(default)]
    allow: BTreeMap<String, String>,
    #[serde(default)]
    deny: BTreeMap<String, String>,
    /// Allowed as well where the process listens; else denied.
    #[serde(default)]
    listening: BTreeMap<String, String>,
}

fn file(process: Process) -> File {
    let text = match process {
        Process::Supervisor | Process::Listener => include_str!("../../own/supervisor.toml"),
        Process::Reader => include_str!("../../own/reader.toml"),
        Process::Gateway => include_str!("../../own/gateway.toml"),
    };
    toml::from_str(text).expect("the files are part of this program, and a test reads each of them")
}

/// The rules of a process's filter.
pub(super) fn policy(process: Process, arch: Arch) -> Result<Policy, FilterError> {
    let facts = FilterFacts {
        arch,
        notify: false,
        unix_sockets: false,
        memfd_exec: false,
        explain_paths: PathNotify::Off,
        explain_network: AddressNotify::Off,
    };
    let file = file(process);
    let names = file.allow.keys().chain(file.deny.keys());
    for name in names.chain(file.listening.keys()) {
        known(name)?;
    }
    let listens = process == Process::Listener;
    let decisions = syscalls::all()
        .filter_map(|syscall| {
            let number = syscall.number(arch)?;
            let name = syscall.name.as_str();
            let of_a_group = syscall.group.action == GroupAction::Allow
                && file.groups.iter().any(|group| group == syscall.group.name);
            let denied =
                file.deny.contains_key(name) || !listens && file.listening.contains_key(name);
            let allowed = !denied && (of_a_group || file.allow.contains_key(name));
            let decision = if allowed {
                checked(process, name, facts)
            } else if syscall.group.action == GroupAction::Unknown {
                Decision::always(UNKNOWN)
            } else {
                Decision::always(Action::Deny(Errno::NotPermitted))
            };
            Some((number, decision))
        })
        .collect();
    Ok(Policy {
        facts,
        denied: std::collections::BTreeSet::new(),
        decisions,
    })
}

/// The check of an allowed call's arguments: at least that of a cell.
fn checked(process: Process, name: &str, facts: FilterFacts) -> Decision {
    match name {
        "clone" => arguments::threads_only(),
        "openat" if process == Process::Reader => arguments::open_to_read(2),
        "ioctl" if process == Process::Reader => arguments::bytes_to_read(1),
        "socket" => arguments::internet_only(),
        _ => {
            let decision = arguments::check(name, facts);
            let decision = decision.unwrap_or_else(|| Decision::always(Action::Allow));
            arguments::without_execution(name, decision)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESSES: [Process; 4] = [
        Process::Supervisor,
        Process::Listener,
        Process::Reader,
        Process::Gateway,
    ];

    fn decide<const N: usize>(process: Process, name: &str, given: [u64; N]) -> Action {
        let policy = policy(process, Arch::X86_64).unwrap();
        let number = syscalls::by_name(name).unwrap().number(Arch::X86_64);
        let mut arguments = [0; 6];
        arguments[..N].copy_from_slice(&given);
        policy.decide(number.unwrap(), &arguments)
    }

    const DENIED: Action = Action::Deny(Errno::NotPermitted);

    #[test]
    fn every_name_has_an_effect_and_a_reason() {
        for process in PROCESSES {
            let file = file(process);
            for group in &file.groups {
                assert!(
                    syscalls::groups()
                        .iter()
                        .any(|known| known.name == group && known.action == GroupAction::Allow),
                    "{group}"
                );
            }
            let named = file.allow.iter().chain(&file.deny).chain(&file.listening);
            for (name, why) in named {
                assert!(!why.is_empty(), "{name}");
            }
            let in_groups = |name: &str| {
                let group = syscalls::by_name(name).unwrap().group.name;
                file.groups.iter().any(|listed| listed == group)
            };
            let mut taken_out = file.deny.keys().chain(file.listening.keys());
            assert!(taken_out.all(|name| in_groups(name)), "{process:?}");
            assert!(
                !file.allow.keys().any(|name| in_groups(name)),
                "{process:?}"
            );
        }
    }

    #[test]
    fn the_supervisor_makes_threads_and_no_processes() {
        // What glibc's pthread_create asks of clone(2).
        assert_eq!(
            decide(Process::Supervisor, "clone", [0x003d_0f00]),
            Action::Allow
        );
        assert_eq!(decide(Process::Supervisor, "clone", [17]), DENIED);
        assert_eq!(
            decide(Process::Supervisor, "clone", [0x003d_0f00 | 0x1000_0000]),
            DENIED
        );
        assert_eq!(decide(Process::Supervisor, "clone3", []), UNKNOWN);
        for name in ["execve", "execveat", "fork", "vfork"] {
            assert_eq!(decide(Process::Supervisor, name, []), DENIED, "{name}");
        }
        assert_eq!(decide(Process::Reader, "clone", [0x003d_0f00]), DENIED);
    }

    #[test]
    fn no_memory_becomes_executable() {
        for name in ["mmap", "mprotect", "pkey_mprotect"] {
            assert_eq!(
                decide(Process::Supervisor, name, [0, 0, 3]),
                Action::Allow,
                "{name}"
            );
            assert_eq!(
                decide(Process::Supervisor, name, [0, 0, 5]),
                DENIED,
                "{name}"
            );
        }
        let huge = [0, 0, 3, 0x4_0000];
        assert_eq!(
            decide(Process::Supervisor, "mmap", huge),
            Action::Deny(Errno::NoMemory)
        );
        assert_eq!(
            decide(Process::Supervisor, "memfd_create", [0, 8 | 1]),
            Action::Allow
        );
        assert_ne!(
            decide(Process::Supervisor, "memfd_create", [0, 1]),
            Action::Allow
        );
    }

    #[test]
    fn the_supervisor_has_pairs_of_sockets_and_no_others() {
        assert_eq!(
            decide(Process::Supervisor, "socketpair", [1, 5]),
            Action::Allow
        );
        for process in [Process::Supervisor, Process::Listener] {
            for family in [1, 2, 10, 16, 40] {
                let denied = decide(process, "socket", [family, 1]);
                assert_eq!(denied, DENIED, "{family}");
            }
            for name in ["bind", "listen", "connect", "accept"] {
                assert_eq!(decide(process, name, []), DENIED, "{process:?}: {name}");
            }
        }
    }

    #[test]
    fn connections_are_accepted_only_where_it_listens() {
        let arguments: [u64; 0] = [];
        let decided = |process| decide(process, "accept4", arguments);
        assert_eq!(decided(Process::Listener), Action::Allow);
        assert_eq!(decided(Process::Supervisor), DENIED);
    }

    #[test]
    fn the_gateway_has_sockets_of_tcp_and_udp_and_no_others() {
        for family in [2, 10] {
            for kind in [1, 2, 1 | 0o2_004_000] {
                let allowed = decide(Process::Gateway, "socket", [family, kind]);
                assert_eq!(allowed, Action::Allow, "{family} {kind}");
            }
            assert_eq!(decide(Process::Gateway, "socket", [family, 3]), DENIED);
        }
        for family in [1, 16, 17, 40] {
            let denied = decide(Process::Gateway, "socket", [family, 1]);
            assert_eq!(denied, DENIED, "{family}");
        }
        assert_eq!(
            decide(Process::Gateway, "clone", [0x003d_0f00]),
            Action::Allow
        );
        assert_eq!(decide(Process::Gateway, "clone", [17]), DENIED);
        for name in ["openat", "execve", "chdir", "ptrace", "seccomp"] {
            assert_eq!(decide(Process::Gateway, name, []), DENIED, "{name}");
        }
    }

    #[test]
    fn what_is_dangerous_in_a_cell_is_denied_here() {
        for process in PROCESSES {
            for syscall in syscalls::all() {
                let Some(number) = syscall.number(Arch::X86_64) else {
                    continue;
                };
                let policy = policy(process, Arch::X86_64).unwrap();
                let allowed = policy.decide(number, &[0; 6]) == Action::Allow;
                let excepted = match process {
                    Process::Supervisor | Process::Listener => syscall.name == "openat2",
                    Process::Reader => {
                        ["process_vm_readv", "pidfd_getfd"].contains(&syscall.name.as_str())
                    }
                    Process::Gateway => false,
                };
                assert!(
                    !allowed || excepted || syscall.group.action == GroupAction::Allow,
                    "{process:?}: {}",
                    syscall.name
                );
            }
        }
    }

    #[test]
    fn the_reader_asks_descriptors_how_much_waits_and_no_more() {
        const FIONREAD: u64 = 0x541b;
        let ioctl = |request| decide(Process::Reader, "ioctl", [3, request]);
        assert_eq!(ioctl(FIONREAD), Action::Allow);
        // Does not block, terminal input, terminal size.
        for request in [0x5421, 0x5412, 0x5413] {
            assert_eq!(ioctl(request), DENIED, "{request:x}");
        }
        for name in ["setsockopt", "connect", "fcntl", "pwrite64", "ftruncate"] {
            assert_eq!(decide(Process::Reader, name, []), DENIED, "{name}");
        }
    }

    #[test]
    fn the_reader_opens_nothing_for_writing() {
        assert_eq!(
            decide(Process::Reader, "openat", [0, 0, 0o2_000_000]),
            Action::Allow
        );
        for flags in [1, 2, 3, 0o100, 0o1000, 0o20_200_000] {
            assert_eq!(
                decide(Process::Reader, "openat", [0, 0, flags]),
                DENIED,
                "{flags:o}"
            );
        }
        assert_eq!(decide(Process::Reader, "openat2", []), UNKNOWN);
        assert_eq!(
            decide(Process::Supervisor, "openat", [0, 0, 1]),
            Action::Allow
        );
    }
}
