//! What a model may send that it should not: each gets a message that names the argument, says what
//! was expected and what was found, and never repeats more than a line of it.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod debian;

use std::collections::BTreeMap;

use profiles::arguments::ARGUMENT_DEPTH_MAX;
use profiles::{ArgumentError, Compiled, Plan};
use serde_json::{Value, json};

const TOOL: &str = r#"
format = 1
name = "tool"
description = "A tool."
extends = ["minimal"]

[input]
type = "object"
required = ["text"]

[input.properties]
text = { type = "string", maxLength = 100000 }
count = { type = "integer", minimum = 0, maximum = 9 }
ratio = { type = "number", exclusiveMinimum = 0 }
loud = { type = "boolean" }
mode = { type = "string", enum = ["fast", "slow"] }
names = { type = "array", maxItems = 3, items = { type = "string", maxLength = 10 } }
word = { type = "string", pattern = "^[a-z]+$" }
where = { type = "string" }
file = { type = "string" }
long = { type = "string" }
nested = { type = "object" }

[roots]
docs = "/srv/current"

[paths.where]
beneath = "{roots.docs}"

[paths.file]
beneath = "{roots.docs}"
kind = "file"

[run]
argv = [
  "/usr/bin/cat", "{word}", "{names}",
  { arg = "loud", flag = "--loud" }, { arg = "count", flag = "-n" },
  { arg = "mode", leading_dash = true }, "--", "{text}", "{where}", "{file}",
]
stdin = "{long}"
env = { TEXT = "{text}" }

[files]
exec = ["/usr/bin/cat"]
read = ["{where}", "{file}"]
"#;

fn fill(arguments: Value) -> Result<Plan, ArgumentError> {
    let compiled: Compiled = debian::compiled(TOOL).unwrap_or_else(|error| panic!("{error}"));
    let arguments = compiled.check(arguments)?;
    compiled.fill(&arguments, &BTreeMap::new())
}

