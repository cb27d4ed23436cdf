//! Path arguments, which a model chooses: they lead nowhere but beneath their root, also while
//! somebody swaps what is there.
//!
//! The tool prints the first line of the file that it was given. The positive control of each is the
//! plain file beside it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::everyone;
use harness::ground::Ground;
use serde_json::{Value, json};

/// How many calls are made while the swapping goes on.
const RACES: usize = 40;

/// A root with a file in it, a secret beside it, and a tool that reads or writes what it is told to.
fn ground(who: harness::Who, access: &str, attempt: &str) -> Ground {
    let ground = Ground::new(who);
    for name in ["documents", "documents/inner", "outside"] {
        let path = ground.directory(name);
        ground.ordinary(&path);
    }
    for (name, contents) in [
        ("documents/plain", "plain"),
        ("documents/inner/plain", "plain"),
        ("documents/denied", "secret"),
        ("outside/secret", "secret"),
        ("outside/plain", "secret"),
    ] {
        let path = ground.file(name, contents);
        ground.ordinary(&path);
    }
    let probe = ground.probe().display().to_string();
    let text = format!(
        r#"
format = 1
name = "show"
title = "Show"
description = "Shows a file."
extends = ["standard"]
roots.documents = "{documents}"
paths.path = {{ beneath = "{{roots.documents}}" }}
[input]
type = "object"
required = ["path"]
properties.path = {{ type = "string" }}
[run]
argv = ["{probe}", {attempt}]
[files]
exec = ["{bin}"]
{access} = ["{{path}}"]
deny = ["{documents}/denied"]
"#,
        documents = ground.text("documents"),
        bin = ground.text("bin"),
    );
    ground
        .world
        .write("config/toolcell/profiles/show.toml", &text);
    ground
}

fn call(ground: &Ground, path: &str) -> Value {
    ground.world.call("show", &json!({ "path": path }))
}

fn said(outcome: &Value) -> &str {
    outcome["stdout"]["text"].as_str().unwrap_or_default()
}

/// The paths that must be refused before anything is started.
fn refused(paths: &[&str]) {
    for who in everyone() {
        let ground = ground(who, "read", "\"read\", \"{path}\"");
        symlink("../outside/secret", ground.path("documents/link")).expect("it is ours");
        symlink("../outside", ground.path("documents/directory")).expect("it is ours");
        symlink("plain", ground.path("documents/within")).expect("it is ours");
        symlink("/proc/self/root/etc/passwd", ground.path("documents/magic")).expect("it is ours");
        symlink("nowhere", ground.path("documents/dangling")).expect("it is ours");
        for path in paths {
            let path = path.replace("ROOT", ground.root().to_str().expect("names are text"));
            let outcome = call(&ground, &path);
            let status = outcome["status"].as_str().unwrap_or_default();
            assert_eq!(status, "refused", "{who:?} {path:?}: {outcome:#}");
            assert!(
                !outcome.to_string().contains("secret\\n"),
                "{who:?} {path:?}: {outcome:#}"
            );
        }
        let absolute = ground.text("documents/plain");
        for path in ["plain", "inner/plain", "./plain", &absolute] {
            let outcome = call(&ground, path);
            assert_eq!(
                said(&outcome),
                "ok plain\n",
                "the control of {who:?} {path}: {outcome:#}"
            );
        }
    }
}

#[test]
fn no_parent_directory_leads_out() {
    refused(&[
        "..",
        "../outside/secret",
        "inner/../../outside/secret",
        "./../outside/secret",
        "../documents/../outside/secret",
        "inner/../plain",
        "ROOT/documents/../outside/secret",
    ]);
}

#[test]
fn no_absolute_path_outside_is_taken() {
    refused(&[
        "/etc/passwd",
        "/",
        "//",
        "ROOT/outside/secret",
        "ROOT/documentsx",
        "ROOT",
        "/proc/self/environ",
    ]);
}

#[test]
fn no_link_is_followed() {
    refused(&[
        "link",
        "directory/secret",
        "directory",
        "within",
        "magic",
        "dangling",
        "link/",
    ]);
}

#[test]
fn what_is_denied_or_is_not_there_is_refused() {
    refused(&[
        "denied",
        "ROOT/documents/denied",
        "nowhere",
        "nowhere/plain",
        "plain/plain",
        "",
    ]);
}

#[test]
fn no_odd_text_is_taken_for_a_path() {
    refused(&[
        "plain\0",
        "\0",
        "plain\0/../../outside/secret",
        "plain\n",
        "~/plain",
        "$HOME",
        "{roots.documents}/plain",
        "plain\\..\\..",
        " plain",
    ]);
    let long = "a/".repeat(4000);
    refused(&[&long]);
}

