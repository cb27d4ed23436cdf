use proptest::prelude::*;

use super::*;

const HELLO: &str = include_str!("tls/captured/openssl.hex");
const HELLO_WITHOUT_NAME: &str = include_str!("tls/captured/openssl-nosni.hex");
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(pair, 16).expect("hexadecimal")
    };
    digits.chunks(2).map(pair).collect()
}

fn name(text: &str) -> Peer {
    Peer::Name(Name::parse(text).expect("a name"))
}

fn verifier(peer: &str) -> Verifier {
    Verifier::new(name(peer), 443, Protocol::Web, false)
}

fn violation(verdict: Verdict) -> Violation {
    match verdict {
        Verdict::Refuse(violation) => violation,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn protocols_are_told_by_their_first_bytes() {
    assert!(matches!(look(&bytes(HELLO)), Look::Tls(_)));
    assert!(matches!(look(GET), Look::Http1(_)));
    assert_eq!(look(http2::PREFACE), Look::Http2Preface);
    for other in [
        b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(),
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"EHLO a.org\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PRI * HTTP/2.1\r\n",
        b"\r\n",
        b"\n",
        b"\0",
        b"\x16\x02",
        b"\x80\x2e\x01\x03\x01",
        b"GET /\r\n",
        b"GET\0",
        b"{\"jsonrpc\"",
        b"AVERYVERYVERYVERYVERYVERYLONGMETHOD",
    ] {
        let looked = look(other);
        // Almost the preface of HTTP/2 is a request by a version that does not exist.
        if other.starts_with(b"PRI") {
            assert!(
                matches!(looked, Look::NeedMore | Look::Malformed(_)),
                "{looked:?}"
            );
        } else {
            assert_eq!(looked, Look::Other, "{}", other.escape_ascii());
        }
    }
    for known in [&bytes(HELLO)[..], GET, http2::PREFACE] {
        for end in 0..known.len() {
            assert_eq!(
                look(&known[..end]),
                Look::NeedMore,
                "{}",
                known[..end].escape_ascii()
            );
        }
    }
    let line = [b"GET /".as_slice(), &[b'x'; FIRST_LINE_BYTES_MAX]].concat();
    assert_eq!(look(&line), Look::Other);
}

#[test]
fn what_agrees_with_the_name_is_forwarded() {
    let hello = bytes(HELLO);
    assert_eq!(
        verifier("api.example.org").feed(&hello),
        Verdict::Forward(hello.len())
    );
    assert_eq!(
        verifier("api.example.org").feed(GET),
        Verdict::Forward(GET.len())
    );
    assert_eq!(verifier("api.example.org").feed(b""), Verdict::NeedMore);
    assert_eq!(verifier("api.example.org").feed(b"G"), Verdict::NeedMore);
}

#[test]
fn what_does_not_agree_is_refused_with_what_would_allow_it() {
    let tcp = "network.allow = [\"a.org:443/tcp\"]";
    for (sent, wrong, allow_with) in [
        (bytes(HELLO), Wrong::Sni("api.example.org".to_owned()), tcp),
        (
            bytes(HELLO_WITHOUT_NAME),
            Wrong::NoSni,
            "network.allow_no_sni = true",
        ),
        (GET.to_vec(), Wrong::Host("api.example.org".to_owned()), tcp),
        (b"SSH-2.0-x\r\n".to_vec(), Wrong::Protocol, tcp),
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Wrong::Malformed("a request without Host"),
            tcp,
        ),
    ] {
        let mut verifier = verifier("a.org");
        let violation = violation(verifier.feed(&sent));
        assert_eq!(violation.wrong, wrong);
        assert_eq!(violation.allow_with, allow_with);
        assert!(violation.what.contains("`a.org:443`"), "{}", violation.what);
        assert_eq!(violation.denial().what, violation.what);
        // It stays so, whatever comes.
        assert_eq!(verifier.feed(GET), Verdict::Refuse(violation));
    }
}

#[test]
fn the_profile_decides_about_tls_without_a_name() {
    let hello = bytes(HELLO_WITHOUT_NAME);
    let mut allowing = Verifier::new(name("a.org"), 443, Protocol::Web, true);
    assert_eq!(allowing.feed(&hello), Verdict::Forward(hello.len()));
    // It does not make another name right.
    let mut allowing = Verifier::new(name("a.org"), 443, Protocol::Web, true);
    violation(allowing.feed(&bytes(HELLO)));
    // An address has none.
    let address = Peer::Address([192, 0, 2, 7].into());
    let mut address = Verifier::new(address, 443, Protocol::Web, false);
    assert_eq!(address.feed(&hello), Verdict::Forward(hello.len()));
}

#[test]
fn an_entry_for_any_protocol_is_opaque() {
    let mut verifier = Verifier::new(name("a.org"), 22, Protocol::Tcp, false);
    assert!(verifier.is_opaque());
    assert_eq!(verifier.feed(b"SSH-2.0-x\r\n"), Verdict::Opaque);
    assert_eq!(verifier.feed(GET), Verdict::Opaque);
}

#[test]
fn tls_becomes_opaque_and_http_never_does() {
    let mut tls = verifier("api.example.org");
    let hello = bytes(HELLO);
    assert_eq!(tls.feed(&hello), Verdict::Forward(hello.len()));
    assert_eq!(tls.feed(b"\x17\x03\x03\0\x01x"), Verdict::Opaque);
    assert!(tls.is_opaque());
    let mut http = verifier("api.example.org");
    assert_eq!(http.feed(GET), Verdict::Forward(GET.len()));
    assert_eq!(http.feed(GET), Verdict::Forward(GET.len()));
    assert!(!http.is_opaque());
    violation(http.feed(b"\x17\x03\x03\0\x01x"));
}

#[test]
fn an_upgrade_makes_it_opaque_only_when_it_was_asked_for() {
    let mut plain = verifier("api.example.org");
    assert_eq!(plain.feed(GET), Verdict::Forward(GET.len()));
    assert!(!plain.upgraded());
    violation(plain.feed(b"\x81\x01x\n\n"));
    let mut upgrading = verifier("api.example.org");
    let asked = b"GET / HTTP/1.1\r\nHost: api.example.org\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(upgrading.feed(asked), Verdict::Forward(asked.len()));
    assert!(upgrading.awaits_upgrade() && upgrading.upgraded());
    assert_eq!(upgrading.feed(b"\x81\x01x"), Verdict::Opaque);
}

proptest! {
    #[test]
    fn nothing_panics_and_no_more_is_forwarded_than_came(
        which in 0usize..5,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let begin: [&[u8]; 5] = [b"", b"\x16\x03", b"GET / HTTP/1.1\r\n", http2::PREFACE, GET];

        let sent = [begin[which], &bytes].concat();
        let _ = look(&sent);
        if let Verdict::Forward(count) = verifier("api.example.org").feed(&sent) {
            prop_assert!(count > 0 && count <= sent.len());
        }
    }
}
