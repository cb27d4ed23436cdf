use profiles::egress::Name;
use proptest::prelude::*;

use super::*;

const PORT: u16 = 80;

fn peer() -> Peer {
    Peer::Name(Name::parse("a.org").expect("a name"))
}

/// Feeds a connection in pieces; returns how many requests and bytes passed.
fn feed(bytes: &[u8], piece: usize) -> Result<(usize, usize), Wrong> {
    let mut stream = Stream::default();
    let (mut requests, mut forwarded, mut end) = (0, 0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        let progress = stream.feed(&bytes[forwarded..end], &peer(), PORT)?;
        forwarded += progress.forward;
        requests += progress.requests;
    }
    Ok((requests, forwarded))
}

/// Feeds a connection at once and byte by byte, which must come to the same.
fn both(bytes: &[u8]) -> Result<(usize, usize), Wrong> {
    let whole = feed(bytes, bytes.len().max(1));
    let dripped = feed(bytes, 1);
    assert_eq!(
        whole.is_ok(),
        dripped.is_ok(),
        "{}: {whole:?} {dripped:?}",
        bytes.escape_ascii()
    );
    if let (Ok(whole), Ok(dripped)) = (&whole, &dripped) {
        assert_eq!(whole, dripped);
    }
    whole
}

fn passes(text: &str, requests: usize) {
    let passed = both(text.as_bytes());
    assert_eq!(passed, Ok((requests, text.len())), "{text:?}");
}

fn refused(text: &str) -> Wrong {
    both(text.as_bytes()).expect_err(text)
}

fn malformed(text: &str) {
    let wrong = refused(text);
    assert!(matches!(wrong, Wrong::Malformed(_)), "{text:?}: {wrong:?}");
}

#[test]
fn requests_for_the_host_pass() {
    for host in [
        "a.org",
        "A.ORG",
        "a.org.",
        "a.org:80",
        " a.org\t",
        "a.org:080",
    ] {
        passes(
            &format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n"),
            1,
        );
    }
    passes("OPTIONS * HTTP/1.1\r\nhost: a.org\r\n\r\n", 1);
    passes(
        "POST / HTTP/1.1\r\nHost: a.org\r\nConnection: keep-alive, TE\r\n\
         Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
        1,
    );
    passes("GET http://A.org/x HTTP/1.1\r\nHost: a.org\r\n\r\n", 1);
    passes("GET HTTP://a.org:80?x HTTP/1.1\r\nHost: a.org\r\n\r\n", 1);
    passes("GET http://a.org/ HTTP/1.0\r\n\r\n", 1);
    passes("GET / HTTP/1.0\r\nHost: a.org\r\n\r\n", 1);
    passes("GET / HTTP/1.1\r\nHost: a.org\r\nCookie: \u{e9}\r\n\r\n", 1);
}

#[test]
fn requests_for_another_host_are_refused() {
    for host in [
        "evil.org",
        "a.org.evil.org",
        "evil.a.org",
        "xa.org",
        "192.0.2.7",
        "[::1]",
        "xn--a.org",
    ] {
        let wrong = refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(wrong, Wrong::Host(host.to_owned()));
        let wrong = refused(&format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: a.org\r\n\r\n"
        ));
        assert_eq!(wrong, Wrong::Host(host.to_owned()));
        let wrong = refused(&format!(
            "GET http://a.org/ HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ));
        assert_eq!(wrong, Wrong::Host(host.to_owned()));
    }
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a.org:81\r\n\r\n"),
        Wrong::Port(81)
    );
    let wrong = refused("GET http://a.org:443/ HTTP/1.1\r\nHost: a.org\r\n\r\n");
    assert_eq!(wrong, Wrong::Port(443));
}

#[test]
fn a_later_request_for_another_host_is_refused_and_the_first_has_passed() {
    let first = "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nabc";
    let second = "GET / HTTP/1.1\r\nHost: evil.org\r\n\r\n";
    let mut stream = Stream::default();
    let progress = stream
        .feed(first.as_bytes(), &peer(), PORT)
        .expect("it passes");
    assert_eq!((progress.forward, progress.requests), (first.len(), 1));
    // Nothing of the second passes before it is whole.
    let some = stream.feed(&second.as_bytes()[..second.len() - 1], &peer(), PORT);
    assert_eq!(some, Ok(Progress::default()));
    let wrong = stream.feed(second.as_bytes(), &peer(), PORT);
    assert_eq!(wrong, Err(Wrong::Host("evil.org".to_owned())));
    for first in [
        first,
        "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    ] {
        let wrong = refused(&format!("{first}{second}"));
        assert_eq!(wrong, Wrong::Host("evil.org".to_owned()), "{first:?}");
        passes(&format!("{first}{first}"), 2);
    }
}

