//! Hosts with cgroup v2, and with systemd where it is said: what the kernel itself counts, limits
//! that lie above a cell's, and a login that ends. `make test-vm` makes such a host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{
    Host, Who, World, assert_nothing_left, cgroup, everyone, left, outcome, skip, within,
};
use nix::sys::signal::Signal;

/// The ordinary user who is logged in on guests.
const LOGGED_IN: u32 = 1000;
/// What an ordinary user's tool leaves behind if nobody ends it. It does not heed the request that
/// everything of a session gets.
const DAEMONS: &str = "
trap \"\" TERM
for n in 1 2 3; do setsid sh -c 'sleep 600 & wait' & done
echo up
sleep 600
";

/// Everyone who has cgroups of version 2 here.
fn unified() -> Vec<Who> {
    if cgroup::beside_us().is_none() {
        skip(
            "cgroup v2",
            "this host has none for tests; `make test-vm` has",
        );
        return Vec::new();
    }
    everyone()
}

/// What the world's group counts, which outlives the cells' below it.
fn count(world: &World, file: &str, key: &str) -> u64 {
    let group = world.track.group().expect("there is one on v2");
    let text = fs::read_to_string(group.join(file)).expect("the controller is enabled");
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
    let value = values.next().expect("the kernel has the key");
    value.trim().parse().expect("it is a number")
}

#[test]
fn the_kernel_counts_the_kill_of_a_tool_and_of_its_grandchild() {
    let tables = "[limits]\nmemory = \"48 MiB\"\nwall = \"2 min\"\n";
    let itself = "print('fine')\nbytearray(SIZE << 20)";
    // The tool itself goes on, and would end well.
    let grandchild = "
import os
if os.fork() == 0:
    if os.fork() == 0:
        bytearray(SIZE << 20)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
print('fine')
";
    for who in unified() {
        for script in [itself, grandchild] {
            let world = World::new(who);
            let before = Host::look();
            let small = world.python(tables, &script.replace("SIZE", "1"));
            assert_eq!(small["stdout"]["text"], "fine\n", "{who:?}: {small:#}");
            assert_eq!(count(&world, "memory.events", "oom_kill "), 0, "{who:?}");
            let large = world.python(tables, &script.replace("SIZE", "400"));
            assert_eq!(large["status"], "out_of_memory", "{who:?}: {large:#}");
            // A group that goes as a whole is counted by some kernels for each of its processes.
            assert_ne!(count(&world, "memory.events", "oom_kill "), 0, "{who:?}");
            assert_nothing_left(&world, &before);
        }
    }
}

