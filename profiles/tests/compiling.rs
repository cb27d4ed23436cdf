//! What profiles and calls are compiled to: each test is one property of the cell.

#![allow(clippy::unwrap_used)] // a panic is how a test fails
#![allow(clippy::similar_names)] // `cell` and `call` are the words for it

#[path = "compiling/calls.rs"]
mod calls;
mod debian;
#[path = "compiling/given.rs"]
mod given;
#[path = "compiling/inject.rs"]
mod inject;
#[path = "compiling/musl.rs"]
mod musl;
#[path = "compiling/network.rs"]
mod network;
#[path = "compiling/shown.rs"]
mod shown;
#[path = "compiling/sockets.rs"]
mod sockets;
#[path = "compiling/trust.rs"]
mod trust;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use profiles::compile::{Rights, canonical_json};
use profiles::diagnostics::Kind;
use profiles::{
    Arch, CallError, CallFacts, Compiled, Existence, GrantFact, Host, Overrides, PathAccess,
    PathFact, Plan, ProtectFact, ProtectState, Tier, WantKind, WorkspaceFact, WorkspaceKind,
    compile,
};
use runner::spec::{Call, Identity, Ids, Mount, Resource};
use serde_json::json;

const HEAD: &str = "format = 1\nname = \"tool\"\ndescription = \"A tool.\"\n";
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_BLOCK: u64 = 1 << 11;
const USER: Ids = Ids {
    uid: 1001,
    gid: 1001,
};
const THERE: Identity = Identity { dev: 1, ino: 2 };

fn compiled(text: &str) -> Compiled {
    debian::compiled(&format!("{HEAD}{text}")).unwrap_or_else(|error| panic!("{error}"))
}

fn with(text: &str, overrides: &Overrides) -> Compiled {
    let (library, name) = debian::library_with(&format!("{HEAD}{text}"));
    let resolved = library
        .resolve(&name, overrides)
        .unwrap_or_else(|error| panic!("{error}"));
    debian::compile_here(&resolved).unwrap_or_else(|error| panic!("{error}"))
}

/// The bind mount at a path: (writable, exec).
fn bind(mounts: &[Mount], path: &str) -> Option<(bool, bool)> {
    mounts.iter().find_map(|mount| match mount {
        Mount::Bind {
            target,
            writable,
            exec,
            ..
        } if target == Path::new(path) => Some((*writable, *exec)),
        _ => None,
    })
}

fn link(mounts: &[Mount], path: &str) -> Option<PathBuf> {
    mounts.iter().find_map(|mount| match mount {
        Mount::Symlink { target, link } if target == Path::new(path) => Some(link.clone()),
        _ => None,
    })
}

fn rights(compiled: &Compiled, path: &str) -> u64 {
    let rules = compiled.template.landlock.rules.iter();
    rules
        .filter(|rule| rule.path == Path::new(path))
        .fold(0, |all, rule| all | rule.access)
}

fn facts() -> CallFacts {
    CallFacts {
        host: USER,
        workspace: None,
        shown: Vec::new(),
        grants: Vec::new(),
        protect: Vec::new(),
        sockets: Vec::new(),
        authority: None,
    }
}

fn granted(source: &str, directory: bool) -> GrantFact {
    GrantFact {
        source: source.into(),
        identity: THERE,
        directory,
        owner: None,
    }
}

