//! What holds for the whole text of the project, and no compiler checks.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of a file of ours: one that is longer has more than one subject.
const LINES_MAX: usize = 600;
/// Where a longer one is as it should be, each with the lines that it may have.
const LONGER: [(&str, usize, &str); 1] = [(
    "runner/src/sys.rs",
    1_100,
    "every unsafe line of the product is in this one file",
)];
/// Where `unsafe` may stand.
const UNSAFE: [&str; 2] = ["runner/src/sys.rs", "integration-tests/src/bin/probe/"];
/// What is left unfinished is not in the text but done, or in an issue. In two pieces, so that this
/// file does not hold them.
const UNFINISHED: [(&str, &str); 5] = [
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("to", "do!("),
    ("unimple", "mented!("),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The text files of the repository, but for those that git ignores.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).unwrap();
    let names = names.split_terminator('\0').map(str::to_owned);
    let read = |name: String| {
        let text = std::fs::read_to_string(repository().join(&name)).ok()?;
        Some((name, text))
    };
    let files: Vec<_> = names.filter_map(read).collect();
    assert!(files.len() > 100, "{} files are not all", files.len());
    files
}

fn sources() -> impl Iterator<Item = (String, String)> {
    let kinds = ["rs", "py", "mjs", "js", "sh", "c", "java"];
    files()
        .into_iter()
        .filter(move |(name, _)| kinds.iter().any(|kind| is_a(name, kind)))
}

fn is_a(name: &str, kind: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == kind)
}

/// Each line of a text that has this, as `file:line: text`.
fn lines_with<'a>(
    name: &'a str,
    text: &'a str,
    has: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    let numbered = text.lines().enumerate().filter(move |(_, line)| has(line));
    numbered.map(move |(number, line)| format!("{name}:{}: {}", number + 1, line.trim()))
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_stands_in_one_module() {
    // As a keyword that begins something; lints and comments may name it.
    let begins = |line: &str| {
        let code = line.split("//").next().unwrap();
        [
            "unsafe {",
            "unsafe fn",
            "unsafe impl",
            "unsafe trait",
            "unsafe extern",
            "unsafe(",
        ]
        .iter()
        .any(|word| code.contains(word))
    };
    let found: Vec<_> = sources()
        .filter(|(name, _)| is_a(name, "rs") && name != "integration-tests/tests/tidy.rs")
        .filter(|(name, _)| !UNSAFE.iter().any(|place| name.starts_with(place)))
        .flat_map(|(name, text)| lines_with(&name, &text, begins).collect::<Vec<_>>())
        .collect();
    assert_none(&found);
    // The control: it is found where it stands.
    let sys = std::fs::read_to_string(repository().join(UNSAFE[0])).unwrap();
    assert!(lines_with("sys.rs", &sys, begins).count() > 10);
}

#[test]
fn crates_without_unsafe_forbid_it() {
    for root in ["profiles/src/lib.rs", "supervisor/src/lib.rs"] {
        let text = std::fs::read_to_string(repository().join(root)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root}");
    }
}

#[test]
fn every_file_has_one_subject() {
    let found: Vec<_> = sources()
        .filter_map(|(name, text)| {
            let longer = LONGER.iter().find(|(file, _, _)| *file == name);
            let most = longer.map_or(LINES_MAX, |(_, most, _)| *most);
            let lines = text.lines().count();
            (lines > most).then(|| format!("{name}: {lines} lines are more than {most}"))
        })
        .collect();
    assert_none(&found);
}

#[test]
fn nothing_is_left_unfinished() {
    let words = UNFINISHED.map(|(begins, ends)| format!("{begins}{ends}"));
    let unfinished = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
    let found: Vec<_> = sources()
        .flat_map(|(name, text)| lines_with(&name, &text, unfinished).collect::<Vec<_>>())
        .collect();
    assert_none(&found);
    assert!(unfinished(&format!("// {}{} later", "TO", "DO")));
}

/// A test that does not run is a skip that says so (`harness::skip`), and counted.
#[test]
fn no_test_is_hidden() {
    let hidden = |line: &str| line.trim_start().starts_with("#[ignore");
    let found: Vec<_> = sources()
        .flat_map(|(name, text)| lines_with(&name, &text, hidden).collect::<Vec<_>>())
        .collect();
    assert_none(&found);
}

/// `make` is what people are told to type.
#[test]
fn commands_in_the_documents_are_in_the_makefile() {
    let makefile = std::fs::read_to_string(repository().join("Makefile")).unwrap();
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| !line.starts_with([' ', '\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target.trim())
        .collect();
    assert!(
        targets.contains("test") && targets.contains("demo"),
        "{targets:?}"
    );
    let mut named = 0;
    for (name, text) in files() {
        if !is_a(&name, "md") && name != ".ci/run" {
            continue;
        }
        for line in text.lines() {
            // As a command: at the start of a line of a block, or in backquotes.
            for command in line.split(['`', ';', '&', '|']) {
                let command = command
                    .trim()
                    .trim_start_matches("$ ")
                    .trim_start_matches("exec ");
                let Some(rest) = command.strip_prefix("make ") else {
                    continue;
                };
                let is_target =
                    |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                let Some(target) = rest.split_whitespace().next().filter(is_target) else {
                    continue;
                };
                // Prose that begins a line with the verb has another word after it.
                if line.contains('`') || line.trim_start().starts_with("make ") && rest.len() < 20 {
                    named += 1;
                    assert!(
                        targets.contains(target),
                        "{name}: there is no `make {target}`: {line}"
                    );
                }
            }
        }
    }
    assert!(named > 3, "only {named} are named");
}

/// CI tests what the README tells people to run, and nothing beside it.
#[test]
fn ci_runs_what_the_readme_says() {
    let read = |name: &str| std::fs::read_to_string(repository().join(name)).unwrap();
    assert!(
        read(".ci/run")
            .lines()
            .any(|line| line.starts_with("exec make test"))
    );
    assert!(read("README.md").contains("make test"));
}

/// Dependencies come from the registry alone, and nothing records where a mirror of it was.
#[test]
fn lock_file_names_the_registry_alone() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let registry = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let elsewhere = |line: &str| line.starts_with("source = ") && line != registry;
    assert_none(&lines_with("Cargo.lock", &lock, elsewhere).collect::<Vec<_>>());
}
