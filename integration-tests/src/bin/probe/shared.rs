//! System V and POSIX IPC.

use nix::libc;

use crate::raw::syscall;
use crate::{Attempt, Found, argument, names, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("segment", segment),
    ("semaphores", semaphores),
    ("queue", queue),
    ("named_queue", named_queue),
    ("many_named_queues", many_named_queues),
    ("remove_segment", remove_segment),
    ("remove_semaphores", remove_semaphores),
    ("remove_queue", remove_queue),
    ("remove_named_queue", remove_named_queue),
];

const EVERYONE: i32 = 0o666;

fn flags(arguments: &[String]) -> i32 {
    match argument(arguments, 1) {
        "create" => libc::IPC_CREAT | EVERYONE,
        _ => 0,
    }
}

/// `segment KEY create|find`
fn segment(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_shmget, key, 4096, flags(arguments))?;
    Ok(id.to_string())
}

/// `semaphores KEY create|find`
fn semaphores(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_semget, key, 1, flags(arguments))?;
    Ok(id.to_string())
}

/// `queue KEY create|find`
fn queue(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_msgget, key, flags(arguments))?;
    Ok(id.to_string())
}

/// `named_queue NAME create|find`
fn named_queue(arguments: &[String]) -> Found {
    let name = names::text(argument(arguments, 0));
    let create = flags(arguments) & libc::IPC_CREAT != 0;
    let flags = libc::O_RDWR | if create { libc::O_CREAT } else { 0 };
    syscall!(libc::SYS_mq_open, name.as_c_str(), flags, EVERYONE, 0)?;
    Ok(String::new())
}

/// `many_named_queues NAME MOST`: makes so many, and says how many there could be and why no more.
fn many_named_queues(arguments: &[String]) -> Found {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let most: u32 = number(arguments, 1);
    for made in 0..most {
        let name = names::text(&format!("{}-{made}", argument(arguments, 0)));
        match syscall!(libc::SYS_mq_open, name.as_c_str(), flags, EVERYONE, 0) {
            Ok(_) => {}
            Err(errno) if made == 0 => return Err(errno),
            Err(errno) => return Ok(format!("{made} {errno:?}")),
        }
    }
    Ok(most.to_string())
}

/// `remove_segment KEY`
fn remove_segment(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_shmget, key, 0, 0)?;
    syscall!(libc::SYS_shmctl, id, libc::IPC_RMID, 0)?;
    Ok(String::new())
}

/// `remove_semaphores KEY`
fn remove_semaphores(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_semget, key, 0, 0)?;
    syscall!(libc::SYS_semctl, id, 0, libc::IPC_RMID, 0)?;
    Ok(String::new())
}

/// `remove_queue KEY`
fn remove_queue(arguments: &[String]) -> Found {
    let key: i32 = number(arguments, 0);
    let id = syscall!(libc::SYS_msgget, key, 0)?;
    syscall!(libc::SYS_msgctl, id, libc::IPC_RMID, 0)?;
    Ok(String::new())
}

/// `remove_named_queue NAME`
fn remove_named_queue(arguments: &[String]) -> Found {
    let name = names::text(argument(arguments, 0));
    syscall!(libc::SYS_mq_unlink, name.as_c_str())?;
    Ok(String::new())
}
