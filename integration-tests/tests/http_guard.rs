//! What a server over HTTP does not put up with: names and pages that are not its own, requests that can
//! be read in two ways, what is too large, too many or too slow.

use std::time::Instant;

use harness::http::{ACCEPT, Connection, Server, initialize};
use harness::{World, everyone};
use serde_json::Value;

fn server(world: &World) -> Server {
    Server::start(
        world,
        &[
            "--allow-host",
            "tools.example",
            "--allow-origin",
            "https://app.example",
        ],
    )
}

fn ping() -> String {
    initialize().to_string()
}

fn ask(server: &Server, headers: &[(&str, &str)]) -> u16 {
    let headers = [&[("accept", ACCEPT)], headers].concat();
    server.ask("POST", "/mcp", &headers, &ping()).status
}

#[test]
fn a_name_that_was_led_here_is_refused() {
    let world = World::new(everyone()[0]);
    let server = server(&world);
    let own = server.address().to_string();
    for host in [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1",
        "[::1]:9",
        "tools.example",
        &own,
    ] {
        assert_eq!(ask(&server, &[("host", host)]), 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "tools.example.evil",
        "10.0.0.1",
        "[::2]",
    ] {
        assert_eq!(ask(&server, &[("host", host)]), 421, "{host}");
    }
    for host in [
        "",
        "a b",
        "user@localhost",
        "localhost:port",
        "localhost/x",
        "[::1",
    ] {
        assert_eq!(ask(&server, &[("host", host)]), 400, "{host:?}");
    }
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let world = World::new(everyone()[0]);
    let server = server(&world);
    assert_eq!(ask(&server, &[("origin", "https://app.example")]), 200);
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:444",
        "https://app.example.evil.example",
        "http://localhost",
        "null",
        "",
    ] {
        assert_eq!(ask(&server, &[("origin", origin)]), 403, "{origin:?}");
    }
    let two = [
        ("origin", "https://app.example"),
        ("origin", "https://evil.example"),
    ];
    assert_eq!(ask(&server, &two), 403);
}

