//! Interpreters and runtimes run unbroken: Python with its scientific stack, Node.js, Java, Perl.

use std::fs;

use harness::programs::{ROOMY, host, installed, numeric_python, script};
use harness::{World, everyone};
use serde_json::{Value, json};

/// Puts a script into the workspace in memory and runs it, since some programs read themselves
/// again in their children.
fn python_file(world: &World, name: &str, argument: &str) -> Value {
    let start = "printf %s \"$1\" > main.py && exec python3 main.py \"$2\"";
    let profile = world.profile(ROOMY);
    world.run(
        &profile,
        &["/bin/sh", "-c", start, "sh", &script(name), argument],
    )
}

#[test]
fn numpy_pandas_and_matplotlib_compute_and_plot() {
    let Some(python) = numeric_python() else {
        return;
    };
    for who in everyone() {
        let world = World::new(who);
        let files = format!("[files]\nread = [{python:?}]\n{ROOMY}");
        let python = python.join("bin/python");
        let outcome = world.run_in_workspace(
            &files,
            &[
                python.to_str().expect("a plain path"),
                "-c",
                &script("numeric.py"),
            ],
        );
        world.assert_unbroken(&outcome, &[]);
        let sums = fs::read_to_string(world.workspace().join("sums.csv")).expect("it was written");
        assert_eq!(sums, "group,value\na,14850\nb,14950\nc,15050\n");
        let plot = fs::read(world.workspace().join("plot.png")).expect("it was written");
        assert_eq!(png_size(&plot), (400, 300));
        assert!(
            plot.len() > 8 * 1024,
            "an empty plot of {} bytes",
            plot.len()
        );
    }
}

/// Width and height in the header of a PNG.
fn png_size(image: &[u8]) -> (u32, u32) {
    assert!(image.starts_with(b"\x89PNG\r\n\x1a\n"), "not a PNG");
    let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

fn multiprocessing_by(method: &str) {
    for who in everyone() {
        let world = World::new(who);
        let outcome = python_file(&world, "processes.py", method);
        world.assert_unbroken(&outcome, &[]);
        assert_eq!(outcome["stdout"]["text"], format!("{method} unbroken\n"));
    }
}

#[test]
fn multiprocessing_works_by_fork() {
    multiprocessing_by("fork");
}

#[test]
fn multiprocessing_works_by_spawn() {
    multiprocessing_by("spawn");
}

#[test]
fn multiprocessing_works_by_forkserver() {
    multiprocessing_by("forkserver");
}

#[test]
fn asyncio_serves_sockets_and_waits_for_processes() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = python_file(&world, "events.py", "");
        world.assert_unbroken(&outcome, &[]);
        assert_eq!(outcome["stdout"]["text"], "unbroken\n");
    }
}

#[test]
fn sqlite_in_wal_mode_takes_many_writers() {
    if !installed(&["/usr/bin/sqlite3"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.run_in_workspace(ROOMY, &["/usr/bin/python3", "-c", &script("wal.py")]);
        world.assert_unbroken(&outcome, &[]);
        let database = world.workspace().join("data.db");
        let ask = "PRAGMA integrity_check; SELECT writer, count(*), sum(row) FROM log GROUP BY 1;";
        let rows = host(
            "/usr/bin/sqlite3",
            &[database.to_str().expect("a plain path"), ask],
        );
        assert_eq!(rows, "ok\n0|100|4950\n1|100|4950\n2|100|4950\n3|100|4950\n");
    }
}

#[test]
fn node_runs_worker_threads_and_webassembly() {
    if !installed(&["/usr/bin/node"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let outcome =
            world.run_in_workspace(ROOMY, &["/usr/bin/node", "-e", &script("threads.js")]);
        world.assert_unbroken(&outcome, &[]);
        let result = fs::read(world.workspace().join("result.json")).expect("it was written");
        let result: Value = serde_json::from_slice(&result).expect("it is JSON");
        let expected = json!({
            "counted": 40_000,
            "added": 42,
            "memory": 11 * 64 * 1024,
            "zipped": true,
            "key": "632c2812e46d4604102ba7618e9d6d7d",
            "child": "child\n",
        });
        assert_eq!(result, expected);
    }
}

#[test]
fn java_compiles_and_runs() {
    if !installed(&["/usr/bin/javac", "/usr/bin/java"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        world.write("workspace/Threads.java", &script("Threads.java"));
        let outcome = world.run_in_workspace(
            ROOMY,
            &[
                "/bin/sh",
                "-c",
                "javac Threads.java && java -Xmx256m Threads",
            ],
        );
        // The runtime looks up its user by way of nscd first.
        world.assert_unbroken(&outcome, &["socket(AF_UNIX"]);
        let written = fs::read_to_string(world.workspace().join("java.txt")).expect("it is there");
        assert_eq!(written, "4950 332833500 child\n");
    }
}

#[test]
fn perl_forks_pipes_and_matches() {
    if !installed(&["/usr/bin/perl"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.run_in_workspace(ROOMY, &["/usr/bin/perl", "-e", &script("many.pl")]);
        world.assert_unbroken(&outcome, &[]);
        let written = fs::read_to_string(world.workspace().join("perl.txt")).expect("it is there");
        assert_eq!(written, "3 1 4 9 c b a 42\n");
    }
}
