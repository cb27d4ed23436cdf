//! Path rules: what may be listed, and what the listed things are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::diagnostics::{Diagnostic, Origin, Problems};
use crate::paths;
use crate::placeholders::Piece;
use crate::read::Written;
use crate::schema;
use crate::units;

use super::chain::{Chain, RuleKey, WrittenRule};
use super::check::{Roots, unknown_root};
use super::limits::DISK_MIN;
use super::{
    Files, Limits, Overrides, PathArgument, PathRule, Place, SHM, TMP, WORK, Workspace,
    WorkspaceKind,
};

/// Most path rules of one profile with its bases.
const PATH_RULES_MAX: usize = 128;
/// Most protected paths.
const PROTECT_MAX: usize = 32;

/// Reads the path rules of a chain.
pub(super) fn resolve(
    chain: &Chain<'_>,
    roots: &Roots,
    arguments: &BTreeMap<String, PathArgument>,
    workspace: Option<&Workspace>,
    problems: &mut Problems,
) -> Files {
    // One that is wrong in `[paths]` has been noted there.
    let is_path = |name: &str| {
        let declares = |written: &Written| written.profile.paths.contains_key(name);
        arguments.contains_key(name) || chain.links().any(declares)
    };
    let mut list = |key| {
        let mut rules = Vec::new();
        for rule in chain.rules(key) {
            let place = place(key, rule, roots, &is_path);
            if let Some(place) = problems.note(place) {
                rules.push(PathRule {
                    place,
                    if_present: rule.if_present,
                    why: rule.why.clone(),
                    variable: None,
                    origin: rule.origin.clone(),
                });
            }
        }
        rules
    };
    let mut files = Files {
        read: list(RuleKey::Read),
        exec: list(RuleKey::Exec),
        write: list(RuleKey::Write),
        deny: list(RuleKey::Deny),
        protect: BTreeSet::new(),
    };
    files.protect = protected(chain, problems);
    let rules = files.read.len() + files.exec.len() + files.write.len() + files.deny.len();
    if rules > PATH_RULES_MAX {
        let own = chain.own();
        problems.push(
            Diagnostic::at(
                &own.origin(own.profile.name.span()),
                format!("{rules} path rules"),
            )
            .with_expected(format!("expected at most {PATH_RULES_MAX}")),
        );
    }
    if let Some(workspace) = workspace {
        check_workspace_use(chain, &files, workspace, problems);
    }
    files
}

fn place(
    key: RuleKey,
    rule: &WrittenRule,
    roots: &Roots,
    is_path: &dyn Fn(&str) -> bool,
) -> Result<Place, Diagnostic> {
    let origin = &rule.origin;
    let piece = Piece::parse(&rule.text)
        .map_err(|error| Diagnostic::at(origin, error.to_string()).with_hint(error.hint()))?;
    let path = match piece {
        Piece::Literal(path) => path,
        Piece::Root(name) if roots.has(&name) => return Ok(Place::Root(name)),
        Piece::Root(name) => return Err(unknown_root(origin, &name, roots)),
        Piece::Argument(name) if !is_path(&name) => {
            let message = format!("`{name}` is not a path argument");
            return Err(Diagnostic::at(origin, message).with_hint(format!(
                "add `[paths.{name}]` with `beneath = \"{{roots.…}}\"`"
            )));
        }
        Piece::Argument(name) if matches!(key, RuleKey::Deny) => {
            let message = format!("a call's own argument `{name}` cannot deny anything");
            return Err(Diagnostic::at(origin, message)
                .with_hint("list the path itself, or leave it out of what is allowed"));
        }
        Piece::Argument(name) => return Ok(Place::Argument(name)),
    };
    let path = paths::absolute(&path).map_err(|error| Diagnostic::at(origin, error.to_string()))?;
    let own = match path.to_str() {
        Some(WORK) => Some(Place::Work),
        Some(TMP) => Some(Place::Tmp),
        Some(SHM) => Some(Place::Shm),
        _ => None,
    };
    match own {
        Some(Place::Tmp | Place::Shm) if matches!(key, RuleKey::Read) => {
            let message = format!("`{}` is the cell's own and empty", path.display());
            Err(Diagnostic::at(origin, message).with_hint("list it in `files.write`"))
        }
        Some(_) if matches!(key, RuleKey::Deny) => {
            let message = format!("`{}` is the cell's own", path.display());
            Err(Diagnostic::at(origin, message).with_hint("leave it out of what is allowed"))
        }
        Some(place) => Ok(place),
        None => check_host_path(&path, origin).map(|()| Place::Host(path)),
    }
}

