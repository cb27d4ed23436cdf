//! Executing programs, and what a program finds itself to be.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use nix::errno::Errno;

use crate::{Attempt, Found, argument, errno};

pub const ATTEMPTS: &[Attempt] = &[
    ("run", run),
    ("copy_and_run", copy_and_run),
    ("copy_and_load", copy_and_load),
    ("load", load),
    ("who", who),
    ("environment", environment),
    ("descriptors", descriptors),
    ("hold", hold),
];

/// The dynamic loaders of the architectures that are built for.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// `run PROGRAM ARGUMENT…`: what it printed.
fn run(arguments: &[String]) -> Found {
    let output = Command::new(argument(arguments, 0))
        .args(&arguments[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| errno(&error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(Errno::ECHILD)
    }
}

/// `copy_and_run DIRECTORY`: executes a program from a directory that the tool can write.
fn copy_and_run(arguments: &[String]) -> Found {
    run(&[copy(argument(arguments, 0))?])
}

/// `copy_and_load DIRECTORY`: the same by way of the dynamic loader, which takes no execute right
/// on the program itself.
fn copy_and_load(arguments: &[String]) -> Found {
    load(&[copy(argument(arguments, 0))?])
}

fn copy(directory: &str) -> Result<String, Errno> {
    let path = format!("{directory}/program");
    std::fs::write(
        &path,
        std::fs::read("/usr/bin/true").map_err(|error| errno(&error))?,
    )
    .map_err(|error| errno(&error))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).map_err(|error| errno(&error))?;
    Ok(path)
}

/// `load PROGRAM ARGUMENT…`: through the dynamic loader.
fn load(arguments: &[String]) -> Found {
    let loader = LOADERS
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let loader = loader.ok_or(Errno::ENOENT)?.to_owned();
    let words: Vec<String> = std::iter::once(loader)
        .chain(arguments.iter().cloned())
        .collect();
    run(&words)
}

/// `who`: user, effective user, effective capabilities, and the groups.
fn who(_: &[String]) -> Found {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| errno(&error))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(",")
    };
    Ok(format!(
        "uid={} gid={} caps={} bound={} nnp={} seccomp={}",
        field("Uid:"),
        field("Gid:"),
        field("CapEff:"),
        field("CapBnd:"),
        field("NoNewPrivs:"),
        field("Seccomp:")
    ))
}

/// `environment`: the names of all variables.
#[allow(clippy::unnecessary_wraps, reason = "every attempt has this type")]
fn environment(_: &[String]) -> Found {
    let mut names: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names.join(","))
}

/// `descriptors`: the numbers of all that are open, but the one that lists them.
fn descriptors(_: &[String]) -> Found {
    let entries = std::fs::read_dir("/proc/self/fd").map_err(|error| errno(&error))?;
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    // The listing's own is gone by now.
    numbers.retain(|number| std::path::Path::new(&format!("/proc/self/fd/{number}")).exists());
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    Ok(numbers.join(","))
}

/// `hold [ATTEMPT…]`: makes an attempt, says so, and stays until it is killed.
fn hold(arguments: &[String]) -> Found {
    let found = match arguments.split_first() {
        Some((name, arguments)) => crate::one(name, arguments),
        None => Ok(String::new()),
    };
    println!("holding {found:?}");
    nix::unistd::alarm::cancel();
    loop {
        nix::unistd::pause();
    }
}
