//! Files by name: what is not listed does not exist, what may be read is not written, what is denied
//! stays so by whatever name, and no link that a tool leaves leads anybody out.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use harness::everyone;
use harness::ground::Ground;

fn contents(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the host has it")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn what_is_not_listed_does_not_exist() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        ground.directory("other");
        let secret = ground.file("other/secret", "secret");
        let profile = ground.profile(&format!("write = [\"{}\"]", ground.text("listed")), "");
        let path = secret.display().to_string();
        for attempt in [
            "read", "stat", "list", "unlink", "readlink", "chdir", "truncate",
        ] {
            let said = ground.attempt(&profile, &[attempt, &path]);
            assert_eq!(said, "ENOENT", "{who:?} {attempt}");
        }
        // Its neighbours in the listed directory's parent cannot even be counted.
        let said = ground.attempt(
            &profile,
            &["list".to_owned(), ground.root().display().to_string()],
        );
        assert_eq!(said.detail(), "bin,listed", "{who:?}");
        for path in [
            "/etc/shadow",
            "/root",
            "/home",
            "/var/log",
            "/etc/machine-id",
            "/etc/ssh",
        ] {
            assert_eq!(
                ground.attempt(&profile, &["stat", path]),
                "ENOENT",
                "{who:?} {path}"
            );
        }
        assert_eq!(
            ground.outside(&["read", &path]).detail(),
            "secret",
            "the control of {who:?}"
        );
    }
}

#[test]
fn what_may_be_read_is_not_written() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents");
        let path = file.display().to_string();
        let new = ground.text("listed/new");
        let attempts = [
            words(&["append", &path, "more"]),
            words(&["create", &path, "other"]),
            words(&["create", &new, "new"]),
            words(&["truncate", &path]),
            words(&["unlink", &path]),
            words(&["rename", &path, &new]),
            words(&["rename", &path, "/tmp/file"]),
            words(&["link", &path, &new]),
            words(&["link", &path, "/work/file"]),
            words(&["link_open", &path, "/work/file"]),
            words(&["symlink", "/etc/shadow", &new]),
            words(&["mkdir", &new]),
            words(&["fifo", &new]),
            words(&["link_nameless", &ground.text("listed"), &new]),
        ];
        let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
        for attempt in &attempts {
            let said = ground.attempt(&profile, attempt);
            let refused = ["EACCES", "EROFS", "EXDEV", "EPERM"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {attempt:?}: {said:#?}");
            assert_eq!(contents(&file), "contents", "{who:?} {attempt:?}");
            assert!(!ground.path("listed/new").exists(), "{who:?} {attempt:?}");
        }
        let control = ground.attempt(&profile, &["read", &path]);
        assert_eq!(control.detail(), "contents", "the control of {who:?}");
        assert!(
            ground.outside(&attempts[0]).succeeded(),
            "the control of {who:?}"
        );
    }
}

#[test]
fn the_cells_own_files_are_not_written() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for path in [
            "/etc/passwd",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/nsswitch.conf",
        ] {
            let said = ground.attempt(&profile, &["append", path, "x"]);
            assert!(
                ["EACCES", "EROFS"].contains(&said.answer.as_str()),
                "{who:?} {path}: {said:#?}"
            );
            let said = ground.attempt(&profile, &["rename", path, "/tmp/file"]);
            assert!(
                ["EACCES", "EROFS", "EXDEV"].contains(&said.answer.as_str()),
                "{who:?} {path}"
            );
        }
        for path in [
            "/new",
            "/etc/new",
            "/dev/new",
            "/proc/new",
            "/usr/new",
            "/bin/new",
        ] {
            let said = ground.attempt(&profile, &["create", path, "x"]);
            let refused = ["EACCES", "EROFS", "ENOENT"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {path}: {said:#?}");
        }
        let said = ground.attempt(&profile, &["create", "/tmp/new", "x"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
    }
}

/// What `deny` names is covered, whichever way it is come to.
#[test]
fn what_is_denied_within_an_allowed_tree_stays_so() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        ground.directory("listed/inner");
        let file = ground.file("listed/secret", "secret");
        let inner = ground.file("listed/inner/secret", "secret");
        ground.file("listed/plain", "plain");
        symlink("secret", ground.path("listed/link")).expect("the ground is writable");
        let listed = ground.text("listed");
        for key in ["read", "write"] {
            let files =
                format!("{key} = [\"{listed}\"]\ndeny = [\"{listed}/secret\", \"{listed}/inner\"]");
            let profile = ground.profile(&files, "");
            for attempt in [
                words(&["read", &format!("{listed}/secret")]),
                words(&["read", &format!("{listed}/link")]),
                words(&["read", &format!("{listed}/inner/secret")]),
                words(&["read", &format!("/proc/self/root{listed}/secret")]),
                words(&["list", &format!("{listed}/inner")]),
                words(&["append", &format!("{listed}/secret"), "x"]),
                words(&["create", &format!("{listed}/inner/new"), "x"]),
                words(&["chmod", &format!("{listed}/secret"), "777"]),
                words(&["chmod", &format!("{listed}/inner"), "777"]),
                words(&[
                    "rename",
                    &format!("{listed}/secret"),
                    &format!("{listed}/moved"),
                ]),
                words(&[
                    "rename",
                    &format!("{listed}/inner"),
                    &format!("{listed}/moved"),
                ]),
                words(&[
                    "exchange",
                    &format!("{listed}/secret"),
                    &format!("{listed}/plain"),
                ]),
                words(&[
                    "link",
                    &format!("{listed}/secret"),
                    &format!("{listed}/moved"),
                ]),
                words(&["link", &format!("{listed}/secret"), "/work/moved"]),
                words(&["unlink", &format!("{listed}/secret")]),
                words(&["rmdir", &format!("{listed}/inner")]),
            ] {
                let said = ground.attempt(&profile, &attempt);
                assert!(!said.succeeded(), "{who:?} {key} {attempt:?}: {said:#?}");
                assert_eq!(contents(&file), "secret", "{who:?} {key} {attempt:?}");
                assert_eq!(contents(&inner), "secret", "{who:?} {key} {attempt:?}");
                assert!(
                    !ground.path("listed/moved").exists(),
                    "{who:?} {key} {attempt:?}"
                );
            }
            let said = ground.attempt(&profile, &words(&["read", &format!("{listed}/plain")]));
            assert_eq!(said.detail(), "plain", "the control of {who:?} {key}");
            let open = ground.profile(&format!("{key} = [\"{listed}\"]"), "");
            let said = ground.attempt(&open, &words(&["read", &format!("{listed}/secret")]));
            assert_eq!(said.detail(), "secret", "the control of {who:?} {key}");
        }
    }
}

