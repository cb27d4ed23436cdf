//! What a cell needs so that its programs trust the end of TLS that Toolcell opens for them: a
//! certificate authority of this one cell, beside the host's.

use std::path::{Path, PathBuf};

use runner::spec::{APPENDED_BYTES_MAX, Mount};

use crate::diagnostics::{Diagnostic, Kind, Problems};
use crate::host::Host;
use crate::resolve::{Place, Resolved};

use super::Compiled;
use super::call::{CallError, CallFacts};

/// Where the host's authorities and the cell's own are in a cell.
pub const TRUSTED: &str = "/etc/toolcell/ca.pem";
/// The variables by which programs are told of them.
const VARIABLES: [&str; 6] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// The authority of one cell, and the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFact {
    /// Its certificate (PEM).
    pub certificate: String,
    /// The file with the host's authorities (PEM), without links in its path.
    pub bundle: PathBuf,
}

/// Refuses a profile whose secrets are not there, or whose files are in the way.
pub(super) fn offered(resolved: &Resolved, host: &Host, problems: &mut Problems) {
    let mut missing: Vec<&str> = Vec::new();
    for injection in &resolved.network.inject {
        let secret = injection.secret.as_str();
        if host.secrets.contains(secret) || missing.contains(&secret) {
            continue;
        }
        missing.push(secret);
        let message = format!(
            "`{}` needs the secret `{secret}` for `{}`",
            resolved.name, injection.name
        );
        problems.push(
            Diagnostic::at(&resolved.origin, message)
                .with_kind(Kind::SecretNotGiven)
                .with_hint(format!(
                    "put it into `~/.config/toolcell/secrets/{secret}`, readable by nobody else, or \
                     let systemd load it (`LoadCredential={secret}:PATH`)"
                )),
        );
    }
    if resolved.network.inject.is_empty() {
        return;
    }
    let own = Path::new(TRUSTED);
    let files = &resolved.files;
    for rule in [&files.read, &files.exec, &files.write]
        .into_iter()
        .flatten()
    {
        if matches!(&rule.place, Place::Host(path) if own.starts_with(path)) {
            let message = format!("`{TRUSTED}` is where this cell has its own authorities");
            problems
                .push(Diagnostic::at(&rule.origin, message).with_hint("list what lies beneath it"));
        }
    }
}

/// What the copy of the host's authorities takes up in the root.
pub(super) fn root_bytes(resolved: &Resolved) -> u64 {
    if resolved.network.inject.is_empty() {
        0
    } else {
        2 * APPENDED_BYTES_MAX
    }
}

/// The variables that the cell gets: those that the profile does not set itself.
pub(super) fn variables(resolved: &Resolved) -> impl Iterator<Item = &'static str> {
    let set = &resolved.environment.set;
    let opens = !resolved.network.inject.is_empty();
    let variables = VARIABLES.into_iter().filter(move |_| opens);
    variables.filter(|name| !set.contains_key(*name))
}

impl Compiled {
    pub(super) fn add_authority(
        &self,
        facts: &CallFacts,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), CallError> {
        match (&facts.authority, self.resolved.network.inject.is_empty()) {
            (None, true) => {}
            (Some(authority), false) => mounts.push(Mount::Appended {
                source: authority.bundle.clone(),
                target: TRUSTED.into(),
                contents: format!("\n{}", authority.certificate).into_bytes(),
                mode: 0o444,
            }),
            _ => return Err(CallError::Authority),
        }
        Ok(())
    }
}
