//! The subcommands, each with its arguments and its own way to report.

pub mod audit;
pub mod call;
pub mod check;
pub mod completions;
pub mod doctor;
pub mod explain;
pub mod key;
pub mod list;
pub mod man;
pub mod out;
pub mod run;
pub mod serve;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use profiles::diagnostics::Diagnostics;
use profiles::host::Host;
use profiles::resolve::Overrides;

use crate::catalog::{Directory, Sources};
use crate::outcome::Outcome;
use crate::results::Results;
use crate::{dirs, facts};

/// Where profiles come from, as every command that needs them is told.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SourceArgs {
    /// Read the profiles in this directory, too; may be repeated
    ///
    /// `/etc/toolcell/profiles` and `$XDG_CONFIG_HOME/toolcell/profiles` are always read.
    #[arg(long = "profiles", value_name = "DIR")]
    pub profiles: Vec<PathBuf>,
    /// Give a profile's root a directory, as in `docs=/srv/docs`; may be repeated
    #[arg(long = "root", value_name = "NAME=DIR", value_parser = root)]
    pub roots: Vec<(String, PathBuf)>,
    /// Let a tool reach these hosts, too, as in `http_fetch=example.org,*.example.net:443`; may be
    /// repeated
    ///
    /// Each host is written as in a profile's `network.allow`.
    #[arg(long = "allow", value_name = "TOOL=HOST[,HOST…]", value_parser = hosts)]
    pub hosts: Vec<(String, String)>,
    /// Offer only this tool; may be repeated
    #[arg(long = "tool", value_name = "NAME")]
    pub tools: Vec<String>,
    /// Name denied paths, too; slower
    #[arg(long)]
    pub explain: bool,
}

impl SourceArgs {
    /// The directories that profiles are read from.
    #[must_use]
    pub fn directories(&self) -> Vec<Directory> {
        let standard = dirs::profiles().into_iter().map(|path| Directory {
            path,
            required: false,
        });
        let given = self.profiles.iter().map(|path| Directory {
            path: path.clone(),
            required: true,
        });
        standard.chain(given).collect()
    }

    /// What the operator says beside the profiles.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            roots: self.roots.iter().cloned().collect(),
            hosts: self.hosts(),
            workspace: None,
            explain_paths: self.explain.then_some(true),
            trust_stores: facts::trust_stores(),
        }
    }

    /// The hosts for each tool, in the order in which they were given.
    fn hosts(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for (name, hosts) in &self.hosts {
            all.entry(name.clone())
                .and_modify(|before| *before = format!("{before},{hosts}"))
                .or_insert_with(|| hosts.clone());
        }
        all
    }

    /// Everything that a catalog needs.
    #[must_use]
    pub fn sources(&self, host: Host) -> Sources {
        Sources {
            directories: self.directories(),
            overrides: self.overrides(),
            only: self.tools.clone(),
            host,
        }
    }
}

fn root(text: &str) -> Result<(String, PathBuf), String> {
    let (name, directory) = text
        .split_once('=')
        .filter(|(name, directory)| !name.is_empty() && !directory.is_empty())
        .ok_or("expected `NAME=DIR`")?;
    let directory = std::path::absolute(directory).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), directory))
}

fn hosts(text: &str) -> Result<(String, String), String> {
    let (name, hosts) = text
        .split_once('=')
        .filter(|(name, hosts)| !name.is_empty() && !hosts.is_empty())
        .ok_or("expected `TOOL=HOST` or `TOOL=HOST,HOST`")?;
    Ok((name.to_owned(), hosts.to_owned()))
}

/// Text for a person, made line by line.
#[derive(Debug, Default)]
pub struct Page {
    /// What there is so far.
    pub text: String,
}

impl Page {
    /// Adds a line.
    pub fn line(&mut self, indent: usize, text: &str) {
        self.text.extend(std::iter::repeat_n("  ", indent));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a heading with items; nothing if there are none.
    pub fn list(&mut self, heading: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.line(0, "");
        self.line(0, heading);
        for item in items {
            self.line(1, item);
        }
    }
}

/// Shows what is wrong with profiles on standard error.
pub fn show(diagnostics: &Diagnostics) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tell(diagnostics.render(colour).trim_end());
}

/// Says something on standard error. If nobody listens, nobody misses it.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Most bytes of each stream in the answer of `call` and of `run --json`: all of it by the usual
/// `limits.output`, and little enough to be held several times over while it becomes JSON.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Puts what was kept of long output into the outcome itself, up to a limit: once this process has
/// exited, nobody can read it as a resource.
pub fn with_kept_output(results: &Results, caller: &str, outcome: &mut Outcome) {
    for stream in [&mut outcome.stdout, &mut outcome.stderr] {
        let mut next = stream.resource.take();
        stream.resource_bytes = None;
        if next.is_none() {
            continue;
        }
        let mut kept = Vec::new();
        while let Some(uri) = next.filter(|_| kept.len() < ANSWER_BYTES_MAX) {
            let Ok(part) = results.read(caller, &uri) else {
                // It stays the head that it is.
                break;
            };
            kept.extend(part.contents);
            next = part.next;
        }
        kept.truncate(ANSWER_BYTES_MAX);
        if let Err(error) = std::str::from_utf8(&kept)
            && error.error_len().is_none()
        {
            // A character that the limit cuts through is left out.
            kept.truncate(error.valid_up_to());
        }
        let text = String::from_utf8_lossy(&kept);
        if text.len() >= stream.text.len() {
            stream.text = text.into_owned();
            stream.truncated = (kept.len() as u64) < stream.bytes;
        }
    }
}

/// Writes a command's answer to standard output, and a broken pipe is no trouble.
#[must_use]
pub fn answer(text: &str, success: ExitCode) -> ExitCode {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell(&format!("toolcell: could not write: {error}"));
            ExitCode::FAILURE
        }
        _ => success,
    }
}

/// Writes a command's answer as JSON.
#[must_use]
pub fn answer_json(value: &impl serde::Serialize, success: ExitCode) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => answer(&(text + "\n"), success),
        Err(error) => {
            tell(&format!("toolcell: could not write JSON: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Waits for a call, and cancels it at the first SIGINT, SIGTERM or SIGHUP: it then ends with its
/// receipt written and nothing left behind.
pub async fn interrupted<T>(
    call: impl Future<Output = T>,
    cancel: &tokio_util::sync::CancellationToken,
) -> T {
    use tokio::signal::unix::{SignalKind, signal};
    let mut call = std::pin::pin!(call);
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return call.await;
    };
    tokio::select! {
        done = &mut call => return done,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    cancel.cancel();
    call.await
}
