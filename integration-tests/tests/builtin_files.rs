//! The built-in tools on directories of documents and files: what they are for, and what they refuse.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use harness::builtin::{stderr, stdout};
use harness::programs::installed;
use harness::{World, everyone};
use serde_json::json;

/// A directory with files, and a file beside it that none of its links may reach.
fn tree(world: &World) -> PathBuf {
    world.write("outside/secret.txt", "the secret needle\n");
    world.write("tree/one.txt", "a needle in one\nnothing\n");
    world.write("tree/notes/two.md", "first\nA Needle in two\nlast\n");
    world.write("tree/notes/a+b.md", "a+b=c\naab=c\n");
    world.write("tree/-dash.txt", "dashing\n");
    let tree = world.path("tree");
    symlink(world.path("outside/secret.txt"), tree.join("link")).expect("a link can be made");
    symlink(world.path("outside"), tree.join("way")).expect("a link can be made");
    symlink("one.txt", tree.join("inner")).expect("a link can be made");
    nix::unistd::mkfifo(
        &tree.join("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o666),
    )
    .expect("a FIFO can be made");
    tree
}

#[test]
fn file_read_returns_a_file() {
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let absolute = tree.join("one.txt");
        for (path, text) in [
            ("one.txt", "a needle in one\nnothing\n"),
            ("./notes/two.md", "first\nA Needle in two\nlast\n"),
            ("-dash.txt", "dashing\n"),
            (
                absolute.to_str().expect("a plain path"),
                "a needle in one\nnothing\n",
            ),
        ] {
            let told = world.told(&[("files", &tree)], "file_read", &json!({ "path": path }));
            assert_eq!(told, text, "{who:?}: {path}");
        }
    }
}

#[test]
fn file_read_refuses_what_is_not_a_file_beneath_its_root() {
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        for (path, words) in [
            ("../outside/secret.txt", ["`/path`", "`..`"]),
            ("notes/../../outside/secret.txt", ["`/path`", "`..`"]),
            ("/etc/passwd", ["`/path`", "elsewhere"]),
            ("link", ["`/path`", "symbolic link"]),
            ("inner", ["`/path`", "symbolic link"]),
            ("way/secret.txt", ["`/path`", "symbolic link"]),
            ("fifo", ["`/path`", "neither"]),
            ("notes", ["`/path`", "directory"]),
            (".", ["`/path`", "a file"]),
            ("absent", ["`/path`", "no such file"]),
            ("one.txt/two", ["`/path`", "Not a directory"]),
            ("one\u{0}.txt", ["`/path`", "control character"]),
            ("", ["`/path`", "at least 1"]),
        ] {
            let arguments = json!({ "path": path });
            world.assert_refused(&[("files", &tree)], "file_read", &arguments, &words);
        }
        let devices = [("files", Path::new("/dev"))];
        let output = world.attempt(&devices, "file_read", &json!({ "path": "null" }));
        assert_eq!(output.status.code(), Some(125), "{who:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("`/dev`"), "{who:?}: {said}");
        assert!(
            !said.contains("no root"),
            "{who:?}: one mistake is told once: {said}"
        );
        assert!(
            !said.contains("unknown root"),
            "{who:?}: one mistake is told once: {said}"
        );
    }
}

#[test]
fn file_write_makes_and_replaces_files_that_their_owner_owns() {
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        for path in ["new.txt", "one.txt", "notes/new.md", "-new"] {
            for content in ["a longer first version\n", "short\n", ""] {
                let arguments = json!({ "path": path, "content": content });
                let told = world.told(&[("writable", &tree)], "file_write", &arguments);
                assert_eq!(told, "");
                let written = fs::read_to_string(tree.join(path)).expect("it was written");
                assert_eq!(written, content, "{who:?}: {path}");
            }
            let owner = fs::metadata(tree.join(path)).expect("it was written").uid();
            assert_eq!(
                owner,
                fs::metadata(&tree).expect("it exists").uid(),
                "{who:?}: {path}"
            );
        }
    }
}

#[test]
fn file_write_refuses_what_is_not_beneath_its_root() {
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        for (path, words) in [
            ("../outside/secret.txt", ["`/path`", "`..`"]),
            ("../new.txt", ["`/path`", "`..`"]),
            ("/tmp/new.txt", ["`/path`", "elsewhere"]),
            ("link", ["`/path`", "symbolic link"]),
            ("way/new.txt", ["`/path`", "symbolic link"]),
            ("fifo", ["`/path`", "neither"]),
            ("notes", ["`/path`", "directory"]),
            ("absent/new.txt", ["`/path`", "no such file"]),
        ] {
            let arguments = json!({ "path": path, "content": "changed" });
            world.assert_refused(&[("writable", &tree)], "file_write", &arguments, &words);
        }
        let secret = fs::read_to_string(world.path("outside/secret.txt")).expect("it is there");
        assert_eq!(secret, "the secret needle\n");
        assert_eq!(
            fs::read_dir(world.path("outside"))
                .expect("it is there")
                .count(),
            1
        );
        assert!(!tree.join("absent").exists() && !world.path("new.txt").exists());
    }
}