#[test]
fn what_is_within_a_body_is_no_request() {
    let inner = "GET / HTTP/1.1\r\nHost: evil.org\r\n\r\n";
    let length = inner.len();
    passes(
        &format!("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: {length}\r\n\r\n{inner}"),
        1,
    );
    passes(
        &format!(
            "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: Chunked\r\n\r\n{length:x};a=\"b\"\r\n{inner}\r\n00\r\n\r\n"
        ),
        1,
    );
    passes(
        "PUT / HTTP/1.1\r\nHost: a.org\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        1,
    );
}

#[test]
fn heads_that_could_be_read_in_two_ways_are_malformed() {
    for fields in [
        "",
        "Host: a.org\r\nHost: a.org\r\n",
        "Host: a.org\r\nhost: evil.org\r\n",
        "Host:\r\n",
        "Host: a.org evil.org\r\n",
        "Host: a.org, evil.org\r\n",
        "Host: a.org\0\r\n",
        "Host: a.org\0.evil.org\r\n",
        "Host: user@a.org\r\n",
        "Host: a.org/\r\n",
        "Host: a.org#@evil.org\r\n",
        "Host: a.org:\r\n",
        "Host: a.org:+80\r\n",
        "Host: a.org:0\r\n",
        "Host: a.org:65616\r\n",
        "Host: a.org:80:80\r\n",
        "Host: 0x7f.1\r\n",
        "Host: 127.1\r\n",
        "Host: 2130706433\r\n",
        "Host: [::1%25lo]\r\n",
        "Host: [::1\r\n",
        "Host: [a.org]\r\n",
        "Host: b\u{fc}cher.example\r\n",
        "Host : a.org\r\n",
        " Host: a.org\r\n",
        "Host: a.org\r\n evil.org\r\n",
        "Host: a.org\r\nX: y\r\n\tHost: evil.org\r\n",
        "Host: a.org\nX: y\r\n",
        "Host: a.org\rHost: evil.org\r\n",
        "Host: a.org\r\r\n",
        "Host: a.org\r\nX: y\n\r\n",
        "Host: a.org\r\nX\r\n",
        "Host: a.org\r\nX Y: z\r\n",
        "Host: a.org\r\n: z\r\n",
        "Host: a.org\r\nX: a\u{1}b\r\n",
        "Host: a.org\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Host: a.org\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "Host: a.org\r\nContent-Length: 1, 1\r\n",
        "Host: a.org\r\nContent-Length: +1\r\n",
        "Host: a.org\r\nContent-Length: -1\r\n",
        "Host: a.org\r\nContent-Length: 0x1\r\n",
        "Host: a.org\r\nContent-Length:\r\n",
        "Host: a.org\r\nContent-Length: 99999999999999999999\r\n",
        "Host: a.org\r\nContent_Length: 5\r\n",
        "Host: a.org\r\nTransfer_Encoding: chunked\r\n",
        "Host: a.org\r\nContent.Length: 5\r\n",
        "Host: a.org\r\nH*ost: a.org\r\nho-st: b\r\nTransfer~Encoding: chunked\r\n",
        "Host: a.org\r\nConnection: close, content-length\r\n",
        "Host: a.org\r\nConnection: x\r\nConnection: Transfer_Encoding\r\n",
        "Host: a.org\r\nConnection: host\r\n",
        "Host: a.org\r\nExpect: 200-ok\r\n",
        "Host: a.org\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n",
        "Host: a.org\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: a.org\r\nTransfer-Encoding: identity\r\n",
        "Host: a.org\r\nTransfer-Encoding: xchunked\r\n",
        "Host: a.org\r\nTransfer-Encoding: \u{b}chunked\r\n",
        "Host: a.org\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: a.org\r\nTransfer-Encoding:\r\n",
    ] {
        malformed(&format!("POST / HTTP/1.1\r\n{fields}\r\n"));
    }
    for line in [
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "GET /",
        "\r\nGET / HTTP/1.1",
        "GET a.org/ HTTP/1.1",
        "GET https://a.org/ HTTP/1.1",
        "GET ftp://a.org/ HTTP/1.1",
        "GET http://user@a.org/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://a.org\\@evil.org/ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET \0 HTTP/1.1",
    ] {
        malformed(&format!("{line}\r\nHost: a.org\r\n\r\n"));
    }
    malformed("GET / HTTP/1.0\r\n\r\n");
    malformed("GET http://a.org/ HTTP/1.1\r\n\r\n");
    malformed("POST / HTTP/1.0\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn chunks_that_could_be_read_in_two_ways_are_malformed() {
    let head = "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "x\r\n",
        "\r\n",
        "-1\r\nx",
        "0x1\r\nx",
        "1 \r\nx",
        " 1\r\nx",
        "1\nx",
        "1;a\nb\r\nx",
        "1;a\rb\r\nx",
        "1;\0\r\nx",
        "1000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "1\r\nxx\r\n",
        "1\r\nx\n",
        "0\r\nHost: evil.org\r\n\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "0\r\nTransfer_Encoding: x\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\n\n",
        "0\r\nGET / HTTP/1.1\r\nHost: evil.org\r\n\r\n",
    ] {
        malformed(&format!("{head}{body}"));
    }
    for body in [
        "1\r\nx\r\n0\r\n\r\n",
        "0\r\n\r\n",
        "1;a=b\r\nx\r\n0;c\r\nX: y\r\n\r\n",
        "0A\r\n0123456789\r\n0\r\n\r\n",
    ] {
        passes(&format!("{head}{body}"), 1);
    }
}

