//! The MCP Inspector's command line, as people try servers out with it, in both eras of the
//! protocol, as root and as an ordinary user.
#![allow(clippy::unwrap_used)] // a test may

use std::process::{Command, Output};

use harness::clients::{PATIENCE, inspector};
use harness::left::cgroups;
use harness::{World, everyone, within};
use serde_json::Value;

const ERAS: [&str; 2] = ["legacy", "modern"];
/// The Inspector's exit status for a tool that answers with an error.
const TOOL_ERROR: i32 = 5;

/// Runs a test for everyone and every era, if the Inspector can be had.
fn each(test: impl Fn(&dyn Fn(&[&str]) -> Output, &World)) {
    for who in everyone() {
        for era in ERAS {
            let Some(client) = inspector() else {
                return;
            };
            let world = World::new(who);
            // It gives a server the usual variables only, and those that it is told.
            let env = world
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let env: Vec<_> = env
                .flat_map(|variable| ["-e".to_owned(), variable])
                .collect();
            let inspect = |arguments: &[&str]| {
                let server = world.command(&["serve", "--stdio"]);
                let mut command = Command::new(client.get_program());
                command
                    .args(client.get_args())
                    .args(["--protocol-era", era, "--format", "json"])
                    .args(arguments)
                    .args(&env)
                    .arg("--")
                    .arg(server.get_program())
                    .args(server.get_args())
                    .env_clear()
                    .envs(&world.env)
                    .current_dir(world.directory.path());
                command.output().unwrap()
            };
            test(&inspect, &world);
            assert!(
                within(PATIENCE, || cgroups(&world).is_empty()),
                "{who:?} {era}"
            );
        }
    }
}

fn result(output: &Output) -> Value {
    let printed: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    printed["result"].clone()
}

/// `--strict` judges every schema by what model providers take.
#[test]
fn tool_schemas_are_portable() {
    each(|inspect, _| {
        let output = inspect(&["--method", "tools/list", "--strict"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            !said.contains("Warning") && !said.contains("Error"),
            "{said}"
        );
        let listed = result(&output);
        let names: Vec<_> = listed["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| &tool["name"])
            .collect();
        assert!(names.iter().any(|name| *name == "python"), "{listed}");
    });
}

#[test]
fn call_is_answered() {
    each(|inspect, _| {
        let call = ["--method", "tools/call", "--tool-name", "python"];
        let output = inspect(&[&call[..], &["--tool-arg", "code=print(6 * 7)"]].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            result(&output)["structuredContent"]["stdout"]["text"],
            "42\n"
        );
    });
}

#[test]
fn wrong_argument_is_an_answer_that_names_the_field() {
    each(|inspect, _| {
        let call = ["--method", "tools/call", "--tool-name", "python"];
        let output = inspect(&[&call[..], &["--tool-args-json", r#"{"code":3}"#]].concat());
        assert_eq!(output.status.code(), Some(TOOL_ERROR), "{output:?}");
        let text = result(&output)["content"][0]["text"].to_string();
        assert!(text.contains("`/code`: expected a string"), "{text}");
    });
}

/// The Inspector's load test: calls side by side, every one of which must succeed.
#[test]
fn many_calls_at_once_all_succeed() {
    each(|inspect, world| {
        let output = inspect(&[
            "--method",
            "tools/call",
            "--tool-name",
            "python",
            "--tool-arg",
            "code=print(1)",
            "--load",
            "--load-requests",
            "24",
            "--load-concurrency",
            "6",
        ]);
        assert!(output.status.success(), "{output:?}");
        let measured = result(&output);
        assert_eq!(
            (&measured["ok"], &measured["errorRate"]),
            (&24.into(), &0.into()),
            "{measured}"
        );
        assert_eq!(world.receipts().len(), 24);
    });
}
