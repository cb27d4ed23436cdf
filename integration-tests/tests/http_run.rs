//! Tools without MCP: `GET /tools`, `POST /run/{tool}`, what is told if a call is not made, and that a
//! flood is answered, whatever becomes of its calls.

use std::collections::BTreeMap;
use std::sync::Mutex;

use harness::http::{Response, Server, key};
use harness::left::cgroups;
use harness::{Host, Who, World, assert_nothing_left, everyone, within};
use serde_json::{Value, json};

fn profile(name: &str, script: &str, tables: &str) -> String {
    format!(
        "format = 1\nname = \"{name}\"\ndescription = \"A test's.\"\nextends = [\"standard\"]\n\
         [input]\ntype = \"object\"\nproperties.text = {{ type = \"string\" }}\n\
         [run]\nargv = [\"/bin/sh\", \"-c\", \"{script}\"]\n{tables}\n"
    )
}

fn world(who: Who) -> World {
    let world = World::new(who);
    for (name, script, tables) in [
        ("quick", "echo quick", ""),
        ("endless", "echo ready; sleep 600", ""),
        ("eight", "echo one", "[limits]\nconcurrency = 8"),
        ("single", "sleep 0.2", "[limits]\nconcurrency = 1"),
        ("rare", "echo rare", "[limits]\nrate = \"2/min\""),
        ("admins", "echo admin", "[access]\nroles = [\"admin\"]"),
    ] {
        let text = profile(name, script, tables);
        world.write(&format!("profiles/{name}.toml"), &text);
    }
    world
}

fn server(world: &World) -> Server {
    Server::start(world, &["--profiles", "profiles"])
}

fn run(server: &Server, tool: &str, arguments: &Value) -> Response {
    let path = format!("/run/{tool}");
    server.ask("POST", &path, &[], &arguments.to_string())
}

#[track_caller]
fn assert_problem(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.headers["content-type"], "application/problem+json");
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty())
    );
}

