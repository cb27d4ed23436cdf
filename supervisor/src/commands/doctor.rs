//! `toolcell doctor`: what this host can enforce, found out by doing it.
use std::process::ExitCode;
/// Arguments of `toolcell doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}
/// Examines the host.
#[must_use]
pub fn run(_args: &Args) -> ExitCode {
    ExitCode::SUCCESS
}
