//! Protected paths of a host workspace: what a tool leaves there, a program of the host's may later
//! run with its user's rights (`.git/hooks`, `.mcp.json`, `.envrc`, editor tasks).
//!
//! The whole directory is compared before and after on the host, with extended attributes: nothing
//! protected has changed, and nothing has appeared that the tool did not make, not even for a moment
//! (a name that the kernel's overlay would leave behind, a stub, a whiteout). The positive control is
//! the same attempt under the same profile without the protection.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use harness::ground::{Ground, Said};
use harness::{Who, everyone, within};
use nix::sys::signal::Signal;

const PROTECT: &str = "protect = [\".git/hooks\", \".git/config\", \".bashrc\", \".mcp.json\", \
                       \".envrc\", \".vscode/tasks.json\", \"a/b/c\"]";

/// A workspace as a person has it: some of the protected names exist, others do not.
fn workspace(ground: &Ground) -> PathBuf {
    let workspace = ground.workspace("workspace");
    for name in [".git", ".git/hooks", "other"] {
        let path = ground.directory(&format!("workspace/{name}"));
        ground.ordinary(&path);
    }
    for name in [
        ".git/hooks/pre-commit",
        ".git/config",
        ".bashrc",
        "plain",
        "other/plain",
    ] {
        let path = ground.file(&format!("workspace/{name}"), "as it was");
        ground.ordinary(&path);
    }
    workspace
}

/// Everything about every file: kind, mode, owner, size or contents, time of change, attributes.
fn everything(ground: &Ground, workspace: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let marks = ground.outside(&["listxattr".as_ref(), workspace.as_os_str()]);
    assert_eq!(marks.detail(), "", "the workspace itself has been marked");
    let mut directories = vec![workspace.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("it is ours") {
            let path = entry.expect("it is ours").path();
            let metadata = std::fs::symlink_metadata(&path).expect("it is ours");
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            let contents = if metadata.is_file() {
                std::fs::read_to_string(&path).expect("it is ours")
            } else {
                kind(metadata.file_type()).to_owned()
            };
            let attributes = ground.outside(&["listxattr".as_ref(), path.as_os_str()]);
            let all = format!(
                "{:o} {} {} {contents} [{}]",
                metadata.mode(),
                metadata.uid(),
                if metadata.is_dir() {
                    0
                } else {
                    metadata.mtime_nsec()
                },
                attributes.detail()
            );
            found.insert(path, all);
        }
    }
    found
}

fn kind(file: FileType) -> &'static str {
    match file {
        _ if file.is_dir() => "directory",
        _ if file.is_symlink() => "link",
        _ if file.is_char_device() => "device",
        _ => "other",
    }
}

fn attempt(ground: &Ground, workspace: &Path, protect: &str, words: &[&str]) -> Said {
    let options = [
        "--workspace",
        workspace.to_str().expect("temporary names are text"),
    ];
    ground.attempt_with(&ground.profile(protect, ""), &options, words)
}

/// Each attempt is made in a cell of its own, on the same workspace, which must stay as it was; and
/// without protection in a fresh workspace, where it must go through.
fn hold(attempts: &[&[&str]]) {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = workspace(&ground);
        let before = everything(&ground, &workspace);
        for words in attempts {
            let said = attempt(&ground, &workspace, PROTECT, words);
            assert!(!said.succeeded(), "{who:?} {words:?}: {said:#?}");
            assert_eq!(everything(&ground, &workspace), before, "{who:?} {words:?}");
        }
        for words in attempts {
            let ground = Ground::new(who);
            let workspace = self::workspace(&ground);
            let said = attempt(&ground, &workspace, "", words);
            assert!(
                said.succeeded(),
                "the control of {who:?} {words:?}: {said:#?}"
            );
        }
    }
}

