//! What of the host exists in the cell: from path rules to mounts, links and Landlock rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use runner::spec::{LandlockRule, Mount};

use crate::diagnostics::{Diagnostic, Kind, Problems};
use crate::host::{Host, PathFact};
use crate::resolve::{
    ALIASES, LOADERS, PathRule, Place, Resolved, Workspace, is_the_systems, trust_hint,
};

use super::covers::covers;
use super::landlock::{Rights, Use};
use super::skeleton;

/// The tree of the system's programs and libraries.
const USR: &str = "/usr";

/// What the rules allow of one path of the host, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Allowed {
    execute: bool,
    write: bool,
    /// Listed by its own path, as libraries are; what comes by way of a root or an argument is data
    /// and cannot be mapped executable unless it is also in `exec`.
    map: bool,
}

/// How a path is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mounted {
    writable: bool,
    exec: bool,
}

impl Allowed {
    /// What holds for a path beneath another: rules add up.
    fn beneath(self, above: Self) -> Self {
        Self {
            execute: self.execute || above.execute,
            write: self.write || above.write,
            map: self.map || above.map,
        }
    }

    fn mounted(self) -> Mounted {
        Mounted {
            writable: self.write,
            exec: self.execute || (self.map && !self.write),
        }
    }
}

/// Everything of the host that exists in the cell, by paths without links.
#[derive(Debug, Default)]
pub(super) struct Tree {
    allowed: BTreeMap<PathBuf, Allowed>,
    /// Which of them are directories.
    directories: BTreeSet<PathBuf>,
    /// Which of them are roots, listed as such.
    roots: BTreeSet<PathBuf>,
    /// Paths by which the profile, or a program, names things: where they are links, the cell has
    /// the same links.
    named: BTreeSet<PathBuf>,
    /// Directories of the cell's own in which programs can be executed.
    own_executable: Vec<PathBuf>,
}

impl Tree {
    /// Gathers what the rules list, and the dynamic loaders that executing it takes.
    pub(super) fn plant(
        resolved: &Resolved,
        host: &Host,
        roots: &BTreeMap<String, PathBuf>,
        problems: &mut Problems,
    ) -> Self {
        let mut tree = Self::default();
        let files = &resolved.files;
        let lists = [
            (&files.read, Use::Read),
            (&files.exec, Use::Execute),
            (&files.write, Use::Write),
        ];
        for (list, what) in lists {
            for rule in list {
                tree.add(rule, what, host, roots, problems);
            }
        }
        tree.named.extend(ALIASES.map(PathBuf::from));
        if let Some(run) = &resolved.run {
            tree.name(host, &run.program);
        }
        tree.add_loaders(host);
        tree
    }

    fn add(
        &mut self,
        rule: &PathRule,
        what: Use,
        host: &Host,
        roots: &BTreeMap<String, PathBuf>,
        problems: &mut Problems,
    ) {
        let (path, map) = match &rule.place {
            Place::Host(path) => (path.clone(), what == Use::Read),
            Place::Root(name) => (roots.get(name).cloned().unwrap_or_default(), false),
            own @ (Place::Work | Place::Tmp | Place::Shm) => {
                if what == Use::Execute {
                    self.own_executable.push(own.written().into());
                }
                return;
            }
            // Nothing is known of it before the call.
            Place::Argument(_) => return,
        };
        let Some((canonical, fact)) = host.canonical(&path) else {
            if !rule.if_present {
                let hint = rule.variable.as_deref().map(trust_hint);
                let hint = hint
                    .unwrap_or_else(|| "if it need not be there, say `if_present = true`".into());
                problems.push(
                    Diagnostic::at(
                        &rule.origin,
                        format!("{} does not exist", named(rule, &path)),
                    )
                    .with_kind(Kind::NoPath)
                    .with_hint(hint),
                );
            }
            return;
        };
        let directory = match fact {
            PathFact::Directory => true,
            PathFact::File { .. } => false,
            PathFact::Socket | PathFact::Other | PathFact::Absent | PathFact::Symlink { .. } => {
                let hint = match (&rule.variable, fact) {
                    (Some(variable), _) => trust_hint(variable),
                    (None, PathFact::Socket) => {
                        "to let the tool connect to it, list it in `sockets.connect`".to_owned()
                    }
                    _ => "FIFOs and device nodes of the host are not shown".to_owned(),
                };
                let what = named(rule, &path);
                problems.push(
                    Diagnostic::at(
                        &rule.origin,
                        format!("{what} is neither a file nor a directory"),
                    )
                    .with_kind(Kind::NotOffered)
                    .with_hint(hint),
                );
                return;
            }
        };
        if let Err(diagnostic) = crate::resolve::check_host_path(&canonical, &rule.origin) {
            // A link must not lead where the path itself could not be listed.
            problems.push(match &rule.variable {
                // The operator's environment is at fault, not the profile.
                Some(variable) => diagnostic
                    .with_kind(Kind::NoPath)
                    .with_hint(trust_hint(variable)),
                None => diagnostic,
            });
            return;
        }
        if directory {
            self.directories.insert(canonical.clone());
        }
        if matches!(rule.place, Place::Root(_)) {
            self.roots.insert(canonical.clone());
        }
        let allowed = self.allowed.entry(canonical).or_default();
        allowed.execute |= what == Use::Execute;
        allowed.write |= what == Use::Write;
        allowed.map |= map;
        let same = *allowed;
        self.name(host, &path);
        if path == Path::new(USR) {
            self.add_unmerged(same, host);
        }
    }

