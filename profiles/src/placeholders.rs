//! Placeholders: the only way for an argument to reach a command line, a stream or a path.
//!
//! A placeholder is always a whole word or a whole value, so that what a model sends can never
//! become part of something that the profile's author wrote.

use serde::Serialize;
use thiserror::Error;

/// Text in which a placeholder may stand, read: either literal or a placeholder, never a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Text without placeholders; doubled braces are single ones here.
    Literal(String),
    /// `{name}`: an argument of the call.
    Argument(String),
    /// `{roots.name}`: a directory that the operator named.
    Root(String),
}

/// Why text cannot be read as a literal or a placeholder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlaceholderError {
    /// A placeholder with text around it, or two in one word.
    #[error("the placeholder `{{{name}}}` is only a part of the word")]
    NotWhole {
        /// What stands in the braces.
        name: String,
    },
    /// A brace that neither belongs to a placeholder nor is doubled.
    #[error("a single `{brace}` is neither text nor a placeholder")]
    LoneBrace {
        /// The brace.
        brace: char,
    },
    /// Braces around something that is not a name.
    #[error("`{{{name}}}` is not the name of an argument or a root")]
    NotAName {
        /// What stands in the braces.
        name: String,
    },
}

impl PlaceholderError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotWhole { name } => format!(
                "make `{{{name}}}` a word of its own; for a literal brace write `{{{{` or `}}}}`"
            ),
            Self::LoneBrace { .. } | Self::NotAName { .. } => {
                "for a literal brace write `{{` or `}}`".to_owned()
            }
        }
    }
}

impl Piece {
    /// Reads text as a profile's author writes it.
    pub fn parse(text: &str) -> Result<Self, PlaceholderError> {
        if let Some(name) = whole_placeholder(text) {
            return match name.strip_prefix("roots.") {
                Some(root) if is_name(root) => Ok(Self::Root(root.to_owned())),
                None if is_name(name) => Ok(Self::Argument(name.to_owned())),
                _ => Err(PlaceholderError::NotAName {
                    name: crate::diagnostics::shortened(name),
                }),
            };
        }
        let mut literal = String::with_capacity(text.len());
        let mut rest = text.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            match c {
                '{' | '}' if rest.peek().is_some_and(|(_, next)| *next == c) => {
                    rest.next();
                    literal.push(c);
                }
                '{' => return Err(open_brace(&text[at + 1..])),
                '}' => return Err(PlaceholderError::LoneBrace { brace: c }),
                _ => literal.push(c),
            }
        }
        Ok(Self::Literal(literal))
    }

    /// The text that reads as this piece.
    #[must_use]
    pub fn written(&self) -> String {
        match self {
            Self::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
            Self::Argument(name) => format!("{{{name}}}"),
            Self::Root(name) => format!("{{roots.{name}}}"),
        }
    }
}

/// What stands in the braces, if the text is `{…}` with no other brace.
fn whole_placeholder(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    (!inner.contains(['{', '}'])).then_some(inner)
}

fn open_brace(rest: &str) -> PlaceholderError {
    match rest.split_once('}') {
        Some((name, _)) if is_name(name.strip_prefix("roots.").unwrap_or(name)) => {
            PlaceholderError::NotWhole {
                name: name.to_owned(),
            }
        }
        _ => PlaceholderError::LoneBrace { brace: '{' },
    }
}

/// Whether this can name an argument or a root: an ASCII letter or `_`, then also digits and `-`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    /// Longest name in bytes; it is repeated in messages.
    const NAME_BYTES_MAX: usize = 64;
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let later = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    text.len() <= NAME_BYTES_MAX && text.starts_with(first) && text.chars().all(later)
}
