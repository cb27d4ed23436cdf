//! Hosts on which something is missing: the call is refused with the cause and the mend, and nothing
//! runs with less than was asked for.

use std::process::{Command, Output, Stdio};

use harness::{USER, Who, World, everyone, outcome, profile_directory, skip, toolcell};
use serde_json::Value;

/// Runs toolcell as an ordinary user in user namespaces of this test's own, after `prepare` has
/// been done in the outer one, where that user is root.
fn nested(world: &World, prepare: &str, arguments: &[&str]) -> Output {
    let inner = "exec unshare --user --map-user=1000 --map-group=1000 -- \"$@\"";
    let script = format!("{prepare}{inner}");
    let user = USER.to_string();
    let by = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
    ];
    let within = ["unshare", "--user", "--map-root-user", "--mount"];
    let prepared = ["/bin/sh", "-ec", &script, "sh"];
    under(world, &[&by[..], &within, &prepared].concat(), arguments)
}

/// Runs toolcell by a command that executes what follows it.
fn under(world: &World, by: &[&str], arguments: &[&str]) -> Output {
    let (program, words) = by.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command
        .args(words)
        .arg(toolcell())
        .args(arguments)
        .env_clear()
        .envs(&world.env)
        .current_dir(world.directory.path())
        .stdin(Stdio::null());
    command.output().expect("it is installed")
}

/// The reason of a call that came to nothing, which must be of this status.
#[track_caller]
fn reason(outcome: &Value, status: &str) -> String {
    assert_eq!(outcome["status"], status, "{outcome:#}");
    assert_eq!(outcome["stdout"]["text"], "", "{outcome:#}");
    outcome["reason"]
        .as_str()
        .expect("a reason is text")
        .to_owned()
}

/// The doctor's fact of this name.
#[track_caller]
fn fact(examined: &Output, what: &str) -> Value {
    let findings: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
    let facts = findings["facts"].as_array().expect("facts");
    let found = facts.iter().find(|fact| {
        fact["what"]
            .as_str()
            .is_some_and(|named| named.starts_with(what))
            && fact["fine"] == false
    });
    found
        .unwrap_or_else(|| panic!("no lack of `{what}` in {findings:#}"))
        .clone()
}

fn ordinary_world() -> Option<World> {
    if !everyone().contains(&Who::Root) {
        skip(
            "hosts that are restricted by root",
            "the tests were not started by root",
        );
        return None;
    }
    Some(World::new(Who::User))
}

const RUN: [&str; 6] = ["run", "--json", "--profile", "standard", "--", "/bin/true"];

fn with_tier<'a>(tier: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["--tier", tier], rest].concat()
}

#[test]
fn without_user_namespaces_the_call_is_refused_by_name() {
    let Some(world) = ordinary_world() else {
        return;
    };
    // The count includes the namespaces that this test itself makes below: one is left for the inner
    // `unshare`, and none for the cell.
    let forbid = "echo 1 > /proc/sys/user/max_user_namespaces && ";
    let refused = outcome(&nested(&world, forbid, &with_tier("rlimits", &RUN)));
    let reason = reason(&refused, "setup_failed");
    assert!(reason.contains("create the namespaces"), "{reason}");
    assert!(
        reason.contains("`user.max_user_namespaces` is reached"),
        "{reason}"
    );
    let mend = "hint: as root: `sysctl -w user.max_user_namespaces=15000`";
    assert!(reason.contains(mend), "{reason}");
    let examined = nested(&world, forbid, &["doctor", "--json"]);
    let mended = fact(&examined, "a throw-away cell, without cgroups")["mend"].clone();
    let mended = mended.as_str().unwrap_or_default();
    assert!(reason.ends_with(mended) && !mended.is_empty(), "{mended}");

    let control = outcome(&nested(&world, "", &with_tier("rlimits", &RUN)));
    assert_eq!(control["status"], "exited", "{control:#}");
}

#[test]
fn without_a_cgroup_of_its_own_the_full_tier_is_refused_with_the_mend() {
    let Some(world) = ordinary_world() else {
        return;
    };
    let refused = outcome(&nested(&world, "", &RUN));
    assert_eq!(refused["status"], "refused", "{refused:#}");
    let reason = refused["reason"].as_str().expect("a reason is text");
    assert!(reason.contains("hint:"), "{reason}");
    assert!(reason.contains("--tier rlimits"), "{reason}");

    let chosen = outcome(&nested(&world, "", &with_tier("rlimits", &RUN)));
    assert_eq!(chosen["enforced"]["tier"], "rlimits", "{chosen:#}");
}