#[test]
fn a_tool_is_called_and_its_outcome_is_the_answer() {
    for who in everyone() {
        let world = world(who);
        let before = Host::look();
        let mut server = server(&world);
        let response = run(&server, "python", &json!({ "code": "print(6 * 7)" }));
        assert_eq!(response.status, 200, "{who:?}: {response:?}");
        let outcome = response.json();
        assert_eq!(outcome["stdout"]["text"], "42\n", "{who:?}: {outcome:#}");
        let receipts = world.receipts();
        assert_eq!(receipts[0]["call"], outcome["call"]);
        assert!(
            response.headers.contains_key("toolcell-receipt"),
            "{response:?}"
        );

        // What the tool makes of it is its own affair.
        let response = run(&server, "python", &json!({ "code": "exit(3)" }));
        assert_eq!(
            (response.status, &response.json()["exit_code"]),
            (200, &json!(3))
        );
        // Long output comes whole.
        let response = run(&server, "python", &json!({ "code": "print('x' * 300000)" }));
        let outcome = response.json();
        let text = outcome["stdout"]["text"].as_str().expect("text");
        assert_eq!(
            (text.len(), &outcome["stdout"]["truncated"]),
            (300_001, &json!(false))
        );

        let tools = server.ask("GET", "/tools", &[], "").json();
        let names: Vec<_> = tools["tools"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|tool| tool["name"].as_str().expect("a name"))
            .collect();
        assert!(
            names.contains(&"quick") && !names.contains(&"admins"),
            "{names:?}"
        );
        assert!(names.is_sorted());
        server.stop();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn what_is_not_called_is_told_as_a_problem_with_its_status() {
    for who in everyone() {
        let world = world(who);
        let server = server(&world);
        assert_problem(&run(&server, "nonsense", &json!({})), 404);
        assert_problem(&run(&server, "admins", &json!({})), 403);
        assert_problem(&run(&server, "quick", &json!({ "text": 7 })), 400);
        assert_problem(&run(&server, "quick", &json!([])), 400);
        let wrong = [("content-type", "text/plain")];
        assert_problem(&server.ask("POST", "/run/quick", &wrong, "{}"), 415);
        assert_problem(
            &server.ask("POST", "/run/quick", &[("accept", "text/html")], "{}"),
            406,
        );
        assert_problem(&server.ask("POST", "/run/quick", &[], "{"), 400);
        let twice = "{\"text\":\"a\",\"text\":\"b\"}";
        assert_problem(&server.ask("POST", "/run/quick", &[], twice), 400);
        assert_problem(&server.ask("GET", "/run/quick", &[], ""), 405);
        assert_problem(&server.ask("GET", "/nothing", &[], ""), 404);
        let deep = format!("{{\"text\":{}1{}}}", "[".repeat(9_000), "]".repeat(9_000));
        assert_problem(&server.ask("POST", "/run/quick", &[], &deep), 400);

        for _ in 0..2 {
            assert_eq!(run(&server, "rare", &json!({})).status, 200);
        }
        let often = run(&server, "rare", &json!({}));
        assert_problem(&often, 429);
        let wait: u32 = often.headers["retry-after"].parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{often:?}");
        // Each refusal of a tool that there is has its receipt.
        let refused = world
            .receipts()
            .iter()
            .filter(|line| line["status"] == "refused")
            .count();
        assert_eq!(refused, 3, "{who:?}");
        // The control.
        assert_eq!(
            run(&server, "quick", &json!({ "text": "fine" })).status,
            200
        );
    }
}

#[test]
fn a_call_ends_with_its_client() {
    for who in everyone() {
        let world = world(who);
        let server = server(&world);
        let mut connection = server.connect();
        connection.request("POST", "/run/endless", &[], "{}");
        assert!(within(harness::http::PATIENCE, || !cgroups(&world).is_empty()));
        drop(connection);
        assert!(within(harness::http::PATIENCE, || world.receipts().len() == 1));
        assert_eq!(world.receipts()[0]["status"], "cancelled", "{who:?}");
        assert!(cgroups(&world).is_empty(), "{who:?}");
    }
}

#[test]
fn what_ends_with_the_server_is_told_so() {
    let world = world(everyone()[0]);
    let mut server = Server::start(&world, &["--profiles", "profiles", "--drain", "100ms"]);
    let mut connection = server.connect();
    connection.request("POST", "/run/endless", &[], "{}");
    assert!(within(harness::http::PATIENCE, || !cgroups(&world).is_empty()));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let response = connection.response();
    assert_problem(&response, 503);
    let detail = response.json()["detail"].to_string();
    assert!(detail.contains("about to exit"), "{detail}");
    assert!(server.end().success());
}

#[test]
fn the_description_says_what_is_served() {
    let world = world(everyone()[0]);
    let server = server(&world);
    let document = server.ask("GET", "/openapi.json", &[], "").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        let path = path.replace("{tool}", "quick");
        for method in methods.as_object().expect("methods").keys() {
            let body = if method == "post" { "{}" } else { "" };
            let response = server.ask(&method.to_uppercase(), &path, &[], body);
            assert_eq!(response.status, 200, "{method} {path}");
            let described = &methods[method]["responses"]["200"]["content"];
            assert!(
                described.get("application/json").is_some(),
                "{method} {path}"
            );
        }
        assert_problem(&server.ask("PATCH", &path, &[], ""), 405);
    }
    // What is answered has the members that are described as required, and no others.
    let outcome = run(&server, "quick", &json!({})).json();
    let schema = &document["components"]["schemas"]["Outcome"];
    for name in schema["required"].as_array().expect("a list") {
        assert!(
            outcome.get(name.as_str().expect("text")).is_some(),
            "{name}"
        );
    }
    for name in outcome.as_object().expect("an object").keys() {
        assert!(schema["properties"].get(name).is_some(), "{name}");
    }
}

/// Calls so many times at once; returns how often each status came.
fn flood(
    server: &Server,
    times: usize,
    tool: &str,
    headers: &[(&str, &str)],
) -> BTreeMap<u16, usize> {
    let statuses = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..times {
            let work = || {
                let path = format!("/run/{tool}");
                let response = server.ask("POST", &path, headers, "{}");
                if response.status == 429 {
                    assert!(response.headers.contains_key("retry-after"), "{response:?}");
                } else {
                    assert_eq!(response.json()["status"], "exited", "{response:?}");
                }
                *statuses
                    .lock()
                    .expect("no panic")
                    .entry(response.status)
                    .or_default() += 1;
            };
            std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, work)
                .expect("a thread");
        }
    });
    statuses.into_inner().expect("no panic")
}

