//! What keeps denied paths from sight, within trees that are allowed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runner::spec::Mount;

use crate::paths;

/// A cover over each denied path (with whether it is a directory), and a pin on each directory above
/// it that the tool could rename because it may write where that directory stands.
///
/// The cover would move along, so this call would see nothing; but on the host the denied file would
/// be under another name from then on, and the next call would find it there uncovered.
pub(super) fn covers<'a>(
    denied: impl Iterator<Item = (&'a Path, bool)>,
    writable: impl Fn(&Path) -> bool,
) -> Vec<Mount> {
    // Sorted by path, so that a mount over a directory never hides one made before beneath it.
    let mut mounts: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for (path, directory) in denied {
        let above = paths::ancestors(path);
        for pinned in above
            .into_iter()
            .filter(|above| above.parent().is_some_and(&writable))
        {
            mounts
                .entry(pinned.to_owned())
                .or_insert_with(|| Mount::Pin {
                    target: pinned.to_owned(),
                });
        }
        let target = path.to_owned();
        mounts.insert(target.clone(), Mount::Mask { target, directory });
    }
    mounts.into_values().collect()
}
