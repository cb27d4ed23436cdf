//! Cells that are prepared before a call comes, and what of a profile rules them out.

use serde_json::Value;

use crate::diagnostics::{Diagnostic, Problems};

use super::chain::Chain;
use super::{PathRule, Piece, Place, Pool, Resolved, Workspace};

/// Most prepared cells of one tool.
const POOL_READY_MAX: u32 = 64;

/// What the profile asks for. A process that waits is a cell that waits, too.
pub(super) fn read(chain: &Chain<'_>, problems: &mut Problems) -> Pool {
    let ready = chain.last(|p| p.pool.as_ref()?.ready.as_ref());
    if let Some((ready, origin)) = &ready
        && ready.0 > POOL_READY_MAX
    {
        problems.push(
            Diagnostic::at(origin, format!("`pool.ready` is {}", ready.0))
                .with_expected(format!("expected at most {POOL_READY_MAX}")),
        );
    }
    let prestart = chain.last(|p| p.pool.as_ref()?.prestart.as_ref());
    let prestart = prestart.is_some_and(|(prestart, _)| *prestart);
    Pool {
        ready: ready.map_or(u32::from(prestart), |(ready, _)| ready.0),
        prestart,
    }
}

/// Refuses to prepare what only the call decides: such cells would be made and never be used.
pub(super) fn refuse(resolved: &Resolved, chain: &Chain<'_>, problems: &mut Problems) {
    let Pool { ready, prestart } = resolved.pool;
    if ready == 0 {
        return;
    }
    let ready = chain.last(|p| p.pool.as_ref()?.ready.as_ref());
    let started = chain.last(|p| p.pool.as_ref()?.prestart.as_ref());
    let started = started.map(|(_, origin)| origin);
    let prepared = ready.map(|(_, origin)| origin).or_else(|| started.clone());
    if let (Some(why), Some(origin)) = (resolved.differs_by_call(), prepared) {
        problems.push(
            Diagnostic::at(&origin, format!("no cell can be prepared, as {why}"))
                .with_hint("leave `pool` out, or say `ready = 0`"),
        );
    }
    let writes = || {
        let place = |rule: &PathRule| matches!(rule.place, Place::Work);
        let host = matches!(resolved.workspace, Workspace::Host { .. });
        (host && resolved.files.write.iter().any(place)).then(|| {
            "what calls leave in the host's workspace would be run again before each call"
                .to_owned()
        })
    };
    if prestart && let (Some(why), Some(origin)) = (argument(resolved).or_else(writes), started) {
        let message = format!("no process can be started before the call, as {why}");
        problems.push(
            Diagnostic::at(&origin, message)
                .with_hint("say `prestart = false`, or pass arguments by `run.stdin`"),
        );
    }
}

impl Resolved {
    /// What of a cell's building depends on its call, if anything does.
    #[must_use]
    pub fn differs_by_call(&self) -> Option<String> {
        differs_by_call(self)
    }
}

fn differs_by_call(resolved: &Resolved) -> Option<String> {
    match &resolved.workspace {
        Workspace::Named { .. } => {
            return Some("each caller has a workspace of its own".to_owned());
        }
        // What is mounted over a path of the host's is gone once somebody puts another in its place.
        Workspace::Host { .. } if !resolved.files.protect.is_empty() => {
            return Some(
                "what `files.protect` lists in the host's workspace is looked at for each call"
                    .to_owned(),
            );
        }
        _ => {}
    }
    if !resolved.network.inject.is_empty() {
        return Some("`network.inject` makes keys for each call".to_owned());
    }
    if !resolved.sockets.is_empty() {
        return Some("the sockets of `sockets.connect` are looked at for each call".to_owned());
    }
    let files = &resolved.files;
    let lists = [&files.read, &files.exec, &files.write];
    lists.into_iter().flatten().find_map(|rule| {
        let Place::Argument(name) = &rule.place else {
            return None;
        };
        Some(format!("the argument `{name}` decides what exists in it"))
    })
}

/// What of the command depends on arguments that every call has. Calls that leave the others out can
/// be served by a process that was started without.
fn argument(resolved: &Resolved) -> Option<String> {
    let required = resolved.input.get("required").and_then(Value::as_array);
    let name = |piece: &Piece| match piece {
        Piece::Argument(name) => {
            let is_this = |other: &Value| other.as_str() == Some(name);
            required
                .is_some_and(|all| all.iter().any(is_this))
                .then(|| name.clone())
        }
        _ => None,
    };
    let run = resolved.run.as_ref()?;
    let environment = &resolved.environment;
    let words = run.arguments.iter().find_map(|word| name(&word.piece));
    let words = words.map(|name| format!("`run.argv` has the argument `{name}`"));
    let variables = || {
        let name = environment.set.values().find_map(name)?;
        Some(format!("`run.env` has the argument `{name}`"))
    };
    let directory = || {
        Some(format!(
            "`run.cwd` is the argument `{}`",
            name(&environment.cwd)?
        ))
    };
    words.or_else(variables).or_else(directory)
}
