//! What no library sends: bytes over pipes to `toolcell serve --stdio`. Whatever comes is answered,
//! or is nothing that wants an answer, and the next call is served in a cell as any other.
#![allow(clippy::unwrap_used)] // a test may

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use harness::clients::PATIENCE;
use harness::left::cgroups;
use harness::{Running, World, everyone, within};
use serde_json::{Value, json};

/// Longest message that the server reads (`supervisor/src/lines.rs`).
const MESSAGE_BYTES_MAX: usize = 8 << 20;

struct Raw(Running);

impl Raw {
    fn start(world: &World) -> Self {
        Self(world.start(&["serve", "--stdio"]))
    }

    fn opened(world: &World) -> Self {
        let mut raw = Self::start(world);
        let answer = raw.ask(&initialize(0));
        assert_eq!(
            answer["result"]["protocolVersion"], "2025-11-25",
            "{answer}"
        );
        raw.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        raw
    }

    fn send(&mut self, message: &Value) {
        self.0.write(format!("{message}\n"));
    }

    /// The next answer; notifications are passed over.
    fn answer(&mut self) -> Value {
        loop {
            let line = self.0.line();
            let message: Value = serde_json::from_str(&line).expect(&line);
            if message.get("method").is_none() {
                return message;
            }
        }
    }

    fn ask(&mut self, message: &Value) -> Value {
        self.send(message);
        self.answer()
    }

    /// What every test ends with: a call is served, and the server ends with its input.
    #[track_caller]
    fn still_serves(mut self, world: &World) {
        let answer = self.ask(&call(999, &json!({ "code": "print(6 * 7)" })));
        assert_eq!(answer["id"], 999);
        let data = &answer["result"]["structuredContent"];
        assert_eq!(data["stdout"]["text"], "42\n", "{answer}");
        self.0.close();
        let end = self.0.end();
        assert!(end.status.success(), "{end:?}");
        assert!(within(PATIENCE, || cgroups(world).is_empty()));
    }
}

fn request(id: i64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn initialize(id: i64) -> Value {
    let client = json!({ "name": "raw", "version": "1" });
    request(
        id,
        "initialize",
        &json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client }),
    )
}

fn call(id: i64, arguments: &Value) -> Value {
    request(
        id,
        "tools/call",
        &json!({ "name": "python", "arguments": arguments }),
    )
}

/// With all that a request of the era without `initialize` carries.
fn modern(id: i64, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "raw", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    request(id, method, &params)
}

/// Lines that are wrong, each with the id and the code that it is answered with.
fn wrong_lines() -> Vec<(&'static str, Vec<u8>, Value, i64)> {
    let nested = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}{}}}"#,
        r#"{"a":"#.repeat(50_000),
        "}".repeat(50_000)
    );
    let oversize = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"x":"{}"}}}}"#,
        "x".repeat(MESSAGE_BYTES_MAX)
    );
    let text = |line: &str| line.as_bytes().to_vec();
    vec![
        ("no JSON", text("hello"), Value::Null, -32700),
        (
            "half a message",
            text(r#"{"jsonrpc":"2.0","id":1,"meth"#),
            Value::Null,
            -32700,
        ),
        (
            "invalid UTF-8",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}".to_vec(),
            json!(1),
            -32700,
        ),
        (
            "a NUL byte",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\0b\"}".to_vec(),
            json!(1),
            -32700,
        ),
        ("only NUL bytes", vec![0; 4096], Value::Null, -32700),
        (
            "half a surrogate pair",
            text(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\udc00"}}"#),
            json!(1),
            -32700,
        ),
        ("deep nesting", nested.into_bytes(), json!(1), -32700),
        (
            "an oversize message",
            oversize.into_bytes(),
            json!(1),
            -32600,
        ),
        (
            "a batch",
            text(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#),
            Value::Null,
            -32600,
        ),
        ("an empty batch", text("[]"), Value::Null, -32600),
        ("a number", text("17"), Value::Null, -32600),
        (
            "another JSON-RPC",
            text(r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
            json!(1),
            -32600,
        ),
        (
            "an unknown method",
            text(r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#),
            json!(1),
            -32601,
        ),
        (
            "an unknown tool",
            text(
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"none","arguments":{}}}"#,
            ),
            json!(1),
            -32602,
        ),
        (
            "arguments that are a list",
            text(
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"python","arguments":[]}}"#,
            ),
            json!(1),
            -32602,
        ),
    ]
}

