//! Every call has its receipt, however many run at once; and no call runs that could have none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone, outcome};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

#[track_caller]
fn verified(world: &World) -> String {
    let output = world.toolcell(&["audit", "verify"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}{error}", world.who);
    said
}

#[test]
fn thirty_two_calls_of_one_server_are_answered_each_with_a_receipt() {
    const CALLS: u64 = 32;
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        for id in 1..=CALLS {
            let script = format!("print({id}); raise SystemExit({})", id % 3);
            server.call(id, "python", &json!({ "code": script }));
        }
        let mut calls = BTreeSet::new();
        for id in 1..=CALLS {
            let outcome = server.outcome(id);
            assert_eq!(outcome["status"], "exited", "{who:?}: {outcome:#}");
            assert_eq!(outcome["exit_code"], id % 3, "{who:?}");
            assert_eq!(
                outcome["stdout"]["text"],
                format!("{id}\n"),
                "{who:?}: its own output"
            );
            calls.insert(outcome["call"].as_str().expect("it is named").to_owned());
        }
        let answered: BTreeSet<_> = world
            .receipts()
            .iter()
            .map(|receipt| receipt["call"].as_str().expect("it is named").to_owned())
            .collect();
        assert_eq!(answered, calls, "{who:?}: written before the answers came");
        assert_eq!(calls.len(), 32, "{who:?}");
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        verified(&world);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn sixteen_runs_at_once_share_one_chain() {
    const RUNS: usize = 16;
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let command = ["run", "--json", "--", "/bin/sh", "-c", "echo fine; exit 5"];
        let running: Vec<_> = (0..RUNS).map(|_| world.start(&command)).collect();
        for running in running {
            let ended = running.end();
            assert_eq!(ended.status.code(), Some(5), "{who:?}: {ended:?}");
            assert_eq!(outcome(&ended)["stdout"]["text"], "fine\n", "{who:?}");
        }
        let sequence: Vec<_> = world
            .receipts()
            .iter()
            .map(|receipt| receipt["sequence"].as_u64())
            .collect();
        assert_eq!(sequence.len(), RUNS, "{who:?}");
        assert!(sequence.is_sorted(), "{who:?}: {sequence:?}");
        verified(&world);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn every_kind_of_end_has_a_receipt() {
    for who in everyone() {
        let world = World::new(who);
        let ends = [
            ("", "pass", "exited"),
            (
                "[limits]\nwall = \"300 ms\"\n",
                "import time; time.sleep(600)",
                "timed_out",
            ),
            (
                "[limits]\nmemory = \"64 MiB\"\n",
                "bytearray(400 << 20)",
                "out_of_memory",
            ),
            ("", "import os; os.kill(os.getpid(), 11)", "signalled"),
        ];
        for (tables, script, status) in ends {
            let outcome = world.python(tables, script);
            assert_eq!(outcome["status"], status, "{who:?}: {outcome:#}");
            let receipts = world.receipts();
            let receipt = receipts.last().expect("there is one");
            for field in [
                "call", "tool", "status", "reason", "usage", "denials", "enforced",
            ] {
                assert_eq!(
                    receipt.get(field),
                    outcome.get(field),
                    "{who:?}: {field} of {status}"
                );
            }
            assert_eq!(
                receipt["caller"]["id"],
                world.receipts()[0]["caller"]["id"],
                "{who:?}"
            );
        }
        let refused = world.call("python", &json!({ "nonsense": 1 }));
        assert_eq!(refused["status"], "refused", "{who:?}");
        let failed = world.run("standard", &["/usr/bin/no-such-program"]);
        assert_eq!(failed["status"], "setup_failed", "{who:?}");
        let statuses: Vec<_> = world
            .receipts()
            .into_iter()
            .map(|mut receipt| receipt["status"].take())
            .collect();
        assert_eq!(statuses[4..], ["refused", "setup_failed"], "{who:?}");
        verified(&world);
    }
}

#[test]
fn a_receipt_does_not_hold_what_was_said() {
    for who in everyone() {
        let world = World::new(who);
        let secret = "correct-horse-battery-staple";
        let _ = world.call("python", &json!({ "code": format!("print('{secret}')") }));
        for name in ["audit.jsonl", "audit.head"] {
            let log = fs::read_to_string(world.path("state").join(name)).expect("it is kept");
            assert!(!log.contains(secret), "{who:?}: {name}");
        }
        let same = |code: &str| {
            let _ = world.call("python", &json!({ "code": code }));
            world.receipts().last().expect("there is one")["arguments"].clone()
        };
        assert_eq!(
            same("1"),
            same("1"),
            "{who:?}: equal arguments have equal digests"
        );
        assert_ne!(
            same("1"),
            same("2"),
            "{who:?}: and different ones different ones"
        );
    }
}

/// Something that is done to a log.
type Change = fn(&str) -> String;

#[test]
fn a_log_that_was_changed_is_found_out() {
    for who in everyone() {
        let changes: [(&str, Change); 4] = [
            ("an edit", |log| {
                log.replacen("\"exit_code\":1", "\"exit_code\":0", 1)
            }),
            ("a cut at the end", |log| {
                log.trim_end()
                    .rsplit_once('\n')
                    .expect("it has lines")
                    .0
                    .to_owned()
                    + "\n"
            }),
            ("a line left out", |log| {
                let mut lines: Vec<_> = log.lines().collect();
                lines.remove(lines.len() / 2);
                lines.join("\n") + "\n"
            }),
            ("a swap", |log| {
                let mut lines: Vec<_> = log.lines().collect();
                let last = lines.len() - 1;
                lines.swap(last, last - 1);
                lines.join("\n") + "\n"
            }),
        ];
        let world = World::new(who);
        for code in [0, 1, 2, 3] {
            let _ = world.run("standard", &["/bin/sh", "-c", &format!("exit {code}")]);
        }
        verified(&world);
        let path = world.path("state/audit.jsonl");
        let log = fs::read_to_string(&path).expect("it is kept");
        for (what, change) in changes {
            let changed = change(&log);
            assert_ne!(changed, log, "{what} changes something");
            fs::write(&path, changed).expect("it is ours");
            let output = world.toolcell(&["audit", "verify"]);
            assert!(!output.status.success(), "{who:?}: {what} is not found");
        }
        fs::write(&path, &log).expect("it is ours");
        verified(&world);
    }
}

/// Room for some receipts: each has 64 KiB set aside before its call starts.
const DISK_BYTES: usize = 384 << 10;

/// A small file system of the world's own, mounted by root where the state goes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where the tests may not mount.
    fn mount(world: &World) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            harness::skip("a small disk for the state", "only root may mount one");
            return None;
        }
        let path = world.path("state");
        fs::create_dir_all(&path).expect("the scratch directory is writable");
        let owner = match world.who {
            Who::Root => 0,
            Who::User => harness::USER,
        };
        let options = format!("size={DISK_BYTES},mode=700,uid={owner},gid={owner}");
        let options = Some(options.as_str());
        mount(
            Some("disk"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .expect("root may mount");
        Some(Self(path))
    }

    fn remount(&self, flags: MsFlags) {
        let none = None::<&Path>;
        mount(none, &self.0, none, MsFlags::MS_REMOUNT | flags, none).expect("root may remount");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A tool that leaves a trace on the host, if it runs.
fn trace(world: &World) -> Value {
    let directory = world.path("project").display().to_string();
    let command = [
        "run",
        "--json",
        "--workspace",
        &directory,
        "--",
        "/bin/sh",
        "-c",
        "echo ran > ran",
    ];
    outcome(&world.toolcell(&command))
}

#[test]
fn a_full_disk_under_the_state_refuses_calls_until_there_is_room() {
    for who in everyone() {
        let world = World::new(who);
        world.write("project/file", "");
        let Some(disk) = SmallDisk::mount(&world) else {
            return;
        };
        let ballast = disk.0.join("ballast");
        let full = fs::write(&ballast, vec![0; 2 * DISK_BYTES]);
        assert!(full.is_err(), "{who:?}: the disk is full");
        let refused = trace(&world);
        assert_eq!(refused["status"], "refused", "{who:?}: {refused:#}");
        let reason = refused["reason"].as_str().expect("there is one");
        assert!(
            reason.to_lowercase().contains("no space left"),
            "{who:?}: {reason}"
        );
        assert!(
            !world.path("project/ran").exists(),
            "{who:?}: it did not run"
        );

        fs::remove_file(&ballast).expect("it is ours");
        let ran = trace(&world);
        assert_eq!(ran["exit_code"], 0, "{who:?}: {ran:#}");
        assert!(world.path("project/ran").exists(), "{who:?}");
        verified(&world);
    }
}

#[test]
fn a_read_only_disk_under_the_state_refuses_calls_until_it_is_writable() {
    for who in everyone() {
        let world = World::new(who);
        world.write("project/file", "");
        let Some(disk) = SmallDisk::mount(&world) else {
            return;
        };
        disk.remount(MsFlags::MS_RDONLY);
        let directory = world.path("project").display().to_string();
        let command = [
            "run",
            "--workspace",
            &directory,
            "--",
            "/bin/sh",
            "-c",
            "echo ran > ran",
        ];
        let output = world.toolcell(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{who:?}: {said}");
        assert!(said.to_lowercase().contains("read-only"), "{who:?}: {said}");
        assert!(
            !world.path("project/ran").exists(),
            "{who:?}: it did not run"
        );
        disk.remount(MsFlags::empty());
        let ran = trace(&world);
        assert_eq!(ran["exit_code"], 0, "{who:?}: {ran:#}");
        verified(&world);
    }
}

#[test]
fn a_server_goes_on_answering_while_the_disk_is_full() {
    for who in everyone() {
        let world = World::new(who);
        let Some(disk) = SmallDisk::mount(&world) else {
            return;
        };
        let mut server = Server::start(&world, &[]);
        // Nothing is set aside yet.
        let ballast = disk.0.join("ballast");
        assert!(
            fs::write(&ballast, vec![0; 2 * DISK_BYTES]).is_err(),
            "{who:?}: the disk is full"
        );
        server.call(2, "shell", &json!({ "script": "echo two" }));
        let refused = server.answer(2);
        assert_eq!(refused["isError"], true, "{who:?}: {refused:#}");
        assert_eq!(
            refused["structuredContent"]["status"], "refused",
            "{who:?}: {refused:#}"
        );
        server.request(3, "tools/list", &json!({}));
        assert!(
            server.answer(3)["tools"].is_array(),
            "{who:?}: what needs no disk goes on"
        );
        fs::remove_file(&ballast).expect("it is ours");
        server.call(4, "shell", &json!({ "script": "echo four" }));
        assert_eq!(server.outcome(4)["stdout"]["text"], "four\n", "{who:?}");
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        verified(&world);
    }
}

#[test]
fn a_state_directory_of_somebody_elses_is_refused() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::User);
    let state = world.path("state");
    fs::create_dir(&state).expect("the scratch directory is writable");
    let output = world.toolcell(&["run", "--", "/bin/true"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("belongs to another user"), "{said}");
    world.give(&state);
    assert!(world.toolcell(&["run", "--", "/bin/true"]).status.success());
}
