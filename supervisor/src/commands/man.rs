//! `toolcell man`: the manual pages, made of the command line itself.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::tell;

/// Arguments of `toolcell man`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Write a page for each command into this directory; else the first page to standard output
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Writes them.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let written = args.directory.as_deref().map_or_else(first_page, pages);
    if let Err(error) = written {
        tell(&format!("toolcell: could not write the manual: {error}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(crate::cli::command(), directory)
}

fn first_page() -> io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(crate::cli::command()).render(&mut page)?;
    io::stdout().lock().write_all(&page)
}