#[test]
fn wrong_lines_are_answered_one_by_one() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        for (what, mut line, id, code) in wrong_lines() {
            line.push(b'\n');
            raw.0.write(line);
            let answer = raw.answer();
            assert_eq!(
                (&answer["id"], &answer["error"]["code"]),
                (&id, &json!(code)),
                "{what}: {answer}"
            );
            assert!(
                answer["error"]["message"]
                    .as_str()
                    .is_some_and(|said| said.len() > 10),
                "{what}"
            );
        }
        raw.still_serves(&world);
    }
}

#[test]
fn wrong_lines_before_the_beginning_are_answered_too() {
    for who in everyone() {
        let world = World::new(who);
        for (what, mut line, id, _) in wrong_lines() {
            let mut raw = Raw::start(&world);
            line.push(b'\n');
            raw.0.write(line);
            assert_eq!(raw.answer()["id"], id, "{what}");
            assert!(raw.ask(&initialize(2))["result"].is_object(), "{what}");
            raw.0.close();
            assert!(raw.0.end().status.success(), "{what}");
        }
    }
}

#[test]
fn nul_and_half_surrogates_in_arguments_are_refused_by_the_field() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        let answer = raw.ask(&call(
            1,
            &json!({ "code": "print(1)", "args": ["a", "b\0c"] }),
        ));
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("`/args"), "{text}");

        // The whole pair is a character like any other.
        raw.0.write(
            "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"python\",\
             \"arguments\":{\"code\":\"print(len('\\ud83d\\ude00'))\"}}}\n",
        );
        assert_eq!(
            raw.answer()["result"]["structuredContent"]["stdout"]["text"],
            "1\n"
        );
        raw.still_serves(&world);
    }
}

#[test]
fn second_initialize_does_no_harm() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        let answer = raw.ask(&initialize(5));
        assert_eq!(answer["id"], 5, "{answer}");
        assert!(answer.get("error").is_some() || answer.get("result").is_some());
        raw.still_serves(&world);
    }
}

/// New clients ask so first, and go on by `initialize` if they do not like the answer.
#[test]
fn discovery_comes_before_either_era() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::start(&world);
        let answer = raw.ask(&modern(1, "server/discover", json!({})));
        let versions = answer["result"]["supportedVersions"].as_array().unwrap();
        assert!(versions.contains(&json!("2026-07-28")), "{answer}");
        let listed = raw.ask(&modern(2, "tools/list", json!({})));
        assert!(
            listed["result"]["tools"]
                .as_array()
                .is_some_and(|tools| !tools.is_empty())
        );
        let params = json!({ "name": "python", "arguments": { "code": "print(3)" } });
        let called = raw.ask(&modern(3, "tools/call", params));
        assert_eq!(
            called["result"]["structuredContent"]["stdout"]["text"], "3\n",
            "{called}"
        );

        let mut raw = Raw::start(&world);
        raw.ask(&modern(1, "server/discover", json!({})));
        assert_eq!(
            raw.ask(&initialize(2))["result"]["protocolVersion"],
            "2025-11-25"
        );
        raw.still_serves(&world);
    }
}

/// An unanswered probe would hang the clients that send one.
#[test]
fn discovery_without_metadata_is_answered() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::start(&world);
        assert_eq!(raw.ask(&request(1, "server/discover", &json!({})))["id"], 1);
        assert!(raw.ask(&initialize(2))["result"].is_object());
        raw.still_serves(&world);
    }
}

#[test]
fn end_of_input_in_the_middle_of_a_message_is_a_goodbye() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        raw.0
            .write(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pyth"#);
        raw.0.close();
        let end = raw.0.end();
        assert!(end.status.success(), "{end:?}");
        let said = String::from_utf8(end.stdout).unwrap();
        assert!(said.contains("-32700"), "half a message is told of: {said}");
        assert!(world.receipts().is_empty(), "nothing was called");
        assert!(within(PATIENCE, || world
            .track
            .processes()
            .is_none_or(|left| left.is_empty())));
    }
}

