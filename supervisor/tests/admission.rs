//! Who may call.
#![allow(clippy::unwrap_used)] // a test may

mod fixture;

use std::sync::Arc;

use fixture::{Fixture, profile};
use serde_json::json;
use supervisor::caller::Caller;
use supervisor::outcome::{Outcome, Status};
use supervisor::service::{Asker, Request};
use tokio_util::sync::CancellationToken;

/// What comes of a call of a tool with this `[access]` table, by a caller with these roles.
async fn called(access: &str, roles: &[&str]) -> Outcome {
    let fixture = Fixture::with([("guarded".to_owned(), profile("guarded", access))]);
    let mut caller = Caller::local();
    caller.roles = roles.iter().map(|role| (*role).to_owned()).collect();
    let request = Request {
        tool: "guarded".to_owned(),
        arguments: json!({"text": "hello"}),
        asker: Asker {
            caller,
            cancel: CancellationToken::new(),
            progress: None,
            terminal: false,
        },
    };
    let answer = Arc::clone(&fixture.service).call(request).await.unwrap();
    assert_eq!(fixture.receipts()[0].status, answer.outcome.status);
    answer.outcome
}

#[tokio::test]
async fn caller_needs_one_of_the_roles() {
    let access = "[access]\nroles = [\"admin\"]\n";
    assert_eq!(
        called(access, &["user", "admin"]).await.status,
        Status::Exited
    );
    for roles in [&["user"][..], &[]] {
        let outcome = called(access, roles).await;
        assert_eq!(outcome.status, Status::Refused);
        assert!(
            outcome.reason.contains("access.roles"),
            "{}",
            outcome.reason
        );
    }
}

#[tokio::test]
async fn call_cancelled_before_it_starts_never_does() {
    let more = "[limits]\nconcurrency = 1\n";
    let fixture = Fixture::with([("single".to_owned(), profile("single", more))]);
    let call = |text: &str, cancel: &CancellationToken| {
        let service = Arc::clone(&fixture.service);
        let request = Request {
            tool: "single".to_owned(),
            arguments: json!({ "text": text }),
            asker: Asker {
                caller: Caller::local(),
                cancel: cancel.clone(),
                progress: None,
                terminal: false,
            },
        };
        tokio::spawn(async move { service.call(request).await.unwrap().outcome })
    };
    let [first, second] = [(); 2].map(|()| CancellationToken::new());
    let running = call("wait", &first);
    while fixture
        .cells
        .running
        .load(std::sync::atomic::Ordering::SeqCst)
        == 0
    {
        tokio::task::yield_now().await;
    }
    let waiting = call("never", &second);
    second.cancel();
    assert_eq!(waiting.await.unwrap().status, Status::Cancelled);
    assert_eq!(
        fixture.cells.most.load(std::sync::atomic::Ordering::SeqCst),
        1
    );
    first.cancel();
    assert_eq!(running.await.unwrap().status, Status::Cancelled);
}

#[tokio::test]
async fn dropped_call_is_ended_and_has_its_receipt() {
    let fixture = Fixture::new();
    let request = Request {
        tool: "alpha".to_owned(),
        arguments: json!({"text": "wait"}),
        asker: Asker {
            caller: Caller::local(),
            cancel: CancellationToken::new(),
            progress: None,
            terminal: false,
        },
    };
    let service = Arc::clone(&fixture.service);
    let call = tokio::spawn(async move { service.call(request).await });
    while fixture
        .cells
        .running
        .load(std::sync::atomic::Ordering::SeqCst)
        == 0
    {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(fixture.service.idle(fixture::PATIENCE).await);
    assert_eq!(fixture.receipts()[0].status, Status::Cancelled);
}
