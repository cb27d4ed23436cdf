//! `[sockets]`: Unix sockets of the host that can be connected to.

use crate::diagnostics::{Diagnostic, Problems};
use crate::paths;

use super::chain::{Chain, RuleKey, WrittenRule};
use super::check::because;
use super::{SocketRule, check_host_path};

/// Most sockets of one profile with its bases.
const SOCKETS_MAX: usize = 32;

/// Reads the sockets of a chain.
pub(super) fn resolve(chain: &Chain<'_>, problems: &mut Problems) -> Vec<SocketRule> {
    let mut sockets = Vec::new();
    for rule in chain.rules(RuleKey::SocketConnect) {
        sockets.extend(problems.note(socket(rule)));
        if sockets.len() == SOCKETS_MAX + 1 {
            problems.push(
                Diagnostic::at(&rule.origin, "too many sockets")
                    .with_expected(format!("expected at most {SOCKETS_MAX}")),
            );
        }
    }
    sockets
}

fn socket(rule: &WrittenRule) -> Result<SocketRule, Diagnostic> {
    let at = |message: String| Diagnostic::at(&rule.origin, message);
    if rule.text.starts_with('@') {
        let message = format!("`{}`: abstract sockets have no path", rule.text);
        return Err(at(message).with_hint(
            "they stay out of every cell, which has a network namespace of its own; have the \
             service listen at a path",
        ));
    }
    if let Some(path) = rule.text.strip_prefix("unix:") {
        let path = path.trim_start_matches("//");
        return Err(at(format!("`{}` is a URL", rule.text)).with_hint(format!("write `{path}`")));
    }
    if rule.text.contains(['{', '}']) {
        return Err(
            at(format!("`{}`: a socket has no placeholder", rule.text)).with_hint(
                "which sockets a tool reaches is the author's choice: write the whole path",
            ),
        );
    }
    let path = paths::absolute(&rule.text).map_err(|error| at(error.to_string()))?;
    check_host_path(&path, &rule.origin)?;
    Ok(SocketRule {
        path,
        if_present: rule.if_present,
        origin: rule.origin.clone(),
    })
}

/// Each socket is a way out of the cell.
pub(super) fn weakenings(chain: &Chain<'_>) -> Vec<String> {
    chain
        .rules(RuleKey::SocketConnect)
        .map(|rule| {
            format!(
                "reaches the Unix socket `{}`, and whoever serves it acts outside the cell{}",
                rule.text,
                because(&rule.why)
            )
        })
        .collect()
}
