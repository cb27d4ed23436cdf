//! API keys over HTTP: who is let in, as whom, for which tools, and until when.

use std::process::Output;

use harness::http::{ACCEPT, Client, Connection, Response, Server, initialize, key};
use harness::{Who, World, everyone};
use serde_json::{Value, json};

const ADMINS: &str = "format = 1\nname = \"admins\"\ndescription = \"A test's.\"\n\
    extends = [\"readonly\"]\n[input]\ntype = \"object\"\n\
    [run]\nargv = [\"/bin/echo\", \"admin\"]\n[access]\nroles = [\"admin\"]\n";

fn world(who: Who) -> World {
    let world = World::new(who);
    world.write("profiles/admins.toml", ADMINS);
    world
}

fn server(world: &World) -> Server {
    Server::start(world, &["--profiles", "profiles"])
}

fn manage(world: &World, arguments: &[&str]) -> Output {
    world.toolcell(&[&["key"], arguments].concat())
}

fn ask(server: &Server, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("accept", ACCEPT)], headers].concat();
    server.ask("POST", "/mcp", &headers, &initialize().to_string())
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[test]
fn a_key_lets_in_as_its_name_and_nothing_else_does() {
    for who in everyone() {
        let world = world(who);
        let secret = key(&world, &["ci"]);
        let server = server(&world);
        let bearer = bearer(&secret);
        for headers in [
            [("authorization", bearer.as_str())],
            [("x-api-key", secret.as_str())],
        ] {
            assert_eq!(ask(&server, &headers).status, 200, "{who:?} {headers:?}");
        }
        let other = format!("{}x", &secret[..secret.len() - 1]);
        let other_bearer = format!("Bearer {other}");
        for (headers, how) in [
            (vec![], "Bearer realm=\"toolcell\""),
            (
                vec![("x-api-key", other.as_str())],
                "Bearer realm=\"toolcell\", error=\"invalid_token\"",
            ),
            (
                vec![("authorization", other_bearer.as_str())],
                "Bearer realm=\"toolcell\", error=\"invalid_token\"",
            ),
            (
                vec![("authorization", "Basic Y2k6Y2k=")],
                "Bearer realm=\"toolcell\", error=\"invalid_token\"",
            ),
        ] {
            let response = ask(&server, &headers);
            assert_eq!(response.status, 401, "{who:?} {headers:?}: {response:?}");
            assert_eq!(response.headers["www-authenticate"], how);
        }
        let both = [
            ("authorization", bearer.as_str()),
            ("x-api-key", secret.as_str()),
        ];
        assert_eq!(ask(&server, &both).status, 400);
        // Whoever watches over the process needs none.
        assert_eq!(server.ask("GET", "/livez", &[], "").status, 200);

        let client = Client::start(&server, &[("x-api-key", &secret)]);
        let outcome = client.call("python", &json!({ "code": "print(7)" }));
        assert_eq!(outcome["stdout"]["text"], "7\n", "{who:?}: {outcome:#}");
        assert_eq!(world.receipts()[0]["caller"]["id"], "key:ci", "{who:?}");
    }
}

#[test]
fn callers_see_and_call_what_their_roles_and_keys_are_for() {
    for who in everyone() {
        let world = world(who);
        let user = key(&world, &["user"]);
        let admin = key(&world, &["admin", "--role", "admin"]);
        let guest = key(&world, &["guest", "--role", "guest"]);
        let narrow = key(&world, &["narrow", "--role", "admin", "--tool", "python"]);
        let server = server(&world);
        let start = |key: &str| Client::start(&server, &[("x-api-key", key)]);
        let has = |tools: &[String], name: &str| tools.iter().any(|tool| tool == name);

        let user = start(&user);
        let tools = user.tools();
        assert!(
            has(&tools, "python") && !has(&tools, "admins"),
            "{who:?}: {tools:?}"
        );
        let admin = start(&admin);
        let tools = admin.tools();
        assert!(
            has(&tools, "python") && has(&tools, "admins"),
            "{who:?}: {tools:?}"
        );
        assert!(start(&guest).tools().is_empty(), "{who:?}");
        let narrow = start(&narrow);
        assert_eq!(narrow.tools(), ["python"], "{who:?}");

        for client in [&user, &narrow] {
            let outcome = client.call("admins", &json!({}));
            assert_eq!(outcome["status"], "refused", "{who:?}: {outcome:#}");
        }
        let outcome = admin.call("admins", &json!({}));
        assert_eq!(outcome["stdout"]["text"], "admin\n", "{who:?}: {outcome:#}");
    }
}

