//! Cells that wait for their call are as those that are built for it, and nothing of them stays.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use harness::ground::Ground;
use harness::left::{cells, cgroups};
use harness::stdio::Server;
use harness::{Host, World, assert_nothing_left, everyone, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Longest wait for cells to be there, or to be gone.
const SETTLED_MAX: Duration = Duration::from_secs(30);
/// Calls until one must have found a cell that waits.
const CALLS_MAX: u64 = 200;
/// CPU time and memory that a process uses before its call, by its own clock and count.
const BURNT: Duration = Duration::from_millis(700);
const HELD_BYTES: u64 = 96 << 20;

/// Writes a tool that runs the shell script it is given.
fn tool(world: &World, name: &str, tables: &str) {
    with_command(world, name, r#"["/bin/sh", "-s"]"#, tables);
}

fn with_command(world: &World, name: &str, argv: &str, tables: &str) {
    let text = format!(
        "format = 1\nname = \"{name}\"\ntitle = \"Waits\"\ndescription = \"A test's.\"\n\
         extends = [\"standard\"]\n[input]\ntype = \"object\"\nrequired = [\"code\"]\n\
         properties.code = {{ type = \"string\" }}\n\
         [run]\nargv = {argv}\nstdin = \"{{code}}\"\n{tables}\n"
    );
    world.write(&format!("profiles/{name}.toml"), &text);
}

fn serve(world: &World) -> Server {
    let profiles = world.path("profiles").display().to_string();
    Server::start(world, &["--profiles", &profiles])
}

/// One client's calls, one after the other.
struct Calls {
    server: Server,
    next: u64,
}

impl Calls {
    fn new(world: &World) -> Self {
        Self {
            server: serve(world),
            next: 1,
        }
    }

    fn call(&mut self, tool: &str, code: &str) -> Value {
        let id = self.next;
        self.next += 1;
        self.server.call(id, tool, &json!({ "code": code }));
        self.server.outcome(id)
    }

    /// Calls until a call was served as said, and returns that outcome.
    #[track_caller]
    fn until(&mut self, start: &str, tool: &str, code: &str) -> Value {
        for _ in 0..CALLS_MAX {
            let outcome = self.call(tool, code);
            if from(&outcome) == start {
                return outcome;
            }
        }
        panic!("no call of {CALLS_MAX} was served {start}");
    }
}

fn from(outcome: &Value) -> &str {
    outcome["enforced"]["start"].as_str().unwrap_or_default()
}

fn stdout(outcome: &Value) -> &str {
    outcome["stdout"]["text"].as_str().unwrap_or_default()
}

#[test]
fn a_call_gets_a_cell_that_waits() {
    for who in everyone() {
        let world = World::new(who);
        tool(&world, "cold", "");
        tool(&world, "waits", "[pool]\nready = 2");
        tool(&world, "started", "[pool]\nready = 2\nprestart = true");
        let mut calls = Calls::new(&world);
        for (tool, start) in [
            ("waits", "ready"),
            ("started", "prestarted"),
            ("cold", "cold"),
        ] {
            let outcome = calls.until(start, tool, "echo $((6 * 7)); pwd; touch here");
            assert_eq!(stdout(&outcome), "42\n/work\n", "{who:?} {outcome:#}");
            assert_eq!(outcome["succeeded"], true, "{who:?} {outcome:#}");
            // Each serves one call: what the last one wrote is not there.
            let outcome = calls.until(start, tool, "ls -A");
            assert_eq!(stdout(&outcome), "", "{who:?} {outcome:#}");
        }
    }
}

#[test]
fn what_a_process_uses_before_its_call_is_not_charged_to_it() {
    let burn = format!(
        "import os, sys, time\n\
         held = bytearray({HELD_BYTES})\n\
         held[::4096] = b'x' * len(held[::4096])\n\
         del held\n\
         while time.process_time() < {}: pass\n\
         exec(sys.stdin.read())\n",
        BURNT.as_secs_f64()
    );
    let argv = json!(["/usr/bin/python3", "-I", "-S", "-c", burn]).to_string();
    let limits = "[limits]\ncpu_time = \"1 s\"\nmemory = \"256 MiB\"";
    let again = format!(
        "b = time.process_time()\nwhile time.process_time() - b < {}: pass\nprint('done')",
        BURNT.as_secs_f64()
    );
    for who in everyone() {
        let world = World::new(who);
        with_command(&world, "cold", &argv, limits);
        let pool = format!("{limits}\n[pool]\nprestart = true");
        with_command(&world, "started", &argv, &pool);
        let mut calls = Calls::new(&world);
        let waits = within(SETTLED_MAX, || {
            cpu_time(&world).is_some_and(|used| used >= BURNT)
        });
        assert!(waits, "{who:?}: it burns before the call");
        let outcome = calls.call("started", &again);
        assert_eq!(from(&outcome), "prestarted", "{who:?} {outcome:#}");
        assert_eq!(stdout(&outcome), "done\n", "{who:?} {outcome:#}");
        let usage = &outcome["usage"];
        let cpu = ["cpu_user_ms", "cpu_system_ms"].map(|key| usage[key].as_u64().unwrap_or(0));
        assert!(cpu.iter().sum::<u64>() < 1000, "{who:?} {usage}");
        let peak = usage["memory_peak_bytes"].as_u64().expect("it is counted");
        assert!(peak < HELD_BYTES, "{who:?} {usage}");
        // The control: a cold call is charged for both, and ended.
        let outcome = calls.call("cold", &again);
        assert_eq!(
            outcome["status"], "cpu_time_exceeded",
            "{who:?} {outcome:#}"
        );
        let peak = outcome["usage"]["memory_peak_bytes"].as_u64();
        assert!(
            peak.is_some_and(|peak| peak > HELD_BYTES),
            "{who:?} {outcome:#}"
        );
    }
}

/// CPU time of the one cell that there is, by its cgroup.
fn cpu_time(world: &World) -> Option<Duration> {
    let groups = cgroups(world);
    let read = |name: &str| {
        groups
            .iter()
            .find_map(|group| fs::read_to_string(group.join(name)).ok())
    };
    if let Some(nanos) = read("cpuacct.usage") {
        return Some(Duration::from_nanos(nanos.trim().parse().ok()?));
    }
    let stat = read("cpu.stat")?;
    let micros = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(micros.trim().parse().ok()?))
}

#[test]
fn a_cell_is_not_used_once_the_host_has_changed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let world = &ground.world;
        let shown = ground.directory("shown");
        ground.file("shown/file", "old\n");
        let secret = ground.file("shown/secret", "old secret\n");
        let tables = format!(
            "[files]\nread = [\"{}\"]\ndeny = [\"{}\"]\n[pool]\nready = 1",
            shown.display(),
            secret.display()
        );
        tool(world, "waits", &tables);
        let script = format!("cat {0}/file {0}/secret", shown.display());
        let mut calls = Calls::new(world);
        let outcome = calls.until("ready", "waits", &script);
        assert_eq!(stdout(&outcome), "old\n", "{who:?} {outcome:#}");

        // Another file at the denied path takes the cover off in every cell that has it.
        let other = ground.file("other", "new secret\n");
        calls.until("ready", "waits", &script);
        assert!(within(SETTLED_MAX, || is_waiting(world)), "{who:?}");
        fs::rename(&other, &secret).expect("the directory is ours");
        let outcome = calls.call("waits", &script);
        assert_eq!(from(&outcome), "cold", "{who:?} {outcome:#}");
        assert_eq!(stdout(&outcome), "old\n", "{who:?} {outcome:#}");

        calls.until("ready", "waits", &script);
        assert!(within(SETTLED_MAX, || is_waiting(world)), "{who:?}");
        fs::rename(&shown, ground.path("moved")).expect("the directory is ours");
        ground.directory("shown");
        ground.file("shown/file", "new\n");
        ground.file("shown/secret", "new secret\n");
        let outcome = calls.call("waits", &script);
        assert_eq!(from(&outcome), "cold", "{who:?} {outcome:#}");
        assert_eq!(stdout(&outcome), "new\n", "{who:?} {outcome:#}");
    }
}

