//! Whatever the processes of a tool do, they end with the call, and nothing of them is left.

use std::time::{Duration, Instant};

use harness::{Host, Who, World, assert_nothing_left, everyone, left, within};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Runs a Python script for everyone, asserts the status, and that nothing is left of it.
#[track_caller]
fn ends(tables: &str, script: &str, status: &str, further: impl Fn(Who, &Value)) {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let outcome = world.python(tables, script);
        assert_eq!(outcome["status"], status, "{who:?}: {outcome:#}");
        further(who, &outcome);
        assert_nothing_left(&world, &before);
    }
}

const IN_TIME: &str = "[limits]\nwall = \"2 min\"\n";

/// What the other tests of this file stand on.
#[test]
fn what_runs_can_be_seen_from_outside_until_it_ends() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let profile = world.profile(IN_TIME);
        let script = "
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('up', flush=True)
        time.sleep(600)
    os._exit(0)
sys.stdin.read()
";
        let command = [
            "run",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            script,
        ];
        let mut running = world.start(&command);
        assert_eq!(running.line(), "up");
        let Some(processes) = world.track.processes() else {
            harness::skip(
                "processes seen from outside",
                "no hierarchy of cgroup v1 to follow them by",
            );
            continue;
        };
        let tools = processes
            .iter()
            .filter(|(_, name)| name == "python3")
            .count();
        assert!(
            tools >= 2,
            "{who:?}: the tool and its daemon are seen: {processes:?}"
        );
        assert!(
            !left::cgroups(&world).is_empty(),
            "{who:?}: the cell's cgroup is seen"
        );
        running.close();
        assert!(running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn daemons_end_with_the_tool() {
    let script = "
import os, time
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(0); os.close(1); os.close(2)
            time.sleep(600)
        os._exit(0)
os._exit(3)
";
    ends(IN_TIME, script, "exited", |_, outcome| {
        assert_eq!(outcome["exit_code"], 3);
    });
}

#[test]
fn children_that_hold_the_pipes_do_not_hold_up_the_answer() {
    let script = "
import os, time
if os.fork() == 0: time.sleep(600)
print('done', flush=True)
os._exit(0)
";
    ends(IN_TIME, script, "exited", |who, outcome| {
        assert_eq!(outcome["stdout"]["text"], "done\n", "{who:?}");
        assert!(
            outcome["usage"]["wall_ms"]
                .as_u64()
                .is_some_and(|wall| wall < 60_000),
            "{who:?}"
        );
    });
}

#[test]
fn a_daemon_that_goes_on_writing_ends_with_the_tool() {
    let script = "
import os
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b'first\\n')
        os.write(tell, b'.')
        while True: os.write(1, b'x')
    os._exit(0)
os.read(ready, 1)
os._exit(0)
";
    ends(
        "[limits]\nwall = \"2 min\"\noutput = \"1 GiB\"\n",
        script,
        "exited",
        |who, outcome| {
            let text = outcome["stdout"]["text"].as_str().expect("it is text");
            assert!(
                text.starts_with("first\n"),
                "{who:?}: what came before the end is there"
            );
        },
    );
}

#[test]
fn a_tool_that_heeds_sigterm_is_not_killed() {
    let script = "
import signal, sys, time
def leave(*_):
    print('tidied up', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print('up', flush=True)
time.sleep(600)
";
    let tables = "[limits]\nwall = \"1 s\"\ngrace = \"60 s\"\n";
    ends(tables, script, "timed_out", |who, outcome| {
        assert_eq!(outcome["stdout"]["text"], "up\ntidied up\n", "{who:?}");
        assert_eq!(outcome["exit_code"], 0, "{who:?}: it ended by itself");
        let wall = outcome["usage"]["wall_ms"]
            .as_u64()
            .expect("it is measured");
        assert!(
            wall < 50_000,
            "{who:?}: the grace period is not waited out: {wall}"
        );
    });
}

#[test]
fn a_tool_that_ignores_sigterm_is_killed_after_its_grace() {
    let script = "
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'no\\n'))
print('up', flush=True)
while True: time.sleep(600)
";
    let tables = "[limits]\nwall = \"1 s\"\ngrace = \"1 s\"\n";
    ends(tables, script, "timed_out", |who, outcome| {
        assert_eq!(
            outcome["stdout"]["text"], "up\nno\n",
            "{who:?}: it was asked, once"
        );
        let wall = outcome["usage"]["wall_ms"]
            .as_u64()
            .expect("it is measured");
        assert!(wall >= 2_000, "{who:?}: it had its grace period: {wall}");
    });
}

#[test]
fn every_process_of_the_cell_is_asked_to_end() {
    let script = "
import os, signal, time
def told(name):
    def tell(*_):
        os.write(1, name + b'\\n')
        os._exit(0)
    return tell
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, told(b'child'))
    os.write(tell, b'.')
    while True: time.sleep(600)
os.read(ready, 1)
def last(*_):
    os.wait()
    told(b'tool')()
signal.signal(signal.SIGTERM, last)
while True: time.sleep(600)
";
    let tables = "[limits]\nwall = \"1 s\"\ngrace = \"60 s\"\n";
    ends(tables, script, "timed_out", |who, outcome| {
        assert_eq!(outcome["stdout"]["text"], "child\ntool\n", "{who:?}");
    });
}

#[test]
fn a_tool_that_stops_itself_is_ended_at_its_deadline() {
    let script = "
import os, signal
if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
print('was continued')
";
    ends(
        "[limits]\nwall = \"1 s\"\n",
        script,
        "timed_out",
        |who, outcome| {
            assert_eq!(outcome["signal"], "SIGTERM", "{who:?}: {outcome:#}");
        },
    );
}

