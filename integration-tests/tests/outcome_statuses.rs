//! Every value of the closed `status` is reached by a real tool, as root and as an ordinary user;
//! each time nothing is left on the host. `outcome_exit_statuses.rs` has what `run` makes of them.

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone};
use serde_json::{Value, json};

/// Small limits, so that they are reached soon.
const SMALL: &str =
    "[limits]\nmemory = \"96 MiB\"\npids = 20\nwall = \"60 s\"\ncpu_time = \"40 s\"\n";

/// Runs a Python script for everyone, asserts the status, and that nothing is left; then has the
/// outcome looked at further.
#[track_caller]
fn ends(tables: &str, script: &str, status: &str, further: impl Fn(Who, &Value)) {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let outcome = world.python(tables, script);
        assert_eq!(outcome["status"], status, "{who:?}: {outcome:#}");
        assert_eq!(outcome["enforced"]["tier"], "full", "{who:?}");
        further(who, &outcome);
        assert_nothing_left(&world, &before);
    }
}

/// The one denial of a limit, by its key.
#[track_caller]
fn limit(outcome: &Value, key: &str) {
    let denials = outcome["denials"].as_array().expect("denials are a list");
    let named = denials.iter().any(|denial| {
        let line = denial["allow_with"].as_str().unwrap_or_default();
        denial["kind"] == "limit" && line.starts_with(&format!("limits.{key} = "))
    });
    assert!(named, "no denial names `limits.{key}`: {outcome:#}");
}

#[test]
fn a_tool_that_exits_is_reported_with_its_own_status() {
    for code in [0, 1, 2, 125, 255] {
        ends(
            "",
            &format!("raise SystemExit({code})"),
            "exited",
            |_, outcome| {
                assert_eq!(outcome["exit_code"], code);
                assert_eq!(outcome["denials"], json!([]));
                assert_eq!(outcome.get("reason"), None, "a plain exit needs no reason");
            },
        );
    }
}

#[test]
fn a_tool_that_kills_itself_is_signalled() {
    for (number, name) in [
        (9, "SIGKILL"),
        (15, "SIGTERM"),
        (11, "SIGSEGV"),
        (6, "SIGABRT"),
    ] {
        let script = format!("import os; os.kill(os.getpid(), {number})");
        ends("", &script, "signalled", |_, outcome| {
            assert_eq!(outcome["signal"], name);
            assert_eq!(outcome.get("exit_code"), None);
        });
    }
}

#[test]
fn a_real_time_signal_is_named_by_its_number() {
    ends(
        "",
        "import os; os.kill(os.getpid(), 40)",
        "signalled",
        |_, outcome| {
            assert_eq!(outcome["signal"], "signal 40");
        },
    );
}

#[test]
fn a_tool_past_its_wall_clock_deadline_is_timed_out() {
    let tables = "[limits]\nwall = \"500 ms\"\n";
    ends(
        tables,
        "import time; time.sleep(600)",
        "timed_out",
        |_, outcome| {
            limit(outcome, "wall");
            let wall = outcome["usage"]["wall_ms"]
                .as_u64()
                .expect("it is measured");
            assert!(wall >= 500, "ended after {wall} ms");
        },
    );
    let in_time = "import time; time.sleep(0.05)";
    ends("[limits]\nwall = \"60 s\"\n", in_time, "exited", |_, _| {});
}

#[test]
fn a_silent_tool_is_timed_out_by_its_idle_limit() {
    let tables = "[limits]\nidle = \"1 s\"\nwall = \"60 s\"\n";
    ends(
        tables,
        "print('a', flush=True)\nimport time; time.sleep(600)",
        "timed_out",
        |_, outcome| {
            limit(outcome, "idle");
            assert_eq!(outcome["stdout"]["text"], "a\n");
        },
    );
}

#[test]
fn a_tool_that_keeps_talking_is_not_idle() {
    let tables = "[limits]\nidle = \"2 s\"\nwall = \"60 s\"\n";
    let talks = "import time\nfor i in range(15): print(i, flush=True); time.sleep(0.2)";
    ends(tables, talks, "exited", |_, outcome| {
        assert_eq!(outcome["exit_code"], 0);
    });
}

