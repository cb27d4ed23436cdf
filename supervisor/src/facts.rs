//! What lies at the paths of the host that a profile names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use profiles::host::{Host, PathFact};
use profiles::resolve::TRUST_STORES;

/// Looks at each path, and at what the links among them lead to.
#[must_use]
pub fn gather(paths: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, PathFact> {
    Host::gather(paths, look)
}

/// Looks at one path. What cannot be looked at is absent: nothing of it can be put into a cell.
#[must_use]
pub fn look(path: &Path) -> PathFact {
    let Ok(found) = fs::symlink_metadata(path) else {
        return PathFact::Absent;
    };
    let kind = found.file_type();
    if kind.is_dir() {
        PathFact::Directory
    } else if kind.is_file() {
        PathFact::File {
            executable: found.permissions().mode() & 0o111 != 0,
        }
    } else if kind.is_symlink() {
        match (fs::read_link(path), fs::canonicalize(path)) {
            (Ok(link), Ok(canonical)) => PathFact::Symlink { link, canonical },
            // It dangles, or leads in a circle.
            _ => PathFact::Absent,
        }
    } else if kind.is_socket() {
        PathFact::Socket
    } else {
        PathFact::Other
    }
}

/// The variables of this process's environment that name trust stores.
#[must_use]
pub fn trust_stores() -> BTreeMap<String, String> {
    TRUST_STORES
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_kind_of_path_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().canonicalize().unwrap().join(name);
        fs::write(path("file"), "").unwrap();
        fs::write(path("program"), "").unwrap();
        fs::set_permissions(path("program"), fs::Permissions::from_mode(0o755)).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nothing", path("dangling")).unwrap();
        symlink("circle", path("circle")).unwrap();

        assert_eq!(look(&path("")), PathFact::Directory);
        assert_eq!(look(&path("file")), PathFact::File { executable: false });
        assert_eq!(look(&path("program")), PathFact::File { executable: true });
        let link = PathFact::Symlink {
            link: PathBuf::from("file"),
            canonical: path("file"),
        };
        assert_eq!(look(&path("link")), link);
        for absent in ["dangling", "circle", "nothing"] {
            assert_eq!(look(&path(absent)), PathFact::Absent, "{absent}");
        }
        assert_eq!(look(&path("socket")), PathFact::Socket);
        assert_eq!(look(Path::new("/dev/null")), PathFact::Other);
    }
}
