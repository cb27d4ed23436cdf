//! What one call adds to its template, once the supervisor has opened and identified its paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runner::spec::{
    Call, Identity, Ids, LANDLOCK_RULES_MAX, LandlockRule, MOUNTS_MAX, Mount, Program, Shown,
};
use thiserror::Error;

use crate::paths;
use crate::resolve::{Place, WORK, Workspace};

use super::covers::covers;
use super::inject::AuthorityFact;
use super::landlock::Use;
use super::{Compiled, Grant, PathAccess, Plan, skeleton};

/// What the supervisor found out for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFacts {
    /// The user and group that the cell has on the host.
    pub host: Ids,
    /// The workspace's directory, for a named or a host workspace.
    pub workspace: Option<WorkspaceFact>,
    /// One fact for each path within a root ([`Compiled::shown`]), in their order.
    pub shown: Vec<ShownFact>,
    /// One fact for each of the plan's grants, in their order.
    pub grants: Vec<GrantFact>,
    /// One fact for each path that the profile protects, for a named or a host workspace.
    pub protect: Vec<ProtectFact>,
    /// One fact for each of [`Compiled::sockets`] that is there.
    pub sockets: Vec<SocketFact>,
    /// The authority of this one cell, if the profile injects anything.
    pub authority: Option<AuthorityFact>,
}

/// A Unix socket of the host as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFact {
    /// Its path, as in [`super::Socket`]; no link was followed to it.
    pub path: PathBuf,
    /// What it was when it was opened.
    pub identity: Identity,
}

/// The directory that a call has as its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceFact {
    /// Its path on the host, without links in it.
    pub source: PathBuf,
    /// What it was when it was opened.
    pub identity: Identity,
    /// Its owner, if the cell's user is another and shall appear as the owner.
    pub owner: Option<Ids>,
    /// An empty directory on the same mount, for protecting paths that do not exist.
    pub work: Option<PathBuf>,
}

/// What is at a path within a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownFact {
    /// What it was when it was opened.
    pub identity: Identity,
    /// Its owner, if the cell's user is another and shall appear as the owner.
    pub owner: Option<Ids>,
}

/// What a call's path argument turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFact {
    /// Its path on the host, without links in it; of the parent, for a file to be created.
    pub source: PathBuf,
    /// What it was when it was opened.
    pub identity: Identity,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its owner, if the cell's user is another and shall appear as the owner.
    pub owner: Option<Ids>,
}

/// What is at a protected path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectFact {
    /// The path, relative to the workspace.
    pub relative: PathBuf,
    /// What is there.
    pub state: ProtectState,
}

/// What is at a protected path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtectState {
    /// Nothing.
    Absent,
    /// Anything but a directory.
    File,
    /// A directory.
    Directory,
}

/// Why a call's facts do not fit its plan; the call must be refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// The cell would have the host's root user.
    #[error("a cell never has the host's user 0")]
    RootUser,
    /// A workspace is needed and was not opened, or the other way round.
    #[error("the workspace does not fit the profile")]
    Workspace,
    /// The number of facts is not the number of grants.
    #[error("{found} path arguments were opened, expected {expected}")]
    Grants {
        /// How many were opened.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// The number of facts is not the number of paths within roots.
    #[error("{found} paths within roots were opened, expected {expected}")]
    Shown {
        /// How many were opened.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// What was opened is not beneath the argument's root.
    #[error("the path of argument `/{argument}` leads out of its root")]
    Outside {
        /// The argument.
        argument: String,
    },
    /// What was opened is not what the argument must name.
    #[error("argument `/{argument}` does not name {wanted}")]
    Kind {
        /// The argument.
        argument: String,
        /// What it must name.
        wanted: &'static str,
    },
    /// What was opened is within something that the profile denies.
    #[error("the path of argument `/{argument}` is denied by the profile (`{denied}`)")]
    Denied {
        /// The argument.
        argument: String,
        /// What the profile denies.
        denied: String,
    },
    /// The profile injects secrets and the cell has no authority, or the other way round.
    #[error("the cell's certificate authority does not fit the profile")]
    Authority,
    /// Nobody looked at a protected path.
    #[error("nothing is known of the protected path `{0}`")]
    Protect(String),
    /// A protected path does not exist, and there is no directory to block it with.
    #[error("`{0}` cannot be protected before it exists")]
    CannotBlock(String),
    /// Nobody listens at a socket that must be there.
    #[error(
        "there is no Unix socket `{0}` now; hint: start the service, or say `if_present = true` in \
         `sockets.connect`"
    )]
    Socket(String),
    /// More mounts or rules than a cell may have.
    #[error("the call needs {found} {what}, more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many may be.
        most: usize,
    },
}

impl Compiled {
    /// The orders that this call adds to the profile's template.
    pub fn call(&self, plan: &Plan, facts: &CallFacts) -> Result<Call, CallError> {
        self.orders(&plan.grants, Some(plan.program()), facts)
    }

