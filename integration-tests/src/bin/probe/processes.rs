//! Other processes: signals, priorities, limits; and being somebody else.

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::raw::syscall;
use crate::{Attempt, Found, argument, errno, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("kill", kill),
    ("kill_all", kill_all),
    ("queue_signal", queue_signal),
    ("pidfd", pidfd),
    ("priority", priority),
    ("io_priority", io_priority),
    ("affinity", affinity),
    ("scheduler", scheduler),
    ("limit", limit),
    ("trace_me", trace_me),
    ("trace", trace),
    ("own_signals", own_signals),
    ("user", user),
    ("groups", groups),
    ("capability", capability),
    ("map_users", map_users),
    ("count", count),
    ("host_name_is", host_name_is),
];

fn pid(arguments: &[String], index: usize) -> Pid {
    Pid::from_raw(number(arguments, index))
}

/// `kill PID`: with SIGTERM.
fn kill(arguments: &[String]) -> Found {
    nix::sys::signal::kill(pid(arguments, 0), Signal::SIGTERM)?;
    Ok(String::new())
}

/// `kill_all`: SIGUSR1, which ends who does not expect it, to everyone that can be named.
fn kill_all(_: &[String]) -> Found {
    nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGUSR1)?;
    Ok(String::new())
}

/// `queue_signal PID`: SIGTERM with a value.
fn queue_signal(arguments: &[String]) -> Found {
    const SI_QUEUE: i32 = -1;
    let mut info = [0_u8; 128];
    info[..4].copy_from_slice(&libc::SIGTERM.to_ne_bytes());
    info[8..12].copy_from_slice(&SI_QUEUE.to_ne_bytes());
    let process: i32 = number(arguments, 0);
    syscall!(libc::SYS_rt_sigqueueinfo, process, libc::SIGTERM, &info[..])?;
    Ok(String::new())
}

/// `pidfd PID`
fn pidfd(arguments: &[String]) -> Found {
    let process: i32 = number(arguments, 0);
    syscall!(libc::SYS_pidfd_open, process, 0)?;
    Ok(String::new())
}

/// `priority process|user WHO`: the lowest.
fn priority(arguments: &[String]) -> Found {
    let which = match argument(arguments, 0) {
        "process" => libc::PRIO_PROCESS,
        _ => libc::PRIO_USER,
    };
    let who: i32 = number(arguments, 1);
    syscall!(libc::SYS_setpriority, which, who, 19)?;
    Ok(String::new())
}

/// `io_priority process|user WHO`: idle.
fn io_priority(arguments: &[String]) -> Found {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_WHO_USER: i32 = 3;
    const IDLE: i32 = 3 << 13;
    let which = match argument(arguments, 0) {
        "process" => IOPRIO_WHO_PROCESS,
        _ => IOPRIO_WHO_USER,
    };
    let who: i32 = number(arguments, 1);
    syscall!(libc::SYS_ioprio_set, which, who, IDLE)?;
    Ok(String::new())
}

/// `affinity PID`: the first CPU only.
fn affinity(arguments: &[String]) -> Found {
    let mut set = nix::sched::CpuSet::new();
    set.set(0)?;
    nix::sched::sched_setaffinity(pid(arguments, 0), &set)?;
    Ok(String::new())
}

/// `scheduler PID`: batch.
fn scheduler(arguments: &[String]) -> Found {
    let process: i32 = number(arguments, 0);
    let parameters = 0_i32.to_ne_bytes();
    syscall!(
        libc::SYS_sched_setscheduler,
        process,
        libc::SCHED_BATCH,
        &parameters[..]
    )?;
    Ok(String::new())
}

/// `limit PID`: no more descriptors.
fn limit(arguments: &[String]) -> Found {
    let process: i32 = number(arguments, 0);
    let limit = [3_u64, 3].map(u64::to_ne_bytes).concat();
    let which = Resource::RLIMIT_NOFILE as i32;
    syscall!(libc::SYS_prlimit64, process, which, &limit[..], 0)?;
    Ok(String::new())
}

/// `trace_me`
fn trace_me(_: &[String]) -> Found {
    syscall!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)?;
    Ok(String::new())
}

/// `trace PID`
fn trace(arguments: &[String]) -> Found {
    let process: i32 = number(arguments, 0);
    syscall!(libc::SYS_ptrace, libc::PTRACE_SEIZE, process, 0, 0)?;
    Ok(String::new())
}

/// `own_signals COMMAND VALUE`: fcntl on standard output, which somebody outside may share.
fn own_signals(arguments: &[String]) -> Found {
    let command: i32 = number(arguments, 0);
    let value: i32 = number(arguments, 1);
    syscall!(libc::SYS_fcntl, 1, command, value)?;
    Ok(String::new())
}

/// `user ID`: becomes that user.
fn user(arguments: &[String]) -> Found {
    let user = nix::unistd::Uid::from_raw(number(arguments, 0));
    nix::unistd::setresuid(user, user, user)?;
    Ok(String::new())
}

/// `groups`: leaves all supplementary ones.
fn groups(_: &[String]) -> Found {
    syscall!(libc::SYS_setgroups, 0, 0)?;
    Ok(String::new())
}

/// `capability`: asks for CAP_SYS_ADMIN.
fn capability(_: &[String]) -> Found {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SYS_ADMIN: u32 = 1 << 21;
    let header = [VERSION_3, 0].map(u32::to_ne_bytes).concat();
    let sets = [CAP_SYS_ADMIN, CAP_SYS_ADMIN, 0, 0, 0, 0]
        .map(u32::to_ne_bytes)
        .concat();
    syscall!(libc::SYS_capset, &header[..], &sets[..])?;
    Ok(String::new())
}

/// `map_users`: writes the id map of a fresh user namespace, with root in it.
fn map_users(_: &[String]) -> Found {
    let user = nix::unistd::geteuid();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(|error| errno(&error))?;
    Ok(String::new())
}

/// `count`: how many processes can be seen.
fn count(_: &[String]) -> Found {
    let entries = std::fs::read_dir("/proc").map_err(|error| errno(&error))?;
    let processes =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(processes.count().to_string())
}

/// `host_name_is`
fn host_name_is(_: &[String]) -> Found {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .map_err(|_| Errno::EINVAL)
}
