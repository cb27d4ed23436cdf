//! `toolcell audit`: the receipts, read again.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Page, answer, answer_json, tell};
use crate::audit::{Severity, Verified, verify_directory, verify_file};
use crate::dirs;

/// Arguments of `toolcell audit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done with the receipts.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Check that no receipt was cut, changed, swapped or put in
    Verify {
        /// A log file alone, or a directory; else the whole log of this user
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// Verifies the log; the exit status is 1 if something was done to it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Command::Verify { file, json } = &args.command;
    let verified = match verify(file.as_ref()) {
        Ok(verified) => verified,
        Err(error) => {
            tell(&format!("toolcell: could not read the audit log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let status = if verified.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if *json {
        answer_json(&verified, status)
    } else {
        answer(&text(&verified), status)
    }
}

fn verify(file: Option<&PathBuf>) -> io::Result<Verified> {
    match file {
        Some(path) if path.is_dir() => verify_directory(path),
        Some(path) => verify_file(path),
        None => verify_directory(&dirs::state().map_err(io::Error::other)?),
    }
}

fn text(verified: &Verified) -> String {
    let mut page = Page::default();
    for finding in &verified.findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Error => "error",
        };
        let (file, line, what) = (finding.file.display(), finding.line, &finding.what);
        page.line(0, &format!("{severity}: {file}:{line}: {what}"));
    }
    if verified.findings_left_out > 0 {
        page.line(0, &format!("and {} more", verified.findings_left_out));
    }
    let (receipts, lines) = (verified.receipts, verified.lines);
    let verdict = if verified.is_whole() {
        "the log is whole"
    } else {
        "the log is NOT whole"
    };
    let counted = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let (receipts, lines) = (counted(receipts, "receipt"), counted(lines, "line"));
    page.line(0, &format!("{verdict}: {receipts} in {lines}"));
    if let Some(end) = &verified.end {
        let (last, hash) = (end.records.saturating_sub(1), &end.hash);
        page.line(0, &format!("it ends with number {last}, hash {hash}"));
    }
    page.text
}
