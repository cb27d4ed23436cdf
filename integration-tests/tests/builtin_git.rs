//! The built-in `git`: what it is for, and what a caller or a repository cannot make it do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::builtin::{stderr, stdout};
use harness::programs::installed;
use harness::{World, everyone};
use serde_json::{Value, json};

/// A repository with three commits, a tag and a change that is not committed.
fn repository(world: &World) -> Option<PathBuf> {
    if !installed(&["/usr/bin/git"]) {
        return None;
    }
    let directory = world.path("repository");
    world.write("repository/file.txt", "one\n");
    let git = |arguments: &[&str]| on_host(&directory, arguments);
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["config", "user.name", "Tester"]);
    git(&["config", "user.email", "tester@example.org"]);
    for line in ["one\n", "one\ntwo\n", "one\ntwo\nthree\n"] {
        fs::write(directory.join("file.txt"), line).expect("it is ours");
        git(&["add", "file.txt"]);
        git(&[
            "commit",
            "--quiet",
            "--message",
            &format!("commit {}", line.lines().count()),
        ]);
    }
    git(&["tag", "-a", "-m", "release", "v1"]);
    fs::write(directory.join("file.txt"), "changed\n").expect("it is ours");
    Some(directory)
}

/// Git on the host, whoever owns the repository.
fn on_host(directory: &Path, arguments: &[&str]) {
    let output = Command::new("/usr/bin/git")
        .args(["-c", "safe.directory=*", "-C"])
        .arg(directory)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output();
    let output = output.expect("git starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn git(world: &World, repository: &Path, command: &str, args: &[&str]) -> Value {
    let arguments = json!({ "command": command, "args": args });
    world.call_at(&[("repository", repository)], "git", &arguments)
}

/// Every file of the repository with what is in it.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("it is there").flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                let bytes = fs::read(&path).expect("it can be read");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn git_reads_history_in_every_way_it_offers() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        let before = contents(&repository);
        for (command, args, expected) in [
            (
                "log",
                vec!["--oneline", "--format=%s"],
                "commit 3\ncommit 2\ncommit 1\n",
            ),
            ("log", vec!["-Sthree", "--format=%s"], "commit 3\n"),
            ("show", vec!["HEAD~1:file.txt"], "one\ntwo\n"),
            ("diff", vec!["--stat", "HEAD~2", "HEAD"], "2 insertions(+)"),
            ("diff", vec!["--word-diff"], "{+changed+}"),
            ("diff-tree", vec!["--name-only", "-r", "HEAD"], "file.txt\n"),
            ("blame", vec!["-s", "HEAD", "--", "file.txt"], "3) three\n"),
            ("cat-file", vec!["-p", "HEAD"], "Tester"),
            ("describe", vec!["HEAD"], "v1\n"),
            (
                "for-each-ref",
                vec!["--format=%(refname)"],
                "refs/heads/main\nrefs/tags/v1\n",
            ),
            (
                "grep",
                vec!["-n", "t[wh]", "HEAD"],
                "HEAD:file.txt:2:two\nHEAD:file.txt:3:three\n",
            ),
            ("ls-files", vec![], "file.txt\n"),
            ("ls-tree", vec!["--name-only", "HEAD"], "file.txt\n"),
            ("merge-base", vec!["--is-ancestor", "HEAD~1", "HEAD"], ""),
            ("name-rev", vec!["--name-only", "HEAD"], "v1"),
            ("rev-list", vec!["--count", "HEAD"], "3\n"),
            ("rev-parse", vec!["--abbrev-ref", "HEAD"], "main\n"),
            ("shortlog", vec!["-sn", "HEAD"], "3\tTester\n"),
            ("show-ref", vec!["--tags"], "refs/tags/v1\n"),
            ("status", vec!["--short"], " M file.txt\n"),
        ] {
            let outcome = git(&world, &repository, command, &args);
            assert_eq!(
                outcome["exit_code"], 0,
                "{who:?}: {command} {args:?}: {outcome:#}"
            );
            let told = stdout(&outcome);
            assert!(
                told.contains(expected),
                "{who:?}: {command} {args:?}: {told}"
            );
        }
        assert!(
            contents(&repository) == before,
            "{who:?}: the repository has changed"
        );
    }
}

#[test]
fn git_refuses_commands_that_write_or_reach_out() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        for command in [
            "push",
            "fetch",
            "clone",
            "commit",
            "config",
            "gc",
            "ls-remote",
            "-c",
            "",
        ] {
            let arguments = json!({ "command": command });
            let roots = [("repository", repository.as_path())];
            world.assert_refused(&roots, "git", &arguments, &["`/command`", "one of"]);
        }
        for (arguments, words) in [
            (json!({}), ["`/command`", "found nothing"]),
            (
                json!({ "command": "log", "args": "-p" }),
                ["`/args`", "expected an array"],
            ),
            (
                json!({ "command": "log", "args": [1] }),
                ["`/args/0`", "expected a string"],
            ),
            (
                json!({ "command": "log", "arg": ["-p"] }),
                ["`/arg`", "`args`"],
            ),
        ] {
            world.assert_refused(&[("repository", &repository)], "git", &arguments, &words);
        }
    }
}