/// What is written, and how it is answered: first, and whether a second request on the connection is.
fn raw(server: &Server, text: &str) -> Vec<u16> {
    let mut connection = server.connect();
    connection.write(text);
    let mut statuses = Vec::new();
    while let Some(response) = connection.next_response() {
        statuses.push(response.status);
    }
    statuses
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read() {
    let world = World::new(everyone()[0]);
    let server = server(&world);
    let second = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    // The control: two requests in one piece are two requests.
    let first = "GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(raw(&server, &format!("{first}{second}")), [404, 200]);

    let post = "POST /nothing HTTP/1.1\r\nhost: localhost\r\n";
    for (name, text, expected) in [
        (
            "two lengths",
            format!("{post}content-length: 0\r\ncontent-length: 5\r\n\r\n{second}"),
            400,
        ),
        (
            "a list of lengths",
            format!("{post}content-length: 0, 5\r\n\r\n{second}"),
            400,
        ),
        (
            "a signed length",
            format!("{post}content-length: +5\r\n\r\nabcde{second}"),
            400,
        ),
        (
            "a length in hexadecimal",
            format!("{post}content-length: 0x5\r\n\r\nabcde{second}"),
            400,
        ),
        (
            "an unknown encoding",
            format!("{post}transfer-encoding: gzip\r\n\r\n{second}"),
            400,
        ),
        (
            "a hidden encoding",
            format!(
                "{post}transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n{second}"
            ),
            400,
        ),
        (
            "an encoding within one",
            format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n{second}"),
            400,
        ),
        (
            "a space before the colon",
            format!("{post}content-length : 5\r\n\r\nabcde{second}"),
            400,
        ),
        (
            "a folded line",
            format!("{post}a: b\r\n c: d\r\ncontent-length: 0\r\n\r\n{second}"),
            400,
        ),
        (
            "two hosts",
            format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: b\r\n\r\n{second}"),
            400,
        ),
        (
            "no host",
            format!("GET /livez HTTP/1.1\r\n\r\n{second}"),
            400,
        ),
        (
            "another host in the line",
            format!("GET http://b/livez HTTP/1.1\r\nhost: localhost\r\n\r\n{second}"),
            400,
        ),
        (
            "a zero byte",
            format!("GET /livez HTTP/1.1\r\nhost: localhost\r\na: \0\r\n\r\n{second}"),
            400,
        ),
        (
            "a bare CR",
            format!("GET /livez HTTP/1.1\r\nhost: localhost\ra: b\r\n\r\n{second}"),
            400,
        ),
        ("no version", format!("GET /livez\r\n\r\n{second}"), 400),
    ] {
        assert_eq!(raw(&server, &text), [expected], "{name}");
    }
    // What is no HTTP/1 is not answered.
    for other in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\x03\x03",
    ] {
        assert!(
            raw(&server, other).iter().all(|status| *status == 400),
            "{other:?}"
        );
    }
    // Both a length and chunks: the chunks count, and the connection ends with them.
    for both in [
        format!("{post}content-length: 99\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{second}"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 99\r\n\r\n0\r\n\r\n{second}"),
    ] {
        assert_eq!(raw(&server, &both), [404], "{both}");
    }
}

#[test]
fn what_is_too_large_or_too_many_is_refused() {
    /// `BODY_BYTES_MAX`
    const BODY_MAX: usize = 8 << 20;
    let world = World::new(everyone()[0]);
    let server = server(&world);
    let length = (BODY_MAX + 1).to_string();
    let post = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let said = format!("{post}content-length: {length}\r\n\r\n");
    assert_eq!(raw(&server, &said), [413]);

    // One that does not say so.
    let mut connection = server.connect();
    connection.write(format!("{post}transfer-encoding: chunked\r\n\r\n"));
    let chunk = "x".repeat(1 << 20);
    for _ in 0..9 {
        connection.write(format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    assert_eq!(connection.head().expect("it answers").status, 413);

    let many: String = (0..100).map(|n| format!("a{n}: b\r\n")).collect();
    let head = "GET /livez HTTP/1.1\r\nhost: localhost\r\n";
    assert_eq!(raw(&server, &format!("{head}{many}\r\n")), [431]);
    let long = "x".repeat(40 << 10);
    assert_eq!(raw(&server, &format!("{head}a: {long}\r\n\r\n")), [431]);
    let uri = format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!([vec![414], vec![431]].contains(&raw(&server, &uri)));

    // What is deeply nested is no trouble, and an answer.
    let deep = "[".repeat(100_000);
    let response = server.ask("POST", "/mcp", &[("accept", ACCEPT)], &deep);
    assert!((400..500).contains(&response.status), "{response:?}");

    // The control, after all that.
    assert_eq!(ask(&server, &[]), 200);
}

#[test]
fn what_is_no_json_or_wants_no_json_is_told_so() {
    let world = World::new(everyone()[0]);
    let server = server(&world);
    for (headers, expected) in [
        (
            vec![("accept", ACCEPT), ("content-type", "text/plain")],
            415,
        ),
        (vec![("accept", "text/html")], 406),
        (vec![("accept", ACCEPT)], 200),
    ] {
        let response = server.ask("POST", "/mcp", &headers, &ping());
        assert_eq!(response.status, expected, "{headers:?}");
    }
    for body in ["", "{", "\u{7f}", "[]", "{\"jsonrpc\":\"2.0\"}"] {
        let response = server.ask("POST", "/mcp", &[("accept", ACCEPT)], body);
        assert!(
            (400..500).contains(&response.status),
            "{body:?}: {response:?}"
        );
    }
}

/// A connection on which a request begins and never ends.
fn half(server: &Server, text: &str) -> (Connection, Instant) {
    let mut connection = server.connect();
    connection.write(text);
    (connection, Instant::now())
}

#[test]
fn what_is_too_slow_is_hung_up_on() {
    /// `HEAD_TIME_MAX` and `BODY_TIME_MAX`, in seconds.
    const TIME_MAX: f64 = 30.0;
    let world = World::new(everyone()[0]);
    let server = server(&world);
    let (mut head, begun) = half(&server, "GET /livez HTTP/1.1\r\nhost: local");
    let (mut body, _) = half(
        &server,
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc",
    );
    let (mut idle, _) = half(&server, "");
    let answer = body.response();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(body.is_over() && head.is_over() && idle.is_over());
    let waited = begun.elapsed().as_secs_f64();
    assert!(
        (TIME_MAX - 1.0..2.0 * TIME_MAX).contains(&waited),
        "{waited}"
    );
    // The control.
    assert_eq!(ask(&server, &[]), 200);
}

#[test]
fn a_thousand_idle_connections_are_no_trouble() {
    const CONNECTIONS: usize = 1000;
    let world = World::new(everyone()[0]);
    let server = server(&world);
    if let Some(why) = too_few_descriptors(CONNECTIONS) {
        harness::skip("a thousand connections", &why);
        return;
    }
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    assert_eq!(ask(&server, &[]), 200);
    assert!(memory(server.pid()) < 40 << 20, "{}", memory(server.pid()));
    drop(idle);
    assert_eq!(ask(&server, &[]), 200);
}

fn too_few_descriptors(wanted: usize) -> Option<String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    // The server keeps a thousand and 24 for itself.
    (hard < wanted as u64 + 1024 + 64).then(|| format!("the hard limit of descriptors is {hard}"))
}

/// Memory that is a process's own, in bytes.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let anonymous = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok());
    let kib: u64 = kib.expect("the kernel tells it");
    kib << 10
}

#[test]
fn problems_are_told_as_problems() {
    let world = World::new(everyone()[0]);
    let server = server(&world);
    let response = server.ask("POST", "/mcp", &[("host", "evil.example")], &ping());
    assert_eq!(response.headers["content-type"], "application/problem+json");
    let problem = response.json();
    assert_eq!(problem["status"], 421);
    assert_eq!(problem["type"], "about:blank");
    let detail = problem["detail"].as_str().expect("it is told");
    assert!(detail.contains("`--allow-host evil.example`"), "{detail}");
    assert_ne!(problem["title"], Value::Null);
}