#[test]
fn the_doctor_names_what_is_missing_and_what_is_lost() {
    let Some(world) = ordinary_world() else {
        return;
    };
    let examined = nested(&world, "", &["doctor", "--json"]);
    assert!(
        !examined.status.success(),
        "a host without every layer is not fine"
    );
    let findings: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
    assert_eq!(findings["tier"], "rlimits", "{findings:#}");
    assert_ne!(findings["lost"].as_array().map(Vec::len), Some(0));
    let facts = findings["facts"].as_array().expect("facts");
    let cgroups = facts
        .iter()
        .find(|fact| fact["what"] == "cgroups")
        .expect("cgroups are looked at");
    assert_eq!(cgroups["fine"], false);
    assert_ne!(cgroups["mend"], Value::Null);
}

#[test]
fn the_doctor_finds_every_layer_where_there_is_every_layer() {
    for who in everyone() {
        let world = World::new(who);
        let examined = world.toolcell(&["doctor", "--json"]);
        let findings: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
        assert_eq!(findings["tier"], "full", "{who:?}: {findings:#}");
        assert!(examined.status.success());
    }
}

#[test]
fn a_proc_with_covered_parts_is_named() {
    let Some(world) = ordinary_world() else {
        return;
    };
    // What a container runtime does to the files in /proc that it masks.
    let cover = "mount --bind /dev/null /proc/version && ";
    let covered = outcome(&nested(&world, cover, &with_tier("rlimits", &RUN)));
    let reason = reason(&covered, "setup_failed");
    assert!(
        reason.contains("parts of `/proc` are covered here"),
        "{reason}"
    );
    assert!(reason.contains("`/proc/version`"), "{reason}");
    assert!(
        reason.contains("hint: start the container with `--security-opt systempaths=unconfined`"),
        "{reason}"
    );
    let named = fact(&nested(&world, cover, &["doctor", "--json"]), "/proc");
    assert!(
        named["found"]
            .as_str()
            .is_some_and(|found| found.contains("/proc/version")),
        "{named}"
    );

    let control = outcome(&nested(&world, "", &with_tier("rlimits", &RUN)));
    assert_eq!(control["status"], "exited", "{control:#}");
}

#[test]
fn the_filter_of_a_container_is_named() {
    let filter = profile_directory().join("container_filter");
    let filter = filter
        .to_str()
        .expect("a path in the build directory is UTF-8");
    for who in everyone() {
        let world = World::new(who);
        let uid = if who == Who::Root { 0 } else { USER };
        let user = uid.to_string();
        let by = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
        ];
        let run = with_tier("rlimits", &RUN);
        let refused = outcome(&under(&world, &[&by[..], &[filter]].concat(), &run));
        let reason = reason(&refused, "setup_failed");
        assert!(
            reason.contains("a seccomp filter from outside is in force"),
            "{who:?}: {reason}"
        );
        assert!(
            reason.contains("--security-opt seccomp=unconfined"),
            "{who:?}: {reason}"
        );
        let examined = under(
            &world,
            &[&by[..], &[filter]].concat(),
            &["doctor", "--json"],
        );
        let named = fact(&examined, "a throw-away cell, without cgroups");
        let mended = named["mend"].as_str().unwrap_or_default();
        assert!(
            mended.contains("--security-opt seccomp=unconfined"),
            "{who:?}: {named}"
        );

        let control = outcome(&under(&world, &[&by[..], &["env"]].concat(), &run));
        assert_eq!(control["status"], "exited", "{who:?}: {control:#}");
    }
}

#[test]
fn root_with_the_capabilities_of_a_container_has_cells() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::Root);
    // Those that Docker leaves to root.
    let left = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
    let by = ["setpriv", "--bounding-set", left, "--"];
    let script =
        "import os; print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])";
    let tool = [
        "run",
        "--json",
        "--profile",
        "standard",
        "--",
        "/usr/bin/python3",
        "-c",
        script,
    ];
    let run = outcome(&under(&world, &by, &tool));
    assert_eq!(run["status"], "exited", "{run:#}");
    assert_eq!(run["stdout"]["text"], "0000000000000000\n", "{run:#}");
    assert_eq!(run["enforced"]["tier"], "full");
    let examined = under(&world, &by, &["doctor"]);
    let said = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(said.contains("root, without CAP_SYS_ADMIN"), "{said}");

    // What takes the capability is refused with what does not.
    let directory = tempfile::TempDir::new_in("/var/tmp").expect("/var/tmp is writable");
    std::os::unix::fs::chown(directory.path(), Some(USER), Some(USER)).expect("root may chown");
    let profile = world.profile(
        "[roots]\ngiven = { required = true, why = \"a test\" }\n[files]\nread = [\"{roots.given}\"]\n",
    );
    let root = format!("given={}", directory.path().display());
    let tool = [
        "run",
        "--json",
        "--root",
        &root,
        "--profile",
        &profile,
        "--",
        "/bin/true",
    ];
    let shown = outcome(&under(&world, &by, &tool));
    let reason = reason(&shown, "setup_failed");
    assert!(reason.contains("takes CAP_SYS_ADMIN"), "{reason}");
    assert!(
        reason.contains("hint: run toolcell as the user who owns it"),
        "{reason}"
    );
    let control = outcome(&under(&world, &["env"], &tool));
    assert_eq!(control["status"], "exited", "{control:#}");
}

