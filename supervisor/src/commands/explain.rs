//! `toolcell explain`: what a tool may do, line by line, and why.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use profiles::compile::Compiled;
use profiles::diagnostics::Diagnostics;
use profiles::host::Host;
use profiles::library::Library;
use profiles::placeholders::Piece;
use profiles::resolve::{Limits, Resolved, Workspace};
use profiles::schema::Effect;
use serde_json::{Value, json};

use super::{Page, SourceArgs, answer, answer_json, show};
use crate::catalog::{self, Directory};
use crate::tool::annotations;

/// Arguments of `toolcell explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A profile, by its name or its file
    #[arg(value_name = "NAME|FILE")]
    pub profile: String,
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Explains one profile.
#[must_use]
pub fn run(args: &Args, host: &Host) -> ExitCode {
    let explained = find(&args.profile, &args.sources).and_then(|(library, name)| {
        let resolved = library.resolve(&name, &args.sources.overrides())?;
        let compiled = match catalog::compile(&resolved, host) {
            Ok(compiled) => Ok(compiled),
            Err(found) if catalog::cannot_here(&found) => Err(catalog::reason(&found)),
            Err(found) => return Err(found),
        };
        Ok((resolved, compiled))
    });
    match explained {
        Err(diagnostics) => {
            show(&diagnostics);
            ExitCode::FAILURE
        }
        Ok((resolved, compiled)) if args.json => {
            answer_json(&as_json(&resolved, &compiled), ExitCode::SUCCESS)
        }
        Ok((resolved, compiled)) => answer(&text(&resolved, &compiled), ExitCode::SUCCESS),
    }
}

/// Finds a profile by its name, or by its file if the text looks like a path; with it, whatever it
/// may extend.
pub fn find(profile: &str, sources: &SourceArgs) -> Result<(Library, String), Diagnostics> {
    let (library, name) = find_profile(profile, &sources.directories())?;
    catalog::only_hosts_for(&name, &sources.overrides())?;
    Ok((library, name))
}

fn find_profile(
    profile: &str,
    directories: &[Directory],
) -> Result<(Library, String), Diagnostics> {
    let path = Path::new(profile);
    let is_path = profile.contains('/') || path.extension().is_some_and(|toml| toml == "toml");
    if !is_path {
        return Ok((catalog::library(directories)?, profile.to_owned()));
    }
    let beside: Vec<_> = path.canonicalize().into_iter().collect();
    let mut library = catalog::library_without(directories, &beside)?;
    let name = library.add(catalog::source(path)?)?;
    Ok((library, name))
}

fn as_json(resolved: &Resolved, compiled: &Result<Compiled, String>) -> Value {
    let here = match compiled {
        Ok(compiled) => json!({
            "offered": resolved.is_tool(),
            "digest": compiled.digest,
            "filter": compiled.filter_digest,
            "landlock_abi": compiled.template.landlock.abi,
            "mounts": compiled.template.mounts.len(),
            "landlock_rules": compiled.template.landlock.rules.len(),
        }),
        Err(why) => json!({ "offered": false, "why": why }),
    };
    json!({
        "profile": resolved,
        "rules": resolved.rules,
        "annotations": annotations(resolved),
        "here": here,
    })
}

fn text(resolved: &Resolved, compiled: &Result<Compiled, String>) -> String {
    let mut page = Page::default();
    let kind = if resolved.is_tool() { "tool" } else { "base" };
    page.line(
        0,
        &format!("{} ({kind}): {}", resolved.name, resolved.title),
    );
    for line in resolved.description.lines() {
        page.line(1, line);
    }
    page.list("weaker than the default", &resolved.weakenings);
    if let Err(why) = compiled {
        page.list("not offered on this host", std::slice::from_ref(why));
    }
    page.list("runs", &command(resolved));
    rules(&mut page, resolved);
    page.list("workspace at `/work`", &[workspace(&resolved.workspace)]);
    let mut of_call = limits(&resolved.limits);
    if !resolved.network.is_none() {
        of_call.push(format!(
            "egress      {} both ways, {} connections at once",
            size(resolved.limits.egress),
            resolved.limits.connections
        ));
    }
    page.list("limits of one call", &of_call);
    page.list("clients are told", &hints(resolved));
    if let Ok(compiled) = compiled {
        let landlock = &compiled.template.landlock;
        let enforced = [
            format!(
                "{} mounts in a root of its own",
                compiled.template.mounts.len()
            ),
            format!(
                "Landlock ABI {}, {} rules",
                landlock.abi,
                landlock.rules.len()
            ),
            format!(
                "seccomp, {} instructions, digest {}",
                compiled.template.filter.program.len(),
                compiled.filter_digest
            ),
            format!("profile digest {}", compiled.digest),
        ];
        page.list("compiled for this host", &enforced);
    }
    page.text
}