    /// The orders of a cell that waits for its call: one that adds just this fits it.
    pub fn waiting(&self, facts: &CallFacts) -> Result<Call, CallError> {
        self.orders(&[], None, facts)
    }

    fn orders(
        &self,
        grants: &[Grant],
        program: Option<Program>,
        facts: &CallFacts,
    ) -> Result<Call, CallError> {
        if facts.host.uid == 0 {
            return Err(CallError::RootUser);
        }
        let shown = self.shown_by(facts)?;
        let mut mounts = Vec::new();
        let mut rules = Vec::new();
        self.add_workspace(facts, &mut mounts, &mut rules)?;
        self.add_grants(grants, facts, &mut mounts, &mut rules)?;
        self.add_sockets(facts, &mut mounts, &mut rules)?;
        self.add_authority(facts, &mut mounts)?;
        for (what, found, most) in [
            (
                "mounts",
                self.template.mounts.len() + mounts.len(),
                MOUNTS_MAX,
            ),
            (
                "Landlock rules",
                self.template.landlock.rules.len() + rules.len(),
                LANDLOCK_RULES_MAX,
            ),
        ] {
            if found > most {
                return Err(CallError::TooMany { what, found, most });
            }
        }
        Ok(Call {
            program,
            host: facts.host,
            shown,
            mounts,
            rules,
        })
    }

    /// What the call found out about the binds of the template's that are within roots.
    fn shown_by(&self, facts: &CallFacts) -> Result<Vec<Shown>, CallError> {
        if facts.shown.len() != self.shown.len() {
            return Err(CallError::Shown {
                found: facts.shown.len(),
                expected: self.shown.len(),
            });
        }
        let pairs = self.shown.iter().zip(&facts.shown);
        Ok(pairs
            .map(|(shown, fact)| Shown {
                mount: shown.mount,
                identity: fact.identity,
                owner: fact.owner,
            })
            .collect())
    }

    fn add_workspace(
        &self,
        facts: &CallFacts,
        mounts: &mut Vec<Mount>,
        rules: &mut Vec<LandlockRule>,
    ) -> Result<(), CallError> {
        let fact = match (&self.resolved.workspace, &facts.workspace) {
            (Workspace::None | Workspace::Ephemeral { .. }, None) => return Ok(()),
            (Workspace::Named { .. } | Workspace::Host { .. }, Some(fact)) => fact,
            _ => return Err(CallError::Workspace),
        };
        let writable = skeleton::writes(&self.resolved, &Place::Work);
        let exec = self
            .resolved
            .files
            .exec
            .iter()
            .any(|rule| rule.place == Place::Work);
        rules.push(LandlockRule {
            path: WORK.into(),
            access: skeleton::own_access(&self.resolved, &Place::Work, Use::Write, self.rights),
        });
        // Nothing in a workspace that cannot be written needs protection from being written.
        let protect = if writable {
            self.protected(facts)?
        } else {
            Vec::new()
        };
        let blocked: Vec<PathBuf> = protect
            .iter()
            .filter(|(_, state)| *state == ProtectState::Absent)
            .map(|(path, _)| (*path).to_owned())
            .collect();
        mounts.push(match (blocked.first(), &fact.work) {
            (None, _) => Mount::Bind {
                source: fact.source.clone(),
                target: WORK.into(),
                directory: true,
                writable,
                exec,
                identity: Some(fact.identity),
                owner: fact.owner,
            },
            (Some(_), Some(work)) => Mount::Guarded {
                source: fact.source.clone(),
                work: work.clone(),
                target: WORK.into(),
                exec,
                identity: Some(fact.identity),
                blocked,
            },
            (Some(first), None) => {
                return Err(CallError::CannotBlock(first.display().to_string()));
            }
        });
        mounts.extend(protections(&protect));
        Ok(())
    }

