//! The receipts: written before the answer, chained, and every tampering named.

#![allow(clippy::unwrap_used)] // a test may

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use supervisor::audit::{
    Audit, AuditError, Durability, HEAD_FILE, KEY_FILE, LOG_FILE, Receipt, Severity, Verified,
    verify_directory, verify_file,
};
use supervisor::caller::Caller;
use supervisor::outcome::{Outcome, Status, Stream, Usage};

fn outcome(call: &str) -> Outcome {
    Outcome {
        call: call.to_owned(),
        tool: "python".to_owned(),
        status: Status::Exited,
        succeeded: true,
        exit_code: Some(0),
        signal: None,
        reason: String::new(),
        stdout: Stream::default(),
        stderr: Stream::default(),
        denials: Vec::new(),
        usage: Usage::default(),
        egress: vec![],
        enforced: None,
        files: Vec::new(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

async fn write(audit: &Audit, call: &str) -> Result<u64, AuditError> {
    let reservation = audit.reserve().await?;
    let digest = reservation.digest(&json!({"code": call}));
    let receipt = Receipt::new(&outcome(call), "profile", digest, &Caller::local());
    Ok(reservation.write(receipt).await?.records)
}

/// A log of so many receipts, after its header.
fn log_of(directory: &Path, receipts: usize) {
    let audit = Audit::new(directory.to_owned(), Durability::Kernel);
    runtime().block_on(async {
        for number in 0..receipts {
            write(&audit, &format!("call-{number}")).await.unwrap();
        }
    });
}

fn lines(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join(LOG_FILE)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn put_lines(directory: &Path, lines: &[String]) {
    let mut text = lines.join("\n");
    text.push('\n');
    fs::write(directory.join(LOG_FILE), text).unwrap();
}

fn errors(verified: &Verified) -> Vec<(u64, String)> {
    verified
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| (finding.line, finding.what.clone()))
        .collect()
}

#[test]
fn untouched_log_verifies() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 5);
    let verified = verify_directory(directory.path()).unwrap();
    assert_eq!(verified.findings, []);
    assert_eq!((verified.lines, verified.receipts), (6, 5));
    assert_eq!(verified.end.unwrap().records, 6);
    let alone = verify_file(&directory.path().join(LOG_FILE)).unwrap();
    assert!(alone.is_whole());
}

#[test]
fn files_are_readable_by_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 1);
    for name in [LOG_FILE, HEAD_FILE, KEY_FILE] {
        let mode = fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn cut_at_the_end_is_named() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 5);
    let mut kept = lines(directory.path());
    kept.truncate(4);
    put_lines(directory.path(), &kept);
    let verified = verify_directory(directory.path()).unwrap();
    assert_eq!(
        errors(&verified),
        [(4, "is the last: 4 to 5 were cut off the end".to_owned())]
    );
}

#[test]
fn missing_head_is_named() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 2);
    fs::remove_file(directory.path().join(HEAD_FILE)).unwrap();
    assert!(!verify_directory(directory.path()).unwrap().is_whole());
}

#[test]
fn torn_line_is_mended_noted_and_loses_no_receipt() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 3);
    let path = directory.path().join(LOG_FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(r#"{"sequence":4,"time":"2026"#);
    fs::write(&path, text).unwrap();
    assert!(!verify_directory(directory.path()).unwrap().is_whole());

    log_of(directory.path(), 1);
    let verified = verify_directory(directory.path()).unwrap();
    assert!(verified.is_whole(), "{:?}", verified.findings);
    assert_eq!(verified.receipts, 4);
    assert_eq!(verified.findings.len(), 1, "{:?}", verified.findings);
}

#[test]
fn head_one_behind_is_a_note_and_is_caught_up() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 2);
    let head = fs::read(directory.path().join(HEAD_FILE)).unwrap();
    log_of(directory.path(), 1);
    fs::write(directory.path().join(HEAD_FILE), head).unwrap();
    let verified = verify_directory(directory.path()).unwrap();
    assert!(verified.is_whole());
    assert_eq!(verified.findings[0].severity, Severity::Note);

    log_of(directory.path(), 1);
    let verified = verify_directory(directory.path()).unwrap();
    assert_eq!(verified.findings, []);
    assert_eq!(verified.receipts, 4);
}

