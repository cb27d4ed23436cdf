//! Real programs run unbroken while their denied paths are being named, and the line that a denial
//! says to add is one that works.

use std::collections::BTreeSet;

use harness::programs::{ROOMY, installed, script};
use harness::{World, everyone};
use serde_json::Value;

const EXPLAINED: &str = "[explain]\npaths = true\n";

fn explained(world: &World, tables: &str, command: &[&str]) -> Value {
    let profile = world.profile(&format!("{EXPLAINED}{tables}"));
    world.run(&profile, command)
}

/// The denials' lines to add, by what was denied.
fn denials(outcome: &Value) -> Vec<(String, String)> {
    let denials = outcome["denials"]
        .as_array()
        .expect("an outcome lists denials");
    let text = |denial: &Value, key: &str| denial[key].as_str().unwrap_or_default().to_owned();
    denials
        .iter()
        .map(|denial| (text(denial, "what"), text(denial, "allow_with")))
        .collect()
}

#[track_caller]
fn assert_exit(outcome: &Value, code: i32) {
    assert_eq!(outcome["status"], "exited", "{outcome:#}");
    assert_eq!(outcome["exit_code"], code, "{outcome:#}");
}

#[test]
fn multiprocessing_goes_on_while_paths_are_named() {
    for who in everyone() {
        let world = World::new(who);
        let start = "printf %s \"$1\" > main.py && python3 main.py fork && python3 main.py spawn";
        let command = ["/bin/sh", "-c", start, "sh", &script("processes.py")];
        let outcome = explained(&world, ROOMY, &command);
        assert_exit(&outcome, 0);
        assert_eq!(
            outcome["stdout"]["text"], "fork unbroken\nspawn unbroken\n",
            "{who:?}"
        );
    }
}

#[test]
fn node_goes_on_while_paths_are_named() {
    if !installed(&["/usr/bin/node"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let command = ["/usr/bin/node", "-e", &script("threads.js")];
        assert_exit(&explained(&world, ROOMY, &command), 0);
    }
}

#[test]
fn git_goes_on_while_paths_are_named() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let command = ["/bin/sh", "-c", &script("repository.sh")];
        assert_exit(&explained(&world, ROOMY, &command), 0);
    }
}

#[test]
fn gcc_and_what_it_built_go_on_while_paths_are_named() {
    if !installed(&["/usr/bin/gcc", "/usr/include/stdio.h"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let build = "printf %s \"$1\" > main.c && gcc -flto -O2 -o built main.c && ./built";
        let tables = format!("[files]\nexec = [\"/work\"]\n{ROOMY}");
        let command = ["/bin/sh", "-c", build, "sh", &script("overflow.c")];
        let outcome = explained(&world, &tables, &command);
        assert_exit(&outcome, 0);
        assert_eq!(outcome["stdout"]["text"], "42\n", "{who:?}");
    }
}

#[test]
fn java_goes_on_while_paths_are_named() {
    if !installed(&["/usr/bin/javac", "/usr/bin/java"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let build = "printf %s \"$1\" > Threads.java && javac Threads.java && \
                     java -Xmx256m Threads && cat java.txt";
        let outcome = explained(
            &world,
            ROOMY,
            &["/bin/sh", "-c", build, "sh", &script("Threads.java")],
        );
        assert_exit(&outcome, 0);
        assert_eq!(
            outcome["stdout"]["text"], "4950 332833500 child\n",
            "{who:?}"
        );
    }
}

/// Each attempt fails and names a line; with that line in the profile it succeeds, and nothing is
/// named any more.
#[test]
fn the_line_that_a_denial_names_allows_it() {
    for who in everyone() {
        let world = World::new(who);
        // Not beneath `/tmp`, which the cell has of its own.
        let outside = tempfile::Builder::new()
            .prefix("toolcell-test-")
            .tempdir_in("/var/tmp");
        let outside = outside.expect("/var/tmp is writable");
        let secret = outside.path().join("secret.txt");
        let program = outside.path().join("program");
        std::fs::write(&secret, "shown").expect("it is ours");
        std::fs::write(&program, "#!/bin/sh\necho shown\n").expect("it is ours");
        for path in [outside.path(), &secret, &program] {
            world.give(path);
        }
        // Cells of root run as another user, who is nobody to these files.
        for (path, mode) in [(outside.path(), 0o755), (&secret, 0o666), (&program, 0o755)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("it is ours");
        }
        let secret = secret.to_str().expect("a plain path");
        let program = program.to_str().expect("a plain path");
        for (command, line) in [
            (
                format!("cat {secret}"),
                format!("files.read = [{secret:?}]"),
            ),
            (
                format!("echo x > {secret}"),
                format!("files.write = [{secret:?}]"),
            ),
            (
                format!("exec {program}"),
                format!("files.exec = [{program:?}]"),
            ),
            (
                "cat /etc/hostname".to_owned(),
                "files.read = [\"/etc/hostname\"]".to_owned(),
            ),
            (
                "cp /bin/true /work/program && /work/program".to_owned(),
                "files.exec = [\"/work\"]".to_owned(),
            ),
            (
                "cp /bin/true /tmp/program && /tmp/program".to_owned(),
                "files.exec = [\"/tmp\"]".to_owned(),
            ),
        ] {
            let attempt = ["/bin/sh", "-c", &command];
            let outcome = explained(&world, "", &attempt);
            assert_ne!(outcome["exit_code"], 0, "{who:?}: {command}: {outcome:#}");
            let lines: BTreeSet<_> = denials(&outcome)
                .into_iter()
                .map(|(_, line)| line)
                .collect();
            assert!(lines.contains(&line), "{who:?}: {command}: {outcome:#}");
            let (key, value) = line.split_once(" = ").expect("a line sets a key");
            let key = key.trim_start_matches("files.");
            let allowed = explained(&world, &format!("[files]\n{key} = {value}\n"), &attempt);
            assert_exit(&allowed, 0);
            assert_eq!(denials(&allowed), [], "{who:?}: {command}");
        }
    }
}

#[test]
fn what_no_profile_can_allow_names_no_line() {
    for who in everyone() {
        let world = World::new(who);
        for path in [
            "/proc/self/coredump_filter",
            "/etc/passwd",
            "/dev/null/x",
            "/proc/sysrq-trigger",
        ] {
            let command = format!("echo x > {path}");
            let outcome = explained(&world, "", &["/bin/sh", "-c", &command]);
            assert_ne!(outcome["exit_code"], 0, "{who:?}: {command}: {outcome:#}");
            for (what, line) in denials(&outcome) {
                assert_eq!(line, "", "{who:?}: {what}: {outcome:#}");
            }
        }
        // The control: what a profile could allow does name one.
        let outcome = explained(&world, "", &["/bin/sh", "-c", "echo x > /etc/hostname"]);
        let line = "files.write = [\"/etc/hostname\"]".to_owned();
        assert!(
            denials(&outcome).iter().any(|(_, found)| *found == line),
            "{who:?}: {outcome:#}"
        );
    }
}