#[test]
fn a_burst_is_answered_call_by_call_or_told_to_come_again() {
    const CALLS: usize = 500;
    for who in everyone() {
        let world = world(who);
        let before = Host::look();
        let mut server = server(&world);
        let statuses = flood(&server, CALLS, "eight", &[]);
        assert_eq!(
            statuses.values().sum::<usize>(),
            CALLS,
            "{who:?}: {statuses:?}"
        );
        assert!(
            statuses.keys().all(|status| [200, 429].contains(status)),
            "{statuses:?}"
        );
        // At least those that ran at once, and those that waited.
        assert!(statuses[&200] >= 8 + 64, "{who:?}: {statuses:?}");
        let memory = harness::http::memory(server.pid());
        assert!(memory < 64 << 20, "{who:?}: {memory}");
        assert_eq!(world.receipts().len(), CALLS, "{who:?}");
        server.stop();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn one_callers_flood_keeps_no_other_waiting_for_all_of_it() {
    let world = world(everyone()[0]);
    let (many, one) = (key(&world, &["many"]), key(&world, &["one"]));
    let server = server(&world);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&server, 60, "single", &[("x-api-key", &many)]));
        assert!(within(harness::http::PATIENCE, || world.receipts().len() >= 2));
        let response = server.ask("POST", "/run/single", &[("x-api-key", &one)], "{}");
        assert_eq!(response.status, 200, "{response:?}");
        let served = world.receipts();
        let place = served
            .iter()
            .position(|line| line["caller"]["id"] == "key:one");
        let place = place.expect("it has its receipt");
        assert!(place < 20, "served as number {place}");
        let statuses = flooding.join().expect("no panic");
        assert_eq!(statuses.values().sum::<usize>(), 60, "{statuses:?}");
    });
}

#[test]
fn what_is_counted_is_told_on_an_address_of_its_own() {
    for who in everyone() {
        let world = world(who);
        let server = Server::start(
            &world,
            &["--profiles", "profiles", "--metrics", "127.0.0.1:0"],
        );
        let said = server.said();
        let place = said
            .lines()
            .find_map(|line| line.strip_prefix("toolcell: metrics on http://"));
        let place = place.and_then(|place| place.strip_suffix("/metrics"));
        let address: std::net::SocketAddr = place.expect("it says where").parse().expect("it is");
        let scrape = || {
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            let mut connection = harness::http::Connection::new(stream);
            connection.request("GET", "/metrics", &[], "");
            let response = connection.response();
            assert_eq!(response.status, 200, "{response:?}");
            assert!(response.headers["content-type"].starts_with("text/plain"));
            response.body
        };
        assert_eq!(run(&server, "quick", &json!({})).status, 200);
        assert_eq!(run(&server, "quick", &json!({})).status, 200);
        assert_problem(&run(&server, "admins", &json!({})), 403);
        let told = scrape();
        for line in [
            "toolcell_calls_total{tool=\"quick\",status=\"exited\"} 2",
            "toolcell_calls_total{tool=\"admins\",status=\"refused\"} 1",
            "toolcell_call_seconds_count{tool=\"quick\"} 2",
            "toolcell_queue_seconds_count{tool=\"quick\"} 2",
            "toolcell_http_responses_total{status=\"403\"} 1",
            "toolcell_calls_running 0",
            "toolcell_mcp_sessions 0",
        ] {
            assert!(
                told.lines().any(|found| found == line),
                "{who:?}: {line}\n{told}"
            );
        }
        // It is not told where tools are served, and no tools are where it is told.
        assert_eq!(server.ask("GET", "/metrics", &[], "").status, 404);
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        let mut connection = harness::http::Connection::new(stream);
        connection.request("GET", "/tools", &[], "");
        assert_eq!(connection.response().status, 404);
    }
}

#[test]
fn what_is_counted_is_told_to_other_machines_with_keys_only() {
    let world = world(everyone()[0]);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--metrics", "0.0.0.0:0"];
    let output = world.toolcell(&arguments);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not listening on `0.0.0.0"), "{said}");
}
