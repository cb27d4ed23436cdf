//! `toolcell run`: any command in a cell.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use profiles::host::Host;
use profiles::resolve::{WORK, WorkspaceKind};
use tokio_util::sync::CancellationToken;

use super::{SourceArgs, answer_json, explain, show, tell, with_kept_output};
use crate::audit::Durability;
use crate::caller::Caller;
use crate::catalog::{self, Catalog};
use crate::commands::out::Out;
use crate::commands::{interrupted, serve};
use crate::outcome::{Denial, DenialKind, Outcome, REMOVE, Status};
use crate::render;
use crate::results::Results;
use crate::service::{Asker, Run};
use crate::tool::Tool;
use crate::verdict;

/// Exit status for a deadline, as of timeout(1).
pub const EXIT_DEADLINE: u8 = 124;
/// Exit status for a call that was refused or could not be set up, as of env(1) and its like.
pub const EXIT_NOT_STARTED: u8 = 125;
/// Exit status for a limit that ended the call: that of a process killed by SIGKILL.
pub const EXIT_LIMIT: u8 = 137;

/// Arguments of `toolcell run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The profile, by its name or its file
    #[arg(long, value_name = "NAME|FILE", default_value = "standard")]
    pub profile: String,
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Use this directory of the host as the workspace at `/work`
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Write the files that the command leaves in `/work/out` into this directory; what is there stays
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Answer with the whole outcome in JSON, and let nothing through to the terminal
    #[arg(long)]
    pub json: bool,
    /// The command with its arguments; everything from its first word on belongs to it
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Runs the command and exits as it did.
pub async fn run(args: &Args, out: Option<&Out>, host: Host, cells: Arc<dyn Run>) -> ExitCode {
    let tool = match tool(args, &host) {
        Ok(tool) => Arc::new(tool),
        Err(status) => return status,
    };
    let catalog = Catalog::empty(host);
    let Ok(service) = serve::service_of(catalog, Durability::Kernel, cells) else {
        return ExitCode::from(EXIT_NOT_STARTED);
    };
    let command = match find_program(&tool, &args.command) {
        Ok(command) => command,
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
        terminal: !args.json,
    };
    let call = service.command(tool, command, asker);
    let mut answer = interrupted(call, &cancel).await;
    let outcome = &mut answer.outcome;
    if args.json {
        with_kept_output(&service.results, &caller.id, outcome);
        let status = with_files(out, &service.results, &caller.id, outcome);
        return answer_json(outcome, status);
    }
    explain_on_stderr(outcome);
    with_files(out, &service.results, &caller.id, outcome)
}

/// Writes the files that a tool left, or says how they are to be had: their links end with this process.
/// The status is the call's, unless it succeeded and a file could not be written.
pub fn with_files(
    out: Option<&Out>,
    results: &Results,
    caller: &str,
    outcome: &mut Outcome,
) -> ExitCode {
    match out {
        Some(out) if !out.write(results, caller, outcome) && outcome.succeeded => {
            return ExitCode::from(EXIT_NOT_STARTED);
        }
        None if !outcome.files.is_empty() => {
            let files = outcome.files.len();
            tell(&format!(
                "toolcell: files that it left in `out/`: {files}; hint: `--out DIR` writes them there"
            ));
            for file in &mut outcome.files {
                file.resource.clear();
            }
        }
        _ => {}
    }
    exit_code(outcome)
}

fn tool(args: &Args, host: &Host) -> Result<Tool, ExitCode> {
    if let Some(only) = args.sources.tools.first() {
        tell(&format!(
            "toolcell: `--tool {only}` chooses what `serve` offers; hint: `--profile {only}` runs a \
             command in the cell of that profile"
        ));
        return Err(ExitCode::from(EXIT_NOT_STARTED));
    }
    let mut overrides = args.sources.overrides();
    if let Some(directory) = &args.workspace {
        match directory.canonicalize() {
            Ok(directory) => overrides.workspace = Some(WorkspaceKind::Host(directory)),
            Err(error) => {
                tell(&format!(
                    "toolcell: the workspace `{}`: {error}",
                    directory.display()
                ));
                return Err(ExitCode::from(EXIT_NOT_STARTED));
            }
        }
    }
    explain::find(&args.profile, &args.sources)
        .and_then(|(library, name)| library.resolve(&name, &overrides))
        .and_then(|resolved| catalog::compile(&resolved, host))
        .map(|compiled| Tool::new(compiled, None))
        .map_err(|diagnostics| {
            show(&diagnostics);
            ExitCode::from(EXIT_NOT_STARTED)
        })
        .and_then(|tool| knows_roots(args, tool))
}

/// Refuses a root that the profile does not have: it would be given and never used.
fn knows_roots(args: &Args, tool: Tool) -> Result<Tool, ExitCode> {
    let known = &tool.compiled.resolved.roots;
    let unknown = args
        .sources
        .roots
        .iter()
        .find(|(name, _)| !known.contains_key(name));
    let Some((name, _)) = unknown else {
        return Ok(tool);
    };
    let profile = tool.name();
    let has = if known.is_empty() {
        "it has none".to_owned()
    } else {
        let names: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
        format!("it has {}", names.join(", "))
    };
    tell(&format!(
        "toolcell: the profile `{profile}` has no root `{name}`; hint: {has}"
    ));
    Err(ExitCode::from(EXIT_NOT_STARTED))
}