#[test]
fn a_read_only_sys_is_named_and_the_weaker_tier_works() {
    if !everyone().contains(&Who::Root) {
        return;
    }
    let world = World::new(Who::Root);
    let script = "grep -o ' /sys[^ ]* ' /proc/self/mountinfo | sort -u | \
                  while read -r mount; do mount -o remount,bind,ro \"$mount\"; done; exec \"$@\"";
    let by = ["unshare", "--mount", "/bin/sh", "-ec", script, "sh"];
    let refused = outcome(&under(&world, &by, &RUN));
    let reason = reason(&refused, "refused");
    assert!(reason.to_lowercase().contains("read-only"), "{reason}");
    assert!(
        reason.contains("hint: mount the cgroup file system writable"),
        "{reason}"
    );
    assert!(reason.contains("--tier rlimits"), "{reason}");
    let named = fact(&under(&world, &by, &["doctor", "--json"]), "cgroups");
    let mended = named["mend"].as_str().unwrap_or_default();
    assert!(
        mended.contains("mount the cgroup file system writable"),
        "{named}"
    );

    let chosen = outcome(&under(&world, &by, &with_tier("rlimits", &RUN)));
    assert_eq!(chosen["status"], "exited", "{chosen:#}");
    let required = [&["--require-tier", "rlimits"][..], &RUN].concat();
    let required = outcome(&under(&world, &by, &required));
    assert_eq!(required["enforced"]["tier"], "rlimits", "{required:#}");
}

