//! Races against whoever looks before the kernel does.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;

use crate::raw::{self, syscall};
use crate::{Attempt, Found, argument, number};

pub const ATTEMPTS: &[Attempt] = &[("swap_path", swap_path), ("steer", steer)];

/// Longest race; a slow machine makes fewer attempts.
const RACE_MAX: Duration = Duration::from_secs(8);

/// `swap_path ALLOWED OTHER TIMES`: opens a path that another thread keeps changing between two of
/// the same length; says whether it opened any, and what it read other than `plain`.
#[allow(clippy::unnecessary_wraps, reason = "every attempt has this type")]
fn swap_path(arguments: &[String]) -> Found {
    let (allowed, other) = (argument(arguments, 0), argument(arguments, 1));
    assert_eq!(allowed.len(), other.len(), "the paths are of one length");
    let bytes = |path: &str| {
        path.bytes()
            .chain([0])
            .map(AtomicU8::new)
            .collect::<Vec<_>>()
    };
    let path = bytes(allowed);
    let stop = AtomicBool::new(false);
    let mut opened = 0;
    let mut wrong = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for text in [other, allowed] {
                    for (byte, new) in path.iter().zip(text.bytes()) {
                        byte.store(new, Ordering::Relaxed);
                    }
                }
            }
        });
        let begun = Instant::now();
        for _ in 0..number::<u32>(arguments, 2) {
            if begun.elapsed() > RACE_MAX {
                break;
            }
            let path = path.as_ptr() as usize;
            let file = syscall!(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY);
            let Ok(file) = file.map(raw::descriptor) else {
                continue;
            };
            opened += 1;
            let mut contents = [0; 64];
            let length = nix::unistd::read(&file, &mut contents).unwrap_or(0);
            if &contents[..length] != b"plain" {
                wrong = String::from_utf8_lossy(&contents[..length]).into_owned();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    Ok(
        format!("{} {wrong}", if opened > 0 { "opened" } else { "never" })
            .trim_end()
            .to_owned(),
    )
}

/// `steer NUMBER ARGUMENT`: a debugger has the process that it traces make another call than the one
/// it was about to make; the error is that of the call.
#[cfg(target_arch = "x86_64")]
fn steer(arguments: &[String]) -> Found {
    use nix::sys::signal::{Signal, raise};
    use nix::sys::wait::{WaitStatus, waitpid};

    /// Where the registers are in `struct user_regs_struct`.
    const ORIGINAL_RAX: usize = 15 * 8;
    const RDI: usize = 14 * 8;
    const REGISTERS: usize = 27 * 8;
    let (call, first): (i64, i64) = (number(arguments, 0), number(arguments, 1));
    let child = raw::fork(|| {
        let traced = syscall!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0);
        if let Err(errno) = traced {
            return errno as i32;
        }
        let _ = raise(Signal::SIGSTOP);
        // A call that nothing else makes here.
        match syscall!(libc::SYS_getpgid, 0) {
            Ok(_) => 0,
            Err(errno) => errno as i32,
        }
    })?;
    loop {
        match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => return Ok(String::new()),
            WaitStatus::Exited(_, errno) => return Err(Errno::from_raw(errno)),
            WaitStatus::Stopped(..) => {}
            other => return Ok(format!("{other:?}")),
        }
        let mut registers = [0_u8; REGISTERS];
        syscall!(
            libc::SYS_ptrace,
            libc::PTRACE_GETREGS,
            child.as_raw(),
            0,
            &mut registers[..]
        )?;
        let word = |at: usize| at..at + 8;
        if registers[word(ORIGINAL_RAX)] == libc::SYS_getpgid.to_ne_bytes() {
            registers[word(ORIGINAL_RAX)].copy_from_slice(&call.to_ne_bytes());
            registers[word(RDI)].copy_from_slice(&first.to_ne_bytes());
            syscall!(
                libc::SYS_ptrace,
                libc::PTRACE_SETREGS,
                child.as_raw(),
                0,
                &registers[..]
            )?;
        }
        syscall!(libc::SYS_ptrace, libc::PTRACE_SYSCALL, child.as_raw(), 0, 0)?;
    }
}

/// `steer`, where the registers have other names.
#[cfg(not(target_arch = "x86_64"))]
fn steer(_: &[String]) -> Found {
    let _ = number::<i32>;
    Err(Errno::ENOSYS)
}
