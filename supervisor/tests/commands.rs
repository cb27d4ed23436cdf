//! `list`, `check`, `explain` and `audit` as a person runs them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test may

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const PROFILE: &str = r#"format = 1
name = "mine"
title = "My tool"
description = "What it does."
extends = ["standard"]
files.exec = [{ path = "/bin/cat", why = "it is what runs" }]
files.read = [{ path = "{roots.notes}", why = "what it shows" }]

[roots]
notes = { required = true, why = "the notes" }

[run]
argv = ["/bin/cat"]
"#;

/// A home of its own with one profile.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join("profiles")).unwrap();
    fs::write(home.path().join("profiles/mine.toml"), PROFILE).unwrap();
    home
}

fn toolcell(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_toolcell"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("STATE_DIRECTORY", home.join("state"))
        .current_dir(home)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn list_names_the_tools_and_how_to_get_the_others() {
    let home = home();
    let output = toolcell(home.path(), &["list", "--profiles", "profiles"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("--root notes=DIR"),
        "{}",
        stdout(&output)
    );

    let output = toolcell(
        home.path(),
        &[
            "list",
            "--profiles",
            "profiles",
            "--root",
            "notes=/usr/share",
            "--json",
        ],
    );
    let tools = json(&output)["tools"].clone();
    let mine = tools
        .as_array()
        .unwrap()
        .iter()
        .find(|tool| tool["name"] == "mine")
        .unwrap();
    assert_eq!(mine["annotations"]["readOnlyHint"], true);
}

#[test]
fn profiles_of_the_user_are_found_without_being_asked_for() {
    let home = home();
    let own = home.path().join("config/toolcell/profiles");
    fs::create_dir_all(&own).unwrap();
    fs::rename(
        home.path().join("profiles/mine.toml"),
        own.join("mine.toml"),
    )
    .unwrap();
    let output = toolcell(home.path(), &["list"]);
    assert!(stdout(&output).contains("mine"), "{}", stdout(&output));
}

#[test]
fn check_shows_where_and_what_and_fails() {
    let home = home();
    let fine = toolcell(home.path(), &["check", "profiles/mine.toml"]);
    assert!(fine.status.success(), "{}", stderr(&fine));

    let text = PROFILE.replace("description", "descriptoin");
    fs::write(home.path().join("profiles/mine.toml"), text).unwrap();
    let wrong = toolcell(home.path(), &["check", "profiles/mine.toml"]);
    assert_eq!(wrong.status.code(), Some(1));
    let said = stderr(&wrong);
    assert!(
        said.contains("mine.toml:4") && said.contains("description"),
        "{said}"
    );

    let wrong = toolcell(home.path(), &["check", "profiles/mine.toml", "--json"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(json(&wrong)["right"], false);
}

#[test]
fn check_of_a_file_that_is_also_in_a_directory_is_no_duplicate() {
    let home = home();
    let output = toolcell(
        home.path(),
        &["check", "profiles/mine.toml", "--profiles", "profiles"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn check_of_nothing_there_fails() {
    let home = home();
    let output = toolcell(home.path(), &["check", "profiles/other.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("other.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn explain_gives_every_rule_with_its_reason() {
    let home = home();
    let output = toolcell(home.path(), &["explain", "profiles/mine.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "mine (tool): My tool",
        "not offered on this host",
        "files.exec",
        "/bin/cat",
        "it is what runs",
        "readOnlyHint: true",
        "memory",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let output = toolcell(home.path(), &["explain", "python", "--json"]);
    let explained = json(&output);
    assert!(!explained["rules"].as_array().unwrap().is_empty());
    assert_eq!(explained["annotations"]["openWorldHint"], false);
}

#[test]
fn explain_of_an_unknown_profile_names_the_nearest() {
    let home = home();
    let output = toolcell(home.path(), &["explain", "pyton"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("python"), "{}", stderr(&output));
}

#[test]
fn misused_commands_that_exit_as_their_tool_does_exit_with_a_status_of_our_own() {
    let home = home();
    for arguments in [
        &["run"][..],
        &["run", "--no-such-option", "--", "true"],
        &["--tier", "weak", "run", "--", "true"],
        &["call"],
        &["call", "calculate", "expression=1", "expression=2"],
    ] {
        let output = toolcell(home.path(), arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
    let twice = ["call", "calculate", "expression=1", "expression=2"];
    let said = stderr(&toolcell(home.path(), &twice));
    assert!(said.contains("`expression` is given twice"), "{said}");
    let other = toolcell(home.path(), &["list", "--no-such-option"]);
    assert_eq!(other.status.code(), Some(2), "{}", stderr(&other));
    let help = toolcell(home.path(), &["run", "--help"]);
    assert_eq!(help.status.code(), Some(0), "{}", stderr(&help));
}

#[test]
fn root_that_is_no_pair_is_refused() {
    let home = home();
    let output = toolcell(home.path(), &["list", "--root", "docs"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("NAME=DIR"), "{}", stderr(&output));
}

#[test]
fn hosts_are_given_to_a_tool_and_explained() {
    let home = home();
    let list = |arguments: &[&str]| toolcell(home.path(), &[&["list"][..], arguments].concat());
    let without = stdout(&list(&[]));
    assert!(without.contains("`--allow http_fetch=HOST`"), "{without}");
    let output = list(&[
        "--allow",
        "http_fetch=example.org,*.example.net:443",
        "--json",
    ]);
    let tools = json(&output)["tools"].clone();
    let fetch = tools.as_array().unwrap().iter();
    let fetch = fetch
        .clone()
        .find(|tool| tool["name"] == "http_fetch")
        .unwrap();
    assert_eq!(fetch["annotations"]["openWorldHint"], true);
    assert_eq!(fetch["annotations"]["readOnlyHint"], true);
    assert_eq!(fetch["annotations"]["destructiveHint"], false);

    let given = [
        "--allow",
        "http_fetch=a.example",
        "--allow",
        "http_fetch=b.example:8443",
    ];
    let output = toolcell(
        home.path(),
        &[&["explain", "http_fetch"][..], &given].concat(),
    );
    let text = stdout(&output);
    for entry in ["a.example ", "b.example:8443 "] {
        let mut lines = text.lines();
        let line = lines.find(|line| line.trim().starts_with(entry)).unwrap();
        assert!(line.contains("the operator gave it  [--allow:1:"), "{line}");
    }

    for (given, told) in [
        ("http_fetch", "expected `TOOL=HOST`"),
        ("http_fetch=", "expected `TOOL=HOST`"),
        ("=example.org", "expected `TOOL=HOST`"),
        ("http_fetch=https://example.org/", "write `example.org"),
        (
            "htp_fetch=example.org",
            "`--allow`: there is no tool `htp_fetch`",
        ),
        (
            "standard=example.org",
            "`--allow`: there is no tool `standard`",
        ),
    ] {
        let output = list(&["--allow", given]);
        assert!(!output.status.success(), "{given}");
        assert!(
            stderr(&output).contains(told),
            "{given}: {}",
            stderr(&output)
        );
    }
    let output = toolcell(
        home.path(),
        &["explain", "python", "--allow", "http_fetch=a.example"],
    );
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("hosts are given to `http_fetch`, and this is `python`"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn audit_of_no_calls_is_whole_and_of_a_changed_log_is_not() {
    let home = home();
    let output = toolcell(home.path(), &["audit", "verify"]);
    assert!(output.status.success(), "{}", stderr(&output));
    fs::write(home.path().join("state/audit.jsonl"), "{\"sequence\":0}\n").unwrap();
    let output = toolcell(home.path(), &["audit", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("audit.jsonl:1"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn arguments_that_are_given_twice_are_refused_by_name() {
    let home = home();
    for arguments in [&[r#"{"text":"a","text":"b"}"#][..], &["text=a", "text=b"]] {
        let output = toolcell(
            home.path(),
            &[&["call", "mine", "--profiles", "profiles"], arguments].concat(),
        );
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert_eq!(stderr(&output), "toolcell: `text` is given twice");
    }
}
