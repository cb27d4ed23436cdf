//! Host names in their one canonical form.
//!
//! A name is canonicalised once, where it enters (a profile, a DNS message, a ClientHello, a Host
//! field), and compared as a whole afterwards, so that no two places can see different names in the
//! same bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name in its text form (RFC 1035, section 2.3.4, less the root's dot).
pub const NAME_BYTES_MAX: usize = 253;
/// Longest label (RFC 1035, section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// A host name: lower-case ASCII letters, digits, `-` and `_`, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing, or nothing between two dots.
    #[error("has an empty label")]
    Empty,
    /// It is longer than DNS allows.
    #[error("is longer than {NAME_BYTES_MAX} bytes, or a label than {LABEL_BYTES_MAX}")]
    TooLong,
    /// It has a byte that host names do not have.
    #[error("has a character that host names do not have")]
    Character,
    /// It could be read as an IPv4 address (WHATWG URL, "ends in a number").
    #[error("is an address or could be taken for one")]
    Numeric,
    /// IDNA (UTS #46) has no ASCII form for it.
    #[error("has no form in ASCII (IDNA)")]
    Idna,
}

impl Name {
    /// Reads a name as people write it: in any case, with or without a final dot, in any script.
    ///
    /// # Errors
    /// If it is no host name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_ascii() {
            return Self::from_ascii(text.as_bytes());
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| NameError::Idna)?;
        Self::from_ascii(ascii.as_bytes())
    }

    /// Reads a name from bytes that a program sent: ASCII only, as protocols carry names.
    ///
    /// # Errors
    /// If it is no host name; a NUL, a line break or a space never is.
    pub fn from_ascii(text: &[u8]) -> Result<Self, NameError> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        Self::from_labels(text.split(|byte| *byte == b'.'))
    }

    /// Reads a name from its labels, as a DNS message has them. A dot within a label is refused.
    ///
    /// # Errors
    /// If it is no host name.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut name = String::new();
        for label in labels {
            if label.is_empty() {
                return Err(NameError::Empty);
            }
            if label.len() > LABEL_BYTES_MAX || name.len() + label.len() >= NAME_BYTES_MAX {
                return Err(NameError::TooLong);
            }
            if !name.is_empty() {
                name.push('.');
            }
            for byte in label {
                match byte {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
                    b'A'..=b'Z' => name.push(char::from(byte.to_ascii_lowercase())),
                    _ => return Err(NameError::Character),
                }
            }
        }
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if ends_in_a_number(&name) {
            return Err(NameError::Numeric);
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name lies beneath another one, at any depth; no name lies beneath itself.
    #[must_use]
    pub fn is_beneath(&self, suffix: &Self) -> bool {
        self.0
            .strip_suffix(&suffix.0)
            .is_some_and(|rest| rest.ends_with('.'))
    }

    /// What stands before a suffix that the name lies beneath, without the dot.
    #[must_use]
    pub fn before(&self, suffix: &Self) -> Option<&str> {
        self.0.strip_suffix(&suffix.0)?.strip_suffix('.')
    }
}

/// Whether the last label would make an address of the whole for some parsers: `1.2.3.4`, `0x7f.1`
/// and the like (WHATWG URL, "ends in a number checker").
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, NameError> {
        Name::parse(text).map(String::from)
    }

    #[test]
    fn one_name_has_one_form() {
        for text in ["example.org", "EXAMPLE.org", "example.org.", "eXample.ORG."] {
            assert_eq!(read(text).as_deref(), Ok("example.org"), "{text}");
        }
        assert_eq!(
            read("bücher.example").as_deref(),
            Ok("xn--bcher-kva.example")
        );
        assert_eq!(
            read("_dmarc.example.org").as_deref(),
            Ok("_dmarc.example.org")
        );
    }

    #[test]
    fn bytes_that_are_not_dns_are_refused() {
        for text in [
            "a\0b.org",
            "a b.org",
            "a\r\n.org",
            "a/b",
            "a@b.org",
            "*.org",
            "[::1]",
            "a%b",
        ] {
            assert_eq!(read(text), Err(NameError::Character), "{text:?}");
        }
        for text in ["", ".", "a..b", ".a", "a.."] {
            assert_eq!(read(text), Err(NameError::Empty), "{text:?}");
        }
        let dot_within = [b"a.b".as_slice(), b"org"];
        assert_eq!(Name::from_labels(dot_within), Err(NameError::Character));
        assert_eq!(read(&"a".repeat(64)), Err(NameError::TooLong));
        assert_eq!(read(&["a"; 128].join(".")), Err(NameError::TooLong));
        assert!(read(&["a"; 126].join(".")).is_ok());
    }

    #[test]
    fn addresses_in_any_notation_are_no_names() {
        for text in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "a.0x1",
            "0x",
        ] {
            assert_eq!(read(text), Err(NameError::Numeric), "{text}");
        }
    }

    #[test]
    fn beneath_is_by_whole_labels() {
        let name = |text: &str| Name::parse(text).expect("a name");
        let suffix = name("example.org");
        assert!(name("a.example.org").is_beneath(&suffix));
        assert!(name("a.b.example.org").is_beneath(&suffix));
        assert!(!name("example.org").is_beneath(&suffix));
        assert!(!name("badexample.org").is_beneath(&suffix));
        assert_eq!(name("a.b.example.org").before(&suffix), Some("a.b"));
    }
}
