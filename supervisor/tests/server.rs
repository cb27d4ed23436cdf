//! The MCP server as clients of both eras see it.
// A test may panic, and `json!` is handed over as it is.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod fixture;

use std::fs;
use std::time::{Duration, Instant};

use fixture::{Fixture, PATIENCE, Raw, call, clients, modern, params, profile, request};
use rmcp::model::ErrorCode;
use rmcp::service::ServiceError;
use serde_json::{Value, json};
use supervisor::admission::QUEUE_MAX;
use supervisor::outcome::Status;
use supervisor::server::RECEIPT;

async fn opened(fixture: &Fixture) -> Raw {
    let (mut client, _served) = fixture.raw();
    client.initialize().await;
    client
}

/// Waits until so many calls run in cells.
async fn running(fixture: &Fixture, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while fixture
        .cells
        .running
        .load(std::sync::atomic::Ordering::SeqCst)
        != count
    {
        assert!(
            Instant::now() < deadline,
            "it never came to {count} running calls"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tools_are_listed_sorted_with_derived_hints_in_both_eras() {
    let fixture = Fixture::new();
    for client in clients(&fixture).await {
        let tools = client.list_tools(None).await.unwrap().tools;
        let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert_eq!(names, ["alpha", "beta", "narrow"]);
        let hints = tools[0].annotations.as_ref().unwrap();
        assert_eq!(hints.read_only_hint, Some(true));
        assert_eq!(hints.open_world_hint, Some(false));
        assert_eq!(tools[0].title.as_deref(), Some("Test tool alpha"));
        assert_eq!(tools[0].input_schema["required"], json!(["text"]));
        assert_eq!(tools[0].output_schema.as_ref().unwrap()["type"], "object");
    }
}

#[tokio::test]
async fn older_versions_are_spoken_and_others_answered_with_the_newest_of_their_era() {
    let fixture = Fixture::new();
    for (asked, spoken) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let (mut client, _served) = fixture.raw();
        let client_info = json!({"name": "raw", "version": "1"});
        let params =
            json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": client_info});
        let answer = client.ask(1, "initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], spoken);
        let answer = client.ask(2, "tools/call", call("alpha", "hello")).await;
        assert_eq!(answer["result"]["isError"], false, "{asked}");
    }
}

#[tokio::test]
async fn tool_that_writes_to_the_host_is_not_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let write = format!("files.write = [{{ path = \"{path}\", why = \"the test\" }}]\nfiles.exec");
    let text = profile("writer", "").replace("files.exec", &write);
    let fixture = Fixture::with([("writer".to_owned(), text)]);
    let tool = fixture.service.catalog.tool("writer").unwrap();
    let hints = tool.definition.annotations.clone().unwrap();
    assert_eq!(
        (hints.read_only_hint, hints.destructive_hint),
        (Some(false), Some(true))
    );
}

#[tokio::test]
async fn call_is_answered_in_words_and_as_data_in_both_eras() {
    let fixture = Fixture::new();
    for client in clients(&fixture).await {
        let result = client
            .call_tool(params("alpha", json!({"text": "hello"})))
            .await
            .unwrap();
        assert_eq!(result.is_error, Some(false));
        assert_eq!(result.content[0].as_text().unwrap().text, "hello");
        let data = result.structured_content.unwrap();
        assert_eq!(data["status"], "exited");
        assert_eq!(data["stdout"]["text"], "hello");
        let schema = Value::Object(supervisor::tool::OUTPUT_SCHEMA.as_ref().clone());
        jsonschema::draft202012::new(&schema)
            .unwrap()
            .validate(&data)
            .unwrap();
        assert_eq!(
            result.meta.unwrap().0[RECEIPT]["hash"]
                .as_str()
                .unwrap()
                .len(),
            64
        );
    }
    let receipts = fixture.receipts();
    assert_eq!(receipts.len(), 2);
    assert_eq!(receipts[0].arguments, receipts[1].arguments);
    assert_eq!(receipts[0].caller.client.as_ref().unwrap().name, "rmcp");
}

#[tokio::test]
async fn wrong_arguments_are_tool_errors_that_name_the_field() {
    let fixture = Fixture::new();
    for client in clients(&fixture).await {
        for (arguments, says) in [
            (json!({}), "text"),
            (json!({"text": 7}), "/text"),
            (json!({"text": "x".repeat(101)}), "/text"),
            (json!({"text": "x", "more": 1}), "more"),
        ] {
            let result = client.call_tool(params("alpha", arguments)).await.unwrap();
            assert_eq!(result.is_error, Some(true));
            let text = &result.content[0].as_text().unwrap().text;
            assert!(text.contains("refused") && text.contains(says), "{text}");
            assert_eq!(result.structured_content.unwrap()["status"], "refused");
        }
    }
    assert_eq!(fixture.receipts().len(), 8);
}

#[tokio::test]
async fn unknown_tool_is_the_protocols_error() {
    let fixture = Fixture::new();
    for client in clients(&fixture).await {
        let error = client
            .call_tool(params("gamma", json!({})))
            .await
            .unwrap_err();
        let ServiceError::McpError(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
        assert!(error.message.contains("`gamma`"), "{}", error.message);
    }
}

#[tokio::test]
async fn exit_status_other_than_zero_is_an_error() {
    let fixture = Fixture::new();
    let [client, _] = clients(&fixture).await;
    let result = client
        .call_tool(params("alpha", json!({"text": "fail 3"})))
        .await
        .unwrap();
    assert_eq!(result.is_error, Some(true));
    assert_eq!(
        result.content[0].as_text().unwrap().text,
        "[exited with status 3]\n"
    );
    assert_eq!(result.structured_content.unwrap()["exit_code"], 3);
}

#[tokio::test]
async fn progress_comes_before_the_result_and_grows() {
    let fixture = Fixture::new();
    let (mut new, _served) = fixture.raw();
    let mut old = opened(&fixture).await;
    let mut params = call("alpha", "lines 5");
    params["_meta"] = json!({"progressToken": "mine"});
    old.send(request(1, "tools/call", params.clone())).await;
    new.send(modern(1, "tools/call", params)).await;
    for client in [&mut old, &mut new] {
        let (mut told, mut last) = (String::new(), -1.0);
        loop {
            let message = client.next().await;
            if message["method"] != "notifications/progress" {
                assert_eq!(message["id"], 1, "{message}");
                break;
            }
            assert_eq!(message["params"]["progressToken"], "mine");
            let progress = message["params"]["progress"].as_f64().unwrap();
            assert!(progress > last);
            last = progress;
            told.push_str(message["params"]["message"].as_str().unwrap());
            told.push('\n');
        }
        assert_eq!(told, "line 0\nline 1\nline 2\nline 3\nline 4\n");
    }
}

#[tokio::test]
async fn no_progress_without_a_token() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    client
        .send(request(1, "tools/call", call("alpha", "lines 5")))
        .await;
    assert_eq!(client.next().await["id"], 1);
}

#[tokio::test]
async fn cancelled_call_is_ended_and_has_its_receipt_in_both_eras() {
    let fixture = Fixture::new();
    let mut old = opened(&fixture).await;
    let (mut new, _served) = fixture.raw();
    old.send(request(1, "tools/call", call("alpha", "wait")))
        .await;
    new.send(modern(1, "tools/call", call("alpha", "wait")))
        .await;
    running(&fixture, 2).await;
    let cancel = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 1, "reason": "the test"},
    });
    old.send(cancel.clone()).await;
    new.send(cancel).await;
    running(&fixture, 0).await;
    assert!(fixture.service.idle(PATIENCE).await);
    let receipts = fixture.receipts();
    assert_eq!(receipts.len(), 2);
    assert!(
        receipts
            .iter()
            .all(|receipt| receipt.status == Status::Cancelled)
    );
    // What was cancelled is not answered; what comes after is.
    old.ask(2, "tools/call", call("alpha", "hello")).await;
    new.send(modern(2, "tools/call", call("alpha", "hello")))
        .await;
    assert_eq!(new.answer().await["id"], 2);
}

