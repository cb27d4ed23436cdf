//! The shipped profiles: what they are compiled to, and that every rule says why it is there.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod debian;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use profiles::compile::Compiled;
use profiles::{Arch, Library, compile};
use runner::spec::Mount;

const TOOLS: [&str; 17] = [
    "calculate",
    "chat",
    "file_read",
    "file_write",
    "get_alerts",
    "get_forecast",
    "git",
    "git_clone",
    "http_fetch",
    "node",
    "npm_install",
    "pip_install",
    "python",
    "search_docs",
    "shell",
    "sqlite_query",
    "translate",
];
const BASES: [&str; 7] = [
    "certificates",
    "minimal",
    "network",
    "privileged",
    "readonly",
    "standard",
    "weather",
];
const ABIS: [u32; 5] = [1, 2, 4, 6, 7];

fn compiled(name: &str, arch: Arch, abi: u32) -> Compiled {
    let resolved = Library::builtin()
        .resolve(name, &debian::overrides())
        .unwrap_or_else(|error| panic!("{error}"));
    compile(&resolved, &debian::host(&resolved, arch, abi))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn names_are_sorted_and_complete() {
    let library = Library::builtin();
    let names: Vec<_> = library.names().collect();
    let mut expected: Vec<_> = TOOLS.into_iter().chain(BASES).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn tools_run_something_and_bases_do_not() {
    let library = Library::builtin();
    for (names, tool) in [(&TOOLS[..], true), (&BASES[..], false)] {
        for name in names {
            let resolved = library.resolve(name, &debian::overrides()).unwrap();
            assert_eq!(resolved.is_tool(), tool, "{name}");
            assert!(!resolved.description.is_empty(), "{name}");
        }
    }
}

#[test]
fn every_rule_says_why() {
    let library = Library::builtin();
    for name in library.names() {
        for rule in library.rules(name).unwrap() {
            assert!(
                rule.why.len() > 5,
                "{name}: `{}` in `{}` says no reason ({})",
                rule.text,
                rule.key,
                rule.place
            );
        }
        let resolved = library.resolve(name, &debian::overrides()).unwrap();
        let roots = library
            .source(name)
            .unwrap()
            .text
            .matches("required = true")
            .count();
        assert!(resolved.roots.len() >= roots, "{name}");
    }
}

#[test]
fn weakenings_are_named_where_they_are_and_nowhere_else() {
    let weaker = ["chat", "privileged", "translate"];
    let library = Library::builtin();
    for name in library.names() {
        let resolved = library.resolve(name, &debian::overrides()).unwrap();
        assert_eq!(
            resolved.weakenings.is_empty(),
            !weaker.contains(&name),
            "{name}: {:?}",
            resolved.weakenings
        );
    }
    let privileged = library.resolve("privileged", &debian::overrides()).unwrap();
    insta::assert_snapshot!(privileged.weakenings.join("\n"));
}

#[test]
fn each_rule_can_be_left_out() {
    let library = Library::builtin();
    for name in library.names() {
        let rules = library.rules(name).unwrap();
        assert!(!rules.is_empty(), "{name}");
        for (index, rule) in rules.iter().enumerate() {
            // Some rules cannot be missed at all; the others must be gone.
            if let Ok(without) = library.resolve_without(name, index, &debian::overrides()) {
                let written = without
                    .rules
                    .iter()
                    .filter(|rule| rule.place.starts_with("builtin/"));
                assert_eq!(written.count(), rules.len() - 1);
                assert!(!without.rules.contains(rule), "{name}: {}", rule.text);
            }
        }
    }
}

#[test]
fn a_tool_without_its_root_says_how_to_give_it() {
    let library = Library::builtin();
    let resolved = library
        .resolve("search_docs", &profiles::Overrides::default())
        .unwrap();
    assert_eq!(resolved.missing_roots.keys().collect::<Vec<_>>(), ["docs"]);
    let error = debian::compile_here(&resolved).unwrap_err();
    assert!(error.all(profiles::diagnostics::Kind::RootNotGiven));
    assert!(error.to_string().contains("--root docs=DIR"), "{error}");
}

#[test]
fn equal_profiles_have_equal_digests_and_others_do_not() {
    let python = compiled("python", Arch::X86_64, 7);
    assert_eq!(python.digest, compiled("python", Arch::Aarch64, 1).digest);
    assert_ne!(python.digest, compiled("node", Arch::X86_64, 7).digest);
    assert_eq!(
        python.filter_digest,
        compiled("node", Arch::X86_64, 7).filter_digest
    );
    assert_ne!(
        python.filter_digest,
        compiled("python", Arch::Aarch64, 7).filter_digest
    );
}

#[test]
fn compiled_as_before() {
    for name in TOOLS.into_iter().chain(BASES) {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let cells = ABIS.map(|abi| (abi, compiled(name, arch, abi)));
            let id = format!("{name}-{}", arch.name());
            insta::assert_snapshot!(id, shown(&cells));
        }
    }
}

/// What a profile is compiled to, in the form that a reader can check: one line for each mount,
/// each Landlock rule with its rights on every ABI, each limit.
fn shown(cells: &[(u32, Compiled)]) -> String {
    let mut text = String::new();
    let (_, newest) = cells.last().unwrap();
    let template = &newest.template;
    for (abi, cell) in cells {
        assert_eq!(
            cell.template.mounts, template.mounts,
            "mounts do not depend on the ABI {abi}"
        );
        assert_eq!(cell.template.rlimits, template.rlimits);
    }
    let skeleton = own_mounts(newest);
    for mount in &template.mounts[skeleton..] {
        writeln!(text, "{}", mount_line(mount)).unwrap();
    }
    for (index, rule) in template.landlock.rules.iter().enumerate() {
        let rights = cells.iter().map(|(abi, cell)| {
            let same = &cell.template.landlock.rules[index];
            assert_eq!(same.path, rule.path);
            format!("{abi}:{:05x}", same.access)
        });
        let rights: Vec<_> = rights.collect();
        writeln!(
            text,
            "allow  {:40} {}",
            rule.path.display(),
            rights.join(" ")
        )
        .unwrap();
    }
    for (abi, cell) in cells {
        let landlock = &cell.template.landlock;
        writeln!(
            text,
            "abi {abi}  fs {:05x} net {} scoped {} unix {}",
            landlock.handled_fs,
            landlock.handled_net,
            landlock.scoped,
            cell.policy.decide(socket_number(cell), &[1, 1, 0, 0, 0, 0])
                == profiles::filter::Action::Allow,
        )
        .unwrap();
    }
    for limit in &template.rlimits {
        writeln!(text, "limit  {:?} {}", limit.resource, limit.soft).unwrap();
    }
    writeln!(text, "back   {:?}", template.handed_back).unwrap();
    text
}

/// The number of `socket` on the cell's architecture.
fn socket_number(cell: &Compiled) -> u32 {
    let socket = profiles::syscalls::by_name("socket").unwrap();
    socket.number(cell.arch).unwrap()
}

/// How many mounts come before the workspace: the same in every cell, and in a snapshot of their
/// own.
fn own_mounts(cell: &Compiled) -> usize {
    let is_tmp = |mount: &Mount| match mount {
        Mount::Directory { target, .. } | Mount::Tmpfs { target, .. } => {
            target == Path::new("/tmp")
        }
        _ => false,
    };
    cell.template.mounts.iter().position(is_tmp).unwrap()
}

fn mount_line(mount: &Mount) -> String {
    match mount {
        Mount::Bind {
            source,
            target,
            directory,
            writable,
            exec,
            identity,
            owner,
        } => {
            assert_eq!((source, identity, owner), (target, &None, &None));
            format!(
                "bind   {:40} {} {} {}",
                target.display(),
                if *directory { "dir" } else { "file" },
                if *writable { "rw" } else { "ro" },
                if *exec { "exec" } else { "noexec" },
            )
        }
        Mount::Tmpfs {
            target,
            bytes,
            inodes,
            mode,
            exec,
        } => format!(
            "tmpfs  {:40} {bytes} bytes {inodes} inodes {mode:o} {}",
            target.display(),
            if *exec { "exec" } else { "noexec" },
        ),
        Mount::Directory { target, mode } => format!("dir    {} {mode:o}", target.display()),
        Mount::Symlink { target, link } => {
            format!("link   {} -> {}", target.display(), link.display())
        }
        Mount::File {
            target,
            contents,
            mode,
        } => {
            let text = String::from_utf8_lossy(contents);
            format!("file   {} {mode:o}\n{text}", target.display())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn every_cell_begins_with_the_same_skeleton() {
    let python = compiled("python", Arch::X86_64, 7);
    let skeleton = |cell: &Compiled| cell.template.mounts[..own_mounts(cell)].to_vec();
    let fetch = compiled("http_fetch", Arch::X86_64, 7);
    for name in TOOLS.into_iter().chain(BASES) {
        let cell = compiled(name, Arch::X86_64, 1);
        // With hosts there is a resolver, too.
        let same = if cell.egress.is_none() {
            &python
        } else {
            &fetch
        };
        assert_eq!(skeleton(&cell), skeleton(same), "{name}");
    }
    let lines: Vec<_> = skeleton(&python).iter().map(mount_line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn clients_are_told_which_tools_change_nothing_and_which_destroy_nothing() {
    let library = Library::builtin();
    let mut told = BTreeMap::new();
    for name in TOOLS {
        let resolved = library.resolve(name, &debian::overrides()).unwrap();
        let kind = match (resolved.is_read_only(), resolved.is_destructive()) {
            (true, false) => "reads",
            (false, false) => "adds",
            (false, true) => "changes",
            (true, true) => panic!("{name} contradicts itself"),
        };
        told.entry(kind).or_insert_with(BTreeSet::new).insert(name);
    }
    let expected = [
        ("adds", ["chat", "translate"].as_slice()),
        (
            "changes",
            &["file_write", "git_clone", "npm_install", "pip_install"],
        ),
        (
            "reads",
            &[
                "calculate",
                "file_read",
                "get_alerts",
                "get_forecast",
                "git",
                "http_fetch",
                "node",
                "python",
                "search_docs",
                "shell",
                "sqlite_query",
            ],
        ),
    ];
    let expected = expected.map(|(kind, names)| (kind, names.iter().copied().collect()));
    assert_eq!(told, BTreeMap::from(expected));
}
