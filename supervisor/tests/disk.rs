//! A state directory on a disk that is full or read-only: calls are refused before they start, with
//! the reason, and served again once it is not.
//!
//! Each test runs again in a mount namespace of its own, where it mounts a small disk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test may

mod fixture;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fixture::{Fixture, profile};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use supervisor::audit::{LINE_BYTES_MAX, verify_directory};
use supervisor::caller::Caller;
use supervisor::outcome::{Outcome, Status};
use supervisor::service::{Asker, Request};
use tokio_util::sync::CancellationToken;

/// Says that the test is in its own namespace, and where the disk is.
const INSIDE: &str = "TOOLCELL_TEST_DISK";
/// Room for the receipts of some calls.
const DISK_BYTES: usize = 8 * LINE_BYTES_MAX;

/// Runs a test where it may mount. Says loudly if this host does not let it.
fn with_disk(name: &str, test: impl AsyncFnOnce(&Path)) {
    if let Some(disk) = std::env::var_os(INSIDE) {
        let options = format!("size={DISK_BYTES},mode=700");
        let flags = MsFlags::empty();
        let disk = Path::new(&disk);
        mount(
            Some("disk"),
            disk,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(disk));
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let unshare = ["--user", "--map-root-user", "--mount", "--"];
    let allowed = Command::new("unshare").args(unshare).arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED {name}: this host allows no user and mount namespace");
        return;
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, disk.path())
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its namespace");
}

fn on(disk: &Path) -> Fixture {
    Fixture::with_state(
        [("alpha".to_owned(), profile("alpha", ""))],
        disk.to_owned(),
    )
}

async fn called(fixture: &Fixture) -> Outcome {
    let request = Request {
        tool: "alpha".to_owned(),
        arguments: json!({"text": "hello"}),
        asker: Asker {
            caller: Caller::local(),
            cancel: CancellationToken::new(),
            progress: None,
            terminal: false,
        },
    };
    Arc::clone(&fixture.service)
        .call(request)
        .await
        .unwrap()
        .outcome
}

/// Fills the disk to its last byte.
fn fill(path: &Path) {
    let mut size = 1 << 20;
    while size > 0 {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        match std::io::Write::write(&mut file, &vec![0; size]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn full_disk_refuses_calls_until_there_is_room() {
    with_disk(
        "full_disk_refuses_calls_until_there_is_room",
        async |disk| {
            let fixture = on(disk);
            fill(&disk.join("filler"));
            let refused = called(&fixture).await;
            assert_eq!(refused.status, Status::Refused);
            let reason = &refused.reason;
            assert!(reason.contains("No space left on device"), "{reason}");

            fs::remove_file(disk.join("filler")).unwrap();
            assert_eq!(called(&fixture).await.status, Status::Exited);
            let verified = verify_directory(disk).unwrap();
            assert!(verified.is_whole(), "{:?}", verified.findings);
            assert_eq!(verified.receipts, 1);
        },
    );
}

#[test]
fn room_that_was_set_aside_is_there_when_the_disk_fills_up() {
    with_disk(
        "room_that_was_set_aside_is_there_when_the_disk_fills_up",
        async |disk| {
            let fixture = on(disk);
            let reservation = fixture.service.audit.reserve().await.unwrap();
            fill(&disk.join("filler"));
            let outcome =
                supervisor::service::ended("call", "alpha", Status::Exited, String::new());
            let caller = Caller::local();
            let receipt = supervisor::audit::Receipt::new(&outcome, "", String::new(), &caller);
            reservation.write(receipt).await.unwrap();
            assert!(verify_directory(disk).unwrap().is_whole());
        },
    );
}

#[test]
fn read_only_disk_refuses_calls_until_it_is_writable() {
    with_disk(
        "read_only_disk_refuses_calls_until_it_is_writable",
        async |disk| {
            let fixture = on(disk);
            assert_eq!(called(&fixture).await.status, Status::Exited);
            let remount = |flags: MsFlags| {
                let none = None::<&str>;
                mount(none, disk, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
            };
            remount(MsFlags::MS_RDONLY);
            let refused = called(&fixture).await;
            assert_eq!(refused.status, Status::Refused);
            assert!(
                refused.reason.contains("Read-only file system"),
                "{}",
                refused.reason
            );
            remount(MsFlags::empty());
            assert_eq!(called(&fixture).await.status, Status::Exited);
            assert!(verify_directory(disk).unwrap().is_whole());
        },
    );
}
