//! `toolcell serve --listen` and `--socket`: both eras of MCP from one address, sessions with one owner,
//! sockets of systemd's, and an end that loses nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use harness::http::{ACCEPT, Client, Connection, Place, Server, initialize, stateless};
use harness::left::cgroups;
use harness::{Host, USER, Who, World, assert_nothing_left, everyone, skip, toolcell, within};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SLEEPING: &str = "import time\nprint('ready', flush=True)\ntime.sleep(600)";

fn python(code: &str) -> Value {
    json!({ "code": code })
}

/// Calls a tool in the newer era; returns the outcome.
fn call(server: &Server, tool: &str, arguments: &Value) -> Value {
    let parameters = json!({ "name": tool, "arguments": arguments });
    let (message, headers) = stateless("tools/call", &parameters);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let response = server.ask("POST", "/mcp", &headers, &message.to_string());
    assert_eq!(response.status, 200, "{response:?}");
    assert!(!response.headers.contains_key("mcp-session-id"));
    response.answer()["structuredContent"].take()
}

/// Begins a call that runs until it is ended, and waits until it does.
fn begin(client: &Client) -> Connection {
    let mut connection = client.send(&json!({
        "jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": {
            "name": "python", "arguments": python(SLEEPING),
            "_meta": { "progressToken": "p" },
        },
    }));
    let head = connection.head().expect("it answers");
    assert_eq!(head.status, 200, "{head:?}");
    connection.message(|message| message["params"]["message"] == "ready");
    connection
}

#[test]
fn both_eras_are_served_at_one_address_and_leave_nothing() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);

        let client = Client::start(&server, &[]);
        let tools = client.tools();
        assert!(tools.contains(&"python".to_owned()), "{who:?}: {tools:?}");
        let outcome = client.call("python", &python("print(6 * 7)"));
        assert_eq!(outcome["stdout"]["text"], "42\n", "{who:?}: {outcome:#}");

        let outcome = call(&server, "python", &python("print(6 * 8)"));
        assert_eq!(outcome["stdout"]["text"], "48\n", "{who:?}: {outcome:#}");

        let receipts = world.receipts();
        assert_eq!(receipts.len(), 2);
        assert_eq!(
            receipts[0]["caller"]["id"], "anonymous",
            "{:#}",
            receipts[0]
        );
        assert_eq!(receipts[0]["caller"]["client"]["name"], "test");
        server.stop();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn health_is_told_to_anybody() {
    let world = World::new(everyone()[0]);
    let server = Server::start(&world, &[]);
    for path in ["/livez", "/readyz", "/health"] {
        let response = server.ask("GET", path, &[("host", "10.1.2.3:80")], "");
        assert_eq!(
            (response.status, response.json()),
            (200, json!({ "status": "ok" })),
            "{path}"
        );
    }
    let response = server.ask("POST", "/livez", &[], "");
    assert_eq!(response.status, 405);
    assert_eq!(response.headers["allow"], "GET,HEAD");
    let response = server.ask("GET", "/nothing", &[], "");
    assert_eq!(response.status, 404);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    assert_eq!(response.json()["status"], 404);
}

