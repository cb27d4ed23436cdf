//! From a resolved profile and the facts of a host to the orders for its cells.
//!
//! A pure function: the same profile and the same facts give the same orders. What depends on the
//! profile alone is compiled here, once; [`Compiled::fill`] and [`Compiled::call`] add what one
//! call brings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runner::spec::{
    FILTER_INSTRUCTIONS_MAX, Filter, Ids, LANDLOCK_RULES_MAX, MOUNTS_MAX, Mount, Template,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::arguments::{ArgumentError, Arguments, InputSchema};
use crate::diagnostics::{Diagnostic, Diagnostics, Kind, Problems};
use crate::filter::{FilterFacts, Policy};
use crate::host::{Arch, Host, PathFact};
use crate::resolve::{
    ALLOW_OPTION, Place, Resolved, SHM, TMP, WORK, Workspace, check_host_path, check_workspace_path,
};

mod call;
mod covers;
mod exceptions;
mod inject;
mod landlock;
mod network;
mod plan;
mod planted;
mod rlimits;
mod skeleton;
mod sockets;
mod tree;

pub use call::{
    CallError, CallFacts, GrantFact, ProtectFact, ProtectState, ShownFact, SocketFact,
    WorkspaceFact,
};
pub use exceptions::{Exception, ExceptionKind};
pub use inject::{AuthorityFact, TRUSTED};
pub use landlock::{ABI_MAX, Rights};
pub use plan::{Existence, Grant, PathAccess, Plan, Want, WantKind};
pub use sockets::Socket;

use tree::Tree;

/// Host name inside every cell.
pub const HOSTNAME: &str = "cell";
/// User and group inside every cell.
pub const INSIDE: Ids = Ids {
    uid: 1000,
    gid: 1000,
};
/// Name of that user.
pub const USER: &str = "user";
/// Where programs are looked for, unless a profile says otherwise.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Home directory, unless a profile says otherwise.
pub const HOME: &str = TMP;
/// Size of the root, which holds nothing but mount points, links and a few small files.
const ROOT_BYTES: u64 = 1 << 20;
/// Oldest Landlock that a cell is built on.
const LANDLOCK_ABI_MIN: u32 = 1;

/// A profile compiled for one host: all that its calls have in common.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The profile.
    pub resolved: Resolved,
    /// The orders that every call's orders begin with.
    pub template: Template,
    /// SHA-256 of the resolved profile in canonical JSON, in hexadecimal.
    pub digest: String,
    /// SHA-256 of the seccomp program, in hexadecimal.
    pub filter_digest: String,
    /// The architecture that the seccomp program is for.
    pub arch: Arch,
    /// The rules of the seccomp program, to say what a notification is about.
    pub policy: Policy,
    /// The schema that arguments are checked against.
    pub input: InputSchema,
    /// What its cells may reach, if the template's network has a resolver and sockets that stand for
    /// hosts: they are in the order of [`crate::egress::Plan::sockets`].
    pub egress: Option<Arc<crate::egress::Plan>>,
    /// Unix sockets of the host that its cells may connect to, to be identified for each call.
    pub sockets: Vec<Socket>,
    /// The Landlock rights that the host's kernel knows.
    rights: Rights,
    /// The roots without links in their paths.
    roots: BTreeMap<String, PathBuf>,
    /// What is shown to the cell as its own, and must be looked at before each call.
    shown: Vec<Shown>,
    /// The rules that take something away again, to name in a denial.
    pub exceptions: Vec<Exception>,
    /// What is covered, and whether it is a directory.
    denied: Vec<(PathBuf, bool)>,
    /// Where programs can be executed.
    executable: Vec<PathBuf>,
}

/// A path of the host within a root that the profile lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The path, without links in it.
    pub path: PathBuf,
    /// Whether it is a directory.
    pub directory: bool,
    /// Index of its mount in the template.
    mount: u32,
}

