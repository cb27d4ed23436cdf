//! Much at once through the gateway: its memory stays what it is, budgets hold, all arrives.

use harness::World;
use harness::internet::{self, Internet, status};
use harness::stdio::Server;
use serde_json::{Value, json};

/// What is moved in each direction, in MiB.
const MUCH: u64 = 512;
/// By how much the gateway's largest size may grow over what it is when little was moved, in KiB.
const GROWTH_MAX: u64 = 24 * 1024;
/// What it may be at most, in KiB: its program, and buffers.
const SIZE_MAX: u64 = 96 * 1024;

/// A server with one tool, which runs the Python that it is given.
fn server(world: &World, tables: &str) -> Server {
    world.write("profiles/reaching.toml", &profile(tables));
    Server::start(
        world,
        &["--profiles", &world.path("profiles").display().to_string()],
    )
}

fn profile(tables: &str) -> String {
    format!(
        "format = 1\nname = \"reaching\"\ntitle = \"Reach\"\ndescription = \"A test's.\"\n\
         extends = [\"network\"]\n[input]\ntype = \"object\"\nrequired = [\"code\"]\n\
         properties.code = {{ type = \"string\" }}\n\
         [run]\nargv = [\"/usr/bin/python3\", \"-I\", \"-S\", \"-\"]\nstdin = \"{{code}}\"\n{tables}\n"
    )
}

fn call(server: &mut Server, id: u64, code: &str) -> Value {
    let code = format!(
        "{}\n{code}\nsay()\n",
        harness::programs::script("attempts.py")
    );
    server.call(id, "reaching", &json!({ "code": code }));
    server.outcome(id)
}

fn kib(pid: u32, key: &str) -> u64 {
    let text = status(pid, key).expect("the gateway lives");
    text.trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn half_a_gigabyte_each_way_takes_no_more_memory() {
    Internet::everyone(|internet, world| {
        let mut server = server(
            world,
            "[network]\nallow = [\"www.example.org\"]\n\
             [limits]\negress = \"2 GiB\"\nwall = \"2 min\"\ncpu_time = \"2 min\"",
        );
        let little = call(
            &mut server,
            1,
            "attempt('a', curl, '-o/dev/null', '-w', '%{http_code}', 'http://www.example.org/bytes/1000000')",
        );
        assert_eq!(little["status"], "exited", "{little:#}");
        let gateway = internet::gateway(world).expect("one runs");
        let before = kib(gateway, "VmHWM");
        let bytes = MUCH << 20;
        let script = format!(
            r#"
import subprocess
attempt("down", curl, "-o/dev/null", "-w", "%{{size_download}}", "http://www.example.org/bytes/{bytes}")
def up():
    zeros = subprocess.Popen(["head", "-c", "{bytes}", "/dev/zero"], stdout=subprocess.PIPE)
    done = subprocess.run(["curl", "-sS", "-T", "-", "http://www.example.org/up"], stdin=zeros.stdout, capture_output=True)
    return json.loads(done.stdout)["body"]
attempt("up", up)
"#
        );
        let much = call(&mut server, 2, &script);
        let said = much["stdout"]["text"].as_str().unwrap_or_default();
        let said: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{much:#}"));
        for way in ["down", "up"] {
            assert_eq!(
                said[way]["answer"],
                bytes.to_string(),
                "{:?} {said:#}",
                world.who
            );
        }
        let egress = &much["egress"][0];
        assert!(
            egress["received_bytes"].as_u64() > Some(bytes),
            "{egress:#}"
        );
        assert!(egress["sent_bytes"].as_u64() > Some(bytes), "{egress:#}");
        assert_eq!(internet::gateway(world), Some(gateway), "it is the same");
        let after = kib(gateway, "VmHWM");
        assert!(
            after < before + GROWTH_MAX && after < SIZE_MAX,
            "{before} KiB, then {after} KiB"
        );
        let _ = internet.seen();
    });
}

#[test]
fn hundreds_of_connections_at_once_are_served_and_one_too_many_is_named() {
    Internet::everyone(|_, world| {
        let mut server = server(
            world,
            "[network]\nallow = [\"www.example.org:7000/tcp\"]\n\
             [limits]\nconnections = 300\nopen_files = 1024",
        );
        let outcome = call(
            &mut server,
            1,
            r#"
held = [socket.create_connection(("www.example.org", 7000)) for _ in range(300)]
for connection in held:
    connection.sendall(b"hello")
attempt("all", lambda: sum(connection.recv(5, socket.MSG_WAITALL) == b"hello" for connection in held))
attempt("one more", talk, "www.example.org", 7000, b"hello", True)
for connection in held:
    connection.shutdown(socket.SHUT_WR)
attempt("ends", lambda: sum(read_all(connection) == "<5>" for connection in held))
"#,
        );
        let said = outcome["stdout"]["text"].as_str().unwrap_or_default();
        let said: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{outcome:#}"));
        assert_eq!(said["all"]["answer"], "300", "{:?} {said:#}", world.who);
        assert_eq!(said["one more"]["answer"], "ECONNRESET", "{said:#}");
        assert_eq!(said["ends"]["answer"], "300", "{said:#}");
        assert_eq!(outcome["egress"][0]["connections"], 300, "{outcome:#}");
        let denial = &outcome["denials"][0];
        assert_eq!(denial["kind"], "limit", "{outcome:#}");
        assert_eq!(
            denial["allow_with"], "limits.connections = 600",
            "{outcome:#}"
        );
    });
}

#[test]
fn a_budget_of_bytes_ends_what_goes_beyond_it() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\"]\n[limits]\negress = \"1 MiB\"",
            "attempt('within', get, 'www.example.org', '/bytes/500000')\n\
             attempt('beyond', curl, '-o/dev/null', 'http://www.example.org/bytes/5000000')\n\
             attempt('after', get, 'www.example.org')",
        );
        assert_eq!(tried.answer("within"), "HTTP/1.1 200 OK", "{tried:#?}");
        assert!(tried.answer("beyond").starts_with("curl "), "{tried:#?}");
        assert!(tried.answer("beyond").len() > "curl 0:".len(), "{tried:#?}");
        let moved = tried.outcome["usage"]["egress_bytes"]
            .as_u64()
            .expect("a number");
        assert!(moved < 3 << 19, "{moved}");
        let denials = tried.outcome["denials"].to_string();
        assert!(
            denials.contains("limits.egress = \\\"2 MiB\\\""),
            "{:?} {denials}",
            world.who
        );
    });
}

#[test]
fn cells_with_many_sockets_start_at_once() {
    // Each hands over hundreds of descriptors, and the kernel counts those on their way by user.
    const CALLS: u64 = 12;
    Internet::everyone(|_, world| {
        let mut server = server(
            world,
            "[network]\nallow = [\"*.wild.example.net\"]\n\
             [limits]\nopen_files = 64\nconcurrency = 12",
        );
        let code = format!(
            "{}\nattempt('a', get, 'a.wild.example.net')\nsay()\n",
            harness::programs::script("attempts.py")
        );
        for id in 1..=CALLS {
            server.call(id, "reaching", &json!({ "code": code }));
        }
        for id in 1..=CALLS {
            let outcome = server.outcome(id);
            let said = outcome["stdout"]["text"].as_str().unwrap_or_default();
            assert!(
                said.contains("HTTP/1.1 200 OK"),
                "{:?} {outcome:#}",
                world.who
            );
        }
    });
}
