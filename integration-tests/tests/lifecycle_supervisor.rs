//! Whatever happens to the supervisor, nothing of its calls outlives it, and what it was asked to
//! end ends in order.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone, within};
use nix::sys::signal::Signal;
use serde_json::json;

/// Runs that are killed, and the longest time after their start.
const KILLS: u32 = 60;
const OFFSET_MAX: Duration = Duration::from_millis(80);
/// What a tool does that is being killed with its supervisor: daemons, one of them stopped.
const DAEMONS: &str = "
for n in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 600 & wait' & done
setsid sh -c 'kill -STOP $$' &
echo up
sleep 600
";

#[test]
fn a_run_killed_at_any_moment_leaves_nothing() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        for n in 0..KILLS {
            let running = world.start(&[
                "run",
                "--profile",
                "standard",
                "--",
                "/bin/sh",
                "-c",
                DAEMONS,
            ]);
            // The moment is the point here, not a wait for something.
            std::thread::sleep(OFFSET_MAX * n / KILLS);
            running.signal(Signal::SIGKILL);
            let ended = running.end();
            assert_eq!(
                ended.status.signal(),
                Some(9),
                "{who:?}: it was still running"
            );
        }
        assert_nothing_left(&world, &before);
        usable(&world);
    }
}

#[test]
fn a_run_killed_while_its_tool_runs_leaves_nothing() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        for _ in 0..5 {
            let running = world.start(&[
                "run",
                "--profile",
                "standard",
                "--",
                "/bin/sh",
                "-c",
                DAEMONS,
            ]);
            assert_eq!(running.line(), "up", "{who:?}");
            running.signal(Signal::SIGKILL);
            let _ = running.end();
            assert_nothing_left(&world, &before);
        }
    }
}

#[test]
fn a_run_killed_in_a_workspace_of_the_hosts_leaves_no_ghosts() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        world.write("project/file", "kept\n");
        let project = world.path("project").display().to_string();
        let profile = world.profile(
            "[files]\nprotect = [\".git/hooks\", \".mcp.json\"]\n[limits]\nwall = \"1 min\"\n",
        );
        // Root shows its own directories by an idmapped mount, which absent names rule out.
        let running_as = world.path("project");
        if who == Who::Root {
            std::os::unix::fs::chown(&running_as, Some(harness::USER), Some(harness::USER))
                .expect("root may chown");
        }
        for n in 0..20 {
            let running = world.start(&[
                "run",
                "--profile",
                &profile,
                "--workspace",
                &project,
                "--",
                "/bin/sh",
                "-c",
                DAEMONS,
            ]);
            std::thread::sleep(OFFSET_MAX * n / 20);
            running.signal(Signal::SIGKILL);
            let _ = running.end();
        }
        // One that certainly runs when it is killed.
        let directory = ["--workspace", &project, "--", "/bin/sh", "-c", DAEMONS];
        let running = world.start(&[&["run", "--profile", &profile][..], &directory[..]].concat());
        assert_eq!(running.line(), "up", "{who:?}");
        running.signal(Signal::SIGKILL);
        let _ = running.end();
        no_process_left(&world);
        usable(&world);
        assert_nothing_left(&world, &before);
        let mut names: Vec<_> = std::fs::read_dir(&project)
            .expect("it is there")
            .map(|entry| entry.expect("it is readable").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["file"], "{who:?}: only what was there before");
    }
}