/// Compiles a profile for a host.
pub fn compile(resolved: &Resolved, host: &Host) -> Result<Compiled, Diagnostics> {
    let mut problems = Problems::default();
    offered(resolved, host, &mut problems);
    let roots = roots(resolved, host, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_diagnostics());
    }
    let rights = Rights::of_abi(host.landlock_abi);
    let egress = network::egress(resolved, &mut problems);
    let mut tree = Tree::plant(resolved, host, &roots, &mut problems);
    planted::refuse(
        resolved,
        host,
        |directory| tree.writes(resolved, host, directory),
        &mut problems,
    );
    let denied = tree.denied(resolved, host, &roots, &mut problems);
    let sockets = sockets::find(resolved, host, &mut tree, &denied, &mut problems);
    program(resolved, host, &tree, &mut problems);
    workspace(resolved, host, &denied, &mut problems);
    let devices = skeleton::devices(resolved, host, &mut problems);
    let policy = policy(resolved, host, &mut problems);
    let (filter, policy) = match policy {
        Some(pair) if problems.is_empty() => pair,
        _ => return Err(problems.into_diagnostics()),
    };

    let mut mounts = skeleton::mounts(resolved, &devices, egress.is_some());
    mounts.extend(tree.binds());
    mounts.extend(tree.links(host));
    mounts.extend(tree.covers(&denied));
    let mut rules = skeleton::rules(resolved, &devices, rights, |own| tree.shows_beneath(own));
    rules.extend(tree.rules(rights));
    for (what, found, most) in [
        ("mounts", mounts.len(), MOUNTS_MAX),
        ("Landlock rules", rules.len(), LANDLOCK_RULES_MAX),
        (
            "filter instructions",
            filter.program.len(),
            FILTER_INSTRUCTIONS_MAX,
        ),
    ] {
        if found > most {
            let message = format!("the profile needs {found} {what}, more than {most}");
            problems.push(Diagnostic::at(&resolved.origin, message));
        }
    }
    let input = InputSchema::compile(&resolved.input)
        .map_err(|message| Diagnostics::from(Diagnostic::at(&resolved.origin, message)))?;
    let filter_digest = filter_digest(&filter);
    let shown = shown(&mounts, &tree);
    let template = Template {
        hostname: HOSTNAME.to_owned(),
        inside: INSIDE,
        root_bytes: ROOT_BYTES + inject::root_bytes(resolved),
        mounts,
        landlock: rights.ruleset(rules, network::talks_tcp(resolved)),
        filter,
        rlimits: rlimits::rlimits(&resolved.limits, resolved.pool.prestart, host.tier),
        network: network::namespace(egress.as_deref()),
        handed_back: handed_back(resolved),
        system_v_counted: !host.tier.has_cgroups(),
    };
    problems.or(Compiled {
        digest: profile_digest(resolved),
        filter_digest,
        arch: host.arch,
        executable: tree.executable(),
        shown,
        resolved: resolved.clone(),
        template,
        policy,
        input,
        egress,
        sockets,
        rights,
        exceptions: exceptions::exceptions(resolved, host, &roots, &denied),
        roots,
        denied,
    })
}

/// The binds among the mounts that show what lies within a root.
fn shown(mounts: &[Mount], tree: &Tree) -> Vec<Shown> {
    let numbered = (0..).zip(mounts);
    numbered
        .filter_map(|(mount, bind)| match bind {
            Mount::Bind {
                source, directory, ..
            } if tree.is_shown(source) => Some(Shown {
                path: source.clone(),
                directory: *directory,
                mount,
            }),
            _ => None,
        })
        .collect()
}

impl Compiled {
    /// What lies within roots, in the order of [`CallFacts::shown`].
    #[must_use]
    pub fn shown(&self) -> &[Shown] {
        &self.shown
    }

    /// Whether the profile lets a program at this path, without links in it, be executed.
    #[must_use]
    pub fn may_execute(&self, canonical: &Path) -> bool {
        self.executable
            .iter()
            .any(|tree| canonical.starts_with(tree))
    }

    /// Paths at which a command without a slash may be, in the order of `PATH`.
    #[must_use]
    pub fn candidates(command: &str) -> Vec<PathBuf> {
        PATH.split(':')
            .map(|directory| Path::new(directory).join(command))
            .collect()
    }

    /// Checks what a model sent against the tool's schema.
    pub fn check(&self, arguments: Value) -> Result<Arguments, ArgumentError> {
        Arguments::check(&self.input, arguments)
    }
}

