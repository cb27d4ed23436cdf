//! Paths as the kernel takes them.

use std::ffi::CString;

/// Text with its NUL.
pub fn text(text: &str) -> CString {
    CString::new(text).expect("a test passes no NUL")
}
