//! What is wrong with a profile, where, and what would mend it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// Largest profile in bytes: the largest built-in one has 6 KiB.
pub const PROFILE_BYTES_MAX: usize = 256 * 1024;
/// Most diagnostics that one file is answered with.
pub const DIAGNOSTICS_MAX: usize = 50;
/// Longest piece of foreign text repeated in a message, in characters.
const QUOTED_CHARS_MAX: usize = 80;
/// Columns that rendered diagnostics are wrapped to.
const RENDER_COLUMNS: usize = 100;
/// Lines longer than this are not shown in a diagnostic: a terminal gains nothing from them.
const SNIPPET_LINE_BYTES_MAX: usize = 400;

/// The text of one profile and the name to show for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path as shown to people.
    pub name: String,
    /// What the file holds.
    pub text: String,
}

impl SourceFile {
    /// Takes the bytes of a file, which must be UTF-8 and at most [`PROFILE_BYTES_MAX`].
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Diagnostics> {
        let name = name.into();
        if bytes.len() > PROFILE_BYTES_MAX {
            return Err(Diagnostic::oversize(&name, bytes.len()).into());
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                // Splitting gives one piece more than there are newlines: the line's number.
                let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
                let message = format!("`{name}` is not UTF-8: byte {at}, in line {line}");
                Err(Diagnostic::general(Kind::Invalid, message)
                    .with_hint("save the file as UTF-8")
                    .into())
            }
        }
    }
}

/// A place in a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The profile.
    pub file: Arc<SourceFile>,
    /// Byte range in its text.
    pub span: Range<usize>,
}

impl Origin {
    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        1 + self.before().bytes().filter(|byte| *byte == b'\n').count()
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        let before = self.before();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        1 + before[start..].chars().count()
    }

    /// The text before the place.
    fn before(&self) -> &str {
        let mut end = self.span.start.min(self.file.text.len());
        while !self.file.text.is_char_boundary(end) {
            end -= 1;
        }
        &self.file.text[..end]
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.name, self.line(), self.column())
    }
}

/// What kind of trouble a diagnostic is about, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The profile itself is wrong.
    Invalid,
    /// No profile has this name.
    UnknownProfile,
    /// A root that the operator must give was not given.
    RootNotGiven,
    /// Hosts that the operator must give were not given.
    HostsNotGiven,
    /// A secret that the operator must give was not given.
    SecretNotGiven,
    /// The program that the profile runs does not exist on this host, or cannot be executed.
    NoProgram,
    /// Something else that the profile lists does not exist on this host.
    NoPath,
    /// The host's kernel cannot enforce what the profile asks for.
    HostTooWeak,
    /// The profile asks for something that this version does not offer.
    NotOffered,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of trouble.
    pub kind: Kind,
    /// What is wrong: lower case, no final period.
    pub message: String,
    /// Where, if it is about a place in a file.
    pub origin: Option<Origin>,
    /// What was expected there; shown at the caret.
    pub expected: Option<String>,
    /// What would mend it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Trouble that is not about a place in a file.
    pub(crate) fn general(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            origin: None,
            expected: None,
            hint: None,
        }
    }

    /// Trouble at a place in a profile.
    pub(crate) fn at(origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            origin: Some(origin.clone()),
            ..Self::general(Kind::Invalid, message)
        }
    }

    pub(crate) fn oversize(name: &str, bytes: usize) -> Self {
        let message = format!("`{name}` has {bytes} bytes, expected at most {PROFILE_BYTES_MAX}");
        Self::general(Kind::Invalid, message)
            .with_hint("a profile holds rules; keep scripts and data in files of their own")
    }

    pub(crate) fn without_origin(mut self) -> Self {
        self.origin = None;
        self
    }

    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn with_expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_hint_maybe(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The diagnostic for a terminal: the message, the line with a caret, and the hint.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(RENDER_COLUMNS)
            .with_links(false)
            .without_cause_chain();
        let mut text = String::new();
        // Writing into a String does not fail; if a snippet cannot be shown, the message still is.
        if handler
            .render_report(&mut text, &Snippet::of(self))
            .is_err()
        {
            text = format!("  × {self}\n");
        }
        if let Some(hint) = &self.hint {
            text.push_str("  hint: ");
            text.push_str(&printable(hint));
            text.push('\n');
        }
        text
    }
}