/// Refuses what this version, or this host, does not offer: nothing is left out in silence.
fn offered(resolved: &Resolved, host: &Host, problems: &mut Problems) {
    for (name, why) in &resolved.missing_roots {
        let what = if why.is_empty() {
            String::new()
        } else {
            format!(" ({why})")
        };
        let message = format!("`{}` needs the root `{name}`{what}", resolved.name);
        problems.push(
            Diagnostic::at(&resolved.origin, message)
                .with_kind(Kind::RootNotGiven)
                .with_hint(format!("give it with `--root {name}=DIR`")),
        );
    }
    if let Some(why) = &resolved.missing_hosts {
        let name = &resolved.name;
        let message = format!("`{name}` needs hosts ({why})");
        problems.push(
            Diagnostic::at(&resolved.origin, message)
                .with_kind(Kind::HostsNotGiven)
                .with_hint(format!("give them with `{ALLOW_OPTION} {name}=HOST`")),
        );
    }
    inject::offered(resolved, host, problems);
    if host.landlock_abi < LANDLOCK_ABI_MIN {
        problems.push(
            Diagnostic::general(Kind::HostTooWeak, "the kernel has no Landlock").with_hint(
                "boot a kernel of 5.13 or later with `lsm=landlock,…`; see `toolcell doctor`",
            ),
        );
    }
    if let Some(least) = resolved.limits.require
        && !host.tier.at_least(least)
    {
        let (name, tier) = (&resolved.name, host.tier);
        let message = format!("`{name}` requires the tier `{least}`, and cells here have `{tier}`");
        problems.push(
            Diagnostic::at(&resolved.origin, message)
                .with_kind(Kind::HostTooWeak)
                .with_hint(format!(
                    "run it where `toolcell doctor` finds the tier `{least}`, and do not name a weaker \
                     one (`--tier`, `TOOLCELL_TIER`)"
                )),
        );
    }
    if !resolved.network.is_none() && !host.tier.has_network_namespace() {
        problems.push(
            Diagnostic::at(
                &resolved.origin,
                "hosts can be reached by name only from a network namespace, which this host's \
                 cells do not have",
            )
            .with_kind(Kind::HostTooWeak)
            .with_hint("leave `[network] allow` empty, or run it on a host of the full tier"),
        );
    }
}

fn roots(resolved: &Resolved, host: &Host, problems: &mut Problems) -> BTreeMap<String, PathBuf> {
    let mut roots = BTreeMap::new();
    let has_tmp = resolved
        .files
        .write
        .iter()
        .any(|rule| rule.place == Place::Tmp);
    for (name, path) in &resolved.roots {
        match host.canonical(path) {
            Some((canonical, PathFact::Directory)) => {
                if has_tmp && canonical.starts_with(TMP) {
                    let message = format!(
                        "root `{name}` is `{}`, where the cell has its own `{TMP}`",
                        canonical.display()
                    );
                    problems.push(
                        Diagnostic::at(&resolved.origin, message)
                            .with_hint("give a directory elsewhere"),
                    );
                }
                // A link must not lead where the path itself would be refused.
                problems.note(check_host_path(&canonical, &resolved.origin));
                roots.insert(name.clone(), canonical);
            }
            Some(_) => problems.push(
                Diagnostic::at(
                    &resolved.origin,
                    format!("root `{name}`: `{}` is not a directory", path.display()),
                )
                .with_kind(Kind::NoPath),
            ),
            None => problems.push(
                Diagnostic::at(
                    &resolved.origin,
                    format!("root `{name}`: `{}` does not exist", path.display()),
                )
                .with_kind(Kind::NoPath)
                .with_hint(format!("give another with `--root {name}=DIR`")),
            ),
        }
    }
    roots
}

/// Checks that the profile's program exists, can be executed, and may be.
fn program(resolved: &Resolved, host: &Host, tree: &Tree, problems: &mut Problems) {
    let Some(run) = &resolved.run else {
        return;
    };
    let shown = run.program.display();
    let at =
        |message: String| Diagnostic::at(&run.program_origin, message).with_kind(Kind::NoProgram);
    if run.program.starts_with(WORK) || run.program.starts_with(TMP) {
        let message = format!("the program `{shown}` would be the caller's own");
        problems.push(
            at(message)
                .with_kind(Kind::Invalid)
                .with_hint("name a program of the host"),
        );
        return;
    }
    match host.canonical(&run.program) {
        None => problems.push(
            at(format!("the program `{shown}` does not exist on this host"))
                .with_hint("install it, or name another path"),
        ),
        Some((_, PathFact::File { executable: false })) => problems.push(
            at(format!("the program `{shown}` is not executable")).with_hint(format!(
                "name the program that reads it, or `chmod +x {shown}` if it is one itself"
            )),
        ),
        Some((canonical, PathFact::File { executable: true })) => {
            if !tree.executes(&canonical) {
                problems.push(
                    at(format!("no rule lets `{shown}` be executed"))
                        .with_kind(Kind::Invalid)
                        .with_hint(format!("add `\"{shown}\"` to `files.exec`")),
                );
            }
        }
        Some(_) => problems.push(at(format!("the program `{shown}` is not a regular file"))),
    }
}

