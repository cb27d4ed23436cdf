use profiles::egress::Name;
use proptest::prelude::*;

use super::*;

const PORT: u16 = 80;
/// Stands for the field that was put into the table last.
const NEWEST: u8 = 0x80 + 62;

/// What curl sent to `http://api.example.org:PORT/a?b=c`, on a port that was free then.
const CURL: &str = include_str!("curl.hex");

const GOOD: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.org"),
    (":path", "/"),
];

fn peer() -> Peer {
    Peer::Name(Name::parse("a.org").expect("a name"))
}

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

fn begin() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Fields as literals that are not kept, without Huffman's code.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            assert!(text.len() < 127);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &literals(fields))
}

fn feed(bytes: &[u8], piece: usize) -> Result<usize, Wrong> {
    let mut stream = Stream::default();
    let (mut forwarded, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        forwarded += stream.feed(&bytes[forwarded..end], &peer(), PORT)?;
    }
    Ok(forwarded)
}

fn both(frames: &[Vec<u8>]) -> Result<usize, Wrong> {
    let bytes = [begin(), frames.concat()].concat();
    let whole = feed(&bytes, bytes.len());
    assert_eq!(whole, feed(&bytes, 1));
    whole.map(|forwarded| bytes.len() - forwarded)
}

fn passes(frames: &[Vec<u8>]) {
    assert_eq!(both(frames), Ok(0), "{frames:?}");
}

fn malformed(frames: &[Vec<u8>]) {
    let wrong = both(frames);
    assert!(
        matches!(wrong, Err(Wrong::Malformed(_))),
        "{frames:?}: {wrong:?}"
    );
}

fn with<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&GOOD[..], fields].concat()
}

/// The good fields with one changed.
fn but<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    GOOD.iter()
        .map(|field| {
            if field.0 == name {
                (name, value)
            } else {
                *field
            }
        })
        .collect()
}

#[test]
fn a_real_client_passes_to_its_host_only() {
    let digits: Vec<_> = CURL.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes: Vec<_> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect();
    let name = |text| Peer::Name(Name::parse(text).expect("a name"));
    let host = name("api.example.org");
    let Err(Wrong::Port(port)) = Stream::default().feed(&bytes, &host, 1) else {
        panic!("its port is not seen");
    };
    assert_eq!(Stream::default().feed(&bytes, &host, port), Ok(bytes.len()));
    let wrong = Stream::default().feed(&bytes, &name("a.org"), port);
    assert_eq!(wrong, Err(Wrong::Host("api.example.org".to_owned())));
    for end in 0..bytes.len() {
        let mut stream = Stream::default();
        let first = stream.feed(&bytes[..end], &host, port).expect("it passes");
        let second = stream
            .feed(&bytes[first..], &host, port)
            .expect("it passes");
        assert_eq!(first + second, bytes.len(), "{end}");
    }
}

#[test]
fn requests_for_the_host_pass() {
    passes(&[request(1, &GOOD)]);
    passes(&[request(
        1,
        &with(&[("host", "A.org."), ("cookie", "a"), ("cookie", "b")]),
    )]);
    passes(&[request(1, &but(":authority", "A.ORG:80"))]);
    passes(&[request(1, &[GOOD[0], GOOD[1], GOOD[3], ("host", "a.org")])]);
    passes(&[request(1, &GOOD), request(3, &GOOD), request(7, &GOOD)]);
    // Other frames, large and unknown ones, pass as they come.
    let ping = frame(6, 0, 0, &[0; 8]);
    let data = frame(0, 0, 1, &vec![1; 100_000]);
    let unknown = frame(0xfa, 0xff, 9, &[HEADERS; 30]);
    passes(&[ping, request(1, &GOOD), data, unknown, request(3, &GOOD)]);
    // Padding, priority, pieces.
    let block = literals(&GOOD);
    let padded = [&[3][..], &[0, 0, 0, 0, 9], &block, &[0; 3]].concat();
    passes(&[frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &padded)]);
    for cut in 0..block.len() {
        let (first, second) = block.split_at(cut);
        passes(&[
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, second),
        ]);
    }
    // Trailers.
    passes(&[
        frame(HEADERS, END_HEADERS, 1, &literals(&GOOD)),
        frame(0, 0, 1, b"body"),
        request(1, &[("x-sum", "1")]),
    ]);
}

