//! Directories of the host that a cell sees as its own user's: idmapped mounts, see mount_setattr(2).
//!
//! Only root can make them, and a cell's processes are never root's, so the launcher prepares them
//! before there is a cell.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::confine::At;
use crate::mounts::{Prepared, open_source};
use crate::namespaces;
use crate::report::{SetupFailure, Step};
use crate::spec::{Call, Identity, Ids, Mount, Shown};
use crate::sys::{self, MountAttributes, SingleThreaded};

/// Where a bind comes from, with what is known of it: by the call where that has looked.
pub(crate) struct Source<'a> {
    pub path: &'a Path,
    pub identity: Option<Identity>,
    pub owner: Option<Ids>,
}

impl<'a> Source<'a> {
    /// The source of a bind or an overlay; none for what is no directory or file of the host.
    pub(crate) fn of(mount: &'a Mount, shown: Option<&Shown>) -> Option<Self> {
        let (path, identity, owner) = match mount {
            Mount::Bind {
                source,
                identity,
                owner,
                ..
            } => (source, identity, owner),
            Mount::Guarded {
                source, identity, ..
            } => (source, identity, &None),
            _ => return None,
        };
        Some(Self {
            path,
            identity: shown.map_or(*identity, |shown| Some(shown.identity)),
            owner: shown.map_or(*owner, |shown| shown.owner),
        })
    }

    /// Opens it: it must name no link and still be what was looked at.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        open_source(self.path, self.identity)
    }
}

/// What the call found out about a mount of the template's, by its index.
pub(crate) fn shown(call: &Call, index: usize) -> Option<&Shown> {
    call.shown
        .iter()
        .find(|shown| shown.mount as usize == index)
}

/// Prepares the mounts of a cell that show another's directory as its own, and the work directories of
/// overlays, which the cell's user must own.
pub(crate) fn prepare(
    proof: SingleThreaded,
    template: &[Mount],
    call: &Call,
) -> Result<Prepared, SetupFailure> {
    for shown in &call.shown {
        // What was looked at must be what is mounted, or nobody has looked at that.
        let index = shown.mount as usize;
        if !matches!(template.get(index), Some(Mount::Bind { .. })) {
            return Err(Errno::EINVAL).at_item(Step::Mount, index);
        }
    }
    let mut prepared = Prepared::new();
    // One namespace serves every directory of an owner.
    let mut namespaces: Vec<(Ids, OwnedFd)> = Vec::new();
    for (index, mount) in template.iter().chain(&call.mounts).enumerate() {
        if let Mount::Guarded { work, .. } = mount {
            give(work, call.host).at_item(Step::Mount, index)?;
        }
        let Some(source) = Source::of(mount, shown(call, index)) else {
            continue;
        };
        let Some(owner) = source.owner else {
            continue;
        };
        let found = source.open().at_item(Step::Mount, index)?;
        if !namespaces.iter().any(|(known, _)| *known == owner) {
            let made = namespaces::idmap_namespace(proof, owner, call.host);
            namespaces.push((owner, made.at_item(Step::ShowOwner, index)?));
        }
        let namespace = namespaces.iter().find(|(known, _)| *known == owner);
        let (_, namespace) = namespace.ok_or(Errno::EINVAL).at_item(Step::Mount, index)?;
        let tree = idmapped(&found, namespace).at_item(Step::ShowOwner, index)?;
        prepared.resize_with(template.len() + call.mounts.len(), || None);
        prepared[index] = Some(tree);
    }
    Ok(prepared)
}

/// Gives an empty directory of the supervisor's to the cell's user; an ordinary user's is its own.
fn give(directory: &Path, host: Ids) -> Result<(), Errno> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let directory = openat2(AT_FDCWD, directory, how)?;
    nix::unistd::fchown(&directory, Some(host.uid.into()), Some(host.gid.into()))
}

/// A copy of what was opened, and what is mounted beneath it, through the map of a user namespace.
fn idmapped(found: &OwnedFd, namespace: &OwnedFd) -> Result<OwnedFd, Errno> {
    let tree = sys::clone_tree(found.as_fd(), true)?;
    let idmap = MountAttributes {
        idmap: Some(namespace.as_fd()),
        ..Default::default()
    };
    sys::set_mount(tree.as_fd(), idmap, true)?;
    Ok(tree)
}
