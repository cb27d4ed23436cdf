//! What can still be made out of a message that is no valid JSON, or too long to be parsed.

use rmcp::model::RequestId;

/// Longest key or id that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// A reader of a JSON object's outermost members that looks at `id` and `method` alone, takes its
/// text in pieces, holds next to nothing of it, and does not mind what is wrong with it.
#[derive(Debug, Default)]
pub struct Scan {
    depth: usize,
    array: bool,
    string: Text,
    /// The member's name, once its colon has come.
    key: Option<Vec<u8>>,
    /// What has come of a name or value at the outermost level.
    token: Vec<u8>,
    id: Id,
    method: bool,
}

/// What has come of the member `id`.
#[derive(Debug, Default)]
enum Id {
    #[default]
    Absent,
    Once(Vec<u8>),
    /// Of several, none can be trusted to be the one that the sender means.
    Several,
}

/// Where in a string the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

impl Scan {
    /// Takes the next piece of the text.
    pub fn feed(&mut self, text: &[u8]) {
        for byte in text {
            self.byte(*byte);
        }
    }

    /// The member `id`, if it is one that an answer can carry.
    #[must_use]
    pub fn id(&self) -> Option<RequestId> {
        match &self.id {
            Id::Once(value) => serde_json::from_slice(value).ok(),
            Id::Absent | Id::Several => None,
        }
    }

    /// Whether there is a member `id`, of whatever kind.
    #[must_use]
    pub fn has_id(&self) -> bool {
        !matches!(self.id, Id::Absent)
    }

    /// Whether there is a member `method`: only requests and notifications have one.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.method
    }

    /// Whether the text is an array and no object.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.array
    }

    fn byte(&mut self, byte: u8) {
        if self.string != Text::Outside {
            self.push(byte);
            self.string = match (self.string, byte) {
                (Text::Inside, b'\\') => Text::Escaped,
                (Text::Inside, b'"') => Text::Outside,
                _ => Text::Inside,
            };
            return;
        }
        match byte {
            b'"' => {
                self.string = Text::Inside;
                self.push(byte);
            }
            b'{' | b'[' => {
                self.array |= self.depth == 0 && byte == b'[';
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.end_member();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.end_member(),
            b':' if self.depth == 1 && self.key.is_none() => {
                self.key = Some(std::mem::take(&mut self.token));
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            other => self.push(other),
        }
    }

    fn push(&mut self, byte: u8) {
        if self.depth == 1 && self.token.len() < TOKEN_BYTES_MAX {
            self.token.push(byte);
        }
    }

    fn end_member(&mut self) {
        if self.depth != 1 {
            return;
        }
        let value = std::mem::take(&mut self.token);
        // As a name is meant and not as it is written: `\u0069d` is `id`.
        let key = self.key.take();
        let key = key.and_then(|key| serde_json::from_slice::<String>(&key).ok());
        match key.as_deref() {
            Some("id") => {
                self.id = match self.id {
                    Id::Absent => Id::Once(value),
                    Id::Once(_) | Id::Several => Id::Several,
                }
            }
            Some("method") => self.method = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan {
        let mut scan = Scan::default();
        // Piece by piece, as it may come.
        for byte in text.as_bytes() {
            scan.feed(&[*byte]);
        }
        scan
    }

    #[test]
    fn id_is_found_before_and_after_everything_else() {
        for text in [
            r#"{"id":7,"method":"x","params":{"id":8,"a":["}",{"id":9}]}}"#,
            r#"{"method":"x","params":{"id":8,"a":["\"id\":9,"]}, "id" : 7 }"#,
            r#"{"method":"x","params":"\ud800","id":7,"broken"#,
        ] {
            let scan = scan(text);
            assert_eq!(scan.id(), Some(RequestId::Number(7)), "{text}");
            assert!(scan.is_request());
        }
    }

    #[test]
    fn id_of_the_wrong_kind_is_none_but_is_there() {
        for text in [
            r#"{"id":null,"method":"x"}"#,
            r#"{"id":{"a":1},"method":"x"}"#,
        ] {
            let scan = scan(text);
            assert_eq!(scan.id(), None, "{text}");
            assert!(scan.has_id());
        }
    }

    #[test]
    fn of_several_ids_none_is_taken_and_they_are_there() {
        for text in [
            r#"{"id":1,"id":2,"method":"x"}"#,
            r#"{"id":1,"id":2,"method":"x","id":3}"#,
        ] {
            let scan = scan(text);
            assert_eq!(scan.id(), None, "{text}");
            assert!(scan.has_id(), "{text}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_meant() {
        let scan = scan(r#"{"\u0069d":7,"metho\u0064":"x","broken"#);
        assert_eq!(scan.id(), Some(RequestId::Number(7)));
        assert!(scan.is_request());
    }

    #[test]
    fn response_and_batch_are_no_request() {
        assert!(!scan(r#"{"id":7,"result":{"method":"x"}}"#).is_request());
        let batch = scan(r#"[{"id":7,"method":"x"}]"#);
        assert!(batch.is_array() && !batch.is_request() && !batch.has_id());
    }

    #[test]
    fn endless_nesting_and_keys_take_no_memory() {
        let scan = scan(&format!("{}{}", "{\"".repeat(100_000), "[".repeat(100_000)));
        assert!(scan.token.len() <= TOKEN_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_scanned(text: Vec<u8>) {
            let mut scan = Scan::default();
            scan.feed(&text);
            let _ = scan.id();
        }
    }
}
