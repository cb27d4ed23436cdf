//! The tools: profiles found, compiled for this host, and swapped whole when their files change.
//!
//! A set of profiles is taken or refused as a whole: at the start a bad file refuses to start, and
//! later it leaves the tools as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use profiles::diagnostics::{Diagnostic, Diagnostics, Kind, PROFILE_BYTES_MAX, SourceFile};
use profiles::host::Host;
use profiles::library::Library;
use profiles::resolve::{ALLOW_OPTION, Overrides, Resolved};
use tokio::sync::{Notify, watch};

use crate::facts;
use crate::secrets::Store;
use crate::tool::Tool;

/// Most profile files in one directory.
pub const PROFILES_MAX: usize = 512;

/// Where tools come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Directories with profiles.
    pub directories: Vec<Directory>,
    /// What the operator says beside the profiles.
    pub overrides: Overrides,
    /// The only tools to offer; all if empty.
    pub only: Vec<String>,
    /// The host, without any path.
    pub host: Host,
}

/// A directory with profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it must exist: it does if somebody asked for it.
    pub required: bool,
}

/// The tools at one time.
#[derive(Default)]
pub struct Snapshot {
    /// By name.
    pub tools: BTreeMap<String, Arc<Tool>>,
    /// Profiles that are fine, but cannot be tools here.
    pub left_out: Vec<LeftOut>,
}

/// A tool that is not offered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why, and what would change it.
    pub why: String,
}

/// The tools, as they are now.
pub struct Catalog {
    sources: Sources,
    current: RwLock<Arc<Snapshot>>,
    /// Counts the changes that clients should know of.
    changes: watch::Sender<u64>,
    /// Told at each swap.
    swapped: Notify,
    /// Held while the profiles are read again, so that the last to read is the last to swap.
    reloading: Mutex<()>,
}

impl Catalog {
    /// Reads and compiles every profile. One that is wrong refuses them all.
    pub fn load(sources: Sources) -> Result<Self, Diagnostics> {
        let snapshot = load(&sources, &Snapshot::default())?;
        Ok(Self {
            sources,
            current: RwLock::new(Arc::new(snapshot)),
            changes: watch::Sender::new(0),
            swapped: Notify::new(),
            reloading: Mutex::default(),
        })
    }

    /// No tools: for commands that bring their own.
    #[must_use]
    pub fn empty(host: Host) -> Self {
        let sources = Sources {
            directories: vec![],
            overrides: Overrides::default(),
            only: vec![],
            host,
        };
        Self {
            sources,
            current: RwLock::default(),
            changes: watch::Sender::new(0),
            swapped: Notify::new(),
            reloading: Mutex::default(),
        }
    }

    /// The tools now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        // The lock is held for the length of a clone.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A tool by name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<Arc<Tool>> {
        self.snapshot().tools.get(name).map(Arc::clone)
    }

    /// Reads the profiles again and swaps all tools at once, or none. Says whether the list that
    /// clients see has changed. It blocks.
    pub fn reload(&self) -> Result<bool, Diagnostics> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let after = Arc::new(load(&self.sources, &before)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&after);
        self.swapped.notify_one();
        let definitions = |snapshot: &Snapshot| -> Vec<rmcp::model::Tool> {
            snapshot
                .tools
                .values()
                .map(|tool| tool.definition.clone())
                .collect()
        };
        let changed = definitions(&before) != definitions(&after);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(changed)
    }

    /// Tells whenever the list that clients see has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until all tools are swapped; one may wait.
    pub async fn swapped(&self) {
        self.swapped.notified().await;
    }

    /// The directories that profiles are read from.
    #[must_use]
    pub fn directories(&self) -> &[Directory] {
        &self.sources.directories
    }
}

/// Every profile by name: the built-in ones, and those in the directories.
pub fn library(directories: &[Directory]) -> Result<Library, Diagnostics> {
    library_without(directories, &[])
}