fn fill(compiled: &Compiled, arguments: serde_json::Value) -> Plan {
    let arguments = compiled
        .check(arguments)
        .unwrap_or_else(|error| panic!("{error}"));
    compiled
        .fill(&arguments, &BTreeMap::new())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn words(plan: &Plan) -> Vec<&str> {
    plan.argv
        .iter()
        .map(|word| word.to_str().unwrap())
        .collect()
}

#[test]
fn profile_that_lists_nothing_shows_nothing_of_the_host() {
    let empty = compiled("");
    let of_host = empty.template.mounts.iter().find(|mount| {
        matches!(
            mount,
            Mount::Bind { .. } | Mount::Guarded { .. } | Mount::Tmpfs { .. }
        )
    });
    assert_eq!(of_host, None);
    assert_eq!(empty.template.landlock.handled_net, 3);
    assert!(empty.template.handed_back.is_empty());
    for rule in &empty.template.landlock.rules {
        assert_eq!(rule.access & EXECUTE, 0, "{}", rule.path.display());
    }
    // The control: one rule, one mount.
    assert_eq!(
        bind(
            &compiled("files.read = [\"/opt/data\"]").template.mounts,
            "/opt/data"
        ),
        Some((false, true))
    );
}

#[test]
fn root_directory_can_only_be_listed() {
    let all = compiled("extends = [\"privileged\"]");
    assert_eq!(rights(&all, "/"), READ_DIR);
    for rule in &all.template.landlock.rules {
        assert_eq!(
            rule.access & (MAKE_CHAR | MAKE_BLOCK),
            0,
            "{}",
            rule.path.display()
        );
    }
}

#[test]
fn no_rule_covers_the_file_that_proves_the_domain() {
    for name in profiles::Library::builtin().names() {
        let resolved = profiles::Library::builtin()
            .resolve(name, &debian::overrides())
            .unwrap();
        let cell = debian::compile_here(&resolved).unwrap();
        assert_eq!(rights(&cell, "/.unreadable"), 0);
        assert_eq!(rights(&cell, "/") & READ_FILE, 0);
    }
}

#[test]
fn what_is_written_cannot_be_executed() {
    let cell = compiled("files.write = [\"/srv/work\"]\nfiles.read = [\"/srv/work\"]");
    assert_eq!(
        bind(&cell.template.mounts, "/srv/work"),
        Some((true, false))
    );
    assert_eq!(rights(&cell, "/srv/work") & EXECUTE, 0);
    let control = compiled("files.write = [\"/srv/work\"]\nfiles.exec = [\"/srv/work\"]");
    assert_eq!(
        bind(&control.template.mounts, "/srv/work"),
        Some((true, true))
    );
    assert_eq!(rights(&control, "/srv/work") & EXECUTE, EXECUTE);
    assert!(
        control.resolved.weakenings[0].contains("can be executed"),
        "{:?}",
        control.resolved.weakenings
    );
}

#[test]
fn sockets_and_fifos_are_made_in_the_cells_own_directories_only() {
    let cell = compiled("extends = [\"standard\"]\nfiles.write = [\"/srv/work\"]");
    for (path, own) in [
        ("/work", true),
        ("/tmp", true),
        ("/dev/shm", true),
        ("/srv/work", false),
    ] {
        assert_ne!(rights(&cell, path) & WRITE_FILE, 0, "{path}");
        assert_eq!(
            rights(&cell, path) & (MAKE_SOCK | MAKE_FIFO) != 0,
            own,
            "{path}"
        );
    }
}

#[test]
fn data_by_way_of_a_root_cannot_be_mapped_executable() {
    let cell = compiled("roots.docs = \"/srv/docs\"\nfiles.read = [\"{roots.docs}\"]");
    assert_eq!(
        bind(&cell.template.mounts, "/srv/docs"),
        Some((false, false))
    );
    let control = compiled("files.read = [\"/srv/docs\"]");
    assert_eq!(
        bind(&control.template.mounts, "/srv/docs"),
        Some((false, true))
    );
}

#[test]
fn path_within_a_listed_one_is_mounted_only_if_it_differs() {
    let cell = compiled("files.read = [\"/usr\", \"/usr/share\"]\nfiles.exec = [\"/usr/bin\"]");
    assert!(bind(&cell.template.mounts, "/usr").is_some());
    assert_eq!(bind(&cell.template.mounts, "/usr/share"), None);
    assert_eq!(bind(&cell.template.mounts, "/usr/bin"), None);
    assert_eq!(rights(&cell, "/usr/bin") & EXECUTE, EXECUTE);
    assert_eq!(rights(&cell, "/usr") & EXECUTE, 0);
    let control = compiled("files.read = [\"/usr\"]\nfiles.write = [\"/usr/share\"]");
    assert_eq!(
        bind(&control.template.mounts, "/usr/share"),
        Some((true, false))
    );
}

#[test]
fn link_is_followed_and_reproduced() {
    let cell = compiled("files.read = [\"/srv/current\"]");
    assert_eq!(
        link(&cell.template.mounts, "/srv/current"),
        Some("docs".into())
    );
    assert!(bind(&cell.template.mounts, "/srv/docs").is_some());
    assert_eq!(bind(&cell.template.mounts, "/srv/current"), None);
}

#[test]
fn link_by_way_of_others_leads_straight_there() {
    let cell = compiled("files.exec = [\"/usr/bin/vi\"]");
    assert_eq!(
        link(&cell.template.mounts, "/usr/bin/vi"),
        Some("/usr/bin/vim.tiny".into())
    );
}

#[test]
fn links_that_a_mount_shows_are_not_made_again() {
    let cell = compiled("files.exec = [\"/usr\"]");
    assert_eq!(link(&cell.template.mounts, "/usr/bin/sh"), None);
    assert_eq!(link(&cell.template.mounts, "/bin"), Some("usr/bin".into()));
}

#[test]
fn loader_is_executable_only_where_something_is() {
    let loader = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    let cell = compiled("files.read = [\"/usr/lib\"]");
    assert_eq!(rights(&cell, loader), 0);
    let cell = compiled("files.read = [\"/usr/lib\"]\nfiles.exec = [\"/usr/bin/cat\"]");
    assert_eq!(rights(&cell, loader), EXECUTE | READ_FILE);
}

#[test]
fn denied_path_is_covered_after_what_shows_it() {
    let cell = compiled("files.read = [\"/usr\"]\nfiles.deny = [\"/usr/share/dict\"]");
    let mounts = &cell.template.mounts;
    let mask = Mount::Mask {
        target: "/usr/share/dict".into(),
        directory: true,
    };
    let place = |wanted: &dyn Fn(&Mount) -> bool| mounts.iter().position(wanted);
    let shown = place(&|mount| matches!(mount, Mount::Bind { .. })).unwrap();
    assert!(place(&|mount| *mount == mask).unwrap() > shown);
}

#[test]
fn directories_above_a_denied_path_cannot_be_renamed_where_they_are_writable() {
    let pins = |files: &str| {
        let cell = compiled(files);
        let mounts = cell.template.mounts.into_iter();
        mounts
            .filter_map(|mount| match mount {
                Mount::Pin { target } => Some(target),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let denied = "files.deny = [\"/usr/share/dict\"]";
    assert!(pins(&format!("files.read = [\"/usr\"]\n{denied}")).is_empty());
    assert_eq!(
        pins(&format!("files.write = [\"/usr\"]\n{denied}")),
        [Path::new("/usr/share")]
    );
}

#[test]
fn what_is_denied_within_something_denied_is_covered_once() {
    let files = "files.read = [\"/usr\"]\n\
                 files.deny = [\"/usr/share\", \"/usr/share/dict\"]";
    let mounts = compiled(files).template.mounts;
    let masks = mounts
        .iter()
        .filter(|mount| matches!(mount, Mount::Mask { .. }));
    assert_eq!(masks.count(), 1);
}

#[test]
fn link_that_the_tool_can_replace_is_not_followed() {
    let error = |files: &str| {
        let compiled = debian::compiled(&format!("{HEAD}{files}"));
        compiled.err().map(|error| error.to_string())
    };
    let said = error("files.write = [\"/srv\"]\nfiles.read = [\"/srv/current\"]").unwrap();
    assert!(
        said.contains("a link that the tool itself can replace"),
        "{said}"
    );
    let workspace = "files.workspace = { kind = \"host\", path = \"/srv\" }";
    let said = error(&format!(
        "files.write = [\"/work\"]\nfiles.deny = []\n{workspace}\nroots.a = \"/srv/current\""
    ));
    assert!(said.unwrap().contains("can replace"));
    assert_eq!(error("files.read = [\"/srv\", \"/srv/current\"]"), None);
    assert_eq!(error("files.write = [\"/srv/current\"]"), None);
}

#[test]
fn sockets_and_fifos_are_not_made_where_something_of_the_host_is_beneath() {
    let cell = compiled("files.write = [\"/tmp\", \"/tmp/docs\"]");
    assert_eq!(rights(&cell, "/tmp") & (MAKE_SOCK | MAKE_FIFO), 0);
    let cell = compiled("files.write = [\"/tmp\"]");
    assert_eq!(
        rights(&cell, "/tmp") & (MAKE_SOCK | MAKE_FIFO),
        MAKE_SOCK | MAKE_FIFO
    );
}

#[test]
fn absent_paths_may_be_absent_only_if_the_profile_says_so() {
    let cell = compiled("files.read = [{ path = \"/opt/nothing\", if_present = true }]");
    assert_eq!(bind(&cell.template.mounts, "/opt/nothing"), None);
    assert!(debian::compiled(&format!("{HEAD}files.read = [\"/opt/nothing\"]")).is_err());
}

#[test]
fn link_cannot_lead_where_the_path_itself_is_refused() {
    let resolved = debian::resolve(&format!("{HEAD}files.read = [\"/srv/link\"]")).unwrap();
    let look = |path: &Path| match path.to_str().unwrap() {
        "/srv/link" => PathFact::Symlink {
            link: "/proc/1".into(),
            canonical: "/proc/1".into(),
        },
        "/proc/1" => PathFact::Directory,
        _ => debian::look(Arch::X86_64, path),
    };
    let paths = Host::gather(&resolved.paths(), look);
    let host = Host {
        paths,
        ..debian::host(&resolved, Arch::X86_64, 7)
    };
    let error = compile(&resolved, &host).unwrap_err().to_string();
    assert!(error.contains("the cell has its own `/proc`"), "{error}");
}

#[test]
fn root_that_is_a_link_is_judged_by_where_it_leads() {
    let text = "roots.docs = \"/srv/link\"\nfiles.read = [\"/usr\"]";
    let resolved = |text: &str| {
        let (library, name) = debian::library_with(&format!("{HEAD}{text}"));
        library.resolve(&name, &Overrides::default()).unwrap()
    };
    let resolved = resolved(text);
    let compile_with = |leads_to: &'static str| {
        let look = |path: &Path| match path.to_str().unwrap() {
            "/srv/link" => PathFact::Symlink {
                link: leads_to.into(),
                canonical: leads_to.into(),
            },
            "/" => PathFact::Directory,
            _ => debian::look(Arch::X86_64, path),
        };
        let paths = Host::gather(&resolved.paths(), look);
        compile(
            &resolved,
            &Host {
                paths,
                ..debian::host(&resolved, Arch::X86_64, 7)
            },
        )
    };
    compile_with("/srv/docs").unwrap();
    let error = compile_with("/").unwrap_err().to_string();
    assert!(error.contains("`/` would show the whole host"), "{error}");
}

#[test]
fn workspace_cannot_show_what_is_denied() {
    let text = |deny: &str| {
        format!(
            "{HEAD}files.read = [\"/srv/docs\"]\nfiles.write = [\"/work\"]\n\
             files.workspace = {{ kind = \"host\", path = \"/srv/docs\" }}\n{deny}"
        )
    };
    debian::compiled(&text("")).unwrap();
    let error = debian::compiled(&text("files.deny = [\"/srv/docs/private\"]")).unwrap_err();
    assert!(error.to_string().contains("which is denied"), "{error}");
}

#[test]
fn rights_grow_with_the_abi_and_stop_at_the_newest_known() {
    let handled: Vec<_> = (1..=9).map(|abi| Rights::of_abi(abi).handled()).collect();
    assert_eq!(
        handled,
        [
            0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff, 0xffff, 0xffff, 0xffff, 0x1_ffff
        ]
    );
    assert_eq!(Rights::of_abi(11), Rights::of_abi(9));
}

#[test]
fn every_rule_keeps_to_what_the_ruleset_handles() {
    let resolved = debian::resolve(&format!("{HEAD}extends = [\"privileged\"]")).unwrap();
    for abi in 1..=9 {
        let host = debian::host(&resolved, Arch::X86_64, abi);
        let landlock = compile(&resolved, &host).unwrap().template.landlock;
        assert_eq!(landlock.abi, abi);
        for rule in landlock.rules {
            assert_eq!(rule.access & !landlock.handled_fs, 0, "{abi}");
            assert_ne!(rule.access, 0, "{abi}: the kernel refuses an empty rule");
        }
    }
}

#[test]
fn without_cgroups_each_process_is_limited() {
    let resolved = debian::resolve(&format!(
        "{HEAD}limits.memory = \"64 MiB\"\nlimits.pids = 10"
    ))
    .unwrap();
    let limits = |tier| {
        let host = Host {
            tier,
            ..debian::host(&resolved, Arch::X86_64, 7)
        };
        let rlimits = compile(&resolved, &host).unwrap().template.rlimits;
        rlimits
            .into_iter()
            .map(|limit| (limit.resource, limit.hard))
            .collect::<Vec<_>>()
    };
    let weaker = limits(Tier::Rlimits);
    assert!(weaker.contains(&(Resource::Data, 64 << 20)));
    assert!(weaker.contains(&(Resource::Processes, 11)));
    assert!(
        !limits(Tier::Full)
            .iter()
            .any(|(resource, _)| *resource == Resource::Processes)
    );
}

#[test]
fn loopback_leaves_tcp_to_the_namespace() {
    assert_eq!(compiled("").template.landlock.handled_net, 3);
    assert_eq!(
        compiled("network.loopback = true")
            .template
            .landlock
            .handled_net,
        0
    );
}

#[test]
fn what_requires_a_tier_is_refused_in_a_weaker_one() {
    let text = |least: &str| format!("{HEAD}limits.require = \"{least}\"");
    for (least, tier, fits) in [
        ("full", Tier::Full, true),
        ("full", Tier::Rlimits, false),
        ("rlimits", Tier::Full, true),
        ("rlimits", Tier::Rlimits, true),
    ] {
        let resolved = debian::resolve(&text(least)).unwrap();
        let host = Host {
            tier,
            ..debian::host(&resolved, Arch::X86_64, 7)
        };
        let result = compile(&resolved, &host);
        assert_eq!(result.is_ok(), fits, "{least} {tier}");
        if let Err(error) = result {
            assert!(error.all(Kind::HostTooWeak), "{error}");
            let said = error.to_string();
            assert!(said.contains("requires the tier `full`"), "{said}");
        }
    }
    let unknown = debian::resolve(&text("none")).unwrap_err().to_string();
    assert!(unknown.contains("`full`"), "{unknown}");
}
