//! The `toolcell` executable.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the launcher must stay small and single-threaded.
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == runner::launcher::ARGUMENT)
    {
        let status = runner::launcher::main();
        return u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    supervisor::cli::main()
}
