//! One line of the log, and how it hangs on the line before.
//!
//! A line is a JSON object whose last member is `hash`: the SHA-256 of the object's text without
//! that member. `previous` is the hash of the line before, so what is hashed is the very text that
//! lies in the file, and no two programs can differ about what it means.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::caller::Caller;
use crate::outcome::{Denial, EgressUse, Enforced, Status, Usage};

/// Longest line in bytes, with its newline. What a receipt is made of is bounded so that it fits.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Version of the format.
pub const FORMAT: u32 = 1;
/// What the first line of all hangs on.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where in the chain the next line goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// How many lines there are, in this file and those before: the next line's sequence number.
    pub records: u64,
    /// Hash of the last line.
    pub hash: String,
}

impl Link {
    /// Before the first line.
    #[must_use]
    pub fn origin() -> Self {
        Self {
            records: 0,
            hash: ORIGIN.to_owned(),
        }
    }
}

/// What a line says, besides its place in the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The first line of every file.
    Log {
        /// Version of the format.
        format: u32,
        /// Which program wrote it.
        program: String,
        /// Names the key of the argument digests, without giving it away.
        key: String,
    },
    /// One call.
    Call(Box<Receipt>),
    /// The log was not as the head file said it had been left.
    Break {
        /// In what way.
        reason: BreakReason,
        /// What the head file said.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expected: Option<Link>,
        /// What the log ended with.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        found: Option<Link>,
    },
}

/// In what way the log was not as it had been left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakReason {
    /// The last line had no end, as a power failure leaves it; the piece was taken off.
    Torn,
    /// The head file was missing or unreadable.
    HeadMissing,
    /// The log did not contain what the head file says it ends with.
    Cut,
    /// The last line was no line of ours.
    Unreadable,
}

/// The receipt of one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Identifier of the call.
    pub call: String,
    /// The tool's name.
    pub tool: String,
    /// Digest of the profile as it was resolved; empty if the call came to no profile.
    pub profile: String,
    /// HMAC-SHA-256 of the arguments' canonical JSON under the key in `audit.key`.
    pub arguments: String,
    /// Who called.
    pub caller: Caller,
    /// How it ended.
    pub status: Status,
    /// The tool's exit status, if it exited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// The signal that ended the tool, if one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<String>,
    /// Why it ended so.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// Bytes of standard output and standard error.
    pub output_bytes: [u64; 2],
    /// What it used.
    pub usage: Usage,
    /// What was denied, up to a limit.
    pub denials: Vec<Denial>,
    /// How many denials there was no room for.
    pub denials_left_out: usize,
    /// What it reached over the network, up to a limit.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub egress: Vec<EgressUse>,
    /// How many hosts there was no room for.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub egress_left_out: usize,
    /// What the kernel confirmed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub enforced: Option<Enforced>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A line as it is written and read, without its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number in the chain, from 0.
    pub sequence: u64,
    /// When it was written, RFC 3339 in UTC.
    pub time: String,
    /// Hash of the line before.
    pub previous: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Why a text is no line of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not the JSON that we write.
    #[error("is not a record of this format: {0}")]
    Form(String),
    /// Its text does not have the hash that it states.
    #[error("was changed: its text does not match its hash")]
    Hash,
}

impl Line {
    /// The line's text, newline included, and the link that the next one hangs on.
    pub fn encode(&self) -> Result<(String, Link), LineError> {
        let mut text = serde_json::to_string(self).map_err(|e| LineError::Form(e.to_string()))?;
        let hash = digest(text.as_bytes());
        text.pop();
        text.push_str(HASH_OPEN);
        text.push_str(&hash);
        text.push_str(HASH_CLOSE);
        text.push('\n');
        let records = self.sequence + 1;
        Ok((text, Link { records, hash }))
    }

    /// Reads a line's text, without its newline, and checks its hash.
    pub fn decode(text: &str) -> Result<(Self, Link), LineError> {
        let form = || LineError::Form("it does not end with its hash".to_owned());
        let rest = text.strip_suffix(HASH_CLOSE).ok_or_else(form)?;
        let split = rest.len().checked_sub(HASH_DIGITS).ok_or_else(form)?;
        let (rest, hash) = rest.split_at_checked(split).ok_or_else(form)?;
        let body = rest.strip_suffix(HASH_OPEN).ok_or_else(form)?;
        let body = format!("{body}}}");
        if digest(body.as_bytes()) != hash {
            return Err(LineError::Hash);
        }
        let line: Self = serde_json::from_str(&body).map_err(|e| LineError::Form(e.to_string()))?;
        let next = Link {
            records: line.sequence.saturating_add(1),
            hash: hash.to_owned(),
        };
        Ok((line, next))
    }
}

const HASH_OPEN: &str = ",\"hash\":\"";
const HASH_CLOSE: &str = "\"}";
const HASH_DIGITS: usize = 64;

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// JSON with sorted keys and no white space, so that equal arguments have equal digests.
#[must_use]
pub fn canonical(value: &serde_json::Value) -> String {
    fn sorted(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(members) => {
                let mut pairs: Vec<_> = members.iter().collect();
                pairs.sort_by_key(|(key, _)| *key);
                pairs
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect()
            }
            serde_json::Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line() -> Line {
        Line {
            sequence: 7,
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            previous: ORIGIN.to_owned(),
            entry: Entry::Break {
                reason: BreakReason::Torn,
                expected: Some(Link::origin()),
                found: None,
            },
        }
    }

    #[test]
    fn line_reads_back_as_it_was_written() {
        let (text, next) = line().encode().unwrap();
        assert_eq!(Line::decode(text.trim_end()).unwrap(), (line(), next));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (text, _) = line().encode().unwrap();
        let text = text.trim_end();
        for position in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[position] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(Line::decode(&changed).is_err(), "byte {position}");
            }
        }
    }

    #[test]
    fn canonical_json_does_not_depend_on_the_order_of_keys() {
        let one = json!({"b": [1, {"d": null, "c": "x"}], "a": 1.5});
        let other = json!({"a": 1.5, "b": [1, {"c": "x", "d": null}]});
        assert_eq!(canonical(&one), canonical(&other));
        assert_eq!(canonical(&one), r#"{"a":1.5,"b":[1,{"c":"x","d":null}]}"#);
    }
}