#[test]
fn a_session_is_its_callers_alone() {
    let world = world(everyone()[0]);
    let (first, second) = (key(&world, &["first"]), key(&world, &["second"]));
    let server = server(&world);
    let client = Client::start(&server, &[("x-api-key", &first)]);
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let with = |key: &str| {
        let headers = [
            ("accept", ACCEPT),
            ("x-api-key", key),
            ("mcp-session-id", client.session.as_str()),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        server.ask("POST", "/mcp", &headers, &message).status
    };
    assert_eq!(with(&second), 404);
    assert_eq!(with(&first), 200);
    let end = |key: &str| {
        let headers = [
            ("x-api-key", key),
            ("mcp-session-id", client.session.as_str()),
        ];
        server.ask("DELETE", "/mcp", &headers, "").status
    };
    assert_eq!(end(&second), 404);
    assert_eq!(with(&first), 200);
    assert_eq!(end(&first), 202);
}

#[test]
fn what_a_call_left_is_its_callers_alone() {
    let world = world(everyone()[0]);
    let (first, second) = (key(&world, &["first"]), key(&world, &["second"]));
    let server = server(&world);
    let first = Client::start(&server, &[("x-api-key", &first)]);
    let second = Client::start(&server, &[("x-api-key", &second)]);
    let code = "import os\nos.mkdir('out')\nopen('out/a.txt', 'w').write('kept')";
    let outcome = first.call("python", &json!({ "code": code }));
    let uri = &outcome["files"][0]["resource"];
    let read = |client: &Client| client.request("resources/read", &json!({ "uri": uri }));
    assert_eq!(read(&first)["contents"][0]["text"], "kept");
    assert!(read(&second).get("contents").is_none());
    let listed = |client: &Client| client.request("resources/list", &json!({}))["resources"].take();
    assert_eq!(listed(&first).as_array().map(Vec::len), Some(1));
    assert_eq!(listed(&second).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_revoked_key_is_of_no_use_from_then_on() {
    for who in everyone() {
        let world = world(who);
        let (gone, stays) = (key(&world, &["gone"]), key(&world, &["stays"]));
        let server = server(&world);
        let ask = |key: &str| ask(&server, &[("x-api-key", key)]).status;
        assert_eq!((ask(&gone), ask(&stays)), (200, 200), "{who:?}");
        assert!(manage(&world, &["revoke", "gone"]).status.success());
        assert_eq!((ask(&gone), ask(&stays)), (401, 200), "{who:?}");
        // One that is made meanwhile is good at once.
        assert_eq!(ask(&key(&world, &["new"])), 200, "{who:?}");
        // Without any, or any file, nobody gets in.
        std::fs::remove_file(world.path("config/toolcell/keys.toml")).expect("it is there");
        assert_eq!(ask(&stays), 401, "{who:?}");
        assert_eq!(unnamed(&server), 401, "{who:?}");
    }
}

fn unnamed(server: &Server) -> u16 {
    ask(server, &[]).status
}

#[test]
fn an_expired_key_is_of_no_use() {
    let world = world(everyone()[0]);
    let secret = key(&world, &["brief", "--expires", "1h"]);
    let server = server(&world);
    let ask = || ask(&server, &[("x-api-key", &secret)]).status;
    assert_eq!(ask(), 200);
    let path = world.path("config/toolcell/keys.toml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    let (before, rest) = text.split_once("expires = \"").expect("it expires");
    let (_, after) = rest.split_once('"').expect("it ends");
    let text = format!("{before}expires = \"2020-01-01T00:00:00Z\"{after}");
    std::fs::write(&path, text).expect("it is ours");
    assert_eq!(ask(), 401);
    let listed = manage(&world, &["list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["expired"], true, "{listed}");
}

#[test]
fn keys_asked_for_later_are_asked_of_everybody() {
    let world = world(everyone()[0]);
    let server = server(&world);
    assert_eq!(ask(&server, &[]).status, 200);
    let secret = key(&world, &["first"]);
    assert_eq!(ask(&server, &[]).status, 401);
    assert_eq!(ask(&server, &[("x-api-key", &secret)]).status, 200);
}

#[test]
fn with_keys_other_machines_are_listened_to() {
    let world = world(everyone()[0]);
    let secret = key(&world, &["ci"]);
    let command = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--allow-host",
        "tools.example",
    ];
    let server = Server::start_by(&world, world.command(&command));
    let ask = |key: &str| {
        let mut connection = server.connect();
        let headers = [
            ("accept", ACCEPT),
            ("host", "tools.example"),
            ("x-api-key", key),
        ];
        connection.request("POST", "/mcp", &headers, &initialize().to_string());
        connection.response().status
    };
    assert_eq!(ask(&secret), 200);
    assert_eq!(ask("toolcell_x"), 401);
}

#[test]
fn the_key_is_in_no_receipt_log_or_file_of_ours() {
    for who in everyone() {
        let mut world = world(who);
        let secret = key(&world, &["ci"]);
        world
            .env
            .insert("TOOLCELL_LOG".to_owned(), "debug".to_owned());
        let mut server = server(&world);
        let client = Client::start(&server, &[("x-api-key", &secret)]);
        let outcome = client.call(
            "python",
            &json!({ "code": "print(open('/proc/self/environ').read())" }),
        );
        assert_eq!(outcome["status"], "exited", "{outcome:#}");
        server.stop();
        let mut searched = 0;
        for found in files(world.directory.path()) {
            let bytes = std::fs::read(&found).unwrap_or_default();
            let has = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!has, "{who:?}: {}", found.display());
            searched += 1;
        }
        assert!(searched >= 3, "the log, the receipts, the keys");
        assert!(!outcome.to_string().contains(&secret));
    }
}

fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&path)),
            Ok(kind) if kind.is_file() => all.push(path),
            _ => {}
        }
    }
    all
}

#[test]
fn a_key_serves_on_a_unix_socket_too() {
    let world = world(everyone()[0]);
    let secret = key(&world, &["ci"]);
    let path = world.path("socket");
    let text = path.display().to_string();
    let _server = Server::start_by(&world, world.command(&["serve", "--socket", &text]));
    let ask = |key: &str| {
        let mut connection = Connection::unix(&path);
        let headers = [("accept", ACCEPT), ("x-api-key", key)];
        connection.request("POST", "/mcp", &headers, &initialize().to_string());
        connection.response().status
    };
    assert_eq!(ask(&secret), 200);
    assert_eq!(ask("toolcell_x"), 401);
}
