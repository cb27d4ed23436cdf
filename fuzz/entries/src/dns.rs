//! Messages to a cell's resolver, several after another.

use std::sync::Arc;
use std::time::Instant;

use profiles::egress::{Entry, Plan, Rule};
use supervisor::egress::dns::{Answers, Event, REPLY_BYTES_MAX};

/// Ends a message; the next one follows.
const NEXT: &[u8] = b"\xff\xfe\xfd";

/// Every reply is short, repeats its query's number and the question, and no address is given twice.
pub fn run(data: &[u8]) {
    let rule = |text| Rule {
        entry: Entry::allow(text).expect("an entry"),
        place: String::new(),
    };
    let allow = vec![rule("api.example.org"), rule("*.wild.org:443")];
    let plan = Plan::new(allow, vec![], vec![], false).expect("a plan");
    let mut answers = Answers::new(Arc::new(plan));
    let now = Instant::now();
    let mut given = Vec::new();
    for query in messages(data) {
        let answered = answers.answer(query, now);
        if let Some(Event::Assigned { name, address }) = &answered.event {
            assert!(!given.contains(address), "{address} twice");
            assert_eq!(answers.name_at(*address), Some(name));
            given.push(*address);
        }
        let Some(reply) = answered.reply else {
            assert_eq!(answered.event, None);
            continue;
        };
        assert!(reply.len() >= 12 && reply.len() <= REPLY_BYTES_MAX);
        assert_eq!(reply[..2], query[..2]);
        assert_eq!(reply[2] & 0x80, 0x80, "no response");
        // If the question is repeated, it is as it came.
        if reply[4..6] == [0, 1] {
            let mut end = 12;
            while reply[end] != 0 {
                end += 1 + usize::from(reply[end]);
            }
            assert_eq!(reply[12..end + 5], query[12..end + 5]);
        }
    }
}

fn messages(data: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    let mut rest = data;
    while let Some(end) = rest.windows(NEXT.len()).position(|part| part == NEXT) {
        messages.push(&rest[..end]);
        rest = &rest[end + NEXT.len()..];
    }
    messages.push(rest);
    messages
}

/// Queries as programs write them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let query = |name: &str, kind: u8, edns: bool| {
        let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("short"));
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, kind, 0, 1]);
        if edns {
            query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
            query.extend_from_slice(&[7; 8]);
        }
        query
    };
    let names = [
        "api.example.org",
        "a.wild.org",
        "evil.org",
        "1.0.0.127.in-addr.arpa",
    ];
    let mut seeds: Vec<_> = names.iter().map(|name| query(name, 1, true)).collect();
    seeds.push(query("API.example.org", 28, false));
    let two = [query("a.wild.org", 1, false), query("b.wild.org", 1, true)];
    seeds.push(two.join(NEXT));
    seeds
}
