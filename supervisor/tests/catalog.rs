//! Profiles as they lie on a disk: good ones become tools, and bad ones are named.
#![allow(clippy::unwrap_used)] // a test may

mod fixture;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fixture::{Fixture, PATIENCE, host, profile};
use profiles::diagnostics::PROFILE_BYTES_MAX;
use profiles::resolve::Overrides;
use supervisor::catalog::{Catalog, Directory, Sources};
use supervisor::commands::serve::watch;

fn sources(directory: &Path) -> Sources {
    Sources {
        directories: vec![Directory {
            path: directory.to_owned(),
            required: true,
        }],
        overrides: Overrides::default(),
        only: Vec::new(),
        host: host(),
    }
}

/// What is wrong with a directory in which something was done.
fn refused(act: impl FnOnce(&Path)) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("fine.toml"), profile("fine", "")).unwrap();
    assert!(
        Catalog::load(sources(directory.path())).is_ok(),
        "the positive control"
    );
    act(directory.path());
    let Err(diagnostics) = Catalog::load(sources(directory.path())) else {
        panic!("nothing was found wrong");
    };
    diagnostics.to_string()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    // Messages are wrapped for a terminal.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn only_visible_toml_files_are_profiles() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mine.toml"), profile("mine", "")).unwrap();
    for name in [".hidden.toml", "mine.toml~", "notes.txt", "toml"] {
        fs::write(directory.path().join(name), "nonsense").unwrap();
    }
    let catalog = Catalog::load(sources(directory.path())).unwrap();
    assert!(catalog.tool("mine").is_some());
}

#[test]
fn profile_may_be_a_link_to_a_file_elsewhere() {
    let [directory, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("mine");
    fs::write(&file, profile("mine", "")).unwrap();
    symlink(&file, directory.path().join("mine.toml")).unwrap();
    assert!(
        Catalog::load(sources(directory.path()))
            .unwrap()
            .tool("mine")
            .is_some()
    );
}

#[test]
fn directory_that_was_asked_for_must_exist() {
    let text =
        refused(|directory| fs::rename(directory, directory.with_extension("elsewhere")).unwrap());
    says(&text, &["could not read the directory", "No such file"]);
}

#[test]
fn directory_that_nobody_asked_for_may_be_missing() {
    let mut sources = sources(Path::new("/nonexistent"));
    sources.directories[0].required = false;
    assert!(Catalog::load(sources).is_ok());
}

#[test]
fn circle_of_links_is_named() {
    let text = refused(|directory| symlink("loop.toml", directory.join("loop.toml")).unwrap());
    says(&text, &["loop.toml", "levels of symbolic links"]);
}

#[test]
fn fifo_is_named_and_not_waited_for() {
    let text = refused(|directory| {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&directory.join("fifo.toml"), mode).unwrap();
    });
    says(&text, &["fifo.toml", "no regular file"]);
}

#[test]
fn unreadable_file_is_named() {
    // For root nothing is unreadable, but for a directory.
    let text = refused(|directory| fs::create_dir(directory.join("dir.toml")).unwrap());
    says(&text, &["dir.toml"]);
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let text = refused(|directory| {
        let path = directory.join("fine.toml");
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    });
    says(&text, &["could not read", "fine.toml", "Permission denied"]);
}

#[test]
fn oversize_file_is_named() {
    let text = refused(|directory| {
        fs::write(
            directory.join("big.toml"),
            "#".repeat(PROFILE_BYTES_MAX + 1),
        )
        .unwrap();
    });
    says(&text, &["big.toml"]);
}

#[test]
fn file_that_is_not_utf8_is_named() {
    let text = refused(|directory| fs::write(directory.join("odd.toml"), b"a = '\xff'").unwrap());
    says(&text, &["odd.toml", "not UTF-8"]);
}

#[test]
fn two_profiles_of_one_name_are_named() {
    let text = refused(|directory| {
        fs::write(directory.join("other.toml"), profile("fine", "")).unwrap();
    });
    says(&text, &["fine.toml", "other.toml", "defined twice"]);
}