#[test]
fn a_launcher_that_is_killed_takes_its_cells_along() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let running = world.start(&[
            "run",
            "--profile",
            "standard",
            "--",
            "/bin/sh",
            "-c",
            DAEMONS,
        ]);
        assert_eq!(running.line(), "up", "{who:?}");
        let launcher = launcher_of(running.pid());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher), Signal::SIGKILL)
            .expect("it is running");
        let ended = running.end();
        assert_eq!(
            ended.status.code(),
            Some(125),
            "{who:?}: {}",
            text(&ended.stderr)
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_server_killed_with_calls_under_way_leaves_nothing() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        for n in 0..10 {
            let mut server = Server::start(&world, &[]);
            for id in 0..4 {
                server.call(id, "shell", &json!({ "script": DAEMONS }));
            }
            std::thread::sleep(OFFSET_MAX * n / 10);
            server.running.signal(Signal::SIGKILL);
            let _ = server.running.end();
        }
        no_process_left(&world);
        usable(&world);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_server_asked_to_end_writes_the_receipts_of_running_calls() {
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        for who in everyone() {
            let world = World::new(who);
            let before = Host::look();
            let mut server = Server::start(&world, &[]);
            for id in 0..3 {
                server.call(id, "shell", &json!({ "script": DAEMONS }));
            }
            assert!(
                within(Duration::from_mins(1), || harness::left::cells(&world) == 3),
                "{who:?}: three cells run"
            );
            let asked = Instant::now();
            match signal {
                Some(signal) => server.running.signal(signal),
                None => server.running.close(),
            }
            let ended = server.running.end();
            assert!(
                ended.status.success(),
                "{who:?} {signal:?}: {:?}",
                ended.status
            );
            // DRAIN + the profile's grace + EXIT_GRACE + GOODBYE, and a busy machine.
            assert!(
                asked.elapsed() < Duration::from_secs(25) * harness::slowness(),
                "{who:?}: {:?}",
                asked.elapsed()
            );
            let receipts = world.receipts();
            let statuses: Vec<_> = receipts.iter().map(|receipt| &receipt["status"]).collect();
            assert_eq!(statuses, ["cancelled"; 3], "{who:?} {signal:?}");
            assert_nothing_left(&world, &before);
        }
    }
}

#[test]
fn a_server_whose_input_ends_still_answers_a_short_call() {
    for who in everyone() {
        let world = World::new(who);
        let mut server = Server::start(&world, &[]);
        server.call(7, "shell", &json!({ "script": "echo short" }));
        server.running.close();
        let ended = server.running.end();
        let answer = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(answer.contains("short"), "{who:?}: {answer}");
        assert_eq!(world.receipts().len(), 1, "{who:?}");
    }
}

#[test]
fn the_next_supervisor_removes_what_a_crash_left() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let running = world.start(&[
            "run",
            "--profile",
            "standard",
            "--",
            "/bin/sh",
            "-c",
            DAEMONS,
        ]);
        assert_eq!(running.line(), "up", "{who:?}");
        // Both at once: a launcher that outlives its supervisor would tidy up itself.
        let launcher = launcher_of(running.pid());
        let pid = nix::unistd::Pid::from_raw(launcher);
        nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("it is running");
        running.signal(Signal::SIGKILL);
        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it is stopped");
        let _ = running.end();
        world.track.stay();
        usable(&world);
        assert_nothing_left(&world, &before);
    }
}

/// No process outlives the supervisor, without anybody's help. (A directory that was made in the
/// very moment before the kill is the next supervisor's to remove.)
#[track_caller]
fn no_process_left(world: &World) {
    let mut found = None;
    let gone = within(Duration::from_secs(20), || {
        found = world.track.processes();
        found.as_ref().is_none_or(Vec::is_empty)
    });
    assert!(gone, "{:?}: {found:?}", world.who);
}

/// Calls work, and the log of receipts is whole.
#[track_caller]
fn usable(world: &World) {
    let outcome = world.run("standard", &["/bin/echo", "fine"]);
    assert_eq!(
        outcome["stdout"]["text"], "fine\n",
        "{:?}: {outcome:#}",
        world.who
    );
    let verified = world.toolcell(&["audit", "verify"]);
    assert!(
        verified.status.success(),
        "{:?}: {}",
        world.who,
        text(&verified.stdout)
    );
}

/// The supervisor's one child.
fn launcher_of(supervisor: u32) -> i32 {
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(path).expect("the supervisor runs");
    let mut pids = children
        .split_whitespace()
        .map(|pid| pid.parse().expect("it is a number"));
    pids.next().expect("it has a launcher")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
