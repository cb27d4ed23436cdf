//! Executing what was never a file with a name.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;

use crate::raw::{self, syscall};
use crate::{Attempt, Found, argument, errno, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("memfd", memfd),
    ("memfd_script", memfd_script),
    ("nameless", nameless),
];

/// `memfd FLAGS`: executes a program from memory.
fn memfd(arguments: &[String]) -> Found {
    from_memory(number(arguments, 0), &program()?)
}

/// `memfd_script FLAGS`: executes a script from memory.
fn memfd_script(arguments: &[String]) -> Found {
    from_memory(number(arguments, 0), b"#!/bin/sh\nexit 0\n")
}

/// `nameless DIRECTORY`: executes a program from a file that never had a name.
fn nameless(arguments: &[String]) -> Found {
    let mut options = File::options();
    options
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o755);
    let mut file = options
        .open(argument(arguments, 0))
        .map_err(|error| errno(&error))?;
    file.write_all(&program()?).map_err(|error| errno(&error))?;
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let again = again.map_err(|error| errno(&error))?;
    drop(file);
    execute(&again)
}

fn program() -> Result<Vec<u8>, Errno> {
    std::fs::read("/usr/bin/true").map_err(|error| errno(&error))
}

fn from_memory(flags: u32, program: &[u8]) -> Found {
    let file = raw::descriptor(syscall!(libc::SYS_memfd_create, c"program", flags)?);
    let mut file = File::from(file);
    file.write_all(program).map_err(|error| errno(&error))?;
    execute(&file)
}

fn execute(file: &impl AsFd) -> Found {
    raw::in_a_child(|| {
        let environment: [&CStr; 0] = [];
        let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
        let Err(error) = nix::unistd::execveat(file, c"", &[c"program"], &environment, flags);
        error
    })
    .map(|()| String::new())
}
