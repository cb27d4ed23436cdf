//! Rules that take something away again, kept with their places so that a denial can name them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::paths;
use crate::resolve::{Place, Resolved, WORK, Workspace};

use super::skeleton;

/// A rule of `files.deny` or `files.protect`, and what it is about in the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// What it is about: an absolute path in the cell, without links in it.
    pub path: PathBuf,
    /// What it takes away.
    pub kind: ExceptionKind,
    /// The rule as written.
    pub text: String,
    /// File, line and column.
    pub place: String,
}

/// What a rule takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExceptionKind {
    /// `files.deny`: everything.
    Deny,
    /// `files.protect`: writing, creating, renaming, replacing and removing.
    Protect,
}

impl ExceptionKind {
    /// The key of a profile under which the rule stands.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Deny => "files.deny",
            Self::Protect => "files.protect",
        }
    }
}

/// All of a profile's that have an effect: `denied` are the paths that are covered.
pub(super) fn exceptions(
    resolved: &Resolved,
    host: &Host,
    roots: &BTreeMap<String, PathBuf>,
    denied: &[(PathBuf, bool)],
) -> Vec<Exception> {
    let covered = resolved.files.deny.iter().filter_map(|rule| {
        let path = match &rule.place {
            Place::Host(path) => path,
            Place::Root(name) => roots.get(name)?,
            Place::Argument(_) | Place::Work | Place::Tmp | Place::Shm => return None,
        };
        let (path, _) = host.canonical(path)?;
        denied
            .iter()
            .any(|(denied, _)| *denied == path)
            .then(|| Exception {
                path,
                kind: ExceptionKind::Deny,
                text: rule.place.written(),
                place: rule.origin.to_string(),
            })
    });
    let outlasts = matches!(
        resolved.workspace,
        Workspace::Named { .. } | Workspace::Host { .. }
    );
    // In a workspace that is empty at first, or cannot be written, there is nothing to protect.
    let protects = outlasts && skeleton::writes(resolved, &Place::Work);
    let key = ExceptionKind::Protect.key();
    let protected = resolved.rules.iter().filter_map(|rule| {
        let relative = (protects && rule.key == key).then(|| paths::relative(&rule.text))?;
        Some(Exception {
            path: Path::new(WORK).join(relative.ok()?),
            kind: ExceptionKind::Protect,
            text: rule.text.clone(),
            place: rule.place.clone(),
        })
    });
    covered.chain(protected).collect()
}
