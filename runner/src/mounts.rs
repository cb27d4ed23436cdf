//! The cell's file system: a minimal root in which only what the orders list exists; see
//! mount_namespaces(7), open_tree(2), mount_setattr(2).
//!
//! Everything is built with the descriptor-based mount calls: sources are looked up in the cell's
//! copy of the host's mounts, the new root is stacked on `/` where absolute paths still resolve
//! beneath it, and only then entered. So no staging directory on the host is needed.

use std::cell::RefCell;
use std::ffi::{CStr, CString, OsStr};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::confine::At;
use crate::idmaps::{self, Source};
use crate::namespaces::identity_of;
use crate::report::{SetupFailure, Step};
use crate::spec::{APPENDED_BYTES_MAX, Call, Identity, MOUNTS_MAX, Mount};
use crate::sys::{self, FileSystem, MountAttributes};

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Most inodes in the root: mount points, links and generated files.
const ROOT_INODES: u64 = 4096;
/// An empty file without permissions, which covers files that a profile denies.
const MASK: &CStr = c".masked";
/// What of `/proc` no namespace covers although it is about the cell's user: the names of the keys
/// that this user's other processes hold. The filter denies the calls that would use them.
const PROC_KEYS: &str = "keys";
/// Where the lower layer of a guarded directory is for a moment.
const GUARD: &str = "/.guard";

/// What was opened or prepared beforehand, by index into the list of mounts.
pub(crate) type Prepared = Vec<Option<OwnedFd>>;

/// Opens the work directories of overlays while this process still has the supervisor's user, to
/// whom alone the way there is open. It must be done in the cell's copy of the host's mounts: an
/// overlay is made of directories on one mount.
pub(crate) fn open_work(
    prepared: &mut Prepared,
    template: &[Mount],
    call: &[Mount],
) -> Result<(), SetupFailure> {
    for (index, mount) in template.iter().chain(call).enumerate() {
        if let Mount::Guarded { work, .. } = mount {
            prepared.resize_with(template.len() + call.len(), || None);
            prepared[index] = Some(open_source(work, None).at_item(Step::Mount, index)?);
        }
    }
    Ok(())
}

