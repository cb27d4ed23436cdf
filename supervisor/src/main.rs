//! The `toolcell` executable.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the launcher must stay small, and it and the gateway confine themselves
    // while they are single-threaded.
    let first = std::env::args_os().nth(1).unwrap_or_default();
    let status = if first == runner::launcher::ARGUMENT {
        runner::launcher::main()
    } else if first.as_encoded_bytes() == runner::launcher::GATEWAY_ARGUMENT.to_bytes() {
        supervisor::egress::gateway::main()
    } else {
        return supervisor::cli::main();
    };
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