#[test]
fn a_busy_tool_uses_up_its_cpu_time() {
    let tables = "[limits]\ncpu_time = \"500 ms\"\nwall = \"60 s\"\n";
    ends(
        tables,
        "while True: pass",
        "cpu_time_exceeded",
        |_, outcome| {
            limit(outcome, "cpu_time");
            let usage = &outcome["usage"];
            let user = usage["cpu_user_ms"].as_u64().expect("it is measured");
            let system = usage["cpu_system_ms"].as_u64().expect("it is measured");
            assert!(user + system >= 450, "{usage}");
        },
    );
}

#[test]
fn cpu_time_of_dead_grandchildren_counts() {
    let tables = "[limits]\ncpu_time = \"500 ms\"\nwall = \"60 s\"\n";
    // Each works for 50 ms and is gone; nobody waits for the grandchildren but the cell's first.
    let script = "
import os, time
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            until = time.process_time() + 0.05
            while time.process_time() < until: pass
        os._exit(0)
    os.wait()
    time.sleep(0.05)
";
    ends(tables, script, "cpu_time_exceeded", |_, outcome| {
        limit(outcome, "cpu_time");
    });
}

const HOARD: &str = "hoard = bytearray(400 << 20)";

#[test]
fn a_tool_that_hoards_memory_is_out_of_memory() {
    ends(SMALL, HOARD, "out_of_memory", |_, outcome| {
        limit(outcome, "memory");
    });
    ends(
        SMALL,
        "hoard = bytearray(20 << 20)",
        "exited",
        |_, outcome| {
            assert_eq!(outcome["exit_code"], 0);
        },
    );
}

#[test]
fn a_child_that_hoards_memory_is_out_of_memory() {
    let script = format!("import os\nif os.fork() == 0: {HOARD}\nelse: os.wait()");
    ends(SMALL, &script, "out_of_memory", |_, outcome| {
        limit(outcome, "memory");
    });
}

#[test]
fn a_grandchild_that_hoards_memory_is_out_of_memory_though_the_tool_exits_with_0() {
    let script = format!(
        "
import os
if os.fork() == 0:
    if os.fork() == 0:
        {HOARD}
    os.wait()
    os._exit(0)
os.wait()
os._exit(0)
"
    );
    ends(SMALL, &script, "out_of_memory", |_, outcome| {
        limit(outcome, "memory");
    });
}

#[test]
fn a_kill_from_within_is_not_taken_for_want_of_memory() {
    let script = "
import os, signal
child = os.fork()
if child == 0: signal.pause()
os.kill(child, 9)
os.wait()
os.kill(os.getpid(), 9)
";
    ends(SMALL, script, "signalled", |_, outcome| {
        assert_eq!(outcome["signal"], "SIGKILL");
        assert_eq!(outcome["denials"], json!([]));
    });
}

#[test]
fn a_fork_bomb_exceeds_its_processes() {
    let script = "
import os
while True:
    try: os.fork()
    except OSError: pass
";
    ends(SMALL, script, "pids_exceeded", |_, outcome| {
        limit(outcome, "pids");
        let peak = outcome["usage"]["pids_peak"].as_u64();
        assert!(peak.is_none_or(|peak| peak <= 20), "{outcome:#}");
    });
}

#[test]
fn a_thread_bomb_exceeds_its_processes() {
    let script = "
import threading
stay = threading.Event()
while True: threading.Thread(target=stay.wait, daemon=True).start()
";
    ends(SMALL, script, "pids_exceeded", |_, outcome| {
        limit(outcome, "pids");
    });
}

#[test]
fn a_tool_that_copes_with_too_few_processes_is_not_ended_for_it() {
    let script = "
import os, signal
children = []
try:
    while True:
        child = os.fork()
        if child == 0: signal.pause()
        children.append(child)
except OSError: pass
for child in children: os.kill(child, 9)
";
    ends(SMALL, script, "exited", |_, outcome| {
        assert_eq!(outcome["exit_code"], 0);
        limit(outcome, "pids");
    });
}

