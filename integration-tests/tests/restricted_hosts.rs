//! Hosts on which something is missing: the call is refused with the cause and the mend, and nothing
//! runs with less than was asked for.

use std::process::{Command, Stdio};

use harness::{USER, Who, World, everyone, outcome, skip, toolcell};
use serde_json::Value;

/// Runs toolcell as an ordinary user in user namespaces of this test's own, after `prepare` has
/// been done in the outer one, where that user is root.
fn nested(world: &World, prepare: &str, arguments: &[&str]) -> std::process::Output {
    let inner = "exec unshare --user --map-user=1000 --map-group=1000 -- \"$@\"";
    let script = format!("{prepare}{inner}");
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            &USER.to_string(),
            "--regid",
            &USER.to_string(),
            "--clear-groups",
            "--",
        ])
        .args(["unshare", "--user", "--map-root-user", "--mount", "--"])
        .args(["/bin/sh", "-c", &script, "sh"])
        .arg(toolcell())
        .args(arguments)
        .env_clear()
        .envs(&world.env)
        .stdin(Stdio::null());
    command.output().expect("setpriv and unshare are installed")
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
    assert_eq!(refused["status"], "setup_failed", "{refused:#}");
    let reason = refused["reason"].as_str().expect("a reason is text");
    assert!(reason.contains("create the namespaces"), "{reason}");
    assert!(reason.contains("doctor"), "{reason}");
    assert_eq!(refused["stdout"]["text"], "");

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
    // What a container runtime does to the parts of /proc that it masks.
    let cover = "mount -t tmpfs none /proc/acpi && ";
    let covered = outcome(&nested(&world, cover, &with_tier("rlimits", &RUN)));
    if covered["status"] == "exited" {
        // A mount over an empty directory reveals nothing, and the kernel may let it pass.
        skip(
            "a covered /proc",
            "this kernel has nothing in /proc/acpi to cover",
        );
        return;
    }
    assert_eq!(covered["status"], "setup_failed", "{covered:#}");
    let reason = covered["reason"].as_str().expect("a reason is text");
    assert!(reason.contains("Proc"), "{reason}");
}

/// On whatever host this is: the table of kernels in docs/hosts.md stands on it.
#[test]
fn what_the_doctor_says_is_what_calls_meet() {
    for who in everyone() {
        let world = World::new(who);
        let examined = world.toolcell(&["doctor", "--json"]);
        let findings: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
        let best = findings["tier"].as_str();
        for (tier, holds) in [("full", best == Some("full")), ("rlimits", best.is_some())] {
            let ran = world.toolcell(&with_tier(tier, &RUN));
            if holds {
                let ran = outcome(&ran);
                assert_eq!(ran["status"], "exited", "{who:?} {tier}: {ran:#}");
                assert_eq!(ran["enforced"]["tier"], tier, "{who:?}: {ran:#}");
                continue;
            }
            // Refused before there was anything to report on, or with an outcome that says so.
            assert_eq!(ran.status.code(), Some(125), "{who:?} {tier}: {ran:?}");
            let said = [ran.stdout, ran.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("hint:"), "{who:?} {tier}: {said}");
            assert!(!said.contains("\"exited\""), "{who:?} {tier}: {said}");
        }
        let facts = findings["facts"].as_array().expect("facts");
        let lacking = facts.iter().filter(|fact| fact["fine"] == false);
        let mends =
            lacking.filter(|fact| fact["mend"].as_str().is_some_and(|mend| !mend.is_empty()));
        assert_eq!(
            best == Some("full"),
            mends.count() == 0,
            "{who:?}: {findings:#}"
        );
    }
}
