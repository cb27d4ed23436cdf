//! The bases: each allows what its name says and no more, down to the weakest.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use harness::builtin::stdout;
use harness::{World, everyone};
use serde_json::Value;

fn shell(world: &World, base: &str, script: &str) -> Value {
    world.run(base, &["/bin/sh", "-c", script])
}

fn python(world: &World, base: &str, script: &str) -> Value {
    world.run(base, &["/usr/bin/python3", "-I", "-c", script])
}

#[track_caller]
fn assert_ends(outcome: &Value, code: i64) {
    assert_eq!(outcome["status"], "exited", "{outcome:#}");
    assert_eq!(outcome["exit_code"], code, "{outcome:#}");
}

#[test]
fn minimal_has_no_program_at_all() {
    for who in everyone() {
        let world = World::new(who);
        assert_ends(&shell(&world, "readonly", "true"), 0);
        let arguments = [
            "run",
            "--json",
            "--profile",
            "minimal",
            "--",
            "/bin/sh",
            "-c",
            "true",
        ];
        let output = world.toolcell(&arguments);
        let told: Result<Value, _> = serde_json::from_slice(&output.stdout);
        let ran = told.is_ok_and(|outcome| outcome["status"] == "exited");
        assert!(!ran, "{who:?}: {output:?}");
    }
}

/// Standard can write in three places; readonly in none, and nobody elsewhere.
#[test]
fn readonly_writes_nowhere() {
    let script = "for place in / /etc /usr /usr/lib /proc /dev /dev/shm /tmp /work /var; do \
                  ( : > $place/written ) 2> /dev/null && echo $place; done; true";
    for who in everyone() {
        let world = World::new(who);
        let written = shell(&world, "standard", script);
        assert_eq!(
            stdout(&written),
            "/dev/shm\n/tmp\n/work\n",
            "{who:?}: {written:#}"
        );
        let written = shell(&world, "readonly", script);
        assert_ends(&written, 0);
        assert_eq!(stdout(&written), "", "{who:?}: {written:#}");
    }
}

#[test]
fn only_privileged_executes_what_it_wrote() {
    for who in everyone() {
        let world = World::new(who);
        for place in ["/work", "/tmp"] {
            let script = format!("cp /bin/true {place}/program && {place}/program");
            assert_ends(&shell(&world, "privileged", &script), 0);
            assert_ends(&shell(&world, "standard", &script), 126);
            let by_loader = format!(
                "cp /bin/true {place}/program && for loader in /lib64/ld-* /lib/ld-*; do \
                 test -e $loader && {{ $loader {place}/program; exit; }}; done"
            );
            assert_ends(&shell(&world, "privileged", &by_loader), 0);
            let outcome = shell(&world, "standard", &by_loader);
            assert_ne!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        }
    }
}

#[test]
fn privileged_traces_its_own_processes_and_sees_no_others() {
    // PTRACE_ATTACH is 16.
    let attach = "import ctypes, os, sys, time\n\
                  libc = ctypes.CDLL(None, use_errno=True)\n\
                  target = int(sys.argv[1]) if len(sys.argv) > 1 else os.fork()\n\
                  if target == 0:\n    time.sleep(60)\n\
                  failed = libc.ptrace(16, target, 0, 0)\n\
                  print(ctypes.get_errno() if failed else 'traced')";
    for who in everyone() {
        let world = World::new(who);
        assert_eq!(
            stdout(&python(&world, "privileged", attach)),
            "traced\n",
            "{who:?}"
        );
        assert_eq!(
            stdout(&python(&world, "standard", attach)),
            "1\n",
            "{who:?}"
        );
        let mut outside = Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let target = outside.id().to_string();
        let command = ["/usr/bin/python3", "-I", "-c", attach, &target];
        let outcome = world.run("privileged", &command);
        assert_eq!(
            stdout(&outcome),
            "3\n",
            "{who:?}: no such process: {outcome:#}"
        );
        outside.kill().expect("it is ours");
        outside.wait().expect("it is ours");
    }
}

#[test]
fn privileged_talks_over_its_own_loopback_and_not_the_hosts() {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    server.set_nonblocking(true).expect("sockets can wait");
    let port = server.local_addr().expect("it is bound").port();
    let connect = format!(
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)\nprint('connected')"
    );
    let control = Command::new("/usr/bin/python3")
        .args(["-c", &connect])
        .output();
    assert_eq!(control.expect("python starts").stdout, b"connected\n");
    assert!(server.accept().is_ok(), "the control connects");
    let within = "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n\
                  socket.create_connection(listener.getsockname())\nprint('connected')";
    for who in everyone() {
        let world = World::new(who);
        assert_eq!(
            stdout(&python(&world, "privileged", within)),
            "connected\n",
            "{who:?}"
        );
        assert_eq!(stdout(&python(&world, "standard", within)), "", "{who:?}");
        let outcome = python(&world, "privileged", &connect);
        assert_ends(&outcome, 1);
        assert!(
            server.accept().is_err(),
            "{who:?}: a connection left the cell"
        );
    }
}

/// A base that allows Unix sockets beside a workspace of the host reaches those in it on a kernel that
/// cannot tell them apart, and says so.
#[test]
fn a_socket_that_the_host_has_in_the_workspace_is_out_of_reach_but_where_explain_says_so() {
    for who in everyone() {
        let world = World::new(who);
        let path = world.workspace().join("host.sock");
        let server = std::os::unix::net::UnixListener::bind(&path).expect("it is ours");
        server.set_nonblocking(true).expect("sockets can wait");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&path, open).expect("it is ours");
        std::os::unix::net::UnixStream::connect(&path).expect("the control connects");
        assert!(server.accept().is_ok());
        let connect = "import socket\nsocket.socket(socket.AF_UNIX).connect('/work/host.sock')";
        let workspace = world.workspace();
        let workspace = workspace.to_str().expect("a plain path");
        let run = |base: &str| {
            let mut command = vec!["run", "--json", "--profile", base, "--workspace", workspace];
            command.extend(["--", "/usr/bin/python3", "-I", "-c", connect]);
            harness::outcome(&world.toolcell(&command))
        };
        assert_ends(&run("standard"), 1);
        assert!(
            server.accept().is_err(),
            "{who:?}: standard reached the host's socket"
        );
        let output = world
            .command(&["explain", "privileged"])
            .stdout(Stdio::piped())
            .output()
            .expect("toolcell starts");
        let explained = String::from_utf8_lossy(&output.stdout).into_owned();
        let outcome = run("privileged");
        if outcome["exit_code"] == 0 {
            // Only the kernel's Landlock can stop this, from ABI 9 on; `explain` names it.
            assert!(
                explained.contains("reaches Unix sockets"),
                "{who:?}: {explained}"
            );
        } else {
            assert!(server.accept().is_err(), "{who:?}: {outcome:#}");
        }
    }
}
