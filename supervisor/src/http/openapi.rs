//! `/openapi.json`: the description of the plain interface (OpenAPI 3.1), from the types that are
//! served.

use std::sync::LazyLock;

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::{MEDIA_TYPE, Problem};
use super::run::RECEIPT;
use crate::outcome::Outcome;

/// The document.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// Serves it.
pub async fn serve() -> Response {
    Json(&*DOCUMENT).into_response()
}

fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let outcome = generator.subschema_for::<Outcome>();
    let problem = generator.subschema_for::<Problem>();
    let schemas = generator.take_definitions(true);
    let health = |summary: &str| {
        let answers = [(200, "It is.", body(&json!({ "type": "object" })))];
        json!({ "get": operation(summary, &[], json!({}), &answers, &[503], &problem) })
    };
    let tools = json!({
        "type": "object",
        "required": ["tools"],
        "properties": { "tools": { "type": "array", "items": {
            "type": "object",
            "required": ["name", "inputSchema"],
            "properties": {
                "name": { "type": "string" },
                "title": { "type": "string" },
                "description": { "type": "string" },
                "inputSchema": { "type": "object" },
                "annotations": { "type": "object" },
            },
        } } },
    });
    let outcome = json!({ "application/json": { "schema": outcome } });
    let arguments = json!({ "type": "object", "description": "By the tool's `inputSchema`." });
    let run = operation(
        "Call a tool",
        &[json!({
            "name": "tool", "in": "path", "required": true, "schema": { "type": "string" },
        })],
        json!({ "required": true, "content": body(&arguments) }),
        &[(
            200,
            "How the call ended, whatever the tool made of it.",
            outcome,
        )],
        &[400, 401, 403, 404, 406, 408, 413, 415, 421, 429, 500, 503],
        &problem,
    );
    let list = operation(
        "List the tools that you may call",
        &[],
        json!({}),
        &[(200, "The tools, sorted by name.", body(&tools))],
        &[400, 401, 403, 421, 503],
        &problem,
    );
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Toolcell",
            "version": env!("CARGO_PKG_VERSION"),
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "security": [{ "bearer": [] }, { "key": [] }, {}],
        "paths": {
            "/tools": { "get": list },
            "/run/{tool}": { "post": run },
            "/livez": health("Whether the process answers"),
            "/readyz": health("Whether calls are served"),
            "/health": health("Whether calls are served"),
            "/openapi.json": { "get": operation(
                "This document",
                &[],
                json!({}),
                &[(200, "It.", body(&json!({ "type": "object" })))],
                &[400, 401, 403, 421, 503],
                &problem,
            ) },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
        },
    })
}

fn body(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

fn operation(
    summary: &str,
    parameters: &[Value],
    request: Value,
    answers: &[(u16, &str, Value)],
    problems: &[u16],
    problem: &schemars::Schema,
) -> Value {
    let mut responses = Map::new();
    for (status, description, content) in answers {
        let mut answer = json!({ "description": description, "content": content });
        if parameters
            .iter()
            .any(|parameter| parameter["name"] == "tool")
        {
            answer["headers"] = json!({ RECEIPT.as_str(): {
                "description": "Number and hash of the call's receipt.",
                "schema": { "type": "string" },
            } });
        }
        responses.insert(status.to_string(), answer);
    }
    for status in problems {
        let status = http::StatusCode::from_u16(*status).unwrap_or_default();
        let answer = json!({
            "description": status.canonical_reason(),
            "content": { MEDIA_TYPE: { "schema": problem } },
        });
        responses.insert(status.as_str().to_owned(), answer);
    }
    let mut operation = json!({ "summary": summary, "responses": responses });
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if request
        .as_object()
        .is_some_and(|request| !request.is_empty())
    {
        operation["requestBody"] = request;
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    found.push(reference.clone());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let mut found = Vec::new();
        references(&DOCUMENT, &mut found);
        assert!(
            found.contains(&"#/components/schemas/Outcome".to_owned()),
            "{found:?}"
        );
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_schema_is_one() {
        for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
            let found = jsonschema::meta::validate(schema);
            assert!(found.is_ok(), "{name}: {found:?}");
        }
    }
}
