//! Takes a chain of profiles as written to the one resolved form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::diagnostics::{Diagnostic, Diagnostics, Kind, Problems, did_you_mean, listed};
use crate::filter::{FilterError, SyscallRules, check_allow, check_deny};
use crate::paths;
use crate::placeholders::{Piece, is_name};
use crate::schema;
use crate::syscalls::Syscall;

use super::chain::{Chain, RuleKey};
use super::input::Input;
use super::{
    Access, Explain, Overrides, PathArgument, Place, Resolved, Workspace, files, limits, network,
    pool, run, sockets, trust,
};

/// Roles on a profile that names none: everybody.
const ROLES_DEFAULT: [&str; 2] = ["admin", "user"];

/// The roots of a profile, sorted into those that are known and those that must still be given.
pub(super) struct Roots {
    pub given: BTreeMap<String, PathBuf>,
    pub missing: BTreeMap<String, String>,
}

impl Roots {
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name) || self.missing.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.given
            .keys()
            .chain(self.missing.keys())
            .map(String::as_str)
    }
}

impl Chain<'_> {
    /// Checks everything that can be checked without a host.
    pub(crate) fn resolve(
        &self,
        overrides: &Overrides,
        mut problems: Problems,
    ) -> Result<Resolved, Diagnostics> {
        let own = self.own();
        let origin = own.origin(own.profile.name.span());
        let roots = roots(self, overrides, &mut problems);
        let input = Input::read(self, &mut problems);
        let paths = path_arguments(self, &input, &roots, &mut problems);
        let limits = limits::resolve(self, &mut problems);
        let workspace = files::workspace(self, overrides, &roots, &limits, &mut problems);
        let mut files = files::resolve(self, &roots, &paths, workspace.as_ref(), &mut problems);
        let (shown, shown_rules) = trust::shown(self, &overrides.trust_stores, &mut problems);
        files.read.extend(shown);
        let scope = run::Scope {
            input: &input,
            roots: &roots,
            paths: &paths,
        };
        let run = run::command(self, &scope, &mut problems);
        let environment = run::environment(self, &scope, &mut problems);
        let network = network::resolve(self, &mut problems);
        let missing_hosts = network::missing(self, &network);
        let sockets = sockets::resolve(self, &mut problems);
        let syscalls = syscalls(self, &mut problems);
        let access = access(self, &mut problems);
        let pool = pool::read(self, &mut problems);
        let explain = Explain {
            paths: overrides.explain_paths.unwrap_or_else(|| {
                let written = self.last(|p| p.explain.as_ref()?.paths.as_ref());
                written.is_some_and(|(paths, _)| *paths)
            }),
        };
        let text = |get: fn(&schema::Profile) -> Option<&schema::At<String>>| {
            self.last(get).map(|(text, _)| text.clone())
        };
        if run.is_some() && text(|p| p.description.as_ref()).is_none() {
            problems.push(
                Diagnostic::at(
                    &origin,
                    format!("`{}` has no `description`", *own.profile.name),
                )
                .with_hint("say in a sentence what the tool does: a model chooses it by that"),
            );
        }
        let mut resolved = Resolved {
            name: own.profile.name.to_string(),
            title: text(|p| p.title.as_ref()).unwrap_or_else(|| own.profile.name.to_string()),
            description: text(|p| p.description.as_ref()).unwrap_or_default(),
            tags: tags(self),
            input: input.schema,
            run,
            environment,
            files,
            network,
            sockets,
            syscalls,
            limits,
            access,
            pool,
            explain,
            workspace: workspace.unwrap_or(Workspace::None),
            roots: roots.given,
            missing_roots: roots.missing,
            missing_hosts,
            paths,
            weakenings: Vec::new(),
            rules: [self.public_rules(), shown_rules].concat(),
            origin,
        };
        resolved.weakenings = weakenings(&resolved, self);
        pool::refuse(&resolved, self, &mut problems);
        problems.or(resolved)
    }
}

fn tags(chain: &Chain<'_>) -> Vec<String> {
    let tags: BTreeSet<String> = chain
        .links()
        .flat_map(|written| written.profile.tags.iter().map(|tag| tag.to_string()))
        .collect();
    tags.into_iter().collect()
}

