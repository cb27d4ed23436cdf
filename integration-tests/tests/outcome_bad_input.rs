//! Bad input at run time: each is answered with what was wrong, nothing is started that cannot work,
//! and nothing is left.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone, outcome};
use serde_json::{Value, json};

/// What is wrong with a call's arguments is told in words that name the argument.
#[test]
fn wrong_arguments_are_named() {
    let calls = [
        ("missing", json!({})),
        ("of the wrong type", json!({ "code": 5 })),
        ("null", json!({ "code": null })),
        ("unknown", json!({ "code": "1", "kode": "2" })),
        (
            "too long",
            json!({ "code": "1", "args": ["x".repeat(5000)] }),
        ),
        ("too many", json!({ "code": "1", "args": vec!["x"; 65] })),
        ("with a NUL", json!({ "code": "1", "args": ["a\0b"] })),
    ];
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut table = String::new();
        for (what, arguments) in &calls {
            let outcome = world.call("python", arguments);
            assert_eq!(outcome["status"], "refused", "{who:?}: {what}: {outcome:#}");
            let reason = outcome["reason"].as_str().expect("there is one");
            writeln!(table, "{what}: {reason}").expect("a string takes it");
        }
        insta::assert_snapshot!("wrong_arguments", table);
        let receipts = world.receipts();
        assert_eq!(receipts.len(), calls.len(), "{who:?}: each has a receipt");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn strange_but_right_arguments_arrive_as_they_are() {
    let strange = [
        "",
        " ",
        "\n",
        "a\nb",
        "..",
        "../../etc/passwd",
        "-rf",
        "--",
        "$(id)",
        "`id`",
        "'\"",
        "\u{fffd}",
        "é\u{202e}x",
        "%s%n",
        "{code}",
        "{{",
    ];
    let code = "import sys, json; json.dump(sys.argv[1:], sys.stdout)";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.call("python", &json!({ "code": code, "args": strange }));
        let text = outcome["stdout"]["text"].as_str().expect("it is text");
        let arrived: Value = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(arrived, json!(strange), "{who:?}: {outcome:#}");
    }
}

#[test]
fn calls_that_are_no_calls_say_what_was_expected() {
    let commands: [&[&str]; 8] = [
        &["call", "no-such-tool"],
        &["call", "python", "{\"code\": "],
        &["call", "python", "code"],
        &["call", "python", "{\"code\": \"\\ud800\"}"],
        &["run", "--"],
        &["run", "--tool", "python", "--", "true"],
        &["run", "--root", "docs=/usr", "--", "true"],
        &["run", "--profile", "no-such-profile", "--", "true"],
    ];
    for who in everyone() {
        let world = World::new(who);
        let mut table = String::new();
        for command in commands {
            let output = world.toolcell(command);
            assert!(!output.status.success(), "{who:?}: {command:?}");
            assert!(output.stdout.is_empty(), "{who:?}: {command:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            writeln!(table, "{command:?}: {:?}\n{said}", output.status.code()).expect("it fits");
        }
        insta::assert_snapshot!("no_calls", table);
        assert!(world.receipts().is_empty(), "{who:?}: nothing was called");
    }
}

#[test]
fn commands_that_cannot_run_say_why() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let directory = world.path("bin").display().to_string();
        let script = |name: &str, text: &str, mode: u32| {
            let path = world.write(&format!("bin/{name}"), text);
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
        };
        script("plain", "#!/bin/sh\nexit 0\n", 0o644);
        script("text", "this is no program\n", 0o755);
        script("lost", "#!/usr/bin/no-such-interpreter\n", 0o755);
        script("nested", "#!/etc/passwd\n", 0o755);
        script("fine", "#!/bin/sh\nexit 7\n", 0o755);
        std::os::unix::fs::symlink("nowhere", world.path("bin/dangling")).expect("it is ours");
        std::fs::set_permissions(world.directory.path(), PermissionsExt::from_mode(0o755))
            .expect("it is ours");
        let profile = world.profile(&format!("[files]\nexec = [{directory:?}]\n"));
        let mut table = String::new();
        for name in [
            "plain", "text", "lost", "nested", "dangling", "missing", ".", "fine",
        ] {
            let program = format!("{directory}/{name}");
            let outcome = world.run(&profile, &[&program]);
            let (status, code) = (&outcome["status"], outcome.get("exit_code"));
            let reason = outcome["reason"].as_str().unwrap_or_default();
            let reason = reason.replace(&directory, "DIRECTORY");
            writeln!(table, "{name}: {status} {code:?} {reason}").expect("a string takes it");
        }
        for program in ["./relative", "bin/relative", "../up", "", "no-such-program"] {
            let output = world.toolcell(&["run", "--profile", &profile, "--", program]);
            assert_eq!(output.status.code(), Some(125), "{who:?}: {program:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            write!(table, "{program:?}: {said}").expect("a string takes it");
        }
        insta::assert_snapshot!("no_programs", table);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_giant_command_is_refused_with_its_size() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let word = "x".repeat(100_000);
        let words = vec![word.as_str(); 15];
        let command = [&["run", "--json", "--", "/bin/true"][..], &words].concat();
        let refused = outcome(&world.toolcell(&command));
        assert_eq!(
            refused["status"], "refused",
            "{who:?}: {}",
            refused["reason"]
        );
        let reason = refused["reason"].as_str().expect("there is one");
        assert!(reason.contains("bytes"), "{who:?}: {reason}");
        let large = [&["run", "--json", "--", "/bin/true"][..], &words[..1]].concat();
        assert_eq!(outcome(&world.toolcell(&large))["exit_code"], 0, "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_server_survives_every_wrong_call() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        let calls = [
            json!({ "name": "python" }),
            json!({ "name": "python", "arguments": { "code": 1 } }),
            json!({ "name": "python", "arguments": { "code": "x".repeat(1_000_001) } }),
            json!({ "name": "python", "arguments": { "code": "1", "args": ["\0"] } }),
            json!({ "name": "no-such-tool", "arguments": {} }),
            json!({ "name": 5 }),
            json!({}),
        ];
        for (id, parameters) in (1..).zip(&calls) {
            server.request(id, "tools/call", parameters);
            let answer = server.answer(id);
            let wrong = answer["isError"] == true || answer.get("code").is_some();
            assert!(wrong, "{who:?}: {answer:#}");
        }
        server.call(99, "python", &json!({ "code": "print('well')" }));
        assert_eq!(server.outcome(99)["stdout"]["text"], "well\n", "{who:?}");
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_host_without_user_namespaces_is_told_of() {
    if !nix::unistd::geteuid().is_root() {
        harness::skip(
            "a host without user namespaces",
            "only root can make one for a test",
        );
        return;
    }
    let world = World::new(Who::User);
    // In a user namespace of its own the limit is for what is made below it only.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let user = harness::USER.to_string();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command.args([
        "unshare",
        "--user",
        "--map-current-user",
        "--keep-caps",
        "--",
    ]);
    command
        .args(["/bin/sh", "-c", script])
        .arg(harness::toolcell());
    command.args(["--tier", "rlimits", "run", "--json", "--", "/bin/true"]);
    command
        .env_clear()
        .envs(&world.env)
        .current_dir(world.directory.path());
    let failed = outcome(&command.output().expect("setpriv and unshare are there"));
    assert_eq!(failed["status"], "setup_failed", "{failed:#}");
    let reason = failed["reason"].as_str().expect("there is one");
    assert!(
        reason.contains("sysctl -w user.max_user_namespaces"),
        "{reason}"
    );
    insta::assert_snapshot!("no_user_namespaces", reason);
}
