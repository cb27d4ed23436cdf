//! Unix sockets of the host that a cell may connect to.
//!
//! The socket alone is mounted, at its own path, and never a directory that holds others: before
//! Landlock ABI 9 the filter lets Unix sockets be made or not, and what can be named can be
//! connected to.

use std::path::{Path, PathBuf};

use crate::diagnostics::{Diagnostic, Kind, Problems};
use crate::host::{Host, PathFact};
use crate::resolve::{Place, Resolved, SocketRule, check_host_path};

use super::landlock::ABI_RESOLVE_UNIX;
use super::shows_sockets;
use super::tree::Tree;

/// A Unix socket of the host that a cell may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path on the host, without links in it, and in the cell.
    pub path: PathBuf,
    /// Whether it may be absent.
    pub if_present: bool,
}

/// Finds the profile's sockets, and has the links that lead to them reproduced.
pub(super) fn find(
    resolved: &Resolved,
    host: &Host,
    tree: &mut Tree,
    denied: &[(PathBuf, bool)],
    problems: &mut Problems,
) -> Vec<Socket> {
    let others_in_reach = host.landlock_abi < ABI_RESOLVE_UNIX && shows_sockets(resolved);
    if let Some(first) = resolved.sockets.first()
        && others_in_reach
        && !resolved.network.unix
    {
        problems.push(
            Diagnostic::at(
                &first.origin,
                "on this kernel, before Landlock ABI 9, a tool that may connect to one Unix socket \
                 may connect to every other in the directories that it is shown",
            )
            .with_kind(Kind::HostTooWeak)
            .with_hint(
                "show it no directories of the host beyond the system's own, or accept it with \
                 `network.unix = true`",
            ),
        );
        return Vec::new();
    }
    let mut sockets: Vec<Socket> = Vec::new();
    for rule in &resolved.sockets {
        let found = locate(rule, host).and_then(|path| {
            check(resolved, rule, &path, host, tree, denied)?;
            Ok(path)
        });
        let Some(path) = problems.note(found) else {
            continue;
        };
        // Two paths may lead to one socket.
        if sockets.iter().all(|socket| socket.path != path) {
            sockets.push(Socket {
                path,
                if_present: rule.if_present,
            });
        }
    }
    // Only now, so that one does not count as shown while another is checked.
    let written = resolved.sockets.iter().map(|rule| &rule.path);
    for path in written.chain(sockets.iter().map(|socket| &socket.path)) {
        tree.name(host, path);
    }
    sockets
}

/// Where the socket is, by no link.
fn locate(rule: &SocketRule, host: &Host) -> Result<PathBuf, Diagnostic> {
    let shown = rule.path.display();
    let at = |message: String| Diagnostic::at(&rule.origin, message).with_kind(Kind::NoPath);
    match host.canonical(&rule.path) {
        Some((path, PathFact::Socket)) => Ok(path),
        Some((_, PathFact::Directory)) => {
            Err(at(format!("`{shown}` is a directory, not a socket"))
                .with_hint("list the socket in it: the others in it stay out of reach"))
        }
        Some(_) => {
            Err(at(format!("`{shown}` is no socket")).with_hint("files are listed in `files.read`"))
        }
        None if rule.if_present => Ok(host.without_links_above(&rule.path)),
        None => Err(at(format!("there is no socket `{shown}`")).with_hint(
            "start the service that listens there; if it need not be there, say \
             `if_present = true`",
        )),
    }
}

/// Refuses a socket in whose place the tool could put another, and one that a rule shows or hides.
fn check(
    resolved: &Resolved,
    rule: &SocketRule,
    path: &Path,
    host: &Host,
    tree: &Tree,
    denied: &[(PathBuf, bool)],
) -> Result<(), Diagnostic> {
    check_host_path(path, &rule.origin)?;
    let shown = path.display();
    let at = |message: String| Diagnostic::at(&rule.origin, message);
    let written = resolved.files.write.iter().any(|write| match &write.place {
        Place::Argument(name) => resolved.paths.get(name).is_some_and(|argument| {
            let root = resolved.roots.get(&argument.root);
            let root = root.and_then(|root| host.canonical(root));
            root.is_some_and(|(root, _)| path.starts_with(root))
        }),
        _ => false,
    });
    if written || tree.writes(resolved, host, path) {
        return Err(at(format!(
            "`{shown}` is where the tool itself may write, and could put another socket in its place"
        ))
        .with_hint("let the service listen elsewhere"));
    }
    if tree.lists(path) {
        return Err(at(format!(
            "a path rule shows the directory of `{shown}` already"
        ))
        .with_hint("list in `files` what the tool needs beside the socket, not what holds it"));
    }
    let within = denied.iter().find(|(denied, _)| path.starts_with(denied));
    if let Some((denied, _)) = within {
        let message = format!(
            "`{shown}` is within `{}`, which is denied",
            denied.display()
        );
        return Err(at(message).with_hint("leave one of the two out"));
    }
    Ok(())
}