/// Cuts propagation and stacks an empty root on `/`; returns its root directory.
pub(crate) fn stage(bytes: u64) -> Result<OwnedFd, SetupFailure> {
    nix::sys::stat::umask(Mode::empty());
    let old = open_directory(AT_FDCWD, Path::new("/")).at(Step::MountPropagation)?;
    let cut = MountAttributes {
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    sys::set_mount(old.as_fd(), cut, true).at(Step::MountPropagation)?;
    let root = tmpfs(bytes, ROOT_INODES, 0o755, NOSUID | NODEV | NOEXEC).at(Step::Staging)?;
    sys::attach(root.as_fd(), old.as_fd()).at(Step::Staging)?;
    for (name, mode) in [(MASK, 0), (c".unreadable", 0o444)] {
        create_file(root.as_fd(), name, b"", mode).at(Step::Staging)?;
    }
    Ok(root)
}

/// Fills the root: the template's mounts, then the call's.
pub(crate) fn populate(
    root: &OwnedFd,
    template: &[Mount],
    call: &Call,
    mut prepared: Prepared,
) -> Result<(), SetupFailure> {
    if template.len() + call.mounts.len() > MOUNTS_MAX {
        return Err(Errno::E2BIG).at(Step::Mount);
    }
    let builder = Builder {
        own: RefCell::new(vec![identity_of(root.as_fd()).at(Step::Mount)?.dev]),
        root,
    };
    for (index, mount) in template.iter().chain(&call.mounts).enumerate() {
        let ready = prepared.get_mut(index).and_then(Option::take);
        let source = Source::of(mount, idmaps::shown(call, index));
        builder
            .place(mount, source.as_ref(), ready)
            .at_item(Step::Mount, index)?;
    }
    Ok(())
}

/// Enters the root and lets go of the old one.
pub(crate) fn enter(root: &OwnedFd) -> Result<(), Errno> {
    nix::unistd::fchdir(root)?;
    sys::pivot_root_here()?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// Makes the root read-only; what is mounted in it keeps its own setting.
pub(crate) fn make_root_read_only() -> Result<(), Errno> {
    let root = open_directory(AT_FDCWD, Path::new("/"))?;
    sys::set_mount(
        root.as_fd(),
        MountAttributes {
            set: RDONLY,
            ..Default::default()
        },
        false,
    )
}

/// Whether the root reads back as read-only.
pub(crate) fn root_is_read_only() -> Result<bool, Errno> {
    let root = open_directory(AT_FDCWD, Path::new("/"))?;
    Ok(fstatvfs(root)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Opens what is at `path` in the root, without following a link anywhere.
pub(crate) fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    openat2(root, path, how)
}

/// Opens one of the kernel's lists for reading, while nothing else than what this process has made is
/// in the root.
pub(crate) fn open_list(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(resolve);
    openat2(root, path, how)
}

struct Builder<'a> {
    root: &'a OwnedFd,
    /// Devices of the root's file system and of those that this cell alone has: mount points are
    /// made there and nowhere else.
    own: RefCell<Vec<u64>>,
}

impl Builder<'_> {
    fn place(
        &self,
        mount: &Mount,
        source: Option<&Source<'_>>,
        prepared: Option<OwnedFd>,
    ) -> Result<(), Errno> {
        let open = || source.ok_or(Errno::EINVAL)?.open();
        match mount {
            Mount::Bind {
                target,
                directory,
                writable,
                exec,
                ..
            } => {
                let tree = match prepared {
                    Some(tree) => tree,
                    None => sys::clone_tree(open()?.as_fd(), *directory)?,
                };
                restrict(&tree, *writable, *exec, *directory)?;
                self.attach(&tree, target, *directory)
            }
            Mount::Guarded {
                target,
                exec,
                blocked,
                ..
            } => {
                let source = open()?;
                let work = prepared.ok_or(Errno::EINVAL)?;
                let overlay = self.overlay(&source, &work, blocked, *exec)?;
                self.attach(&overlay, target, true)?;
                for name in blocked {
                    self.protect(&target.join(name), RDONLY)?;
                }
                Ok(())
            }
            Mount::Tmpfs {
                target,
                bytes,
                inodes,
                mode,
                exec,
            } => {
                let noexec = if *exec { 0 } else { NOEXEC };
                let tree = tmpfs(*bytes, *inodes, *mode, NOSUID | NODEV | noexec)?;
                self.own.borrow_mut().push(fstat(&tree)?.st_dev);
                self.attach(&tree, target, true)
            }
            Mount::Proc { target } => {
                let tree = FileSystem::open(c"proc")?.mount(RDONLY | NOSUID | NODEV | NOEXEC)?;
                self.attach(&tree, target, true)?;
                match self.mask(&target.join(PROC_KEYS), false) {
                    // A kernel without keys.
                    Err(Errno::ENOENT) => Ok(()),
                    result => result,
                }
            }
            Mount::Devpts { target } => {
                let pts = FileSystem::open(c"devpts")?;
                pts.set_flag(c"newinstance")?;
                pts.set(c"ptmxmode", c"0666")?;
                pts.set(c"mode", c"0620")?;
                self.attach(&pts.mount(NOSUID | NOEXEC)?, target, true)
            }
            Mount::Queues { target } => self.queues(target),
            Mount::Device { source, target } => {
                let tree = sys::clone_tree(open_source(source, None)?.as_fd(), false)?;
                let set = RDONLY | NOSUID | NOEXEC;
                sys::set_mount(
                    tree.as_fd(),
                    MountAttributes {
                        set,
                        ..Default::default()
                    },
                    false,
                )?;
                self.attach(&tree, target, false)
            }
            Mount::File {
                target,
                contents,
                mode,
            } => {
                let (parent, name) = self.parent_in_root(target)?;
                create_file(parent.as_fd(), &name, contents, *mode)
            }
            Mount::Appended {
                source,
                target,
                contents,
                mode,
            } => {
                let mut whole = contents_of(source)?;
                whole.extend_from_slice(contents);
                let (parent, name) = self.parent_in_root(target)?;
                create_file(parent.as_fd(), &name, &whole, *mode)
            }
            Mount::Directory { target, mode } => self.directory(target, *mode),
            Mount::Symlink { target, link } => {
                let (parent, name) = self.parent_in_root(target)?;
                nix::unistd::symlinkat(link, parent, name.as_c_str())
            }
            Mount::Mask { target, directory } => self.mask(target, *directory),
            Mount::Protect { target } => self.protect(target, RDONLY),
            Mount::Pin { target } => self.protect(target, 0),
        }
    }

    fn directory(&self, target: &Path, mode: u32) -> Result<(), Errno> {
        let (parent, name) = self.parent_in_root(target)?;
        mkdirat(parent, name.as_c_str(), Mode::from_bits_truncate(mode))
    }

    /// The message queues of this process's IPC namespace.
    fn queues(&self, target: &Path) -> Result<(), Errno> {
        match FileSystem::open(c"mqueue") {
            Ok(queues) => {
                let tree = queues.mount(RDONLY | NOSUID | NODEV | NOEXEC)?;
                self.attach(&tree, target, true)
            }
            // A kernel without queues; the Landlock rule wants a place all the same.
            Err(Errno::ENODEV) => self.directory(target, 0o755),
            Err(error) => Err(error),
        }
    }

    /// Attaches a detached mount at a place in the root, which is made if it is missing.
    fn attach(&self, tree: &OwnedFd, target: &Path, directory: bool) -> Result<(), Errno> {
        let place = match open_beneath(self.root, target) {
            Err(Errno::ENOENT) => {
                let (parent, name) = self.parent_in_root(target)?;
                if directory {
                    mkdirat(&parent, name.as_c_str(), Mode::from_bits_truncate(0o755))?;
                } else {
                    create_file(parent.as_fd(), &name, b"", 0o444)?;
                }
                open_beneath(self.root, target)?
            }
            found => found?,
        };
        sys::attach(tree.as_fd(), place.as_fd())
    }

    /// Opens the parent of a target, making it and its own parents if they are missing.
    ///
    /// Fails with `ENOENT` where something would have to be made outside what is the cell's own: a
    /// mount point made through a bind would be left behind on the host.
    fn parent_in_root(&self, target: &Path) -> Result<(OwnedFd, CString), Errno> {
        let name = target.file_name().ok_or(Errno::EINVAL)?;
        let mut directory = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
        for part in target.parent().ok_or(Errno::EINVAL)?.components() {
            let part = match part {
                Component::RootDir => continue,
                Component::Normal(part) => Path::new(part),
                _ => return Err(Errno::EINVAL),
            };
            directory = match open_beneath(&directory, part) {
                Err(Errno::ENOENT) => {
                    self.demand_own(&directory)?;
                    mkdirat(&directory, part, Mode::from_bits_truncate(0o755))?;
                    open_beneath(&directory, part)?
                }
                found => found?,
            };
        }
        self.demand_own(&directory)?;
        Ok((directory, c_string(name)?))
    }

    fn demand_own(&self, directory: &OwnedFd) -> Result<(), Errno> {
        if self.own.borrow().contains(&fstat(directory)?.st_dev) {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Covers a path with something that nobody can read.
    fn mask(&self, target: &Path, directory: bool) -> Result<(), Errno> {
        let place = open_beneath(self.root, target)?;
        let cover = if directory {
            tmpfs(4096, 1, 0, RDONLY | NOSUID | NODEV | NOEXEC)?
        } else {
            let mask = open_beneath(self.root, Path::new(OsStr::from_bytes(MASK.to_bytes())))?;
            let tree = sys::clone_tree(mask.as_fd(), false)?;
            restrict(&tree, false, false, false)?;
            tree
        };
        sys::attach(cover.as_fd(), place.as_fd())
    }

    /// Mounts what is at a path over itself with further attributes.
    fn protect(&self, target: &Path, set: u64) -> Result<(), Errno> {
        let place = open_beneath(self.root, target)?;
        let tree = sys::clone_tree(place.as_fd(), true)?;
        if set != 0 {
            sys::set_mount(
                tree.as_fd(),
                MountAttributes {
                    set,
                    ..Default::default()
                },
                true,
            )?;
        }
        sys::attach(tree.as_fd(), place.as_fd())
    }

    /// An overlay whose upper layer is the host's directory and whose lower layer has a stub for
    /// each blocked name.
    ///
    /// Nothing is ever copied up, whited out or marked, as the stubs are mount points that cannot be
    /// touched: the host's directory sees plain files only. `xino`, `index`, `metacopy` and
    /// `redirect_dir` are off because each would leave extended attributes behind.
    fn overlay(
        &self,
        source: &OwnedFd,
        work: &OwnedFd,
        blocked: &[std::path::PathBuf],
        exec: bool,
    ) -> Result<OwnedFd, Errno> {
        let guard = Path::new(GUARD);
        let stubs = tmpfs(64 * 1024, 1024, 0o755, NOSUID | NODEV | NOEXEC)?;
        self.attach(&stubs, guard, true)?;
        for name in blocked {
            let mut directory = stubs.try_clone().map_err(|_| Errno::EMFILE)?;
            let mut parts = name.components().peekable();
            while let Some(part) = parts.next() {
                let Component::Normal(part) = part else {
                    return Err(Errno::EINVAL);
                };
                if parts.peek().is_none() {
                    create_file(directory.as_fd(), &c_string(part)?, b"", 0o444)?;
                } else {
                    match mkdirat(&directory, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(error) => return Err(error),
                    }
                    directory = open_beneath(&directory, Path::new(part))?;
                }
            }
        }
        nix::unistd::fchdir(self.root)?;
        let overlay = FileSystem::open(c"overlay")?;
        overlay.set(
            c"lowerdir",
            &c_string(OsStr::new(GUARD.trim_start_matches('/')))?,
        )?;
        // By descriptor: what was opened is what is used, and no path of the host's shows in the
        // cell's table of mounts.
        overlay.set(c"upperdir", &descriptor_path(source)?)?;
        overlay.set(c"workdir", &descriptor_path(work)?)?;
        overlay.set_flag(c"userxattr")?;
        for option in [c"xino", c"index", c"metacopy", c"uuid"] {
            overlay.set(option, c"off")?;
        }
        overlay.set(c"redirect_dir", c"nofollow")?;
        let noexec = if exec { 0 } else { NOEXEC };
        let tree = overlay.mount(NOSUID | NODEV | noexec)?;
        nix::unistd::fchdir(self.root)?;
        nix::mount::umount2(
            guard.strip_prefix("/").unwrap_or(guard),
            nix::mount::MntFlags::MNT_DETACH,
        )?;
        Ok(tree)
    }
}

/// Opens a path of the host, which must name no link and still be what was checked.
pub(crate) fn open_source(source: &Path, identity: Option<Identity>) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let found = openat2(AT_FDCWD, source, how)?;
    match identity {
        Some(expected) if identity_of(found.as_fd())? != expected => Err(Errno::ESTALE),
        _ => Ok(found),
    }
}

fn restrict(tree: &OwnedFd, writable: bool, exec: bool, recursive: bool) -> Result<(), Errno> {
    let mut set = NOSUID | NODEV;
    if !writable {
        set |= RDONLY;
    }
    if !exec {
        set |= NOEXEC;
    }
    sys::set_mount(
        tree.as_fd(),
        MountAttributes {
            set,
            ..Default::default()
        },
        recursive,
    )
}

fn tmpfs(bytes: u64, inodes: u64, mode: u32, attributes: u64) -> Result<OwnedFd, Errno> {
    let file_system = FileSystem::open(c"tmpfs")?;
    file_system.set(c"size", &number(bytes)?)?;
    file_system.set(c"nr_inodes", &number(inodes)?)?;
    file_system.set(c"mode", &c_string(OsStr::new(&format!("{mode:o}")))?)?;
    file_system.mount(attributes)
}

fn create_file(
    parent: BorrowedFd<'_>,
    name: &CStr,
    contents: &[u8],
    mode: u32,
) -> Result<(), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(parent, name, flags, Mode::from_bits_truncate(mode))?;
    let mut rest = contents;
    while !rest.is_empty() {
        let written = nix::unistd::write(&file, rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Reads a small regular file of the host, whose path must name no link.
fn contents_of(source: &Path) -> Result<Vec<u8>, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        // Opening a FIFO must not wait for a writer.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(resolve);
    let file = openat2(AT_FDCWD, source, how)?;
    if fstat(&file)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let mut contents = Vec::new();
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    std::fs::File::from(file)
        .take(APPENDED_BYTES_MAX + 1)
        .read_to_end(&mut contents)
        .map_err(errno)?;
    if contents.len() as u64 > APPENDED_BYTES_MAX {
        return Err(Errno::EFBIG);
    }
    Ok(contents)
}

fn open_directory(at: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(at, path, flags, Mode::empty())
}

fn number(value: u64) -> Result<CString, Errno> {
    c_string(OsStr::new(&value.to_string()))
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// A path to what a descriptor of this process refers to (proc_pid_fd(5)).
fn descriptor_path(file: &OwnedFd) -> Result<CString, Errno> {
    c_string(OsStr::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}
