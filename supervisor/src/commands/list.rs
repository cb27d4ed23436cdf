//! `toolcell list`: which tools there are, and which there could be.

use std::process::ExitCode;

use profiles::host::Host;
use serde_json::{Value, json};

use super::{Page, SourceArgs, answer, answer_json, show};
use crate::catalog::{Catalog, Snapshot};
use crate::tool::Tool;

/// Arguments of `toolcell list`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Lists the tools that this host would serve.
#[must_use]
pub fn run(args: &Args, host: Host) -> ExitCode {
    let catalog = match Catalog::load(args.sources.sources(host)) {
        Ok(catalog) => catalog,
        Err(diagnostics) => {
            show(&diagnostics);
            return ExitCode::FAILURE;
        }
    };
    let snapshot = catalog.snapshot();
    if args.json {
        return answer_json(&as_json(&snapshot), ExitCode::SUCCESS);
    }
    answer(&text(&snapshot), ExitCode::SUCCESS)
}

fn as_json(snapshot: &Snapshot) -> Value {
    let tools: Vec<_> = snapshot
        .tools
        .values()
        .map(|tool| {
            json!({
                "name": tool.name(),
                "title": tool.compiled.resolved.title,
                "description": tool.compiled.resolved.description,
                "annotations": tool.definition.annotations,
                "input": tool.compiled.resolved.input,
                "weakenings": tool.compiled.resolved.weakenings,
                "digest": tool.compiled.digest,
            })
        })
        .collect();
    json!({ "tools": tools, "left_out": snapshot.left_out })
}

fn text(snapshot: &Snapshot) -> String {
    let names = snapshot.tools.keys().map(String::as_str);
    let left_out = snapshot.left_out.iter().map(|tool| tool.name.as_str());
    let width = names.chain(left_out).map(str::len).max().unwrap_or(0);
    let mut page = Page::default();
    for tool in snapshot.tools.values() {
        let (name, traits, title) = (tool.name(), traits(tool), title(tool));
        page.line(0, &format!("{name:width$}  {traits:21}  {title}"));
    }
    let left_out: Vec<_> = snapshot
        .left_out
        .iter()
        .map(|tool| format!("{:width$}  {}", tool.name, tool.why))
        .collect();
    page.list("not offered", &left_out);
    page.text
}

fn title(tool: &Tool) -> &str {
    let profile = &tool.compiled.resolved;
    if profile.title.is_empty() {
        profile.description.lines().next().unwrap_or_default()
    } else {
        &profile.title
    }
}

/// What the hints to clients come from, in two words.
fn traits(tool: &Tool) -> String {
    let profile = &tool.compiled.resolved;
    let writes = if profile.is_read_only() {
        "read-only"
    } else {
        "writes"
    };
    let network = match (profile.network.is_none(), profile.sockets.is_empty()) {
        (true, true) => "no network",
        (true, false) => "no network but Unix sockets",
        (false, _) => "network",
    };
    format!("{writes}, {network}")
}
