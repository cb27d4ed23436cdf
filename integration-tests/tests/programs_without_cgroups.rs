//! Real programs run unbroken in the tier without cgroups, where limits hold for each process.

use harness::programs::{ROOMY, installed, script};
use harness::{Who, World, everyone};
use serde_json::Value;

/// A world in which the operator has chosen the tier by name.
fn world(who: Who) -> World {
    let mut world = World::new(who);
    world
        .env
        .insert("TOOLCELL_TIER".to_owned(), "rlimits".to_owned());
    world
}

fn run(world: &World, command: &[&str]) -> Value {
    let outcome = world.run(&world.profile(ROOMY), command);
    assert_eq!(
        outcome["enforced"]["tier"], "rlimits",
        "{:?}: {outcome:#}",
        world.who
    );
    world.assert_unbroken(&outcome, &[]);
    outcome
}

#[test]
fn multiprocessing_works() {
    for who in everyone() {
        let start = "printf %s \"$1\" > main.py && python3 main.py fork && python3 main.py spawn";
        let command = ["/bin/sh", "-c", start, "sh", &script("processes.py")];
        let outcome = run(&world(who), &command);
        assert_eq!(
            outcome["stdout"]["text"], "fork unbroken\nspawn unbroken\n",
            "{who:?}"
        );
    }
}

#[test]
fn node_runs_worker_threads_and_webassembly() {
    if !installed(&["/usr/bin/node"]) {
        return;
    }
    for who in everyone() {
        run(&world(who), &["/usr/bin/node", "-e", &script("threads.js")]);
    }
}

#[test]
fn git_commits_clones_and_collects_garbage() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    for who in everyone() {
        run(&world(who), &["/bin/sh", "-c", &script("repository.sh")]);
    }
}

#[test]
fn java_compiles_and_runs() {
    if !installed(&["/usr/bin/javac", "/usr/bin/java"]) {
        return;
    }
    for who in everyone() {
        let build = "printf %s \"$1\" > Threads.java && javac Threads.java && \
                     java -Xmx256m Threads && cat java.txt";
        let command = ["/bin/sh", "-c", build, "sh", &script("Threads.java")];
        let outcome = run(&world(who), &command);
        assert_eq!(
            outcome["stdout"]["text"], "4950 332833500 child\n",
            "{who:?}"
        );
    }
}