#[test]
fn search_docs_finds_lines_with_their_places() {
    if !installed(&["/usr/bin/rg"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let search = |arguments| {
            let told = world.told(&[("docs", &tree)], "search_docs", &arguments);
            told.replace(&format!("{}/", tree.display()), "")
                .replace("./", "")
        };
        for (arguments, found) in [
            (
                json!({ "pattern": "ne+dle" }),
                "one.txt:1:a needle in one\n",
            ),
            (
                json!({ "pattern": "needle", "ignore_case": true }),
                "notes/two.md:2:A Needle in two\none.txt:1:a needle in one\n",
            ),
            (
                json!({ "pattern": "needle", "ignore_case": true, "glob": "*.md" }),
                "notes/two.md:2:A Needle in two\n",
            ),
            (
                json!({ "pattern": "a+b", "literal": true }),
                "notes/a+b.md:1:a+b=c\n",
            ),
            (json!({ "pattern": "a+b" }), "notes/a+b.md:2:aab=c\n"),
            (
                json!({ "pattern": "=c", "path": "notes/a+b.md" }),
                "notes/a+b.md:1:a+b=c\nnotes/a+b.md:2:aab=c\n",
            ),
            (
                json!({ "pattern": "Needle", "path": "notes", "context": 1 }),
                "notes/two.md-1-first\nnotes/two.md:2:A Needle in two\nnotes/two.md-3-last\n",
            ),
        ] {
            assert_eq!(search(arguments.clone()), found, "{who:?}: {arguments}");
        }
    }
}

#[test]
fn search_docs_says_plainly_that_it_found_nothing() {
    if !installed(&["/usr/bin/rg"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let arguments = json!({ "pattern": "nowhere to be found" });
        let outcome = world.call_at(&[("docs", &tree)], "search_docs", &arguments);
        assert_eq!(outcome["status"], "exited", "{who:?}: {outcome:#}");
        assert_eq!(outcome["exit_code"], 1);
        assert_eq!((stdout(&outcome), stderr(&outcome)), ("", ""));
    }
}

/// `rg --pre PROGRAM` runs a program for every file. The control shows that this one would.
#[test]
fn search_docs_takes_no_option_from_its_caller() {
    if !installed(&["/usr/bin/rg"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let marker = world.path("marker");
        let text = format!("#!/bin/sh\ntouch {}\n", marker.display());
        let program = world.write("tree/run.sh", &text);
        fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("it is ours");
        let option = format!("--pre={}", program.display());
        let control = std::process::Command::new("/usr/bin/rg")
            .args([&option, "needle"])
            .arg(&tree)
            .output();
        control.expect("ripgrep starts");
        assert!(marker.exists(), "the control runs the program");
        fs::remove_file(&marker).expect("it is there");

        for arguments in [
            json!({ "pattern": option }),
            json!({ "pattern": "needle", "glob": option }),
            json!({ "pattern": "needle", "path": option }),
            json!({ "pattern": "needle", "context": option }),
            json!({ "pattern": "--files", "glob": "--" }),
        ] {
            let outcome = world.call_at(&[("docs", &tree)], "search_docs", &arguments);
            assert_ne!(outcome["exit_code"], 0, "{who:?}: {arguments}: {outcome:#}");
            assert!(!marker.exists(), "{who:?}: {arguments} ran a program");
        }
    }
}

#[test]
fn search_docs_stays_beneath_its_root() {
    if !installed(&["/usr/bin/rg"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let everywhere = json!({ "pattern": "needle" });
        let found = world.told(&[("docs", &tree)], "search_docs", &everywhere);
        assert!(
            found.contains("one.txt") && !found.contains("secret"),
            "{who:?}: {found}"
        );
        for (path, words) in [
            ("../outside", ["`/path`", "`..`"]),
            ("/etc", ["`/path`", "elsewhere"]),
            ("way", ["`/path`", "symbolic link"]),
            ("link", ["`/path`", "symbolic link"]),
            ("fifo", ["`/path`", "neither"]),
            ("absent", ["`/path`", "no such file"]),
        ] {
            let arguments = json!({ "pattern": "needle", "path": path });
            world.assert_refused(&[("docs", &tree)], "search_docs", &arguments, &words);
        }
    }
}

#[test]
fn bad_arguments_are_refused_by_the_name_of_the_field() {
    for who in everyone() {
        let world = World::new(who);
        let tree = tree(&world);
        let roots = [
            ("docs", tree.as_path()),
            ("files", &tree),
            ("writable", &tree),
        ];
        for (tool, arguments, words) in [
            ("file_read", json!({}), ["`/path`", "found nothing"]),
            (
                "file_read",
                json!({ "path": 1 }),
                ["`/path`", "expected a string"],
            ),
            (
                "file_read",
                json!({ "path": "one.txt", "paht": "" }),
                ["`/paht`", "`path`"],
            ),
            (
                "file_write",
                json!({ "path": "x" }),
                ["`/content`", "found nothing"],
            ),
            (
                "file_write",
                json!({ "path": "x", "content": {} }),
                ["`/content`", "a string"],
            ),
            (
                "search_docs",
                json!({ "pattern": "x", "context": 21 }),
                ["`/context`", "20"],
            ),
            (
                "search_docs",
                json!({ "pattern": "x", "context": 1.5 }),
                ["`/context`", "integer"],
            ),
            (
                "search_docs",
                json!({ "pattern": "x", "literal": "yes" }),
                ["`/literal`", "boolean"],
            ),
            (
                "search_docs",
                json!({ "pattern": "a\u{0}" }),
                ["`/pattern`", "NUL"],
            ),
        ] {
            world.assert_refused(&roots, tool, &arguments, &words);
        }
        assert!(!tree.join("x").exists());
    }
}

#[test]
fn a_tool_without_its_root_is_not_offered_and_says_what_it_needs() {
    for who in everyone() {
        let world = World::new(who);
        let output = world.attempt(&[], "file_read", &json!({ "path": "one.txt" }));
        assert_eq!(output.status.code(), Some(125), "{who:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("--root files=DIR"), "{who:?}: {said}");
    }
}
