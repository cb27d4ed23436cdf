use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::egress::budget::QUERIES_BURST;
use profiles::egress::{Entry, Rule};

fn plan(allow: &[&str], deny: &[&str]) -> Arc<Plan> {
    let rules = |texts: &[&str], read: fn(&str) -> Result<Entry, _>| -> Vec<Rule> {
        let rule = |text: &&str| Rule {
            entry: read(text).expect("an entry"),
            place: String::new(),
        };
        texts.iter().map(rule).collect()
    };
    let (allow, deny) = (rules(allow, Entry::allow), rules(deny, Entry::deny));
    Arc::new(Plan::new(allow, deny, vec![], false).expect("a plan"))
}

fn usual() -> Answers {
    Answers::new(plan(
        &["api.example.org", "*.wild.org:443"],
        &["secret.wild.org"],
    ))
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// A query as programs write it: one question, and EDNS as glibc has it if asked for.
fn query(labels: &[&[u8]], kind: u16, class: u16, edns: bool) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in labels {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend_from_slice(label);
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&class.to_be_bytes());
    if edns {
        query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    query
}

fn ask(text: &str, kind: RecordType) -> Vec<u8> {
    let labels: Vec<_> = text.split('.').map(str::as_bytes).collect();
    query(&labels, kind.into(), 1, false)
}

fn reply(answered: &Answered) -> Message {
    let bytes = answered.reply.as_ref().expect("a reply");
    Message::from_vec(bytes).expect("a message")
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

#[test]
fn a_listed_name_has_its_address() {
    let mut answers = usual();
    let Lookup::Known(address) =
        plan(&["api.example.org", "*.wild.org:443"], &[]).look_up(&name("api.example.org"))
    else {
        panic!("not known");
    };
    let answered = answers.answer(&ask("api.example.org", RecordType::A), Instant::now());
    let message = reply(&answered);
    assert_eq!(answered.event, None);
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(message.metadata.id, 0x1234);
    assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
    assert_eq!(addresses(&message), [address]);
    assert_eq!(message.answers[0].ttl, ANSWER_TTL_SECONDS);
    assert_eq!(answers.name_at(address), None);
}

#[test]
fn other_types_of_a_listed_name_are_empty_and_no_stall() {
    for kind in [
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::SVCB,
        RecordType::TXT,
        RecordType::MX,
        RecordType::SRV,
        RecordType::NS,
        RecordType::SOA,
        RecordType::CNAME,
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::DS,
        RecordType::Unknown(65280),
    ] {
        for text in ["api.example.org", "a.wild.org"] {
            let answered = usual().answer(&ask(text, kind), Instant::now());
            let message = reply(&answered);
            assert_eq!(
                message.metadata.response_code,
                ResponseCode::NoError,
                "{kind}"
            );
            assert!(message.answers.is_empty(), "{kind}");
            assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
            assert_eq!(answered.event, None, "{kind}");
        }
    }
}

#[test]
fn any_other_name_does_not_exist() {
    for text in [
        "example.org",
        "evil.org",
        "b.api.example.org",
        "wild.org",
        "db",
        "secret.wild.org",
    ] {
        let mut answers = usual();
        for kind in [
            RecordType::A,
            RecordType::AAAA,
            RecordType::HTTPS,
            RecordType::ANY,
        ] {
            let answered = answers.answer(&ask(text, kind), Instant::now());
            let message = reply(&answered);
            assert_eq!(
                message.metadata.response_code,
                ResponseCode::NXDomain,
                "{text}"
            );
            let RData::SOA(soa) = &message.authorities[0].data else {
                panic!("no SOA");
            };
            assert_eq!(soa.minimum, NEGATIVE_TTL_SECONDS);
            // What is asked for along with an address is the same attempt.
            let told = matches!(&answered.event, Some(Event::Refused { name: own, .. }) if *own == name(text));
            assert_eq!(told, kind == RecordType::A, "{text} {kind}");
        }
    }
    // An attempt by IPv6 alone is told, too.
    let answered = usual().answer(&ask("evil.org", RecordType::AAAA), Instant::now());
    let refusal = Refusal::Host;
    let name = name("evil.org");
    assert_eq!(answered.event, Some(Event::Refused { name, refusal }));
}

#[test]
fn a_denied_name_says_which_entry_denies_it() {
    let answered = usual().answer(&ask("secret.wild.org", RecordType::A), Instant::now());
    assert!(matches!(
        answered.event,
        Some(Event::Refused {
            refusal: Refusal::Denied(_),
            ..
        })
    ));
}

#[test]
fn names_beneath_a_wildcard_get_an_address_each_and_keep_it() {
    let mut answers = usual();
    let now = Instant::now();
    let mut seen = BTreeSet::new();
    for text in ["a.wild.org", "b.wild.org", "c.d.wild.org"] {
        let first = answers.answer(&ask(text, RecordType::A), now);
        let Some(Event::Assigned { name: own, address }) = first.event.clone() else {
            panic!("{text} has no address: {first:?}");
        };
        assert_eq!(own, name(text));
        assert_eq!(addresses(&reply(&first)), [address]);
        assert!(seen.insert(address));
        assert_eq!(answers.name_at(address), Some(&own));
        let again = answers.answer(&ask(&text.to_uppercase(), RecordType::A), now);
        assert_eq!(addresses(&reply(&again)), [address]);
        assert_eq!(again.event, None);
    }
    let pool: BTreeSet<_> = answers
        .plan
        .sockets()
        .iter()
        .map(|socket| socket.address.ip())
        .collect();
    assert!(
        seen.iter()
            .all(|address| pool.contains(&IpAddr::V4(*address)))
    );
}

#[test]
fn a_pool_that_is_used_up_says_so_once_and_keeps_what_it_gave() {
    let mut answers = usual();
    let now = Instant::now();
    let room = answers.free.len();
    for number in 0..room {
        let answered = answers.answer(&ask(&format!("n{number}.wild.org"), RecordType::A), now);
        assert!(matches!(answered.event, Some(Event::Assigned { .. })));
    }
    for (text, event) in [
        ("x.wild.org", Some(Event::Budget(Kind::Pool))),
        ("y.wild.org", None),
    ] {
        let answered = answers.answer(&ask(text, RecordType::A), now);
        assert_eq!(
            reply(&answered).metadata.response_code,
            ResponseCode::NXDomain
        );
        assert_eq!(answered.event, event);
    }
    let kept = answers.answer(&ask("n0.wild.org", RecordType::A), now);
    assert_eq!(addresses(&reply(&kept)).len(), 1);
}

#[test]
fn data_in_labels_is_refused_beneath_wildcards_and_elsewhere() {
    let label = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    for suffix in ["wild.org", "evil.org"] {
        let mut answers = usual();
        let now = Instant::now();
        let answered = answers.answer(&ask(&format!("{label}.{suffix}"), RecordType::A), now);
        assert_eq!(
            reply(&answered).metadata.response_code,
            ResponseCode::NXDomain
        );
        assert_eq!(answered.event, Some(Event::Budget(Kind::Data)));
        let again = answers.answer(&ask(&format!("{label}.x.{suffix}"), RecordType::A), now);
        assert_eq!(reply(&again).metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(again.event, None);
        // The control: a name that is none.
        let answered = answers.answer(&ask("a.wild.org", RecordType::A), now);
        assert!(matches!(answered.event, Some(Event::Assigned { .. })));
    }
}

#[test]
fn too_many_queries_are_answered_at_once_all_the_same() {
    let mut answers = usual();
    let now = Instant::now();
    let asked = ask("api.example.org", RecordType::A);
    for _ in 0..QUERIES_BURST {
        assert_eq!(addresses(&reply(&answers.answer(&asked, now))).len(), 1);
    }
    let answered = answers.answer(&asked, now);
    assert_eq!(
        reply(&answered).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(answered.event, Some(Event::Budget(Kind::Rate)));
    let later = answers.answer(&asked, now + Duration::from_secs(1));
    assert_eq!(addresses(&reply(&later)).len(), 1);
}

#[test]
fn noise_does_not_exist_and_is_no_denial() {
    for text in [
        "localhost",
        "a.localhost",
        "1.0.0.127.in-addr.arpa",
        "_dns.resolver.arpa",
        "ipv4only.arpa",
        "use-application-dns.net",
        "wpad",
        "_http._tcp.api.example.org",
        "_https.a.wild.org",
    ] {
        for plan in [
            plan(&["api.example.org", "*.wild.org"], &[]),
            plan(&["*"], &[]),
        ] {
            let answered = Answers::new(plan).answer(&ask(text, RecordType::A), Instant::now());
            let message = reply(&answered);
            assert_eq!(
                message.metadata.response_code,
                ResponseCode::NXDomain,
                "{text}"
            );
            assert_eq!(answered.event, None, "{text}");
        }
    }
    // The controls: a service of a host that does not exist is a denial, and so is a name that only
    // looks like noise; what is listed exists.
    for text in ["_http._tcp.evil.org", "arpa.evil.org", "notlocalhost"] {
        let answered = usual().answer(&ask(text, RecordType::A), Instant::now());
        assert!(
            matches!(answered.event, Some(Event::Refused { .. })),
            "{text}"
        );
    }
    let mut answers = Answers::new(plan(&["localhost:8080"], &[]));
    let answered = answers.answer(&ask("localhost", RecordType::A), Instant::now());
    assert_eq!(addresses(&reply(&answered)).len(), 1);
}

#[test]
fn bytes_that_are_no_host_name_do_not_exist() {
    for labels in [
        &[b"a\0b".as_slice(), b"org"][..],
        &[b"api.example".as_slice(), b"org"],
        &[b"api.example.org\0".as_slice(), b"evil", b"org"],
        &[b"a\r\nHost: b".as_slice(), b"org"],
        &["b\u{fc}cher".as_bytes(), b"example"],
        &[b"a b".as_slice(), b"org"],
        &[b"127".as_slice(), b"0", b"0", b"1"],
        &[b"0x7f000001".as_slice()],
        &[b"*".as_slice(), b"wild", b"org"],
    ] {
        let asked = query(labels, 1, 1, false);
        let answered = usual().answer(&asked, Instant::now());
        let message = reply(&answered);
        assert_eq!(
            message.metadata.response_code,
            ResponseCode::NXDomain,
            "{labels:?}"
        );
        let Some(Event::NotAName { text, .. }) = answered.event else {
            panic!("no event for {labels:?}");
        };
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' '),
            "{text}"
        );
        let bytes = answered.reply.expect("a reply");
        assert_eq!(bytes[12..asked.len()], asked[12..], "{labels:?}");
    }
}

#[test]
fn the_question_is_repeated_as_it_came() {
    for labels in [
        &[b"aPi".as_slice(), b"ExAmPlE", b"oRg"][..],
        &[b"EvIl".as_slice(), b"oRg"],
        &[b"A".as_slice(), b"wILd", b"ORG"],
        &[],
    ] {
        for edns in [false, true] {
            let asked = query(labels, 1, 1, edns);
            let bytes = usual()
                .answer(&asked, Instant::now())
                .reply
                .expect("a reply");
            let question = if edns { asked.len() - 11 } else { asked.len() };
            assert_eq!(bytes[12..question], asked[12..question]);
        }
    }
}

#[test]
fn edns_is_answered_with_edns() {
    let labels = [b"api".as_slice(), b"example", b"org"];
    let message = reply(&usual().answer(&query(&labels, 1, 1, true), Instant::now()));
    let edns = message.edns.as_ref().expect("EDNS");
    assert_eq!((edns.version(), edns.max_payload()), (0, UDP_PAYLOAD_BYTES));
    assert_eq!(addresses(&message).len(), 1);
    let message = reply(&usual().answer(&query(&labels, 1, 1, false), Instant::now()));
    assert!(message.edns.is_none());
    // A version that does not exist yet.
    let mut asked = query(&labels, 1, 1, true);
    let version = asked.len() - 5;
    asked[version] = 1;
    let message = reply(&usual().answer(&asked, Instant::now()));
    // The code has two names (RFC 8945 gave it the other one).
    let (code, meant) = (message.metadata.response_code, ResponseCode::BADVERS);
    assert_eq!(u16::from(code), u16::from(meant));
    assert!(message.answers.is_empty());
    // Twice.
    let mut asked = query(&labels, 1, 1, true);
    asked.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    asked[11] = 2;
    let message = reply(&usual().answer(&asked, Instant::now()));
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn odd_messages_are_answered_or_come_from_nobody() {
    let sane = ask("api.example.org", RecordType::A);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut query = sane.clone();
        change(&mut query);
        let answered = usual().answer(&query, Instant::now());
        assert_eq!(answered.event, None);
        answered.reply.map(|reply| {
            Message::from_vec(&reply)
                .expect("a message")
                .metadata
                .response_code
        })
    };
    assert_eq!(changed(&|_| {}), Some(ResponseCode::NoError));
    // No header, and a response: nobody waits for an answer.
    assert_eq!(changed(&|query| query.truncate(11)), None);
    assert_eq!(changed(&|query| query.clear()), None);
    assert_eq!(changed(&|query| query[2] |= 0x80), None);
    // Status, notify, update.
    for opcode in [2, 4, 5, 15] {
        let code = changed(&|query| query[2] |= opcode << 3);
        assert_eq!(code, Some(ResponseCode::NotImp), "{opcode}");
    }
    for questions in [0, 2, 255] {
        let code = changed(&|query| query[5] = questions);
        assert_eq!(code, Some(ResponseCode::FormErr), "{questions}");
    }
    for count in [7, 9, 11] {
        let code = changed(&|query| query[count] = 9);
        assert_eq!(code, Some(ResponseCode::FormErr), "{count}");
    }
    assert_eq!(
        changed(&|query| query.truncate(15)),
        Some(ResponseCode::FormErr)
    );
    assert_eq!(
        changed(&|query| query.truncate(12)),
        Some(ResponseCode::FormErr)
    );
    assert_eq!(
        changed(&|query| query.resize(QUERY_BYTES_MAX + 1, 0)),
        Some(ResponseCode::FormErr)
    );
    // A name that is a pointer, to itself and into the header.
    for target in [12, 0] {
        let code = changed(&|query| {
            query.truncate(12);
            query.extend_from_slice(&[0xc0, target, 0, 1, 0, 1]);
        });
        assert_eq!(code, Some(ResponseCode::FormErr), "{target}");
    }
}

#[test]
fn other_classes_are_not_implemented() {
    let labels = [b"version".as_slice(), b"bind"];
    for class in [3, 4, 254, 255, 0x8001] {
        let answered = usual().answer(&query(&labels, 16, class, false), Instant::now());
        let code = reply(&answered).metadata.response_code;
        assert_eq!(code, ResponseCode::NotImp, "{class}");
        assert_eq!(answered.event, None);
    }
}

#[test]
fn the_root_exists_and_is_empty() {
    let answered = usual().answer(&query(&[], 2, 1, false), Instant::now());
    assert_eq!(
        reply(&answered).metadata.response_code,
        ResponseCode::NoError
    );
    assert_eq!(answered.event, None);
}

#[test]
fn the_longest_reply_fits_into_udp() {
    let long = [&[b'a'; 63][..], &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]];
    for labels in [
        &long[..],
        &[&[0; 63], &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]],
    ] {
        for plan in [plan(&["*"], &[]), plan(&[], &[])] {
            let asked = query(labels, 1, 1, true);
            let reply = Answers::new(plan).answer(&asked, Instant::now()).reply;
            assert!(reply.expect("a reply").len() <= REPLY_BYTES_MAX);
        }
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_every_reply_is_one(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Some(reply) = usual().answer(&bytes, Instant::now()).reply {
            prop_assert!(reply.len() <= REPLY_BYTES_MAX);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(Message::from_vec(&reply).is_ok());
        }
    }

    #[test]
    fn every_question_is_repeated(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..10),
        kind in any::<u16>(),
        class in any::<u16>(),
        edns in any::<bool>(),
    ) {
        let labels: Vec<_> = labels.iter().map(Vec::as_slice).collect();
        let asked = query(&labels, kind, class, edns);
        let reply = usual().answer(&asked, Instant::now()).reply.expect("a reply");
        let end = asked.len() - if edns { 11 } else { 0 };
        prop_assert_eq!(&reply[12..end], &asked[12..end]);
        prop_assert!(reply.len() <= REPLY_BYTES_MAX);
        prop_assert!(Message::from_vec(&reply).is_ok());
    }
}
