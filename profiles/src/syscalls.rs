//! Every system call that Toolcell knows, in named groups, with a reason for each.
//!
//! The groups are the files of `profiles/syscalls/`, built into the program. A group says what
//! happens to its calls unless a profile says otherwise; a call in no group is unknown to the filter
//! and gets `ENOSYS`, as on a kernel that does not have it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::host::Arch;

/// Least likeness (`strsim::jaro_winkler`) at which a name is suggested in place of another.
const LIKENESS_MIN: f64 = 0.8;

/// What happens to the calls of a group unless a profile says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupAction {
    /// Allowed, some with arguments checked.
    Allow,
    /// Refused with `EPERM`, and named in the call's denials.
    Deny,
    /// Refused with `ENOSYS`, so that programs do without.
    Unknown,
}

/// A group of system calls.
#[derive(Debug)]
pub struct Group {
    /// Name of the group, which is that of its file.
    pub name: &'static str,
    /// What the calls have in common.
    pub about: String,
    /// What happens to them.
    pub action: GroupAction,
}

/// A system call.
#[derive(Debug)]
pub struct Syscall {
    /// Name, as in `syscall(2)`.
    pub name: String,
    /// Its group.
    pub group: &'static Group,
    /// Why it is in its group: what it is good for, or what is wrong with it.
    pub why: String,
    /// Nothing starts without it, so a profile cannot deny it.
    pub vital: bool,
    /// A profile may allow it, although its group does not.
    pub allowable: bool,
    numbers: [Option<u32>; 2],
}

impl Syscall {
    /// Its number, on an architecture that has it.
    #[must_use]
    pub fn number(&self, arch: Arch) -> Option<u32> {
        self.numbers[index(arch)]
    }
}

/// All groups: allowed ones first, then denied, then unknown ones.
#[must_use]
pub fn groups() -> &'static [Group] {
    TABLE.groups
}

/// All system calls, sorted by name.
pub fn all() -> impl Iterator<Item = &'static Syscall> {
    TABLE.syscalls.values().copied()
}

/// The system call of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Syscall> {
    TABLE.syscalls.get(name).copied()
}

/// The system call of a number.
#[must_use]
pub fn by_number(arch: Arch, number: u32) -> Option<&'static Syscall> {
    TABLE.numbers[index(arch)].get(&number).copied()
}

