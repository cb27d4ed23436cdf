//! The log as systemd's journal takes it: an entry for each event, with its fields.

use std::env;
use std::path::Path;

use nix::sys::stat::fstat;

/// Where the journal listens. [`crate::confinement`] lets it be looked up.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// What a field's name begins with: `TOOLCELL_CALL`, `TOOLCELL_TOOL`.
const PREFIX: &str = "TOOLCELL";
const IDENTIFIER: &str = "toolcell";

/// Whether standard error is the journal (`$JOURNAL_STREAM`, systemd.exec(5)).
#[must_use]
pub fn is_here() -> bool {
    let Ok(said) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(std::io::stderr()).is_ok_and(|found| said == format!("{}:{}", found.st_dev, found.st_ino))
        && Path::new(SOCKET).exists()
}

/// What hands events to the journal; nothing if standard error is not the journal, or it cannot be
/// reached, and then standard error will do.
#[must_use]
pub fn layer() -> Option<tracing_journald::Layer> {
    if !is_here() {
        return None;
    }
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(Some(PREFIX.to_owned()))
            .with_syslog_identifier(IDENTIFIER.to_owned()),
    )
}
