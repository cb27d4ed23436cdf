//! The command line: what is asked for, and what each command needs to be there first.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use profiles::host::Host;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::call::Cells;
use crate::caller::Caller;
use crate::cgroup::{self, Detection};
use crate::commands::out::Out;
use crate::commands::{
    audit, call, check, completions, doctor, explain, key, list, man, run, serve, tell,
};
use crate::confinement::{self, Confined, Places};
use crate::ids::HostIds;
use crate::outcome::{Outcome, StartedFrom, Tier};
use crate::results::Results;
use crate::service::{Asker, Run, Start};
use crate::systemd::{Notifier, journal};
use crate::tiers::TierArgs;
use crate::workspace::Workspaces;
use crate::{dirs, launch, probe, surroundings, verdict};

/// Has every cell built before its call, whatever the profiles say: to test that it is no other cell.
const START: &str = "TOOLCELL_START";
/// Threads that serve requests; cells are processes of their own.
const WORKERS: usize = 2;

/// Runs every MCP tool call in a Linux cell of its own
#[derive(Debug, Parser)]
#[command(name = "toolcell", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    tiers: TierArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the tools over MCP
    Serve(serve::Args),
    /// Make one call by the same path as MCP
    Call(call::Args),
    /// Run any command in a cell
    Run(run::Args),
    /// List the tools
    List(list::Args),
    /// Check profiles
    Check(check::Args),
    /// Say what a tool may do, and why
    Explain(explain::Args),
    /// Find out what this host can enforce
    Doctor(doctor::Args),
    /// Verify the receipts
    Audit(audit::Args),
    /// Make, list and revoke API keys
    Key(key::Args),
    /// Write the manual pages
    Man(man::Args),
    /// Write what a shell needs to complete commands
    Completions(completions::Args),
}