#[test]
fn cut_is_recorded_by_the_next_append_and_stays_visible() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 5);
    let mut kept = lines(directory.path());
    kept.truncate(3);
    put_lines(directory.path(), &kept);
    log_of(directory.path(), 2);
    let verified = verify_directory(directory.path()).unwrap();
    let what: Vec<_> = errors(&verified)
        .into_iter()
        .map(|(_, what)| what)
        .collect();
    assert!(
        what.iter().any(|what| what.contains("3 to 5 are missing")),
        "{what:?}"
    );
    assert!(
        what.iter()
            .any(|what| what.contains("did not end as it had been left"))
    );
}

#[test]
fn deleted_log_is_recorded_by_the_next_append() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 2);
    fs::remove_file(directory.path().join(LOG_FILE)).unwrap();
    let verified = verify_directory(directory.path()).unwrap();
    let [found] = &verified.findings[..] else {
        panic!("{:?}", verified.findings);
    };
    assert_eq!(found.file, directory.path().join(HEAD_FILE));
    assert!(found.what.contains("there is no log"), "{}", found.what);

    log_of(directory.path(), 1);
    let verified = verify_directory(directory.path()).unwrap();
    assert!(!verified.is_whole());
    assert_eq!(verified.receipts, 1);
}

#[test]
fn rotation_carries_the_chain_over() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::with_file_bytes_max(directory.path().to_owned(), Durability::Kernel, 2_000);
    runtime().block_on(async {
        for number in 0..20 {
            write(&audit, &format!("call-{number}")).await.unwrap();
        }
    });
    let verified = verify_directory(directory.path()).unwrap();
    assert_eq!(verified.findings, []);
    assert!(verified.files.len() > 2, "{:?}", verified.files);
    assert_eq!(verified.receipts, 20);

    fs::remove_file(&verified.files[1]).unwrap();
    let verified = verify_directory(directory.path()).unwrap();
    assert!(errors(&verified)[0].1.contains("are missing"));
}

#[test]
fn supervisors_that_share_a_log_keep_one_chain() {
    let directory = tempfile::tempdir().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let directory = directory.path().to_owned();
            std::thread::spawn(move || log_of(&directory, 25))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let verified = verify_directory(directory.path()).unwrap();
    assert_eq!(verified.findings, []);
    assert_eq!(verified.receipts, 100);
}

#[test]
fn log_that_is_a_symbolic_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, directory.path().join(LOG_FILE)).unwrap();
    let audit = Audit::new(directory.path().to_owned(), Durability::Kernel);
    let refused = runtime().block_on(write(&audit, "call"));
    assert!(matches!(refused, Err(AuditError::File { act: "open", .. })));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

