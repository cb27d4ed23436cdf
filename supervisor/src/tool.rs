//! A tool: a compiled profile, as MCP clients see it and as calls go through it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use profiles::compile::Compiled;
use profiles::resolve::Resolved;
use rmcp::model::{JsonObject, ToolAnnotations};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::admission::Gate;
use crate::outcome::Outcome;

/// One tool.
pub struct Tool {
    /// The profile, compiled for this host.
    pub compiled: Arc<Compiled>,
    /// SHA-256 of the template, in hexadecimal: the same profile can compile to another template
    /// when the host has changed.
    pub template: String,
    /// What clients are told.
    pub definition: rmcp::model::Tool,
    /// Concurrency and rate.
    pub gate: Arc<Gate>,
}

impl Tool {
    /// Makes a tool of a compiled profile. It goes through the gate of the tool that it replaces, if
    /// the limits are still the same.
    #[must_use]
    pub fn new(compiled: Compiled, replaces: Option<&Self>) -> Self {
        let limits = &compiled.resolved.limits;
        let gate = replaces
            .map(|tool| &tool.gate)
            .filter(|gate| gate.fits(limits))
            .map_or_else(|| Arc::new(Gate::new(limits)), Arc::clone);
        Self {
            definition: definition(&compiled.resolved),
            template: template_digest(&compiled),
            compiled: Arc::new(compiled),
            gate,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.compiled.resolved.name
    }

    /// The variables of this process's environment that the profile passes on.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let names = &self.compiled.resolved.environment.pass;
        names
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
            .collect()
    }
}

fn template_digest(compiled: &Compiled) -> String {
    let bytes = runner::wire::encode(&compiled.template).unwrap_or_default();
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What clients are told of a tool.
fn definition(profile: &Resolved) -> rmcp::model::Tool {
    let input = match &profile.input {
        Value::Object(schema) => schema.clone(),
        // A resolved profile's schema is an object; whatever else it were would allow nothing.
        _ => JsonObject::from_iter([("not".to_owned(), Value::Object(JsonObject::new()))]),
    };
    let description = (!profile.description.is_empty()).then(|| profile.description.clone().into());
    let mut tool =
        rmcp::model::Tool::new_with_raw(profile.name.clone(), description, Arc::new(input))
            .with_raw_output_schema(Arc::clone(&OUTPUT_SCHEMA))
            .with_annotations(annotations(profile));
    if !profile.title.is_empty() {
        tool = tool.with_title(profile.title.clone());
    }
    tool
}

/// Hints that follow from what the cell enforces; an author's word counts for one thing only, which is
/// what the program does to the hosts that it reaches.
#[must_use]
pub fn annotations(profile: &Resolved) -> ToolAnnotations {
    let read_only = profile.is_read_only();
    ToolAnnotations::from_raw(
        (!profile.title.is_empty()).then(|| profile.title.clone()),
        Some(read_only),
        // What may write may overwrite, and what may do so twice may do harm twice.
        Some(profile.is_destructive()),
        Some(read_only),
        Some(profile.reaches_out()),
    )
}

/// JSON Schema of an [`Outcome`], which every tool's result is.
pub static OUTPUT_SCHEMA: LazyLock<Arc<JsonObject>> = LazyLock::new(|| {
    // Formats such as `uint64` are schemars' own; validators complain of them.
    let own_formats = RecursiveTransform(|schema: &mut schemars::Schema| {
        schema.remove("format");
    });
    let schema = SchemaSettings::draft2020_12()
        .with_transform(own_formats)
        .into_generator()
        .into_root_schema_for::<Outcome>();
    match Value::from(schema) {
        Value::Object(object) => Arc::new(object),
        _ => Arc::default(),
    }
});