/// The known name that is most like one that is not known, if any is like it at all.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    all()
        .map(|syscall| {
            (
                strsim::jaro_winkler(name, &syscall.name),
                syscall.name.as_str(),
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// The files, in the order in which [`groups`] gives them.
const FILES: &[(&str, &str)] = &[
    ("process", include_str!("../syscalls/process.toml")),
    ("identity", include_str!("../syscalls/identity.toml")),
    ("confine", include_str!("../syscalls/confine.toml")),
    ("memory", include_str!("../syscalls/memory.toml")),
    ("files", include_str!("../syscalls/files.toml")),
    ("paths", include_str!("../syscalls/paths.toml")),
    ("network", include_str!("../syscalls/network.toml")),
    ("events", include_str!("../syscalls/events.toml")),
    ("time", include_str!("../syscalls/time.toml")),
    ("signals", include_str!("../syscalls/signals.toml")),
    ("ipc", include_str!("../syscalls/ipc.toml")),
    ("scheduling", include_str!("../syscalls/scheduling.toml")),
    ("namespaces", include_str!("../syscalls/namespaces.toml")),
    ("mounts", include_str!("../syscalls/mounts.toml")),
    ("kernel", include_str!("../syscalls/kernel.toml")),
    ("tracing", include_str!("../syscalls/tracing.toml")),
    ("keys", include_str!("../syscalls/keys.toml")),
    ("clocks", include_str!("../syscalls/clocks.toml")),
    ("handles", include_str!("../syscalls/handles.toml")),
    ("raw-io", include_str!("../syscalls/raw-io.toml")),
    ("opaque", include_str!("../syscalls/opaque.toml")),
    ("aio", include_str!("../syscalls/aio.toml")),
    ("recent", include_str!("../syscalls/recent.toml")),
    ("obsolete", include_str!("../syscalls/obsolete.toml")),
    ("foreign", include_str!("../syscalls/foreign.toml")),
];

/// One file, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    action: GroupAction,
    /// Whether a profile may allow the calls of a group that is not allowed.
    #[serde(default)]
    allowable: bool,
    syscalls: BTreeMap<String, Entry>,
}

/// One call, as written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Why(String),
    More(More),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    why: String,
    #[serde(default)]
    vital: bool,
    allowable: Option<bool>,
    /// Numbers of a call that the `syscalls` crate does not know yet, or by another name.
    x86_64: Option<u32>,
    aarch64: Option<u32>,
}

struct Table {
    groups: &'static [Group],
    syscalls: BTreeMap<&'static str, &'static Syscall>,
    numbers: [BTreeMap<u32, &'static Syscall>; 2],
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let files: Vec<(&'static str, File)> = FILES
        .iter()
        .map(|(name, text)| {
            let file = toml::from_str(text)
                .expect("the files are part of this program, and a test reads each of them");
            (*name, file)
        })
        .collect();
    build(files)
});

/// Builds the table, which lives as long as the program.
fn build(files: Vec<(&'static str, File)>) -> Table {
    let (groups, entries): (Vec<Group>, Vec<_>) = files
        .into_iter()
        .map(|(name, file)| {
            let group = Group {
                name,
                about: file.about,
                action: file.action,
            };
            (group, (file.allowable, file.syscalls))
        })
        .unzip();
    let groups: &'static [Group] = groups.leak();
    let mut table = Table {
        groups,
        syscalls: BTreeMap::new(),
        numbers: [BTreeMap::new(), BTreeMap::new()],
    };
    for (group, (allowable, entries)) in groups.iter().zip(entries) {
        for (name, entry) in entries {
            let syscall: &'static Syscall =
                Box::leak(Box::new(syscall(name, entry, group, allowable)));
            table.syscalls.insert(&syscall.name, syscall);
            for (number, by_number) in syscall.numbers.iter().zip(&mut table.numbers) {
                if let Some(number) = *number {
                    by_number.insert(number, syscall);
                }
            }
        }
    }
    table
}

fn syscall(name: String, entry: Entry, group: &'static Group, allowable: bool) -> Syscall {
    let more = match entry {
        Entry::More(more) => more,
        Entry::Why(why) => More {
            why,
            vital: false,
            allowable: None,
            x86_64: None,
            aarch64: None,
        },
    };
    let known = [
        name.parse()
            .ok()
            .map(|known: syscalls::x86_64::Sysno| known.id().unsigned_abs()),
        name.parse()
            .ok()
            .map(|known: syscalls::aarch64::Sysno| known.id().unsigned_abs()),
    ];
    Syscall {
        name,
        group,
        why: more.why,
        vital: more.vital,
        allowable: more.allowable.unwrap_or(allowable),
        numbers: [known[0].or(more.x86_64), known[1].or(more.aarch64)],
    }
}

/// Place of an architecture in arrays of two.
fn index(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 => 0,
        Arch::Aarch64 => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that the `syscalls` crate knows; its own iterator leaves the last one out.
    fn known(arch: Arch) -> Vec<(u32, &'static str)> {
        const NUMBERS_END: usize = 1024;
        (0..NUMBERS_END)
            .filter_map(|number| {
                let name = match arch {
                    Arch::X86_64 => syscalls::x86_64::Sysno::new(number)?.name(),
                    Arch::Aarch64 => syscalls::aarch64::Sysno::new(number)?.name(),
                };
                Some((u32::try_from(number).unwrap(), name))
            })
            .collect()
    }

    #[test]
    fn every_known_number_is_in_exactly_one_group() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for (number, name) in known(arch) {
                let with = all().filter(|syscall| syscall.number(arch) == Some(number));
                let names: Vec<&str> = with.map(|syscall| syscall.name.as_str()).collect();
                // The kernel's own name for what the crate calls `fstatat` is `newfstatat`.
                let name = if name == "fstatat" {
                    "newfstatat"
                } else {
                    name
                };
                assert_eq!(names, [name], "{number} of {}", arch.name());
            }
        }
    }

    #[test]
    fn no_name_is_in_two_groups() {
        let entries = |text| toml::from_str::<File>(text).unwrap().syscalls.len();
        let written: usize = FILES.iter().map(|(_, text)| entries(text)).sum();
        assert_eq!(written, all().count());
    }

    #[test]
    fn every_entry_has_a_number_and_a_reason() {
        for syscall in all() {
            let numbers = [Arch::X86_64, Arch::Aarch64].map(|arch| syscall.number(arch));
            assert_ne!(numbers, [None, None], "{} has no number", syscall.name);
            assert!(!syscall.why.is_empty(), "{} has no reason", syscall.name);
        }
    }

    #[test]
    fn no_two_calls_share_a_number() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let numbered = all()
                .filter(|syscall| syscall.number(arch).is_some())
                .count();
            assert_eq!(numbered, TABLE.numbers[index(arch)].len());
        }
    }

    #[test]
    fn every_file_is_built_in() {
        let mut written: Vec<String> =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/syscalls"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
        let mut built: Vec<String> = FILES
            .iter()
            .map(|(name, _)| format!("{name}.toml"))
            .collect();
        written.sort();
        built.sort();
        assert_eq!(written, built);
    }

    #[test]
    fn vital_calls_are_allowed_ones() {
        for syscall in all().filter(|syscall| syscall.vital) {
            assert_eq!(syscall.group.action, GroupAction::Allow, "{}", syscall.name);
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest() {
        assert_eq!(nearest("ptrce"), Some("ptrace"));
        assert_eq!(nearest("open_at"), Some("openat"));
        assert_eq!(nearest("zzzzzzzz"), None);
    }
}
