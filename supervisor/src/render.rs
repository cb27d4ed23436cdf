//! An outcome in words, for a model or a person to read.

use crate::outcome::{Outcome, Status, Stream};

/// Whether a caller got what was asked for: the tool ran, and says that it succeeded.
///
/// A failing exit status is an error, too: a model that reads `isError: false` takes the output
/// for the answer.
#[must_use]
pub fn is_error(outcome: &Outcome) -> bool {
    !outcome.succeeded
}

/// The whole outcome: standard output as it is, then standard error, then how it ended unless that
/// goes without saying, then what was denied with the lines that would allow it.
#[must_use]
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    stream(&mut text, "stdout", &outcome.stdout);
    if !outcome.stderr.text.is_empty() {
        separate(&mut text);
        text.push_str("[stderr]\n");
        stream(&mut text, "stderr", &outcome.stderr);
    }
    if is_error(outcome) || text.is_empty() || !outcome.reason.is_empty() {
        separate(&mut text);
        line(&mut text, format_args!("[{}]", status(outcome)));
    }
    for denial in &outcome.denials {
        separate(&mut text);
        let times = match denial.count {
            0 | 1 => String::new(),
            count => format!(" ({count} times)"),
        };
        let (what, rule) = (&denial.what, &denial.rule);
        line(&mut text, format_args!("[denied] {what}{times}: {rule}"));
        if !denial.allow_with.is_empty() {
            let option = denial.option(&outcome.tool);
            let option = option.map_or_else(String::new, |option| format!(", or {option}"));
            line(
                &mut text,
                format_args!("hint: {}{option}", denial.allow_with),
            );
        }
    }
    if !outcome.files.is_empty() {
        separate(&mut text);
        for file in &outcome.files {
            let (name, bytes, resource) = (&file.name, file.bytes, &file.resource);
            let place = match resource.as_str() {
                "" => String::new(),
                resource => format!(": {resource}"),
            };
            line(
                &mut text,
                format_args!("[file] {name} ({bytes} bytes){place}"),
            );
        }
    }
    text
}

/// How a call ended and why, in one line.
#[must_use]
pub fn status(outcome: &Outcome) -> String {
    let end = match outcome.status {
        Status::Exited => match outcome.exit_code {
            Some(code) => format!("exited with status {code}"),
            None => "exited".to_owned(),
        },
        Status::Signalled => match &outcome.signal {
            Some(signal) => format!("ended by {signal}"),
            None => "ended by a signal".to_owned(),
        },
        Status::TimedOut => "timed out".to_owned(),
        Status::CpuTimeExceeded => "used up its CPU time".to_owned(),
        Status::OutOfMemory => "ran out of memory".to_owned(),
        Status::PidsExceeded => "reached its limit of processes".to_owned(),
        Status::OutputExceeded => "wrote more than it may".to_owned(),
        Status::DiskExceeded => "filled its disk space".to_owned(),
        Status::Cancelled => "cancelled".to_owned(),
        Status::Denied => "ended by a denial".to_owned(),
        Status::Refused => "refused".to_owned(),
        Status::SetupFailed => "could not be started".to_owned(),
    };
    if outcome.reason.is_empty() {
        end
    } else {
        format!("{end}: {}", one_line(&outcome.reason))
    }
}

fn stream(text: &mut String, name: &str, stream: &Stream) {
    text.push_str(&stream.text);
    if stream.truncated {
        separate(text);
        let (shown, bytes) = (stream.text.len(), stream.bytes);
        match &stream.resource {
            Some(uri) => {
                let there = match stream.resource_bytes {
                    Some(kept) if kept < bytes => format!("the first {kept}"),
                    _ => "all of it".to_owned(),
                };
                line(
                    text,
                    format_args!("[{name}: the first {shown} of {bytes} bytes; {there}: {uri}]"),
                );
            }
            None => line(
                text,
                format_args!("[{name}: the first {shown} of {bytes} bytes]"),
            ),
        }
    }
}

/// Begins a line of ours, whether or not the tool ended its last one.
fn separate(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.push_str(&one_line(&words.to_string()));
    text.push('\n');
}

/// Whether a character does something to a terminal, or turns the direction of text around, which hides
/// what a name is.
#[must_use]
pub fn acts_on_terminals(character: char) -> bool {
    let turns = matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2028}'..='\u{2029}' | '\u{2066}'..='\u{2069}');
    character.is_control() || turns
}

/// Text on one line, in which nothing acts on a terminal or forges another line: names of files and
/// paths that a tool tried are the tool's own choice.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if acts_on_terminals(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}
