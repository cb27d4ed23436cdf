//! The cell's namespaces: identity, lifetime, name and cgroup; see namespaces(7).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::c_int;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use crate::spec::Ids;
use crate::sys;
use crate::wire::CgroupEntry;

/// Namespaces that a cell is cloned into. With cgroup v1 the cgroup namespace comes later, once the
/// cell has entered its cgroups, so that these are its roots.
pub(crate) fn clone_flags(cgroup: CgroupEntry) -> c_int {
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match cgroup {
        CgroupEntry::V1(_) => flags.bits(),
        CgroupEntry::V2 | CgroupEntry::None => (flags | CloneFlags::CLONE_NEWCGROUP).bits(),
    }
}

/// Has the kernel kill this process when the thread that made it ends (`PR_SET_PDEATHSIG`).
///
/// A change of user clears it, so it is set again after one. It is one of two bonds: the other is
/// the end of file on the report socket, for a parent that was gone before this call.
pub(crate) fn die_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
}

/// Waits until the launcher has written the id maps.
pub(crate) fn wait_for_id_maps(mapped: &OwnedFd) -> Result<(), Errno> {
    let mut byte = [0];
    match nix::unistd::read(mapped.as_fd(), &mut byte)? {
        0 => Err(Errno::ECHILD),
        _ => Ok(()),
    }
}

/// Writes the id maps of a new user namespace: one user and one group, and no way to drop
/// supplementary groups (user_namespaces(7)).
///
/// Each file belongs to the process `pid`, which is stopped in front of [`wait_for_id_maps`].
pub(crate) fn write_id_maps(pid: i32, inside: Ids, host: Ids) -> Result<(), Errno> {
    if host.uid == 0 || inside.uid == 0 {
        return Err(Errno::EPERM);
    }
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", inside.uid, host.uid))?;
    write("gid_map", format!("{} {} 1", inside.gid, host.gid))
}

/// Enters the cgroups that were handed over, unless the clone has done so already.
pub(crate) fn enter_cgroup(entry: CgroupEntry, procs: &[OwnedFd]) -> Result<(), Errno> {
    if let CgroupEntry::V1(_) = entry {
        for file in procs {
            // "0" means the writing process (cgroups(7)).
            nix::unistd::write(file, b"0")?;
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?;
    }
    Ok(())
}

/// Becomes the cell's user and group. As root is not mapped, no capability is lost or gained.
pub(crate) fn take_identity(inside: Ids) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(inside.uid), Gid::from_raw(inside.gid));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    die_with_parent()
}

/// Leaves the session keyring of whoever started the supervisor, whose keys would be searchable.
pub(crate) fn leave_session_keyring() -> Result<(), Errno> {
    match sys::join_new_session_keyring() {
        // Without keyrings in the kernel there is nothing to leave.
        Err(Errno::ENOSYS) => Ok(()),
        result => result,
    }
}

/// Names the host inside the cell's UTS namespace.
pub(crate) fn set_hostname(name: &str) -> Result<(), Errno> {
    nix::unistd::sethostname(name)
}

/// Starts a session of its own: no controlling terminal, a process group of its own.
pub(crate) fn leave_terminal() -> Result<(), Errno> {
    sys::reset_signals()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::unistd::setsid().map(drop)
}

/// A user namespace that shows what `owner` owns on disk as the cell's `host` user, for an idmapped
/// mount; see mount_setattr(2). Only a launcher that runs as root can use one.
pub(crate) fn idmap_namespace(
    proof: sys::SingleThreaded,
    owner: Ids,
    host: Ids,
) -> Result<OwnedFd, Errno> {
    let (hold, release) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match sys::clone3(proof, CloneFlags::CLONE_NEWUSER.bits(), None)? {
        sys::Forked::Child => {
            drop(release);
            let _ = nix::unistd::read(hold.as_fd(), &mut [0]);
            sys::exit_now(0)
        }
        sys::Forked::Parent(child) => {
            drop(hold);
            let result = describe_idmap(child.pid, owner, host);
            drop(release);
            result
        }
    }
}

fn describe_idmap(pid: i32, owner: Ids, host: Ids) -> Result<OwnedFd, Errno> {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let map = |file: &str, on_disk: u32, shown: u32| {
        std::fs::write(
            format!("/proc/{pid}/{file}"),
            format!("{on_disk} {shown} 1"),
        )
        .map_err(io)
    };
    map("uid_map", owner.uid, host.uid)?;
    map("gid_map", owner.gid, host.gid)?;
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user")).map_err(io)?;
    Ok(namespace.into())
}

/// Whether two descriptors refer to the same file.
pub(crate) fn identity_of(fd: BorrowedFd<'_>) -> Result<crate::spec::Identity, Errno> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(crate::spec::Identity {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}