    /// What is known of each protected path; of those within another, the outer one says it all.
    fn protected<'a>(
        &'a self,
        facts: &CallFacts,
    ) -> Result<Vec<(&'a Path, ProtectState)>, CallError> {
        let known: BTreeMap<&Path, ProtectState> = facts
            .protect
            .iter()
            .map(|fact| (fact.relative.as_path(), fact.state))
            .collect();
        let protect = &self.resolved.files.protect;
        protect
            .iter()
            .filter(|path| {
                !path
                    .ancestors()
                    .skip(1)
                    .any(|above| protect.contains(above))
            })
            .map(|path| match known.get(path.as_path()) {
                Some(state) => Ok((path.as_path(), *state)),
                None => Err(CallError::Protect(path.display().to_string())),
            })
            .collect()
    }

    fn add_grants(
        &self,
        grants: &[Grant],
        facts: &CallFacts,
        mounts: &mut Vec<Mount>,
        rules: &mut Vec<LandlockRule>,
    ) -> Result<(), CallError> {
        if grants.len() != facts.grants.len() {
            return Err(CallError::Grants {
                found: facts.grants.len(),
                expected: grants.len(),
            });
        }
        // Two arguments may name one path, or one within the other: what they allow adds up, and
        // the outer one is mounted first.
        let mut targets: BTreeMap<PathBuf, (&GrantFact, PathAccess, bool)> = BTreeMap::new();
        for (grant, fact) in grants.iter().zip(&facts.grants) {
            let target = target_of(grant, fact)?;
            self.check_denied(grant, fact)?;
            let entry = targets
                .entry(target)
                .or_insert((fact, grant.access, grant.exec));
            entry.1 = entry.1.max(grant.access);
            entry.2 |= grant.exec;
        }
        for (target, (fact, access, exec)) in targets {
            let what = match access {
                PathAccess::Read => Use::Read,
                PathAccess::Write => Use::Write,
            };
            let mut rights = self.rights.access(what, fact.directory);
            if exec {
                rights |= self.rights.access(Use::Execute, fact.directory);
            }
            rules.push(LandlockRule {
                path: target.clone(),
                access: rights,
            });
            // The mount hides the covers that the template put beneath it.
            let within = |path: &Path| path.starts_with(&target);
            let denied = self.denied.iter().filter(|(denied, _)| within(denied));
            let covers = covers(
                denied.map(|(path, directory)| (path.as_path(), *directory)),
                |directory| access == PathAccess::Write && within(directory),
            );
            mounts.push(Mount::Bind {
                source: fact.source.clone(),
                target,
                directory: fact.directory,
                writable: access == PathAccess::Write,
                exec,
                identity: Some(fact.identity),
                owner: fact.owner,
            });
            mounts.extend(covers);
        }
        Ok(())
    }

    /// Only what was opened and identified is mounted, so that nothing else can take its place. The
    /// mount is read-only, which does not keep anybody from connecting.
    fn add_sockets(
        &self,
        facts: &CallFacts,
        mounts: &mut Vec<Mount>,
        rules: &mut Vec<LandlockRule>,
    ) -> Result<(), CallError> {
        for socket in &self.sockets {
            let fact = facts.sockets.iter().find(|fact| fact.path == socket.path);
            let Some(fact) = fact else {
                if socket.if_present {
                    continue;
                }
                return Err(CallError::Socket(socket.path.display().to_string()));
            };
            mounts.push(Mount::Bind {
                source: fact.path.clone(),
                target: fact.path.clone(),
                directory: false,
                writable: false,
                exec: false,
                identity: Some(fact.identity),
                owner: None,
            });
            let access = self.rights.access(Use::Connect, false);
            // A kernel before ABI 9 has no right for it, and no rule may be empty.
            rules.extend((access != 0).then(|| LandlockRule {
                path: fact.path.clone(),
                access,
            }));
        }
        Ok(())
    }

    fn check_denied(&self, grant: &Grant, fact: &GrantFact) -> Result<(), CallError> {
        let denied = self
            .denied
            .iter()
            .find(|(denied, _)| fact.source.starts_with(denied));
        match denied {
            None => Ok(()),
            Some((denied, _)) => Err(CallError::Denied {
                argument: grant.argument.clone(),
                denied: denied.display().to_string(),
            }),
        }
    }
}

/// Where a grant appears in the cell: at the path that the argument names, or at that of its parent
/// for a file that is to be created.
fn target_of(grant: &Grant, fact: &GrantFact) -> Result<PathBuf, CallError> {
    use super::{Existence, WantKind};
    let outside = || CallError::Outside {
        argument: grant.argument.clone(),
    };
    let kind = |wanted| CallError::Kind {
        argument: grant.argument.clone(),
        wanted,
    };
    let whole = if grant.relative.as_os_str().is_empty() {
        grant.root.clone()
    } else {
        grant.root.join(&grant.relative)
    };
    // No link is followed on the way, so what was opened must be at that very path.
    if !paths::is_plain_absolute(&fact.source) {
        return Err(outside());
    }
    if fact.source == whole {
        return match (grant.want.kind, fact.directory) {
            (WantKind::File, true) => Err(kind("a file")),
            (WantKind::Directory, false) => Err(kind("a directory")),
            _ => Ok(whole),
        };
    }
    let parent = whole.parent().is_some_and(|parent| parent == fact.source);
    let created = grant.want.existence == Existence::MayBeCreated;
    if created && parent && fact.directory && fact.source.starts_with(&grant.root) {
        return Ok(fact.source.clone());
    }
    Err(outside())
}

/// Mounts that keep protected paths as they are: the path itself read-only, and every directory
/// above it pinned, because whoever renames the directory could put another in its place.
fn protections(protect: &[(&Path, ProtectState)]) -> Vec<Mount> {
    let present = protect
        .iter()
        .filter(|(_, state)| *state != ProtectState::Absent)
        .map(|(path, _)| Path::new(WORK).join(path));
    // Sorted by path, so that a mount over a directory never covers one made before beneath it.
    let mut mounts: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for target in present {
        for above in paths::ancestors(&target) {
            if above != Path::new(WORK) {
                let pin = || Mount::Pin {
                    target: above.to_owned(),
                };
                mounts.entry(above.to_owned()).or_insert_with(pin);
            }
        }
        mounts.insert(target.clone(), Mount::Protect { target });
    }
    mounts.into_values().collect()
}