#[test]
fn log_open_to_others_is_refused_and_taken_again_once_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    log_of(directory.path(), 1);
    let path = directory.path().join(LOG_FILE);
    let audit = Audit::new(directory.path().to_owned(), Durability::Kernel);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = runtime().block_on(write(&audit, "call"));
    assert!(matches!(refused, Err(AuditError::NotPrivate { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    runtime().block_on(write(&audit, "call")).unwrap();
    assert!(verify_directory(directory.path()).unwrap().is_whole());
}

#[test]
fn argument_digest_depends_on_the_key_of_the_log() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let digest = |directory: &Path| {
        let audit = Audit::new(directory.to_owned(), Durability::Kernel);
        runtime()
            .block_on(audit.reserve())
            .unwrap()
            .digest(&json!({"pin": 1234}))
    };
    assert_ne!(digest(one.path()), digest(other.path()));
    assert_eq!(digest(one.path()), digest(one.path()));
}

#[test]
fn longest_possible_receipt_fits_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::new(directory.path().to_owned(), Durability::Kernel);
    let long = "\u{1}".repeat(10_000);
    let mut outcome = outcome(&long);
    outcome.tool.clone_from(&long);
    outcome.reason.clone_from(&long);
    outcome.denials = vec![
        supervisor::outcome::Denial {
            kind: supervisor::outcome::DenialKind::Path,
            what: long.clone(),
            rule: long.clone(),
            allow_with: long.clone(),
            count: u64::MAX,
        };
        1_000
    ];
    outcome.egress = vec![
        supervisor::outcome::EgressUse {
            host: long.clone(),
            connections: u64::MAX,
            sent_bytes: u64::MAX / 4,
            received_bytes: u64::MAX / 4,
        };
        1_000
    ];
    runtime().block_on(async {
        let reservation = audit.reserve().await.unwrap();
        let caller = Caller::local().with_client(&long, &long);
        let receipt = Receipt::new(&outcome, &"f".repeat(64), "f".repeat(64), &caller);
        reservation.write(receipt).await.unwrap();
    });
    assert!(verify_directory(directory.path()).unwrap().is_whole());
}

/// One way to tamper with a log.
#[derive(Debug, Clone)]
enum Tampering {
    Cut { from: usize, count: usize },
    Edit { line: usize, byte: usize, bit: u8 },
    Swap { one: usize, other: usize },
    Insert { at: usize, copy_of: usize },
    Forge { at: usize },
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let line = 0_usize..8;
    prop_oneof![
        (line.clone(), 1_usize..4).prop_map(|(from, count)| Tampering::Cut { from, count }),
        (line.clone(), any::<usize>(), 0_u8..7).prop_map(|(line, byte, bit)| Tampering::Edit {
            line,
            byte,
            bit
        }),
        (line.clone(), line.clone()).prop_map(|(one, other)| Tampering::Swap { one, other }),
        (line.clone(), line.clone()).prop_map(|(at, copy_of)| Tampering::Insert { at, copy_of }),
        line.prop_map(|at| Tampering::Forge { at }),
    ]
}

/// Applies it; gives the first line (from 1) that can show it, or nothing if it changes nothing.
fn tamper(lines: &mut Vec<String>, tampering: &Tampering) -> Option<u64> {
    match *tampering {
        Tampering::Cut { from, count } => {
            let end = (from + count).min(lines.len());
            lines.drain(from..end);
            Some(from as u64)
        }
        Tampering::Edit { line, byte, bit } => {
            let mut bytes = lines[line].clone().into_bytes();
            let position = byte % bytes.len();
            bytes[position] ^= 1 << bit;
            // A newline would be a cut and an insertion at once.
            let edited = String::from_utf8(bytes)
                .ok()
                .filter(|text| !text.contains('\n'))?;
            lines[line] = edited;
            Some(line as u64 + 1)
        }
        Tampering::Swap { one, other } => {
            if one == other {
                return None;
            }
            lines.swap(one, other);
            Some(one.min(other) as u64 + 1)
        }
        Tampering::Insert { at, copy_of } => {
            let copy = lines[copy_of].clone();
            lines.insert(at, copy);
            Some(at as u64)
        }
        Tampering::Forge { at } => {
            // A record that is in itself perfect, made with the same program elsewhere.
            let directory = tempfile::tempdir().unwrap();
            log_of(directory.path(), 8);
            let forged = self::lines(directory.path())[at + 1].clone();
            lines.insert(at + 1, forged);
            Some(at as u64)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_tampering_is_named_at_its_line(change in tampering()) {
        let directory = tempfile::tempdir().unwrap();
        log_of(directory.path(), 7);
        let mut changed = lines(directory.path());
        let Some(first) = tamper(&mut changed, &change) else {
            return Ok(());
        };
        put_lines(directory.path(), &changed);
        let verified = verify_directory(directory.path()).unwrap();
        let errors = errors(&verified);
        prop_assert!(!errors.is_empty(), "not noticed");
        let named = errors[0].0;
        prop_assert!(named + 1 >= first && named <= first + 2, "{first}: {errors:?}");
    }
}