/// A program that leaves a marker, to be named in options that make Git run programs.
fn program(world: &World, marker: &Path) -> PathBuf {
    let path = world.write(
        "repository/.git/run",
        &format!("#!/bin/sh\ntouch {}\n", marker.display()),
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

#[test]
fn git_runs_no_program_that_an_option_names() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        let marker = world.path("marker");
        let run = program(&world, &marker);
        let run = run.to_str().expect("a plain path");
        let pager = format!("-O{run}");
        on_host(&repository, &["grep", &pager, "changed"]);
        assert!(marker.exists(), "the control runs the program");
        fs::remove_file(&marker).expect("it is there");

        let before = contents(&repository);
        for (command, args) in [
            ("grep", vec![pager.as_str(), "changed"]),
            ("log", vec!["-c", &format!("core.pager={run}")]),
            ("status", vec!["-c", &format!("core.fsmonitor={run}")]),
            ("diff", vec![&format!("--upload-pack={run}")]),
            ("diff", vec![&format!("--exec-path={run}")]),
            ("rev-parse", vec!["--parseopt", &format!("--exec={run}")]),
            ("diff", vec!["--output=.git/hooks/post-checkout", "HEAD~1"]),
            ("log", vec![&format!("--output={}", marker.display())]),
        ] {
            let outcome = git(&world, &repository, command, &args);
            assert_eq!(
                outcome["status"], "exited",
                "{who:?}: {command} {args:?}: {outcome:#}"
            );
            assert!(
                !marker.exists(),
                "{who:?}: {command} {args:?} ran a program"
            );
        }
        assert!(
            contents(&repository) == before,
            "{who:?}: the repository has changed"
        );
    }
}

#[test]
fn git_runs_no_program_that_the_repositorys_own_settings_name() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        let marker = world.path("marker");
        let run = program(&world, &marker);
        let run = run.to_str().expect("a plain path");
        fs::write(
            repository.join(".gitattributes"),
            "* diff=planted filter=planted\n",
        )
        .expect("it is ours");
        for (name, command) in [
            ("core.fsmonitor", "status"),
            ("diff.external", "diff"),
            ("diff.planted.textconv", "diff"),
            ("diff.planted.command", "diff"),
            ("filter.planted.clean", "diff"),
        ] {
            on_host(&repository, &["config", name, run]);
            let control = Command::new("/usr/bin/git")
                .args(["-c", "safe.directory=*", "-C"])
                .arg(&repository)
                .arg(command)
                .output();
            control.expect("git starts");
            assert!(marker.exists(), "the control of `{name}` runs the program");
            fs::remove_file(&marker).expect("it is there");

            let before = contents(&repository);
            let outcome = git(&world, &repository, command, &[]);
            assert_eq!(outcome["status"], "exited", "{who:?}: {name}: {outcome:#}");
            assert!(!marker.exists(), "{who:?}: `{name}` ran a program");
            assert!(
                contents(&repository) == before,
                "{who:?}: `{name}` changed the repository"
            );
            on_host(&repository, &["config", "--unset", name]);
        }
    }
}

#[test]
fn git_sees_no_file_outside_its_repository() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        let secret = world.write("outside/secret.txt", "hunter2\n");
        let own = repository.join("file.txt");
        let compare = |path: &Path| {
            let path = path.to_str().expect("a plain path");
            git(
                &world,
                &repository,
                "diff",
                &["--no-index", "--", "/dev/null", path],
            )
        };
        assert!(stdout(&compare(&own)).contains("+changed"), "{who:?}");
        let outcome = compare(&secret);
        assert!(
            !stdout(&outcome).contains("hunter2"),
            "{who:?}: {outcome:#}"
        );
        assert!(
            stderr(&outcome).contains("secret.txt"),
            "{who:?}: {outcome:#}"
        );
    }
}

#[test]
fn git_shows_a_repository_that_only_its_owner_may_read() {
    for who in everyone() {
        let world = World::new(who);
        let Some(repository) = repository(&world) else {
            return;
        };
        for path in [repository.join(".git"), repository.clone()] {
            // Git ran as whoever runs the tests.
            let open = std::process::Command::new("/bin/chown")
                .args(["-R", "--reference"])
                .arg(world.directory.path())
                .arg(&path)
                .status();
            assert!(open.expect("it starts").success());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
        }
        let outcome = git(&world, &repository, "log", &["--format=%s", "-1"]);
        assert_eq!(stdout(&outcome), "commit 3\n", "{who:?}: {outcome:#}");
    }
}

#[test]
fn git_shows_a_repository_that_somebody_else_owns() {
    if !nix::unistd::geteuid().is_root() {
        harness::skip(
            "a repository of another user",
            "the tests were not started by root",
        );
        return;
    }
    let world = World::new(harness::Who::Root);
    let Some(repository) = repository(&world) else {
        return;
    };
    let owner = Some(nix::unistd::Uid::from_raw(harness::USER));
    for path in [repository.clone(), repository.join(".git")] {
        nix::unistd::chown(&path, owner, None).expect("root may chown");
    }
    let outcome = git(&world, &repository, "log", &["--format=%s", "-1"]);
    assert_eq!(stdout(&outcome), "commit 3\n", "{outcome:#}");
}
