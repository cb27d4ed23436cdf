//! The end of the log, and what it says about what happened to it since it was left.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::chain::{BreakReason, LINE_BYTES_MAX, Line, Link};

/// How far back from the log's end the line that the head names is looked for. A crash between the
/// two writes leaves the head one line behind.
const LOOK_BACK_BYTES: u64 = 4 * LINE_BYTES_MAX as u64;

/// The end of the log as it lies on the disk.
#[derive(Debug, Default)]
pub struct End {
    /// Bytes up to the last newline.
    pub whole_bytes: u64,
    /// Whether more comes after it.
    pub torn: bool,
    /// The last whole line's link; nothing if there is none or it is no line of ours.
    pub last: Option<Link>,
    /// Links of the lines before it, as far as we looked.
    pub before: Vec<Link>,
}

/// Reads the last lines of a log of so many bytes.
pub fn read_end(log: &File, bytes: u64) -> io::Result<End> {
    let from = bytes.saturating_sub(LOOK_BACK_BYTES);
    let length = usize::try_from(bytes - from).expect("LOOK_BACK_BYTES fits every pointer size");
    let mut text = vec![0; length];
    log.read_exact_at(&mut text, from)?;
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let mut links: Vec<_> = text[..whole]
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            Line::decode(line).ok().map(|(_, link)| link)
        })
        .collect();
    // After the last newline comes an empty piece, which is no line.
    links.pop();
    let last = links.pop().flatten();
    Ok(End {
        whole_bytes: from + whole as u64,
        torn: whole < text.len(),
        last,
        before: links.into_iter().flatten().collect(),
    })
}

/// What the end says about what happened to the log.
pub enum Judgement {
    /// There is nothing yet: begin here.
    New(Link),
    /// Nothing happened to it: go on here.
    Whole(Link),
    /// The same, but for a piece of a line.
    Torn(Link),
    /// Something did: record it, and go on here in a new file.
    Broken(BreakReason, Link),
}

/// Compares the log's end with what the head file says it is.
#[must_use]
pub fn judge(end: &End, expected: Option<&Link>) -> Judgement {
    match (&end.last, expected) {
        (None, None) if end.whole_bytes == 0 => Judgement::New(Link::origin()),
        (None, expected) => {
            let reason = if end.whole_bytes == 0 {
                BreakReason::Cut
            } else {
                BreakReason::Unreadable
            };
            Judgement::Broken(reason, expected.cloned().unwrap_or_else(Link::origin))
        }
        // A crash between the very first line and the head: there is no receipt to be missed.
        (Some(last), None) if last.records == 1 && !end.torn => Judgement::Whole(last.clone()),
        (Some(last), None) => Judgement::Broken(BreakReason::HeadMissing, last.clone()),
        (Some(last), Some(expected)) => {
            // A crash between the two writes leaves the head behind, never ahead.
            if last == expected || end.before.contains(expected) {
                if end.torn {
                    Judgement::Torn(last.clone())
                } else {
                    Judgement::Whole(last.clone())
                }
            } else {
                let further = if last.records > expected.records {
                    last
                } else {
                    expected
                };
                Judgement::Broken(BreakReason::Cut, further.clone())
            }
        }
    }
}
