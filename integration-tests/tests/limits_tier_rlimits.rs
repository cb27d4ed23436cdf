//! The tier without cgroups, which is only ever used when it is named: limits hold for each process,
//! and the sums are sampled. Each result says so.

use std::time::{Duration, Instant};

use harness::{Host, Who, World, assert_nothing_left, everyone, left, outcome};
use serde_json::{Value, json};

fn python(world: &World, tables: &str, script: &str) -> Value {
    let profile = world.profile(tables);
    let command = ["--tier", "rlimits", "run", "--json", "--profile", &profile];
    let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
    outcome(&world.toolcell(&[&command[..], &tool[..]].concat()))
}

#[track_caller]
fn ends(tables: &str, script: &str, status: &str, further: impl Fn(Who, &Value)) {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let outcome = python(&world, tables, script);
        assert_eq!(outcome["status"], status, "{who:?}: {outcome:#}");
        assert_eq!(outcome["enforced"]["tier"], "rlimits", "{who:?}");
        assert_eq!(
            outcome["enforced"]["cgroup"],
            json!([]),
            "{who:?}: nothing is claimed"
        );
        further(who, &outcome);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_call_runs_without_a_cgroup_and_its_receipt_says_so() {
    for who in everyone() {
        let world = World::new(who);
        let script = "import time; print(1); time.sleep(0.2)";
        let outcome = python(&world, "", script);
        assert_eq!(outcome["stdout"]["text"], "1\n", "{who:?}: {outcome:#}");
        assert_eq!(outcome["enforced"]["tier"], "rlimits");
        assert_eq!(
            world.receipts()[0]["enforced"]["tier"],
            "rlimits",
            "{who:?}"
        );
        assert_eq!(left::cells(&world), 0, "{who:?}");
    }
}

#[test]
fn one_process_cannot_have_more_memory() {
    let script = "
try: bytearray(400 << 20)
except MemoryError: raise SystemExit(9)
";
    ends(
        "[limits]\nmemory = \"96 MiB\"\n",
        script,
        "exited",
        |who, outcome| {
            assert_eq!(outcome["exit_code"], 9, "{who:?}: {outcome:#}");
        },
    );
    ends(
        "[limits]\nmemory = \"600 MiB\"\n",
        script,
        "exited",
        |who, outcome| {
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        },
    );
}

/// Each of ten processes has less than the limit, all of them together more.
const SPREAD: &str = "
import os, signal
children = []
for _ in range(10):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        memory = bytearray(20 << 20)
        for page in range(0, len(memory), 4096): memory[page] = 1
        os.write(tell, b'.')
        signal.pause()
    os.close(tell)
    os.read(ready, 1)
    children.append(child)
import time
time.sleep(pause)
for child in children: os.kill(child, 9)
";

#[test]
fn memory_of_many_processes_is_sampled() {
    let tables = "[limits]\nmemory = \"96 MiB\"\nwall = \"1 min\"\n";
    ends(
        tables,
        &format!("pause = 600\n{SPREAD}"),
        "out_of_memory",
        |_, _| {},
    );
    let tables = "[limits]\nmemory = \"1 GiB\"\nwall = \"1 min\"\n";
    ends(
        tables,
        &format!("pause = 0.5\n{SPREAD}"),
        "exited",
        |who, outcome| {
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        },
    );
}

#[test]
fn shared_memory_is_sampled_once_however_many_share_it() {
    let script = "
import mmap, os, signal, time
memory = mmap.mmap(-1, size << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for page in range(0, size << 20, 4096): memory[page] = 1
children = []
for _ in range(4):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for page in range(0, size << 20, 4096): memory[page]
        os.write(tell, b'.')
        signal.pause()
    os.read(ready, 1)
    children.append(child)
time.sleep(1)
for child in children: os.kill(child, 9)
";
    let tables = "[limits]\nmemory = \"96 MiB\"\nwall = \"1 min\"\n";
    ends(
        tables,
        &format!("size = 200\n{script}"),
        "out_of_memory",
        |_, _| {},
    );
    ends(
        tables,
        &format!("size = 40\n{script}"),
        "exited",
        |who, outcome| {
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        },
    );
}

#[test]
fn files_in_memory_are_sampled() {
    let script = "
import time
with open('/tmp/bomb', 'wb') as file:
    for _ in range(200): file.write(bytes(1 << 20))
time.sleep(600)
";
    let tables = "[limits]\nmemory = \"96 MiB\"\ntmp = \"512 MiB\"\nwall = \"1 min\"\n";
    ends(tables, script, "out_of_memory", |_, _| {});
}

#[test]
fn processes_are_limited() {
    let script = "
import os, signal
made = 0
children = []
try:
    while True:
        child = os.fork()
        if child == 0: signal.pause()
        children.append(child)
except OSError: pass
print(len(children))
for child in children: os.kill(child, 9)
";
    ends("[limits]\npids = 20\n", script, "exited", |who, outcome| {
        // The tool itself is one of the twenty.
        assert_eq!(outcome["stdout"]["text"], "19\n", "{who:?}: {outcome:#}");
    });
}

#[test]
fn one_cells_processes_do_not_count_against_anothers() {
    let script = "
import os, signal
ready, tell = os.pipe()
children = []
for _ in range(12):
    child = os.fork()
    if child == 0: signal.pause()
    children.append(child)
import time
time.sleep(1)
for child in children: os.kill(child, 9)
";
    for who in everyone() {
        let world = World::new(who);
        let profile = world.profile("[limits]\npids = 20\nwall = \"1 min\"\n");
        let command = ["--tier", "rlimits", "run", "--profile", &profile];
        let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
        let arguments = [&command[..], &tool[..]].concat();
        let running: Vec<_> = (0..4).map(|_| world.start(&arguments)).collect();
        for running in running {
            let ended = running.end();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{who:?}: {said}");
        }
    }
}

#[test]
fn cpu_time_is_limited() {
    let tables = "[limits]\ncpu_time = \"500 ms\"\nwall = \"1 min\"\n";
    ends(tables, "while True: pass", "cpu_time_exceeded", |_, _| {});
    let children = "
import os
for _ in range(3):
    if os.fork() == 0: break
while True: pass
";
    ends(tables, children, "cpu_time_exceeded", |_, _| {});
}

#[test]
fn deadlines_and_output_hold_as_ever() {
    ends(
        "[limits]\nwall = \"500 ms\"\n",
        "import time; time.sleep(600)",
        "timed_out",
        |_, _| {},
    );
    let flood = "import os\nwhile True: os.write(1, bytes(65536))";
    ends(
        "[limits]\noutput = \"256 KiB\"\nwall = \"1 min\"\n",
        flood,
        "output_exceeded",
        |_, _| {},
    );
}

#[test]
fn everything_in_the_cell_ends_with_the_call() {
    let script = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(600)
        os._exit(0)
time.sleep(600)
";
    let begun = Instant::now();
    ends(
        "[limits]\nwall = \"500 ms\"\ngrace = \"100 ms\"\n",
        script,
        "timed_out",
        |_, _| {},
    );
    assert!(begun.elapsed() < Duration::from_mins(1) * harness::slowness());
}

#[test]
fn the_tier_is_never_chosen_unasked() {
    for who in everyone() {
        let world = World::new(who);
        let chosen = world.run("standard", &["/bin/true"]);
        assert_eq!(chosen["enforced"]["tier"], "full", "{who:?}");
    }
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // An ordinary user without a cgroup of their own: refused, with the way out named.
    let world = World::new(Who::User);
    let user = harness::USER.to_string();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command
        .arg(harness::toolcell())
        .args(["run", "--json", "--", "/bin/true"]);
    command
        .env_clear()
        .envs(&world.env)
        .current_dir(world.directory.path());
    let refused = outcome(&command.output().expect("setpriv is there"));
    assert_eq!(refused["status"], "refused", "{refused:#}");
    let reason = refused["reason"].as_str().expect("there is one");
    assert!(reason.contains("--tier rlimits"), "{reason}");
    command.env("TOOLCELL_TIER", "rlimits");
    let chosen = outcome(&command.output().expect("setpriv is there"));
    assert_eq!(chosen["enforced"]["tier"], "rlimits", "{chosen:#}");
}
