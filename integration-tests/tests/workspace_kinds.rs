//! The three kinds of workspace: one that ends with the call, one that is kept by its name, and a
//! directory of the host's.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::Path;

use harness::{Host, USER, Who, World, assert_nothing_left, everyone, outcome};
use serde_json::Value;

/// Runs a shell script with a directory of the host's as the workspace.
fn in_directory(world: &World, profile: &str, directory: &Path, script: &str) -> Value {
    let directory = directory.display().to_string();
    let command = [
        "run",
        "--json",
        "--profile",
        profile,
        "--workspace",
        &directory,
    ];
    outcome(&world.toolcell(&[&command[..], &["--", "/bin/sh", "-c", script]].concat()))
}

fn shell(world: &World, profile: &str, script: &str) -> Value {
    world.run(profile, &["/bin/sh", "-c", script])
}

/// The user that toolcell runs as in this world.
fn own(who: Who) -> u32 {
    match who {
        Who::Root => 0,
        Who::User if nix::unistd::geteuid().is_root() => USER,
        Who::User => nix::unistd::geteuid().as_raw(),
    }
}

#[test]
fn an_ephemeral_workspace_ends_with_its_call() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let wrote = shell(
            &world,
            "standard",
            "echo kept > /work/file && cat /work/file",
        );
        assert_eq!(wrote["stdout"]["text"], "kept\n", "{who:?}: {wrote:#}");
        let read = shell(&world, "standard", "ls -A /work");
        assert_eq!(read["stdout"]["text"], "", "{who:?}: {read:#}");
        assert_nothing_left(&world, &before);
        assert_eq!(
            names(&world.path("state")),
            ["audit.head", "audit.jsonl", "audit.key"],
            "{who:?}"
        );
    }
}

fn named(world: &World, name: &str) -> String {
    let kind = format!("[files]\nworkspace = {{ kind = \"named\", name = \"{name}\" }}\n");
    world.profile(&kind)
}

#[test]
fn a_named_workspace_is_there_again_and_has_only_its_own() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let wrote = shell(
            &world,
            &named(&world, "one"),
            "echo kept > /work/file; mkdir /work/d",
        );
        assert_eq!(wrote["exit_code"], 0, "{who:?}: {wrote:#}");
        let read = shell(
            &world,
            &named(&world, "one"),
            "cat /work/file; rmdir /work/d",
        );
        assert_eq!(read["stdout"]["text"], "kept\n", "{who:?}: {read:#}");
        let other = shell(&world, &named(&world, "two"), "ls -A /work");
        assert_eq!(other["stdout"]["text"], "", "{who:?}: {other:#}");
        assert_nothing_left(&world, &before);

        // On the host it is private, and what was written belongs to who runs toolcell.
        let state = world.path("state/workspaces");
        let callers = names(&state);
        assert_eq!(callers.len(), 1, "{who:?}: one caller");
        let directory = state.join(&callers[0]);
        assert_eq!(names(&directory), ["one", "two"], "{who:?}");
        let mode = fs::metadata(directory.join("one"))
            .expect("it is there")
            .mode();
        assert_eq!(mode & 0o077, 0, "{who:?}: nobody else gets in");
        let file = fs::metadata(directory.join("one/file")).expect("it is there");
        assert_eq!(file.uid(), own(who), "{who:?}");
    }
}

#[test]
fn files_in_a_directory_of_the_users_own_belong_to_that_user() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        world.write("project/file", "old\n");
        let project = world.path("project");
        let script = "echo new > file; mkdir d; echo deep > d/deep; ln -s file link; id -u";
        let ran = in_directory(&world, "standard", &project, script);
        assert_eq!(ran["exit_code"], 0, "{who:?}: {ran:#}");
        assert_eq!(
            ran["stdout"]["text"], "1000\n",
            "{who:?}: inside it is nobody in particular"
        );
        for name in ["file", "d", "d/deep", "link"] {
            let found = fs::symlink_metadata(project.join(name)).expect("it was made");
            assert_eq!(
                (found.uid(), found.gid()),
                (own(who), own(who)),
                "{who:?}: {name}"
            );
        }
        assert_eq!(read(&project.join("file")), "new\n", "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn root_works_on_anothers_directory_as_that_user() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::Root);
    world.write("project/file", "old\n");
    let project = world.path("project");
    fs::set_permissions(world.directory.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    chown(&project, Some(1234), Some(1234)).expect("root may chown");
    let ran = in_directory(
        &world,
        "standard",
        &project,
        "echo new > made; echo x >> file",
    );
    assert_eq!(
        ran["exit_code"], 2,
        "root's file in it stays root's: {ran:#}"
    );
    let made = fs::metadata(project.join("made")).expect("it was made");
    assert_eq!((made.uid(), made.gid()), (1234, 1234));
    assert_eq!(read(&project.join("file")), "old\n");
}

#[test]
fn an_ordinary_user_gains_nothing_on_a_directory_of_roots() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::User);
    let project = world.path("project");
    fs::create_dir(&project).expect("the scratch directory is writable");
    fs::write(project.join("file"), "old\n").expect("root may write");
    fs::set_permissions(world.directory.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    let ran = in_directory(
        &world,
        "standard",
        &project,
        "cat file; echo new > made || echo x > file",
    );
    assert_eq!(ran["stdout"]["text"], "old\n", "{ran:#}");
    assert_ne!(ran["exit_code"], 0, "{ran:#}");
    assert_eq!(names(&project), ["file"]);
    assert_eq!(read(&project.join("file")), "old\n");
}

