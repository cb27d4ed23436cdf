//! Calls of built-in tools with the directories that an operator gives them.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{World, outcome};

/// Directories of the host for the roots of a tool.
pub type Roots<'a> = &'a [(&'a str, &'a Path)];

impl World {
    /// Calls a tool with these roots (`toolcell call --root NAME=DIR`), whatever comes of it.
    #[must_use]
    pub fn attempt(&self, roots: Roots, tool: &str, arguments: &Value) -> Output {
        let roots: Vec<_> = roots
            .iter()
            .map(|(name, path)| format!("{name}={}", path.display()))
            .collect();
        let mut words = vec!["call", "--json"];
        for root in &roots {
            words.extend(["--root", root]);
        }
        let arguments = arguments.to_string();
        words.extend([tool, &arguments]);
        self.toolcell(&words)
    }

    /// Calls a tool with these hosts besides (`toolcell call --allow TOOL=HOST`), whatever comes of it.
    #[must_use]
    pub fn attempt_with_hosts(&self, hosts: &str, tool: &str, arguments: &Value) -> Output {
        let hosts = format!("{tool}={hosts}");
        let arguments = arguments.to_string();
        self.toolcell(&["call", "--json", "--allow", &hosts, tool, &arguments])
    }

    /// Calls a tool with these roots and returns the outcome.
    #[must_use]
    pub fn call_at(&self, roots: Roots, tool: &str, arguments: &Value) -> Value {
        outcome(&self.attempt(roots, tool, arguments))
    }

    /// Calls a tool that must succeed, and returns what it printed.
    #[track_caller]
    #[must_use]
    pub fn told(&self, roots: Roots, tool: &str, arguments: &Value) -> String {
        let outcome = self.call_at(roots, tool, arguments);
        assert_eq!(
            outcome["exit_code"], 0,
            "{:?}: {arguments}: {outcome:#}",
            self.who
        );
        stdout(&outcome).to_owned()
    }

    /// Asserts that a call is never started, and that the reason has each of these words.
    #[track_caller]
    pub fn assert_refused(&self, roots: Roots, tool: &str, arguments: &Value, words: &[&str]) {
        let outcome = self.call_at(roots, tool, arguments);
        assert_eq!(
            outcome["status"], "refused",
            "{:?}: {arguments}: {outcome:#}",
            self.who
        );
        let reason = outcome["reason"].as_str().expect("a refusal has a reason");
        for word in words {
            assert!(
                reason.contains(word),
                "{:?}: {arguments}: no `{word}` in: {reason}",
                self.who
            );
        }
    }
}

/// What a tool wrote to its standard output.
#[must_use]
pub fn stdout(outcome: &Value) -> &str {
    outcome["stdout"]["text"].as_str().unwrap_or_default()
}

/// What a tool wrote to its standard error.
#[must_use]
pub fn stderr(outcome: &Value) -> &str {
    outcome["stderr"]["text"].as_str().unwrap_or_default()
}