fn roots(chain: &Chain<'_>, overrides: &Overrides, problems: &mut Problems) -> Roots {
    let mut roots = Roots {
        given: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    for written in chain.links() {
        for (name, root) in &written.profile.roots {
            let origin = written.origin(root.span());
            if !is_name(name) {
                let name = crate::diagnostics::shortened(name);
                problems.push(Diagnostic::at(
                    &origin,
                    format!("`{name}` cannot name a root"),
                ));
                continue;
            }
            roots.given.remove(name);
            roots.missing.remove(name);
            let path = match (overrides.roots.get(name), &root.path) {
                (Some(given), _) => Some(given),
                (None, Some(written)) if !root.required => Some(written),
                (None, Some(_)) => {
                    problems.push(
                        Diagnostic::at(
                            &origin,
                            format!("root `{name}` has a `path` and is `required`"),
                        )
                        .with_hint("leave one of the two out"),
                    );
                    continue;
                }
                (None, None) => None,
            };
            let Some(path) = path else {
                if root.required {
                    roots.missing.insert(name.clone(), root.why.clone());
                } else {
                    problems.push(
                        Diagnostic::at(&origin, format!("root `{name}` has no path"))
                            .with_hint("give it a `path`, or `required = true`"),
                    );
                }
                continue;
            };
            let checked = path
                .to_str()
                .ok_or_else(|| Diagnostic::at(&origin, format!("root `{name}` is not UTF-8")))
                .and_then(|text| {
                    paths::absolute(text)
                        .map_err(|error| Diagnostic::at(&origin, format!("root `{name}`: {error}")))
                })
                .and_then(|path| files::check_host_path(&path, &origin).map(|()| path));
            if let Some(path) = problems.note(checked) {
                roots.given.insert(name.clone(), path);
            } else {
                // It is known, so what refers to it is not wrong as well.
                roots.missing.insert(name.clone(), root.why.clone());
            }
        }
    }
    roots
}

fn path_arguments(
    chain: &Chain<'_>,
    input: &Input,
    roots: &Roots,
    problems: &mut Problems,
) -> BTreeMap<String, PathArgument> {
    let mut paths = BTreeMap::new();
    for written in chain.links() {
        for (name, path) in &written.profile.paths {
            let origin = written.origin(path.span());
            if !input.is_string(name) {
                let hint = did_you_mean(name, input.names());
                problems.push(
                    Diagnostic::at(
                        &origin,
                        format!("`paths.{name}` is no string argument of `input`"),
                    )
                    .with_hint_maybe(hint),
                );
                continue;
            }
            let beneath = written.origin(path.beneath.span());
            match Piece::parse(&path.beneath) {
                Ok(Piece::Root(root)) if roots.has(&root) => {
                    let argument = PathArgument {
                        root,
                        kind: path.kind,
                        create: path.create,
                    };
                    paths.insert(name.clone(), argument);
                }
                Ok(Piece::Root(root)) => problems.push(unknown_root(&beneath, &root, roots)),
                Ok(_) => problems.push(
                    Diagnostic::at(&beneath, "a path argument must lie beneath a root")
                        .with_expected("expected a root such as `{roots.docs}`"),
                ),
                Err(error) => problems
                    .push(Diagnostic::at(&beneath, error.to_string()).with_hint(error.hint())),
            }
        }
    }
    paths
}

/// The diagnostic for a root that no profile of the chain names.
pub(super) fn unknown_root(
    origin: &crate::diagnostics::Origin,
    name: &str,
    roots: &Roots,
) -> Diagnostic {
    let hint = did_you_mean(name, roots.names())
        .unwrap_or_else(|| format!("add `[roots]` with `{name} = {{ required = true }}`"));
    Diagnostic::at(origin, format!("unknown root `{name}`")).with_hint(hint)
}

fn syscalls(chain: &Chain<'_>, problems: &mut Problems) -> SyscallRules {
    let mut list = |key, check: fn(&str) -> Result<&'static Syscall, FilterError>| {
        let mut names = Vec::new();
        for rule in chain.rules(key) {
            match check(&rule.text) {
                Ok(syscall) => names.push(syscall.name.clone()),
                Err(error) => {
                    let hint = match &error {
                        FilterError::Unknown { nearest, .. } => {
                            nearest.map(|name| format!("did you mean `{name}`?"))
                        }
                        _ => None,
                    };
                    let message = crate::diagnostics::shortened_to(&error.to_string(), 200);
                    problems.push(Diagnostic::at(&rule.origin, message).with_hint_maybe(hint));
                }
            }
        }
        names
    };
    SyscallRules {
        allow: list(RuleKey::SyscallAllow, check_allow),
        deny: list(RuleKey::SyscallDeny, check_deny),
    }
}

