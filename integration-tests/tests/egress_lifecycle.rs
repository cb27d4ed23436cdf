//! The gateway from outside: what it may do, that it goes when it should, that nothing stays.

use std::fs;
use std::path::Path;

use harness::internet::{self, Internet, OTHER, WWW_ONLY, gateway, gateways, status};
use harness::stdio::Server;
use harness::{Host, USER, Who, World, assert_nothing_left, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for a process that was killed.
const GONE_MAX: Duration = Duration::from_secs(20);
/// Calls after which descriptors are counted.
const CALLS: u64 = 200;

/// Writes a tool that runs the Python it is given and may reach one host.
fn tool(world: &World, name: &str, tables: &str) {
    let text = format!(
        "format = 1\nname = \"{name}\"\ntitle = \"Reach\"\ndescription = \"A test's.\"\n\
         extends = [\"network\"]\n[input]\ntype = \"object\"\nrequired = [\"code\"]\n\
         properties.code = {{ type = \"string\" }}\n\
         [run]\nargv = [\"/usr/bin/python3\", \"-I\", \"-S\", \"-\"]\nstdin = \"{{code}}\"\n{tables}\n"
    );
    world.write(&format!("profiles/{name}.toml"), &text);
}

fn serve(world: &World) -> Server {
    Server::start(
        world,
        &["--profiles", &world.path("profiles").display().to_string()],
    )
}

const OTHER_ONLY: &str = "[network]\nallow = [\"other.example.org\"]";

/// Has a tool try something; what is tried is Python of `programs/attempts.py`.
fn ask(server: &mut Server, id: u64, tool: &str, attempts: &str) {
    let script = harness::programs::script("attempts.py");
    let code = format!("{script}\n{attempts}\nsay()\n");
    server.call(id, tool, &json!({ "code": code }));
}

/// What came of it.
#[track_caller]
fn said(outcome: &Value) -> Value {
    let text = outcome["stdout"]["text"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_else(|_| panic!("{outcome:#}"))
}

const GET: &str = "attempt('get', get, 'www.example.org')";
/// A request whose answer never comes.
const STALL: &str = "attempt('stall', talk, 'www.example.org', 80, \
                     b'GET /stall HTTP/1.1\\r\\nHost: www.example.org\\r\\n\\r\\n')";

#[test]
fn the_gateway_is_confined() {
    Internet::everyone(|_, world| {
        tool(world, "www", WWW_ONLY);
        let mut server = serve(world);
        ask(&mut server, 1, "www", GET);
        let outcome = server.outcome(1);
        assert_eq!(
            said(&outcome)["get"]["answer"],
            "HTTP/1.1 200 OK",
            "{outcome:#}"
        );

        let gateway = gateway(world).expect("it serves");
        let line = |key: &str| status(gateway, key).expect("it lives");
        assert_eq!(line("Seccomp"), "2");
        assert_eq!(line("NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(line(set), "0000000000000000", "{set}");
        }
        let user = line("Uid")
            .split('\t')
            .next()
            .expect("it is one")
            .to_owned();
        let supervisor = server.running.pid();
        if world.who == Who::Root {
            assert!(user.parse::<u32>().expect("a number") > USER, "{user}");
        } else {
            assert_eq!(user, USER.to_string());
        }
        assert_eq!(
            line("Uid"),
            [user.as_str(); 4].join("\t"),
            "{:?}",
            world.who
        );
        assert_eq!(
            line("Gid"),
            [user.as_str(); 4].join("\t"),
            "{:?}",
            world.who
        );
        assert_eq!(line("Groups"), "");
        let environment = fs::read(format!("/proc/{gateway}/environ")).expect("root reads it");
        assert_eq!(environment, b"");
        // Beside sockets, pipes and what tokio waits with, its standard streams are all it has: the
        // host's two files are read and closed.
        for (number, target) in descriptors(gateway) {
            let kinds = ["socket:", "pipe:", "anon_inode:"];
            let known = kinds.iter().any(|kind| target.starts_with(kind));
            let stream = number <= 2 && (target == "/dev/null" || target.starts_with("/dev/"));
            let hosts = ["/etc/resolv.conf", "/etc/hosts"].contains(&target.as_str());
            assert!(known || stream || hosts, "{number} is {target}");
        }
        // The controls: the supervisor has an environment, and a file that is open is seen.
        let environment = fs::read(format!("/proc/{supervisor}/environ")).expect("root reads it");
        assert_ne!(environment, b"");
        let _open = fs::File::open("/etc/passwd").expect("everyone reads it");
        let files = descriptors(std::process::id());
        assert!(files.iter().any(|(_, target)| target == "/etc/passwd"));
    });
}

fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("root reads it");
    let read = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.display().to_string()))
    };
    entries.flatten().filter_map(read).collect()
}

