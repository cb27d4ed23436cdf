//! Kept results: whole, for their caller alone, and within every limit.
#![allow(clippy::unwrap_used)] // a test may

use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use supervisor::results::{ARTIFACTS_MAX, KeptLimits, READ_BYTES_MAX, Results, ResultsError};
use supervisor::service::Stream;

fn results(limits: KeptLimits) -> (Results, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (
        Results::with_limits(directory.path().to_owned(), limits),
        directory,
    )
}

/// Keeps an output, and says where.
fn keep(results: &Results, caller: &str, output: &[u8]) -> Result<String, ResultsError> {
    let mut spool = results.keep(caller, "python").spool(Stream::Stdout);
    spool.append(output)?;
    Ok(spool.publish().unwrap())
}

#[test]
fn nothing_kept_has_a_name_on_the_disk() {
    let (results, directory) = results(KeptLimits::default());
    let uri = keep(&results, "me", b"hello").unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_eq!(results.read("me", &uri).unwrap().contents, b"hello");
}

#[test]
fn result_is_for_its_caller_alone() {
    let (results, _directory) = results(KeptLimits::default());
    let uri = keep(&results, "me", b"hello").unwrap();
    assert!(results.read("me", &uri).is_ok());
    assert!(matches!(
        results.read("you", &uri),
        Err(ResultsError::Unknown { .. })
    ));
    assert_eq!(results.list("me").len(), 1);
    assert_eq!(results.list("you"), []);
}

#[test]
fn identifiers_differ() {
    let (results, _directory) = results(KeptLimits::default());
    let one = keep(&results, "me", b"x").unwrap();
    let other = keep(&results, "me", b"x").unwrap();
    assert_ne!(one, other);
}

#[test]
fn oldest_results_make_room() {
    let limits = KeptLimits {
        bytes: 10,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    let first = keep(&results, "me", b"1234").unwrap();
    let second = keep(&results, "me", b"1234").unwrap();
    let third = keep(&results, "me", b"1234").unwrap();
    assert!(results.read("me", &first).is_err());
    assert!(results.read("me", &second).is_ok());
    assert!(results.read("me", &third).is_ok());
}

#[test]
fn output_beyond_the_whole_space_is_refused_and_gives_it_back() {
    let limits = KeptLimits {
        bytes: 10,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    for _ in 0..3 {
        let refused = keep(&results, "me", &[0; 11]);
        assert!(matches!(refused, Err(ResultsError::Full { limit: 10 })));
    }
    keep(&results, "me", &[0; 10]).unwrap();
}

#[test]
fn calls_beyond_the_limit_push_out_the_oldest() {
    let limits = KeptLimits {
        calls: 2,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    let uris: Vec<_> = (0..3)
        .map(|_| keep(&results, "me", b"x").unwrap())
        .collect();
    let listed: Vec<_> = results
        .list("me")
        .into_iter()
        .map(|listed| listed.uri)
        .collect();
    assert_eq!(listed, uris[1..]);
}

#[test]
fn result_beyond_its_age_is_gone() {
    let limits = KeptLimits {
        age: Duration::ZERO,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    let uri = keep(&results, "me", b"x").unwrap();
    assert!(matches!(
        results.read("me", &uri),
        Err(ResultsError::Unknown { .. })
    ));
}

#[test]
fn artifact_larger_than_it_may_be_is_refused_and_gives_its_space_back() {
    let limits = KeptLimits {
        bytes: 100,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    let keep = results.keep("me", "python");
    for _ in 0..3 {
        let refused = keep.artifact("big", "x/y", &[0; 60][..], 59);
        assert!(matches!(
            refused,
            Err(ResultsError::TooLarge { limit: 59, .. })
        ));
    }
    assert_eq!(
        keep.artifact("big", "x/y", &[0; 60][..], 60).unwrap().bytes,
        60
    );
}

#[test]
fn artifacts_beyond_the_limit_are_refused() {
    let (results, _directory) = results(KeptLimits::default());
    let keep = results.keep("me", "python");
    for number in 0..ARTIFACTS_MAX {
        keep.artifact(&format!("file {number}"), "x/y", &b"x"[..], 1)
            .unwrap();
    }
    let refused = keep.artifact("one more", "x/y", &b"x"[..], 1);
    assert!(matches!(refused, Err(ResultsError::TooMany)));
}

#[test]
fn spool_that_is_not_published_keeps_nothing() {
    let limits = KeptLimits {
        bytes: 10,
        ..KeptLimits::default()
    };
    let (results, _directory) = results(limits);
    for _ in 0..3 {
        let mut spool = results.keep("me", "python").spool(Stream::Stderr);
        spool.append(&[0; 10]).unwrap();
    }
    assert_eq!(results.list("me"), []);
}

#[test]
fn directory_that_cannot_be_written_is_named() {
    let results = Results::new("/nonexistent".into());
    let error = keep(&results, "me", b"x").unwrap_err();
    assert!(error.to_string().contains("`/nonexistent`"), "{error}");
}

#[test]
fn offset_beyond_the_end_or_no_number_is_refused() {
    let (results, _directory) = results(KeptLimits::default());
    let uri = keep(&results, "me", b"hello").unwrap();
    assert_eq!(
        results
            .read("me", &format!("{uri}?offset=2"))
            .unwrap()
            .contents,
        b"llo"
    );
    assert_eq!(
        results
            .read("me", &format!("{uri}?offset=5"))
            .unwrap()
            .contents,
        b""
    );
    for offset in ["6", "-1", "x", "99999999999999999999"] {
        let refused = results.read("me", &format!("{uri}?offset={offset}"));
        assert!(
            matches!(refused, Err(ResultsError::Offset { bytes: 5, .. })),
            "{offset}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn parts_are_whole_characters_and_make_the_whole(prefix in 0_usize..4, character in "[é€😀]") {
        let (results, _directory) = results(KeptLimits::default());
        let length = usize::try_from(READ_BYTES_MAX).unwrap();
        let text = "x".repeat(prefix) + &character.repeat(length / 2);
        let mut next = Some(keep(&results, "me", text.as_bytes()).unwrap());
        let mut whole = String::new();
        while let Some(uri) = next {
            let part = results.read("me", &uri).unwrap();
            whole.push_str(std::str::from_utf8(&part.contents).unwrap());
            next = part.next;
        }
        prop_assert!(whole == text);
    }
}