#[test]
fn a_flood_on_either_stream_exceeds_the_output() {
    for descriptor in [1, 2] {
        let script =
            format!("import os\nwhile True: os.write({descriptor}, b'0123456789abcdef' * 4096)");
        ends(
            "[limits]\noutput = \"256 KiB\"\n",
            &script,
            "output_exceeded",
            |_, outcome| {
                limit(outcome, "output");
                let stream = &outcome[["stdout", "stderr"][descriptor - 1]];
                assert_eq!(stream["truncated"], true);
                let shown = stream["text"].as_str().expect("what was kept is shown");
                assert_eq!(shown.len(), 256 << 10, "`limits.output` is kept");
                assert!(shown.starts_with("0123456789abcdef0123"));
                // This toolcell has ended, and nobody could read it there.
                assert!(stream.get("resource").is_none(), "{stream}");
            },
        );
    }
}

#[test]
fn a_client_is_told_how_much_of_a_flood_is_kept() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let profile = |name: &str, bytes: usize| {
            let written = format!(
                "format = 1\nname = \"{name}\"\ndescription = \"Writes.\"\nextends = [\"standard\"]\n\
                 [run]\nargv = [\"/bin/sh\", \"-c\", \"head -c {bytes} /dev/zero | tr '\\\\0' x\"]\n\
                 [limits]\noutput = \"64 KiB\"\n"
            );
            world.write(&format!("writers/{name}.toml"), &written);
        };
        profile("within", 50_000);
        profile("beyond", 200_000);
        let directory = world.path("writers");
        let directory = directory.to_str().expect("it is text");
        let mut server = Server::start(&world, &["--profiles", directory]);
        for (id, name, kept) in [(1, "within", 50_000), (2, "beyond", 64 << 10)] {
            server.call(id, name, &json!({}));
            let result = server.answer(id);
            let stream = &result["structuredContent"]["stdout"];
            let head = stream["text"].as_str().expect("the head is shown");
            assert_eq!(head.len(), 32 << 10, "{who:?}: {name}: `limits.inline`");
            assert_eq!(stream["resource_bytes"], kept, "{who:?}: {name}");
            let link = &result["content"][1];
            assert_eq!(link["size"], kept, "{who:?}: {name}: {link}");
            server.request(id + 10, "resources/read", &json!({ "uri": link["uri"] }));
            let read = server.answer(id + 10);
            let text = read["contents"][0]["text"].as_str().expect("it is text");
            assert_eq!(text.len(), kept, "{who:?}: {name}");
            let words = result["content"][0]["text"].as_str().expect("it is text");
            let whole = words.contains("all of it: ");
            assert_eq!(whole, name == "within", "{who:?}: {name}");
        }
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn both_streams_together_count_as_output() {
    let script = "import os\nos.write(1, b'x' * 40000); os.write(2, b'x' * 40000)";
    ends(
        "[limits]\noutput = \"64 KiB\"\n",
        script,
        "output_exceeded",
        |_, _| {},
    );
    ends(
        "[limits]\noutput = \"128 KiB\"\n",
        script,
        "exited",
        |_, _| {},
    );
}

/// Fills a directory with small files' contents, each below the largest file's size.
fn fill(directory: &str) -> String {
    format!(
        "
for n in range(100):
    with open(f'{directory}/{{n}}', 'wb') as file: file.write(bytes(512 << 10))
"
    )
}

#[test]
fn a_full_directory_is_disk_exceeded_and_its_limit_is_named() {
    for (directory, key) in [("/work", "disk"), ("/tmp", "tmp"), ("/dev/shm", "shm")] {
        let tables = "[limits]\ndisk = \"4 MiB\"\ntmp = \"4 MiB\"\nshm = \"4 MiB\"\n";
        ends(tables, &fill(directory), "disk_exceeded", |_, outcome| {
            limit(outcome, key);
        });
        let roomy = format!("[limits]\n{key} = \"64 MiB\"\n");
        ends(&roomy, &fill(directory), "exited", |_, outcome| {
            assert_eq!(outcome["exit_code"], 0);
        });
    }
}

#[test]
fn a_directory_full_of_names_is_disk_exceeded() {
    let tables = "[limits]\ndisk = \"1 MiB\"\n";
    let script = "for n in range(100_000): open(f'/work/{n}', 'w').close()";
    ends(tables, script, "disk_exceeded", |_, outcome| {
        limit(outcome, "disk");
    });
}

