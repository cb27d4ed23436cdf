//! The built-in tools that run a caller's code, and the one that calculates: what they are for, and
//! what they refuse.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use harness::builtin::{stderr, stdout};
use harness::programs::installed;
use harness::{World, everyone};
use serde_json::{Value, json};

fn python(world: &World, code: &str) -> Value {
    world.call("python", &json!({ "code": code }))
}

fn artifacts(outcome: &Value) -> Vec<(&str, u64)> {
    let files = outcome["files"].as_array().expect("an outcome lists files");
    files
        .iter()
        .filter_map(|file| Some((file["name"].as_str()?, file["bytes"].as_u64()?)))
        .collect()
}

#[test]
fn python_runs_a_script_with_arguments_and_returns_files() {
    for who in everyone() {
        let world = World::new(who);
        let code = "import os, sys\nprint('grüße', sys.argv[1:])\nos.mkdir('out')\n\
                    open('out/table.csv', 'w').write('a,b\\n')\nsys.exit(3)";
        let args = ["--flag", "two words", ""];
        let outcome = world.call("python", &json!({ "code": code, "args": args }));
        assert_eq!(outcome["exit_code"], 3, "{who:?}: {outcome:#}");
        assert_eq!(stdout(&outcome), "grüße ['--flag', 'two words', '']\n");
        assert_eq!(artifacts(&outcome), [("table.csv", 4)]);
    }
}

#[test]
fn python_shows_a_traceback() {
    for who in everyone() {
        let outcome = python(&World::new(who), "def f():\n    return 1 / 0\nf()");
        assert_eq!(outcome["exit_code"], 1, "{who:?}: {outcome:#}");
        assert!(stderr(&outcome).ends_with("ZeroDivisionError: division by zero\n"));
    }
}

#[test]
fn python_keeps_nothing_between_calls() {
    for who in everyone() {
        let world = World::new(who);
        let leave = "for place in ('/work', '/tmp', '/dev/shm'):\n    open(place + '/kept', 'w')";
        assert_eq!(python(&world, leave)["exit_code"], 0, "{who:?}");
        let look = "import os\nprint([os.listdir(p) for p in ('/work', '/tmp', '/dev/shm')])";
        assert_eq!(stdout(&python(&world, look)), "[[], [], []]\n", "{who:?}");
    }
}

#[test]
fn python_takes_nothing_from_the_hosts_environment() {
    for who in everyone() {
        let mut world = World::new(who);
        world
            .env
            .insert("SECRET_TOKEN".to_owned(), "hunter2".to_owned());
        world
            .env
            .insert("PYTHONSTARTUP".to_owned(), "/nowhere".to_owned());
        let outcome = python(&world, "import os\nprint(sorted(os.environ))");
        assert_eq!(stdout(&outcome), "['HOME', 'LANG', 'PATH']\n", "{who:?}");
    }
}

#[test]
fn node_runs_a_program_with_arguments_and_returns_files() {
    if !installed(&["/usr/bin/node"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let code = "const fs = require('fs'); fs.mkdirSync('out');\
                    fs.writeFileSync('out/page.html', '<p>');\
                    console.log(process.argv.slice(2)); process.exitCode = 4;";
        let outcome = world.call("node", &json!({ "code": code, "args": ["--inspect", "x"] }));
        assert_eq!(outcome["exit_code"], 4, "{who:?}: {outcome:#}");
        assert_eq!(stdout(&outcome), "[ '--inspect', 'x' ]\n");
        assert_eq!(artifacts(&outcome), [("page.html", 3)]);
    }
}

#[test]
fn shell_runs_a_script_that_reads_its_input() {
    for who in everyone() {
        let world = World::new(who);
        let script = "mkdir out; sort | tee out/sorted; echo \"$0 $#\" >&2; exit 5";
        let arguments = json!({ "script": script, "stdin": "b\na\n" });
        let outcome = world.call("shell", &arguments);
        assert_eq!(outcome["exit_code"], 5, "{who:?}: {outcome:#}");
        assert_eq!(stdout(&outcome), "a\nb\n");
        assert_eq!(artifacts(&outcome), [("sorted", 4)]);
    }
}

#[test]
fn shell_takes_a_script_that_looks_like_an_option() {
    for who in everyone() {
        let outcome = World::new(who).call("shell", &json!({ "script": "-c true" }));
        assert_eq!(outcome["exit_code"], 127, "{who:?}: {outcome:#}");
    }
}

/// Each way of changing a file is tried by the same code within the workspace, where it works.
#[test]
fn code_cannot_change_the_hosts_files() {
    for who in everyone() {
        let world = World::new(who);
        let kept = world.write("kept/file", "as it was");
        let change = |place: &str| {
            format!(
                "import os\ndef change(directory):\n    path = directory + '/file'\n    \
                 open(path, 'w').write('changed')\n    os.rename(path, directory + '/other')\n\
                 change({place:?})\nprint('changed')"
            )
        };
        assert_eq!(
            stdout(&python(&world, &change("/work"))),
            "changed\n",
            "{who:?}"
        );
        let directory = kept
            .parent()
            .expect("it has one")
            .to_str()
            .expect("a plain path");
        for place in [directory, "/usr/lib", "/etc", "/proc", "/dev", "/"] {
            let outcome = python(&world, &change(place));
            assert_eq!(outcome["exit_code"], 1, "{who:?}: {place}: {outcome:#}");
        }
        assert_eq!(fs::read_to_string(&kept).expect("it is there"), "as it was");
        for place in ["/usr/lib/other", "/etc/other", "/other"] {
            assert!(
                !std::path::Path::new(place).exists(),
                "{who:?}: {place} was made"
            );
        }
    }
}

#[test]
fn code_does_not_see_the_hosts_files() {
    for who in everyone() {
        let world = World::new(who);
        let secret = world.write("secret", "hunter2");
        let read = |path: &str| {
            python(
                &world,
                &format!("import sys\nsys.stdout.write(open({path:?}).read())"),
            )
        };
        assert!(
            stdout(&read("/etc/passwd")).contains("user:x:1000"),
            "{who:?}"
        );
        let secret = secret.to_str().expect("a plain path");
        for path in [
            secret,
            "/etc/shadow",
            "/root/.bashrc",
            "/etc/machine-id",
            "/run/utmp",
        ] {
            let outcome = read(path);
            assert_eq!(outcome["exit_code"], 1, "{who:?}: {path}: {outcome:#}");
            assert_eq!(stdout(&outcome), "", "{who:?}: {path}");
        }
    }
}

#[test]
fn code_reaches_no_server_of_the_host() {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    server.set_nonblocking(true).expect("sockets can wait");
    let port = server.local_addr().expect("it is bound").port();
    let code = format!(
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)\nprint('connected')"
    );
    let outside = Command::new("/usr/bin/python3")
        .args(["-c", &code])
        .output();
    assert_eq!(outside.expect("python starts").stdout, b"connected\n");
    assert!(server.accept().is_ok(), "the control connects");
    for who in everyone() {
        let outcome = python(&World::new(who), &code);
        assert_eq!(outcome["exit_code"], 1, "{who:?}: {outcome:#}");
        assert!(
            server.accept().is_err(),
            "{who:?}: a connection left the cell"
        );
    }
}

