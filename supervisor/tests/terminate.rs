//! SIGTERM ends calls, and they are still answered; alone in its process, which gets the signal.
#![allow(clippy::unwrap_used)] // a test may

mod fixture;

use std::sync::atomic::Ordering;

use fixture::{Fixture, PATIENCE, call, request};
use nix::sys::signal::{Signal, raise};
use supervisor::outcome::Status;

#[tokio::test]
async fn terminate_ends_calls_with_receipts_and_answers() {
    let fixture = Fixture::new();
    let (mut client, served) = fixture.raw();
    client.initialize().await;
    client
        .send(request(1, "tools/call", call("alpha", "wait")))
        .await;
    while fixture.cells.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    raise(Signal::SIGTERM).unwrap();
    let answer = client.answer().await;
    assert_eq!(answer["result"]["structuredContent"]["status"], "cancelled");
    assert_eq!(
        answer["result"]["structuredContent"]["reason"],
        "the supervisor is about to exit"
    );
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("it hangs")
        .unwrap()
        .unwrap();
    assert_eq!(fixture.receipts()[0].status, Status::Cancelled);
}
