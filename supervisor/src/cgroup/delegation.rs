//! What systemd has delegated.
//!
//! In a unit that it did not delegate it resets controllers as it sees fit, and by `OOMPolicy=` it
//! ends the unit, supervisor and all, when one cell runs out of memory.

use std::path::Path;

/// What systemd calls units that hold processes.
const SUFFIXES: [&str; 2] = [".scope", ".service"];
/// Values that say no; see systemd.syntax(7).
const NO: [&str; 7] = ["", "0", "no", "n", "false", "f", "off"];

/// Whether systemd has delegated this directory, as far as it can be told.
///
/// The system's own systemd marks the directories that it delegates; `trusted.` is for root's eyes,
/// and `user.` newer. A user's systemd marks nothing (as of 257), but leaves a file on each unit
/// that was asked for at run time.
pub(super) fn delegated(directory: &Path, mount: &Path, uid: u32) -> Option<bool> {
    let within = || {
        directory
            .ancestors()
            .take_while(|path| path.starts_with(mount))
    };
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    let is_unit = |name: &String| SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    let manager = format!("user@{uid}.service");
    let unit = within().filter_map(name).find(is_unit);
    if let Some(unit) = unit.filter(|unit| *unit != manager)
        && within().filter_map(name).any(|name| name == manager)
        && let Some(says) = transient(&format!("/run/user/{uid}/systemd/transient/{unit}"))
    {
        return Some(says);
    }
    if within().any(is_marked) {
        return Some(true);
    }
    // Root would see the mark.
    (uid == 0).then_some(false)
}

/// What the file of a unit that was asked for at run time says; `None` if there is none.
fn transient(file: &str) -> Option<bool> {
    Some(says_delegate(&std::fs::read_to_string(file).ok()?))
}

fn says_delegate(unit: &str) -> bool {
    let mut lines = unit.lines().rev();
    let last = lines.find_map(|line| line.strip_prefix("Delegate="));
    last.is_some_and(|value| !NO.contains(&value.trim()))
}

fn is_marked(directory: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 8];
        let length = rustix::fs::getxattr(directory, *name, &mut value);
        length.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_file_says_whether_it_is_delegated() {
        assert!(says_delegate(
            "[Unit]\nDescription=x\n\n[Scope]\nDelegate=yes\n"
        ));
        assert!(says_delegate("[Service]\nDelegate=cpu memory pids\n"));
        for no in [
            "[Scope]\nCPUWeight=200\n",
            "Delegate=yes\nDelegate=no\n",
            "#Delegate=yes\n",
            "",
        ] {
            assert!(!says_delegate(no), "{no:?}");
        }
    }

    #[test]
    fn what_nobody_marked_is_known_to_root_alone() {
        let directory = Path::new("/sys/fs/cgroup/nobody.slice/nothing.scope");
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(delegated(directory, mount, 0), Some(false));
        assert_eq!(delegated(directory, mount, 4_000_000), None);
    }
}