#[test]
fn what_exists_and_is_protected_is_not_changed() {
    hold(&[
        &["append", "/work/.git/config", "x"],
        &["create", "/work/.git/config", "x"],
        &["truncate", "/work/.git/config"],
        &["append", "/work/.bashrc", "x"],
        &["append", "/work/.git/hooks/pre-commit", "x"],
        &["chmod", "/work/.git/hooks/pre-commit", "777"],
        &["chmod", "/work/.git/hooks", "777"],
        &["utimes", "/work/.git/config"],
        &["create", "/work/.git/hooks/post-commit", "x"],
        &["symlink", "/tmp", "/work/.git/hooks/link"],
        &["setxattr", "/work/.git/config", "user.x", "x"],
    ]);
}

#[test]
fn what_exists_and_is_protected_is_not_removed_or_replaced() {
    hold(&[
        &["unlink", "/work/.git/config"],
        &["unlink", "/work/.bashrc"],
        &["unlink", "/work/.git/hooks/pre-commit"],
        &["rename", "/work/plain", "/work/.git/config"],
        &["rename", "/work/plain", "/work/.bashrc"],
        &["rename", "/work/.git/config", "/work/moved"],
        &["rename", "/work/.git/hooks", "/work/moved"],
        &["exchange", "/work/.git/hooks", "/work/other"],
        &["exchange", "/work/.bashrc", "/work/plain"],
    ]);
}

/// A name of its own would be writable, were it made elsewhere.
#[test]
fn what_is_protected_gets_no_second_name() {
    hold(&[
        &["link", "/work/.git/config", "/work/second"],
        &["link", "/work/.bashrc", "/work/second"],
        &["link_open", "/work/.bashrc", "/work/second"],
    ]);
}

#[test]
fn nothing_above_what_is_protected_is_moved_away() {
    hold(&[
        &["rename", "/work/.git", "/work/moved"],
        &["exchange", "/work/.git", "/work/other"],
    ]);
}

#[test]
fn what_is_absent_and_protected_is_not_made() {
    hold(&[
        &["create", "/work/.mcp.json", "x"],
        &["create_mode", "/work/.mcp.json", "644"],
        &["mkdir", "/work/.mcp.json"],
        &["symlink", "plain", "/work/.mcp.json"],
        &["link", "/work/plain", "/work/.mcp.json"],
        &["rename", "/work/plain", "/work/.mcp.json"],
        &["rename", "/work/other", "/work/.mcp.json"],
        &["link_nameless", "/work", "/work/.mcp.json"],
        &["create", "/work/.envrc", "x"],
    ]);
}

/// Where the parent is absent, too, the tool may see a directory in its place, but cannot make the
/// protected name in it, nor put another directory there that has it.
#[test]
fn what_is_absent_within_what_is_absent_is_not_made() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = workspace(&ground);
        let before = everything(&ground, &workspace);
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile(PROTECT, "").display().to_string();
        for script in [
            "mkdir .vscode; echo x > .vscode/tasks.json",
            "mkdir -p a/b; echo x > a/b/c",
            "mkdir new; echo x > new/tasks.json; mv -T new .vscode; rm -r new",
            "mkdir -p new/b; echo x > new/b/c; mv -T new a; rm -r new",
            "rm -rf .vscode; ln -sT other .vscode",
            "mv .vscode moved; mv a moved",
            "rmdir .vscode a/b a; echo x > a",
            "rm -rf a .vscode",
        ] {
            let mut arguments = vec!["run", "--json", "--profile", &profile];
            arguments.extend(options);
            arguments.extend(["--", "/bin/sh", "-c", script]);
            let _ = harness::outcome(&ground.world.toolcell(&arguments));
            let now = everything(&ground, &workspace);
            let appeared: Vec<_> = now
                .keys()
                .filter(|path| !before.contains_key(*path))
                .collect();
            for path in &appeared {
                let name = path.strip_prefix(&workspace).expect("it was found there");
                let protected = [".vscode/tasks.json", "a/b/c"].map(Path::new);
                assert!(!protected.contains(&name), "{who:?} `{script}`: {name:?}");
                assert!(
                    !now[*path].contains("overlay"),
                    "{who:?} `{script}`: {}",
                    now[*path]
                );
            }
            // The rest is the tool's own: copies under names that are free, and directories.
            for path in &appeared {
                let _ = std::fs::remove_file(path);
                let _ = std::fs::remove_dir_all(path);
            }
            assert_eq!(
                everything(&ground, &workspace),
                before,
                "{who:?} `{script}`"
            );
        }
    }
}

