//! The host directories that a call's cell gets to see: opened, identified and, afterwards, left
//! as they were but for what the tool was allowed to write.
//!
//! Every path beneath them may have been planted by an earlier call, so each is looked up from a
//! descriptor of its root, without following a link or leaving the file system (openat2(2)).

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use profiles::compile::{
    Compiled, Existence, Grant, GrantFact, ProtectFact, ProtectState, SocketFact, WantKind,
    WorkspaceFact,
};
use profiles::resolve::{Resolved, Workspace};
use runner::spec::{Identity, Ids};
use sha2::{Digest, Sha256};

use crate::dirs;
use crate::ids::Assigned;
use crate::marks::Marks;
use crate::shown::Viewer;

/// Directory in the state directory with the overlays' own.
const OVERLAYS: &str = "overlays";
/// Longest name of a named workspace, as a directory's name can be.
const NAME_BYTES_MAX: usize = 200;

/// Why a call's directories cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A path argument does not lead to what the profile asks for.
    #[error("argument `/{argument}`: {what}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        what: String,
    },
    /// The workspace itself.
    #[error("the workspace `{path}`: {what}")]
    Directory {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A Unix socket of the profile's.
    #[error("the Unix socket `{path}`: {what}")]
    Socket {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A protected path cannot be protected as it is.
    #[error("`{path}` cannot be protected: {what}")]
    Protect {
        /// The path in the workspace.
        path: String,
        /// Why.
        what: String,
    },
}

/// What of the host one call gets, as `profiles` wants to know it.
#[derive(Debug)]
pub struct Places {
    /// The workspace's directory.
    pub workspace: Option<WorkspaceFact>,
    /// The paths of the call's arguments.
    pub grants: Vec<GrantFact>,
    /// The state of each protected path.
    pub protect: Vec<ProtectFact>,
    /// The Unix sockets of the profile that are there.
    pub sockets: Vec<SocketFact>,
    /// The user the cell must run as, if not the assigned one: the owner of a host workspace.
    pub run_as: Option<Ids>,
    /// Removed when the call is over.
    work: Option<Work>,
    /// Likewise.
    _marks: Option<Marks>,
}

impl Places {
    /// Directories that are removed when the call is over, children before parents.
    #[must_use]
    pub fn temporary(&self) -> Vec<PathBuf> {
        let work = self.work.iter().map(|work| work.directory.path());
        work.flat_map(with_children).collect()
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for directory in self.temporary() {
            // One by one: the overlay's own directory has no permissions, so that an ordinary user
            // could not look into it in order to remove the whole tree.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Where named workspaces and the overlays' work directories are.
#[derive(Debug, Clone)]
pub struct Workspaces {
    state: PathBuf,
}

impl Workspaces {
    /// Keeps them beneath the state directory.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// Opens and identifies everything of the host that a call needs.
    ///
    /// # Errors
    /// If anything is not as the profile wants it; nothing has been changed then but an empty named
    /// workspace, which may have been made.
    pub fn open(
        &self,
        compiled: &Compiled,
        caller: &str,
        grants: &[Grant],
        assigned: &Assigned,
        as_root: bool,
    ) -> Result<Places, WorkspaceError> {
        let own = |owner: Ids| as_root && owner != assigned.ids;
        let viewer = Viewer {
            host: assigned.ids,
            as_root,
        };
        let grants = grants
            .iter()
            .map(|grant| open_grant(grant, viewer))
            .collect::<Result<_, _>>()?;
        let sockets = compiled.sockets.iter().filter_map(|socket| {
            let found = find_socket(&socket.path);
            found
                .map_err(|what| WorkspaceError::Socket {
                    path: socket.path.display().to_string(),
                    what,
                })
                .transpose()
        });
        let sockets = sockets.collect::<Result<_, _>>()?;
        let profile = &compiled.resolved;
        let directory = match &profile.workspace {
            Workspace::Ephemeral { .. } | Workspace::None => None,
            Workspace::Host { path } => Some(path.clone()),
            Workspace::Named { name } => Some(self.named(caller, name)?),
        };
        let Some(directory) = directory else {
            return Ok(Places {
                workspace: None,
                grants,
                protect: vec![],
                sockets,
                run_as: None,
                work: None,
                _marks: None,
            });
        };
        let failed = |what: String| WorkspaceError::Directory {
            path: directory.display().to_string(),
            what,
        };
        let canonical = directory
            .canonicalize()
            .map_err(|error| failed(io_text(&error)))?;
        let root = open_directory(&canonical).map_err(|error| failed(text(error)))?;
        let owner = owner_of(&root).map_err(|error| failed(text(error)))?;
        let protect = protected(&root, profile)?;
        // A host directory of an ordinary user's is worked on as that user; one of root's is shown
        // to the cell as its own, by an idmapped mount.
        let run_as = (own(owner) && owner.uid != 0).then_some(owner);
        let idmapped = own(owner) && owner.uid == 0;
        let absent = protect
            .iter()
            .any(|fact| fact.state == ProtectState::Absent);
        if absent && idmapped {
            return Err(failed(
                "a directory of root's with protected names that do not exist yet; hint: let an \
                 ordinary user own it, or make the names that `files.protect` lists"
                    .to_owned(),
            ));
        }
        let work = if absent {
            Some(self.work(&root, &failed)?)
        } else {
            None
        };
        let workspace = WorkspaceFact {
            source: canonical,
            identity: identity(&root).map_err(|error| failed(text(error)))?,
            owner: idmapped.then_some(owner),
            work: work.as_ref().map(|work| work.directory.path().to_owned()),
        };
        let absent = protect
            .iter()
            .filter(|fact| fact.state == ProtectState::Absent)
            .map(|fact| fact.relative.as_path());
        let marks = work.is_some().then(|| Marks::above(root, absent));
        Ok(Places {
            workspace: Some(workspace),
            grants,
            protect,
            sockets,
            run_as,
            work,
            _marks: marks,
        })
    }

    /// The directory of a named workspace, made if it is missing. Callers do not see each other's.
    fn named(&self, caller: &str, name: &str) -> Result<PathBuf, WorkspaceError> {
        let failed = |what: String| WorkspaceError::Directory {
            path: name.to_owned(),
            what,
        };
        let plain = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain {
            return Err(failed("expected a plain name".to_owned()));
        }
        let digest = Sha256::digest(caller.as_bytes());
        let mut caller = String::new();
        for byte in digest.iter().take(16) {
            let _ = write!(caller, "{byte:02x}");
        }
        let mut path = self.state.clone();
        for part in ["workspaces", &caller, name] {
            path.push(part);
            dirs::private(&path).map_err(|error| failed(error.to_string()))?;
        }
        Ok(path)
    }

    /// An empty directory on the same mount as the workspace, for an overlay's own use.
    fn work(
        &self,
        workspace: &OwnedFd,
        failed: &impl Fn(String) -> WorkspaceError,
    ) -> Result<Work, WorkspaceError> {
        let parent = self.state.join(OVERLAYS);
        dirs::private(&parent).map_err(|error| failed(error.to_string()))?;
        let opened = open_directory(&parent).map_err(|error| failed(text(error)))?;
        let same = mount_id(workspace)
            .and_then(|workspace| Ok(workspace == mount_id(&opened)?))
            .map_err(|error| failed(io_text(&error)))?;
        if !same {
            return Err(failed(format!(
                "it has protected names that do not exist yet and is on another mount than \
                 `{}`; hint: make the names that `files.protect` lists, or set `XDG_STATE_HOME` to \
                 a directory on its mount",
                parent.display()
            )));
        }
        // Under root, the launcher gives it to the cell's user.
        make_work(&parent).map_err(|error| failed(io_text(&error)))
    }

    /// Removes what supervisors that were killed have left behind; returns how many calls' it was.
    #[must_use]
    pub fn sweep(&self) -> usize {
        let entries = std::fs::read_dir(self.state.join(OVERLAYS));
        let found = entries.into_iter().flatten().flatten();
        found
            .map(|entry| entry.path())
            .filter(|path| {
                // Held until it is removed, so that its maker does not take it in between.
                let Some(_lock) = lock_dead(path) else {
                    return false;
                };
                let removed = with_children(path).map(std::fs::remove_dir);
                removed.into_iter().last().is_some_and(|last| last.is_ok())
            })
            .count()
    }
}

/// An overlay's work directory, with the lock by which [`Workspaces::sweep`] knows that it is ours:
/// the kernel drops it with the supervisor, however that ends.
#[derive(Debug)]
struct Work {
    directory: tempfile::TempDir,
    _lock: File,
}

/// A work directory with what an overlay makes in it (kernel: filesystems/overlayfs), in the order
/// in which they can be removed.
fn with_children(work: &Path) -> [PathBuf; 2] {
    [work.join("work"), work.to_owned()]
}

/// Makes a work directory and takes its lock.
fn make_work(parent: &Path) -> io::Result<Work> {
    loop {
        let directory = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(parent)?;
        // Another supervisor's sweep may take it for a dead one's in the moment before the lock; the
        // name is another one each time, so this comes to an end.
        match File::open(directory.path()) {
            Ok(lock) => {
                if lock.try_lock().is_ok() && directory.path().exists() {
                    return Ok(Work {
                        directory,
                        _lock: lock,
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the lock of a work directory that no living supervisor holds.
fn lock_dead(work: &Path) -> Option<File> {
    let directory = File::open(work).ok()?;
    directory.try_lock().is_ok().then_some(directory)
}

/// Opens what a path argument names.
fn open_grant(grant: &Grant, viewer: Viewer) -> Result<GrantFact, WorkspaceError> {
    let failed = |what: String| WorkspaceError::Argument {
        argument: grant.argument.clone(),
        what,
    };
    let root = open_directory(&grant.root).map_err(|error| {
        failed(format!(
            "its root `{}`: {}",
            grant.root.display(),
            text(error)
        ))
    })?;
    let shown = grant.relative.display();
    let (opened, is_parent) = match open_beneath(&root, &grant.relative) {
        Err(Errno::ENOENT) if grant.want.existence == Existence::MayBeCreated => {
            let parent = grant.relative.parent().unwrap_or(Path::new(""));
            let opened = open_beneath(&root, parent)
                .map_err(|error| failed(format!("its parent directory: {}", lookup(error))))?;
            (opened, true)
        }
        result => (
            result.map_err(|error| failed(format!("`{shown}`: {}", lookup(error))))?,
            false,
        ),
    };
    let stat = fstat(&opened).map_err(|error| failed(text(error)))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let directory = kind == SFlag::S_IFDIR;
    if !directory && kind != SFlag::S_IFREG {
        return Err(failed(format!(
            "`{shown}` is neither a file nor a directory"
        )));
    }
    let wanted = match grant.want.kind {
        WantKind::Directory => directory,
        WantKind::File => directory == is_parent,
        WantKind::Any => true,
    };
    if !wanted {
        let found = if directory { "a directory" } else { "a file" };
        return Err(failed(format!("`{shown}` is {found}")));
    }
    let owner = Ids {
        uid: stat.st_uid,
        gid: stat.st_gid,
    };
    let source = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        .map_err(|error| failed(io_text(&error)))?;
    let owner = viewer.owner(&source, owner);
    Ok(GrantFact {
        source,
        identity: Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        directory,
        owner,
    })
}

/// Identifies a Unix socket, without following a link; none if there is nothing.
fn find_socket(path: &Path) -> Result<Option<SocketFact>, String> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let opened = match openat2(AT_FDCWD, path, how) {
        Err(Errno::ENOENT) => return Ok(None),
        result => result.map_err(lookup)?,
    };
    let stat = fstat(&opened).map_err(text)?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
        return Err("it is no socket now".to_owned());
    }
    Ok(Some(SocketFact {
        path: path.to_owned(),
        identity: Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
    }))
}

/// Looks at every protected path of the profile.
fn protected(root: &OwnedFd, profile: &Resolved) -> Result<Vec<ProtectFact>, WorkspaceError> {
    let mut facts = Vec::new();
    for relative in &profile.files.protect {
        let state = match open_beneath(root, relative) {
            Err(Errno::ENOENT) => ProtectState::Absent,
            Err(error) => {
                return Err(WorkspaceError::Protect {
                    path: relative.display().to_string(),
                    what: lookup(error),
                });
            }
            Ok(found) => match fstat(&found) {
                Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
                    ProtectState::Directory
                }
                _ => ProtectState::File,
            },
        };
        facts.push(ProtectFact {
            relative: relative.clone(),
            state,
        });
    }
    Ok(facts)
}

/// Opens a path beneath a directory: no link of any kind is followed, and it is not left.
pub fn open_beneath(root: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(
        root,
        relative,
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(resolve),
    )
}

/// Opens a directory of the host whose path has no link in it.
fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(resolve))
}

fn identity(file: &OwnedFd) -> Result<Identity, Errno> {
    let stat = fstat(file)?;
    Ok(Identity {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

fn owner_of(file: &OwnedFd) -> Result<Ids, Errno> {
    let stat = fstat(file)?;
    Ok(Ids {
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// The mount that a descriptor is on (`mnt_id` in proc_pid_fdinfo(5)).
fn mount_id(file: &OwnedFd) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not say which mount it is on"))
}

/// What went wrong in looking up a path without links.
#[must_use]
pub fn lookup(error: Errno) -> String {
    match error {
        Errno::ELOOP => "a symbolic link is in its path, and none is followed".to_owned(),
        Errno::EXDEV => "it leads out of its root".to_owned(),
        error => text(error),
    }
}

fn text(error: Errno) -> String {
    io_text(&error.into())
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
