//! The JSON Schema of a profile, by which editors check and complete.

use serde_json::Value;

use super::Profile;

/// The JSON Schema of a profile, for editors.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let schema = schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Profile>();
    without_null(schema.to_value())
}

/// The schema without `null`, which TOML cannot write: what is absent is left out.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let is_null = |schema: &Value| schema["type"] == "null";
            let mut kept = serde_json::Map::new();
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("type", Value::Array(mut types)) => {
                        types.retain(|kind| kind != "null");
                        let single = (types.len() == 1).then(|| types.remove(0));
                        kept.insert(key, single.unwrap_or(Value::Array(types)));
                    }
                    ("anyOf", Value::Array(schemas)) if schemas.iter().any(is_null) => {
                        let others = schemas.into_iter().filter(|schema| !is_null(schema));
                        let mut others: Vec<_> = others.map(without_null).collect();
                        match (others.pop(), others.is_empty()) {
                            (Some(Value::Object(only)), true) => kept.extend(only),
                            (last, _) => {
                                others.extend(last);
                                kept.insert(key, Value::Array(others));
                            }
                        }
                    }
                    (_, value) => {
                        kept.insert(key, without_null(value));
                    }
                }
            }
            Value::Object(kept)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_null).collect()),
        other => other,
    }
}