#[test]
fn a_workspace_that_is_no_directory_is_refused() {
    for who in everyone() {
        let world = World::new(who);
        world.write("file", "");
        for (path, why) in [("missing", "No such file"), ("file", "directory")] {
            let path = world.path(path).display().to_string();
            let output = world.toolcell(&["run", "--workspace", &path, "--", "/bin/true"]);
            assert_eq!(output.status.code(), Some(125), "{who:?}: {path}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(why), "{who:?}: {said}");
        }
    }
}

#[test]
fn the_hosts_own_places_are_no_workspace() {
    for who in everyone() {
        let world = World::new(who);
        for path in ["/", "/proc", "/sys", "/dev", "/etc", "/usr"] {
            let output = world.toolcell(&["run", "--workspace", path, "--", "/bin/true"]);
            assert_eq!(
                output.status.code(),
                Some(125),
                "{who:?}: {path}: {output:?}"
            );
        }
    }
}

#[test]
fn a_tool_may_not_leave_its_workspace_by_a_link_in_it() {
    for who in everyone() {
        let world = World::new(who);
        world.write("secret", "secret\n");
        world.write("project/file", "");
        let project = world.path("project");
        std::os::unix::fs::symlink("../secret", project.join("up")).expect("it is ours");
        let absolute = world.path("secret");
        std::os::unix::fs::symlink(&absolute, project.join("away")).expect("it is ours");
        let script = "cat up away; echo overwritten > up; echo overwritten > away";
        let ran = in_directory(&world, "standard", &project, script);
        assert_eq!(ran["stdout"]["text"], "", "{who:?}: {ran:#}");
        assert_eq!(read(&world.path("secret")), "secret\n", "{who:?}");
        std::os::unix::fs::symlink("file", project.join("within")).expect("it is ours");
        let ran = in_directory(&world, "standard", &project, "echo written > within");
        assert_eq!(
            ran["exit_code"], 0,
            "{who:?}: a link within leads on: {ran:#}"
        );
        assert_eq!(read(&project.join("file")), "written\n", "{who:?}");
    }
}

#[test]
fn what_a_call_writes_on_a_disk_is_limited_too() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        world.write("project/file", "");
        let profile =
            world.profile("[limits]\ndisk = \"8 MiB\"\nfile_size = \"1 MiB\"\nwall = \"1 min\"\n");
        let script = "n=0; while :; do n=$((n+1)); head -c 1000000 /dev/zero > $n || exit 3; sleep 0.05; done";
        let ran = in_directory(&world, &profile, &world.path("project"), script);
        assert_eq!(ran["status"], "disk_exceeded", "{who:?}: {ran:#}");
        let line = ran["denials"][0]["allow_with"].as_str().unwrap_or_default();
        assert_eq!(line, "limits.disk = \"16 MiB\"", "{who:?}: {ran:#}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn protected_paths_stay_as_they_are_whatever_is_tried() {
    let attempts = "
echo x > .mcp.json; echo x > .git/hooks/pre-commit; rm -rf .git/hooks; mv .git .tig
mkdir .git/hooks/d; ln -s / .envrc; mv .git/hooks/old .git/hooks/new; rm .git/hooks/old
ln -s nowhere .mcp.json; mkdir .mcp.json; chmod 777 .git/hooks/old; touch .git/hooks/old
echo fine > other; mkdir -p .git/objects; echo fine > .git/objects/o; echo done
";
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        world.write("project/.git/hooks/old", "#!/bin/sh\n");
        let project = world.path("project");
        if who == Who::Root {
            // Absent names cannot be protected in a directory of root's own.
            for path in ["", ".git", ".git/hooks", ".git/hooks/old"] {
                chown(project.join(path), Some(USER), Some(USER)).expect("root may chown");
            }
        }
        fs::set_permissions(world.directory.path(), PermissionsExt::from_mode(0o755))
            .expect("ours");
        let hooks = project.join(".git/hooks/old");
        let as_it_was = fs::metadata(&hooks).expect("it is there");
        let protect = "[files]\nprotect = [\".git/hooks\", \".mcp.json\", \".envrc\"]\n";
        let ran = in_directory(&world, &world.profile(protect), &project, attempts);
        assert_eq!(ran["stdout"]["text"], "done\n", "{who:?}: {ran:#}");
        assert_eq!(names(&project), [".git", "other"], "{who:?}: {ran:#}");
        assert_eq!(
            names(&project.join(".git")),
            ["hooks", "objects"],
            "{who:?}"
        );
        assert_eq!(names(&project.join(".git/hooks")), ["old"], "{who:?}");
        let now = fs::metadata(&hooks).expect("it is there");
        assert_eq!(now.mode(), as_it_was.mode(), "{who:?}");
        assert_eq!(now.mtime_nsec(), as_it_was.mtime_nsec(), "{who:?}");
        assert_eq!(read(&project.join("other")), "fine\n", "{who:?}");
        assert_nothing_left(&world, &before);

        let open = in_directory(&world, "standard", &project, attempts);
        assert_eq!(open["stdout"]["text"], "done\n", "{who:?}");
        assert!(
            project.join(".mcp.json").exists(),
            "{who:?}: the attempts work where they may"
        );
        assert!(!hooks.exists(), "{who:?}");
    }
}

#[test]
fn protection_that_cannot_be_given_is_refused() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::Root);
    world.write("project/file", "");
    let profile = world.profile("[files]\nprotect = [\".mcp.json\"]\n");
    let refused = in_directory(&world, &profile, &world.path("project"), "echo ran");
    assert_eq!(refused["status"], "refused", "{refused:#}");
    world.write("project/.mcp.json", "{}");
    let ran = in_directory(
        &world,
        &profile,
        &world.path("project"),
        "echo x > .mcp.json; echo ran",
    );
    assert_eq!(ran["stdout"]["text"], "ran\n", "{ran:#}");
    assert_eq!(read(&world.path("project/.mcp.json")), "{}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is a directory");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("it is readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("it is readable")
}