#[test]
fn a_tool_that_closes_its_streams_runs_on_to_its_own_end() {
    let script = "
import os, time
for stream in range(3): os.close(stream)
time.sleep(0.5)
os._exit(7)
";
    ends(IN_TIME, script, "exited", |who, outcome| {
        assert_eq!(outcome["exit_code"], 7, "{who:?}");
    });
}

#[test]
fn a_tool_without_streams_still_has_a_deadline() {
    let script = "
import os, time
for stream in range(3): os.close(stream)
time.sleep(600)
";
    ends(
        "[limits]\nwall = \"500 ms\"\n",
        script,
        "timed_out",
        |_, _| {},
    );
}

#[test]
fn a_flood_of_zombies_is_no_more_than_its_processes() {
    let script = "
import os
while True:
    try:
        if os.fork() == 0: os._exit(0)
    except OSError: os._exit(9)
";
    ends(
        "[limits]\npids = 30\n",
        script,
        "pids_exceeded",
        |who, outcome| {
            assert_eq!(outcome["exit_code"], 9, "{who:?}");
        },
    );
}

#[test]
fn orphans_are_reaped_while_the_tool_runs() {
    let script = "
import os, time
made = 0
while made < 500:
    try: child = os.fork()
    except BlockingIOError:
        time.sleep(0.001)
        continue
    if child == 0:
        try: os.fork()
        except BlockingIOError: os._exit(1)
        os._exit(0)
    made += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(made)
";
    ends(
        "[limits]\npids = 20\nwall = \"2 min\"\n",
        script,
        "exited",
        |who, outcome| {
            assert_eq!(outcome["stdout"]["text"], "500\n", "{who:?}: {outcome:#}");
        },
    );
}

#[test]
fn a_vfork_bomb_is_ended() {
    // Every process of it starts others for ever, by way of vfork.
    let script = "
import os
code = '''
import os
while True:
    try: os.posix_spawn('/usr/bin/python3', ['python3', '-I', '-S', '/work/bomb'], {})
    except OSError: pass
'''
with open('/work/bomb', 'w') as file: file.write(code)
exec(code)
";
    let tables = "[limits]\npids = 20\nwall = \"2 min\"\ncpu_time = \"2 min\"\n";
    ends(tables, script, "pids_exceeded", |_, _| {});
}

#[test]
fn a_tool_that_changes_its_name_is_ended_all_the_same() {
    let script = "
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.prctl(15, b'toolcell', 0, 0, 0)
for n in range(20):
    if os.fork() == 0:
        os.setsid()
        libc.prctl(15, b'kworker/%d' % n, 0, 0, 0)
        time.sleep(600)
time.sleep(600)
";
    ends(
        "[limits]\nwall = \"1 s\"\ngrace = \"0 s\"\n",
        script,
        "timed_out",
        |_, _| {},
    );
}

#[test]
fn a_tool_that_never_reads_its_input_ends_like_any_other() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let large = "x".repeat(100_000);
        // More than a pipe holds (64 KiB), less than an argument may be long.
        let outcome = world.call("shell", &json!({ "script": "exit 4", "stdin": large }));
        assert_eq!(outcome["exit_code"], 4, "{who:?}: {outcome:#}");
        let read = world.call("shell", &json!({ "script": "wc -c", "stdin": large }));
        assert_eq!(
            read["stdout"]["text"].as_str().map(str::trim),
            Some("100000"),
            "{who:?}"
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn run_ends_with_its_command_though_its_own_input_stays_open() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let running = world.start(&["run", "--", "/bin/sh", "-c", "exit 6"]);
        // Its standard input is a pipe that is neither written to nor closed.
        assert_eq!(running.end().status.code(), Some(6), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn run_whose_reader_goes_away_still_ends_its_cell() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut command =
            world.command(&["run", "--", "/bin/sh", "-c", "yes | head -c 500000; exit 5"]);
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("toolcell starts");
        drop(child.stdout.take());
        let begun = Instant::now();
        let mut status = None;
        within(Duration::from_mins(1), || {
            status = child.try_wait().expect("it is our child");
            status.is_some()
        });
        let status = status.unwrap_or_else(|| panic!("{who:?}: hangs since {:?}", begun.elapsed()));
        assert_eq!(status.code(), Some(5), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn run_whose_reader_goes_away_tells_its_tool_as_a_shell_would() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        // Only the end of its reader ends it before the deadline: its output stays within the limit.
        let profile = world.profile("[limits]\nwall = \"1 min\"\n");
        let script = "while :; do echo line; sleep 0.01; done";
        let run = ["run", "--profile", &profile, "--", "/bin/sh", "-c", script];
        let mut command = world.command(&run);
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("toolcell starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it is our child");
        assert_eq!(output.status.code(), Some(141), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn objects_of_ipc_are_gone_with_the_call() {
    let script = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
made = []
made.append(libc.shmget(0x7c01, 4096, 0o1666))
made.append(libc.semget(0x7c01, 1, 0o1666))
made.append(libc.msgget(0x7c01, 0o1666))
made.append(os.open('/dev/shm/toolcell-left', os.O_CREAT | os.O_RDWR))
made.append(os.open('/tmp/toolcell-left', os.O_CREAT | os.O_RDWR))
os._exit(0 if min(made) >= 0 else 1)
";
    ends("", script, "exited", |who, outcome| {
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
    });
}

#[test]
fn a_cancelled_call_ends_whatever_it_has_become() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let profile = world.profile("[limits]\ngrace = \"500 ms\"\nwall = \"2 min\"\n");
        let script = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
print('up', flush=True)
while True: time.sleep(600)
";
        let command = [
            "run",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            script,
        ];
        let running = world.start(&command);
        assert_eq!(running.line(), "up");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().status.code(), Some(130), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}