/// Checks the directory that a host workspace is, wherever links lead to it.
fn workspace(
    resolved: &Resolved,
    host: &Host,
    denied: &[(PathBuf, bool)],
    problems: &mut Problems,
) {
    let Workspace::Host { path } = &resolved.workspace else {
        return;
    };
    let at = |what: &str| {
        let message = format!("the workspace `{}` {what}", path.display());
        Diagnostic::at(&resolved.origin, message)
    };
    match host.canonical(path) {
        None => problems.push(at("does not exist").with_kind(Kind::NoPath)),
        Some((canonical, PathFact::Directory)) => {
            problems.note(check_workspace_path(&canonical, &resolved.origin));
            // It appears at `/work`, where a cover at its own path would cover nothing.
            let within = denied
                .iter()
                .find(|(denied, _)| denied.starts_with(&canonical));
            if let Some((denied, _)) = within {
                let what = format!("contains `{}`, which is denied", denied.display());
                problems.push(at(&what).with_hint("`protect` it, or give another directory"));
            }
        }
        Some(_) => problems.push(at("is not a directory").with_kind(Kind::NoPath)),
    }
}

fn policy(resolved: &Resolved, host: &Host, problems: &mut Problems) -> Option<(Filter, Policy)> {
    let facts = FilterFacts {
        arch: host.arch,
        notify: host.notify,
        unix_sockets: resolved.network.unix
            || !resolved.sockets.is_empty()
            || host.landlock_abi >= landlock::ABI_RESOLVE_UNIX
            || !shows_sockets(resolved),
        tcp_sockets: network::talks_tcp(resolved) || host.landlock_abi >= landlock::ABI_TCP,
        memfd_exec: resolved
            .files
            .exec
            .iter()
            .any(|rule| resolved.is_writable(&rule.place)),
        explain_paths: resolved.explain.paths.into(),
        // With hosts to reach, the resolver and the watcher of the cell's packets say it all.
        explain_network: (host.notify && resolved.network.is_none()).into(),
    };
    let assembled = Policy::new(&resolved.syscalls, &facts)
        .and_then(|policy| policy.assemble().map(|filter| (filter, policy)));
    assembled
        .map_err(|error| problems.push(Diagnostic::at(&resolved.origin, error.to_string())))
        .ok()
}

/// Trees of the system, in which nobody keeps a listening socket.
const SOCKETLESS: [&str; 10] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix",
];

/// Whether the profile shows directories of the host in which somebody may listen on a socket.
///
/// Neither a read-only mount nor a Landlock before ABI 9 stops a connection to a socket that can be
/// named, so with such directories the cell does without Unix sockets.
fn shows_sockets(resolved: &Resolved) -> bool {
    let files = &resolved.files;
    let mut places = files.read.iter().chain(&files.exec).chain(&files.write);
    let anywhere = places.any(|rule| match &rule.place {
        Place::Host(path) => !SOCKETLESS.iter().any(|tree| path.starts_with(tree)),
        Place::Root(_) | Place::Argument(_) => true,
        Place::Work | Place::Tmp | Place::Shm => false,
    });
    anywhere || matches!(resolved.workspace, Workspace::Host { .. })
}

/// Directories that the supervisor measures and collects from, the workspace first.
fn handed_back(resolved: &Resolved) -> Vec<PathBuf> {
    let written = |place| resolved.files.write.iter().any(|rule| rule.place == place);
    let own = [
        (WORK, resolved.workspace != Workspace::None),
        (TMP, written(Place::Tmp)),
        (SHM, written(Place::Shm)),
    ];
    own.into_iter()
        .filter(|(_, there)| *there)
        .map(|(path, _)| PathBuf::from(path))
        .collect()
}

fn profile_digest(resolved: &Resolved) -> String {
    let value = serde_json::to_value(resolved)
        .expect("a resolved profile has string keys and finite numbers only");
    hex(Sha256::digest(canonical_json(&value).as_bytes()).as_ref())
}

fn filter_digest(filter: &Filter) -> String {
    let mut hash = Sha256::new();
    for instruction in &filter.program {
        hash.update(instruction.code.to_le_bytes());
        hash.update([instruction.jt, instruction.jf]);
        hash.update(instruction.k.to_le_bytes());
    }
    hex(hash.finalize().as_ref())
}

/// JSON with sorted keys and no white space, so that equal values have equal digests.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let entries: Vec<_> = sorted
                .into_iter()
                .map(|(key, value)| {
                    format!("{}:{}", Value::from(key.as_str()), canonical_json(value))
                })
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical_json).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