    /// Where `/usr` is not merged (Alpine, older distributions) `/bin`, `/lib` and the like are
    /// directories of their own, and hold what lies in `/usr` elsewhere: the shell, the loader.
    fn add_unmerged(&mut self, as_usr: Allowed, host: &Host) {
        for alias in ALIASES.map(Path::new) {
            if *host.at(alias) == PathFact::Directory {
                self.directories.insert(alias.to_owned());
                let allowed = self.allowed.entry(alias.to_owned()).or_default();
                *allowed = allowed.beneath(as_usr);
            }
        }
    }

    /// Lets a path of the host be named in the cell by the links that lead to it there, without
    /// showing anything by it.
    pub(super) fn name(&mut self, host: &Host, path: &Path) {
        self.named.insert(path.to_owned());
        self.named.insert(host.without_links_above(path));
    }

    /// Execution takes the right on the loader, too. It is granted on loaders that the rules show
    /// anyway; what a loader can then be made to run is what can be mapped executable.
    fn add_loaders(&mut self, host: &Host) {
        if !self.allowed.values().any(|allowed| allowed.execute) && self.own_executable.is_empty() {
            return;
        }
        for loader in LOADERS.map(Path::new) {
            let Some((canonical, PathFact::File { executable: true })) = host.canonical(loader)
            else {
                continue;
            };
            let Some(above) = self.above(&canonical) else {
                continue;
            };
            self.name(host, loader);
            if !above.execute {
                let allowed = self.allowed.entry(canonical).or_default();
                allowed.execute = true;
            }
        }
    }

    /// What holds for a path by the rules on itself and on everything above it.
    fn above(&self, path: &Path) -> Option<Allowed> {
        path.ancestors()
            .filter_map(|ancestor| self.allowed.get(ancestor))
            .copied()
            .reduce(Allowed::beneath)
    }

    /// Whether the tool may write in a directory of the host: by a rule, or as its workspace.
    pub(super) fn writes(&self, resolved: &Resolved, host: &Host, directory: &Path) -> bool {
        let workspace = match &resolved.workspace {
            Workspace::Host { path } => host.canonical(path),
            _ => None,
        };
        let in_workspace = workspace.is_some_and(|(path, _)| directory.starts_with(path));
        (in_workspace && skeleton::writes(resolved, &Place::Work))
            || self.above(directory).is_some_and(|allowed| allowed.write)
    }

    /// What is mounted, outermost first: paths whose attributes no mount above them gives already.
    fn mounted(&self) -> BTreeMap<&Path, Mounted> {
        let mut mounted: BTreeMap<&Path, Mounted> = BTreeMap::new();
        for path in self.allowed.keys() {
            let Some(allowed) = self.above(path) else {
                continue;
            };
            let around = path
                .ancestors()
                .skip(1)
                .find_map(|ancestor| mounted.get(ancestor));
            // A root has an owner of its own, so it is a mount of its own.
            if around != Some(&allowed.mounted()) || self.is_shown_root(path) {
                mounted.insert(path, allowed.mounted());
            }
        }
        mounted
    }

    fn is_shown_root(&self, path: &Path) -> bool {
        self.roots.contains(path) && !is_the_systems(path)
    }

