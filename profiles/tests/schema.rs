//! The JSON Schema that editors use, which is generated and must be current.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::path::PathBuf;

use profiles::Library;
use profiles::schema::json_schema;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("profile.schema.json")
}

#[test]
fn published_schema_is_current() {
    let generated = format!("{:#}\n", json_schema());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path(), &generated).unwrap();
    }
    let published = std::fs::read_to_string(path()).unwrap_or_default();
    assert!(
        published == generated,
        "profile.schema.json is not current; run `UPDATE=1 cargo test -p toolcell-profiles --test schema`"
    );
}

#[test]
fn built_in_profiles_fit_the_schema() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let library = Library::builtin();
    for name in library.names() {
        let text = &library.source(name).unwrap().text;
        let value: toml::Table = toml::from_str(text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[test]
fn schema_refuses_what_reading_refuses() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    for text in [
        "name = \"tool\"",
        "format = 1\nname = \"tool\"\nlimit.memory = \"1 MiB\"",
        "format = 1\nname = \"tool\"\nlimits.memory = 512",
        "format = 1\nname = \"tool\"\nlimits.memory = \"512\"",
        "format = 1\nname = \"tool\"\nlimits.wall = \"5 m\"",
        "format = 1\nname = \"tool\"\nfiles.read = [{ path = \"/usr\", ifpresent = true }]",
        "format = 1\nname = \"tool\"\nfiles.workspace = { kind = \"ephemral\" }",
        "format = 1\nname = \"tool\"\naccess.approve = \"sometimes\"",
    ] {
        let value: toml::Table = toml::from_str(text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        assert!(!validator.is_valid(&value), "{text}");
    }
    let control: toml::Table = toml::from_str("format = 1\nname = \"tool\"").unwrap();
    assert!(validator.is_valid(&serde_json::to_value(control).unwrap()));
}