#[test]
fn a_gateway_that_dies_ends_its_calls_and_the_next_has_another() {
    Internet::everyone(|internet, world| {
        tool(world, "www", WWW_ONLY);
        let mut server = serve(world);
        ask(&mut server, 1, "www", STALL);
        let _ = internet.until(|seen| seen.of("request").next().is_some());
        let first = gateway(world).expect("it serves");
        let pid = Pid::from_raw(i32::try_from(first).expect("a PID fits"));
        kill(pid, Signal::SIGKILL).expect("it is ours");
        let outcome = server.outcome(1);
        assert_eq!(
            outcome["status"], "setup_failed",
            "{:?} {outcome:#}",
            world.who
        );
        let reason = outcome["reason"].as_str().expect("a reason");
        assert!(reason.contains("network"), "{reason}");
        let wall = outcome["usage"]["wall_ms"].as_u64().expect("a number");
        assert!(
            wall < 9_000,
            "the tool would have waited for ten seconds: {outcome:#}"
        );

        ask(&mut server, 2, "www", GET);
        let outcome = server.outcome(2);
        assert_eq!(
            said(&outcome)["get"]["answer"],
            "HTTP/1.1 200 OK",
            "{outcome:#}"
        );
        assert_ne!(gateway(world), Some(first));
    });
}

#[test]
fn the_gateway_goes_with_the_supervisor() {
    Internet::everyone(|internet, world| {
        let before = Host::look();
        tool(world, "www", WWW_ONLY);
        let mut server = serve(world);
        ask(&mut server, 1, "www", STALL);
        let _ = internet.until(|seen| seen.of("request").next().is_some());
        let gateway = gateway(world).expect("it serves");
        server.running.signal(Signal::SIGKILL);
        let path = format!("/proc/{gateway}");
        assert!(
            within(GONE_MAX, || !Path::new(&path).exists()),
            "{:?}",
            world.who
        );
        let _ = internet.until(|seen| seen.of("left").next().is_some());
        drop(server);
        assert_nothing_left(world, &before);
    });
}

#[test]
fn many_calls_leave_nothing_in_the_gateway_or_on_the_host() {
    Internet::everyone(|internet, world| {
        let before = Host::look();
        tool(
            world,
            "www",
            "[network]\nallow = [\"www.example.org\", \"*.wild.example.net\"]\n\
                            [limits]\nrate = \"1000/s\"",
        );
        let mut server = serve(world);
        let code = "import socket\n\
                    with socket.create_connection(('www.example.org', 80)) as c:\n\
                    \x20   c.sendall(b'GET / HTTP/1.1\\r\\nHost: www.example.org\\r\\n\\r\\n')\n\
                    \x20   print(c.recv(12).decode())\n\
                    # Left open, as by a tool that just ends.\n\
                    left = socket.create_connection(('a.wild.example.net', 80))\n";
        let mut one = |id: u64| {
            server.call(id, "www", &json!({ "code": code }));
            let outcome = server.outcome(id);
            assert_eq!(
                outcome["stdout"]["text"], "HTTP/1.1 200\n",
                "{id} {outcome:#}"
            );
        };
        one(1);
        one(2);
        let gateway = gateway(world).expect("it serves");
        let few = descriptors(gateway).len();
        for id in 3..=CALLS {
            one(id);
            let _ = internet.seen();
        }
        assert_eq!(gateways(world), [gateway], "{:?}", world.who);
        let settled = within(GONE_MAX, || descriptors(gateway).len() <= few);
        assert!(
            settled,
            "{few} descriptors, then {:#?}",
            descriptors(gateway)
        );
        // No connection of the gateway's is open in the host's network.
        let open = || {
            let table = fs::read_to_string(format!("/proc/{gateway}/net/tcp")).expect("it lives");
            table
                .lines()
                .filter(|line| line.split_whitespace().nth(3) == Some("01"))
                .count()
        };
        assert!(
            within(GONE_MAX, || open() == 0),
            "{} connections are open",
            open()
        );
        server.running.close();
        let _ = server.running.end();
        assert_nothing_left(world, &before);
    });
}