/// The same without these files, given by their canonical paths.
pub fn library_without(
    directories: &[Directory],
    without: &[PathBuf],
) -> Result<Library, Diagnostics> {
    let mut library = Library::builtin();
    let mut problems = Vec::new();
    for directory in directories {
        match files(directory) {
            Ok(paths) => {
                for path in paths {
                    if path
                        .canonicalize()
                        .is_ok_and(|path| without.contains(&path))
                    {
                        continue;
                    }
                    if let Err(found) = source(&path).and_then(|file| library.add(file)) {
                        problems.extend(found.0);
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(library)
    } else {
        Err(Diagnostics(problems))
    }
}

/// Compiles a resolved profile for this host as its paths and secrets are now.
pub fn compile(
    resolved: &Resolved,
    host: &Host,
) -> Result<profiles::compile::Compiled, Diagnostics> {
    let host = Host {
        secrets: if resolved.network.inject.is_empty() {
            BTreeSet::new()
        } else {
            Store::here().names()
        },
        paths: facts::gather(&resolved.paths()),
        ..host.clone()
    };
    profiles::compile::compile(resolved, &host)
}

/// Reads one profile's file.
pub fn source(path: &Path) -> Result<SourceFile, Diagnostics> {
    let name = path.display().to_string();
    let read = || -> io::Result<Vec<u8>> {
        // Opening a FIFO must not wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(path)?;
        regular(&file)?;
        let mut bytes = Vec::new();
        file.take(PROFILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| problem(format!("could not read `{name}`: {error}")))?;
    SourceFile::from_bytes(name, bytes)
}

fn regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }
}

/// The profile files of a directory, sorted.
fn files(directory: &Directory) -> Result<Vec<PathBuf>, Diagnostic> {
    let path = &directory.path;
    let failed = |error: io::Error| {
        single(format!(
            "could not read the directory `{}`: {error}",
            path.display()
        ))
    };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.required => {
            return Ok(Vec::new());
        }
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        files.push(path);
        if files.len() > PROFILES_MAX {
            let path = directory.path.display();
            return Err(single(format!(
                "`{path}` holds more than {PROFILES_MAX} profiles"
            )));
        }
    }
    files.sort();
    Ok(files)
}

fn load(sources: &Sources, before: &Snapshot) -> Result<Snapshot, Diagnostics> {
    let library = library(&sources.directories)?;
    let mut snapshot = Snapshot::default();
    let mut problems = Vec::new();
    let (mut tools, mut roots) = (BTreeSet::new(), BTreeSet::new());
    for name in library.names() {
        let compiled = library
            .resolve(name, &sources.overrides)
            .and_then(|resolved| {
                roots.extend(resolved.roots.keys().cloned());
                roots.extend(resolved.missing_roots.keys().cloned());
                resolved
                    .is_tool()
                    .then(|| compile(&resolved, &sources.host))
                    .transpose()
            });
        let wanted = sources.only.is_empty() || sources.only.iter().any(|only| only == name);
        match compiled {
            // A base.
            Ok(None) => continue,
            Ok(Some(compiled)) if wanted => {
                let replaces = before.tools.get(name).map(Arc::as_ref);
                let tool = Arc::new(Tool::new(compiled, replaces));
                snapshot.tools.insert(name.to_owned(), tool);
            }
            Err(found) if wanted && cannot_here(&found) => snapshot.left_out.push(LeftOut {
                name: name.to_owned(),
                why: reason(&found),
            }),
            Err(found) if !cannot_here(&found) => problems.extend(found.0),
            Ok(_) | Err(_) => {}
        }
        tools.insert(name.to_owned());
    }
    // A profile that is wrong does not tell its roots.
    let roots_known = problems.is_empty();
    problems.extend(unknown("tool", sources.only.iter(), &tools));
    let given = unknown("tool", sources.overrides.hosts.keys(), &tools);
    problems.extend(given.into_iter().map(of_allow_option));
    if roots_known {
        problems.extend(unknown("root", sources.overrides.roots.keys(), &roots));
    }
    if problems.is_empty() {
        Ok(snapshot)
    } else {
        Err(Diagnostics(problems))
    }
}

/// Refuses hosts that were given to another profile than the only one that there is.
pub fn only_hosts_for(name: &str, overrides: &Overrides) -> Result<(), Diagnostics> {
    match overrides.hosts.keys().find(|given| *given != name) {
        None => Ok(()),
        Some(other) => Err(Diagnostics(vec![of_allow_option(Diagnostic {
            hint: Some(format!("write `{ALLOW_OPTION} {name}=HOST`")),
            ..single(format!(
                "hosts are given to `{other}`, and this is `{name}`"
            ))
        })])),
    }
}

fn of_allow_option(diagnostic: Diagnostic) -> Diagnostic {
    Diagnostic {
        message: format!("`{ALLOW_OPTION}`: {}", diagnostic.message),
        ..diagnostic
    }
}

/// What was asked for and is not there: most likely a slip of the pen.
fn unknown<'a>(
    what: &str,
    asked: impl Iterator<Item = &'a String>,
    known: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    asked
        .filter(|name| !known.contains(*name))
        .map(|name| Diagnostic {
            hint: Some(format!("there are {}", names.join(", "))),
            ..single(format!("there is no {what} `{name}`"))
        })
        .collect()
}

/// Whether the profile is fine, and it is this host or the operator who lacks something.
#[must_use]
pub fn cannot_here(found: &Diagnostics) -> bool {
    found.0.iter().all(|diagnostic| {
        matches!(
            diagnostic.kind,
            Kind::RootNotGiven
                | Kind::HostsNotGiven
                | Kind::SecretNotGiven
                | Kind::NoProgram
                | Kind::NoPath
                | Kind::HostTooWeak
                | Kind::NotOffered
        )
    })
}

/// The first diagnostic in one line.
#[must_use]
pub fn reason(found: &Diagnostics) -> String {
    found
        .0
        .first()
        .map_or_else(String::new, |diagnostic| match &diagnostic.hint {
            Some(hint) => format!("{}; hint: {hint}", diagnostic.message),
            None => diagnostic.message.clone(),
        })
}

fn single(message: String) -> Diagnostic {
    Diagnostic {
        kind: Kind::Invalid,
        message,
        origin: None,
        expected: None,
        hint: None,
    }
}

fn problem(message: String) -> Diagnostics {
    Diagnostics(vec![single(message)])
}
