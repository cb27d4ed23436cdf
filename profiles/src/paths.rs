//! Paths as profiles and calls write them, checked without looking at any file system.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// Longest path in bytes (the kernel's `PATH_MAX` without its NUL).
pub const PATH_BYTES_MAX: usize = 4095;
/// Longest name in a path in bytes (the kernel's `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Why a path is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing at all.
    #[error("the path is empty")]
    Empty,
    /// Not absolute where it must be.
    #[error("`{0}` is relative, expected an absolute path")]
    Relative(String),
    /// Absolute where it must not be.
    #[error("`{0}` is absolute, expected a path relative to the workspace")]
    Absolute(String),
    /// `..`, which would make the path's meaning depend on links.
    #[error("`{0}` contains `..`")]
    Parent(String),
    /// A NUL byte or another control character.
    #[error("`{0}` contains a control character")]
    Control(String),
    /// Longer than the kernel takes.
    #[error("a path of {0} bytes is too long")]
    TooLong(usize),
}

impl PathError {
    /// What a message about an argument says was found.
    pub(crate) fn found(&self) -> String {
        match self {
            Self::Empty => "an empty path".to_owned(),
            Self::Relative(path) => format!("the relative path `{path}`"),
            Self::Absolute(path) => format!("the absolute path `{path}`"),
            Self::Parent(path) => format!("`..` in `{path}`"),
            Self::Control(path) => format!("a control character in `{path}`"),
            Self::TooLong(bytes) => format!("{bytes} bytes, more than the kernel takes"),
        }
    }
}

/// An absolute path in its plain form: no `.`, no doubled or trailing slash.
pub fn absolute(text: &str) -> Result<PathBuf, PathError> {
    let parts = parts(text)?;
    if !text.starts_with('/') {
        return Err(PathError::Relative(shortened(text)));
    }
    Ok(Path::new("/").join(parts))
}

/// A relative path in its plain form; the empty path for `.`.
pub fn relative(text: &str) -> Result<PathBuf, PathError> {
    let parts = parts(text)?;
    if text.starts_with('/') {
        return Err(PathError::Absolute(shortened(text)));
    }
    Ok(parts)
}

/// The normal components of a path, after every check that both forms share.
fn parts(text: &str) -> Result<PathBuf, PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(PathError::Control(shortened(text)));
    }
    let mut parts = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) if name.len() > NAME_BYTES_MAX => {
                return Err(PathError::TooLong(name.len()));
            }
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => return Err(PathError::Parent(shortened(text))),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(parts)
}

/// Whether a path from elsewhere is absolute and in its plain form already.
#[must_use]
pub fn is_plain_absolute(path: &Path) -> bool {
    path.to_str()
        .and_then(|text| absolute(text).ok())
        .is_some_and(|plain| plain.as_os_str() == path.as_os_str())
}

/// Where a link in a directory leads, as far as its text says: the directory must have no link in
/// its own path. `None` if it leads above `/`.
pub(crate) fn lexically_joined(directory: &Path, link: &Path) -> Option<PathBuf> {
    let mut joined = directory.to_owned();
    for component in link.components() {
        match component {
            Component::RootDir => joined = PathBuf::from("/"),
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(joined)
}

/// A path's ancestors without the path itself and without `/`, outermost first.
pub(crate) fn ancestors(path: &Path) -> Vec<&Path> {
    let mut above: Vec<_> = path
        .ancestors()
        .skip(1)
        .filter(|ancestor| ancestor.parent().is_some())
        .collect();
    above.reverse();
    above
}

fn shortened(text: &str) -> String {
    crate::diagnostics::shortened(text)
}