#[tokio::test]
async fn changed_profiles_are_told_in_both_eras() {
    let fixture = Fixture::new();
    let mut old = opened(&fixture).await;
    old.ask(1, "ping", json!({})).await;
    let (mut new, _served) = fixture.raw();
    let listen = json!({"notifications": {"toolsListChanged": true}});
    new.send(modern(1, "subscriptions/listen", listen)).await;
    assert_eq!(
        new.next().await["method"],
        "notifications/subscriptions/acknowledged"
    );

    let changed = profile("alpha", "").replace("A tool of the tests.", "Changed.");
    fs::write(fixture.profile("alpha"), changed).unwrap();
    assert!(fixture.service.catalog.reload().unwrap());
    for client in [&mut old, &mut new] {
        assert_eq!(
            client.next().await["method"],
            "notifications/tools/list_changed"
        );
    }
    let after = old.ask(2, "tools/list", json!({})).await;
    assert_eq!(after["result"]["tools"][0]["description"], "Changed.");
}

#[tokio::test]
async fn bad_profile_keeps_every_tool_as_it_was() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    let before = client.ask(1, "tools/list", json!({})).await;
    fs::write(
        fixture.profile("alpha"),
        profile("alpha", "").replace("Test tool", "New"),
    )
    .unwrap();
    fs::write(fixture.profile("beta"), profile("beta", "nonsense = 1\n")).unwrap();
    let diagnostics = fixture.service.catalog.reload().unwrap_err();
    assert!(
        diagnostics.to_string().contains("nonsense"),
        "{diagnostics}"
    );
    let mut after = client.ask(2, "tools/list", json!({})).await;
    after["id"] = json!(1);
    assert_eq!(before, after);
    client.ask(3, "tools/call", call("beta", "hello")).await;
}

