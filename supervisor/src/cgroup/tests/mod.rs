//! Groups on the kernel that runs the tests, with real processes in them.
//!
//! Where the host gives no groups, each test says by name that it was skipped. The same tests run on
//! v1 and v2, as root and as an ordinary user.
#![allow(clippy::disallowed_methods)] // a test may

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tokio::time::timeout;

use super::*;

const MIB: u64 = 1 << 20;
const LIMITS: CellLimits = CellLimits {
    memory: 64 * MIB,
    swap: 0,
    cpu: 1.0,
    pids: 64,
};
/// Beyond any scheduling hiccup, on an emulated machine too.
const LONG: Duration = Duration::from_secs(30);
/// Takes far more than [`LIMITS`] allow: without a newline tail(1) keeps everything.
const HOG: &str = "head -c 300000000 /dev/zero | tail > /dev/null";

/// Says loudly that a test did not run, past the capture of output, and where `make test` counts it.
fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED cgroup::tests::{test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let list = std::env::current_exe()
        .ok()
        .filter(|_| std::env::var_os("CARGO").is_some())
        .and_then(|path| Some(path.ancestors().nth(3)?.join("skipped.txt")));
    let file = list.map(|list| {
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(list)
    });
    if let Some(Ok(mut file)) = file {
        file.write_all(line.as_bytes()).unwrap();
    }
}

fn cgroups(test: &str) -> Option<&'static Cgroups> {
    static FOUND: OnceLock<Detection> = OnceLock::new();
    match FOUND.get_or_init(|| detect(&Options::default())) {
        Detection::Usable(cgroups) => Some(cgroups),
        Detection::Unusable { reason, mend } => {
            skip(test, &format!("{reason}; hint: {mend}"));
            None
        }
    }
}

/// A group for this test, or a loud skip.
fn group(test: &str, limits: CellLimits) -> Option<CellCgroup> {
    Some(cgroups(test)?.create(test, &limits).unwrap())
}

macro_rules! some_or_skip {
    ($option:expr) => {
        match $option {
            Some(value) => value,
            None => return,
        }
    };
}

mod counting;
mod ending;
mod hosts;

/// A shell that enters the group and then runs `script`.
fn shell(group: &CellCgroup, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let enter = r#"for group do echo $$ > "$group/cgroup.procs" || exit 99; done; "#;
    command
        .args(["-c", &format!("{enter}{script}"), "sh"])
        .args(group.directories.paths());
    command
}

fn run(group: &CellCgroup, script: &str) -> ExitStatus {
    let output = shell(group, script).stderr(Stdio::null()).status();
    let status = output.unwrap();
    assert_ne!(
        status.code(),
        Some(99),
        "the shell could not enter the group"
    );
    status
}

/// A process in the group that has said `ready`.
fn started(group: &CellCgroup, script: &str) -> Child {
    let mut child = shell(group, &format!("echo ready; {script}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[track_caller]
fn assert_gone(paths: &[PathBuf]) {
    for path in paths {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

fn paths(group: &CellCgroup) -> Vec<PathBuf> {
    group.directories.paths().to_vec()
}

/// This test binary again, running one of its roles.
fn role(module: &str, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("cgroup::tests::{module}::role_{name}"))
        .env("TOOLCELL_TEST_ROLE", name);
    command
}

fn plays(name: &str) -> bool {
    std::env::var_os("TOOLCELL_TEST_ROLE").is_some_and(|role| role == *name)
}
