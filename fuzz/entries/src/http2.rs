//! Connections of HTTP/2 without TLS.

use crate::{bytes, judged_alike};

/// A connection is judged alike however it comes.
pub fn run(data: &[u8]) {
    judged_alike(data);
}

/// What curl sent, and a request in plain fields for the port that the verifier is told of.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let curl = bytes(include_str!(
        "../../../supervisor/src/egress/verify/http2/curl.hex"
    ));
    let frame = |kind: u8, flags: u8, stream: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], content].concat()
    };
    // GET, http, / from the table; the authority is put into it, or taken from there.
    let mut first = vec![0x82, 0x86, 0x84, 0x41, 15];
    first.extend_from_slice(b"api.example.org");
    let again = [0x82, 0x86, 0x84, 0x80 + 62];
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
    ]
    .concat();
    let two = [&begin[..], &frame(1, 5, 1, &first), &frame(1, 5, 3, &again)].concat();
    let (head, tail) = first.split_at(7);
    let pieces = [&begin[..], &frame(1, 0, 1, head), &frame(9, 4, 1, tail)].concat();
    let body = [
        &pieces[..],
        &frame(0, 1, 1, b"body"),
        &frame(8, 0, 0, &[0, 0, 1, 0]),
    ]
    .concat();
    vec![curl, two, pieces, body]
}