#[test]
fn an_integer_arrives_in_digits_however_it_was_written() {
    for (written, word) in [("7", "7"), ("7.0", "7"), ("0.7e1", "7"), ("0", "0")] {
        let arguments = format!(r#"{{"text": "fine", "count": {written}}}"#);
        let plan = fill(serde_json::from_str(&arguments).unwrap()).unwrap();
        let words: Vec<_> = plan
            .argv
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        let flag = words.iter().position(|each| *each == "-n").unwrap();
        assert_eq!(words[flag + 1], word, "{written}");
    }
}

#[test]
fn an_integer_that_was_not_read_exactly_is_refused() {
    for (written, fits) in [
        ("9007199254740993", true),
        ("18446744073709551615", true),
        ("9007199254740993.0", false),
        ("123456789012345678901234567890", false),
    ] {
        let tool = TOOL.replace(", minimum = 0, maximum = 9 }", " }");
        let compiled: Compiled = debian::compiled(&tool).unwrap_or_else(|error| panic!("{error}"));
        let arguments = format!(r#"{{"text": "fine", "count": {written}}}"#);
        let arguments = compiled
            .check(serde_json::from_str(&arguments).unwrap())
            .unwrap();
        let filled = compiled.fill(&arguments, &BTreeMap::new());
        match filled {
            Ok(plan) => {
                assert!(fits, "{written}");
                let found = plan.argv.iter().any(|word| word.to_str() == Ok(written));
                assert!(found, "{written}: {:?}", plan.argv);
            }
            Err(error) => {
                assert!(!fits, "{written}: {error}");
                assert_eq!(error.pointer, "/count");
            }
        }
    }
}

/// Snapshots the message, after the same call with a good value as the control.
macro_rules! refused {
    ($($name:ident: $arguments:expr;)*) => {$(
        #[test]
        fn $name() {
            fill(json!({ "text": "fine" })).expect("the control is accepted");
            let error = fill($arguments).expect_err("the arguments are wrong");
            let message = error.to_string();
            assert!(message.len() < 600, "{message}");
            insta::assert_snapshot!(message);
        }
    )*};
}

refused! {
    arguments_that_are_no_object: json!(["text"]);
    argument_missing: json!({});
    argument_unknown: json!({ "text": "a", "wehre": "b" });
    argument_of_the_wrong_type: json!({ "text": 3 });
    argument_that_is_null: json!({ "text": null });
    argument_that_is_an_object: json!({ "text": { "a": 1 } });
    argument_too_long: json!({ "text": "x".repeat(100_001) });
    number_too_large: json!({ "text": "a", "count": 10 });
    number_too_small: json!({ "text": "a", "count": -1 });
    number_that_is_no_integer: json!({ "text": "a", "count": 1.5 });
    number_at_the_edge: json!({ "text": "a", "ratio": 0 });
    value_out_of_the_list: json!({ "text": "a", "mode": "medium" });
    too_many_items: json!({ "text": "a", "names": ["a", "b", "c", "d"] });
    item_of_the_wrong_type: json!({ "text": "a", "names": ["a", 2] });
    item_too_long: json!({ "text": "a", "names": ["a", "much too long for this"] });
    text_that_does_not_match: json!({ "text": "a", "word": "UPPER" });
    text_with_a_nul_byte: json!({ "text": "a\u{0}b" });
    list_with_a_nul_byte: json!({ "text": "a", "names": ["a\u{0}"] });
    text_that_would_be_an_option: json!({ "text": "a", "names": ["--delete"] });
    path_with_dots: json!({ "text": "a", "where": "../../etc/shadow" });
    path_with_dots_within: json!({ "text": "a", "where": "a/../b" });
    path_absolute_elsewhere: json!({ "text": "a", "where": "/etc/shadow" });
    path_of_a_neighbour_with_the_same_beginning: json!({ "text": "a", "where": "/srv/docs2/x" });
    path_with_a_newline: json!({ "text": "a", "where": "a\nb" });
    path_with_a_nul_byte: json!({ "text": "a", "where": "a\u{0}b" });
    path_that_is_empty: json!({ "text": "a", "where": "" });
    path_that_is_too_long: json!({ "text": "a", "where": "a/".repeat(3000) });
    name_in_a_path_that_is_too_long: json!({ "text": "a", "where": "a".repeat(256) });
    file_that_is_the_root: json!({ "text": "a", "file": "." });
    terminal_controls_are_not_repeated: json!({ "text": "a", "word": "\u{1b}[2J" });
    words_that_are_too_long_together: json!({ "text": "x".repeat(90_000), "word": "a".repeat(60_000) });
    nesting_that_is_too_deep: {
        let mut value = json!(1);
        for _ in 0..=ARGUMENT_DEPTH_MAX {
            value = json!([value]);
        }
        json!({ "text": "a", "nested": value })
    };
}

#[test]
fn lone_surrogates_are_no_json() {
    let error = serde_json::from_str::<Value>(r#"{"text":"\ud800"}"#).unwrap_err();
    assert!(error.is_syntax(), "{error}");
    serde_json::from_str::<Value>(r#"{"text":"\ud83d\ude00"}"#).expect("a pair is fine");
}

#[test]
fn one_word_longer_than_the_kernel_takes_is_refused() {
    let tool = TOOL.replace("maxLength = 100000", "maxLength = 1000000");
    let compiled = debian::compiled(&tool).unwrap_or_else(|error| panic!("{error}"));
    let arguments = compiled
        .check(json!({ "text": "x".repeat(200_000) }))
        .unwrap();
    let error = compiled.fill(&arguments, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.pointer, "/text");
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn standard_input_takes_what_a_word_does_not() {
    let long = format!("--{}\u{0}\n", "x".repeat(500_000));
    let plan = fill(json!({ "text": "a", "long": long })).unwrap();
    assert_eq!(plan.stdin.unwrap(), long.as_bytes());
}

#[test]
fn command_of_ones_own_is_checked_as_well() {
    let compiled = debian::compiled(TOOL).unwrap();
    let fill = |argv: &[&str]| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        compiled.fill_command(argv, &BTreeMap::new())
    };
    fill(&["/usr/bin/cat", "--anything"]).unwrap();
    for bad in [&[][..], &["cat"], &["/usr/bin/cat", "a\0b"]] {
        fill(bad).unwrap_err();
    }
    insta::assert_snapshot!(fill(&["./cat"]).unwrap_err().to_string());
}

#[test]
fn base_cannot_be_called() {
    let compiled = debian::compiled("format = 1\nname = \"base\"").unwrap();
    let arguments = compiled.check(json!({})).unwrap();
    let error = compiled.fill(&arguments, &BTreeMap::new()).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}
