//! Bytes from a client of the MCP server.

use std::sync::Arc;
use std::time::Duration;

use profiles::resolve::Overrides;
use profiles::{Arch, Host, Tier};
use serde_json::{Value, json};
use supervisor::audit::{Audit, Durability};
use supervisor::catalog::{Catalog, Directory, Sources};
use supervisor::commands::serve::{Stop, serve};
use supervisor::outcome::Status;
use supervisor::results::Results;
use supervisor::service::{Run, Running, Service, Start, ended};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime::Runtime;

/// Longest time for one input: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The id of the request that follows every input. Inputs do not have it but by chance.
const LAST: &str = "the fuzzer's last request";

/// The one tool: it can be called, and nothing of it depends on this host.
const PROFILE: &str = r#"
format = 1
name = "tool"
title = "Tool"
description = "A tool of the fuzzer."
files.exec = [{ path = "/bin/cat", why = "it is what runs" }]
[input]
type = "object"
properties.text = { type = "string", maxLength = 100 }
[run]
argv = ["/bin/cat"]
stdin = "{text}"
"#;

/// Stands in for cells: every call ends at once.
struct NoCells;

impl Run for NoCells {
    fn run(&self, start: Start) -> Running<'_> {
        let outcome = ended(
            &start.call,
            start.tool.name(),
            Status::Exited,
            String::new(),
        );
        Box::pin(std::future::ready(outcome))
    }
}

struct Fixture {
    runtime: Runtime,
    service: Arc<Service>,
    /// It is removed at the end.
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::with_prefix("toolcell-fuzz-").expect("/tmp is writable");
        let profiles = directory.path().join("profiles");
        std::fs::create_dir(&profiles).expect("the directory is writable");
        std::fs::write(profiles.join("tool.toml"), PROFILE).expect("the directory is writable");
        let paths = [(
            "/bin/cat".into(),
            profiles::PathFact::File { executable: true },
        )]
        .into();
        let catalog = Catalog::load(Sources {
            directories: vec![Directory {
                path: profiles,
                required: true,
            }],
            overrides: Overrides::default(),
            only: vec!["tool".to_owned()],
            host: Host {
                arch: Arch::X86_64,
                landlock_abi: 7,
                notify: true,
                tier: Tier::Full,
                secrets: std::collections::BTreeSet::new(),
                paths,
            },
        });
        let state = directory.path().to_owned();
        let service = Service::new(
            catalog.expect("the profile is right"),
            Results::new(state.clone()),
            Audit::new(state, Durability::Kernel),
            Arc::new(NoCells),
        );
        Self {
            runtime: Runtime::new().expect("a runtime starts"),
            service: Arc::new(service),
            _directory: directory,
        }
    }
}

thread_local! {
    /// It goes with its thread, and its directory with it.
    static FIXTURE: Fixture = Fixture::new();
}

/// Sends it to a server as a client would, then a request: that one is answered, whatever came before,
/// and so is every other request in it; and everything that the server says is a message.
pub fn run(data: &[u8]) {
    let said = FIXTURE.with(|fixture| {
        let conversation = converse(Arc::clone(&fixture.service), data);
        let ended = async { tokio::time::timeout(PATIENCE, conversation).await };
        fixture.runtime.block_on(ended).expect("the server hangs")
    });
    let said = String::from_utf8(said).expect("the server speaks UTF-8");
    let mut answered = Vec::new();
    for line in said.lines() {
        let message: Value = serde_json::from_str(line).expect("every line is JSON");
        assert_eq!(message["jsonrpc"], "2.0", "{line}");
        let is_answer = message.get("result").is_some() != message.get("error").is_some();
        assert!(is_answer != message.get("method").is_some(), "{line}");
        if is_answer {
            answered.push(message["id"].clone());
        }
    }
    for id in requests(data).into_iter().chain([json!(LAST)]) {
        assert!(answered.contains(&id), "{id} is not answered:\n{said}");
    }
}

/// The ids of the requests that want an answer: not those that are cancelled, nor subscriptions, which
/// last.
fn requests(data: &[u8]) -> Vec<Value> {
    let mut ids = Vec::new();
    let mut cancelled = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        // Of which none can be trusted.
        let doubtful = supervisor::keys::repeated(line).is_some();
        if message["jsonrpc"] != "2.0" || doubtful {
            continue;
        }
        match message["method"].as_str() {
            Some("notifications/cancelled") => {
                cancelled.push(message["params"]["requestId"].clone());
            }
            None | Some("subscriptions/listen") => {}
            Some(_) if message["id"].is_string() || message["id"].is_i64() => {
                ids.push(message["id"].clone());
            }
            Some(_) => {}
        }
    }
    ids.retain(|id| !cancelled.contains(id));
    ids
}

async fn converse(service: Arc<Service>, data: &[u8]) -> Vec<u8> {
    let (client, server) = duplex(1 << 16);
    let (read, write) = split(server);
    let stop = Stop::new().expect("signals can be waited for");
    let session = tokio::spawn(async move { serve(&service, read, write, stop).await });
    let (mut from, mut to) = split(client);
    let send = async move {
        let last = json!({
            "jsonrpc": "2.0", "id": LAST, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": { "name": "fuzzer", "version": "1" },
            },
        });
        // Errors are seen in what is missing from the answers.
        let _ = to.write_all(data).await;
        let _ = to.write_all(format!("\n{last}\n").as_bytes()).await;
        let _ = to.shutdown().await;
    };
    let mut said = Vec::new();
    let ((), read) = tokio::join!(send, from.read_to_end(&mut said));
    read.expect("a pipe in memory can be read");
    let _ = session.await.expect("the server does not panic");
    said
}

/// Conversations in both eras.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let modern = [
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{{meta}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{meta}}}}}"#),
        format!(
            r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{"name":"tool","arguments":{{"text":"x"}},{meta}}}}}"#
        ),
        format!(
            r#"{{"jsonrpc":"2.0","id":4,"method":"subscriptions/listen","params":{{"notifications":{{"toolsListChanged":true}},{meta}}}}}"#
        ),
    ];
    let old = [
        r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":6,"method":"tools/list","params":{"cursor":"after:a"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"tool","arguments":{"text":"x"},"_meta":{"progressToken":1}}}"#,
        r#"{"jsonrpc":"2.0","id":8,"method":"resources/list"}"#,
        r#"{"jsonrpc":"2.0","id":9,"method":"resources/read","params":{"uri":"toolcell://results/x/stdout?offset=1"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
        r#"[{"jsonrpc":"2.0","id":10,"method":"ping"}]"#,
        r#"{"jsonrpc":"2.0","id":"a","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":11,\"method\":\"\\ud800\"}",
    ];
    let mut seeds: Vec<Vec<u8>> = modern
        .iter()
        .map(|line| line.clone().into_bytes())
        .collect();
    seeds.extend(old.iter().map(|line| line.as_bytes().to_vec()));
    seeds.push(modern.join("\n").into_bytes());
    seeds.push([initialize, &old.join("\n")].join("\n").into_bytes());
    seeds
}