/// What the tool may do beside the protected names goes through to the host, and to it alone.
#[test]
fn everything_else_in_a_protected_workspace_is_written_through() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = workspace(&ground);
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile(PROTECT, "").display().to_string();
        let script = "set -e; echo new > new; echo more >> plain; rm other/plain; mkdir made; \
                      mv other moved; echo x > .git/HEAD; ln -s new link; chmod 600 new; \
                      ln new second; mv plain renamed; rmdir moved; echo done";
        let mut arguments = vec!["run", "--json", "--profile", &profile];
        arguments.extend(options);
        arguments.extend(["--", "/bin/sh", "-c", script]);
        let outcome = harness::outcome(&ground.world.toolcell(&arguments));
        assert_eq!(outcome["stdout"]["text"], "done\n", "{who:?}: {outcome:#}");
        let now = everything(&ground, &workspace);
        let names: Vec<_> = now
            .keys()
            .map(|path| {
                path.strip_prefix(&workspace)
                    .expect("found there")
                    .to_owned()
            })
            .collect();
        let expected = [
            ".bashrc",
            ".git",
            ".git/HEAD",
            ".git/config",
            ".git/hooks",
            ".git/hooks/pre-commit",
            "link",
            "made",
            "new",
            "renamed",
            "second",
        ];
        assert_eq!(names, expected.map(PathBuf::from), "{who:?}");
        for (path, all) in &now {
            assert!(
                all.ends_with("[]") && !all.contains("device"),
                "{who:?} {path:?}: {all}"
            );
        }
        let renamed = std::fs::read_to_string(workspace.join("renamed")).expect("it is there");
        assert_eq!(renamed, "as it wasmore\n", "{who:?}");
    }
}

/// What marks a directory for an overlay can be planted by a call that has none: it must not open
/// the protection of a later call.
#[test]
fn planted_marks_do_not_open_the_protection() {
    for who in everyone() {
        for mark in ["opaque", "redirect", "metacopy", "whiteouts"] {
            let ground = Ground::new(who);
            let workspace = workspace(&ground);
            let path = ground.directory("workspace/.vscode");
            ground.ordinary(&path);
            for path in ["/work/.vscode", "/work"] {
                let name = format!("user.overlay.{mark}");
                let said = attempt(&ground, &workspace, "", &["setxattr", path, &name, "y"]);
                assert!(said.succeeded(), "the control of {who:?} {mark}: {said:#?}");
            }
            let options = [
                "--workspace",
                workspace.to_str().expect("temporary names are text"),
            ];
            let profile = ground.profile(PROTECT, "");
            for path in ["/work/.vscode/tasks.json", "/work/.mcp.json"] {
                // Whether the call is refused for it, or the tool, is no matter.
                let words = ["create", path, "x"];
                let _ = ground.command(&profile, &options, &words).output();
            }
            assert!(
                !workspace.join(".vscode/tasks.json").exists(),
                "{who:?} {mark}"
            );
            assert!(!workspace.join(".mcp.json").exists(), "{who:?} {mark}");
        }
    }
}

