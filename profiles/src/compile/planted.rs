//! Links that a tool could have planted: where it may write, it may also put a link in the place of
//! what the profile lists there, and by the next call the profile would show what that leads to.

use std::path::{Path, PathBuf};

use crate::diagnostics::{Diagnostic, Origin, Problems};
use crate::host::{Host, PathFact};
use crate::paths;
use crate::resolve::{Place, Resolved, Workspace};

/// Refuses every path of the profile that is reached by a link within `writable` directories.
pub(super) fn refuse(
    resolved: &Resolved,
    host: &Host,
    writable: impl Fn(&Path) -> bool,
    problems: &mut Problems,
) {
    let files = &resolved.files;
    let lists = [&files.read, &files.exec, &files.write, &files.deny];
    let listed = lists.into_iter().flatten();
    let listed = listed.filter_map(|rule| match &rule.place {
        Place::Host(path) => Some((path.as_path(), &rule.origin)),
        _ => None,
    });
    let workspace = match &resolved.workspace {
        Workspace::Host { path } => Some(path.as_path()),
        _ => None,
    };
    let sockets = resolved.sockets.iter();
    let sockets = sockets.map(|socket| (socket.path.as_path(), &socket.origin));
    let roots = resolved.roots.values().map(PathBuf::as_path);
    let others = roots.chain(workspace);
    let others = others.map(|path| (path, &resolved.origin));
    for (path, origin) in listed.chain(sockets).chain(others) {
        if let Some(link) = planted(path, host, &writable) {
            problems.push(diagnostic(path, link, origin));
        }
    }
}

/// The part of the path that is such a link, or leads to one.
fn planted<'a>(path: &'a Path, host: &Host, writable: impl Fn(&Path) -> bool) -> Option<&'a Path> {
    let is_writable = |path: &Path| path.parent().is_some_and(&writable);
    let mut parts = paths::ancestors(path).into_iter().chain([path]);
    parts.find(|part| {
        let PathFact::Symlink { link, canonical } = host.at(part) else {
            return false;
        };
        let place = host.without_links_above(part);
        let next = place
            .parent()
            .and_then(|parent| paths::lexically_joined(parent, link));
        // What the link names is not what it leads to: so there is another link on the way.
        let leads_on = next.is_some_and(|next| next != *canonical && is_writable(&next));
        is_writable(&place) || leads_on
    })
}

fn diagnostic(path: &Path, link: &Path, origin: &Origin) -> Diagnostic {
    let message = if link == path {
        format!(
            "`{}` is a link that the tool itself can replace",
            path.display()
        )
    } else {
        format!(
            "`{}` is reached by the link `{}`, which the tool itself can replace",
            path.display(),
            link.display()
        )
    };
    Diagnostic::at(origin, message)
        .with_hint("list what it leads to, or do not let the tool write where the link is")
}
