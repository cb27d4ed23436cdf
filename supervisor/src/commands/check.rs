//! `toolcell check`: whether profiles are right, and what this host makes of them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use profiles::diagnostics::{Diagnostic, Diagnostics};
use profiles::host::Host;
use profiles::library::Library;
use profiles::resolve::Overrides;
use serde_json::{Value, json};

use super::{Page, SourceArgs, answer, answer_json, show};
use crate::catalog::{self, Directory};

/// Arguments of `toolcell check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Check these profiles; else all there are
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// What was found about one profile.
struct Checked {
    name: String,
    file: String,
    verdict: Verdict,
}

enum Verdict {
    /// It is a tool here, or a base.
    Right,
    /// It is right, but no tool here.
    NotHere(Diagnostics),
    Wrong(Diagnostics),
}

/// Checks profiles; the exit status is 1 if one is wrong.
#[must_use]
pub fn run(args: &Args, host: &Host) -> ExitCode {
    let (library, names) = match gather(&args.files, &args.sources.directories()) {
        Ok(gathered) => gathered,
        Err(diagnostics) => return unreadable(args.json, &diagnostics),
    };
    let overrides = args.sources.overrides();
    let checked: Vec<_> = names
        .into_iter()
        .map(|name| check(&library, name, &overrides, host))
        .collect();
    let wrong = checked
        .iter()
        .any(|checked| matches!(checked.verdict, Verdict::Wrong(_)));
    let status = if wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    };
    if args.json {
        let profiles: Vec<_> = checked.iter().map(as_json).collect();
        return answer_json(&json!({ "right": !wrong, "profiles": profiles }), status);
    }
    let mut page = Page::default();
    for Checked {
        name,
        file,
        verdict,
    } in &checked
    {
        match verdict {
            Verdict::Right => page.line(0, &format!("right     {name} ({file})")),
            Verdict::NotHere(why) => {
                let why = catalog::reason(why);
                page.line(0, &format!("not here  {name} ({file}): {why}"));
            }
            Verdict::Wrong(diagnostics) => {
                page.line(0, &format!("wrong     {name} ({file})"));
                show(diagnostics);
            }
        }
    }
    answer(&page.text, status)
}

fn unreadable(json: bool, diagnostics: &Diagnostics) -> ExitCode {
    if json {
        let found: Vec<_> = diagnostics.0.iter().map(diagnostic_json).collect();
        let value = json!({ "right": false, "profiles": [], "diagnostics": found });
        return answer_json(&value, ExitCode::FAILURE);
    }
    show(diagnostics);
    ExitCode::FAILURE
}

/// Every profile that the named ones may extend, and the names of those to check.
fn gather(
    files: &[PathBuf],
    directories: &[Directory],
) -> Result<(Library, Vec<String>), Diagnostics> {
    let beside: Vec<PathBuf> = files.iter().filter_map(|file| canonical(file)).collect();
    let mut library = catalog::library_without(directories, &beside)?;
    if files.is_empty() {
        let names = library.names().map(str::to_owned).collect();
        return Ok((library, names));
    }
    let mut names = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match catalog::source(file).and_then(|source| library.add(source)) {
            Ok(name) => names.push(name),
            Err(found) => problems.extend(found.0),
        }
    }
    if problems.is_empty() {
        Ok((library, names))
    } else {
        Err(Diagnostics(problems))
    }
}

fn canonical(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok()
}

fn check(library: &Library, name: String, overrides: &Overrides, host: &Host) -> Checked {
    let file = library
        .source(&name)
        .map_or_else(String::new, |source| source.name.clone());
    let compiled = library.resolve(&name, overrides).and_then(|resolved| {
        if resolved.is_tool() {
            catalog::compile(&resolved, host)?;
        }
        Ok(())
    });
    let verdict = match compiled {
        Ok(()) => Verdict::Right,
        Err(found) if catalog::cannot_here(&found) => Verdict::NotHere(found),
        Err(found) => Verdict::Wrong(found),
    };
    Checked {
        name,
        file,
        verdict,
    }
}

fn as_json(checked: &Checked) -> Value {
    let (verdict, found) = match &checked.verdict {
        Verdict::Right => ("right", None),
        Verdict::NotHere(found) => ("not_here", Some(found)),
        Verdict::Wrong(found) => ("wrong", Some(found)),
    };
    let diagnostics: Vec<_> = found
        .into_iter()
        .flat_map(|found| &found.0)
        .map(diagnostic_json)
        .collect();
    json!({
        "name": checked.name,
        "file": checked.file,
        "verdict": verdict,
        "diagnostics": diagnostics,
    })
}

fn diagnostic_json(diagnostic: &Diagnostic) -> Value {
    json!({
        "message": diagnostic.message,
        "file": diagnostic.origin.as_ref().map(|origin| origin.file.name.clone()),
        "line": diagnostic.origin.as_ref().map(profiles::diagnostics::Origin::line),
        "column": diagnostic.origin.as_ref().map(profiles::diagnostics::Origin::column),
        "expected": diagnostic.expected,
        "hint": diagnostic.hint,
    })
}
