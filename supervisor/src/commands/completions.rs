//! `toolcell completions`: what a shell needs to complete commands.

use std::io::Write as _;
use std::process::ExitCode;

use clap_complete::Shell;

use super::tell;

/// Arguments of `toolcell completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// For this shell
    pub shell: Shell,
}

/// Writes it to standard output.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let mut command = crate::cli::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "toolcell", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!(
                "toolcell: could not write the completions: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}
