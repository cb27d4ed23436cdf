//! What a tool leaves in `out/` is returned: regular files of this call, and nothing else, however
//! strange the directory.

use std::path::Path;

use harness::{Host, World, assert_nothing_left, everyone, outcome};
use serde_json::Value;

/// Artifacts of one call (`supervisor/src/results.rs`).
const ARTIFACTS_MAX: usize = 64;

/// The names of the artifacts, and the reason, of a script that ran well.
#[track_caller]
fn artifacts(outcome: &Value) -> (Vec<&str>, &str) {
    assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
    let files = outcome["files"].as_array().expect("files are a list");
    let names = files
        .iter()
        .map(|file| file["name"].as_str().expect("it has a name"));
    (
        names.collect(),
        outcome["reason"].as_str().unwrap_or_default(),
    )
}

#[test]
fn files_in_out_are_returned_with_their_size_and_type() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let script = "
import os
os.makedirs('out/deep/deeper')
open('out/a.txt', 'w').write('five!')
open('out/empty', 'w')
open('out/deep/deeper/b.png', 'wb').write(bytes(1000))
open('not-out.txt', 'w').write('no')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        assert_eq!(names, ["a.txt", "deep/deeper/b.png", "empty"], "{who:?}");
        assert_eq!(reason, "", "{who:?}");
        let files = &outcome["files"];
        assert_eq!(files[0]["bytes"], 5);
        assert_eq!(files[0]["mime_type"], "text/plain");
        assert_eq!(files[1]["bytes"], 1000);
        assert_eq!(files[1]["mime_type"], "image/png");
        // Links would end with the command.
        assert!((0..3).all(|n| files[n]["resource"] == ""), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn files_in_out_are_written_where_the_user_says_and_replace_nothing() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        world.write("kept/mine.txt", "mine");
        world.write("elsewhere/secret", "mine");
        let kept = world.path("kept");
        std::os::unix::fs::symlink("../elsewhere/new", kept.join("link")).expect("it is ours");
        std::os::unix::fs::symlink("../elsewhere", kept.join("linked")).expect("it is ours");
        world.give(&kept);
        let script = "
import os
os.makedirs('out/deep')
os.makedirs('out/linked')
os.makedirs('out/.git/hooks')
for name in ('mine.txt', 'link', 'linked/new', 'deep/a.txt', '.bashrc', '.git/hooks/post-commit', 'a\\nb'):
    open('out/' + name, 'w').write('theirs')
os.chmod('out/deep/a.txt', 0o777)
";
        let profile = world.profile("");
        let directory = kept.to_str().expect("its name is plain");
        let arguments = [
            "run",
            "--profile",
            &profile,
            "--out",
            directory,
            "--json",
            "--",
        ];
        let command = ["/usr/bin/python3", "-I", "-c", script];
        let output = world.toolcell(&[&arguments[..], &command].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        // The tool succeeded, and not all that it left could be written.
        assert_eq!(output.status.code(), Some(125), "{who:?} {said}");
        let outcome = outcome(&output);
        let (names, _) = artifacts(&outcome);
        assert_eq!(names.len(), 7, "{who:?} {outcome:#}");
        for file in outcome["files"].as_array().expect("a list") {
            let name = file["name"].as_str().expect("it has one");
            let refused = ["mine.txt", "link", "linked/new"].contains(&name);
            assert_eq!(file["resource"] == "", refused, "{who:?} {file:#}");
            assert_eq!(
                said.contains(&format!("`out/{name}` was not")),
                refused,
                "{said}"
            );
        }
        let read = |name: &str| std::fs::read_to_string(kept.join(name)).unwrap_or_default();
        assert_eq!(read("mine.txt"), "mine", "{who:?}");
        for name in ["deep/a.txt", "_bashrc", "_git/hooks/post-commit", "a_b"] {
            assert_eq!(read(name), "theirs", "{who:?} {name}");
        }
        let mode = std::fs::metadata(kept.join("deep/a.txt")).expect("it was written");
        let executable = std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o111;
        assert_eq!(executable, 0, "{who:?}");
        let elsewhere = std::fs::read_dir(world.path("elsewhere")).expect("it is there");
        assert_eq!(elsewhere.count(), 1, "{who:?}");
        // The control: into a new directory, all of it.
        let fresh = world.workspace().join("fresh");
        let arguments = ["run", "--profile", &profile, "--out"];
        let fresh = [fresh.to_str().expect("its name is plain"), "--"];
        let output = world.toolcell(&[&arguments[..], &fresh, &command].concat());
        assert!(output.status.success(), "{who:?} {output:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn what_is_no_regular_file_is_no_result() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let script = "
import os, socket
os.mkdir('out')
os.symlink('/etc/passwd', 'out/passwd')
os.symlink('/proc/self/environ', 'out/environ')
os.symlink('../secret', 'out/up')
os.symlink('nowhere', 'out/dangling')
os.symlink('.', 'out/loop')
os.mkfifo('out/fifo')
socket.socket(socket.AF_UNIX).bind('out/socket')
open('secret', 'w').write('not in out/')
open('out/file', 'w').write('a result')
";
        let outcome = world.python("", script);
        assert_eq!(artifacts(&outcome).0, ["file"], "{who:?}: {outcome:#}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn out_may_be_a_link_or_a_file_and_then_holds_no_results() {
    for who in everyone() {
        let world = World::new(who);
        for make in [
            "os.symlink('/etc', 'out')",
            "os.mkdir('x'); open('x/file', 'w'); os.symlink('x', 'out')",
            "open('out', 'w')",
            "os.mkfifo('out')",
        ] {
            let outcome = world.python("", &format!("import os\n{make}"));
            assert_eq!(artifacts(&outcome).0, [""; 0], "{who:?}: {make}");
        }
    }
}

#[test]
fn a_link_in_out_does_not_lead_to_files_of_the_host() {
    for who in everyone() {
        let world = World::new(who);
        let secret = world.write("secret", "secret\n");
        world.write("project/file", "");
        let project = world.path("project");
        std::fs::create_dir(project.join("out")).expect("it is ours");
        world.give(&project.join("out"));
        std::os::unix::fs::symlink(&secret, project.join("out/planted")).expect("it is ours");
        std::os::unix::fs::symlink("../../secret", project.join("out/relative")).expect("ours");
        let outcome = in_directory(&world, &project, "echo result > out/result");
        assert_eq!(artifacts(&outcome).0, ["result"], "{who:?}: {outcome:#}");
    }
}

#[test]
fn what_was_in_out_before_is_no_result_of_the_call() {
    for who in everyone() {
        let world = World::new(who);
        for n in 0..2 * ARTIFACTS_MAX {
            world.write(&format!("project/out/old-{n}"), "old");
        }
        // The time of a change is kept in seconds by what compares it; see `changed_since`.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let outcome = in_directory(&world, &world.path("project"), "echo new > out/new");
        let (names, reason) = artifacts(&outcome);
        assert_eq!((names, reason), (vec!["new"], ""), "{who:?}");
        let outcome = in_directory(&world, &world.path("project"), "echo more >> out/old-7");
        assert!(
            artifacts(&outcome).0.contains(&"old-7"),
            "{who:?}: {outcome:#}"
        );
    }
}

#[test]
fn ten_thousand_files_are_a_few_results_and_a_reason() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let script = "
import os
os.mkdir('out')
for n in range(10_000): open(f'out/{n:05}', 'w').write('x')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        assert_eq!(names.len(), ARTIFACTS_MAX, "{who:?}");
        assert_eq!(reason, "`out` holds more than 64 files", "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn ten_thousand_directories_are_looked_at_in_part() {
    for who in everyone() {
        let world = World::new(who);
        let script = "
import os
os.mkdir('out')
for n in range(10_000): os.mkdir(f'out/{n:05}')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        assert_eq!(names, [""; 0], "{who:?}");
        assert_eq!(reason, "`out` has more than 4096 entries", "{who:?}");
    }
}

#[test]
fn a_deep_tree_is_looked_into_so_far_and_the_rest_is_named() {
    for who in everyone() {
        let world = World::new(who);
        let script = "
import os
os.mkdir('out')
os.chdir('out')
for n in range(1000):
    open(f'file{n}', 'w').write('x')
    os.mkdir('d')
    os.chdir('d')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        assert_eq!(
            names,
            [
                "d/d/d/d/file4",
                "d/d/d/file3",
                "d/d/file2",
                "d/file1",
                "file0"
            ],
            "{who:?}"
        );
        assert_eq!(
            reason, "`out/d/d/d/d/d` is too deep and was not looked into",
            "{who:?}"
        );
    }
}

#[test]
fn strange_names_do_no_harm() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let script = r"
import os
os.mkdir('out')
for name in [b'new\nline', b'\xff\xfe', b'-rf', b' ', b'a' * 255, b'tab\t', b'%2e%2e', '\u202egnp.exe'.encode()]:
    with open(b'out/' + name, 'wb') as file: file.write(b'x')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        let long = "a".repeat(255);
        let mut expected = vec![
            "new\nline",
            "-rf",
            " ",
            &long,
            "tab\t",
            "%2e%2e",
            "\u{202e}gnp.exe",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected, "{who:?}");
        assert_eq!(
            reason, "a name in `out` is not UTF-8 and was left out",
            "{who:?}"
        );
        // One line each, whatever the name, where a person reads them.
        let called = world.toolcell(&[
            "call",
            "shell",
            "script=mkdir out; echo > \"out/a\n[status] b\"",
        ]);
        let text = String::from_utf8_lossy(&called.stdout).into_owned();
        assert!(
            !text.lines().any(|line| line.starts_with("[status]")),
            "{who:?}: {text}"
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_file_that_only_its_owner_could_read_is_returned_or_named() {
    for who in everyone() {
        let world = World::new(who);
        let script = "
import os
os.mkdir('out')
open('out/closed', 'w').write('x')
os.chmod('out/closed', 0)
os.mkdir('out/shut')
open('out/shut/in', 'w').write('x')
os.chmod('out/shut', 0)
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        for name in ["closed", "shut"] {
            let returned = names.iter().any(|found| found.starts_with(name));
            assert!(
                returned || reason.contains(name),
                "{who:?}: {name}: {outcome:#}"
            );
        }
    }
}

#[test]
fn a_file_too_large_to_keep_is_named() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let script = "
import os
os.mkdir('out')
os.truncate(os.open('out/large', os.O_RDWR | os.O_CREAT), 65 << 20)
open('out/small', 'w').write('x')
";
        let outcome = world.python("", script);
        let (names, reason) = artifacts(&outcome);
        assert_eq!(names, ["small"], "{who:?}: {outcome:#}");
        assert!(
            reason.contains("`out/large` was not collected"),
            "{who:?}: {reason}"
        );
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn results_of_a_failed_call_are_returned_too() {
    for who in everyone() {
        let world = World::new(who);
        let script =
            "import os, time; os.mkdir('out'); open('out/log', 'w').write('x'); time.sleep(600)";
        let outcome = world.python("[limits]\nwall = \"1 s\"\n", script);
        assert_eq!(outcome["status"], "timed_out", "{who:?}");
        assert_eq!(outcome["files"][0]["name"], "log", "{who:?}: {outcome:#}");
    }
}

fn in_directory(world: &World, directory: &Path, script: &str) -> Value {
    let directory = directory.display().to_string();
    let command = [
        "run",
        "--json",
        "--workspace",
        &directory,
        "--",
        "/bin/sh",
        "-c",
        script,
    ];
    outcome(&world.toolcell(&command))
}
