//! `toolcell call`: one call by the same path as MCP.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use profiles::host::Host;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{SourceArgs, answer, answer_json, interrupted, serve, tell, with_kept_output};
use crate::audit::Durability;
use crate::caller::Caller;
use crate::commands::out::Out;
use crate::commands::run::{EXIT_NOT_STARTED, with_files};
use crate::keys;
use crate::render;
use crate::service::{Asker, Request, Run, Service};

/// Arguments of `toolcell call`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The tool
    #[arg(value_name = "TOOL")]
    pub tool: String,
    /// Its arguments: one JSON object, or `key=value` each
    ///
    /// A value is taken as the type that the tool's schema has for its key.
    #[arg(value_name = "JSON | key=value")]
    pub arguments: Vec<String>,
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Write the files that the tool leaves in `out/` into this directory; what is there stays
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Answer with the whole outcome in JSON
    #[arg(long)]
    pub json: bool,
}

/// Makes the call and exits as `toolcell run` would.
pub async fn run(args: &Args, out: Option<&Out>, host: Host, cells: Arc<dyn Run>) -> ExitCode {
    let service = serve::service(&args.sources, Durability::Kernel, host, cells);
    let Ok(service) = service else {
        return ExitCode::from(EXIT_NOT_STARTED);
    };
    let arguments = match arguments(&service, args) {
        Ok(arguments) => arguments,
        Err(what) => {
            tell(&format!("toolcell: {what}"));
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    let cancel = CancellationToken::new();
    let caller = Caller::local();
    let asker = Asker {
        caller: caller.clone(),
        cancel: cancel.clone(),
        progress: None,
        terminal: false,
    };
    let request = Request {
        tool: args.tool.clone(),
        arguments,
        asker,
    };
    let answered = interrupted(service.call(request), &cancel).await;
    let outcome = match answered {
        Ok(answer) => answer.outcome,
        Err(error) => {
            let snapshot = service.catalog.snapshot();
            // It may be known, and lack something here.
            let known = snapshot.left_out.iter().find(|left| left.name == args.tool);
            match known {
                Some(left) => tell(&format!("toolcell: {}", left.why)),
                None => tell(&format!(
                    "toolcell: {error}; hint: `toolcell list` lists the tools"
                )),
            }
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    let mut outcome = outcome;
    with_kept_output(&service.results, &caller.id, &mut outcome);
    let status = with_files(out, &service.results, &caller.id, &mut outcome);
    if args.json {
        return answer_json(&outcome, status);
    }
    answer(
        &(render::text(&outcome).trim_end().to_owned() + "\n"),
        status,
    )
}

/// The arguments as one JSON object.
fn arguments(service: &Service, args: &Args) -> Result<Value, String> {
    match args.arguments.as_slice() {
        [only] if only.trim_start().starts_with('{') => {
            let object = serde_json::from_str(only)
                .map_err(|error| format!("the arguments are not JSON: {error}"))?;
            match keys::repeated(only.as_bytes()) {
                Some(key) => Err(format!("`{key}` is given twice")),
                None => Ok(object),
            }
        }
        pairs => {
            let tool = service.catalog.tool(&args.tool);
            let schema = tool.as_ref().map(|tool| &tool.compiled.resolved.input);
            let mut object = Map::new();
            for pair in pairs {
                let (key, value) = pair.split_once('=').ok_or_else(|| {
                    format!("expected `key=value` or one JSON object, found `{pair}`")
                })?;
                let kind = schema
                    .and_then(|schema| schema.pointer(&format!("/properties/{key}/type")))
                    .and_then(Value::as_str);
                if object.insert(key.to_owned(), typed(value, kind)).is_some() {
                    return Err(format!("`{key}` is given twice"));
                }
            }
            Ok(Value::Object(object))
        }
    }
}

/// A value as the schema has it; what does not parse stays text, and the schema refuses it by name.
fn typed(text: &str, kind: Option<&str>) -> Value {
    match kind {
        None | Some("string") => Value::String(text.to_owned()),
        Some(_) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}