#[test]
fn a_session_ends_when_its_client_says_so() {
    let world = World::new(everyone()[0]);
    let server = Server::start(&world, &[]);
    let client = Client::start(&server, &[]);
    assert!(!client.tools().is_empty());
    let headers = [
        ("accept", ACCEPT),
        ("mcp-session-id", client.session.as_str()),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    assert_eq!(server.ask("DELETE", "/mcp", &headers, "").status, 202);
    let response = server.ask("POST", "/mcp", &headers, &initialize().to_string());
    assert_eq!(response.status, 404, "{response:?}");
}

#[test]
fn sessions_are_limited_in_number() {
    /// `SESSIONS_OF_CALLER_MAX`
    const MOST: usize = 256;
    let world = World::new(everyone()[0]);
    let server = Server::start(&world, &[]);
    let text = initialize().to_string();
    let begin = || server.ask("POST", "/mcp", &[("accept", ACCEPT)], &text);
    let first = begin();
    for _ in 1..MOST {
        assert_eq!(begin().status, 200);
    }
    let refused = begin();
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    // The control: with one gone, there is a place again.
    let headers = [
        ("accept", ACCEPT),
        ("mcp-session-id", first.headers["mcp-session-id"].as_str()),
    ];
    assert_eq!(server.ask("DELETE", "/mcp", &headers, "").status, 202);
    assert_eq!(begin().status, 200);
}

#[test]
fn a_call_dies_with_its_client() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        let client = Client::start(&server, &[]);

        let older = begin(&client);
        assert!(!cgroups(&world).is_empty());
        drop(older);
        let patience = harness::http::PATIENCE;
        assert!(
            within(patience, || world.receipts().len() == 1),
            "{who:?}: no receipt"
        );
        assert_eq!(world.receipts()[0]["status"], "cancelled", "{who:?}");
        assert!(cgroups(&world).is_empty(), "{who:?}");

        let parameters = json!({
            "name": "python", "arguments": python(SLEEPING), "_meta": {}
        });
        let (mut message, headers) = stateless("tools/call", &parameters);
        message["params"]["_meta"]["progressToken"] = json!("p");
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut newer = server.connect();
        newer.request("POST", "/mcp", &headers, &message.to_string());
        assert_eq!(newer.head().expect("it answers").status, 200);
        newer.message(|message| message["params"]["message"] == "ready");
        assert!(!cgroups(&world).is_empty());
        drop(newer);
        assert!(
            within(patience, || world.receipts().len() == 2),
            "{who:?}: no receipt"
        );
        assert_eq!(world.receipts()[1]["status"], "cancelled", "{who:?}");

        server.stop();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_client_that_comes_back_gets_the_answer() {
    let world = World::new(everyone()[0]);
    let server = Server::start(&world, &[]);
    let client = Client::start(&server, &[]);
    let code = "import time\nprint('ready', flush=True)\ntime.sleep(3)\nprint('done')";
    let mut connection = client.send(&json!({
        "jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": { "name": "python", "arguments": python(code) },
    }));
    assert_eq!(connection.head().expect("it answers").status, 200);
    let first = String::from_utf8(connection.chunk().expect("an event")).expect("text");
    let id = first.lines().find_map(|line| line.strip_prefix("id:"));
    let id = id.expect("the first event has a number").trim().to_owned();
    drop(connection);

    let mut again = server.connect();
    let headers = [
        ("accept", "text/event-stream"),
        ("mcp-session-id", client.session.as_str()),
        ("mcp-protocol-version", "2025-11-25"),
        ("last-event-id", id.as_str()),
    ];
    again.request("GET", "/mcp", &headers, "");
    assert_eq!(again.head().expect("it answers").status, 200);
    let answer = again.message(|message| message["id"] == 9);
    let outcome = &answer["result"]["structuredContent"];
    assert_eq!(outcome["stdout"]["text"], "ready\ndone\n", "{answer:#}");
    assert_eq!(world.receipts()[0]["status"], "exited");
}

#[test]
fn a_server_that_is_asked_to_end_lets_calls_end_first() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &["--drain", "60s"]);
        let client = Client::start(&server, &[]);
        let code = "import time\nprint('ready', flush=True)\ntime.sleep(2)\nprint('done')";
        let mut connection = client.send(&json!({
            "jsonrpc": "2.0", "id": 9, "method": "tools/call",
            "params": {
                "name": "python", "arguments": python(code), "_meta": { "progressToken": "p" },
            },
        }));
        assert_eq!(connection.head().expect("it answers").status, 200);
        connection.message(|message| message["params"]["message"] == "ready");
        let mut idle = server.connect();
        server.signal(Signal::SIGTERM);
        let answer = connection.message(|message| message["id"] == 9);
        let outcome = &answer["result"]["structuredContent"];
        assert_eq!(
            outcome["stdout"]["text"], "ready\ndone\n",
            "{who:?}: {answer:#}"
        );
        assert!(server.end().success(), "{who:?}: {}", server.said());
        assert!(idle.is_over());
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_call_that_outlasts_the_drain_is_ended_and_told_so() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &["--drain", "100ms"]);
        let client = Client::start(&server, &[]);
        let mut connection = begin(&client);
        server.signal(Signal::SIGTERM);
        let answer = connection.message(|message| message["id"] == 9);
        let outcome = &answer["result"]["structuredContent"];
        assert_eq!(outcome["status"], "cancelled", "{who:?}: {answer:#}");
        let reason = outcome["reason"].as_str().expect("it has a reason");
        assert!(reason.contains("about to exit"), "{who:?}: {reason}");
        assert!(server.end().success(), "{who:?}: {}", server.said());
        assert_eq!(world.receipts()[0]["status"], "cancelled");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_unix_socket_serves_its_owner_by_uid_and_nobody_else() {
    for who in everyone() {
        let world = World::new(who);
        let path = world.path("socket");
        let text = path.display().to_string();
        let server = Server::start_by(&world, world.command(&["serve", "--socket", &text]));
        assert!(matches!(&server.places[..], [Place::Unix(said)] if *said == path));
        let mode = std::fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660, "{who:?}");

        let post = json!({ "name": "python", "arguments": python("print(7)") });
        let (message, headers) = stateless("tools/call", &post);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        // The test is root, or the owner.
        let mut connection = Connection::unix(&path);
        connection.request("POST", "/mcp", &headers, &message.to_string());
        let outcome = connection.response().answer()["structuredContent"].take();
        assert_eq!(outcome["stdout"]["text"], "7\n", "{who:?}: {outcome:#}");
        let own = format!("uid:{}", nix::unistd::geteuid());
        assert_eq!(world.receipts()[0]["caller"]["id"], own, "{who:?}");

        if who == Who::Root {
            // Whatever lets them open it: the kernel says who they are.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
                .expect("it is ours");
            let mode = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(world.directory.path(), mode).expect("it is ours");
            let status = as_nobody(&path);
            assert_eq!(status, "403", "somebody else is served");
        }
    }
}

