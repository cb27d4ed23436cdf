//! Outcomes in words.
#![allow(clippy::unwrap_used)] // a test may

use supervisor::outcome::{Artifact, Denial, DenialKind, Outcome, Status, Stream};
use supervisor::render::{is_error, text};
use supervisor::service::ended;

fn exited(code: i32, stdout: &str, stderr: &str) -> Outcome {
    let mut outcome = ended("call", "python", Status::Exited, String::new());
    outcome.exit_code = Some(code);
    outcome.succeeded = code == 0;
    let stream = |text: &str| Stream {
        text: text.to_owned(),
        bytes: text.len() as u64,
        ..Stream::default()
    };
    outcome.stdout = stream(stdout);
    outcome.stderr = stream(stderr);
    outcome
}

#[test]
fn success_is_the_output_and_nothing_else() {
    assert_eq!(text(&exited(0, "42\n", "")), "42\n");
    assert!(!is_error(&exited(0, "42\n", "")));
}

#[test]
fn silent_success_says_so() {
    assert_eq!(text(&exited(0, "", "")), "[exited with status 0]\n");
}

#[test]
fn failure_has_the_errors_and_the_status_after_the_output() {
    let outcome = exited(3, "partly", "no such thing\n");
    insta::assert_snapshot!(text(&outcome), @r"
    partly
    [stderr]
    no such thing
    [exited with status 3]
    ");
    assert!(is_error(&outcome));
}

#[test]
fn every_other_end_is_an_error_with_its_reason() {
    for status in [
        Status::Signalled,
        Status::TimedOut,
        Status::CpuTimeExceeded,
        Status::OutOfMemory,
        Status::PidsExceeded,
        Status::OutputExceeded,
        Status::DiskExceeded,
        Status::Cancelled,
        Status::Denied,
        Status::Refused,
        Status::SetupFailed,
    ] {
        let outcome = ended("call", "python", status, "the reason".to_owned());
        assert!(is_error(&outcome), "{status:?}");
        assert!(text(&outcome).ends_with(": the reason]\n"), "{status:?}");
    }
}

#[test]
fn truncation_denials_and_files_are_told_after_the_status() {
    let mut outcome = exited(1, "the head", "");
    outcome.stdout.bytes = 1_000_000;
    outcome.stdout.truncated = true;
    outcome.stdout.resource = Some("toolcell://results/1/stdout".to_owned());
    outcome.denials.push(Denial {
        kind: DenialKind::Syscall,
        what: "the system call `mount`".to_owned(),
        rule: "the group `mounts` is denied".to_owned(),
        allow_with: "nothing in a profile allows it".to_owned(),
        count: 3,
    });
    outcome.files.push(Artifact {
        name: "plot.png".to_owned(),
        bytes: 5,
        mime_type: "image/png".to_owned(),
        resource: "toolcell://results/1/files/plot.png".to_owned(),
    });
    insta::assert_snapshot!(text(&outcome), @r"
    the head
    [stdout: the first 8 of 1000000 bytes; all of it: toolcell://results/1/stdout]
    [exited with status 1]
    [denied] the system call `mount` (3 times): the group `mounts` is denied
    hint: nothing in a profile allows it
    [file] plot.png (5 bytes): toolcell://results/1/files/plot.png
    ");
}

#[test]
fn hosts_are_allowed_by_the_profile_or_by_an_option() {
    for (allow_with, hint) in [
        (
            "network.allow = [\"example.org:8443\"]",
            "hint: network.allow = [\"example.org:8443\"], or --allow python=example.org:8443\n",
        ),
        // The control: no option does this.
        (
            "network.allow_no_sni = true",
            "hint: network.allow_no_sni = true\n",
        ),
    ] {
        let mut outcome = exited(0, "", "");
        outcome.denials.push(Denial {
            kind: DenialKind::Network,
            what: "connect to example.org:8443".to_owned(),
            rule: "no entry of `network.allow` covers it".to_owned(),
            allow_with: allow_with.to_owned(),
            count: 1,
        });
        assert!(text(&outcome).ends_with(hint), "{}", text(&outcome));
    }
}

#[test]
fn output_that_is_kept_in_part_is_not_said_to_be_whole() {
    let mut outcome = exited(0, "the head", "");
    outcome.stdout.bytes = 1_000_000;
    outcome.stdout.truncated = true;
    outcome.stdout.resource = Some("toolcell://results/1/stdout".to_owned());
    outcome.stdout.resource_bytes = Some(65_536);
    insta::assert_snapshot!(text(&outcome), @r"
    the head
    [stdout: the first 8 of 1000000 bytes; the first 65536: toolcell://results/1/stdout]
    ");
}
