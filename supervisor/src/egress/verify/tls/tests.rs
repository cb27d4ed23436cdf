use proptest::prelude::*;

use super::*;

/// What real clients sent, each to `api.example.org` unless its name says otherwise.
const CAPTURED: [(&str, &str); 7] = [
    ("openssl", include_str!("captured/openssl.hex")),
    ("openssl, TLS 1.2", include_str!("captured/openssl-12.hex")),
    (
        "openssl, keys of two groups",
        include_str!("captured/openssl-13.hex"),
    ),
    ("python", include_str!("captured/python.hex")),
    ("node", include_str!("captured/node.hex")),
    ("curl", include_str!("captured/curl.hex")),
    ("rustls", include_str!("captured/rustls.hex")),
];
const NO_SNI: &str = include_str!("captured/openssl-nosni.hex");
/// A whole connection on which the server asked for a second ClientHello.
const RETRY: &str = include_str!("captured/openssl-retry.hex");
/// One of TLS 1.2 that was resumed: Finished comes right after the change of cipher spec.
const RESUMED: &str = include_str!("captured/openssl-12-resumed.hex");

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(pair, 16).expect("hexadecimal")
    };
    digits.chunks(2).map(pair).collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn peer() -> Peer {
    Peer::Name(name("api.example.org"))
}

/// The first record of a capture, with its header.
fn first_record(bytes: &[u8]) -> &[u8] {
    &bytes[..5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))]
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
}

fn server_name(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend_from_slice(&u16::try_from(name.len()).expect("short").to_be_bytes());
        list.extend_from_slice(name);
    }
    let length = u16::try_from(list.len()).expect("short");
    extension(SERVER_NAME, &[&length.to_be_bytes()[..], &list].concat())
}