#[test]
fn one_file_larger_than_a_file_may_be_is_disk_exceeded() {
    let tables = "[limits]\nfile_size = \"1 MiB\"\n";
    // Python ignores SIGXFSZ, as most programs do not.
    let script = "
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
with open('/work/large', 'wb') as file: file.write(bytes(2 << 20))
";
    ends(tables, script, "disk_exceeded", |_, outcome| {
        limit(outcome, "file_size");
    });
    let sparse = "
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.truncate(os.open('/work/sparse', os.O_RDWR | os.O_CREAT), 1 << 40)
";
    ends(tables, sparse, "disk_exceeded", |_, outcome| {
        limit(outcome, "file_size");
    });
}

#[test]
fn an_interrupted_run_is_cancelled() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let profile = world.profile("");
        let script = "import time; print('up', flush=True); time.sleep(600)";
        let arguments = [
            "run",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            script,
        ];
        let running = world.start(&arguments);
        assert_eq!(running.line(), "up");
        running.signal(nix::sys::signal::Signal::SIGINT);
        let ended = running.end();
        assert_eq!(ended.status.code(), Some(130), "{who:?}");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("toolcell: cancelled"), "{who:?}: {said}");
        let receipts = world.receipts();
        assert_eq!(receipts.len(), 1);
        assert_eq!(receipts[0]["status"], "cancelled", "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_program_that_may_not_be_executed_is_denied() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        // It exists in the cell and has the permission; only `files.exec` lacks it.
        let script = "
import os, shutil
shutil.copy('/usr/bin/true', '/work/true'); os.chmod('/work/true', 0o755)
os.execv('/work/true', ['true'])
";
        let ran = world.python("", script);
        assert_eq!(ran["exit_code"], 1, "{who:?}: {ran:#}");
        let allowed = world.python("[files]\nexec = [\"/work\"]\n", script);
        assert_eq!(allowed["exit_code"], 0, "{who:?}: {allowed:#}");

        let program = world.write("bin/tool", "#!/bin/sh\nexit 7\n");
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("it is ours");
        let directory = world.path("bin").display().to_string();
        open_to_all(&world);
        let read = world.profile(&format!("[files]\nread = [{directory:?}]\n"));
        let program = program.display().to_string();
        let denied = world.run(&read, &[&program]);
        assert_eq!(denied["status"], "denied", "{who:?}: {denied:#}");
        assert_eq!(denied["denials"][0]["kind"], "path");
        let line = denied["denials"][0]["allow_with"]
            .as_str()
            .expect("there is a line");
        assert_eq!(denied.get("exit_code"), None);
        let exec = world.profile(&line.replacen("files.exec", "[files]\nexec", 1));
        let allowed = world.run(&exec, &[&program]);
        assert_eq!(
            allowed["exit_code"], 7,
            "{who:?}: the line is right: {allowed:#}"
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_call_with_wrong_arguments_is_refused() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let refused = world.call("python", &json!({ "code": 5 }));
        assert_eq!(refused["status"], "refused", "{who:?}: {refused:#}");
        assert!(
            refused["reason"]
                .as_str()
                .is_some_and(|why| why.contains("code"))
        );
        assert_eq!(refused.get("enforced"), None, "there was no cell");
        let allowed = world.call("python", &json!({ "code": "5" }));
        assert_eq!(allowed["exit_code"], 0);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_program_that_does_not_exist_is_a_failed_set_up() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let failed = world.run("standard", &["/usr/bin/no-such-program"]);
        assert_eq!(failed["status"], "setup_failed", "{who:?}: {failed:#}");
        assert!(
            failed["reason"]
                .as_str()
                .is_some_and(|why| why.contains("no-such-program"))
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_script_whose_interpreter_is_missing_is_a_failed_set_up() {
    for who in everyone() {
        let world = World::new(who);
        let script = world.write("bin/tool", "#!/usr/bin/no-such-interpreter\n");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("it is ours");
        let directory = world.path("bin").display().to_string();
        open_to_all(&world);
        let profile = world.profile(&format!("[files]\nexec = [{directory:?}]\n"));
        let failed = world.run(&profile, &[&script.display().to_string()]);
        assert_eq!(failed["status"], "setup_failed", "{who:?}: {failed:#}");
        let reason = failed["reason"].as_str().expect("there is one");
        assert!(reason.contains("interpreter"), "{reason}");
    }
}

/// Cells of root's run as a user of their own, who must get into the scratch directory.
fn open_to_all(world: &World) {
    std::fs::set_permissions(
        world.directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("it is ours");
}