#[test]
fn requests_for_another_host_are_refused() {
    for host in ["evil.org", "a.org.evil.org", "evil.a.org", "192.0.2.7"] {
        let wrong = Err(Wrong::Host(host.to_owned()));
        assert_eq!(both(&[request(1, &but(":authority", host))]), wrong);
        assert_eq!(both(&[request(1, &with(&[("host", host)]))]), wrong);
        assert_eq!(
            both(&[request(1, &GOOD), request(3, &but(":authority", host))]),
            wrong
        );
        let only = [GOOD[0], GOOD[1], GOOD[3], ("host", host)];
        assert_eq!(both(&[request(1, &only)]), wrong);
        // In pieces.
        let block = literals(&but(":authority", host));
        let (first, second) = block.split_at(20);
        let frames = [
            frame(HEADERS, 0, 1, first),
            frame(CONTINUATION, END_HEADERS, 1, second),
        ];
        assert_eq!(both(&frames), wrong);
    }
    let wrong = both(&[request(1, &but(":authority", "a.org:81"))]);
    assert_eq!(wrong, Err(Wrong::Port(81)));
}

#[test]
fn a_name_from_the_table_is_checked_each_time() {
    // `:authority: evil.org` is put into the table by a request that is refused for it at once; one
    // that is put there under another name cannot become an authority.
    let keep = |name: &str, value: &str| {
        let mut block = vec![0x40];
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
        block
    };
    let kept = [literals(&GOOD), keep("x", "evil.org")].concat();
    let again = [literals(&GOOD), vec![NEWEST]].concat();
    passes(&[
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &kept),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &again),
    ]);
    let kept = [
        literals(&[GOOD[0], GOOD[1], GOOD[3]]),
        keep(":authority", "a.org"),
    ]
    .concat();
    let again = [literals(&[GOOD[0], GOOD[1], GOOD[3]]), vec![NEWEST]].concat();
    let twice = [literals(&GOOD), vec![NEWEST]].concat();
    let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &kept);
    passes(&[first.clone(), frame(HEADERS, END_HEADERS, 3, &again)]);
    malformed(&[first, frame(HEADERS, END_HEADERS, 3, &twice)]);
}

#[test]
fn tunnels_are_refused() {
    for fields in [
        vec![(":method", "CONNECT"), (":authority", "evil.org:443")],
        but(":method", "CONNECT"),
        [
            &but(":method", "CONNECT")[..],
            &[(":protocol", "websocket")],
        ]
        .concat(),
    ] {
        let wrong = both(&[request(1, &fields)]);
        assert!(matches!(wrong, Err(Wrong::Tunnel(_))), "{fields:?}");
    }
}

