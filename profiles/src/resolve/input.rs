//! The schema of a tool's arguments, as far as placeholders depend on it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::diagnostics::{Diagnostic, Problems, did_you_mean};
use crate::placeholders::is_name;

use super::Chain;

/// Deepest nesting of an input schema: recursion over it stays shallow.
const SCHEMA_DEPTH_MAX: usize = 32;

/// The input schema and the types of its top-level arguments.
pub(super) struct Input {
    pub schema: Value,
    types: BTreeMap<String, ArgumentType>,
}

/// What a top-level argument is, as its schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArgumentType {
    /// A string.
    String,
    /// An integer or another number.
    Number,
    /// True or false.
    Boolean,
    /// An array of strings.
    Strings,
    /// Anything else; it can only be passed as JSON by way of the standard input.
    Other,
}

impl Input {
    pub(super) fn read(chain: &Chain<'_>, problems: &mut Problems) -> Self {
        let nothing =
            || json!({ "type": "object", "properties": {}, "additionalProperties": false });
        let none = |schema| Self {
            schema,
            types: BTreeMap::new(),
        };
        let Some((table, origin)) = chain.last(|p| p.input.as_ref()) else {
            return none(nothing());
        };
        let fail = |problems: &mut Problems, diagnostic| {
            problems.push(diagnostic);
            none(nothing())
        };
        let mut schema = match to_json(&toml::Value::Table(table.clone()), SCHEMA_DEPTH_MAX) {
            Ok(Value::Object(schema)) => schema,
            Ok(_) | Err(Unfit::Deep) => {
                let message = format!("`input` is nested deeper than {SCHEMA_DEPTH_MAX}");
                return fail(problems, Diagnostic::at(&origin, message));
            }
            Err(Unfit::Value(what)) => {
                let message = format!("`input` contains {what}, which JSON does not have");
                return fail(problems, Diagnostic::at(&origin, message));
            }
        };
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            let diagnostic = Diagnostic::at(&origin, "`input` is not the schema of an object")
                .with_hint("add `type = \"object\"`");
            return fail(problems, diagnostic);
        }
        // A name that the author did not foresee is a mistake of the caller, who should hear of it.
        if !schema.contains_key("unevaluatedProperties") {
            schema
                .entry("additionalProperties")
                .or_insert(Value::Bool(false));
        }
        schema
            .entry("properties")
            .or_insert_with(|| Value::Object(Map::new()));
        let schema = Value::Object(schema);
        if let Err(message) = crate::arguments::InputSchema::compile(&schema) {
            let message = format!("`input` is not a JSON Schema: {message}");
            return fail(problems, Diagnostic::at(&origin, message));
        }
        let mut types = BTreeMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if !is_name(name) {
                let name = crate::diagnostics::shortened(name);
                let message = format!("`{name}` cannot name an argument");
                problems.push(
                    Diagnostic::at(&origin, message).with_hint("use letters, digits, `_` and `-`"),
                );
            }
            types.insert(name.clone(), type_of(property));
        }
        let unknown = schema["required"].as_array().into_iter().flatten();
        for name in unknown.filter_map(Value::as_str) {
            if !types.contains_key(name) {
                let name = crate::diagnostics::shortened(name);
                problems.push(
                    Diagnostic::at(
                        &origin,
                        format!("`input` requires `{name}`, which has no schema"),
                    )
                    .with_hint_maybe(did_you_mean(&name, types.keys().map(String::as_str))),
                );
            }
        }
        Self { schema, types }
    }

    pub(super) fn type_of(&self, name: &str) -> Option<ArgumentType> {
        self.types.get(name).copied()
    }

    pub(super) fn is_string(&self, name: &str) -> bool {
        self.type_of(name) == Some(ArgumentType::String)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }
}

/// The type that a property's schema says its values have.
fn type_of(property: &Value) -> ArgumentType {
    let single = |schema: &Value| {
        schema
            .get("type")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    match single(property).as_deref() {
        Some("string") => ArgumentType::String,
        Some("integer" | "number") => ArgumentType::Number,
        Some("boolean") => ArgumentType::Boolean,
        Some("array") => match property.get("items").and_then(single).as_deref() {
            Some("string") if property.get("prefixItems").is_none() => ArgumentType::Strings,
            _ => ArgumentType::Other,
        },
        _ => ArgumentType::Other,
    }
}

/// Why a TOML value cannot be part of a JSON Schema.
enum Unfit {
    Deep,
    Value(String),
}

fn to_json(value: &toml::Value, depth: usize) -> Result<Value, Unfit> {
    let depth = depth.checked_sub(1).ok_or(Unfit::Deep)?;
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| Unfit::Value(format!("`{number}`")))?,
        toml::Value::Boolean(boolean) => Value::Bool(*boolean),
        toml::Value::Datetime(datetime) => {
            return Err(Unfit::Value(format!("the date `{datetime}`")));
        }
        toml::Value::Array(items) => {
            let items = items.iter().map(|item| to_json(item, depth));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| Ok((key.clone(), to_json(value, depth)?)));
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
    })
}
