//! How much a call has written: to directories in memory, which have a size, and to a workspace on the
//! host's disk, where none can be set.
//!
//! A directory in memory has a capacity. On a disk an ordinary user has no quota to set, so what
//! changed since the call began is added up from time to time, by a walk that follows no link
//! and leaves neither the workspace nor its file system.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;
use nix::sys::statvfs::fstatvfs;

/// Most directory entries in one walk: a project with its dependencies has fewer.
const ENTRIES_MAX: usize = 1_000_000;
/// Shortest time between two walks.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// A walk is followed by a pause of this many times its own length, so that measuring stays a small
/// part of what a call costs.
const PAUSE_FACTOR: u32 = 50;

/// Watches a workspace until it has grown past `most` bytes, and returns then.
///
/// Growth is the space of every file whose inode changed since `begun`: a tool cannot set that
/// time back. Rewriting an old file in place counts whole, in the tool's disfavour.
pub async fn grown_past(workspace: OwnedFd, begun: SystemTime, most: u64) {
    let mut workspace = workspace;
    let mut pause = EVERY_MIN;
    loop {
        tokio::time::sleep(pause).await;
        let walk = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let bytes = changed_bytes(&workspace, begun);
            (workspace, bytes, started.elapsed())
        });
        // The walk cannot panic; were it to, the other limits still hold.
        let Ok((returned, bytes, took)) = walk.await else {
            return std::future::pending().await;
        };
        if bytes > most {
            return;
        }
        workspace = returned;
        pause = EVERY_MIN.max(took * PAUSE_FACTOR);
    }
}

/// Bytes on disk of the files that changed since then.
fn changed_bytes(workspace: &OwnedFd, since: SystemTime) -> u64 {
    /// Unit of `st_blocks` (stat(3type)).
    const BLOCK: u64 = 512;
    let since = since
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut total = 0;
    let mut entries = 0;
    let mut todo = vec![PathBuf::from(".")];
    while let Some(directory) = todo.pop() {
        // Gone, or not to be read: a tool that hides what it wrote keeps only its own space from us,
        // and each of its files is still capped by `limits.file_size`.
        let Ok(mut listing) = open(workspace, &directory).and_then(Dir::from_fd) else {
            continue;
        };
        let mut names = Vec::new();
        for entry in listing.iter().flatten() {
            let name = entry.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push((name, entry.file_type()));
            }
        }
        for (name, kind) in names {
            entries += 1;
            if entries > ENTRIES_MAX {
                return total;
            }
            if kind == Some(Type::Directory) {
                use std::os::unix::ffi::OsStrExt;
                todo.push(directory.join(std::ffi::OsStr::from_bytes(name.as_bytes())));
                continue;
            }
            let Ok(stat) = fstatat(&listing, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            if u64::try_from(stat.st_ctime).unwrap_or(0) >= since {
                total += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            }
        }
    }
    total
}

fn open(workspace: &OwnedFd, directory: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(
        workspace,
        directory,
        OpenHow::new().flags(flags).resolve(resolve),
    )
}

const TMPFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::TMPFS_MAGIC;

/// Bytes that a directory in memory holds; nothing for one on a disk.
#[must_use]
pub fn used_in_memory(directory: &OwnedFd) -> Option<u64> {
    let stat = nix::sys::statfs::fstatfs(directory).ok()?;
    if stat.filesystem_type() != TMPFS_MAGIC {
        return None;
    }
    let block = u64::try_from(stat.block_size()).unwrap_or(0);
    Some((stat.blocks() - stat.blocks_free()) * block)
}

/// Whether a size-capped directory has no block or inode left.
#[must_use]
pub fn is_full(directory: &OwnedFd) -> bool {
    used_in_memory(directory).is_some()
        && fstatvfs(directory).is_ok_and(|stat| stat.blocks_free() == 0 || stat.files_free() == 0)
}