#[test]
fn fields_that_could_be_read_in_two_ways_are_malformed() {
    for fields in [
        vec![],
        GOOD[..3].to_vec(),
        GOOD[1..].to_vec(),
        vec![GOOD[0], GOOD[1], GOOD[3]],
        vec![GOOD[0], GOOD[2], GOOD[3]],
        with(&[(":authority", "a.org")]),
        with(&[("host", "a.org"), ("host", "a.org")]),
        with(&[("x", "y"), (":path", "/")]),
        with(&[(":status", "200")]),
        with(&[(":", "")]),
        with(&[("", "x")]),
        with(&[("Host", "a.org")]),
        with(&[("x y", "z")]),
        with(&[("x\r\nhost", "evil.org")]),
        with(&[("x", "y\r\nhost: evil.org")]),
        with(&[("x", "y\nz")]),
        with(&[("x", "\0")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("connection", "close")]),
        with(&[("upgrade", "websocket")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        with(&[("content-length", "1, 1")]),
        but(":authority", ""),
        but(":authority", "a.org\0"),
        but(":authority", "user@a.org"),
        but(":authority", "a.org."),
        but(":scheme", "https"),
        but(":method", "GET / HTTP/1.1"),
        but(":method", ""),
        but(":path", "/ HTTP/1.1"),
        but(":path", "http://evil.org/"),
        but(":path", ""),
    ] {
        // The one that is right: a name may end in a dot.
        if fields.contains(&(":authority", "a.org.")) {
            passes(&[request(1, &fields)]);
        } else {
            malformed(&[request(1, &fields)]);
        }
    }
}

#[test]
fn frames_out_of_place_are_malformed() {
    let fields = literals(&GOOD);
    malformed(&[request(0, &GOOD)]);
    malformed(&[request(2, &GOOD)]);
    malformed(&[request(1, &GOOD), request(1, &GOOD)]);
    malformed(&[request(3, &GOOD), request(1, &GOOD)]);
    malformed(&[request(1, &GOOD), request(1, &[("host", "evil.org")])]);
    malformed(&[frame(CONTINUATION, END_HEADERS, 1, &fields)]);
    malformed(&[frame(PUSH_PROMISE, END_HEADERS, 1, &fields)]);
    malformed(&[frame(HEADERS, 0, 1, &fields), frame(0, 0, 1, &[])]);
    malformed(&[
        frame(HEADERS, 0, 1, &fields),
        frame(CONTINUATION, END_HEADERS, 3, &[]),
    ]);
    malformed(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])]);
    malformed(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[])]);
    malformed(&[frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])]);
    // Something else than SETTINGS comes first.
    let bytes = [PREFACE, &request(1, &GOOD)].concat();
    assert!(feed(&bytes, bytes.len()).is_err());
}

#[test]
fn what_cannot_be_decompressed_is_malformed() {
    for block in [
        &[0x80][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[NEWEST],
        &[0x3f],
        &[0x3f, 0xe1, 0xff, 0xff, 0x07],
        &[0x20],
        &[0x00],
        &[0x00, 0x05, b'a'],
        &[0x00, 0x01, b'a', 0x81, 0x00],
        &[0x00, 0x01, b'a', 0x84, 0xff, 0xff, 0xff, 0xff],
    ] {
        malformed(&[frame(HEADERS, END_HEADERS | END_STREAM, 1, block)]);
    }
}

#[test]
fn fields_without_end_are_refused_in_time() {
    let mut frames = vec![frame(HEADERS, 0, 1, &literals(&GOOD))];
    frames.extend(vec![frame(CONTINUATION, 0, 1, &[]); 10_000]);
    let bytes = [begin(), frames.concat()].concat();
    assert!(feed(&bytes, 1000).is_err());
    malformed(&[frame(HEADERS, END_HEADERS, 1, &vec![0; BLOCK_BYTES_MAX])]);
    // Few bytes that stand for many: each of 4000 from the table.
    let mut bomb = literals(&GOOD);
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend_from_slice(&[b'y'; 4000]);
    bomb.extend_from_slice(&[NEWEST; 200]);
    malformed(&[frame(HEADERS, END_HEADERS, 1, &bomb)]);
    let many = [literals(&GOOD), vec![0x82; FIELDS_MAX]].concat();
    malformed(&[frame(HEADERS, END_HEADERS, 1, &many)]);
}

proptest! {
    #[test]
    fn pieces_come_to_the_same_as_the_whole(
        at in any::<proptest::sample::Index>(),
        put in proptest::collection::vec(any::<u8>(), 0..6),
        cut in 0usize..6,
        piece in 1usize..60,
    ) {
        let mut bytes = [begin(), request(1, &GOOD), frame(0, 0, 1, &[7; 20]), request(3, &GOOD)].concat();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, put);
        prop_assert_eq!(feed(&bytes, bytes.len()), feed(&bytes, piece));
    }

    #[test]
    fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [begin(), frame(HEADERS, END_HEADERS, 1, &block)].concat();
        let _ = feed(&bytes, bytes.len());
    }
}