#[test]
fn a_throttled_cell_is_killed_without_waiting_for_its_share() {
    let script = "
trap '' TERM
for n in 1 2 3 4 5 6 7 8; do sh -c 'while :; do :; done' & done
echo up
while :; do :; done
";
    for who in unified() {
        let world = World::new(who);
        let before = Host::look();
        let profile = world.profile(
            "[limits]\ncpu = 0.1\nwall = \"5 min\"\ncpu_time = \"5 min\"\ngrace = \"100 ms\"\n",
        );
        let command = ["run", "--profile", &profile, "--", "/bin/sh", "-c", script];
        let running = world.start(&command);
        assert_eq!(running.line(), "up", "{who:?}");
        let throttled = || {
            let cell = left::cgroups(&world).pop().expect("the cell is there");
            let stat = fs::read_to_string(cell.join("cpu.stat")).expect("it has the controller");
            stat.lines().any(|line| {
                let times = line.strip_prefix("nr_throttled ");
                times.is_some_and(|times| times != "0")
            })
        };
        assert!(
            within(Duration::from_secs(30), throttled),
            "{who:?}: it is throttled"
        );
        let asked = Instant::now();
        running.signal(Signal::SIGTERM);
        let _ = running.end();
        // Nine processes have to run for a moment each to die, of which the quota would make minutes.
        let at_most = Duration::from_secs(5) * harness::slowness();
        assert!(asked.elapsed() < at_most, "{who:?}: {:?}", asked.elapsed());
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn what_was_delegated_limits_its_cells_though_they_may_have_more() {
    for who in unified() {
        let world = World::new(who);
        let before = Host::look();
        let profile = world.profile("[limits]\nmemory = \"1 GiB\"\npids = 500\nwall = \"2 min\"\n");
        let limited = |file: &str, most: &str, script: &str| {
            let arguments = ["run", "--json", "--profile", &profile, "--"];
            let command = ["/usr/bin/python3", "-I", "-c", script];
            let mut command = world.command(&[&arguments[..], &command[..]].concat());
            let group = world.track.last_program().expect("it has a group");
            fs::write(group.join(file), most).expect("the group is ours");
            outcome(&command.output().expect("toolcell starts"))
        };
        let memory = "print('begun', flush=True)\nbytearray(700 << 20)\nprint('had it all')";
        let ended = limited("memory.max", "300M", memory);
        assert_eq!(ended["stdout"]["text"], "begun\n", "{who:?}: {ended:#}");
        assert_eq!(ended["status"], "out_of_memory", "{who:?}: {ended:#}");
        let pids = "
import os, signal
made = 0
try:
    for _ in range(300):
        child = os.fork()
        if child == 0: signal.pause()
        made += 1
except BlockingIOError:
    pass
print(made)
";
        let ended = limited("pids.max", "100", pids);
        let made = ended["stdout"]["text"].as_str().expect("text").trim();
        let made: u32 = made
            .parse()
            .unwrap_or_else(|_| panic!("{who:?}: {ended:#}"));
        // The supervisor's own threads count as well.
        assert!((1..100).contains(&made), "{who:?}: {ended:#}");
        // The control: without a limit above, both are had.
        for script in [memory, pids] {
            let most = limited("pids.max", "max", script);
            let text = most["stdout"]["text"].as_str().expect("text");
            assert!(
                text.contains("had it all") || text == "300\n",
                "{who:?}: {most:#}"
            );
        }
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn the_end_of_a_login_ends_the_calls_of_its_user() {
    let Some(login) = Login::of(LOGGED_IN) else {
        return;
    };
    let mut running = login
        .command(&[
            "run",
            "--profile",
            "standard",
            "--",
            "/bin/sh",
            "-c",
            DAEMONS,
        ])
        .spawn()
        .expect("systemd-run is there");
    let cells = || !cells_of_theirs().is_empty() && processes_of_theirs("sleep") >= 4;
    assert!(within(Duration::from_secs(30), cells), "the cell runs");
    let ended = Command::new("loginctl")
        .args(["terminate-user", &LOGGED_IN.to_string()])
        .status();
    assert!(ended.expect("loginctl is there").success());
    let gone = || processes_of_theirs("sleep") == 0 && processes_of_theirs("toolcell") == 0;
    assert!(within(Duration::from_secs(30), gone), "no process is left");
    assert!(within(Duration::from_secs(10), || cells_of_theirs().is_empty()));
    let over = || running.try_wait().expect("it is our child").is_some();
    assert!(within(Duration::from_secs(30), over));
    let log = fs::read_to_string(login.directory.path().join("toolcell/audit.jsonl"));
    let log = log.expect("the log was written");
    assert!(log.contains("\"cancelled\""), "{log}");
    // As it was, for the tests that follow: the guest's unit logs the user in.
    let again = Command::new("systemctl")
        .args(["start", "login.service"])
        .status();
    assert!(again.expect("systemctl is there").success());
}

/// A user of this host who can be logged in and out.
struct Login {
    directory: tempfile::TempDir,
}

impl Login {
    fn of(uid: u32) -> Option<Self> {
        let no_root = !nix::unistd::geteuid().is_root();
        if no_root || !Path::new(&format!("/run/user/{uid}/systemd")).exists() {
            let why = "needs root, and a user who is logged in; `make test-vm` has them";
            skip("the end of a login", why);
            return None;
        }
        let directory = tempfile::TempDir::with_prefix("toolcell-test-").expect("/tmp is writable");
        chown(directory.path(), Some(uid), Some(uid)).expect("we are root");
        Some(Self { directory })
    }

    /// Toolcell as this user, in a session and a scope of the user's own, as from a terminal.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("systemd-run");
        let state = format!("XDG_STATE_HOME={}", self.directory.path().display());
        command.args([
            "--quiet",
            "--wait",
            "--collect",
            "--pipe",
            "-p",
            "PAMName=login",
        ]);
        command.args(["-p", &format!("User={LOGGED_IN}"), "-E", &state]);
        command.args([
            "-E",
            "XDG_SESSION_TYPE=tty",
            "-E",
            "XDG_SESSION_CLASS=user",
            "--",
        ]);
        command.args([
            "systemd-run",
            "--quiet",
            "--user",
            "--scope",
            "-p",
            "Delegate=yes",
            "--",
        ]);
        command.arg(harness::toolcell()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// The logged-in user's processes of this name.
fn processes_of_theirs(name: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let named = entries.filter(|entry| {
        let is_theirs = entry.metadata().is_ok_and(|found| found.uid() == LOGGED_IN);
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        is_theirs && comm.trim_end() == name
    });
    named.count()
}

/// Cgroups of cells below that user's own.
fn cells_of_theirs() -> Vec<PathBuf> {
    let slice = format!("/sys/fs/cgroup/user.slice/user-{LOGGED_IN}.slice");
    let mut groups = cgroup::tree(Path::new(&slice));
    groups.retain(|group| {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("toolcell.")
    });
    groups
}