#[test]
fn a_profile_without_a_network_starts_no_gateway_and_has_loopback_only() {
    Internet::everyone(|internet, world| {
        let before = Host::look();
        tool(world, "none", "");
        tool(world, "www", WWW_ONLY);
        let mut server = serve(world);
        let attempts = "attempt('interfaces', lambda: [n for _, n in socket.if_nameindex()])\n\
                        attempt('name', address, 'www.example.org')\n\
                        attempt('literal', connect, '93.184.215.14', 80)";
        ask(&mut server, 1, "none", attempts);
        let outcome = server.outcome(1);
        let said_of = said(&outcome);
        assert_eq!(said_of["interfaces"]["answer"], "['lo']", "{outcome:#}");
        assert_ne!(said_of["literal"]["answer"], "connected", "{outcome:#}");
        let name = said_of["name"]["answer"].as_str().expect("text");
        assert!(name.starts_with("EAI_"), "{outcome:#}");
        assert_eq!(gateways(world), [0; 0], "{:?}", world.who);
        assert_eq!(internet.seen().sent(), [""; 0], "{:?}", world.who);
        // The control: with a network, there is one.
        ask(
            &mut server,
            2,
            "www",
            "attempt('interfaces', lambda: [n for _, n in socket.if_nameindex()])",
        );
        assert_eq!(said(&server.outcome(2))["interfaces"]["answer"], "['lo']");
        assert_eq!(gateways(world).len(), 1, "{:?}", world.who);
        drop(server);
        assert_nothing_left(world, &before);
    });
}

#[test]
fn calls_at_once_reach_their_own_hosts_only() {
    Internet::everyone(|internet, world| {
        tool(world, "www", WWW_ONLY);
        tool(world, "other", OTHER_ONLY);
        let mut server = serve(world);
        // Each holds its connection until the other has one too: they meet at the servers.
        let attempts = |own: &str, others: &str| {
            format!(
                "held = socket.create_connection(('{own}.example.org', 80))\n\
                 held.sendall(b'GET /first HTTP/1.1\\r\\nHost: {own}.example.org\\r\\n\\r\\n')\n\
                 attempt('own', lambda: held.recv(12).decode())\n\
                 attempt('name', get, '{others}.example.org')\n\
                 attempt('host', get, '{own}.example.org', '/', '{others}.example.org')\n\
                 attempt('address', connect, '198.18.1.1', 443)\n\
                 attempt('literal', connect, '{OTHER}', 80)\n\
                 held.sendall(b'GET /last HTTP/1.1\\r\\nHost: {own}.example.org\\r\\n\\r\\n')\n\
                 attempt('last', lambda: len(held.recv(65536)) > 12)"
            )
        };
        ask(&mut server, 1, "www", &attempts("www", "other"));
        ask(&mut server, 2, "other", &attempts("other", "www"));
        for id in [1, 2] {
            let outcome = server.outcome(id);
            let said = said(&outcome);
            assert_eq!(said["own"]["answer"], "HTTP/1.1 200", "{id} {outcome:#}");
            assert_eq!(said["last"]["answer"], "True", "{id} {outcome:#}");
            for denied in ["name", "host", "literal"] {
                let answer = said[denied]["answer"].as_str().expect("text");
                let refused = ["EAI_NONAME", "ECONNRESET", "ECONNREFUSED"].contains(&answer);
                assert!(refused, "{id} {denied} {answer}");
            }
            // The same synthetic address is each call's own host: nobody else's.
            assert_eq!(said["address"]["answer"], "connected", "{id} {outcome:#}");
            let (own, others) = if id == 1 {
                ("www", "other")
            } else {
                ("other", "www")
            };
            internet::assert_denied(
                &outcome,
                &format!("look up {others}.example.org"),
                "no entry of `network.allow` covers it",
                &format!("network.allow = [\"{others}.example.org\"]"),
            );
            let egress = outcome["egress"].to_string();
            assert!(egress.contains(&format!("{own}.example.org")), "{egress}");
            assert!(
                !egress.contains(&format!("{others}.example.org")),
                "{egress}"
            );
        }
        assert_eq!(gateways(world).len(), 1, "one serves both");
        let seen = internet.seen();
        for request in seen.of("request") {
            let at = if request["host"] == "www.example.org" {
                internet::WWW
            } else {
                OTHER
            };
            assert_eq!(request["local"], at, "{request:#}");
        }
    });
}
