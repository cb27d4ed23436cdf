//! What lies within roots is shown to a cell as its own user's, also where root runs toolcell; what is
//! listed by its path keeps the kernel's permissions.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use harness::ground::Ground;
use harness::stdio::Server;
use harness::{Host, USER, Who, assert_nothing_left, everyone, outcome};
use serde_json::{Value, json};

/// A user who is neither root nor anybody whom tests run as.
const SOMEBODY: u32 = 1234;

/// A directory that only its owner gets into, with a file that only its owner may read.
fn private(ground: &Ground, name: &str, owner: u32) -> PathBuf {
    let directory = ground.directory(name);
    let file = ground.file(&format!("{name}/file"), "private\n");
    if nix::unistd::geteuid().is_root() {
        for path in [&directory, &file] {
            chown(path, Some(owner), Some(owner)).expect("root may chown");
        }
    }
    mode(&file, 0o600);
    mode(&directory, 0o700);
    directory
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// The user that toolcell runs as.
fn own(who: Who) -> u32 {
    match who {
        Who::Root => 0,
        Who::User if nix::unistd::geteuid().is_root() => USER,
        Who::User => nix::unistd::geteuid().as_raw(),
    }
}

/// A profile with these entries in `[files]`, whose roots the operator gives.
fn profile(ground: &Ground, roots: &[(&str, &Path)], files: &str) -> String {
    let roots: Vec<String> = roots
        .iter()
        .map(|(name, _)| format!("{name} = {{ required = true, why = \"a test's\" }}\n"))
        .collect();
    ground
        .world
        .profile(&format!("[roots]\n{}[files]\n{files}\n", roots.concat()))
}

/// The command line of a shell script in a cell of such a profile.
fn words(ground: &Ground, roots: &[(&str, &Path)], files: &str, script: &str) -> Vec<String> {
    let profile = profile(ground, roots, files);
    let mut words: Vec<String> = ["run", "--json", "--profile", &profile]
        .map(str::to_owned)
        .to_vec();
    for (name, path) in roots {
        words.extend(["--root".to_owned(), format!("{name}={}", path.display())]);
    }
    words.extend(["--", "/bin/sh", "-c", script].map(str::to_owned));
    words
}

fn shell(ground: &Ground, roots: &[(&str, &Path)], files: &str, script: &str) -> Value {
    let words = words(ground, roots, files, script);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    outcome(&ground.world.toolcell(&words))
}

fn said(outcome: &Value) -> &str {
    outcome["stdout"]["text"].as_str().unwrap_or_default()
}

fn reason(outcome: &Value) -> &str {
    outcome["reason"].as_str().unwrap_or_default()
}

#[test]
fn what_only_its_owner_may_read_is_the_cells_own_within_a_root() {
    for who in everyone() {
        let ground = Ground::new(who);
        let before = Host::look();
        let mut owners = vec![own(who)];
        if who == Who::Root {
            owners.push(SOMEBODY);
        }
        for owner in owners {
            let directory = private(&ground, &format!("of-{owner}"), owner);
            let script = format!(
                "cat {0}/file && stat -c %u {0} {0}/file",
                directory.display()
            );
            let roots = [("data", directory.as_path())];
            for list in ["read", "exec", "write"] {
                let files = format!("{list} = [\"{{roots.data}}\"]");
                let shown = shell(&ground, &roots, &files, &script);
                assert_eq!(
                    said(&shown),
                    "private\n1000\n1000\n",
                    "{who:?}: {list}: {shown:#}"
                );
            }
            assert_eq!(fs::metadata(&directory).expect("it is there").uid(), owner);
        }
        assert_nothing_left(&ground.world, &before);
    }
}

#[test]
fn what_is_listed_by_its_path_keeps_the_kernels_permissions() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let ground = Ground::new(Who::Root);
    let directory = private(&ground, "data", 0);
    let file = directory.join("file");
    let read = format!("cat {}", file.display());
    let listed = format!("read = [\"{}\"]", directory.display());
    let closed = shell(&ground, &[], &listed, &read);
    assert_eq!(said(&closed), "", "{closed:#}");
    assert_ne!(closed["exit_code"], 0, "{closed:#}");
    let open = shell(
        &ground,
        &[("data", &directory)],
        "read = [\"{roots.data}\"]",
        &read,
    );
    assert_eq!(said(&open), "private\n", "the control: {open:#}");

    // The way there may be closed as well; then the mend is named.
    let closed = shell(
        &ground,
        &[],
        &format!("read = [\"{}\"]", file.display()),
        &read,
    );
    assert_eq!(closed["status"], "setup_failed", "{closed:#}");
    for word in [
        file.to_str().expect("it is text"),
        "may not get there",
        "as a root",
    ] {
        assert!(reason(&closed).contains(word), "{word}: {closed:#}");
    }

    let secret = "/etc/shadow";
    if fs::metadata(secret).is_ok_and(|found| found.mode() & 0o004 == 0) {
        let shadow = shell(
            &ground,
            &[],
            &format!("read = [\"{secret}\"]"),
            &format!("test -e {secret} && ! cat {secret}"),
        );
        assert_eq!(shadow["exit_code"], 0, "{shadow:#}");
        assert_eq!(said(&shadow), "", "{shadow:#}");
    }
}

