//! Shares of a core, descriptors, core dumps, and the supervisor's own memory while a tool floods it.

use std::time::Duration;

use harness::{Host, Who, World, assert_nothing_left, everyone, within};
use serde_json::Value;

/// Two threads that compute as long as they are let.
const BUSY: &str = "
import os, time
if os.fork() == 0: pass
until = time.monotonic() + 3
while time.monotonic() < until: pass
";

/// CPU time over time on the clock.
fn cores(outcome: &Value) -> f64 {
    let field = |name: &str| outcome["usage"][name].as_f64().expect("it is measured");
    (field("cpu_user_ms") + field("cpu_system_ms")) / field("wall_ms")
}

#[test]
fn a_share_of_a_core_is_no_more_than_that() {
    for who in everyone() {
        let world = World::new(who);
        for (cpu, most) in [(0.5, 0.56), (0.1, 0.13)] {
            let tables = format!("[limits]\ncpu = {cpu}\nwall = \"1 min\"\n");
            let outcome = world.python(&tables, BUSY);
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
            // A period's quota may be used up at the very beginning and at the very end.
            assert!(
                cores(&outcome) <= most,
                "{who:?}: {} cores: {outcome:#}",
                cores(&outcome)
            );
        }
        // A busy machine may give little, but gives more than a tenth.
        let whole = cores(&world.python("[limits]\ncpu = 2.0\nwall = \"1 min\"\n", BUSY));
        assert!(
            whole > 0.13,
            "{who:?}: two cores allow no more than {whole}"
        );
    }
}

#[test]
fn a_tool_has_as_many_descriptors_as_it_may() {
    let script = "
import os
count = 3
try:
    while True:
        os.dup(0)
        count += 1
except OSError as error: print(count, error.errno)
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("[limits]\nopen_files = 40\n", script);
        assert_eq!(
            outcome["stdout"]["text"], "40 24\n",
            "{who:?}: EMFILE at the limit: {outcome:#}"
        );
        let outcome = world.python("[limits]\nopen_files = 400\n", script);
        assert_eq!(
            outcome["stdout"]["text"], "400 24\n",
            "{who:?}: and not before"
        );
    }
}

#[test]
fn limits_cannot_be_raised_from_within() {
    let script = "
import resource
for name in sorted(dir(resource)):
    if not name.startswith('RLIMIT_'): continue
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY: continue
    try: resource.setrlimit(kind, (soft, hard + 1))
    except (ValueError, OSError): continue
    # That on core dumps is only said to be set.
    if resource.getrlimit(kind) != (soft, hard): print('raised', name)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
print('lowered')
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("", script);
        assert_eq!(
            outcome["stdout"]["text"], "lowered\n",
            "{who:?}: {outcome:#}"
        );
    }
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let pattern =
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("proc is mounted");
    if pattern.trim().contains(['/', '|']) {
        harness::skip(
            "core dumps beside the tool",
            "this host collects them elsewhere",
        );
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let crash = "ulimit -c unlimited; cd \"$0\" && exec sh -c 'kill -SEGV $$'";
        let dumps = |world: &World| {
            let names = std::fs::read_dir(world.path("project")).expect("it is there");
            names
                .filter(|name| {
                    let name = name.as_ref().expect("it is readable").file_name();
                    name.to_string_lossy().starts_with("core")
                })
                .count()
        };
        world.write("project/file", "");
        let project = world.path("project");
        // Uncontained it does leave one.
        let status = std::process::Command::new("/bin/bash")
            .args(["-c", crash])
            .arg(&project)
            .status();
        assert!(!status.expect("there is a shell").success());
        assert_eq!(dumps(&world), 1, "{who:?}");
        for entry in std::fs::read_dir(&project).expect("it is there") {
            std::fs::remove_file(entry.expect("it is readable").path()).expect("it is a file");
        }
        let path = project.display().to_string();
        let command = [
            "run",
            "--json",
            "--workspace",
            &path,
            "--",
            "/bin/sh",
            "-c",
            "kill -SEGV $$",
        ];
        let outcome = harness::outcome(&world.toolcell(&command));
        assert_eq!(outcome["signal"], "SIGSEGV", "{who:?}: {outcome:#}");
        assert_eq!(dumps(&world), 0, "{who:?}");
    }
}

/// Waits until a program with this word on its command line is seen on the host, and returns what
/// the host says of a limit of it.
fn limit_of(program: &str, word: &str, limit: &str) -> String {
    let mut found = None;
    within(Duration::from_secs(30), || {
        let entries = std::fs::read_dir("/proc")
            .expect("proc is mounted")
            .flatten();
        found = entries.map(|entry| entry.path()).find(|process| {
            let is = |file: &str, text: &str| {
                std::fs::read_to_string(process.join(file)).is_ok_and(|all| all.contains(text))
            };
            is("comm", program) && is("cmdline", word)
        });
        found.is_some()
    });
    let process = found.expect("the program runs and is seen on the host");
    let limits = std::fs::read_to_string(process.join("limits")).expect("it waits for us");
    let line = limits.lines().find_map(|line| line.strip_prefix(limit));
    let fields = line.expect("the kernel lists it").split_whitespace();
    fields.take(2).collect::<Vec<_>>().join(" ")
}