/// A ClientHello with these extensions, without a record around it.
fn message_with(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(&[0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(
        &u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    body.extend_from_slice(extensions);
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], &body].concat()
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    [&[kind, 3, 1][..], &length.to_be_bytes(), content].concat()
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    record(HANDSHAKE, &message_with(extensions))
}

fn sni(bytes: &[u8]) -> Option<Name> {
    Hello::read(bytes).expect("well formed").expect("whole").sni
}

#[test]
fn real_clients_name_their_server() {
    for (client, hex) in CAPTURED {
        let bytes = bytes(hex);
        let hello = Hello::read(&bytes).expect(client).expect(client);
        assert_eq!(hello.sni, Some(name("api.example.org")), "{client}");
        assert_eq!(hello.length, first_record(&bytes).len(), "{client}");
        assert_eq!(hello.check(&peer(), false), Ok(()), "{client}");
        let other = Peer::Name(name("example.org"));
        let wrong = Wrong::Sni("api.example.org".to_owned());
        assert_eq!(hello.check(&other, false), Err(wrong.clone()), "{client}");
        let address = Peer::Address([192, 0, 2, 7].into());
        assert_eq!(hello.check(&address, true), Err(wrong), "{client}");
    }
}

#[test]
fn a_hello_that_is_split_at_any_byte_is_awaited() {
    for (client, hex) in CAPTURED {
        let bytes = bytes(hex);
        let hello = first_record(&bytes);
        for end in 0..hello.len() {
            assert_eq!(Hello::read(&hello[..end]), Ok(None), "{client} {end}");
            let mut stream = Stream::default();
            let first = stream.feed(&hello[..end], &peer(), false);
            assert_eq!(first, Ok(Progress::NeedMore), "{client} {end}");
            let second = stream.feed(hello, &peer(), false);
            assert_eq!(second, Ok(Progress::Forward(hello.len())), "{client} {end}");
        }
    }
}

#[test]
fn a_hello_over_records_that_are_cut_anywhere_is_read() {
    let hello = bytes(CAPTURED[0].1);
    let message = &first_record(&hello)[5..];
    for cut in 1..message.len() {
        let (first, second) = message.split_at(cut);
        let bytes = [record(HANDSHAKE, first), record(HANDSHAKE, second)].concat();
        assert_eq!(sni(&bytes), Some(name("api.example.org")), "{cut}");
        for end in [cut, cut + 5, cut + 9, bytes.len() - 1] {
            assert_eq!(Hello::read(&bytes[..end]), Ok(None), "{cut} {end}");
        }
    }
    let single: Vec<_> = message
        .iter()
        .flat_map(|byte| record(HANDSHAKE, &[*byte]))
        .collect();
    assert_eq!(sni(&single), Some(name("api.example.org")));
    let mut stream = Stream::default();
    for end in 1..single.len() {
        let progress = stream.feed(&single[..end], &peer(), false);
        assert_eq!(progress, Ok(Progress::NeedMore), "{end}");
    }
    let progress = stream.feed(&single, &peer(), false);
    assert_eq!(progress, Ok(Progress::Forward(single.len())));
}

#[test]
fn no_server_name_is_told() {
    let bytes = bytes(NO_SNI);
    for bytes in [bytes, hello_with(&[]), hello_with(&extension(0x0a0a, &[]))] {
        let hello = Hello::read(&bytes).expect("well formed").expect("whole");
        assert_eq!(hello.sni, None);
        assert_eq!(hello.check(&peer(), false), Err(Wrong::NoSni));
        assert_eq!(hello.check(&peer(), true), Ok(()));
        let address = Peer::Address([192, 0, 2, 7].into());
        assert_eq!(hello.check(&address, false), Ok(()));
    }
    // Before there were extensions.
    let mut old = message_with(&[]);
    old.truncate(old.len() - 2);
    old[3] -= 2;
    assert_eq!(sni(&record(HANDSHAKE, &old)), None);
}

#[test]
fn one_name_in_any_spelling_is_the_same() {
    for spelled in ["api.example.org", "API.Example.ORG", "api.example.org."] {
        let hello = hello_with(&server_name(&[(0, spelled.as_bytes())]));
        assert_eq!(sni(&hello), Some(name("api.example.org")), "{spelled}");
    }
    let hello = hello_with(&server_name(&[(0, b"xn--bcher-kva.example")]));
    assert_eq!(sni(&hello), Some(name("b\u{fc}cher.example")));
}

#[test]
fn a_server_name_that_is_not_exactly_one_host_name_is_malformed() {
    let good = (0, b"api.example.org".as_slice());
    for names in [
        &[][..],
        &[good, good],
        &[good, (0, b"evil.org")],
        &[(1, b"api.example.org")],
        &[good, (1, b"x")],
        &[(0, b"")],
        &[(0, b"api.example.org\0")],
        &[(0, b"api.example.org\0.evil.org")],
        &[(0, b"api.example.org\r\n")],
        &[(0, b"api.example.org ")],
        &[(0, b"api..org")],
        &[(0, b"192.0.2.7")],
        &[(0, b"2130706433")],
        &[(0, b"[::1]")],
        &[(0, "b\u{fc}cher.example".as_bytes())],
        &[(0, b"*.example.org")],
        &[(0, b"api.example.org:443")],
    ] {
        let read = Hello::read(&hello_with(&server_name(names)));
        assert!(read.is_err(), "{names:?}: {read:?}");
    }
    let twice = [server_name(&[good]), server_name(&[good])].concat();
    assert!(Hello::read(&hello_with(&twice)).is_err());
    let apart = [
        server_name(&[good]),
        extension(43, &[2, 3, 4]),
        server_name(&[good]),
    ]
    .concat();
    assert!(Hello::read(&hello_with(&apart)).is_err());
    assert!(Hello::read(&hello_with(&extension(SERVER_NAME, &[]))).is_err());
    // The control.
    let fine = [server_name(&[good]), extension(43, &[2, 3, 4])].concat();
    assert_eq!(sni(&hello_with(&fine)), Some(name("api.example.org")));
}

#[test]
fn an_encrypted_hello_is_seen_and_the_outer_name_counts() {
    let outer = server_name(&[(0, b"api.example.org")]);
    let bytes = hello_with(&[outer, extension(ENCRYPTED_CLIENT_HELLO, &[0; 40])].concat());
    let hello = Hello::read(&bytes).expect("well formed").expect("whole");
    assert!(hello.ech);
    assert_eq!(hello.check(&peer(), false), Ok(()));
}

#[test]
fn what_does_not_add_up_is_malformed() {
    let message = message_with(&server_name(&[(0, b"api.example.org")]));
    let hello = record(HANDSHAKE, &message);
    let wrong = |bytes: &[u8]| assert!(Hello::read(bytes).is_err(), "{bytes:?}");
    assert!(Hello::read(&hello).is_ok_and(|hello| hello.is_some()));
    // Bytes behind it in its record, told before they are all there.
    wrong(&record(HANDSHAKE, &[&message[..], &[0]].concat()));
    wrong(&record(HANDSHAKE, &[&message[..], &[0; 9]].concat())[..hello.len()]);
    // Other messages and records first, or within.
    wrong(&record(HANDSHAKE, &[&[2], &message[1..]].concat()));
    wrong(&[record(HANDSHAKE, &message[..9]), record(ALERT, &[1, 0])].concat());
    wrong(&[record(HANDSHAKE, &message[..9]), record(HANDSHAKE, &[])].concat());
    wrong(&record(HANDSHAKE, &[]));
    // A later record of no version, and one that is too long.
    wrong(&[record(HANDSHAKE, &message[..9]), vec![HANDSHAKE, 2]].concat());
    wrong(&[HANDSHAKE, 3, 1, 0x40, 1]);
    // A message that is too long.
    wrong(&record(HANDSHAKE, &[CLIENT_HELLO, 1, 0, 0]));
    // Lengths within: of the extensions, of one, and bytes behind them.
    for from_end in [16, 19, 21, 25] {
        for by in [1, 255] {
            let mut changed = message.clone();
            let at = message.len() - from_end;
            changed[at] = changed[at].wrapping_add(by);
            wrong(&record(HANDSHAKE, &changed));
        }
    }
    let mut longer = [&message[..], &[0]].concat();
    longer[3] += 1;
    wrong(&record(HANDSHAKE, &longer));
}

#[test]
fn a_hello_without_end_is_refused_in_time() {
    let length = u32::try_from(HELLO_BYTES_MAX - MESSAGE_HEADER)
        .expect("small")
        .to_be_bytes();
    let mut bytes = record(
        HANDSHAKE,
        &[&[CLIENT_HELLO], &length[1..], &[0; 9000]].concat(),
    );
    while bytes.len() < HELLO_BYTES_MAX {
        assert_eq!(Hello::read(&bytes), Ok(None));
        bytes.extend(record(HANDSHAKE, &[0; 99]));
    }
    assert!(Hello::read(&bytes).is_err());
    let begin = record(HANDSHAKE, &[CLIENT_HELLO, 0, 9, 0]);
    let piece = record(HANDSHAKE, &[0]);
    let fits = [&begin[..], &piece.repeat(HELLO_RECORDS_MAX - 2)].concat();
    assert_eq!(Hello::read(&fits), Ok(None));
    assert!(Hello::read(&[&fits[..], &piece, &piece].concat()).is_err());
}

/// Feeds a connection byte by byte; returns how many bytes passed before it became opaque.
fn drip(bytes: &[u8]) -> Result<Option<usize>, Wrong> {
    let mut stream = Stream::default();
    let mut forwarded = 0;
    for end in 1..=bytes.len() {
        while forwarded < end {
            match stream.feed(&bytes[forwarded..end], &peer(), false)? {
                Progress::NeedMore => break,
                Progress::Forward(0) => panic!("nothing is no progress"),
                Progress::Forward(count) => forwarded += count,
                Progress::Opaque => return Ok(Some(forwarded)),
            }
        }
    }
    Ok(None)
}

#[test]
fn a_connection_becomes_opaque_when_all_is_encrypted() {
    let hello = |hex| first_record(&bytes(hex)).len();
    let whole = bytes(CAPTURED[2].1);
    // The change of cipher spec takes 6 bytes.
    assert_eq!(drip(&whole), Ok(Some(hello(CAPTURED[2].1) + 6)));
    let resumed = bytes(RESUMED);
    assert_eq!(drip(&resumed), Ok(Some(hello(RESUMED) + 6)));
    let retried = bytes(RETRY);
    let second = first_record(&retried[hello(RETRY) + 6..]).len();
    // The second ClientHello was the last that could be one.
    assert_eq!(drip(&retried), Ok(Some(hello(RETRY) + 6)));
    assert!(second > 300);
}

#[test]
fn a_second_hello_for_another_server_is_refused() {
    let good = hello_with(&server_name(&[(0, b"api.example.org")]));
    let evil = message_with(&server_name(&[(0, b"evil.org")]));
    let change = record(CHANGE_CIPHER_SPEC, &[1]);
    let wrong = Err(Wrong::Sni("evil.org".to_owned()));
    let evil_record = record(HANDSHAKE, &evil);
    assert_eq!(drip(&[&good[..], &evil_record].concat()), wrong);
    assert_eq!(drip(&[&good[..], &change, &evil_record].concat()), wrong);
    assert_eq!(
        drip(&[&good[..], &change, &change, &evil_record].concat()),
        wrong
    );
    let none = hello_with(&[]);
    assert_eq!(
        drip(&[&good[..], &change, &none].concat()),
        Err(Wrong::NoSni)
    );
    // In pieces: large ones are put together, small ones are sent by nobody.
    let (head, tail) = evil.split_at(40);
    let pieces = [record(HANDSHAKE, head), record(HANDSHAKE, tail)].concat();
    assert_eq!(drip(&[&good[..], &change, &pieces].concat()), wrong);
    let (head, tail) = evil.split_at(1);
    let pieces = [record(HANDSHAKE, head), record(HANDSHAKE, tail)].concat();
    assert!(drip(&[&good[..], &change, &pieces].concat()).is_err());
    assert_eq!(drip(&[&good[..], &pieces].concat()), wrong);
    // Behind early data.
    let early = [
        server_name(&[(0, b"api.example.org")]),
        extension(EARLY_DATA, &[]),
    ]
    .concat();
    let early = [
        hello_with(&early),
        change.clone(),
        record(APPLICATION_DATA, &[9; 99]),
    ]
    .concat();
    assert_eq!(drip(&[&early[..], &evil_record].concat()), wrong);
    // The controls: the same server, and a Finished of TLS 1.2 that happens to begin alike.
    assert_eq!(
        drip(&[&good[..], &change, &good].concat()),
        Ok(Some(good.len() + change.len()))
    );
    assert_eq!(drip(&[&early[..], &good].concat()), Ok(Some(early.len())));
    let finished = record(HANDSHAKE, &[&[CLIENT_HELLO][..], &[0xa5; 39]].concat());
    assert_eq!(
        drip(&[&good[..], &change, &finished].concat()),
        Ok(Some(good.len() + change.len()))
    );
}

#[test]
fn records_that_lead_nowhere_end() {
    let good = hello_with(&server_name(&[(0, b"api.example.org")]));
    let changes = record(CHANGE_CIPHER_SPEC, &[1]).repeat(99);
    assert!(drip(&[&good[..], &changes].concat()).is_err());
    assert!(drip(&[&good[..], &record(24, &[0; 9])].concat()).is_err());
}

proptest! {
    #[test]
    fn nothing_panics(
        which in 0..CAPTURED.len(),
        at in any::<proptest::sample::Index>(),
        put in proptest::collection::vec(any::<u8>(), 0..9),
        cut in 0usize..9,
    ) {
        let mut bytes = bytes(CAPTURED[which].1);
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, put);
        let _ = Hello::read(&bytes);
        let _ = drip(&bytes);
    }

    #[test]
    fn a_hello_is_read_alike_in_any_records(cuts in proptest::collection::vec(1usize..200, 1..20)) {
        let hello = bytes(CAPTURED[4].1);
        let mut rest = &first_record(&hello)[5..];
        let mut cut = Vec::new();
        for length in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*length).min(rest.len()));
            cut.extend(record(HANDSHAKE, piece));
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(sni(&cut), Some(name("api.example.org")));
    }
}