#[test]
fn the_systems_own_trees_are_not_shown_as_the_cells() {
    for who in everyone() {
        let ground = Ground::new(who);
        let directory = private(&ground, "data", own(who));
        let system = Path::new("/usr/share");
        let roots = [("system", system), ("data", directory.as_path())];
        let files = "read = [\"{roots.system}\", \"{roots.data}\"]";
        let script = format!("stat -c %u /usr /usr/share {}", directory.display());
        let shown = shell(&ground, &roots, files, &script);
        // 65534 is the kernel's word for users whom the cell does not have.
        assert_eq!(said(&shown), "65534\n65534\n1000\n", "{who:?}: {shown:#}");
    }
}

#[test]
fn an_ordinary_user_gains_nothing_on_what_is_roots() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let ground = Ground::new(Who::User);
    let roots = private(&ground, "roots", 0);
    let mine = private(&ground, "mine", USER);
    let read = |directory: &Path| {
        shell(
            &ground,
            &[("data", directory)],
            "write = [\"{roots.data}\"]",
            &format!(
                "cat {0}/file; echo x > {0}/made; ls -A {0}",
                directory.display()
            ),
        )
    };
    let closed = read(&roots);
    assert_eq!(said(&closed), "", "{closed:#}");
    assert!(!roots.join("made").exists());
    let open = read(&mine);
    assert_eq!(said(&open), "private\nfile\nmade\n", "{open:#}");
}

#[test]
fn roots_within_roots_have_their_own_owners() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let ground = Ground::new(Who::Root);
    let outer = private(&ground, "outer", 0);
    let inner = private(&ground, "outer/inner", SOMEBODY);
    let out = private(&ground, "outer/out", 0);
    let roots = [("outer", outer.as_path()), ("inner", inner.as_path())];
    let files = format!(
        "read = [\"{{roots.outer}}\", \"{{roots.inner}}\"]\nwrite = [\"{}\"]",
        out.display()
    );
    let script = format!(
        "cd {} && cat file inner/file out/file && echo new > out/made && ! echo new > made",
        outer.display()
    );
    let ran = shell(&ground, &roots, &files, &script);
    assert_eq!(ran["exit_code"], 0, "{ran:#}");
    assert_eq!(said(&ran), "private\nprivate\nprivate\n", "{ran:#}");
    let made = fs::metadata(out.join("made")).expect("it was made");
    assert_eq!((made.uid(), made.gid()), (0, 0));
    assert!(!outer.join("made").exists());

    // Without a root of its own, what is another's within a root stays closed.
    let roots = [("outer", outer.as_path())];
    let read = format!("cat {}/file", inner.display());
    let closed = shell(&ground, &roots, "read = [\"{roots.outer}\"]", &read);
    assert_eq!(said(&closed), "", "{closed:#}");
}

#[test]
fn what_is_denied_within_a_root_stays_covered() {
    for who in everyone() {
        let ground = Ground::new(who);
        let directory = private(&ground, "data", own(who));
        private(&ground, "data/secret", own(who));
        let files = format!(
            "write = [\"{{roots.data}}\"]\ndeny = [\"{}/secret\"]",
            directory.display()
        );
        let script = format!(
            "cd {} && cat file; cat secret/file; ls secret; mv secret seen; mv file moved && ls",
            directory.display()
        );
        let ran = shell(&ground, &[("data", &directory)], &files, &script);
        assert_eq!(said(&ran), "private\nmoved\nsecret\n", "{who:?}: {ran:#}");
    }
}