/// A soft limit of 1 is the kernel's word for handing a crashed program's memory to nobody; with 0
/// a handler that `core_pattern` names would get it (core(5)).
#[test]
fn no_core_reaches_a_handler_of_the_hosts_whatever_limit_a_tool_sets() {
    const SHELL: &str = "ulimit -n 30 && ulimit -c 0 && echo set && read line";
    const PYTHON: &str = "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print('set', flush=True)
input()
";
    let programs = [
        ("bash", vec!["/bin/bash", "-c", SHELL]),
        ("python3", vec!["/usr/bin/python3", "-I", "-c", PYTHON]),
    ];
    for who in everyone() {
        for (name, words) in &programs {
            let world = World::new(who);
            let word = world.directory.path().display().to_string();
            let core = "Max core file size";
            let files = "Max open files";

            let mut running =
                world.start(&[&["run", "--"], words.as_slice(), &[word.as_str()]].concat());
            assert_eq!(running.line(), "set", "{who:?}: {name} goes on");
            assert_eq!(limit_of(name, &word, core), "1 1", "{who:?}: {name}");
            assert_eq!(
                limit_of(name, &word, files),
                "30 30",
                "{who:?}: {name} can lower others"
            );
            running.write("\n");
            assert_eq!(running.end().status.code(), Some(0), "{who:?}: {name}");

            // Outside of a cell the same program gets what it sets.
            let mut control = std::process::Command::new(words[0])
                .args(&words[1..])
                .arg(&word)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut line = String::new();
            let stdout = control.stdout.take().expect("it is a pipe");
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
                .expect("it writes");
            assert_eq!(limit_of(name, &word, core), "0 0", "the control of {name}");
            drop(control.stdin.take());
            control.wait().expect("it ends");
        }
    }
}

#[test]
fn a_limit_on_core_dumps_that_is_asked_for_together_with_the_old_one_is_a_denial() {
    let script = "
import os, resource
try: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))
except PermissionError: print('refused')
print(*resource.prlimit(0, resource.RLIMIT_CORE), *resource.prlimit(0, resource.RLIMIT_NOFILE, (30, 30)))
";
    for who in everyone() {
        let outcome = World::new(who).python("[limits]\nopen_files = 40\n", script);
        assert_eq!(
            outcome["stdout"]["text"], "refused\n1 1 40 40\n",
            "{who:?}: {outcome:#}"
        );
        let denials = outcome["denials"].as_array().expect("a list");
        let what: Vec<_> = denials.iter().map(|denial| &denial["what"]).collect();
        assert_eq!(
            what,
            ["prlimit64(RLIMIT_CORE) for the old limit, too"],
            "{who:?}: {outcome:#}"
        );
    }
}

#[test]
fn a_flood_of_output_does_not_fill_the_supervisor() {
    const MOST_KIB: u64 = 100 << 10;
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let tables = "[limits]\noutput = \"400 MiB\"\nwall = \"2 min\"\ncpu_time = \"2 min\"\n";
        let profile = world.profile(tables);
        let flood = "import os\nwhile True: os.write(1, bytes(65536))";
        let command = [
            "run",
            "--json",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            flood,
        ];
        let running = world.start(&command);
        let peak = peak_kib_until_the_end(running.pid());
        let outcome = harness::outcome(&running.end());
        assert_eq!(outcome["status"], "output_exceeded", "{who:?}: {outcome:#}");
        assert!(peak > 1024, "{who:?}: it was measured: {peak} KiB");
        assert!(peak < MOST_KIB, "{who:?}: {peak} KiB");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_reader_that_reads_nothing_does_not_fill_the_supervisor() {
    const MOST_KIB: u64 = 100 << 10;
    let who = Who::User;
    let world = World::new(who);
    let before = Host::look();
    let tables = "[limits]\noutput = \"400 MiB\"\nwall = \"3 s\"\n";
    let profile = world.profile(tables);
    let mut command = world.command(&["run", "--profile", &profile, "--", "/bin/cat", "/dev/zero"]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("toolcell starts");
    // Nobody reads the pipe until the deadline has passed.
    let peak = peak_kib_until_the_end(child.id());
    drop(child.stdout.take());
    let status = child.wait().expect("it is our child");
    assert!(
        [Some(124), Some(137)].contains(&status.code()),
        "{status:?}"
    );
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert_nothing_left(&world, &before);
}

/// The most memory that a process had, as far as it could still be seen (`VmHWM`).
fn peak_kib_until_the_end(pid: u32) -> u64 {
    let mut peak = 0;
    within(Duration::from_secs(25), || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = now.unwrap_or(peak);
        now.is_none()
    });
    peak
}
