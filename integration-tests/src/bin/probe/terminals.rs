//! Terminals: typing for somebody else, and taking over theirs.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;

use crate::raw::syscall;
use crate::{Attempt, Found, argument, errno, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("request", request),
    ("type_into", type_into),
    ("controlling", controlling),
];

/// A terminal of our own, which becomes the controlling one.
fn own_terminal() -> Result<(File, File), Errno> {
    let mut both = OpenOptions::new();
    both.read(true).write(true);
    let master = both.open("/dev/ptmx").map_err(|error| errno(&error))?;
    let unlocked = 0_i32.to_ne_bytes();
    syscall!(
        libc::SYS_ioctl,
        master.as_raw_fd(),
        libc::TIOCSPTLCK,
        &unlocked[..]
    )?;
    let mut index = [0_u8; 4];
    syscall!(
        libc::SYS_ioctl,
        master.as_raw_fd(),
        libc::TIOCGPTN,
        &mut index[..]
    )?;
    let path = format!("/dev/pts/{}", u32::from_ne_bytes(index));
    // One that leads a session already keeps the terminal that it has.
    let _ = nix::unistd::setsid();
    let terminal = both.open(path).map_err(|error| errno(&error))?;
    let _ = syscall!(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSCTTY, 0);
    Ok((master, terminal))
}

/// `request NUMBER`: an ioctl on a terminal of our own, with a byte to read.
fn request(arguments: &[String]) -> Found {
    let request: u64 = number(arguments, 0);
    let (master, terminal) = own_terminal()?;
    // Were it closed, the terminal would hang up on us before we can say what came of it.
    std::mem::forget(master);
    let byte = *b"x\0\0\0";
    syscall!(libc::SYS_ioctl, terminal.as_raw_fd(), request, &byte[..])?;
    Ok(String::new())
}

/// `type_into PATH`: pushes a character into that terminal's input.
fn type_into(arguments: &[String]) -> Found {
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(argument(arguments, 0));
    let terminal = terminal.map_err(|error| errno(&error))?;
    let byte = *b"x";
    syscall!(
        libc::SYS_ioctl,
        terminal.as_raw_fd(),
        libc::TIOCSTI,
        &byte[..]
    )?;
    Ok(String::new())
}

/// `controlling`: opens the terminal that controls this process.
fn controlling(_: &[String]) -> Found {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    terminal
        .map(|_| String::new())
        .map_err(|error| errno(&error))
}