/// The status of a request that an ordinary user makes on this socket.
fn as_nobody(path: &Path) -> String {
    let code = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\n\
         s.sendall(b'GET /mcp HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n')\n\
         print(s.recv(64).split()[1].decode())",
        path.display().to_string()
    );
    let user = USER.to_string();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
        .args(["/usr/bin/python3", "-I", "-c", &code])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn sockets_of_systemds_are_taken_over() {
    const PASS: &str = "import os, socket, sys\n\
        tcp = socket.socket()\ntcp.bind(('127.0.0.1', 0))\ntcp.listen()\n\
        unix = socket.socket(socket.AF_UNIX)\nunix.bind('socket')\nunix.listen()\n\
        for there, s in ((13, tcp), (14, unix)): os.dup2(s.fileno(), there)\n\
        for there in (3, 4): os.dup2(there + 10, there)\n\
        os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    for who in everyone() {
        let world = World::new(who);
        let program = toolcell();
        let program = program.to_str().expect("it is text");
        let python = Path::new("/usr/bin/python3");
        let command = world.program(python, &["-I", "-c", PASS, program, "serve"]);
        let mut server = Server::start_by(&world, command);
        within(harness::http::PATIENCE, || {
            server.said().lines().count() >= 2
        });
        assert!(
            server.said().contains("listening on unix:socket"),
            "{}",
            server.said()
        );
        let outcome = call(&server, "python", &json!({ "code": "print(1)" }));
        assert_eq!(outcome["stdout"]["text"], "1\n", "{who:?}: {outcome:#}");
        let mut connection = Connection::unix(&world.path("socket"));
        connection.request("GET", "/livez", &[], "");
        assert_eq!(connection.response().status, 200);
        server.stop();
    }
}

#[test]
fn what_others_would_reach_is_not_listened_on_without_keys() {
    for who in everyone() {
        let world = World::new(who);
        for address in ["0.0.0.0:0", "[::]:0"] {
            let output = world.toolcell(&["serve", "--listen", address]);
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("Address family") {
                skip(address, "the host has no such addresses");
                continue;
            }
            assert!(!output.status.success(), "{who:?}");
            assert!(
                said.contains("not listening on") && said.contains("hint:"),
                "{said}"
            );
        }
        // The control.
        let mut server = Server::start(&world, &[]);
        assert_eq!(server.ask("GET", "/livez", &[], "").status, 200);
        server.stop();
    }
}