/// Everything beneath a directory.
fn beneath(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it is there").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(beneath(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}

#[test]
fn no_program_with_rights_of_the_owner_is_left_in_a_writable_root() {
    const SCRIPT: &str = r#"
import os, shutil
tried = 0
def attempt(act, *arguments):
    global tried
    tried += 1
    try: act(*arguments)
    except OSError: pass
true = "/usr/bin/true"
def copied(name):
    shutil.copyfile(true, name)
    return name
for bits in (0o4755, 0o2755, 0o6755):
    attempt(os.chmod, copied(f"chmod-{bits:o}"), bits)
    attempt(os.close, os.open(copied(f"plain-{bits:o}"), os.O_RDWR))
    attempt(os.open, f"created-{bits:o}", os.O_CREAT | os.O_WRONLY, bits)
    attempt(os.mknod, f"node-{bits:o}", 0o100000 | bits)
    attempt(os.mkdir, f"directory-{bits:o}", bits)
    attempt(os.fchmod, os.open(f"plain-{bits:o}", os.O_RDWR), bits)
attempt(os.mknod, "device", 0o020666, os.makedev(1, 1))
capability = bytes.fromhex("0100000200002000000000000000000000000000")
attempt(os.setxattr, copied("capable"), "security.capability", capability)
attempt(os.setxattr, "capable", "trusted.any", b"x")
attempt(os.chown, copied("given"), 0, 0)
# One that is there already loses its bits to who writes to it.
with open("there", "r+b") as there: there.write(b"my")
os.chmod(copied("fine"), 0o755)
print(tried)
"#;
    for who in everyone() {
        let ground = Ground::new(who);
        let directory = private(&ground, "data", own(who));
        let there = ground.file("data/there", "a program");
        mode(&there, 0o6755);
        let script = ground.file("data/script", SCRIPT);
        let run = format!(
            "cd {} && /usr/bin/python3 -I {}",
            directory.display(),
            script.display()
        );
        let ran = shell(
            &ground,
            &[("data", &directory)],
            "write = [\"{roots.data}\"]",
            &run,
        );
        assert_eq!(said(&ran), "22\n", "{who:?}: {ran:#}");
        for path in beneath(&directory) {
            let found = fs::symlink_metadata(&path).expect("it is there");
            assert_eq!(
                (found.uid(), found.mode() & 0o6000),
                (own(who), 0),
                "{who:?}: {}",
                path.display()
            );
            assert!(found.is_file() || found.is_dir(), "{}", path.display());
            let attributes = ground.outside(&["listxattr", &path.display().to_string()]);
            assert_eq!(attributes.detail(), "", "{who:?}: {}", path.display());
        }
        assert_eq!(
            fs::read(&there).expect("it is there"),
            b"myprogram",
            "the control of {who:?}: it can be written"
        );
        let fine = fs::metadata(directory.join("fine")).expect("it was made");
        assert_eq!(fine.mode() & 0o777, 0o755, "the control of {who:?}");
        // Outside of a cell its owner can do it.
        let path = directory.join("fine").display().to_string();
        assert!(ground.outside(&["chmod", &path, "4755"]).succeeded());
        assert_ne!(fs::metadata(&path).expect("it is there").mode() & 0o4000, 0);
    }
}

#[test]
fn a_file_system_that_cannot_show_it_is_named_with_the_mend() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let ground = Ground::new(Who::Root);
    let directory = ground.directory("data");
    let read = format!("cat {}/file", directory.display());
    let roots = [("data", directory.as_path())];
    let words = words(&ground, &roots, "read = [\"{roots.data}\"]", &read);
    let on = |kind: &str| {
        let script =
            "mount -t \"$1\" none \"$2\" && echo shown > \"$2/file\" && shift 2 && exec \"$@\"";
        let toolcell = harness::toolcell().display().to_string();
        let place = directory.display().to_string();
        let mut all = vec![
            "--mount", "--", "/bin/sh", "-c", script, "sh", kind, &place, &toolcell,
        ];
        all.extend(words.iter().map(String::as_str));
        let output = ground.world.program(Path::new("/usr/bin/unshare"), &all);
        outcome(&{ output }.output().expect("it starts"))
    };
    let refused = on("ramfs");
    assert_eq!(refused["status"], "setup_failed", "{refused:#}");
    let path = directory.display().to_string();
    for word in [
        path.as_str(),
        "has no idmapped mounts",
        "hint: keep it on ext4",
    ] {
        assert!(reason(&refused).contains(word), "{word}: {refused:#}");
    }
    let shown = on("tmpfs");
    assert_eq!(said(&shown), "shown\n", "the control: {shown:#}");
}

#[test]
fn a_root_that_has_become_a_link_is_refused() {
    for who in everyone() {
        let ground = Ground::new(who);
        let directory = private(&ground, "data", own(who));
        let secret = private(&ground, "secret", own(who));
        let text = format!(
            "format = 1\nname = \"show\"\ntitle = \"Show\"\ndescription = \"Shows a file.\"\n\
             extends = [\"standard\"]\n[roots]\ndata = \"{0}\"\n[run]\n\
             argv = [\"/usr/bin/cat\", \"{0}/file\"]\n[files]\nread = [\"{{roots.data}}\"]\n",
            directory.display()
        );
        ground
            .world
            .write("config/toolcell/profiles/show.toml", &text);
        let mut server = Server::start(&ground.world, &[]);
        server.call(1, "show", &json!({}));
        assert_eq!(said(&server.outcome(1)), "private\n", "{who:?}");

        fs::rename(&directory, ground.path("aside")).expect("it is ours");
        std::os::unix::fs::symlink(&secret, &directory).expect("it is ours");
        server.call(2, "show", &json!({}));
        let refused = server.outcome(2);
        assert_eq!(refused["status"], "refused", "{who:?}: {refused:#}");
        assert!(
            reason(&refused).contains("symbolic link"),
            "{who:?}: {refused:#}"
        );
        server.running.close();
    }
}
