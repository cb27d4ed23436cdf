//! A bounded run of everything that is fuzzed, on stable Rust: first the inputs to begin with, then
//! those with things done to them, for [`SECONDS`] each (`FUZZ_SECONDS` sets another time).

use std::time::{Duration, Instant};

use fuzz_entries::{TARGETS, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// How long each target is tried, unless `FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 10;
/// Inputs between two looks at the clock.
const BATCH: u32 = 64;
/// Most things done to one input.
const CHANGES_MAX: usize = 12;

/// Pieces that mean something to one of the formats.
const WORDS: [&str; 48] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "\\",
    "\n",
    "=",
    ",",
    ":",
    "{{",
    "}}",
    "\\u0000",
    "\\ud800",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "..",
    "/",
    "-",
    "true",
    "null",
    "1e999",
    "-1",
    "18446744073709551616",
    "9223372036854775807 GiB",
    "0 s",
    "id",
    "method",
    "params",
    "jsonrpc",
    "tools/call",
    "_meta",
    "extends = [\"fuzz\"]",
    "{roots.x}",
    "[files]",
    "properties",
    "$ref",
    "é",
    "HTTP/1.1\r\n",
    "\r\n\r\n",
    "Host: ",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: ",
    "http://",
    "evil.org",
    "\r",
];

/// One thing done to an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Cut(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
    Word(Index, &'static str),
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        (at(), at()).prop_map(|(from, to)| Change::Cut(from, to)),
        (at(), at()).prop_map(|(from, to)| Change::Repeat(from, to)),
        (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), select(&WORDS[..])).prop_map(|(at, word)| Change::Word(at, word)),
        (at(), at(), at()).prop_map(|(at, seed, from)| Change::Splice(at, seed, from)),
    ]
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |at: &Index, length: usize| at.index(length + 1);
        match self {
            Self::Flip(at, byte) if !input.is_empty() => {
                let at = at.index(input.len());
                input[at] ^= byte;
            }
            Self::Flip(..) => {}
            Self::Cut(from, to) => {
                let (from, to) = (place(from, input.len()), place(to, input.len()));
                input.drain(from.min(to)..from.max(to));
            }
            Self::Repeat(from, to) => {
                let (from, to) = (place(from, input.len()), place(to, input.len()));
                let piece = input[from.min(to)..from.max(to)].to_vec();
                input.splice(from..from, piece);
            }
            Self::Insert(at, bytes) => {
                let at = place(at, input.len());
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Word(at, word) => {
                let at = place(at, input.len());
                input.splice(at..at, word.bytes());
            }
            Self::Splice(at, seed, from) => {
                let other = seed.get(seeds);
                let at = place(at, input.len());
                input.truncate(at);
                input.extend_from_slice(&other[place(from, other.len())..]);
            }
        }
    }
}

fn bounded(target: Target) {
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let deadline = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let config = Config {
        cases: BATCH,
        failure_persistence: None,
        ..Config::default()
    };
    let input = (any::<Index>(), vec(change(), 0..CHANGES_MAX)).prop_map(|(seed, changes)| {
        let mut input = seed.get(&seeds).clone();
        for change in &changes {
            change.apply(&mut input, &seeds);
        }
        Input(input)
    });
    let mut tried = 0;
    while Instant::now() < deadline {
        // Each has random numbers of its own, and is done after one batch.
        let ended = TestRunner::new(config.clone()).run(&input, |input| {
            (target.run)(&input.0);
            Ok(())
        });
        if let Err(failure) = ended {
            panic!("{}: {failure}", target.name);
        }
        tried += BATCH;
    }
    println!("{}: {tried} inputs", target.name);
}

/// Bytes, shown as the text that they mostly are.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[test]
fn profile_holds_for_a_bounded_run() {
    bounded(TARGETS[0]);
}

#[test]
fn spec_holds_for_a_bounded_run() {
    bounded(TARGETS[1]);
}

#[test]
fn arguments_hold_for_a_bounded_run() {
    bounded(TARGETS[2]);
}

#[test]
fn placeholder_holds_for_a_bounded_run() {
    bounded(TARGETS[3]);
}

#[test]
fn jsonrpc_holds_for_a_bounded_run() {
    bounded(TARGETS[4]);
}

#[test]
fn receipts_hold_for_a_bounded_run() {
    bounded(TARGETS[5]);
}

#[test]
fn dns_holds_for_a_bounded_run() {
    bounded(TARGETS[6]);
}

#[test]
fn client_hello_holds_for_a_bounded_run() {
    bounded(TARGETS[7]);
}

#[test]
fn http1_holds_for_a_bounded_run() {
    bounded(TARGETS[8]);
}

#[test]
fn http2_holds_for_a_bounded_run() {
    bounded(TARGETS[9]);
}

#[test]
fn requests_hold_for_a_bounded_run() {
    bounded(TARGETS[10]);
}