/// A process of the host's puts a link to the secret in the place of the file, and back, all the
/// time: each call shows the plain file, or fails; none shows the secret.
#[test]
fn nothing_outside_is_read_while_the_path_is_swapped() {
    for who in everyone() {
        let ground = ground(who, "read", "\"read\", \"{path}\"");
        let swapped = |ground: &Ground, stop: &AtomicBool| {
            let (file, link) = (
                ground.path("documents/plain"),
                ground.path("documents/.link"),
            );
            let inner = ground.path("documents/inner");
            let (away, away_link) = (ground.path("outside"), ground.path("documents/.inner"));
            symlink("../outside/secret", &link).expect("it is ours");
            symlink(&away, &away_link).expect("it is ours");
            while !stop.load(Ordering::Relaxed) {
                exchange(&file, &link);
                exchange(&inner, &away_link);
            }
        };
        let stop = AtomicBool::new(false);
        let mut shown = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| swapped(&ground, &stop));
            for n in 0..RACES {
                let path = if n % 2 == 0 { "plain" } else { "inner/plain" };
                let outcome = call(&ground, path);
                let leaked = said(&outcome).contains("secret");
                if leaked {
                    stop.store(true, Ordering::Relaxed);
                }
                assert!(!leaked, "{who:?} {path}: {outcome:#}");
                shown += usize::from(said(&outcome) == "ok plain\n");
            }
            stop.store(true, Ordering::Relaxed);
        });
        // The control: the swapping leaves room for calls that work.
        assert!(shown > 0, "{who:?}: every call failed");
    }
}

fn exchange(one: &Path, other: &Path) {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("they are ours");
}

/// The same with writing.
#[test]
fn nothing_outside_is_written_while_the_path_is_swapped() {
    for who in everyone() {
        let ground = ground(who, "write", "\"append\", \"{path}\", \"x\"");
        let secret = ground.path("outside/secret");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (file, link) = (
                    ground.path("documents/plain"),
                    ground.path("documents/.link"),
                );
                symlink("../outside/secret", &link).expect("it is ours");
                while !stop.load(Ordering::Relaxed) {
                    exchange(&file, &link);
                }
            });
            for _ in 0..RACES {
                let _ = call(&ground, "plain");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            std::fs::read_to_string(secret).expect("it is there"),
            "secret",
            "{who:?}"
        );
        let written = ["documents/plain", "documents/.link"].iter().any(|name| {
            std::fs::read_to_string(ground.path(name)).is_ok_and(|text| text.ends_with('x'))
        });
        assert!(written, "the control of {who:?}: no call wrote anything");
    }
}

/// A FIFO, a socket or a device in the place of the file is refused, and nobody waits for it.
#[test]
fn nothing_but_files_and_directories_is_opened() {
    for who in everyone() {
        let ground = ground(who, "read", "\"read\", \"{path}\"");
        let fifo = ground.text("documents/fifo");
        assert!(ground.outside(&["fifo", &fifo]).succeeded());
        let socket = ground.path("documents/socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("it is ours");
        for path in ["fifo", "socket"] {
            let outcome = call(&ground, path);
            assert_eq!(outcome["status"], "refused", "{who:?} {path}: {outcome:#}");
        }
    }
}

/// A call's own argument narrows the cell: nothing but the named file is beside it.
#[test]
fn only_the_named_file_is_in_the_cell() {
    for who in everyone() {
        let ground = ground(who, "read", "\"list\", \"{path}\"");
        let outcome = call(&ground, ".");
        let all = "ok denied,inner,plain\n";
        assert_eq!(said(&outcome), all, "the control of {who:?}: {outcome:#}");

        let documents = ground.text("documents");
        let ground = narrowed(ground, &documents);
        let outcome = call(&ground, "plain");
        assert_eq!(said(&outcome), "ok plain\n", "{who:?}: {outcome:#}");
    }
}

/// The same tool, which lists the root whatever it was given.
fn narrowed(ground: Ground, documents: &str) -> Ground {
    let name = "config/toolcell/profiles/show.toml";
    let text = std::fs::read_to_string(ground.world.path(name)).expect("just written");
    let text = text
        .replace(
            "\"list\", \"{path}\"",
            &format!("\"list\", \"{documents}\", \"{{path}}\""),
        )
        .replace(&format!("deny = [\"{documents}/denied\"]\n"), "");
    ground.world.write(name, &text);
    ground
}

/// Toolcell is not fooled by where it is started, either.
#[test]
fn a_relative_path_does_not_depend_on_where_toolcell_is_started() {
    for who in everyone() {
        let ground = ground(who, "read", "\"read\", \"{path}\"");
        let arguments = json!({ "path": "plain" }).to_string();
        let mut command = ground
            .world
            .command(&["call", "--json", "show", &arguments]);
        command
            .current_dir(ground.path("outside"))
            .stdin(Stdio::null());
        let outcome = harness::outcome(&command.output().expect("toolcell starts"));
        assert_eq!(said(&outcome), "ok plain\n", "{who:?}: {outcome:#}");
    }
}
