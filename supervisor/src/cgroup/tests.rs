//! Groups on the kernel that runs the tests, with real processes in them.
//!
//! Where the host gives no groups, each test says by name that it was skipped. The same tests run on
//! v1 and v2, as root and as an ordinary user.

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

#[tokio::test]
async fn limits_read_back_as_they_were_asked_for() {
    let group = some_or_skip!(group("limits_read_back_as_they_were_asked_for", LIMITS));
    let lines = group.read_back();
    let (memory, pids) = match group.entry() {
        CgroupEntry::V2 => ("memory.max = 67108864", "pids.max = 65"),
        _ => ("memory.limit_in_bytes = 67108864", "pids.max = 65"),
    };
    assert!(lines.iter().any(|line| line == memory), "{lines:?}");
    assert!(lines.iter().any(|line| line == pids), "{lines:?}");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
}

#[test]
fn a_group_that_exists_is_not_taken_over() {
    let name = "a_group_that_exists_is_not_taken_over";
    let held = some_or_skip!(group(name, LIMITS));
    let again = cgroups(name).unwrap().create(name, &LIMITS);
    assert!(matches!(again, Err(CgroupError::Make { .. })), "{again:?}");
    assert!(held.directories.paths().iter().all(|path| path.exists()));
}

#[test]
fn nothing_is_left_when_a_limit_is_refused() {
    let name = "nothing_is_left_when_a_limit_is_refused";
    let cgroups = some_or_skip!(cgroups(name));
    let impossible = CellLimits {
        pids: u32::MAX,
        ..LIMITS
    };
    let refused = cgroups.create(name, &impossible);
    assert!(refused.is_err(), "{refused:?}");
    for parent in cgroups.parents() {
        let left: Vec<_> = directories::children(parent)
            .into_iter()
            .filter(|path| path.to_string_lossy().ends_with(name))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn every_entry_descriptor_leads_into_the_group() {
    let name = "every_entry_descriptor_leads_into_the_group";
    let group = some_or_skip!(group(name, LIMITS));
    let CgroupEntry::V1(count) = group.entry() else {
        skip(name, "v1 only; see tests/cgroup_entry.rs for v2");
        return;
    };
    let descriptors = group.entry_descriptors();
    assert_eq!(descriptors.len(), usize::from(count));
    for descriptor in descriptors {
        let file = std::fs::File::from(descriptor.try_clone_to_owned().unwrap());
        // "0" is the writing process.
        let output = Command::new("/bin/sh")
            .args(["-c", "echo 0; cat /proc/self/cgroup >&2"])
            .stdout(file)
            .output()
            .unwrap();
        let within = String::from_utf8(output.stderr).unwrap();
        assert!(within.contains(name), "{within}");
    }
}

#[test]
fn out_of_memory_is_told_from_a_plain_kill() {
    let name = "out_of_memory_is_told_from_a_plain_kill";
    let hungry = some_or_skip!(group(name, LIMITS));
    let status = run(
        &hungry,
        "head -c 300000000 /dev/zero | exec tail > /dev/null",
    );
    assert!(!status.success());
    assert!(hungry.events().unwrap().oom_kills >= 1);
    drop(hungry);

    let killed = group(name, LIMITS).unwrap();
    let status = run(&killed, "kill -9 $$");
    assert_eq!(status.signal(), Some(9));
    assert_eq!(killed.events().unwrap(), Events::default());
}

#[test]
fn out_of_memory_of_a_grandchild_is_seen_however_the_tool_ends() {
    let name = "out_of_memory_of_a_grandchild_is_seen_however_the_tool_ends";
    let group = some_or_skip!(group(name, LIMITS));
    let status = run(&group, &format!("( ({HOG}) & wait ); exit 0"));
    match group.entry() {
        // The whole cell went.
        CgroupEntry::V2 => assert_eq!(status.signal(), Some(9)),
        _ => assert_eq!(status.code(), Some(0)),
    }
    assert!(group.events().unwrap().oom_kills >= 1);
}

#[test]
fn files_in_memory_count_as_memory() {
    let name = "files_in_memory_count_as_memory";
    let group = some_or_skip!(group(name, LIMITS));
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let script = format!("head -c 300000000 /dev/zero > {}", file.path().display());
    assert!(!run(&group, &script).success());
    assert!(group.events().unwrap().oom_kills >= 1);
}

#[tokio::test]
async fn a_wait_resolves_when_memory_runs_out() {
    let name = "a_wait_resolves_when_memory_runs_out";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, HOG);
    timeout(LONG, group.event()).await.expect("no event");
    assert!(group.notice.is_told(), "the kernel does not tell");
    assert!(group.events().unwrap().oom_kills >= 1);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_wait_resolves_when_a_fork_is_refused() {
    let name = "a_wait_resolves_when_a_fork_is_refused";
    let group = some_or_skip!(group(name, CellLimits { pids: 2, ..LIMITS }));
    let mut child = started(&group, "sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait");
    timeout(LONG, group.event()).await.expect("no event");
    assert!(group.events().unwrap().pids_denied >= 1);
    group.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_wait_that_was_given_up_loses_nothing() {
    let name = "a_wait_that_was_given_up_loses_nothing";
    let group = some_or_skip!(group(name, CellLimits { pids: 2, ..LIMITS }));
    // The control: work that runs into no limit is no event.
    let status = run(&group, "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done");
    assert!(status.success());
    let early = timeout(Duration::from_millis(200), group.event()).await;
    assert!(early.is_err(), "an event without a reason");
    let _ = run(&group, "sleep 0 & sleep 0 & sleep 0 & sleep 0 & wait");
    assert!(group.events().unwrap().pids_denied >= 1);
    timeout(LONG, group.event()).await.expect("no event");
}

#[test]
fn a_refused_fork_is_counted_and_a_granted_one_is_not() {
    let name = "a_refused_fork_is_counted_and_a_granted_one_is_not";
    let script = "sleep 0 & sleep 0 & sleep 0 & wait";
    let tight = some_or_skip!(group(name, CellLimits { pids: 1, ..LIMITS }));
    assert!(!run(&tight, script).success());
    assert!(tight.events().unwrap().pids_denied >= 1);
    drop(tight);
    let roomy = group(name, LIMITS).unwrap();
    assert!(run(&roomy, script).success());
    assert_eq!(roomy.events().unwrap().pids_denied, 0);
}

#[test]
fn forks_that_a_kill_refuses_are_not_counted() {
    let name = "forks_that_a_kill_refuses_are_not_counted";
    let group = some_or_skip!(group(name, LIMITS));
    let forking = "while :; do /bin/true & /bin/true & wait; done";
    let mut child = started(&group, &format!("({forking}) & ({forking}) & {forking}"));
    group.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(group.events().unwrap().pids_denied, 0);
}

#[test]
fn cpu_time_of_all_processes_is_counted() {
    let name = "cpu_time_of_all_processes_is_counted";
    let group = some_or_skip!(group(name, LIMITS));
    let before = group.cpu_micros().unwrap();
    let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    assert!(run(&group, &format!("({busy}) & {busy}; wait")).success());
    let used = group.cpu_micros().unwrap() - before;
    assert!(used > 10_000, "{used} microseconds");
    let usage = group.usage();
    let sum = usage.user_micros + usage.system_micros;
    assert!(sum.abs_diff(group.cpu_micros().unwrap()) <= 2, "{usage:?}");
    assert!(
        usage.memory_peak_bytes.is_none_or(|peak| peak > 100_000),
        "{usage:?}"
    );
    // Two shells, of which one has the room of the cell's own process.
    assert!(usage.pids_peak.is_none_or(|peak| peak == 1), "{usage:?}");
}

#[test]
fn the_cpu_limit_holds_for_all_processes_together() {
    let name = "the_cpu_limit_holds_for_all_processes_together";
    let group = some_or_skip!(group(name, CellLimits { cpu: 0.2, ..LIMITS }));
    let mut child = started(&group, "(while :; do :; done) & while :; do :; done");
    let since = Instant::now();
    let from = group.cpu_micros().unwrap();
    while group.cpu_micros().unwrap() - from < 200_000 {
        assert!(since.elapsed() < LONG, "it does not run at all");
        std::thread::yield_now();
    }
    // 200 ms of CPU time at 0.2 cores are a second, less what one period may be early.
    assert!(
        since.elapsed() > Duration::from_millis(700),
        "{:?}",
        since.elapsed()
    );
    // And without the limit it is quicker than that limit allows.
    group.unthrottle();
    let (since, from) = (Instant::now(), group.cpu_micros().unwrap());
    while group.cpu_micros().unwrap() - from < 2_000_000 {
        assert!(since.elapsed() < Duration::from_secs(9), "still throttled");
        std::thread::yield_now();
    }
    group.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn daemons_stopped_and_forking_processes_all_end() {
    let name = "daemons_stopped_and_forking_processes_all_end";
    let group = some_or_skip!(group(name, LIMITS));
    let script = "trap '' TERM HUP INT; setsid sleep 600 & setsid sh -c 'kill -STOP $$' & \
                  (while :; do /bin/true & wait; done) & sleep 600";
    let mut child = started(&group, script);
    assert!(!group.is_empty());
    group.kill().unwrap();
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_fork_bomb_ends() {
    let name = "a_fork_bomb_ends";
    let group = some_or_skip!(group(
        name,
        CellLimits {
            pids: 200,
            ..LIMITS
        }
    ));
    let mut child = started(&group, "f() { f & f & wait; }; f");
    timeout(LONG, group.event())
        .await
        .expect("it never hit its limit");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_throttled_group_ends_at_once() {
    let name = "a_throttled_group_ends_at_once";
    let group = some_or_skip!(group(
        name,
        CellLimits {
            cpu: 0.01,
            ..LIMITS
        }
    ));
    let busy = "(while :; do :; done) & ".repeat(8);
    let mut child = started(&group, &format!("{busy} wait"));
    let since = Instant::now();
    group.kill().unwrap();
    group.remove().await.unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    child.wait().unwrap();
}

#[tokio::test]
async fn a_zombie_that_nobody_reaps_does_not_hold_a_group() {
    let name = "a_zombie_that_nobody_reaps_does_not_hold_a_group";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, "exit 7");
    // Dead, and not waited for.
    let end = timeout(LONG, async {
        while !group.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    end.await.expect("it never ended");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[tokio::test]
async fn a_group_within_the_group_goes_too() {
    let name = "a_group_within_the_group_goes_too";
    let group = some_or_skip!(group(name, LIMITS));
    // Processes may only be in leaves where v2 controllers are handed down: here none are.
    for path in group.directories.paths() {
        std::fs::create_dir(path.join("inner")).unwrap();
    }
    let inner =
        r#"for group do echo $$ > "$group/inner/cgroup.procs"; done; echo in; exec sleep 600"#;
    let mut child = shell(&group, inner).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(!group.is_empty());
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_dropped_group_is_killed_and_removed() {
    let name = "a_dropped_group_is_killed_and_removed";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, "exec sleep 600");
    let gone = paths(&group);
    drop(group);
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

/// This test binary again, running one of the roles below.
fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("cgroup::tests::role_{name}"))
        .env("TOOLCELL_TEST_ROLE", name);
    command
}

fn plays(name: &str) -> bool {
    std::env::var_os("TOOLCELL_TEST_ROLE").is_some_and(|role| role == *name)
}

/// Not a property but a part in other tests': a supervisor with one busy cell, until it is killed.
#[test]
fn role_supervisor() {
    if !plays("supervisor") {
        return;
    }
    let group = group("supervised", LIMITS).unwrap();
    let mut child = started(&group, "exec sleep 600");
    let first = group.directories.paths()[0].display().to_string();
    println!("\nrole {} {first}", child.id());
    child.wait().unwrap();
}

#[test]
fn a_sweep_takes_the_dead_and_leaves_the_living() {
    let name = "a_sweep_takes_the_dead_and_leaves_the_living";
    let mine = some_or_skip!(group(name, LIMITS));
    let mut supervisor = role("supervisor").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find(|line| line.starts_with("role "));
    let line = line.expect("the supervisor did not start");
    let (pid, theirs) = line["role ".len()..].split_once(' ').unwrap();
    let (process, theirs) = (Path::new("/proc").join(pid), Path::new(theirs));

    let cgroups = cgroups(name).unwrap();
    let _ = cgroups.sweep();
    assert!(theirs.exists() && process.exists(), "the living were swept");
    assert!(mine.directories.paths().iter().all(|path| path.exists()));

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert!(theirs.exists(), "there is nothing to sweep");
    // Another test's sweep may come first, and hold the lock for a moment.
    let since = Instant::now();
    while theirs.exists() {
        assert!(since.elapsed() < LONG, "the dead were left");
        let _ = cgroups.sweep();
    }
    let alive = std::fs::read_to_string(process.join("stat"));
    assert!(
        alive.is_err() || alive.unwrap().contains(") Z "),
        "its process lives on"
    );
    assert!(mine.directories.paths().iter().all(|path| path.exists()));
}

/// Not a property but a part in other tests': says what it detects.
#[test]
fn role_detective() {
    if plays("detective") {
        match detect(&Options::default()) {
            Detection::Usable(cgroups) => println!("\nusable {:?}", cgroups.describe()),
            Detection::Unusable { reason, mend } => println!("\nunusable {reason}; hint: {mend}"),
        }
    }
}

/// What is detected after `prepare` in a mount namespace of its own.
fn detected_after(prepare: &str) -> String {
    let detective = role("detective");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-ec",
            &format!("{prepare}; exec \"$@\""),
            "sh",
        ])
        .arg(detective.get_program())
        .args(detective.get_args())
        .env("TOOLCELL_TEST_ROLE", "detective");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("usable "));
    line.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn a_host_without_a_cgroup_mount_is_told_so() {
    let name = "a_host_without_a_cgroup_mount_is_told_so";
    if !geteuid().is_root() {
        return skip(name, "only root may unmount");
    }
    let line = detected_after("umount -l -R /sys/fs/cgroup");
    assert!(
        line.starts_with("unusable no cgroup v1 hierarchy"),
        "{line}"
    );
    let line = detected_after("umount -l -R /sys");
    assert!(line.starts_with("unusable "), "{line}");
    let line = detected_after("umount -l -R /proc || mount -t tmpfs none /proc");
    assert!(line.starts_with("unusable "), "{line}");
}

#[test]
fn a_read_only_mount_is_told_so() {
    let name = "a_read_only_mount_is_told_so";
    if !geteuid().is_root() {
        return skip(name, "only root may remount");
    }
    if cgroups(name).is_none() {
        return;
    }
    let line = detected_after(
        "grep -o ' /sys/fs/cgroup[^ ]* ' /proc/self/mountinfo | sort -u | \
         while read -r mount; do mount -o remount,bind,ro \"$mount\"; done",
    );
    assert!(line.to_lowercase().contains("read-only"), "{line}");
    assert!(
        line.contains("hint: mount the cgroup file system writable"),
        "{line}"
    );
}

#[test]
fn an_ordinary_user_is_told_what_root_must_do_and_it_works() {
    const NOBODY: u32 = 65_534;
    let name = "an_ordinary_user_is_told_what_root_must_do_and_it_works";
    let cgroups = some_or_skip!(cgroups(name));
    if !geteuid().is_root() || cgroups.version() == Version::V2 {
        return skip(
            name,
            "needs root on v1; on v2 the suite itself runs as an ordinary user",
        );
    }
    let as_nobody = |role: &mut Command| -> String {
        let output = role.uid(NOBODY).gid(NOBODY).current_dir("/").output();
        let Ok(output) = output else {
            return String::new();
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .find(|line| line.contains("usable "))
            .unwrap_or("")
            .to_owned()
    };
    let told = as_nobody(&mut role("detective"));
    if told.is_empty() {
        return skip(
            name,
            "the test binary lies where an ordinary user cannot run it",
        );
    }
    assert!(told.starts_with("unusable "), "{told}");
    let mend = told
        .split('`')
        .rev()
        .nth(1)
        .expect("a command in backticks");
    let done = Command::new("/bin/sh")
        .args(["-ec", mend])
        .status()
        .unwrap();
    assert!(done.success(), "{mend}");
    let told = as_nobody(&mut role("detective"));
    assert!(told.starts_with("usable "), "{told}");

    // The other tests, as that user.
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("cgroup::tests::")
        .env_remove("CARGO")
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    for parent in cgroups.parents() {
        let _ = std::fs::remove_dir(parent.join(format!("toolcell-{NOBODY}")));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let usable = !said.contains("SKIPPED cgroup::tests::a_fork_bomb_ends");
    assert!(usable && output.status.success(), "{output:?}");
}

#[test]
fn in_a_delegated_scope_everything_holds() {
    const WITHIN: &str = "TOOLCELL_TEST_WITHIN_SCOPE";
    let name = "in_a_delegated_scope_everything_holds";
    let usable = matches!(detect(&Options::default()), Detection::Usable(_));
    if usable || std::env::var_os(WITHIN).is_some() {
        return;
    }
    let whose = if geteuid().is_root() {
        "--system"
    } else {
        "--user"
    };
    let scope = [whose, "--quiet", "--scope", "--property=Delegate=yes", "--"];
    let available = Command::new("systemd-run").args(scope).arg("true").status();
    if !available.is_ok_and(|status| status.success()) {
        return skip(name, "no systemd delegates a scope here");
    }
    let output = Command::new("systemd-run")
        .args(scope)
        .arg(std::env::current_exe().unwrap())
        .arg("cgroup::tests::")
        .env(WITHIN, "1")
        .env_remove("CARGO")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let usable = !said.contains("SKIPPED cgroup::tests::a_fork_bomb_ends");
    assert!(usable && output.status.success(), "{output:?}");
}