#[tokio::test]
async fn unchanged_profiles_are_not_told() {
    let fixture = Fixture::new();
    let mut changes = fixture.service.catalog.changes();
    assert!(!fixture.service.catalog.reload().unwrap());
    assert!(!changes.has_changed().unwrap());
    let _ = changes.borrow_and_update();
}

#[tokio::test]
async fn calls_beyond_the_concurrency_wait_for_their_turn() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    for id in 1..=3 {
        client
            .send(request(id, "tools/call", call("narrow", "briefly")))
            .await;
    }
    for _ in 1..=3 {
        assert_eq!(client.answer().await["result"]["isError"], false);
    }
    assert_eq!(
        fixture.cells.most.load(std::sync::atomic::Ordering::SeqCst),
        1
    );
}

#[tokio::test]
async fn call_beyond_the_rate_is_refused_with_the_line_that_says_so() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    for id in 1..=3 {
        let answer = client.ask(id, "tools/call", call("narrow", "hello")).await;
        assert_eq!(answer["result"]["isError"], false);
    }
    let answer = client.ask(4, "tools/call", call("narrow", "hello")).await;
    let data = &answer["result"]["structuredContent"];
    assert_eq!(data["status"], "refused");
    let reason = data["reason"].as_str().unwrap();
    assert!(
        reason.contains("3 calls in 1h") && reason.contains("limits.rate"),
        "{reason}"
    );
    let other = client.ask(5, "tools/call", call("alpha", "hello")).await;
    assert_eq!(other["result"]["isError"], false);
}

#[tokio::test]
async fn call_that_finds_the_queue_full_is_refused() {
    let more = "[limits]\nconcurrency = 1\n";
    let fixture = Fixture::with([("single".to_owned(), profile("single", more))]);
    let mut client = opened(&fixture).await;
    for id in 1..=QUEUE_MAX as u64 + 2 {
        client
            .send(request(id, "tools/call", call("single", "wait")))
            .await;
    }
    let answer = client.answer().await;
    let reason = answer["result"]["structuredContent"]["reason"]
        .as_str()
        .unwrap();
    assert!(reason.contains("limits.concurrency"), "{reason}");
}

#[tokio::test]
async fn many_calls_at_once_are_each_answered_with_their_own() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    for id in 1..=60 {
        client
            .send(request(
                id,
                "tools/call",
                call("alpha", &format!("text {id}")),
            ))
            .await;
    }
    let mut answered: Vec<u64> = Vec::new();
    for _ in 1..=60 {
        let answer = client.answer().await;
        let id = answer["id"].as_u64().unwrap();
        let text = &answer["result"]["structuredContent"]["stdout"]["text"];
        assert_eq!(*text, format!("text {id}"));
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=60).collect::<Vec<_>>());
    assert_eq!(fixture.receipts().len(), 60);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let names = (0..150).map(|number| format!("tool{number:03}"));
    let fixture = Fixture::with(names.map(|name| (name.clone(), profile(&name, ""))));
    for client in clients(&fixture).await {
        assert_eq!(client.list_tools(None).await.unwrap().tools.len(), 100);
        assert_eq!(client.list_all_tools().await.unwrap().len(), 150);
    }
    let mut client = opened(&fixture).await;
    let answer = client
        .ask(1, "tools/list", json!({"cursor": "made up"}))
        .await;
    assert_eq!(answer["error"]["code"], -32602);
}

