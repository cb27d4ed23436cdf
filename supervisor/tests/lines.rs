//! Whatever a client sends is answered, or is nothing that wants an answer; and the next request is
//! served.
#![allow(clippy::unwrap_used)] // a test may

mod fixture;

use fixture::{Fixture, Raw, call, modern, request};
use proptest::prelude::*;
use rmcp::transport::Transport;
use serde_json::{Value, json};
use supervisor::lines::{Lines, MESSAGE_BYTES_MAX, REQUESTS_MAX};
use tokio_util::sync::CancellationToken;

async fn opened(fixture: &Fixture) -> Raw {
    let (mut client, _served) = fixture.raw();
    client.initialize().await;
    client
}

/// What every test ends with: the connection still works.
async fn still_serves(client: &mut Raw) {
    let answer = client
        .ask(999, "tools/call", call("alpha", "still here"))
        .await;
    assert_eq!(
        answer["result"]["structuredContent"]["stdout"]["text"],
        "still here"
    );
}

/// Sends a line and takes the error that it is answered with.
async fn refused(line: &[u8]) -> (Value, i64, String) {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    client.send_bytes(line).await;
    client.send_bytes(b"\n").await;
    let answer = client.answer().await;
    still_serves(&mut client).await;
    let message = answer["error"]["message"].as_str().unwrap().to_owned();
    (
        answer["id"].clone(),
        answer["error"]["code"].as_i64().unwrap(),
        message,
    )
}

#[tokio::test]
async fn malformed_json_is_a_parse_error() {
    let (id, code, _) = refused(br#"{"jsonrpc": "2.0", "id": "#).await;
    assert_eq!((id, code), (Value::Null, -32700));
    let (id, code, _) = refused(b"hello").await;
    assert_eq!((id, code), (Value::Null, -32700));
}

#[tokio::test]
async fn key_that_is_given_twice_is_refused_by_its_name() {
    let (id, code, message) = refused(
        br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"alpha","arguments":{"text":"a","text":"b"}}}"#,
    )
    .await;
    assert_eq!((id, code), (json!(7), -32602));
    assert!(
        message.contains("the key `text` is given twice"),
        "{message}"
    );
}

#[tokio::test]
async fn malformed_request_is_refused_by_its_id() {
    let (id, code, message) =
        refused(br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"\ud800"}}"#).await;
    assert_eq!((id, code), (json!(7), -32700));
    assert!(message.contains("surrogate"), "{message}");
    let (id, code, _) = refused(br#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#).await;
    assert_eq!((id, code), (json!("a"), -32600));
}

#[tokio::test]
async fn text_that_is_not_utf8_is_a_parse_error() {
    let (id, code, _) = refused(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\",\"id\":3}").await;
    assert_eq!((id, code), (json!(3), -32700));
}