/// Whether one cell is there, built: the tool's process is in it.
fn is_waiting(world: &World) -> bool {
    waiting(world).len() >= 2
}

#[test]
fn a_profile_takes_its_cells_along_when_it_changes() {
    for who in everyone() {
        let world = World::new(who);
        tool(
            &world,
            "waits",
            "[pool]\nready = 3\n[run.env]\nWHICH = \"old\"",
        );
        let mut calls = Calls::new(&world);
        calls.until("ready", "waits", "echo $WHICH");
        assert!(within(SETTLED_MAX, || cells(&world) == 3), "{who:?}");
        tool(
            &world,
            "waits",
            "[pool]\nready = 1\n[run.env]\nWHICH = \"new\"",
        );
        assert!(within(SETTLED_MAX, || cells(&world) == 1), "{who:?}");
        let outcome = calls.until("ready", "waits", "echo $WHICH");
        assert_eq!(stdout(&outcome), "new\n", "{who:?} {outcome:#}");
        fs::remove_file(world.path("profiles/waits.toml")).expect("it is ours");
        assert!(within(SETTLED_MAX, || cells(&world) == 0), "{who:?}");
    }
}

#[test]
fn cells_that_wait_leave_nothing() {
    for who in everyone() {
        for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
            let world = World::new(who);
            let before = Host::look();
            tool(&world, "waits", "[pool]\nready = 3");
            tool(&world, "started", "[pool]\nready = 3\nprestart = true");
            let mut calls = Calls::new(&world);
            calls.until("ready", "waits", "true");
            assert!(within(SETTLED_MAX, || cells(&world) == 6), "{who:?}");
            match signal {
                Some(signal) => calls.server.running.signal(signal),
                None => calls.server.running.close(),
            }
            let _ = calls.server.running.end();
            assert_nothing_left(&world, &before);
        }
    }
}

