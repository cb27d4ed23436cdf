//! Values that carry their place in the file, and values that are written as text.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_spanned::Spanned;

use super::{Deref, Duration, Range};
use crate::units;

/// A value with its place in the file; the place does not count when two are compared.
#[derive(Debug, Clone)]
pub struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// A value that was not written in any file.
    pub fn nowhere(value: T) -> Self {
        Self(Spanned::new(0..0, value))
    }

    /// Byte range in the file.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.get_ref()
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for At<T> {}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A table that can also be written as one string.
pub trait FromText {
    /// What a message says was expected.
    const EXPECTED: &'static str;

    /// The table that the string stands for.
    fn from_text(text: String) -> Self;
}

/// A table, or the string that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short<T>(pub T);

impl<T> Deref for Short<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de> + FromText> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrTable<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + FromText> Visitor<'de> for StringOrTable<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<T, E> {
                Ok(T::from_text(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_any(StringOrTable(PhantomData))
            .map(Self)
    }
}

impl<T: Serialize> Serialize for Short<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Short{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}

/// Makes a type that is written as a string and read by a function of [`crate::units`].
macro_rules! written_as_text {
    (
        $(#[$doc:meta])*
        $name:ident($inner:ty), $parse:expr, $show:expr, $expected:literal, $pattern:literal
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Result<$inner, units::UnitError> = $parse;
                        parse(text).map($name).map_err(|error| with_hint(&error, error.hint()))
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let show: fn(&$inner) -> String = $show;
                serializer.serialize_str(&show(&self.0))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $expected,
                    "pattern": $pattern,
                })
            }
        }
    };
}

written_as_text!(
    /// A size in bytes.
    Size(u64),
    units::parse_size,
    |bytes| units::Size(*bytes).to_string(),
    "a size with a unit, such as `512 MiB`",
    r"^\s*[0-9]+(\.[0-9]+)?\s*(B|[KMGT]iB|[kMGT]B)\s*$"
);

written_as_text!(
    /// A duration.
    HumanDuration(Duration),
    units::parse_duration,
    |duration| units::Span(*duration).to_string(),
    "a duration with a unit, such as `30 s`",
    r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|min|h)\s*$"
);

written_as_text!(
    /// How many calls in what time.
    Rate((u32, Duration)),
    units::parse_rate,
    |(calls, per)| {
        let per = units::Span(*per).to_string();
        format!("{calls}/{}", per.trim_start_matches("1 "))
    },
    "a rate, such as `60/min`",
    r"^\s*[0-9]+\s*/\s*(s|min|h)\s*$"
);

/// Separates message and hint in an error that has to pass through serde as one text.
pub(crate) const HINT_MARK: &str = "\nhint: ";

fn with_hint<E: serde::de::Error>(error: &dyn fmt::Display, hint: Option<String>) -> E {
    match hint {
        Some(hint) => E::custom(format_args!("{error}{HINT_MARK}{hint}")),
        None => E::custom(error),
    }
}

/// A whole number that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Count(pub u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u32::try_from(number).map(Self).map_err(|_| {
            D::Error::custom(format_args!(
                "`{number}` is out of range, expected a whole number from 0 to {}",
                u32::MAX
            ))
        })
    }
}