/// A tool of the `standard` base, for trying whether cells can be had at all.
///
/// # Errors
/// If it does not compile for this host.
pub fn throw_away(host: &Host) -> Result<Tool, String> {
    let library = profiles::library::Library::builtin();
    library
        .resolve("standard", &profiles::resolve::Overrides::default())
        .and_then(|resolved| catalog::compile(&resolved, host))
        .map(|compiled| Tool::new(compiled, None))
        .map_err(|diagnostics| catalog::reason(&diagnostics))
}

/// Finds a command that is given without a slash where the cell's `PATH` has it. With a slash it is
/// taken as it is, and must be absolute: the cell's directories are not the caller's.
fn find_program(tool: &Tool, command: &[String]) -> Result<Vec<String>, String> {
    let Some((program, arguments)) = command.split_first().filter(|(word, _)| !word.is_empty())
    else {
        return Err("expected a command, found an empty word".to_owned());
    };
    if program.starts_with('/') {
        return Ok(command.to_vec());
    }
    if program.contains('/') {
        return Err(format!(
            "expected the absolute path of a program, found `{program}`; hint: the directory that you \
             are in is not the cell's: what lies in the workspace lies in `{WORK}` there, and is \
             executed if `files.exec` lists `{WORK}`, as in `privileged`"
        ));
    }
    let candidates: Vec<PathBuf> = profiles::compile::Compiled::candidates(program);
    let found = candidates.iter().find(|path| {
        path.canonicalize()
            .is_ok_and(|path| tool.compiled.may_execute(&path))
            && verdict::is_executable(path)
    });
    let found = found.and_then(|path| path.to_str()).ok_or_else(|| {
        let places: Vec<_> = candidates
            .iter()
            .filter_map(|path| path.parent())
            .map(|path| format!("`{}`", path.display()))
            .collect();
        format!(
            "there is no program `{program}` that the profile `{}` lets run, in {}; hint: install it, \
             give its absolute path, or add its directory to `files.exec`",
            tool.name(),
            places.join(", ")
        )
    })?;
    let program = std::iter::once(found.to_owned());
    Ok(program.chain(arguments.iter().cloned()).collect())
}

/// The exit status that says how a call ended.
#[must_use]
pub fn exit_code(outcome: &Outcome) -> ExitCode {
    ExitCode::from(match outcome.status {
        Status::Exited => outcome
            .exit_code
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
        Status::TimedOut => EXIT_DEADLINE,
        Status::Refused | Status::SetupFailed | Status::Denied => EXIT_NOT_STARTED,
        Status::CpuTimeExceeded
        | Status::OutOfMemory
        | Status::PidsExceeded
        | Status::OutputExceeded
        | Status::DiskExceeded => EXIT_LIMIT,
        Status::Signalled => by_signal(outcome.signal.as_deref()),
        Status::Cancelled => by_signal(Some("SIGINT")),
    })
}

/// 128 and the signal's number, as a shell has it.
fn by_signal(name: Option<&str>) -> u8 {
    let named = name.and_then(|name| name.parse::<nix::sys::signal::Signal>().ok());
    let number = named.map(|signal| signal as i32).or_else(|| {
        name.and_then(|name| name.strip_prefix("signal "))
            .and_then(|number| number.parse().ok())
    });
    number
        .and_then(|number| u8::try_from(128 + number).ok())
        .unwrap_or(u8::MAX)
}

/// One line that says what ended the call, if the tool did not, and one for each further denial.
fn explain_on_stderr(outcome: &Outcome) {
    if outcome.status != Status::Exited {
        tell(&format!("toolcell: {}", render::status(outcome)));
    } else if !outcome.reason.is_empty() {
        tell(&format!("toolcell: {}", render::one_line(&outcome.reason)));
    }
    let told = |line: &str| !line.is_empty() && outcome.reason.contains(&format!("`{line}`"));
    for denial in &outcome.denials {
        if told(&denial.allow_with) {
            continue;
        }
        tell(&format!("toolcell: {}", line(denial, &outcome.tool)));
    }
}

fn line(denial: &Denial, tool: &str) -> String {
    let Denial {
        kind,
        what,
        rule,
        allow_with,
        count,
    } = denial;
    let times = if *count > 1 {
        format!(" ({count} times)")
    } else {
        String::new()
    };
    let mend = if allow_with.starts_with(REMOVE) {
        format!("; hint: {allow_with}")
    } else if !allow_with.is_empty() {
        let option = denial.option(tool);
        let option = option.map_or_else(String::new, |option| format!(", or `{option}`,"));
        format!("; hint: `{allow_with}` in the profile{option} would allow it")
    } else if *kind == DenialKind::Network {
        // Its rule says what could be listed instead, or that it cannot.
        String::new()
    } else {
        "; hint: no profile can allow it".to_owned()
    };
    render::one_line(&format!("denied: {what}{times}: {rule}{mend}"))
}