#[test]
fn a_burst_takes_what_waits_and_has_the_rest_made() {
    const BURST: u64 = 24;
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        tool(
            &world,
            "waits",
            "[pool]\nready = 4\n[limits]\nconcurrency = 24",
        );
        let mut calls = Calls::new(&world);
        calls.until("ready", "waits", "true");
        assert!(within(SETTLED_MAX, || cells(&world) == 4), "{who:?}");
        let first = calls.next;
        for id in first..first + BURST {
            let code = json!({ "code": format!("echo {id}") });
            calls.server.call(id, "waits", &code);
        }
        let mut starts = Vec::new();
        for id in first..first + BURST {
            let outcome = calls.server.outcome(id);
            assert_eq!(stdout(&outcome), format!("{id}\n"), "{who:?} {outcome:#}");
            starts.push(from(&outcome).to_owned());
        }
        assert!(starts.contains(&"ready".to_owned()), "{starts:?}");
        assert!(starts.contains(&"cold".to_owned()), "{starts:?}");
        calls.server.running.close();
        let _ = calls.server.running.end();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_cell_that_dies_while_it_waits_costs_no_call() {
    for who in everyone() {
        let world = World::new(who);
        with_command(
            &world,
            "ends",
            r#"["/bin/sh", "-c", "echo ended"]"#,
            "[pool]\nprestart = true",
        );
        tool(&world, "waits", "[pool]\nready = 1");
        let mut calls = Calls::new(&world);
        // It has ended before anybody calls, and is nobody's answer.
        let outcome = calls.until("cold", "ends", "");
        assert_eq!(stdout(&outcome), "ended\n", "{who:?} {outcome:#}");
        assert_eq!(outcome["succeeded"], true, "{who:?} {outcome:#}");

        calls.until("ready", "waits", "true");
        assert!(
            within(SETTLED_MAX, || !waiting(&world).is_empty()),
            "{who:?}"
        );
        let waited = waiting(&world);
        for pid in &waited {
            // The first takes the others along.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let gone = |pid: &i32| kill(Pid::from_raw(*pid), None).is_err();
        assert!(within(SETTLED_MAX, || waited.iter().all(gone)), "{who:?}");
        let outcome = calls.call("waits", "echo fine");
        assert_eq!(stdout(&outcome), "fine\n", "{who:?} {outcome:#}");
    }
}

/// Processes in this world's cells.
fn waiting(world: &World) -> Vec<i32> {
    let pids = cgroups(world).into_iter().filter_map(|group| {
        let text = fs::read_to_string(group.join("cgroup.procs")).ok()?;
        Some(
            text.lines()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>(),
        )
    });
    // Hierarchies of cgroup v1 have the same processes each.
    let pids: BTreeSet<i32> = pids.flatten().collect();
    pids.into_iter().collect()
}
