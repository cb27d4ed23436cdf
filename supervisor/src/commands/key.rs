//! `toolcell key`: API keys of callers over HTTP.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{answer, answer_json, tell};
use crate::api_keys::{Grant, Key, Keys, KeysError};
use crate::dirs;

/// Arguments of `toolcell key`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the keys are
    #[command(flatten)]
    pub file: FileArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where keys are kept.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// The file of API keys; else the administrator's, or this user's own
    #[arg(long, value_name = "FILE", env = "TOOLCELL_KEYS", global = true)]
    pub keys: Option<PathBuf>,
}

impl FileArgs {
    /// The keys in it.
    #[must_use]
    pub fn open(&self) -> Option<Keys> {
        match &self.keys {
            Some(path) => Some(Keys::new(path.clone()).named()),
            None => Some(Keys::new(dirs::keys()?)),
        }
    }
}

/// What can be done with keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Make a key, and show it this once
    Add {
        /// Its name, which receipts will have
        name: String,
        /// A role of whoever has it (may be repeated)
        #[arg(long = "role", value_name = "ROLE", default_value = "user")]
        roles: Vec<String>,
        /// A tool that it is good for, if not for all that its roles may call (may be repeated)
        #[arg(long = "tool", value_name = "TOOL")]
        tools: Vec<String>,
        /// After what time it ceases to be good, such as 90d
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List the keys: by their names, as nobody knows them any more
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a key, which is of no use from then on
    Revoke {
        /// Its name
        name: String,
    },
}

/// Does what is asked for.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Some(keys) = args.file.open() else {
        tell("toolcell: nothing says where keys are kept; hint: `--keys FILE`");
        return ExitCode::FAILURE;
    };
    let done = match &args.command {
        Command::Add {
            name,
            roles,
            tools,
            expires,
        } => add(&keys, name, roles, tools, *expires),
        Command::List { json } => list(&keys, *json),
        Command::Revoke { name } => keys.revoke(name).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        tell(&format!("toolcell: {error}"));
        ExitCode::FAILURE
    })
}

fn add(
    keys: &Keys,
    name: &str,
    roles: &[String],
    tools: &[String],
    expires: Option<Duration>,
) -> Result<ExitCode, KeysError> {
    let now = SystemTime::now();
    let secret = keys.add(Grant {
        name: name.to_owned(),
        roles: roles.to_vec(),
        tools: (!tools.is_empty()).then(|| tools.to_vec()),
        // What is beyond all times does not come.
        expires: expires.and_then(|expires| now.checked_add(expires)),
    })?;
    tell(&format!(
        "toolcell: made the key `{name}` in `{}`; it is shown this once",
        keys.path().display()
    ));
    Ok(answer(&format!("{secret}\n"), ExitCode::SUCCESS))
}

/// A key, as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    roles: &'a [String],
    tools: Option<&'a [String]>,
    created: String,
    expires: Option<String>,
    expired: bool,
}

impl<'a> Listed<'a> {
    fn new(key: &'a Key, now: SystemTime) -> Self {
        let text = |time| humantime::format_rfc3339_seconds(time).to_string();
        Self {
            name: &key.name,
            roles: &key.roles,
            tools: key.tools.as_deref(),
            created: text(key.created),
            expires: key.expires.map(text),
            expired: key.is_expired(now),
        }
    }

    fn line(&self) -> String {
        let tools = self.tools.map_or_else(
            || "all tools of these".to_owned(),
            |tools| format!("only {}", tools.join(", ")),
        );
        let until = match (&self.expires, self.expired) {
            (None, _) => String::new(),
            (Some(time), false) => format!(", until {time}"),
            (Some(time), true) => format!(", expired at {time}"),
        };
        format!("{}: {}; {tools}{until}\n", self.name, self.roles.join(", "))
    }
}

fn list(keys: &Keys, json: bool) -> Result<ExitCode, KeysError> {
    let current = keys.current()?;
    let now = SystemTime::now();
    let listed: Vec<_> = current.iter().map(|key| Listed::new(key, now)).collect();
    if json {
        return Ok(answer_json(&listed, ExitCode::SUCCESS));
    }
    let text: String = listed.iter().map(Listed::line).collect();
    Ok(answer(&text, ExitCode::SUCCESS))
}