/// Refuses paths of the host that no cell shows: what is the cell's own, and what is too much.
pub(crate) fn check_host_path(path: &Path, origin: &Origin) -> Result<(), Diagnostic> {
    let shown = path.display();
    let refuse = |why: String, hint: &str| {
        let diagnostic = Diagnostic::at(origin, why);
        Err(diagnostic.with_hint(hint))
    };
    if path == Path::new("/") {
        return refuse(
            "`/` would show the whole host".to_owned(),
            "list the directories that the tool needs, such as `/usr`",
        );
    }
    if path == Path::new("/etc") {
        return refuse(
            "`/etc` cannot be listed as a whole: the cell has its own `/etc/passwd`".to_owned(),
            "list what the tool needs, such as `/etc/ssl`",
        );
    }
    if GENERATED.iter().any(|own| path == Path::new(own)) {
        return refuse(
            format!("`{shown}` is generated for every cell"),
            "leave it out: it is there already",
        );
    }
    for own in ["/proc", "/dev"] {
        if path.starts_with(own) {
            return refuse(
                format!("`{shown}`: the cell has its own `{own}`"),
                "leave it out: what is harmless in it is there already",
            );
        }
    }
    if path.starts_with(WORK) {
        return refuse(
            format!("`{shown}` is within the cell's own `{WORK}`"),
            "list `/work` itself, or `protect` a path within it",
        );
    }
    if path == Path::new("/run") || path == Path::new("/var/run") || path == Path::new("/sys") {
        return refuse(
            format!("`{shown}` as a whole holds the sockets and switches of the host"),
            "list what the tool needs beneath it",
        );
    }
    Ok(())
}

/// Files that every cell gets for itself.
pub(crate) const GENERATED: [&str; 5] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
];

fn protected(chain: &Chain<'_>, problems: &mut Problems) -> BTreeSet<PathBuf> {
    let mut protect = BTreeSet::new();
    for rule in chain.rules(RuleKey::Protect) {
        let path = paths::relative(&rule.text)
            .map_err(|error| Diagnostic::at(&rule.origin, error.to_string()))
            .and_then(|path| {
                if path.as_os_str().is_empty() {
                    let message = "the whole workspace cannot be protected";
                    Err(Diagnostic::at(&rule.origin, message)
                        .with_hint("list `/work` in `files.read`, not in `files.write`"))
                } else {
                    Ok(path)
                }
            });
        protect.extend(problems.note(path));
        if protect.len() == PROTECT_MAX + 1 {
            problems.push(
                Diagnostic::at(&rule.origin, "too many protected paths")
                    .with_expected(format!("expected at most {PROTECT_MAX}")),
            );
        }
    }
    protect
}

/// What is at `/work`; `None` if that was wrong and is noted.
pub(super) fn workspace(
    chain: &Chain<'_>,
    overrides: &Overrides,
    roots: &Roots,
    limits: &Limits,
    problems: &mut Problems,
) -> Option<Workspace> {
    let own = chain.own();
    let written = chain.last(|p| p.files.as_ref()?.workspace.as_ref());
    let origin = written.as_ref().map_or_else(
        || own.origin(own.profile.name.span()),
        |(_, origin)| origin.clone(),
    );
    if let Some(kind) = &overrides.workspace {
        let chosen = match kind {
            WorkspaceKind::Ephemeral => Ok(Workspace::Ephemeral { bytes: limits.disk }),
            WorkspaceKind::Named(name) => named(name, &origin),
            WorkspaceKind::Host(path) => path
                .to_str()
                .ok_or_else(|| Diagnostic::at(&origin, "the workspace's path is not UTF-8"))
                .and_then(|path| host(path, &origin)),
        };
        // The operator's choice is not written in any file.
        return problems.note(chosen.map_err(Diagnostic::without_origin));
    }
    let chosen = match written {
        None | Some((schema::Workspace::None {}, _)) => Ok(Workspace::None),
        Some((schema::Workspace::Ephemeral { size }, _)) => {
            let bytes = size.map_or(limits.disk, |size| size.0);
            if (DISK_MIN..=units::SIZE_BYTES_MAX).contains(&bytes) {
                Ok(Workspace::Ephemeral { bytes })
            } else {
                let found = units::Size(bytes);
                Err(
                    Diagnostic::at(&origin, format!("the workspace has `{found}`"))
                        .with_expected(format!("expected at least {}", units::Size(DISK_MIN))),
                )
            }
        }
        Some((schema::Workspace::Named { name }, _)) => {
            named(name.as_ref().unwrap_or(&own.profile.name), &origin)
        }
        Some((schema::Workspace::Host { path }, _)) => match Piece::parse(path) {
            Ok(Piece::Literal(path)) => host(&path, &origin),
            Ok(Piece::Root(name)) => match roots.given.get(&name) {
                Some(path) => Ok(Workspace::Host { path: path.clone() }),
                // Nothing can be compiled until the root is given, so what is here is never used.
                None if roots.missing.contains_key(&name) => Ok(Workspace::None),
                None => Err(unknown_root(&origin, &name, roots)),
            },
            Ok(Piece::Argument(name)) => Err(Diagnostic::at(
                &origin,
                format!("the workspace cannot come from the argument `{name}`"),
            )
            .with_hint("list the argument in `files.write` instead")),
            Err(error) => Err(Diagnostic::at(&origin, error.to_string()).with_hint(error.hint())),
        },
    };
    problems.note(chosen)
}