#[tokio::test]
async fn endless_nesting_is_a_parse_error() {
    let nested = format!(
        r#"{{"jsonrpc":"2.0","method":"tools/list","params":{}{},"id":3}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let (id, code, _) = refused(nested.as_bytes()).await;
    assert_eq!((id, code), (json!(3), -32700));
}

#[tokio::test]
async fn json_that_is_no_message_is_an_invalid_request() {
    for line in [
        &b"{}"[..],
        b"17",
        b"null",
        br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    ] {
        let (id, code, _) = refused(line).await;
        assert_eq!((id, code), (Value::Null, -32600), "{line:?}");
    }
}

#[tokio::test]
async fn a_request_with_more_than_one_id_is_answered_without_one() {
    for line in [
        &br#"{"jsonrpc":"2.0","id":3,"id":4,"method":"ping"}"#[..],
        br#"{"jsonrpc":"2.0","id":3,"id":4,"id":5,"method":"ping"}"#,
    ] {
        let (id, code, _) = refused(line).await;
        assert_eq!((id, code), (Value::Null, -32600), "{line:?}");
    }
    let (id, code, _) = refused(br#"{"jsonrpc":"1.0","\u0069d":3,"method":"ping"}"#).await;
    assert_eq!((id, code), (json!(3), -32600));
}

#[tokio::test]
async fn batch_is_an_invalid_request() {
    let (id, code, message) = refused(br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#).await;
    assert_eq!((id, code), (Value::Null, -32600));
    assert!(message.contains("batch"), "{message}");
}

#[tokio::test]
async fn oversize_message_is_refused_by_its_id() {
    let (mut line, most) = (
        String::from(r#"{"method":"tools/call","params":""#),
        MESSAGE_BYTES_MAX,
    );
    line.extend(std::iter::repeat_n('x', most));
    line.push_str(r#"","jsonrpc":"2.0","id":42}"#);
    let (id, code, message) = refused(line.as_bytes()).await;
    assert_eq!((id, code), (json!(42), -32600));
    assert!(message.contains("longer than 8388608 bytes"), "{message}");
}

#[tokio::test]
async fn largest_message_is_served() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    let mut line = request(1, "tools/call", call("alpha", "hello")).to_string();
    line.extend(std::iter::repeat_n(' ', MESSAGE_BYTES_MAX - line.len()));
    client.send_bytes(line.as_bytes()).await;
    client.send_bytes(b"\n").await;
    assert_eq!(client.answer().await["result"]["isError"], false);
}

#[tokio::test]
async fn unknown_method_is_answered() {
    let (id, code, message) = refused(br#"{"jsonrpc":"2.0","id":5,"method":"no/such"}"#).await;
    assert_eq!((id, code), (json!(5), -32601));
    assert!(message.contains("no/such"), "{message}");
}

#[tokio::test]
async fn wrong_parameters_of_a_known_method_are_named() {
    for params in [r#"{"arguments":{}}"#, r#"{"name":"alpha","arguments":[]}"#] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{params}}}"#);
        let (id, code, message) = refused(line.as_bytes()).await;
        assert_eq!((id, code), (json!(5), -32602), "{message}");
    }
}

#[tokio::test]
async fn notifications_and_empty_lines_are_not_answered() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    for line in [
        "",
        "  \r",
        r#"{"jsonrpc":"2.0","method":"no/such/notification"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":77}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":7}"#,
        r#"{"jsonrpc":"2.0","id":12,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":13,"error":{"code":1,"message":"x"}}"#,
    ] {
        client.send_bytes(format!("{line}\n").as_bytes()).await;
    }
    still_serves(&mut client).await;
}

#[tokio::test]
async fn message_may_have_a_mark_and_dos_line_ends() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    client
        .send_bytes(b"\xEF\xBB\xBF{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\r\n")
        .await;
    assert_eq!(client.answer().await["result"], json!({}));
}

#[tokio::test]
async fn what_comes_before_initialize_does_not_hang_up() {
    let fixture = Fixture::new();
    let (mut client, _served) = fixture.raw();
    client
        .send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    client
        .send(json!({"jsonrpc": "2.0", "id": 3, "result": {}}))
        .await;
    client.send_bytes(b"garbage\n").await;
    assert_eq!(client.answer().await["error"]["code"], -32700);
    let early = client.ask(1, "tools/list", json!({})).await;
    assert_eq!(early["error"]["code"], -32602, "{early}");
    assert_eq!(client.ask(2, "ping", json!({})).await["result"], json!({}));
    client.initialize().await;
    still_serves(&mut client).await;
}

#[tokio::test]
async fn id_in_use_is_refused_and_the_first_is_served() {
    let fixture = Fixture::new();
    let mut client = opened(&fixture).await;
    client
        .send(request(1, "tools/call", call("alpha", "briefly")))
        .await;
    client
        .send(request(1, "tools/call", call("alpha", "second")))
        .await;
    let refused = client.answer().await;
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&json!(1), &json!(-32600))
    );
    let served = client.answer().await;
    assert_eq!(served["result"]["isError"], false);
    client.ask(1, "tools/call", call("alpha", "third")).await;
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused() {
    let fixture = Fixture::new();
    let (mut client, _served) = fixture.raw();
    let listen = json!({"notifications": {"toolsListChanged": true}});
    for id in 1..=REQUESTS_MAX as u64 {
        client
            .send(modern(id, "subscriptions/listen", listen.clone()))
            .await;
        assert_eq!(
            client.next().await["method"],
            "notifications/subscriptions/acknowledged"
        );
    }
    client.send(modern(1000, "tools/list", json!({}))).await;
    let refused = client.answer().await;
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&json!(1000), &json!(-32600))
    );

    let cancelled = json!({"requestId": 1});
    client
        .send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}))
        .await;
    client.send(modern(1001, "tools/list", json!({}))).await;
    assert_eq!(client.answer().await["id"], 1001);
}

/// Lines as they may come: noise, messages, and messages with noise in them.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let message = prop_oneof![
        Just(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})),
        Just(json!({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {}})),
        Just(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})),
        Just(json!({"jsonrpc": "2.0", "id": 2, "result": {}})),
        Just(json!([{"id": 1}])),
    ];
    let line = (
        message,
        any::<prop::sample::Index>(),
        any::<u8>(),
        any::<bool>(),
    );
    let line = line.prop_map(|(message, position, byte, spoiled)| {
        let mut text = message.to_string().into_bytes();
        if spoiled {
            let position = position.index(text.len());
            text[position] = byte;
        }
        text.push(b'\n');
        text
    });
    prop::collection::vec(prop_oneof![line, any::<Vec<u8>>()], 0..20)
        .prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_input_comes_to_an_end_and_what_is_said_is_json(input in input()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (said, ended) = runtime.block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            let ended = CancellationToken::new();
            let mut lines = Lines::new(&input[..], theirs, ended.clone());
            let all = async { while lines.receive().await.is_some() {} };
            // It says that the input is over, and waits to be hung up on.
            ended.run_until_cancelled(all).await;
            lines.close().await.unwrap();
            drop(lines);
            let mut said = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut ours, &mut said).await.unwrap();
            (said, ended.is_cancelled())
        });
        prop_assert!(ended);
        for line in said.lines() {
            let answer: Value = serde_json::from_str(line).unwrap();
            prop_assert!(answer["error"]["code"].is_i64());
        }
    }
}
