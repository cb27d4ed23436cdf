//! What lies within roots is shown as the cell's own; what is listed by its path is not.

use profiles::compile::ShownFact;
use runner::spec::Shown;

use super::*;

const OWNER: Ids = Ids { uid: 0, gid: 0 };

/// Paths that are shown, and whether they are directories.
fn shown(text: &str) -> Vec<(String, bool)> {
    let cell = compiled(text);
    let shown = cell.shown().iter();
    shown
        .map(|shown| (shown.path.display().to_string(), shown.directory))
        .collect()
}

fn directories(paths: &[&str]) -> Vec<(String, bool)> {
    paths
        .iter()
        .map(|path| ((*path).to_owned(), true))
        .collect()
}

#[test]
fn what_lies_within_roots_is_shown_and_what_is_listed_by_its_path_is_not() {
    let roots = "[roots]\ndocs = \"/srv/docs\"\nwork = \"/srv/work\"\n[files]\n";
    for (files, expected) in [
        ("read = [\"/srv/docs\"]", vec![]),
        ("read = [\"{roots.docs}\"]", vec!["/srv/docs"]),
        ("exec = [\"{roots.docs}\"]", vec!["/srv/docs"]),
        (
            "read = [\"{roots.docs}\", \"/srv/repo\"]\nwrite = [\"{roots.work}\"]",
            vec!["/srv/docs", "/srv/work"],
        ),
        // Beneath something that is listed by its path, it is a mount of its own.
        ("read = [\"/srv\", \"{roots.docs}\"]", vec!["/srv/docs"]),
        // What has other rights within a root is shown as the rest of it is.
        (
            "read = [\"{roots.docs}\"]\nwrite = [\"/srv/docs/private\"]",
            vec!["/srv/docs", "/srv/docs/private"],
        ),
    ] {
        assert_eq!(
            shown(&format!("{roots}{files}\n")),
            directories(&expected),
            "{files}"
        );
    }
}

#[test]
fn roots_in_the_systems_trees_are_not_shown() {
    let text = "[roots]\nsystem = \"/usr/lib\"\n[files]\nread = [\"{roots.system}\"]\n";
    let cell = compiled(text);
    assert!(bind(&cell.template.mounts, "/usr/lib").is_some());
    assert_eq!(cell.shown(), []);
}

#[test]
fn what_a_call_finds_out_goes_to_the_very_mount() {
    let cell = compiled(
        "[roots]\ndocs = \"/srv/docs\"\n[files]\nread = [\"/usr/bin\", \"{roots.docs}\", \"/srv/work\"]\n",
    );
    let plan = cell
        .fill_command(vec!["/bin/true".to_owned()], &BTreeMap::new())
        .unwrap();
    let fact = ShownFact {
        identity: THERE,
        owner: Some(OWNER),
    };
    let with = |shown| CallFacts { shown, ..facts() };
    let call = cell.call(&plan, &with(vec![fact])).unwrap();
    let [Shown { mount, .. }] = call.shown[..] else {
        panic!("{:?}", call.shown);
    };
    assert_eq!(
        call.shown,
        [Shown {
            mount,
            identity: THERE,
            owner: Some(OWNER)
        }]
    );
    let mount = &cell.template.mounts[mount as usize];
    assert!(
        matches!(mount, Mount::Bind { source, .. } if source == Path::new("/srv/docs")),
        "{mount:?}"
    );
    // Nobody has looked, or at something else.
    for shown in [vec![], vec![fact, fact]] {
        let error = cell.call(&plan, &with(shown)).unwrap_err();
        assert!(matches!(error, CallError::Shown { .. }), "{error}");
    }
}