/// The whole command line, for the manual and for shells.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error, std::env::args_os().skip(1)),
    };
    log();
    // While nothing is confined yet.
    surroundings::at_start();
    let tiers = match cli.tiers.allowed() {
        Ok(tiers) => tiers,
        Err(contradiction) => {
            tell(&format!("toolcell: {contradiction}"));
            return ExitCode::from(run::EXIT_NOT_STARTED);
        }
    };
    match cli.command {
        Command::Serve(args) => serve(&tiers, &args),
        Command::Call(args) => with_out(args.out.as_deref(), |out| {
            command_with_cells(&tiers, out, async |host, cells| {
                call::run(&args, out, host, cells).await
            })
        }),
        Command::Run(args) => with_out(args.out.as_deref(), |out| {
            command_with_cells(&tiers, out, async |host, cells| {
                run::run(&args, out, host, cells).await
            })
        }),
        Command::List(args) => with_host(weakest(&tiers), |host| list::run(&args, host)),
        Command::Check(args) => with_host(weakest(&tiers), |host| check::run(&args, &host)),
        Command::Explain(args) => with_host(weakest(&tiers), |host| explain::run(&args, &host)),
        Command::Doctor(args) => examine(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Makes the sockets that it is to serve on, and the one that its service manager hears it by, while
/// that is still possible.
fn serve(tiers: &[Tier], args: &serve::Args) -> ExitCode {
    let notifier = match Notifier::from_environment() {
        Ok(notifier) => notifier,
        Err(error) => {
            tell(&format!(
                "toolcell: the service manager that waits for it (`NOTIFY_SOCKET`) cannot be told: \
                 {error}"
            ));
            return ExitCode::from(run::EXIT_NOT_STARTED);
        }
    };
    let listening = match args.http.listen(args.stdio) {
        Ok(listening) => listening,
        Err(error) => {
            tell(&format!("toolcell: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let purpose = match &listening {
        None => For::Client,
        Some(_) => For::Many,
    };
    with_cells(tiers, purpose, &notifier, async |host, cells| {
        serve::run(args, listening, host, cells, &notifier).await
    })
}

/// Shows help, or what is wrong with the command line. `run` and `call` exit with the status of
/// something else, so theirs must be one that is ours: 2 may be the tool's own.
fn misused(error: &clap::Error, arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    // There is nobody to tell that nobody can be told.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let mut words = arguments.take_while(|word| word != "--");
    if words.any(|word| word == "run" || word == "call") {
        return ExitCode::from(run::EXIT_NOT_STARTED);
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Logs to standard error, which MCP leaves to the server, or with fields to the journal if that is
/// where standard error leads; `TOOLCELL_LOG` sets the filter.
fn log() {
    let journal = journal::layer();
    // The protocol library warns of each request that a client gives up. A service's log also says
    // how each call ended.
    let usual = if journal.is_some() {
        "info,rmcp=error"
    } else {
        "warn,rmcp=error"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TOOLCELL_LOG");
    let lines = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_writer(std::io::stderr)
    });
    tracing_subscriber::registry()
        .with(filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual)))
        .with(journal)
        .with(lines)
        .init();
}

fn with_host(tier: Tier, work: impl FnOnce(Host) -> ExitCode) -> ExitCode {
    match probe::host(tier) {
        Ok(host) => work(host),
        Err(error) => {
            tell(&format!("toolcell: {error}"));
            ExitCode::from(run::EXIT_NOT_STARTED)
        }
    }
}

/// Opens the directory for what a tool leaves, if there is to be one.
fn with_out(path: Option<&Path>, work: impl FnOnce(Option<&Out>) -> ExitCode) -> ExitCode {
    match path.map(Out::open).transpose() {
        Ok(out) => work(out.as_ref()),
        Err(error) => {
            tell(&format!("toolcell: {error}"));
            ExitCode::from(run::EXIT_NOT_STARTED)
        }
    }
}

/// What a profile must be content with, where no cell shows which tier it will be.
fn weakest(tiers: &[Tier]) -> Tier {
    *tiers.last().expect("one tier at least is allowed")
}

/// What cells are for.
#[derive(Clone, Copy)]
enum For<'a> {
    /// One command, which tells what is refused, and where it puts what the tool leaves.
    Command(Option<&'a Out>),
    /// A client on standard input and output. If calls cannot be had, a server announces it before
    /// the first one is refused.
    Client,
    /// Many clients, which connect.
    Many,
}

fn command_with_cells(
    tiers: &[Tier],
    out: Option<&Out>,
    work: impl AsyncFnOnce(Host, Arc<dyn Run>) -> ExitCode,
) -> ExitCode {
    with_cells(tiers, For::Command(out), &Notifier::default(), work)
}

/// Makes what calls need, in the order that the kernel asks for: our place among the cgroups, then
/// the launcher (which inherits it), then our own confinement (which the launcher must not inherit),
/// then threads (which do). If calls cannot be had, a service does not start at all, so that its manager
/// shows why.
fn with_cells(
    tiers: &[Tier],
    purpose: For<'_>,
    notifier: &Notifier,
    work: impl AsyncFnOnce(Host, Arc<dyn Run>) -> ExitCode,
) -> ExitCode {
    with_host(weakest(tiers), |mut host| {
        let cells = prepare(tiers);
        if let Ok(prepared) = &cells {
            host.tier = prepared.tier;
        }
        let listens = matches!(purpose, For::Many);
        if listens {
            serve::http::raise_descriptors();
        }
        let out = match purpose {
            For::Command(out) => out,
            For::Client | For::Many => None,
        };
        let confined = confine(
            cells.as_ref().map_or(&[], std::slice::from_ref),
            listens,
            out,
        );
        // Without its own confinement a supervisor makes no calls.
        let cells = cells.and_then(|prepared| confined.map(|_| prepared));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tell(&format!("toolcell: could not start: {error}"));
                return ExitCode::from(run::EXIT_NOT_STARTED);
            }
        };
        let status = runtime.block_on(async {
            let cells: Arc<dyn Run> = match cells.and_then(Prepared::into_cells) {
                Ok(cells) => Arc::new(cells),
                Err(reason) => {
                    // Without a state directory the command says so itself, and ends.
                    let announce = !matches!(purpose, For::Command(_)) && dirs::state().is_ok();
                    if announce || notifier.is_on() {
                        tell(&format!("toolcell: calls will be refused: {reason}"));
                        if notifier.is_on() {
                            notifier.status(&reason);
                            return ExitCode::from(run::EXIT_NOT_STARTED);
                        }
                    }
                    Arc::new(Refusing(reason))
                }
            };
            work(host, cells).await
        });
        // A read from standard input may still be waiting in a thread of its own.
        runtime.shutdown_background();
        status
    })
}

/// What must exist before threads do.
struct Prepared {
    tier: Tier,
    cgroups: Option<cgroup::Cgroups>,
    launcher: launch::Started,
    ids: HostIds,
    state: std::path::PathBuf,
}

/// Confines this process to what these need. It goes on without any as well, to refuse calls.
fn confine(prepared: &[Prepared], listens: bool, out: Option<&Out>) -> Result<Confined, String> {
    let cgroups = prepared.iter().filter_map(|ready| ready.cgroups.as_ref());
    let adds_up = prepared.iter().find(|ready| ready.cgroups.is_none());
    let places = Places {
        state: dirs::state().ok(),
        out: out.map(|out| out.path.clone()),
        cgroups: cgroups
            .flat_map(|cgroups| cgroups.parents())
            .map(std::path::Path::to_owned)
            .collect(),
        seen: adds_up.map(|ready| ready.launcher.pid()),
        journal: journal::is_here().then(|| journal::SOCKET.into()),
        listens,
    };
    confinement::confine(&places).map_err(|error| error.to_string())
}

/// Prepares the strongest of these tiers that this host has.
fn prepare(tiers: &[Tier]) -> Result<Prepared, String> {
    let (tier, cgroups) = grounds(tiers)?;
    let state = dirs::state().map_err(|error| error.to_string())?;
    let ids = HostIds::detect().map_err(|error| error.to_string())?;
    let reader = confinement::reader_filter().map_err(|error| error.to_string())?;
    let launcher = launch::start(reader)
        .map_err(|error| format!("the launcher could not be started: {error}"))?;
    Ok(Prepared {
        tier,
        cgroups,
        launcher,
        ids,
        state,
    })
}

/// The strongest of these tiers that this host has the cgroups for.
fn grounds(tiers: &[Tier]) -> Result<(Tier, Option<cgroup::Cgroups>), String> {
    let without = tiers.iter().find(|tier| !tier.has_cgroups());
    let Some(full) = tiers.iter().find(|tier| tier.has_cgroups()) else {
        return Ok((weakest(tiers), None));
    };
    match (cgroup::detect(&cgroup::Options::default()), without) {
        (Detection::Usable(cgroups), _) => Ok((*full, Some(cgroups))),
        (Detection::Unusable { reason, .. }, Some(weaker)) => {
            tracing::warn!(%reason, "cells have the tier `{weaker}`, as no limits for whole cells are to be had");
            Ok((*weaker, None))
        }
        (Detection::Unusable { reason, mend }, None) => Err(format!(
            "no limits for whole cells here: {reason}; hint: {mend}; or accept limits for each \
             process by `--tier rlimits` (`TOOLCELL_TIER=rlimits`)"
        )),
    }
}

impl Prepared {
    fn into_cells(self) -> Result<Cells, String> {
        let groups = self.cgroups.as_ref().map_or(0, cgroup::Cgroups::sweep);
        let swept = groups + Workspaces::new(self.state.clone()).sweep();
        if swept > 0 {
            tracing::warn!(swept, "removed what an earlier supervisor left behind");
        }
        let launcher = launch::Launcher::new(self.launcher).map_err(|error| error.to_string())?;
        let cells = Cells::new(launcher, self.cgroups, self.ids, self.state);
        Ok(cells.starting_from(start_from(START)?))
    }
}

/// What every cell is built as before its call, if the environment says so.
fn start_from(variable: &str) -> Result<Option<StartedFrom>, String> {
    match std::env::var(variable).as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("ready") => Ok(Some(StartedFrom::Ready)),
        Ok("prestarted") => Ok(Some(StartedFrom::Prestarted)),
        Ok(other) => Err(format!(
            "`{variable}` is `{}`, expected `ready` or `prestarted`",
            other.escape_debug()
        )),
    }
}

/// Tries every tier from the strongest down, and says what was found.
fn examine(args: &doctor::Args) -> ExitCode {
    let mut facts = doctor::kernel_facts();
    let mut tier = None;
    let detection = cgroup::detect(&cgroup::Options::default());
    facts.push(match &detection {
        Detection::Usable(cgroups) => doctor::Fact::fine("cgroups", cgroups.describe().join("\n")),
        Detection::Unusable { reason, mend } => {
            doctor::Fact::lacking("cgroups", reason.clone(), mend.clone())
        }
    });
    let usable = matches!(detection, Detection::Usable(_));
    // All are prepared before the first is tried: a confined supervisor starts no launcher.
    let tries = Tier::ALL
        .into_iter()
        .filter(|tier| usable || !tier.has_cgroups());
    let mut prepared = Vec::new();
    for tried in tries {
        let host = probe::host(tried).map_err(|error| error.to_string());
        match host.and_then(|host| Ok((host, prepare(&[tried])?))) {
            Ok((host, ready)) => prepared.push((host, tried, ready)),
            Err(reason) => facts.push(doctor::Fact::lacking("a throw-away cell", reason, "")),
        }
    }
    let (tries, prepared): (Vec<_>, Vec<_>) = prepared
        .into_iter()
        .map(|(host, tried, ready)| ((host, tried), ready))
        .unzip();
    let confined = confine(&prepared, false, None);
    let is_confined = confined.is_ok();
    facts.push(doctor::confined_fact(confined));
    for ((host, tried), ready) in tries.into_iter().zip(prepared) {
        if !is_confined {
            break;
        }
        match trial(&host, ready) {
            Ok(outcome) => {
                let fact = doctor::trial_fact(tried, &outcome);
                let fine = fact.fine;
                facts.push(fact);
                if fine {
                    tier = Some(tried);
                    break;
                }
            }
            Err(reason) => facts.push(doctor::Fact::lacking("a throw-away cell", reason, "")),
        }
    }
    let lost = tier.map_or(&[][..], Tier::lost);
    let lost = lost.iter().map(|&what| what.to_owned()).collect();
    doctor::report(args, &doctor::Findings { tier, lost, facts })
}

/// Builds a cell, runs a program in it that does nothing, and removes it.
fn trial(host: &Host, prepared: Prepared) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(async {
        let state = prepared.state.clone();
        let cells = prepared.into_cells()?;
        let tool = run::throw_away(host)?;
        let caller = Caller::local();
        let start = Start {
            call: uuid::Uuid::now_v7().simple().to_string(),
            plan: tool
                .compiled
                .fill_command(vec!["/bin/true".to_owned()], &BTreeMap::new())
                .map_err(|error| error.to_string())?,
            tool: Arc::new(tool),
            keep: Results::new(state).keep(&caller.id, "doctor"),
            asker: Asker {
                caller,
                cancel: CancellationToken::new(),
                progress: None,
                terminal: false,
            },
        };
        Ok(cells.run(start).await)
    });
    runtime.shutdown_background();
    outcome
}

/// Stands where cells cannot be had: each call is refused with the reason, because there is no
/// unconfined mode, and an MCP client shows its user an answer rather than our standard error.
struct Refusing(String);

impl Run for Refusing {
    fn run(&self, start: Start) -> crate::service::Running<'_> {
        let outcome = verdict::refused(&start, self.0.clone());
        Box::pin(std::future::ready(outcome))
    }

    fn unable(&self) -> Option<&str> {
        Some(&self.0)
    }
}