#[tokio::test]
async fn end_of_input_cancels_calls_writes_receipts_and_answers() {
    let fixture = Fixture::new();
    let (mut client, served) = fixture.raw();
    client.initialize().await;
    client
        .send(request(1, "tools/call", call("alpha", "wait")))
        .await;
    client
        .send(request(2, "tools/call", call("alpha", "briefly")))
        .await;
    running(&fixture, 2).await;
    let rest = client.close().await;
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("it hangs")
        .unwrap()
        .unwrap();
    let status = |id: u64| {
        let answer = rest
            .iter()
            .find(|answer| answer["id"] == id)
            .expect("no answer");
        answer["result"]["structuredContent"]["status"].clone()
    };
    assert_eq!(status(1), "cancelled");
    assert_eq!(status(2), "exited");
    let receipts = fixture.receipts();
    assert_eq!(receipts.len(), 2);
    assert!(fixture.service.is_idle());
}

#[tokio::test]
async fn client_that_says_nothing_and_goes_leaves_nothing() {
    let fixture = Fixture::new();
    let (client, served) = fixture.raw();
    assert_eq!(client.close().await, Vec::<Value>::new());
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("it hangs")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn listening_ends_with_a_result_when_the_server_closes() {
    let fixture = Fixture::new();
    let (mut client, _served) = fixture.raw();
    let listen = json!({"notifications": {"toolsListChanged": true}});
    client.send(modern(1, "subscriptions/listen", listen)).await;
    client.next().await;
    fixture.service.close(Duration::ZERO).await;
    assert_eq!(client.answer().await["id"], 1);
}

#[tokio::test]
async fn call_without_a_receipt_is_refused_and_the_next_one_served() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    let log = fixture.directory.path().join(supervisor::audit::LOG_FILE);
    fs::create_dir(&log).unwrap();
    let answer = client.ask(1, "tools/call", call("alpha", "hello")).await;
    let data = &answer["result"]["structuredContent"];
    assert_eq!(
        (&answer["result"]["isError"], &data["status"]),
        (&json!(true), &json!("refused"))
    );
    assert!(
        data["reason"].as_str().unwrap().contains("audit.jsonl"),
        "{data}"
    );
    fs::remove_dir(&log).unwrap();
    let answer = client.ask(2, "tools/call", call("alpha", "hello")).await;
    assert_eq!(answer["result"]["isError"], false);
    assert_eq!(fixture.receipts().len(), 1);
}

#[tokio::test]
async fn what_one_era_lacks_is_answered_so() {
    let fixture = Fixture::new();
    let mut old = opened(&fixture).await;
    assert_eq!(old.ask(1, "ping", json!({})).await["result"], json!({}));
    for (id, method) in [(2, "subscriptions/listen"), (3, "logging/setLevel")] {
        let params = json!({"notifications": {}, "level": "info"});
        let error = old.ask(id, method, params).await["error"].clone();
        assert_eq!(error["code"], -32601, "{method}");
        let message = format!("there is no method `{method}` here");
        assert_eq!(error["message"], message);
    }
    let (mut new, _served) = fixture.raw();
    new.send(modern(1, "server/discover", json!({}))).await;
    let discovered = new.answer().await;
    assert!(
        discovered["result"]["supportedVersions"]
            .to_string()
            .contains("2026-07-28")
    );
    new.send(modern(2, "tools/list", json!({}))).await;
    assert_eq!(new.answer().await["result"]["resultType"], "complete");
    new.send(modern(3, "ping", json!({}))).await;
    assert_eq!(new.answer().await["error"]["code"], -32601);
    new.send(request(4, "tools/list", json!({}))).await;
    assert_eq!(new.answer().await["error"]["code"], -32602);
}