fn named(name: &str, origin: &Origin) -> Result<Workspace, Diagnostic> {
    if crate::library::is_profile_name(name) {
        return Ok(Workspace::Named {
            name: name.to_owned(),
        });
    }
    let name = crate::diagnostics::shortened(name);
    Err(
        Diagnostic::at(origin, format!("`{name}` cannot name a workspace"))
            .with_expected(crate::library::NAME_EXPECTED),
    )
}

fn host(path: &str, origin: &Origin) -> Result<Workspace, Diagnostic> {
    let path = paths::absolute(path)
        .map_err(|error| Diagnostic::at(origin, format!("the workspace: {error}")))?;
    check_workspace_path(&path, origin)?;
    Ok(Workspace::Host { path })
}

/// Trees of the system. They hold more than work, and what of them is meant for everybody is open
/// to everybody: so no cell sees them as its own, whoever names them.
const THE_SYSTEMS: [&str; 12] = [
    "/proc", "/sys", "/dev", "/etc", "/usr", "/boot", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
    "/libx32",
];

/// Whether a path lies in a tree of the system's, where the kernel's permissions hold for a cell as
/// for every other user, also where it is named by a root or an argument.
#[must_use]
pub fn is_the_systems(path: &Path) -> bool {
    THE_SYSTEMS.iter().any(|tree| path.starts_with(tree))
}

/// Refuses directories of the host that hold more than work.
pub(crate) fn check_workspace_path(path: &Path, origin: &Origin) -> Result<(), Diagnostic> {
    // As a whole, that is: beneath it people do keep work.
    let whole = ["/", "/run", "/var/run"].map(Path::new);
    if !whole.contains(&path) && !is_the_systems(path) {
        return Ok(());
    }
    let message = format!("`{}` cannot be a workspace", path.display());
    Err(Diagnostic::at(origin, message).with_hint("give a directory that holds nothing but work"))
}

/// A workspace that no rule uses, or a rule for a workspace that is not there, is a mistake.
fn check_workspace_use(
    chain: &Chain<'_>,
    files: &Files,
    workspace: &Workspace,
    problems: &mut Problems,
) {
    // The workspace of a missing root is not known yet.
    let written = chain.last(|p| p.files.as_ref()?.workspace.as_ref());
    let undecided = matches!(written, Some((schema::Workspace::Host { .. }, _)));
    let rules = || files.read.iter().chain(&files.exec).chain(&files.write);
    let uses = rules().find(|rule| rule.place == Place::Work);
    match (uses, workspace) {
        (Some(rule), Workspace::None) if !undecided => problems.push(
            Diagnostic::at(&rule.origin, "`/work` is listed, but there is no workspace").with_hint(
                "add `workspace = { kind = \"ephemeral\", size = \"64 MiB\" }` to `[files]`",
            ),
        ),
        (None, Workspace::Ephemeral { .. } | Workspace::Named { .. } | Workspace::Host { .. }) => {
            let origin = written.map_or_else(
                || chain.own().origin(chain.own().profile.name.span()),
                |(_, origin)| origin,
            );
            problems.push(
                Diagnostic::at(
                    &origin,
                    "there is a workspace, but no rule lets the tool use it",
                )
                .with_hint("add `/work` to `files.write`, or to `files.read`"),
            );
        }
        _ => {}
    }
}
