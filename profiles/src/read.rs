//! Reads one file into its written form, and says where it cannot.

use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::diagnostics::{
    Diagnostic, Diagnostics, Origin, PROFILE_BYTES_MAX, SourceFile, did_you_mean, listed,
};
use crate::schema::{FORMAT, HINT_MARK, Profile};

/// One profile as written, with the file it came from.
#[derive(Debug, Clone)]
pub struct Written {
    /// The file.
    pub file: Arc<SourceFile>,
    /// What it says.
    pub profile: Profile,
}

impl Written {
    /// Reads a file; everything about its form is checked, nothing about its meaning.
    pub fn read(file: SourceFile) -> Result<Self, Diagnostics> {
        if file.text.len() > PROFILE_BYTES_MAX {
            return Err(Diagnostic::oversize(&file.name, file.text.len()).into());
        }
        let file = Arc::new(file);
        let table = DeTable::parse(&file.text).map_err(|error| explained(&file, &error))?;
        check_format(&file, table.get_ref())?;
        let profile = Profile::deserialize(Deserializer::from(table))
            .map_err(|error| explained(&file, &error))?;
        Ok(Self { file, profile })
    }

    /// The place of a span in this file.
    pub(crate) fn origin(&self, span: std::ops::Range<usize>) -> Origin {
        Origin {
            file: Arc::clone(&self.file),
            span,
        }
    }
}

/// A profile of another format may differ in everything else, so its version is judged first.
fn check_format(file: &Arc<SourceFile>, table: &DeTable<'_>) -> Result<(), Diagnostics> {
    let Some(value) = table.get("format") else {
        let message = format!("`{}` has no `format`", file.name);
        return Err(
            Diagnostic::general(crate::diagnostics::Kind::Invalid, message)
                .with_hint(format!("begin the file with `format = {FORMAT}`"))
                .into(),
        );
    };
    let origin = Origin {
        file: Arc::clone(file),
        span: value.span(),
    };
    let number = match value.get_ref() {
        DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    };
    if number == Some(FORMAT) {
        return Ok(());
    }
    Err(Diagnostic::at(&origin, "unknown profile format")
        .with_expected(format!("expected `{FORMAT}`"))
        .into())
}

/// An error of the TOML reader as a diagnostic of ours.
///
/// Serde passes errors on as text, so what an unknown key is like has to be read from it again; the
/// snapshot tests hold that text.
fn explained(file: &Arc<SourceFile>, error: &toml::de::Error) -> Diagnostics {
    let origin = Origin {
        file: Arc::clone(file),
        span: error.span().unwrap_or(0..0),
    };
    let (message, hint) = match error.message().split_once(HINT_MARK) {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (error.message(), None),
    };
    for (start, noun) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        let Some((name, rest)) = message
            .strip_prefix(start)
            .and_then(|rest| rest.split_once("`, expected "))
        else {
            continue;
        };
        // `one of` and `or` stand outside the backticks; names are every second piece.
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let name = crate::diagnostics::shortened(name);
        return Diagnostic::at(&origin, format!("unknown {noun} `{name}`"))
            .with_expected(format!("expected one of {}", listed(known.iter().copied())))
            .with_hint_maybe(did_you_mean(&name, known.iter().copied()))
            .into();
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return Diagnostic::at(&origin, format!("{name} is missing")).into();
    }
    if ["cannot recurse further", "recursion limit"]
        .iter()
        .any(|text| message.contains(text))
    {
        return Diagnostic::at(&origin, "nested too deeply")
            .with_expected("expected fewer levels of brackets or of a dotted key")
            .into();
    }
    // An integer beyond 64 bits is told by Rust's names for them.
    let message = message
        .replace(" as i128", "")
        .replace("expected i64", "expected a 64-bit integer");
    let message = crate::diagnostics::shortened_to(&message, MESSAGE_CHARS_MAX);
    match message.split_once(", expected ") {
        Some((what, expected)) => Diagnostic::at(&origin, what)
            .with_expected(format!("expected {expected}"))
            .with_hint_maybe(hint)
            .into(),
        None => Diagnostic::at(&origin, message)
            .with_hint_maybe(hint)
            .into(),
    }
}

/// Longest message of the TOML reader that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 400;