#[test]
fn calculate_is_exact_where_it_can_be() {
    for who in everyone() {
        let world = World::new(who);
        for (expression, value) in [
            ("2**64 + 1", "18446744073709551617"),
            ("10 // 3 + 10 % 3", "4"),
            ("-7 // 2", "-4"),
            ("sqrt(2) * sin(pi / 4)", "1.0"),
            ("factorial(20) // comb(10, 3)", "20274183401472000"),
            ("max(1, 2.5, abs(-3))", "3"),
            ("1 < 2", "True"),
            (" ( 1 +\n 2 ) ", "3"),
            ("0.1 + 0.2", "0.30000000000000004"),
        ] {
            let told = world.told(&[], "calculate", &json!({ "expression": expression }));
            assert_eq!(told, format!("{value}\n"), "{who:?}: {expression}");
        }
    }
}

#[test]
fn calculate_evaluates_nothing_but_arithmetic() {
    for who in everyone() {
        let world = World::new(who);
        for expression in [
            "__import__('os').system('id')",
            "open('/etc/passwd').read()",
            "().__class__.__bases__",
            "[x for x in (1, 2)]",
            "lambda: 1",
            "'a' * 3",
            "2**2**2**2**2**2",
            "factorial(10**9)",
            "1 / 0",
            "1 +",
            "x = 1",
            "exit(0)",
        ] {
            let outcome = world.call("calculate", &json!({ "expression": expression }));
            assert_ne!(
                outcome["exit_code"], 0,
                "{who:?}: {expression}: {outcome:#}"
            );
            assert_eq!(stdout(&outcome), "", "{who:?}: {expression}");
        }
    }
}

#[test]
fn bad_arguments_are_refused_by_the_name_of_the_field() {
    for who in everyone() {
        let world = World::new(who);
        let long = "x".repeat(2001);
        for (tool, arguments, words) in [
            ("python", json!({}), ["`/code`", "found nothing"]),
            (
                "python",
                json!({ "code": 5 }),
                ["`/code`", "expected a string"],
            ),
            (
                "python",
                json!({ "code": "", "args": "x" }),
                ["`/args`", "expected an array"],
            ),
            (
                "python",
                json!({ "code": "", "args": ["x", 1] }),
                ["`/args/1`", "expected a string"],
            ),
            (
                "python",
                json!({ "code": "", "args": ["a\u{0}b"] }),
                ["`/args", "NUL"],
            ),
            (
                "python",
                json!({ "code": "", "argz": [] }),
                ["`/argz`", "`args`"],
            ),
            (
                "node",
                json!({ "code": null }),
                ["`/code`", "expected a string"],
            ),
            (
                "shell",
                json!({ "script": ["true"] }),
                ["`/script`", "expected a string"],
            ),
            (
                "shell",
                json!({ "script": "tr\u{0}ue" }),
                ["`/script`", "NUL"],
            ),
            (
                "calculate",
                json!({ "expression": "" }),
                ["`/expression`", "at least 1"],
            ),
            (
                "calculate",
                json!({ "expression": long }),
                ["`/expression`", "at most 2000"],
            ),
        ] {
            world.assert_refused(&[], tool, &arguments, &words);
        }
    }
}
