//! What the demo prints, for people: colours on a terminal, plain text elsewhere.

use std::io::{IsTerminal, Write};

use serde_json::Value;

/// Most lines of a stream that are shown.
const LINES_MAX: usize = 3;
/// Longest line that is shown, in characters.
const COLUMNS_MAX: usize = 84;

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// Writes to standard output.
pub struct Page {
    colours: bool,
}

impl Page {
    /// Colours if standard output is a terminal and `NO_COLOR` does not say otherwise.
    pub fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: std::io::stdout().is_terminal() && !refused,
        }
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The title with a sentence or two below it.
    pub fn open(&self, title: &str, lines: &[String]) {
        say(&format!("\n{}", self.paint(Colour::Bold, title)));
        for line in lines {
            say(line);
        }
    }

    /// One call: what was asked, and what was answered.
    pub fn scene(&self, number: usize, title: &str, code: &str, outcome: &Value) {
        say(&format!(
            "\n{}",
            self.paint(Colour::Bold, &format!("{number}. {title}"))
        ));
        for (index, line) in code.lines().enumerate() {
            self.row(
                if index == 0 { "asked" } else { "" },
                &self.paint(Colour::Cyan, line),
            );
        }
        self.row("answered", &self.status(outcome));
        for (stream, dim) in [("stdout", false), ("stderr", true)] {
            for line in shown(&outcome[stream], stream == "stderr") {
                let line = if dim {
                    self.paint(Colour::Dim, &line)
                } else {
                    line
                };
                self.row("", &format!("| {line}"));
            }
        }
        for denial in outcome["denials"].as_array().into_iter().flatten() {
            let times = match denial["count"].as_u64() {
                Some(count) if count > 1 => format!(", {count} times"),
                _ => String::new(),
            };
            let what = format!("{}{times}", word(&denial["what"]));
            let rule = word(&denial["rule"]);
            self.row(
                "denied",
                &format!("{} ({rule})", self.paint(Colour::Yellow, &what)),
            );
            self.row(
                "to allow it",
                &self.paint(Colour::Green, word(&denial["allow_with"])),
            );
        }
        self.row("used", &self.paint(Colour::Dim, &usage(&outcome["usage"])));
    }

    /// A line of its own below a scene.
    pub fn row(&self, label: &str, text: &str) {
        say(&format!(
            "   {} {text}",
            self.paint(Colour::Dim, &format!("{label:11}"))
        ));
    }

    /// A line that was checked.
    pub fn checked(&self, holds: bool, what: &str) {
        let mark = if holds {
            self.paint(Colour::Green, "ok ")
        } else {
            self.paint(Colour::Red, "NOT")
        };
        say(&format!("   {mark}  {what}"));
    }

    fn status(&self, outcome: &Value) -> String {
        let status = word(&outcome["status"]);
        let (colour, text) = match (status, outcome["exit_code"].as_i64()) {
            ("exited", Some(0)) => (Colour::Green, "exited with 0".to_owned()),
            ("exited", Some(code)) => (Colour::Red, format!("exited with {code}")),
            _ => (Colour::Red, status.to_owned()),
        };
        let text = self.paint(colour, &text);
        // Which limit it was, and what would change it, stands in the rows below.
        let reason = word(&outcome["reason"]);
        let reason = reason.split(['(', ';']).next().unwrap_or_default().trim();
        if reason.is_empty() {
            text
        } else {
            format!("{text}: {reason}")
        }
    }
}

/// Prints a line. Whoever closed the other end has seen enough.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The lines of a stream that are worth showing: the first, or of a traceback the last.
fn shown(stream: &Value, last_only: bool) -> Vec<String> {
    let text = word(&stream["text"]);
    let mut lines: Vec<String> = if last_only {
        text.lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(short)
            .into_iter()
            .collect()
    } else {
        text.lines().take(LINES_MAX).map(short).collect()
    };
    if stream["truncated"] == true {
        let bytes = stream["bytes"].as_u64().unwrap_or(0);
        let kept = stream["resource_bytes"].as_u64().unwrap_or(0);
        lines.truncate(1);
        lines.push(format!(
            "… {bytes} bytes in all; the first {kept} are at {}",
            word(&stream["resource"])
        ));
    }
    lines
}

fn short(line: &str) -> String {
    let mut characters = line.chars();
    let mut start: String = characters.by_ref().take(COLUMNS_MAX).collect();
    if characters.next().is_some() {
        start.push('…');
    }
    start
}

fn usage(usage: &Value) -> String {
    let number = |key: &str| usage[key].as_u64().unwrap_or(0);
    let mut parts = vec![
        format!("{} ms", number("wall_ms")),
        format!(
            "{} ms of CPU",
            number("cpu_user_ms") + number("cpu_system_ms")
        ),
        format!("{} MiB", number("memory_peak_bytes").div_ceil(1 << 20)),
    ];
    match usage["pids_peak"].as_u64() {
        Some(1) => parts.push("1 process".to_owned()),
        Some(count) => parts.push(format!("{count} processes")),
        None => {}
    }
    parts.join(", ")
}
