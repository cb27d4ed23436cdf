//! What the documents show is what happens.
//!
//! A block that is marked `console` is a session: the commands after `$ ` are run, and what they
//! print must be what follows, where `…` stands for any text. A block that is marked `toml profile`
//! is a profile, or a part of one; with the line `# wrong: …` it is one that must be refused so.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use harness::{Who, World, everyone, profile_directory};
use profiles::tier::Tier;
use runner::confine::{CELL_STEPS, TOOL_STEPS};
use runner::report::Step;
use serde_json::Value;

/// What precedes a part of a profile.
const PREAMBLE: &str = "format = 1\nname = \"example\"\n";
/// Begins the line that says how a wrong profile is refused.
const WRONG: &str = "# wrong: ";
/// Stands for any text.
const ANY: &str = "…";
/// Printed between the commands of a session.
const MARK: &str = "\u{1}";

struct Block {
    place: String,
    text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document that people read, by its path in the repository.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["", "docs"] {
        for entry in std::fs::read_dir(repository().join(directory)).expect("it is there") {
            let name = entry.expect("it can be listed").file_name();
            let name = name.into_string().expect("names of ours are UTF-8");
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "md")
            {
                found.push(Path::new(directory).join(name).display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The blocks of a document that are fenced with this mark.
fn blocks(document: &str, mark: &str) -> Vec<Block> {
    let text = read(document);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(fence) = line.strip_prefix("```").filter(|fence| !fence.is_empty()) else {
            continue;
        };
        let body: Vec<_> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        if fence == mark {
            let place = format!("{document}:{}", number + 1);
            found.push(Block {
                place,
                text: body.join("\n") + "\n",
            });
        }
    }
    found
}

/// The commands of a session, each with what it shall print.
fn session(block: &Block) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else {
            let (_, output) = commands
                .last_mut()
                .expect("a session begins with a command");
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}

/// Whether a text is as expected, where `…` stands for anything, line ends included.
fn is_like(text: &str, expected: &str) -> bool {
    // A line that is nothing but `…` stands for whole lines, also for none.
    let expected = expected.replace(&format!("\n{ANY}\n"), &format!("\n{ANY}"));
    let mut parts = expected.split(ANY);
    let first = parts.next().expect("a split has a part");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(found) = rest.find(part) else {
            return false;
        };
        rest = &rest[found + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn sessions_are_as_shown() {
    let mut wrong = String::new();
    for who in everyone() {
        for document in documents() {
            let mut world = World::new(who);
            let path = format!("{}:{}", profile_directory().display(), world.env["PATH"]);
            world.env.insert("PATH".to_owned(), path);
            // What another test's supervisor left is no part of a session.
            world
                .env
                .insert("TOOLCELL_LOG".to_owned(), "off".to_owned());
            for block in blocks(&document, "console") {
                wrong.push_str(&differences(&world, &block));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Runs a session in one shell; says where it goes otherwise than shown.
fn differences(world: &World, block: &Block) -> String {
    let commands = session(block);
    let mut script = String::from("exec 2>&1\n");
    for (command, _) in &commands {
        // `$?` passes from command to command, as it does for a person.
        writeln!(script, "(s=$?; printf '{MARK}'; exit $s)\n{command}").expect("a string takes it");
    }
    let output = world
        .program(Path::new("/bin/bash"), &["-c", &script])
        .output()
        .expect("bash starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut printed = printed.split(MARK).skip(1);
    let mut wrong = String::new();
    for (command, expected) in commands {
        let found = printed.next().unwrap_or_default();
        if !is_like(found, &expected) {
            writeln!(
                wrong,
                "{} ({:?})\n$ {command}\n--- shown\n{expected}--- printed\n{found}",
                block.place, world.who
            )
            .expect("a string takes it");
        }
    }
    wrong
}

#[test]
fn a_session_that_is_not_as_shown_is_noticed() {
    for who in everyone() {
        let world = World::new(who);
        let block = |text: &str| Block {
            place: "here".to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(
            differences(&world, &block("$ (exit 3)\n$ echo $? b\n3 b\n")),
            ""
        );
        assert_eq!(
            differences(&world, &block("$ printf 'a\\nb\\nc\\n'\na\n…\nc\n")),
            ""
        );
        for wrong in [
            "$ echo a\nb\n",
            "$ echo a\n",
            "$ true\na\n",
            "$ echo abc\na…d\n",
        ] {
            assert_ne!(differences(&world, &block(wrong)), "", "{wrong}");
        }
    }
}

#[test]
fn profiles_are_right_or_wrong_as_said() {
    let world = World::new(everyone()[0]);
    let mut count = 0;
    for document in documents() {
        for Block { place, text } in blocks(&document, "toml profile") {
            let whole = text.lines().any(|line| line.starts_with("format ="));
            let profile = if whole {
                text.clone()
            } else {
                format!("{PREAMBLE}{text}")
            };
            let file = world.write("example.toml", &profile);
            let output = world.toolcell(&["check", file.to_str().unwrap()]);
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            match text.lines().find_map(|line| line.strip_prefix(WRONG)) {
                None => assert!(output.status.success(), "{place}\n{said}"),
                Some(how) => assert!(said.contains(how), "{place}: expected `{how}`\n{said}"),
            }
            count += 1;
        }
    }
    assert!(count > 10, "only {count} profiles in the documents");
}

#[test]
fn every_key_of_a_profile_is_in_the_reference() {
    let schema: Value = serde_json::from_str(&read("profiles/profile.schema.json")).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &schema, "", &mut keys);
    assert!(
        keys.contains("files.read") && keys.contains("limits.memory"),
        "{keys:?}"
    );
    let reference = read("docs/profiles.md");
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !reference.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "docs/profiles.md lacks {missing:?}");
}

/// Every key of a table, and of the tables in it, by its whole name.
fn collect_keys(schema: &Value, table: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    let properties = table["properties"].as_object().into_iter().flatten();
    for (name, value) in properties {
        let key = format!("{prefix}{name}");
        let inner = match value["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix('#'))
        {
            Some(pointer) => schema.pointer(pointer).unwrap_or(value),
            None => value,
        };
        collect_keys(schema, inner, &format!("{key}."), keys);
        keys.insert(key);
    }
}

#[test]
fn the_line_for_a_client_starts_a_server() {
    let block = &blocks("README.md", "json")[0];
    let config: Value = serde_json::from_str(&block.text).unwrap();
    let server = &config["mcpServers"]["toolcell"];
    assert_eq!(server["command"], "toolcell");
    let arguments: Vec<_> = server["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    for who in everyone() {
        let world = World::new(who);
        let mut command = world.command(&arguments);
        let mut server = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
        writeln!(server.stdin.take().unwrap(), "{hello}").unwrap();
        let output = server.wait_with_output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(
            answer.contains(r#""protocolVersion":"2025-11-25""#),
            "{who:?}: {answer}"
        );
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in documents() {
        let text = read(&document);
        let directory = repository().join(&document).parent().unwrap().to_owned();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                directory.join(path).exists(),
                "{document} links to `{target}`"
            );
        }
    }
}

#[test]
fn the_order_of_confinement_is_the_codes() {
    let steps = |steps: &[Step]| -> Vec<String> {
        let rows = steps.iter().enumerate();
        rows.map(|(index, step)| format!("| {} | {step:?} | {} |", index + 1, step.what()))
            .collect()
    };
    let text = read("ARCHITECTURE.md");
    let number = |line: &&str| {
        line.strip_prefix("| ")
            .is_some_and(|row| row.starts_with(|first: char| first.is_ascii_digit()))
    };
    let rows: Vec<String> = text.lines().filter(number).map(str::to_owned).collect();
    assert_eq!(rows, [steps(&CELL_STEPS), steps(&TOOL_STEPS)].concat());
}

#[test]
fn every_module_is_on_the_map() {
    let text = read("ARCHITECTURE.md");
    for part in ["runner", "profiles", "supervisor"] {
        let start = text
            .find(&format!("\n`{part}/` — "))
            .expect("each part has a table");
        let table = text[start..].split("\n\n").nth(1).expect("a table follows");
        let on_map: BTreeSet<String> = table
            .lines()
            .skip(2)
            .filter_map(|row| row.split('|').nth(1))
            .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned))
            .collect();
        let in_code: BTreeSet<String> = read(&format!("{part}/src/lib.rs"))
            .lines()
            .filter_map(|line| {
                line.trim_start_matches("pub ")
                    .strip_prefix("mod ")?
                    .strip_suffix(';')
            })
            .map(str::to_owned)
            .collect();
        assert_eq!(on_map, in_code, "{part}");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let mut count = 0;
    for document in documents() {
        for name in read(&document).split('`').skip(1).step_by(2) {
            let Some((file, test)) = name.split_once(".rs::") else {
                continue;
            };
            let code = read(&format!("{file}.rs"));
            // Where a table makes the tests, the name is a row's.
            let is_there = [format!("fn {test}("), format!("\n    {test}: ")]
                .iter()
                .any(|it| code.contains(it));
            assert!(is_there, "{document} names `{name}`, which is not there");
            count += 1;
        }
    }
    assert!(count > 30, "only {count} tests are named in the documents");
}

#[test]
fn the_demo_ends_well() {
    let demo = profile_directory().join("toolcell-demo");
    assert!(demo.exists(), "run `cargo build --workspace` first");
    for who in everyone() {
        let world = World::new(who);
        let output = world.program(&demo, &[]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{who:?}\n{said}\n{error}");
        assert!(said.contains("8 receipts"), "{who:?}\n{said}");
        assert!(
            !said.contains('\u{1b}'),
            "colours where nobody sees them: {said}"
        );
    }
}

#[test]
fn what_each_tier_loses_is_told_in_its_own_words() {
    let examined = World::new(Who::User).toolcell(&["--tier", "rlimits", "--help"]);
    let help = String::from_utf8_lossy(&examined.stdout).into_owned();
    let document = read("docs/tiers.md");
    for tier in Tier::ALL {
        assert!(help.contains(tier.name()), "{help}");
        assert!(document.contains(&format!("`{tier}`")), "{tier}");
        for lost in tier.lost() {
            assert!(
                document.contains(lost),
                "docs/tiers.md does not say: {lost}"
            );
        }
    }
}