/// A cover would move along with a directory above it, but on the host the denied file would be under
/// another name from then on, where the next call finds it.
#[test]
fn what_is_denied_is_not_carried_away_with_its_parents() {
    for who in everyone() {
        let ground = Ground::new(who);
        for name in ["listed", "listed/a", "listed/a/b", "listed/other"] {
            let path = ground.directory(name);
            // Writable for the cell's user, whoever that is.
            let everyone = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(path, everyone).expect("it is ours");
        }
        let secret = ground.file("listed/a/b/secret", "secret");
        let listed = ground.text("listed");
        let denied = format!("{{ path = \"{listed}/a/b/secret\", if_present = true }}");
        let profile = ground.profile(&format!("write = [\"{listed}\"]\ndeny = [{denied}]"), "");
        let moved = format!("{listed}/moved");
        for attempt in [
            ["rename", &format!("{listed}/a"), &moved],
            ["rename", &format!("{listed}/a/b"), &moved],
            [
                "exchange",
                &format!("{listed}/a"),
                &format!("{listed}/other"),
            ],
            [
                "exchange",
                &format!("{listed}/a/b"),
                &format!("{listed}/other"),
            ],
        ] {
            let said = ground.attempt(&profile, &attempt);
            // What is above the path is a mount of its own: busy, or another one than its neighbour.
            let refused = ["EBUSY", "EXDEV"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {attempt:?}: {said:#?}");
            assert_eq!(contents(&secret), "secret", "{who:?} {attempt:?}");
        }
        let control = ["rename", &format!("{listed}/other"), &moved];
        let control = ground.attempt(&profile, &control);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

/// The host's own programs may later read in the workspace what a tool has left there: a link in it
/// must be a link, and neither Toolcell nor a later cell may be led out by it.
#[test]
fn a_link_that_a_tool_leaves_leads_nobody_out() {
    for who in everyone() {
        let ground = Ground::new(who);
        let secret = ground.file("secret", "secret");
        let workspace = ground.workspace("workspace");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        let target = secret.display().to_string();
        let planted = ground.attempt_with(&profile, &options, &["symlink", &target, "/work/link"]);
        assert!(planted.succeeded(), "{who:?}: {planted:#?}");
        // The next cell follows it within its own root, where there is nothing.
        for attempt in [
            words(&["read", "/work/link"]),
            words(&["create", "/work/link", "other"]),
        ] {
            let said = ground.attempt_with(&profile, &options, &attempt);
            let refused = ["ENOENT", "EACCES", "EROFS"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {attempt:?}: {said:#?}");
            assert_eq!(contents(&secret), "secret", "{who:?} {attempt:?}");
        }
        let link = ground.text("workspace/link");
        assert_eq!(
            ground.outside(&["read", &link]).detail(),
            "secret",
            "the control of {who:?}"
        );
    }
}

/// Artifacts are collected by the supervisor, which may read what the tool may not.
#[test]
fn no_artifact_comes_from_behind_a_link() {
    for who in everyone() {
        let ground = Ground::new(who);
        let secret = ground.file("secret", "secret");
        let workspace = ground.workspace("workspace");
        let profile = ground.profile("", "").display().to_string();
        let script = format!(
            "mkdir out && ln -s {0} out/link && ln -s {1} out/directory && ln -s /etc/passwd out/own \
             && ln -s /proc/self/environ out/magic && mkfifo /tmp/fifo && echo plain > out/plain",
            secret.display(),
            ground.root().display()
        );
        for on_host in [false, true] {
            let mut arguments = vec!["run", "--json", "--profile", &profile];
            if on_host {
                arguments.extend(["--workspace", workspace.to_str().expect("names are text")]);
            }
            arguments.extend(["--", "/bin/sh", "-c", &script]);
            let outcome = harness::outcome(&ground.world.toolcell(&arguments));
            assert_eq!(outcome["exit_code"], 0, "{who:?} {outcome:#}");
            let files = outcome["files"].as_array().cloned().unwrap_or_default();
            let names: Vec<&str> = files
                .iter()
                .filter_map(|file| file["name"].as_str())
                .collect();
            assert_eq!(names, ["plain"], "{who:?} {outcome:#}");
        }
    }
}

/// `out` itself may be a link.
#[test]
fn no_artifact_comes_from_behind_a_link_in_place_of_the_directory() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("secrets");
        let secret = ground.file("secrets/secret", "secret");
        let workspace = ground.workspace("workspace");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        let target = secret.parent().expect("it has one").display().to_string();
        let said = ground.attempt_with(&profile, &options, &["symlink", &target, "/work/out"]);
        assert!(said.succeeded(), "{who:?}: {said:#?}");
        let files = said.outcome["files"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert!(files.is_empty(), "{who:?}: {said:#?}");
        assert!(
            ground.path("workspace/out/secret").exists(),
            "the control of {who:?}"
        );
    }
}

/// A dangling link is not a way to create what it names.
#[test]
fn nothing_is_created_through_a_dangling_link() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let outside: PathBuf = ground.path("created");
        symlink(&outside, workspace.join("dangling")).expect("the ground is writable");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        let said = ground.attempt_with(
            &profile,
            &options,
            &["create", "/work/dangling", "contents"],
        );
        assert!(!said.succeeded(), "{who:?}: {said:#?}");
        assert!(!outside.exists(), "{who:?}");
        let link = ground.text("workspace/dangling");
        assert!(
            ground.outside(&["create", &link, "contents"]).succeeded(),
            "the control of {who:?}"
        );
        assert!(outside.exists(), "the control of {who:?}");
    }
}

/// Hard links are the same file by another name: none is made across what may be written.
#[test]
fn no_hard_link_brings_what_may_be_read_into_the_workspace() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents");
        ground.ordinary(&file);
        let workspace = ground.workspace("workspace");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
        let path = file.display().to_string();
        for attempt in ["link", "link_open", "rename"] {
            let said = ground.attempt_with(&profile, &options, &[attempt, &path, "/work/linked"]);
            assert!(!said.succeeded(), "{who:?} {attempt}: {said:#?}");
            assert!(!workspace.join("linked").exists(), "{who:?} {attempt}");
        }
        let control = ground.text("workspace/linked");
        assert!(
            ground.outside(&["link", &path, &control]).succeeded(),
            "the control of {who:?}"
        );
    }
}

/// A file without a name can be given one, in the workspace: there it may.
#[test]
fn a_nameless_file_is_linked_only_where_the_tool_may_write() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        for to in ["/usr/new", "/etc/new", "/new", "/proc/new", "/tmp/new"] {
            let said = ground.attempt_with(&profile, &options, &["link_nameless", "/work", to]);
            let refused = ["EXDEV", "EROFS", "EACCES", "ENOENT"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {to}: {said:#?}");
        }
        let said =
            ground.attempt_with(&profile, &options, &["link_nameless", "/work", "/work/new"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        assert!(workspace.join("new").exists(), "the control of {who:?}");
    }
}

/// Nor is what the profile lists replaced by a link: by the next call it would show what that leads
/// to.
#[test]
fn a_link_in_place_of_what_is_listed_is_not_followed() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("secrets");
        ground.file("secrets/secret", "secret");
        for name in ["listed", "listed/current"] {
            let path = ground.directory(name);
            let everyone = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(path, everyone).expect("it is ours");
        }
        let listed = ground.text("listed");
        let current = format!("{listed}/current");
        let profile = ground.profile(
            &format!("write = [\"{listed}\"]\nread = [\"{current}\"]"),
            "",
        );
        let secrets = ground.text("secrets");
        let read = words(&["read", &format!("{current}/secret")]);
        for attempt in [
            words(&["rmdir", &current]),
            words(&["symlink", &secrets, &current]),
        ] {
            // The second fails to start if the first went through: what is listed is not there.
            let _ = ground
                .command(&profile, &[], &attempt)
                .output()
                .expect("toolcell starts");
        }
        if !ground.path("listed/current").exists() {
            symlink(&secrets, &current).expect("it is ours");
        }
        let output = ground
            .command(&profile, &[], &read)
            .output()
            .expect("toolcell starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("secret\\n"), "{who:?}: {said}");
        assert_eq!(
            ground.outside(&read).detail(),
            "secret",
            "the control of {who:?}"
        );
    }
}