fn command(resolved: &Resolved) -> Vec<String> {
    let Some(run) = &resolved.run else {
        return Vec::new();
    };
    let mut line = run.program.display().to_string();
    for word in &run.arguments {
        let flag = word.flag.as_ref().map(|flag| format!("{flag} "));
        line.push(' ');
        line.push_str(&flag.unwrap_or_default());
        line.push_str(&written(&word.piece));
    }
    let mut lines = vec![line];
    if let Some(stdin) = &run.stdin {
        lines.push(format!("standard input: {}", written(stdin)));
    }
    let environment = &resolved.environment;
    lines.push(format!("in {}", written(&environment.cwd)));
    lines.extend(
        environment
            .set
            .iter()
            .map(|(name, value)| format!("{name}={}", written(value))),
    );
    lines
}

fn written(piece: &Piece) -> String {
    match piece {
        Piece::Literal(text) if text.contains(['\n', ' ']) || text.is_empty() => {
            format!("{text:?}")
        }
        Piece::Literal(text) => text.clone(),
        Piece::Argument(name) => format!("{{{name}}}"),
        Piece::Root(name) => format!("{{roots.{name}}}"),
    }
}

/// Every rule under its key, with its reason and where it stands.
fn rules(page: &mut Page, resolved: &Resolved) {
    let mut keys: Vec<&str> = Vec::new();
    for rule in &resolved.rules {
        if !keys.contains(&rule.key) {
            keys.push(rule.key);
        }
    }
    for key in keys {
        let of_key = || resolved.rules.iter().filter(|rule| rule.key == key);
        let width = of_key()
            .map(|rule| rule.text.len())
            .max()
            .unwrap_or(0)
            .min(32);
        let items: Vec<_> = of_key()
            .map(|rule| {
                let why = if rule.why.is_empty() {
                    "(no reason given)"
                } else {
                    &rule.why
                };
                format!("{:width$}  {why}  [{}]", rule.text, rule.place)
            })
            .collect();
        page.list(key, &items);
    }
}

fn workspace(workspace: &Workspace) -> String {
    match workspace {
        Workspace::Ephemeral { bytes } => {
            format!("ephemeral: {} in memory, gone with the call", size(*bytes))
        }
        Workspace::Named { name } => format!("named `{name}`: persists for each caller"),
        Workspace::Host { path } => format!("the directory `{}` of the host", path.display()),
        Workspace::None => "none".to_owned(),
    }
}

fn limits(limits: &Limits) -> Vec<String> {
    let mut lines = vec![
        format!(
            "memory      {}, swap {}",
            size(limits.memory),
            size(limits.swap)
        ),
        format!(
            "cpu         {} cores, {} in all",
            limits.cpu,
            time(limits.cpu_time)
        ),
        format!("wall        {}", time(limits.wall)),
    ];
    if let Some(idle) = limits.idle {
        lines.push(format!("idle        {} without output", time(idle)));
    }
    lines.extend([
        format!(
            "grace       {} between SIGTERM and SIGKILL",
            time(limits.grace)
        ),
        format!("pids        {}", limits.pids),
        format!("open_files  {}", limits.open_files),
        format!(
            "output      {}, {} of a stream in the answer",
            size(limits.output),
            size(limits.inline)
        ),
        format!(
            "disk        {}, tmp {}, shm {}",
            size(limits.disk),
            size(limits.tmp),
            size(limits.shm)
        ),
        format!("file_size   {}", size(limits.file_size)),
        format!("concurrency {}", limits.concurrency),
    ]);
    if let Some(rate) = limits.rate {
        lines.push(format!("rate        {} in {}", rate.calls, time(rate.per)));
    }
    lines
}

fn hints(resolved: &Resolved) -> Vec<String> {
    if !resolved.is_tool() {
        return Vec::new();
    }
    let hints = annotations(resolved);
    let pairs = [
        ("readOnlyHint", hints.read_only_hint),
        ("destructiveHint", hints.destructive_hint),
        ("idempotentHint", hints.idempotent_hint),
        ("openWorldHint", hints.open_world_hint),
    ];
    let hints = pairs
        .into_iter()
        .filter_map(|(name, hint)| Some(format!("{name}: {}", hint?)));
    let effect = match resolved.effect() {
        Effect::Reads => Some("it only asks"),
        Effect::Adds => Some("it takes nothing away"),
        Effect::Changes => None,
    };
    let effect = effect
        .filter(|_| resolved.reaches_out())
        .map(|what| format!("of what it reaches, by `run.effect`, which nothing enforces: {what}"));
    hints.chain(effect).collect()
}

/// A size in the largest unit that has no fraction.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    UNITS
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} B"),
            |(unit, name)| format!("{} {name}", bytes / unit),
        )
}

fn time(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