/// A last line without its end is a message: what a script pipes in may end so.
#[test]
fn last_message_needs_no_line_end() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        raw.0
            .write(call(1, &json!({ "code": "print(6 * 7)" })).to_string());
        raw.0.close();
        let end = raw.0.end();
        assert!(end.status.success(), "{end:?}");
        let answer: Value = serde_json::from_slice(&end.stdout).unwrap();
        assert_eq!(
            answer["result"]["structuredContent"]["stdout"]["text"],
            "42\n"
        );
    }
}

/// A script closes its side at once, and still gets everything that it asked for.
#[test]
fn client_that_only_listens_is_told_all_the_same() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::start(&world);
        let listen = json!({ "notifications": { "toolsListChanged": true } });
        let mut call = modern(
            2,
            "tools/call",
            json!({ "name": "python", "arguments": { "code": "print(6 * 7)" } }),
        );
        call["params"]["_meta"]["progressToken"] = json!("mine");
        let listen = modern(1, "subscriptions/listen", listen);
        raw.0.write(format!("{listen}\n{call}\n"));
        raw.0.close();
        let end = raw.0.end();
        assert!(end.status.success(), "{end:?}");
        let said = String::from_utf8(end.stdout).unwrap();
        let said: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let method = |name: &str| said.iter().find(|message| message["method"] == name);
        assert!(method("notifications/subscriptions/acknowledged").is_some());
        let progress = method("notifications/progress").expect("there is progress");
        assert_eq!(progress["params"]["message"], "42");
        let answer = |id: i64| {
            said.iter()
                .find(|message| message["id"] == id && message["method"].is_null())
        };
        let called = answer(2).expect("the call is answered");
        assert_eq!(
            called["result"]["structuredContent"]["stdout"]["text"],
            "42\n"
        );
        assert!(answer(1).is_some(), "the subscription comes to an end");
    }
}

#[test]
fn message_that_comes_byte_by_byte_is_one() {
    for who in everyone() {
        let world = World::new(who);
        let mut raw = Raw::opened(&world);
        let message = format!("{}\n", call(1, &json!({ "code": "print('grüß')" })));
        for byte in message.as_bytes() {
            raw.0.write([*byte]);
        }
        assert_eq!(
            raw.answer()["result"]["structuredContent"]["stdout"]["text"],
            "grüß\n"
        );
        raw.still_serves(&world);
    }
}

/// It waits for the client instead of keeping what it does not take, and loses nothing.
#[test]
fn client_that_does_not_read_gets_every_answer_later() {
    const REQUESTS: usize = 10_000;
    /// Far below what as many answers and requests would take if all were kept at once.
    const RESIDENT_KIB_MAX: u64 = 200 << 10;
    for who in everyone() {
        let world = World::new(who);
        let mut command = world.command(&["serve", "--stdio"]);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = piped.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let pid = child.id();
        let filler = "x".repeat(4 << 10);
        let writer = std::thread::spawn(move || {
            writeln!(input, "{}", initialize(0)).unwrap();
            for id in 1..=REQUESTS {
                let request = json!({ "jsonrpc": "2.0", "id": id, "method": filler });
                writeln!(input, "{request}").unwrap();
            }
            input
        });
        // It stands still as soon as the pipes are full: nothing moves in many looks.
        let moved = || std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let (mut before, mut still) = (moved(), 0);
        assert!(within(PATIENCE, || {
            let now = moved();
            still = if now == before { still + 1 } else { 0 };
            before = now;
            still > 100
        }));
        assert!(
            !writer.is_finished(),
            "it took everything without being read"
        );
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB");

        let mut seen = vec![false; REQUESTS + 1];
        for line in BufReader::new(child.stdout.take().unwrap())
            .lines()
            .take(REQUESTS + 1)
        {
            let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let id = usize::try_from(answer["id"].as_u64().unwrap()).unwrap();
            assert!(
                !std::mem::replace(&mut seen[id], true),
                "{id} is answered twice"
            );
        }
        assert!(
            seen.iter().all(|seen| *seen),
            "{who:?}: not all are answered"
        );
        drop(writer.join().unwrap());
        assert!(child.wait().unwrap().success());
    }
}
