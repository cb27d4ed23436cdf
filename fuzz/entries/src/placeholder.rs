//! A word of a profile that may be a placeholder.

use profiles::placeholders::Piece;

/// Reads it; what it was read as reads so again.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Piece::parse(text) {
        Ok(piece) => {
            assert_eq!(Piece::parse(&piece.written()).as_ref(), Ok(&piece));
            if let Piece::Literal(literal) = &piece {
                // Nothing of a literal is ever replaced: it has the author's braces, halved.
                assert!(literal.len() <= text.len());
            } else {
                assert!(
                    text.starts_with('{') && text.ends_with('}'),
                    "only a whole word is one"
                );
                assert_eq!(text.matches(['{', '}']).count(), 2);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
    }
}

/// Words of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "plain",
        "{code}",
        "{roots.docs}",
        "{{literal}}",
        "a{b}",
        "{",
        "}",
        "{}",
        "{a}{b}",
        "{{{a}}}",
        "",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