impl fmt::Display for Diagnostic {
    /// One line: place, message, what was expected, hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{}: ", printable(&origin.to_string()))?;
        }
        f.write_str(&printable(&self.message))?;
        if let Some(expected) = &self.expected {
            write!(f, " ({})", printable(expected))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<_>)
    }
}

/// What miette renders of a diagnostic: all but the hint, which it would head with another word.
#[derive(Debug)]
struct Snippet {
    message: String,
    source: Option<NamedSource<String>>,
    label: Option<LabeledSpan>,
}

impl Snippet {
    fn of(diagnostic: &Diagnostic) -> Self {
        let message = printable(&diagnostic.message);
        let Some(origin) = &diagnostic.origin else {
            return Self {
                message,
                source: None,
                label: None,
            };
        };
        let text = &origin.file.text;
        let mut start = origin.span.start.min(text.len());
        let mut end = origin.span.end.clamp(start, text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // A caret under one line says more than a box around fifty.
        let end = text[start..end]
            .find('\n')
            .map_or(end, |newline| start + newline);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        if line_end - line_start > SNIPPET_LINE_BYTES_MAX {
            return Self {
                message: format!("{}: {message}", printable(&origin.to_string())),
                source: None,
                label: None,
            };
        }
        let label = diagnostic.expected.as_deref().map(printable);
        Self {
            message,
            source: Some(NamedSource::new(
                printable(&origin.file.name),
                printable(text),
            )),
            label: Some(LabeledSpan::new(label, start, end - start)),
        }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Snippet {}

impl miette::Diagnostic for Snippet {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label
            .clone()
            .map(|label| Box::new(std::iter::once(label)) as Box<_>)
    }
}

/// Everything that is wrong; never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All diagnostics for a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let shown = self.0.iter().take(DIAGNOSTICS_MAX);
        let mut text = shown
            .map(|diagnostic| diagnostic.render(colour))
            .collect::<Vec<_>>()
            .join("\n");
        if self.0.len() > DIAGNOSTICS_MAX {
            let rest = (self.0.len() - DIAGNOSTICS_MAX).to_string();
            text.extend(["\n  and ", &rest, " more\n"]);
        }
        text
    }

    /// Whether every diagnostic is of this kind.
    #[must_use]
    pub fn all(&self, kind: Kind) -> bool {
        self.0.iter().all(|diagnostic| diagnostic.kind == kind)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Collects diagnostics while checking goes on, so that one run tells everything.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Diagnostic>);

impl Problems {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Keeps the value of a success; notes the diagnostic of a failure.
    pub(crate) fn note<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.push(diagnostic)).ok()
    }

    /// The value if nothing was noted.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Diagnostics(self.0))
        }
    }

    pub(crate) fn into_diagnostics(self) -> Diagnostics {
        Diagnostics(self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name among `known` that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this likeness a suggestion confuses more than it mends.
    const LIKENESS_MIN: f64 = 0.8;
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), known);
    known
        .into_iter()
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// A hint with the name that was probably meant.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(name, known).map(|known| format!("did you mean `{known}`?"))
}

/// `a`, `b`, `c` in backticks.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Foreign text cut to what a message can carry, without anything that moves a terminal's cursor.
pub(crate) fn shortened(text: &str) -> String {
    shortened_to(text, QUOTED_CHARS_MAX)
}

/// Foreign text cut to a number of characters, control characters escaped.
pub(crate) fn shortened_to(text: &str, chars_max: usize) -> String {
    let mut kept = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == chars_max {
            kept.push('…');
            break;
        }
        if c.is_control() {
            kept.extend(c.escape_debug());
        } else {
            kept.push(c);
        }
    }
    kept
}

/// The text with every character that could steer a terminal or reorder a line replaced by one of
/// the same length in bytes, so that spans still fit.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            _ if c.is_control() && c.len_utf8() == 1 => '?',
            _ if c.is_control() => '¿',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' => {
                '\u{fffd}'
            }
            _ => c,
        })
        .collect()
}
