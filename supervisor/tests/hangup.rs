//! SIGHUP reads the profiles again; alone in its process, which gets the signal.
#![allow(clippy::unwrap_used)] // a test may

mod fixture;

use std::fs;
use std::sync::Arc;

use fixture::{Fixture, PATIENCE, profile};
use nix::sys::signal::{Signal, raise};
use supervisor::commands::serve::watch;

#[tokio::test]
async fn hangup_reads_profiles_that_no_watch_can_see() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("alpha");
    fs::write(&target, profile("alpha", "")).unwrap();
    let fixture = Fixture::new();
    fs::remove_file(fixture.profile("alpha")).unwrap();
    std::os::unix::fs::symlink(&target, fixture.profile("alpha")).unwrap();
    let mut changes = fixture.service.catalog.changes();
    let watching = watch(
        Arc::clone(&fixture.service),
        supervisor::systemd::Notifier::default(),
    )
    .unwrap();

    // Behind a link, which is not watched.
    let text = profile("alpha", "").replace("A tool of the tests.", "Changed.");
    fs::write(&target, text).unwrap();
    raise(Signal::SIGHUP).unwrap();
    tokio::time::timeout(PATIENCE, changes.changed())
        .await
        .expect("not noticed")
        .unwrap();
    watching.abort();
}
