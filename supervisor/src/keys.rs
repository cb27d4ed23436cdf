//! Keys that a JSON object has twice: which of the two values counts, its readers do not agree on, so
//! that what one checked another may not see (RFC 8259, section 4).

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Longest key that is repeated in a message, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// The first key that an object in a JSON text has twice, as far as the text is JSON.
#[must_use]
pub fn repeated(text: &[u8]) -> Option<String> {
    let mut found = None;
    let walk = Walk { found: &mut found };
    let _ = walk.deserialize(&mut serde_json::Deserializer::from_slice(text));
    found.map(|key: String| key.chars().take(SHOWN_CHARS_MAX).collect())
}

/// Walks through a value up to the first such key.
struct Walk<'a> {
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                *self.found = Some(key);
                return Err(A::Error::custom("a key that is given twice"));
            }
            keys.insert(key);
            map.next_value_seed(Walk { found: self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list
            .next_element_seed(Walk { found: self.found })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn the_first_key_that_is_given_twice_is_found_at_any_depth() {
        for (text, key) in [
            (r#"{"a":1,"b":2,"a":3}"#, Some("a")),
            (r#"{"x":[0,{"deep":{"b":1,"b":1}}]}"#, Some("b")),
            // As keys are meant, and not as they are written.
            (r#"{"c":1,"\u0063":2}"#, Some("c")),
            (r#"{"d":1,"d":2,"#, Some("d")),
            (
                r#"{"a":{"a":[{"a":1},{"a":1}]},"b":null,"c":true,"e":-1.5,"f":18446744073709551615}"#,
                None,
            ),
            (r#"[{"a":1},{"a":1}]"#, None),
            ("no JSON", None),
        ] {
            assert_eq!(repeated(text.as_bytes()).as_deref(), key, "{text}");
        }
    }

    #[test]
    fn long_keys_are_shortened_and_deep_ones_bounded() {
        let key = "k".repeat(1000);
        let found = repeated(format!(r#"{{"{key}":1,"{key}":2}}"#).as_bytes());
        assert_eq!(found.map(|key| key.len()), Some(80));
        assert_eq!(repeated("[".repeat(1 << 20).as_bytes()), None);
    }
}