fn access(chain: &Chain<'_>, problems: &mut Problems) -> Access {
    let roles = match chain.last(|p| p.access.as_ref()?.roles.as_ref()) {
        None => ROLES_DEFAULT.map(str::to_owned).into(),
        Some((roles, origin)) => {
            if roles.is_empty() {
                problems.push(
                    Diagnostic::at(&origin, "`roles` is empty: nobody could call the tool")
                        .with_hint("leave the key out, or name a role"),
                );
            }
            roles.iter().map(|role| String::clone(role)).collect()
        }
    };
    let approve = chain.last(|p| p.access.as_ref()?.approve.as_ref());
    if let Some((schema::Approve::First | schema::Approve::Always, origin)) = &approve {
        problems.push(
            Diagnostic::at(origin, "asking a person before a call is not offered yet")
                .with_kind(Kind::NotOffered)
                .with_expected("expected `never`"),
        );
    }
    Access {
        roles,
        approve: approve.map(|(approve, _)| *approve).unwrap_or_default(),
    }
}

/// A reason to go after a sentence; nothing if nobody said any.
pub(super) fn because(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    }
}

/// What the profile allows beyond the defaults, each in a sentence with its reason.
fn weakenings(resolved: &Resolved, chain: &Chain<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for rule in chain.rules(RuleKey::SyscallAllow) {
        found.push(format!(
            "allows the system call `{}`{}",
            rule.text,
            because(&rule.why)
        ));
    }
    for rule in &resolved.files.exec {
        if resolved.is_writable(&rule.place) {
            let what = rule.place.written();
            let why = because(&rule.why);
            found.push(format!("programs written to `{what}` can be executed{why}"));
        }
    }
    for rule in &resolved.files.write {
        if let Place::Host(path) = &rule.place {
            let why = because(&rule.why);
            found.push(format!("writes to `{}` of the host{why}", path.display()));
        }
    }
    for rule in resolved.files.read.iter().chain(&resolved.files.exec) {
        if let Place::Host(path) = &rule.place
            && path.starts_with("/sys")
        {
            let why = because(&rule.why);
            found.push(format!(
                "shows `{}` of the host's hardware{why}",
                path.display()
            ));
        }
    }
    if let Workspace::Host { path } = &resolved.workspace
        && resolved
            .files
            .write
            .iter()
            .any(|rule| rule.place == Place::Work)
    {
        found.push(format!(
            "writes to `{}` of the host, as its workspace",
            path.display()
        ));
    }
    found.extend(network::weakenings(&resolved.network, chain));
    found.extend(sockets::weakenings(chain));
    if resolved.network.unix {
        found.push(
            "on a kernel before Landlock ABI 9, reaches Unix sockets in the directories it is shown"
                .to_owned(),
        );
    }
    if resolved.network.loopback {
        found.push("programs can talk TCP to each other over the cell's loopback".to_owned());
    }
    if !resolved.environment.pass.is_empty() {
        let names = listed(resolved.environment.pass.iter().map(String::as_str));
        found.push(format!("sees {names} of the supervisor's environment"));
    }
    found
}

impl Resolved {
    /// Whether what is written to this place by the tool could be found there by the tool.
    pub(crate) fn is_writable(&self, place: &Place) -> bool {
        self.files
            .write
            .iter()
            .any(|write| match (&write.place, place) {
                (Place::Host(write), Place::Host(place)) => {
                    place.starts_with(write) || write.starts_with(place)
                }
                (write, place) => write == place,
            })
    }
}

impl Place {
    /// The text that a profile's author writes for the place.
    #[must_use]
    pub fn written(&self) -> String {
        match self {
            Self::Host(path) => path.display().to_string(),
            Self::Root(name) => format!("{{roots.{name}}}"),
            Self::Argument(name) => format!("{{{name}}}"),
            Self::Work => super::WORK.to_owned(),
            Self::Tmp => super::TMP.to_owned(),
            Self::Shm => super::SHM.to_owned(),
        }
    }
}
