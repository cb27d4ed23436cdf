//! The one place where what a model sends becomes typed.

use std::fmt;
use std::sync::Arc;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::diagnostics::{did_you_mean, listed, shortened, shortened_to};

/// Deepest nesting of arguments.
pub const ARGUMENT_DEPTH_MAX: usize = 64;
/// Longest description of one expectation, in characters.
const EXPECTED_CHARS_MAX: usize = 200;
/// Most heap that a compiled `pattern` may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Why a call's arguments are refused.
///
/// The text never repeats more than a line of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ArgumentError {
    /// JSON pointer to the argument, such as `/code`; empty if it is about all of them.
    pub pointer: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// What would mend it.
    pub hint: Option<String>,
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            write!(f, "arguments: ")?;
        } else {
            write!(f, "argument `{}`: ", self.pointer)?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)?;
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl ArgumentError {
    /// An error about one top-level argument.
    pub(crate) fn about(name: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            pointer: if name.is_empty() {
                String::new()
            } else {
                format!("/{name}")
            },
            expected: expected.into(),
            found: found.into(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A tool's input schema, compiled once.
#[derive(Debug, Clone)]
pub struct InputSchema {
    schema: Arc<Value>,
    validator: Arc<Validator>,
}

impl InputSchema {
    /// Compiles a schema; references to anything outside it are an error.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(schema)
            .map_err(|error| match error.kind() {
                ValidationErrorKind::Referencing(_) => {
                    "a `$ref` leads out of it, or to nothing".to_owned()
                }
                _ => shortened_to(&error.to_string(), EXPECTED_CHARS_MAX),
            })?;
        Ok(Self {
            schema: Arc::new(schema.clone()),
            validator: Arc::new(validator),
        })
    }

    /// The schema as it is published.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    fn property(&self, name: &str) -> Option<&Value> {
        self.schema.get("properties")?.get(name)
    }

    /// Whether an argument, or each item of it, is an integer and no other number.
    pub(crate) fn is_integer(&self, name: &str) -> bool {
        let has = |schema: &Value, kind: &str| match schema.get("type") {
            Some(Value::String(only)) => only == kind,
            Some(Value::Array(several)) => several.iter().any(|one| one == kind),
            _ => false,
        };
        let integer = |schema: &Value| has(schema, "integer") && !has(schema, "number");
        self.property(name)
            .is_some_and(|schema| integer(schema) || schema.get("items").is_some_and(integer))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let properties = self.schema.get("properties").and_then(Value::as_object);
        properties
            .into_iter()
            .flat_map(Map::keys)
            .map(String::as_str)
    }
}

/// The arguments of a call, as its tool's schema wants them.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments(Map<String, Value>);

impl Arguments {
    /// Checks what was sent against the schema; `null` counts as no arguments at all.
    ///
    /// A top-level argument that is absent takes the schema's `default`, if it has one.
    pub fn check(schema: &InputSchema, value: Value) -> Result<Self, ArgumentError> {
        let mut map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => return Err(ArgumentError::about("", "an object", kind_of(&other))),
        };
        if map
            .values()
            .any(|value| deeper_than(value, ARGUMENT_DEPTH_MAX))
        {
            let expected = format!("at most {ARGUMENT_DEPTH_MAX} levels of nesting");
            return Err(ArgumentError::about("", expected, "more"));
        }
        for name in schema.names() {
            if !map.contains_key(name)
                && let Some(default) = schema.property(name).and_then(|p| p.get("default"))
            {
                map.insert(name.to_owned(), default.clone());
            }
        }
        let value = Value::Object(map);
        // The first error is told: with one mended, the caller asks again.
        if let Some(error) = schema.validator.iter_errors(&value).next() {
            return Err(explained(schema, &error));
        }
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(ArgumentError::about("", "an object", kind_of(&other))),
        }
    }

    /// No arguments.
    #[must_use]
    pub fn none() -> Self {
        Self(Map::new())
    }

    /// One argument, if the call has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them as JSON, for their digest.
    #[must_use]
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// An error of the schema's validator, in our words and of bounded size.
fn explained(schema: &InputSchema, error: &ValidationError<'_>) -> ArgumentError {
    let pointer = shortened(error.instance_path().as_str());
    let found = kind_of(error.instance());
    let about = |expected: String, found: String| ArgumentError {
        pointer: pointer.clone(),
        expected: shortened_to(&expected, EXPECTED_CHARS_MAX),
        found,
        hint: None,
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or("?");
            let mut missing = about("a value".to_owned(), "nothing".to_owned());
            missing.pointer = format!("{pointer}/{}", shortened(name));
            missing
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            let expected = match schema.names().next() {
                Some(_) => format!("one of {}", listed(schema.names())),
                None => "no arguments".to_owned(),
            };
            let mut unknown = about(expected, format!("`{}`", shortened(name)));
            unknown.pointer = format!("{pointer}/{}", shortened(name));
            unknown.hint = did_you_mean(name, schema.names());
            unknown
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(kind) => with_article(&kind.to_string()),
                TypeKind::Multiple(kinds) => {
                    let kinds: Vec<_> = kinds.iter().map(|kind| kind.to_string()).collect();
                    format!("one of {}", kinds.join(", "))
                }
            };
            about(expected, found)
        }
        ValidationErrorKind::Enum { options } => about(format!("one of {options}"), found),
        ValidationErrorKind::Constant { expected_value } => {
            about(expected_value.to_string(), found)
        }
        ValidationErrorKind::Pattern { pattern } => {
            about(format!("text that matches `{pattern}`"), found)
        }
        ValidationErrorKind::Format { format } => about(format!("the format `{format}`"), found),
        other => match bound(other, error.instance()) {
            Some((expected, Some(measured))) => about(expected, measured.to_string()),
            Some((expected, None)) => about(expected, found),
            None => {
                let keyword = format!("what the schema's `{}` says", other.keyword());
                about(keyword, found)
            }
        },
    }
}

/// A bound that a value does not keep, and the value's own measure where it is not the value
/// itself.
fn bound(kind: &ValidationErrorKind, value: &Value) -> Option<(String, Option<usize>)> {
    let chars = value.as_str().map(|text| text.chars().count());
    let items = value.as_array().map(Vec::len);
    Some(match kind {
        ValidationErrorKind::MaxLength { limit } => (format!("at most {limit} characters"), chars),
        ValidationErrorKind::MinLength { limit } => (format!("at least {limit} characters"), chars),
        ValidationErrorKind::MaxItems { limit } => (format!("at most {limit} items"), items),
        ValidationErrorKind::MinItems { limit } => (format!("at least {limit} items"), items),
        ValidationErrorKind::Maximum { limit } => (format!("at most {limit}"), None),
        ValidationErrorKind::Minimum { limit } => (format!("at least {limit}"), None),
        ValidationErrorKind::ExclusiveMaximum { limit } => (format!("less than {limit}"), None),
        ValidationErrorKind::ExclusiveMinimum { limit } => (format!("more than {limit}"), None),
        _ => return None,
    })
}

fn with_article(kind: &str) -> String {
    match kind {
        "array" | "integer" | "object" => format!("an {kind}"),
        "null" => kind.to_owned(),
        _ => format!("a {kind}"),
    }
}

/// What a value is, with so much of it as fits a line.
fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {}", shortened(&number.to_string())),
        Value::String(text) => format!("the string `{}`", shortened(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn deeper_than(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| deeper_than(item, depth)),
        Value::Object(map) => map.values().any(|item| deeper_than(item, depth)),
        _ => false,
    }
}
