//! What a service manager hears of a server: that it is ready, reloads and stops, and that it is not
//! hung. The test stands for systemd, on a socket of its own.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Time without a sign of life after which systemd would end the service.
const WATCHDOG: Duration = Duration::from_millis(900);
/// Longest wait for one message, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the server tells how it goes.
struct Manager(UnixDatagram);

impl Manager {
    fn new(world: &mut World) -> Self {
        let path = world.path("notify");
        let socket = UnixDatagram::bind(&path).expect("the scratch directory is writable");
        world.give(&path);
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("it is a socket");
        let variables = [
            ("NOTIFY_SOCKET", path.display().to_string()),
            ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()),
        ];
        for (name, value) in variables {
            world.env.insert(name.to_owned(), value);
        }
        Self(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("it tells in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The next message that begins so, whatever comes before.
    fn until(&self, begins: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let told = self.next();
            if told.starts_with(begins) {
                return told;
            }
        }
        panic!("nothing that begins with `{begins}` was told in time");
    }
}

fn launcher_of(supervisor: u32) -> Pid {
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(path).expect("it runs");
    let first = children.split_whitespace().next().expect("it has one");
    Pid::from_raw(first.parse().expect("it is a number"))
}

fn each(test: impl Fn(Who, &mut World, &Manager)) {
    for who in everyone() {
        let mut world = World::new(who);
        let manager = Manager::new(&mut world);
        let before = Host::look();
        test(who, &mut world, &manager);
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_server_says_that_it_is_ready_reloads_and_stops() {
    each(|who, world, manager| {
        let mut server = Server::start(world, &["--tool", "calculate"]);
        let ready = manager.next();
        assert_eq!(
            ready, "READY=1\nSTATUS=serving 1 tool, 0 calls under way\n",
            "{who:?}"
        );
        server.running.signal(Signal::SIGHUP);
        assert!(manager.until("RELOADING=1\n").contains("MONOTONIC_USEC="));
        manager.until("READY=1\n");
        server.call(1, "calculate", &json!({ "expression": "6*7" }));
        assert_eq!(server.outcome(1)["stdout"]["text"], "42\n", "{who:?}");
        server.running.signal(Signal::SIGTERM);
        manager.until("STOPPING=1\n");
        let output = server.running.end();
        assert!(output.status.success(), "{who:?}: {output:?}");
    });
}

#[test]
fn a_reload_with_a_wrong_profile_ends_and_says_so() {
    each(|who, world, manager| {
        let tools = world.write("tools/one.toml", ONE);
        let directory = tools.parent().expect("it has one").display().to_string();
        let mut server = Server::start(world, &["--profiles", &directory, "--tool", "one"]);
        manager.until("READY=1\n");
        world.write("tools/one.toml", "format = 1\nname = 7\n");
        server.running.signal(Signal::SIGHUP);
        manager.until("RELOADING=1\n");
        let ready = manager.until("READY=1\n");
        assert!(ready.contains("a profile is wrong"), "{who:?}: {ready}");
        server.call(1, "one", &json!({}));
        assert_eq!(server.outcome(1)["status"], "exited", "{who:?}");
        server.running.close();
        let _ = server.running.end();
    });
}

const ONE: &str = "format = 1\nname = \"one\"\ndescription = \"One.\"\nextends = [\"standard\"]\n\
                   [run]\nargv = [\"/bin/true\"]\n";

#[test]
fn a_launcher_that_hangs_ends_the_signs_of_life() {
    each(|who, world, manager| {
        let mut server = Server::start(world, &["--tool", "calculate"]);
        // The control: they come.
        for _ in 0..3 {
            manager.until("WATCHDOG=1\n");
        }
        let launcher = launcher_of(server.running.pid());
        kill(launcher, Signal::SIGSTOP).expect("it runs");
        let hung = manager.until("STATUS=hung");
        assert!(hung.contains("no answer within"), "{who:?}: {hung}");
        for _ in 0..3 {
            let told = manager.next();
            assert!(!told.starts_with("WATCHDOG=1"), "{who:?}: {told}");
        }
        kill(launcher, Signal::SIGCONT).expect("it is there");
        manager.until("WATCHDOG=1\n");
        server.running.close();
        let _ = server.running.end();
    });
}

#[test]
fn a_launcher_that_died_is_replaced_before_anybody_calls() {
    each(|who, world, manager| {
        let mut server = Server::start(world, &["--tool", "calculate"]);
        manager.until("WATCHDOG=1\n");
        let launcher = launcher_of(server.running.pid());
        kill(launcher, Signal::SIGKILL).expect("it runs");
        assert!(
            harness::within(PATIENCE, || !Path::new(&format!("/proc/{launcher}"))
                .exists()),
            "{who:?}: nobody reaped it"
        );
        manager.until("WATCHDOG=1\n");
        server.call(1, "calculate", &json!({ "expression": "6*7" }));
        assert_eq!(server.outcome(1)["stdout"]["text"], "42\n", "{who:?}");
        server.running.close();
        let _ = server.running.end();
    });
}

#[test]
fn a_service_that_could_make_no_call_does_not_start() {
    each(|who, world, manager| {
        // State that cannot be had: the path is taken by a file.
        let state = world.write("taken", "");
        world
            .env
            .insert("STATE_DIRECTORY".to_owned(), state.display().to_string());
        let output = world.toolcell(&["serve", "--stdio"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{who:?}: {error}");
        assert!(error.contains("calls will be refused"), "{who:?}: {error}");
        let told = manager.next();
        assert!(told.starts_with("STATUS=the directory"), "{who:?}: {told}");
    });
}

#[test]
fn a_manager_that_cannot_be_told_is_an_error() {
    each(|who, world, _manager| {
        let nobody = world.path("nobody").display().to_string();
        world.env.insert("NOTIFY_SOCKET".to_owned(), nobody);
        let output = world.toolcell(&["serve", "--stdio"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{who:?}: {error}");
        assert!(error.contains("`NOTIFY_SOCKET`"), "{who:?}: {error}");
    });
}