/// A link in place of a protected path, or above it, would have the protection hold elsewhere.
#[test]
fn a_link_in_the_path_of_what_is_protected_refuses_the_call() {
    for who in everyone() {
        for link in [".git", ".git/hooks"] {
            let ground = Ground::new(who);
            let workspace = workspace(&ground);
            let away = ground.path("away");
            std::fs::rename(workspace.join(link), &away).expect("it is ours");
            symlink(&away, workspace.join(link)).expect("it is ours");
            let options = [
                "--workspace",
                workspace.to_str().expect("temporary names are text"),
            ];
            let profile = ground.profile("protect = [\".git/hooks/pre-commit\"]", "");
            let words = ["create", "/work/new", "x"];
            let output = ground
                .command(&profile, &options, &words)
                .output()
                .expect("toolcell starts");
            let outcome = harness::outcome(&output);
            assert_eq!(outcome["status"], "refused", "{who:?} {link}: {outcome:#}");
            assert!(!workspace.join("new").exists(), "{who:?} {link}");
        }
    }
}

#[test]
fn two_calls_at_once_share_a_protected_workspace() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = workspace(&ground);
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile(PROTECT, "");
        let children: Vec<_> = ["one", "two", "three"]
            .into_iter()
            .map(|name| {
                let path = format!("/work/{name}");
                let mut command = ground.command(&profile, &options, &["create", &path, name]);
                command
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .expect("toolcell starts")
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().expect("it is our child");
            let said = harness::ground::said(&output);
            assert!(said.succeeded(), "{who:?}: {said:#?}");
        }
        for name in ["one", "two", "three"] {
            let written = std::fs::read_to_string(workspace.join(name)).expect("it was written");
            assert_eq!(written, name, "{who:?}");
        }
        assert!(!workspace.join(".mcp.json").exists(), "{who:?}");
    }
}

/// Killed in the middle of a call, when stubs are in place and a file has just been made.
#[test]
fn no_ghost_is_left_when_toolcell_is_killed_in_the_middle() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = workspace(&ground);
        let before = everything(&ground, &workspace);
        let profile = ground.profile(PROTECT, "").display().to_string();
        let directory = workspace.to_str().expect("temporary names are text");
        let probe = ground.probe().display().to_string();
        let running = ground.world.start(&[
            "run",
            "--profile",
            &profile,
            "--workspace",
            directory,
            "--",
            &probe,
            "hold",
            "create",
            "/work/new",
            "x",
        ]);
        assert_eq!(running.line(), "holding Ok(\"\")", "{who:?}");
        running.signal(Signal::SIGKILL);
        let _ = running.end();
        let mut now = BTreeMap::new();
        let gone = within(std::time::Duration::from_secs(20), || {
            now = everything(&ground, &workspace);
            !harness_sees_cells(&ground)
        });
        assert!(gone, "{who:?}: the cell lives");
        let new = now.remove(&workspace.join("new"));
        assert!(
            new.is_some_and(|new| new.ends_with("x [] ") || new.ends_with("x []")),
            "{who:?}"
        );
        assert_eq!(now, before, "{who:?}");
        // And the workspace works as before.
        let said = attempt(&ground, &workspace, PROTECT, &["create", "/work/new", "y"]);
        assert!(said.succeeded(), "{who:?}: {said:#?}");
    }
}

/// Whether a process of this ground's probe lives anywhere.
fn harness_sees_cells(ground: &Ground) -> bool {
    let processes = std::fs::read_dir("/proc").expect("proc is mounted");
    processes.flatten().any(|entry| {
        let exe = std::fs::read_link(entry.path().join("exe"));
        exe.is_ok_and(|exe| exe == ground.probe())
    })
}

/// A directory of root's cannot have absent names protected: that is refused, and said.
#[test]
fn protection_that_cannot_be_given_refuses_the_call() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let ground = Ground::new(Who::Root);
    let workspace = ground.directory("workspace");
    let options = [
        "--workspace",
        workspace.to_str().expect("temporary names are text"),
    ];
    let profile = ground.profile(PROTECT, "");
    let words = ["create", "/work/new", "x"];
    let output = ground
        .command(&profile, &options, &words)
        .output()
        .expect("toolcell starts");
    assert_eq!(harness::outcome(&output)["status"], "refused");
    let names = std::fs::read_dir(&workspace).expect("it is ours").count();
    assert_eq!(names, 0, "the refused call left something");
}