#[test]
fn tunnels_are_refused() {
    for text in [
        "CONNECT evil.org:443 HTTP/1.1\r\nHost: evil.org:443\r\n\r\n",
        "CONNECT a.org:80 HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org\r\nUpgrade: websocket, H2C\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org\r\nUpgrade: TLS/1.2\r\n\r\n",
    ] {
        assert!(matches!(refused(text), Wrong::Tunnel(_)), "{text:?}");
    }
}

#[test]
fn an_upgrade_is_awaited_after_the_first_request_only() {
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n";
    for (text, awaits) in [
        (upgrade.to_owned(), true),
        (plain.to_owned(), false),
        (format!("{plain}{upgrade}"), false),
        (format!("{upgrade}{plain}"), false),
    ] {
        let mut stream = Stream::default();
        assert!(!stream.awaits_upgrade());
        let progress = stream
            .feed(text.as_bytes(), &peer(), PORT)
            .expect("it passes");
        assert_eq!(progress.forward, text.len());
        assert_eq!(stream.awaits_upgrade(), awaits, "{text:?}");
    }
}

#[test]
fn addresses_compare_as_addresses() {
    let head = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let check = |host: &str, address: &str| {
        let peer = Peer::Address(address.parse().expect("an address"));
        Stream::default()
            .feed(head(host).as_bytes(), &peer, PORT)
            .is_ok()
    };
    assert!(check("192.0.2.7", "192.0.2.7"));
    assert!(check("192.0.2.7:80", "::ffff:192.0.2.7"));
    assert!(check("[2001:DB8:0::1]", "2001:db8::1"));
    assert!(check("[2001:db8::1]:80", "2001:db8::1"));
    assert!(!check("192.0.2.8", "192.0.2.7"));
    assert!(!check("a.org", "192.0.2.7"));
    assert!(!check("2001:db8::1", "2001:db8::1"));
    assert!(!check("192.0.2.07", "192.0.2.7"));
    assert!(!check("[2001:db8::1]x", "2001:db8::1"));
}

#[test]
fn heads_lines_and_trailers_without_end_are_refused_in_time() {
    let start = "GET / HTTP/1.1\r\nHost: a.org\r\nX: ";
    let fits = HEAD_BYTES_MAX - start.len() - 4;
    passes(&format!("{start}{}\r\n\r\n", "x".repeat(fits)), 1);
    let text = format!("{start}{}", "x".repeat(HEAD_BYTES_MAX));
    assert!(feed(text.as_bytes(), text.len()).is_err());
    assert!(feed(text.as_bytes(), 1000).is_err());
    malformed(&format!(
        "GET / HTTP/1.1\r\nHost: a.org\r\n{}\r\n",
        "X: y\r\n".repeat(FIELDS_MAX)
    ));
    let head = "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n";
    malformed(&format!("{head}1;{}", "x".repeat(CHUNK_LINE_BYTES_MAX)));
    let text = format!("{head}0\r\nX: {}", "x".repeat(TRAILER_BYTES_MAX));
    assert!(feed(text.as_bytes(), 1000).is_err());
}

#[test]
fn bodies_pass_as_they_come() {
    let mut stream = Stream::default();
    let head = b"PUT / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1000000000000\r\n\r\n";
    assert!(stream.feed(head, &peer(), PORT).is_ok());
    for _ in 0..100 {
        let progress = stream
            .feed(&[b'x'; 4096], &peer(), PORT)
            .expect("it passes");
        assert_eq!(
            progress,
            Progress {
                forward: 4096,
                requests: 0
            }
        );
    }
}

proptest! {
    #[test]
    fn pieces_come_to_the_same_as_the_whole(
        at in any::<proptest::sample::Index>(),
        put in "[ -~\r\n\t\0:]{0,6}",
        cut in 0usize..6,
        piece in 1usize..40,
    ) {
        let mut bytes = b"POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\nPUT / HTTP/1.1\r\nhost: a.org:80\r\ncontent-length: 2\r\n\r\nhiGET / HTTP/1.0\r\nHost: A.org.\r\n\r\n".to_vec();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, put.bytes());
        let whole = feed(&bytes, bytes.len());
        let pieces = feed(&bytes, piece);
        prop_assert_eq!(whole.is_ok(), pieces.is_ok());
        if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
            prop_assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = feed(&bytes, 7);
        let _ = Head::read(&bytes);
    }
}