#[test]
fn every_bad_file_is_named_at_once() {
    let text = refused(|directory| {
        fs::write(directory.join("one.toml"), "nonsense = 1").unwrap();
        fs::write(
            directory.join("two.toml"),
            profile("two", "[limits]\nmemory = \"1 XB\""),
        )
        .unwrap();
    });
    says(&text, &["one.toml", "two.toml"]);
}

#[test]
fn tool_and_root_that_no_profile_has_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut sources = sources(directory.path());
    sources.only = vec!["pyton".to_owned()];
    sources
        .overrides
        .roots
        .insert("dosc".to_owned(), PathBuf::from("/tmp"));
    let Err(diagnostics) = Catalog::load(sources) else {
        panic!("nothing was found wrong");
    };
    says(
        &diagnostics.to_string(),
        &["no tool `pyton`", "`python`", "no root `dosc`", "`docs`"],
    );
}

#[test]
fn tool_that_lacks_something_here_is_left_out_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        profile("lost", "").replace("argv = [\"/bin/cat\"]", "argv = [\"/usr/bin/no-such\"]");
    fs::write(directory.path().join("lost.toml"), text).unwrap();
    let text = profile("asking", "[access]\napprove = \"always\"\n");
    fs::write(directory.path().join("asking.toml"), text).unwrap();
    let snapshot = Catalog::load(sources(directory.path())).unwrap().snapshot();
    let why = |name: &str| {
        let left_out = snapshot
            .left_out
            .iter()
            .find(|left_out| left_out.name == name);
        left_out
            .unwrap_or_else(|| panic!("`{name}` is not left out"))
            .why
            .clone()
    };
    assert!(
        why("search_docs").contains("--root docs=DIR"),
        "{}",
        why("search_docs")
    );
    assert!(why("lost").contains("/usr/bin/no-such"), "{}", why("lost"));
    assert!(why("asking").contains("not offered"), "{}", why("asking"));
    for name in ["search_docs", "lost", "asking"] {
        assert!(!snapshot.tools.contains_key(name));
    }
}

#[test]
fn reload_keeps_the_gate_of_a_tool_whose_limits_are_the_same() {
    let fixture = Fixture::new();
    let gate =
        |name: &str| std::sync::Arc::clone(&fixture.service.catalog.tool(name).unwrap().gate);
    let (alpha, beta) = (gate("alpha"), gate("beta"));
    let changed = profile("alpha", "[limits]\nconcurrency = 2\n");
    fs::write(fixture.profile("alpha"), changed).unwrap();
    fixture.service.catalog.reload().unwrap();
    assert!(!std::sync::Arc::ptr_eq(&alpha, &gate("alpha")));
    assert!(std::sync::Arc::ptr_eq(&beta, &gate("beta")));
}

#[test]
fn tool_that_was_asked_for_and_is_gone_keeps_them_all() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.profile("beta")).unwrap();
    let diagnostics = fixture.service.catalog.reload().unwrap_err();
    says(&diagnostics.to_string(), &["no tool `beta`"]);
    assert!(fixture.service.catalog.tool("beta").is_some());
}

#[tokio::test]
async fn changed_file_is_noticed_and_taken() {
    let fixture = Fixture::new();
    let mut changes = fixture.service.catalog.changes();
    let watching = watch(
        std::sync::Arc::clone(&fixture.service),
        supervisor::systemd::Notifier::default(),
    )
    .unwrap();
    // As editors write: beside it, and renamed over it.
    let temporary = fixture.profile("alpha").with_extension("new");
    let text = profile("alpha", "").replace("A tool of the tests.", "Changed.");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, fixture.profile("alpha")).unwrap();
    tokio::time::timeout(PATIENCE, changes.changed())
        .await
        .expect("not noticed")
        .unwrap();
    let tool = fixture.service.catalog.tool("alpha").unwrap();
    assert_eq!(tool.definition.description.as_deref(), Some("Changed."));

    watching.abort();
}
