//! What `toolcell run` makes of each outcome: its exit status, and the line on standard error that
//! says which and what to change.

use std::fmt::Write as _;

use harness::{World, everyone};

/// Every way to end, by what the profile adds and by the command.
const ENDS: [(&str, &str, &[&str]); 18] = [
    ("exits with 0", "", &["/bin/sh", "-c", "exit 0"]),
    ("exits with 3", "", &["/bin/sh", "-c", "exit 3"]),
    ("exits with 255", "", &["/bin/sh", "-c", "exit 255"]),
    ("ended by SIGTERM", "", &["/bin/sh", "-c", "kill -TERM $$"]),
    ("ended by SIGKILL", "", &["/bin/sh", "-c", "kill -KILL $$"]),
    (
        "ended by a real-time signal",
        "",
        &["/bin/sh", "-c", "kill -40 $$"],
    ),
    (
        "past its deadline",
        "[limits]\nwall = \"300 ms\"",
        &["/bin/sleep", "600"],
    ),
    (
        "idle",
        "[limits]\nidle = \"300 ms\"",
        &["/bin/sleep", "600"],
    ),
    (
        "busy for too long",
        "[limits]\ncpu_time = \"300 ms\"\nwall = \"1 min\"",
        &["/bin/sh", "-c", "while :; do :; done"],
    ),
    (
        "hoards memory",
        "[limits]\nmemory = \"32 MiB\"\nwall = \"1 min\"",
        &["/usr/bin/python3", "-I", "-c", "bytearray(100 << 20)"],
    ),
    (
        "forks too much",
        "[limits]\npids = 3\nwall = \"1 min\"",
        &[
            "/usr/bin/python3",
            "-I",
            "-c",
            "import os\nwhile True: os.fork()",
        ],
    ),
    (
        "writes too much",
        "[limits]\noutput = \"4 KiB\"\nwall = \"1 min\"",
        &[
            "/usr/bin/python3",
            "-I",
            "-c",
            "import os\nwhile True: os.write(1, b'x' * 999)",
        ],
    ),
    (
        "fills /work",
        "[limits]\ndisk = \"256 KiB\"",
        &[
            "/bin/sh",
            "-c",
            "trap '' XFSZ; head -c 200000 /dev/zero > /work/a && head -c 200000 /dev/zero > /work/b",
        ],
    ),
    (
        "fills /tmp",
        "[limits]\ntmp = \"256 KiB\"",
        &["/bin/sh", "-c", "head -c 300000 /dev/zero > /tmp/a"],
    ),
    ("not found by its path", "", &["/usr/bin/no-such-program"]),
    ("not found by its name", "", &["no-such-program"]),
    ("not a program", "", &["/etc/passwd"]),
    (
        "denied a system call",
        "",
        &[
            "/usr/bin/python3",
            "-I",
            "-c",
            "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None): os._exit(ctypes.get_errno())",
        ],
    ),
];

#[test]
fn each_end_has_its_exit_status_and_its_line() {
    for who in everyone() {
        let mut table = String::new();
        for (what, tables, command) in ENDS {
            let world = World::new(who);
            let profile = world.profile(tables);
            let mut arguments = vec!["run", "--profile", &profile, "--"];
            arguments.extend(command);
            let output = world.toolcell(&arguments);
            let status = output.status.code().expect("toolcell itself exits");
            writeln!(table, "{what}: {status}").expect("a string takes it");
            for line in own_lines(&output.stderr) {
                writeln!(table, "    {}", without_counts(line)).expect("a string takes it");
            }
        }
        // The same words for root and for an ordinary user.
        insta::assert_snapshot!("each_end", table);
    }
}

#[test]
fn the_tools_own_output_passes_through_untouched() {
    for who in everyone() {
        let world = World::new(who);
        let script = "printf 'a\\0\\377b'; printf 'c\\n' >&2; exit 4";
        let output = world.toolcell(&["run", "--", "/bin/sh", "-c", script]);
        assert_eq!(output.stdout, b"a\0\xffb", "{who:?}");
        assert_eq!(output.stderr, b"c\n", "{who:?}");
        assert_eq!(output.status.code(), Some(4), "{who:?}");
    }
}

#[test]
fn everything_from_the_commands_first_word_on_is_the_commands() {
    for who in everyone() {
        let world = World::new(who);
        let said = |arguments: &[&str]| {
            let output = world.toolcell(arguments);
            assert_eq!(output.status.code(), Some(0), "{who:?}: {arguments:?}");
            String::from_utf8(output.stdout).expect("it is text")
        };
        for before in [
            &["run"][..],
            &["run", "--"],
            &["run", "--profile", "standard"],
        ] {
            let command = ["/bin/echo", "--json", "--", "--profile", "x"];
            let all = [before, &command].concat();
            assert_eq!(said(&all), "--json -- --profile x\n", "{who:?}: {before:?}");
        }
        let wrong = world.toolcell(&["run", "--no-such-option", "/bin/echo"]);
        assert_eq!(wrong.status.code(), Some(125), "{who:?}");
        let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(message.contains("--no-such-option"), "{who:?}: {message}");
        assert!(wrong.stdout.is_empty(), "{who:?}");
    }
}

/// What toolcell itself says, without what the tool does.
fn own_lines(stderr: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(stderr).expect("it is text");
    text.lines()
        .filter(|line| line.starts_with("toolcell: "))
        .collect()
}

/// How often something was denied depends on timing.
fn without_counts(line: &str) -> String {
    match (line.find(" ("), line.find(" times)")) {
        (Some(from), Some(to)) if from < to => format!("{} (N{}", &line[..from], &line[to..]),
        _ => line.to_owned(),
    }
}