    /// Whether what is at a path is shown to the cell as its own: within a root, which somebody gave
    /// to be worked on, and not by being listed by its path. Who owns it is for each call to find out.
    pub(super) fn is_shown(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.is_shown_root(above))
    }

    pub(super) fn binds(&self) -> Vec<Mount> {
        let mounted = self.mounted().into_iter();
        mounted
            .map(|(path, attributes)| Mount::Bind {
                source: path.to_owned(),
                target: path.to_owned(),
                directory: self.directories.contains(path),
                writable: attributes.writable,
                exec: attributes.exec,
                identity: None,
                owner: None,
            })
            .collect()
    }

    /// The links of the host by which something that exists in the cell is named.
    pub(super) fn links(&self, host: &Host) -> Vec<Mount> {
        let mounted = self.mounted();
        let covered = |path: &Path| {
            path.ancestors()
                .any(|ancestor| mounted.contains_key(ancestor))
        };
        let mut links = BTreeMap::new();
        for named in &self.named {
            for part in crate::paths::ancestors(named)
                .into_iter()
                .chain([named.as_path()])
            {
                let PathFact::Symlink { link, canonical } = host.at(part) else {
                    continue;
                };
                let target = host.without_links_above(part);
                if covered(&target) || !self.shows(canonical) {
                    continue;
                }
                let direct = target.parent().is_some_and(|parent| {
                    crate::paths::lexically_joined(parent, link).as_ref() == Some(canonical)
                });
                // A link by way of others leads straight there: the others may not exist here.
                let link = if direct { link } else { canonical };
                links.insert(target, link.clone());
            }
        }
        links
            .into_iter()
            .map(|(target, link)| Mount::Symlink { target, link })
            .collect()
    }

    /// Whether anything of the host is shown beneath a path.
    pub(super) fn shows_beneath(&self, path: &Path) -> bool {
        self.allowed.keys().any(|listed| listed.starts_with(path))
    }

    /// Whether a path exists in the cell, as something listed, within it, or above it.
    fn shows(&self, path: &Path) -> bool {
        let mut listed = self.allowed.keys().chain(&self.named);
        self.above(path).is_some() || listed.any(|other| other.starts_with(path))
    }

    /// What `deny` covers; something must be there to be covered.
    pub(super) fn denied(
        &self,
        resolved: &Resolved,
        host: &Host,
        roots: &BTreeMap<String, PathBuf>,
        problems: &mut Problems,
    ) -> Vec<(PathBuf, bool)> {
        let mut denied = BTreeMap::new();
        for rule in &resolved.files.deny {
            let path = match &rule.place {
                Place::Host(path) => path.clone(),
                Place::Root(name) => roots.get(name).cloned().unwrap_or_default(),
                Place::Argument(_) | Place::Work | Place::Tmp | Place::Shm => continue,
            };
            let Some((canonical, fact)) = host.canonical(&path) else {
                if !rule.if_present {
                    let message = format!(
                        "`{}` does not exist, so it cannot be covered",
                        path.display()
                    );
                    problems.push(
                        Diagnostic::at(&rule.origin, message)
                            .with_kind(Kind::NoPath)
                            .with_hint("if it need not be there, say `if_present = true`"),
                    );
                }
                continue;
            };
            let beneath_argument = resolved.paths.values().any(|argument| {
                roots
                    .get(&argument.root)
                    .is_some_and(|root| canonical.starts_with(root))
            });
            if self.above(&canonical).is_none() && !self.shows(&canonical) && !beneath_argument {
                let message = format!(
                    "`{}` is not within anything that is allowed",
                    path.display()
                );
                problems.push(
                    Diagnostic::at(&rule.origin, message)
                        .with_hint("what is not listed does not exist in the cell: leave it out"),
                );
                continue;
            }
            denied.insert(canonical, *fact == PathFact::Directory);
        }
        // Beneath a covered directory there is nothing to cover.
        let outermost = |path: &Path| {
            !path
                .ancestors()
                .skip(1)
                .any(|above| denied.contains_key(above))
        };
        let denied = denied.iter().filter(|(path, _)| outermost(path));
        denied
            .map(|(path, directory)| (path.clone(), *directory))
            .collect()
    }

    /// Covers for what is denied and exists in every cell.
    pub(super) fn covers(&self, denied: &[(PathBuf, bool)]) -> Vec<Mount> {
        let shown = denied
            .iter()
            .filter(|(path, _)| self.shows(path))
            .map(|(path, directory)| (path.as_path(), *directory));
        covers(shown, |directory| {
            self.above(directory).is_some_and(|allowed| allowed.write)
        })
    }

    pub(super) fn rules(&self, rights: Rights) -> Vec<LandlockRule> {
        self.allowed
            .iter()
            .map(|(path, allowed)| {
                let directory = self.directories.contains(path);
                let mut access = rights.access(Use::Read, directory);
                if allowed.execute {
                    access |= rights.access(Use::Execute, directory);
                }
                if allowed.write {
                    access |= rights.access(Use::Write, directory);
                }
                LandlockRule {
                    path: path.clone(),
                    access,
                }
            })
            .collect()
    }

    /// Whether a rule lists a path, or a directory above it.
    pub(super) fn lists(&self, canonical: &Path) -> bool {
        self.above(canonical).is_some()
    }

    pub(super) fn executes(&self, canonical: &Path) -> bool {
        self.above(canonical).is_some_and(|allowed| allowed.execute)
    }

    /// Paths beneath which programs can be executed.
    pub(super) fn executable(&self) -> Vec<PathBuf> {
        let host = self.allowed.iter().filter(|(_, allowed)| allowed.execute);
        host.map(|(path, _)| path.clone())
            .chain(self.own_executable.iter().cloned())
            .collect()
    }
}

/// How a message names the path of a rule: with the variable, if it was one that named it.
fn named(rule: &PathRule, path: &Path) -> String {
    match &rule.variable {
        Some(variable) => format!(
            "`{}`, which the supervisor's `{variable}` names,",
            path.display()
        ),
        None => format!("`{}`", path.display()),
    }
}