#[test]
fn a_profile_that_requires_a_tier_is_not_run_in_a_weaker_one() {
    for who in everyone() {
        let world = World::new(who);
        let profile = world.profile("limits.require = \"full\"\n");
        let run = |options: &[&str]| {
            let command = ["run", "--json", "--profile", &profile, "--", "/bin/true"];
            world.toolcell(&[options, &command[..]].concat())
        };
        let refused = run(&["--tier", "rlimits"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{who:?}");
        assert!(
            said.contains("requires the tier `full`, and cells here have `rlimits`"),
            "{who:?}: {said}"
        );

        // The strongest that there is will do.
        let control = outcome(&run(&["--require-tier", "rlimits"]));
        assert_eq!(control["enforced"]["tier"], "full", "{who:?}: {control:#}");
    }
}

#[test]
fn a_tier_that_is_named_is_not_weaker_than_what_is_required() {
    let world = World::new(Who::User);
    let options = ["--tier", "rlimits", "--require-tier", "full"];
    let refused = world.toolcell(&[&options[..], &RUN].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125), "{said}");
    assert!(said.contains("at least `full` is required"), "{said}");
}

/// A Python script in a cell with a workspace, and what it prints.
const WORKSPACE: &str = "
import os
open('/work/file', 'w').write('kept')
open('/tmp/script', 'w').write('#!/bin/sh\\necho ran')
print(open('/work/file').read(), os.listdir('/work'))
";

#[test]
fn a_tmp_without_executables_is_enough() {
    let Some(world) = ordinary_world() else {
        return;
    };
    // The state directory lies there, too.
    let prepare = "mount --bind /tmp /tmp && mount -o remount,bind,noexec,nosuid,nodev /tmp && \
                   cp /bin/true /tmp/true-$$ && ! /tmp/true-$$ 2>/dev/null && rm /tmp/true-$$ && ";
    let run = [
        "run",
        "--json",
        "--profile",
        "standard",
        "--",
        "/usr/bin/python3",
        "-c",
        WORKSPACE,
    ];
    let ran = outcome(&nested(&world, prepare, &with_tier("rlimits", &run)));
    assert_eq!(ran["status"], "exited", "{ran:#}");
    assert_eq!(ran["stdout"]["text"], "kept ['file']\n", "{ran:#}");
}

#[test]
fn a_home_on_an_overlay_is_enough() {
    let Some(world) = ordinary_world() else {
        return;
    };
    for name in ["lower", "upper", "work", "home"] {
        let path = world.path(name);
        std::fs::create_dir(&path).expect("the scratch directory is writable");
        world.give(&path);
    }
    let root = world.directory.path().display();
    let prepare = format!(
        "mount -t overlay overlay -o userxattr,lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work \
         {root}/home && export HOME={root}/home STATE_DIRECTORY={root}/home/state && "
    );
    let profile = world.profile("[files]\nworkspace = { kind = \"named\", name = \"kept\" }\n");
    let run = |script| {
        let run = [
            "run",
            "--json",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-c",
            script,
        ];
        outcome(&nested(&world, &prepare, &with_tier("rlimits", &run)))
    };
    let ran = run(WORKSPACE);
    assert_eq!(ran["status"], "exited", "{ran:#}");
    assert_eq!(ran["stdout"]["text"], "kept ['file']\n", "{ran:#}");
    let again = run("print(open('/work/file').read())");
    assert_eq!(again["stdout"]["text"], "kept\n", "{again:#}");
    assert!(
        world.path("upper/state/audit.jsonl").exists(),
        "the state is on the overlay"
    );
}

#[test]
fn what_overlayfs_cannot_do_on_an_overlay_is_said() {
    let Some(world) = ordinary_world() else {
        return;
    };
    for name in ["lower", "upper", "work", "home"] {
        let path = world.path(name);
        std::fs::create_dir(&path).expect("the scratch directory is writable");
        world.give(&path);
    }
    let root = world.directory.path().display();
    let prepare = format!(
        "mount -t overlay overlay -o userxattr,lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work \
         {root}/home && mkdir -p {root}/home/project && export HOME={root}/home STATE_DIRECTORY={root}/home/state && "
    );
    let project = world.path("home/project").display().to_string();
    let profile = world.profile(&format!(
        "[files]\nprotect = [\".git/hooks\"]\nworkspace = {{ kind = \"host\", path = \"{project}\" }}\n"
    ));
    let run = [
        "run",
        "--json",
        "--profile",
        &profile,
        "--",
        "/usr/bin/python3",
        "-c",
        WORKSPACE,
    ];
    let refused = outcome(&nested(&world, &prepare, &with_tier("rlimits", &run)));
    let reason = reason(&refused, "setup_failed");
    assert!(reason.contains("another overlay cannot be put"), "{reason}");
    assert!(
        reason.contains("hint: keep it on ext4, xfs, btrfs or tmpfs"),
        "{reason}"
    );

    let control = outcome(&nested(
        &world,
        "mkdir -p $HOME/home/project && ",
        &with_tier("rlimits", &run),
    ));
    assert_eq!(control["status"], "exited", "{control:#}");
}

#[test]
fn without_a_resolv_conf_networkless_calls_work_and_names_are_refused() {
    let Some(world) = ordinary_world() else {
        return;
    };
    // All of `/etc` but that file.
    let prepare = "mount --rbind /etc /mnt && mount -t tmpfs none /etc && for file in /mnt/*; do \
                   [ $file = /mnt/resolv.conf ] || ln -s $file /etc/; done && test ! -e /etc/resolv.conf && ";
    let run = outcome(&nested(&world, prepare, &with_tier("rlimits", &RUN)));
    assert_eq!(run["status"], "exited", "{run:#}");
    let profile = world.profile("network.allow = [\"example.org:80\"]\n");
    let script = "
import urllib.request
try: urllib.request.urlopen('http://example.org/', timeout=10)
except OSError as error: print(type(error).__name__, error)
";
    let run = [
        "run",
        "--json",
        "--profile",
        &profile,
        "--",
        "/usr/bin/python3",
        "-c",
        script,
    ];
    let ran = outcome(&nested(&world, prepare, &with_tier("rlimits", &run)));
    assert_eq!(ran["status"], "exited", "{ran:#}");
    let denied = ran["denials"].to_string();
    assert!(denied.contains("connect to example.org:80"), "{ran:#}");
    assert!(
        denied.contains("names no DNS server: `/etc/resolv.conf` is missing"),
        "{ran:#}"
    );
}

#[test]
fn the_profile_for_apparmor_parses() {
    let profile =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/apparmor/toolcell");
    let version = Command::new("apparmor_parser").arg("--version").output();
    let Ok(version) = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        return skip("the AppArmor profile", "`apparmor_parser` is not installed");
    };
    // `userns` came with 4.0.
    let major = version
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < 4) {
        return skip(
            "the AppArmor profile",
            &format!("`apparmor_parser` is too old: {version}"),
        );
    }
    let parse = |path: &std::path::Path| {
        let parsed = Command::new("apparmor_parser")
            .args(["--skip-kernel-load", "--skip-cache", "--debug"])
            .arg(path)
            .output();
        parsed.expect("it is installed")
    };
    let parsed = parse(&profile);
    assert!(parsed.status.success(), "{parsed:?}");
    let world = World::new(Who::User);
    let wrong = world.write(
        "wrong",
        "abi <abi/4.0>,\nprofile toolcell /usr/bin/toolcell { usernss, }\n",
    );
    assert!(!parse(&wrong).status.success());
}
