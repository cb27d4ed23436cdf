//! Secrets that a server sends back: found in its answers, as far as they come as they were sent,
//! before the tool has them.

use memchr::memmem::Finder;
use zeroize::Zeroizing;

/// Shortest secret that is looked for: shorter ones could be anything.
const SECRET_BYTES_MIN: usize = 8;
/// From so many bytes of a secret on, what came is taken for its beginning, however late the rest is.
const BEGUN_BYTES: usize = 16;

/// What looks for secrets in a server's answers over one connection.
pub struct Echoes<'a> {
    secrets: Vec<(&'a [u8], Finder<'a>)>,
    /// The last bytes that came, if a secret may begin with them.
    held: Zeroizing<Vec<u8>>,
}

/// A secret came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Found;

impl<'a> Echoes<'a> {
    /// Looks for these.
    #[must_use]
    pub fn of(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let secrets = secrets.into_iter();
        let long = secrets.filter(|secret| secret.len() >= SECRET_BYTES_MIN);
        Self {
            secrets: long.map(|secret| (secret, Finder::new(secret))).collect(),
            held: Zeroizing::default(),
        }
    }

    /// Takes what came, and returns what may go on; the last of it is held if a secret may begin there.
    ///
    /// # Errors
    /// If there is a secret in it.
    pub fn pass(&mut self, came: &[u8]) -> Result<Zeroizing<Vec<u8>>, Found> {
        let mut all = Zeroizing::new(Vec::with_capacity(self.held.len() + came.len()));
        all.extend_from_slice(&self.held);
        all.extend_from_slice(came);
        if self
            .secrets
            .iter()
            .any(|(_, finder)| finder.find(&all).is_some())
        {
            return Err(Found);
        }
        let begun = self.secrets.iter().map(|(secret, _)| begun(secret, &all));
        let kept = all.len() - begun.max().unwrap_or_default();
        self.held = Zeroizing::new(all[kept..].to_vec());
        all.truncate(kept);
        Ok(all)
    }

    /// Whether what is held should go on if nothing comes behind it for a while.
    #[must_use]
    pub fn holds_little(&self) -> bool {
        (1..BEGUN_BYTES).contains(&self.held.len())
    }

    /// Gives up what is held.
    #[must_use]
    pub fn release(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.held)
    }
}

/// How many of the last bytes a secret begins with; never all of it.
fn begun(secret: &[u8], bytes: &[u8]) -> usize {
    let longest = bytes.len().min(secret.len() - 1);
    let mut lengths = (1..=longest).rev();
    lengths
        .find(|length| bytes.ends_with(&secret[..*length]))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"sk-sk-0123456789abcdef";

    fn echoes() -> Echoes<'static> {
        Echoes::of([SECRET, b"short", b"another-one"])
    }

    #[test]
    fn a_secret_is_found_however_it_is_cut() {
        let text = [b"{\"Authorization\": \"Bearer sk-", SECRET, b"\"}"].concat();
        for size in 1..=text.len() {
            let mut echoes = echoes();
            let mut passed = Vec::new();
            let found = text.chunks(size).any(|part| match echoes.pass(part) {
                Ok(part) => {
                    passed.extend_from_slice(&part);
                    false
                }
                Err(Found) => true,
            });
            assert!(found, "{size}");
            assert!(!passed.windows(4).any(|part| part == b"0123"), "{size}");
        }
    }

    #[test]
    fn everything_else_passes_unchanged() {
        let text = b"sk-sk-sk-01 short sk-sk-0123456789abcdeX another-on anot sk-";
        for size in 1..=text.len() {
            let mut echoes = echoes();
            let mut passed = Vec::new();
            for part in text.chunks(size) {
                passed.extend_from_slice(&echoes.pass(part).expect("there is none"));
            }
            assert!(echoes.holds_little());
            passed.extend_from_slice(&echoes.release());
            assert!(!echoes.holds_little());
            assert_eq!(passed, text, "{size}");
        }
    }

    #[test]
    fn much_of_a_secret_is_held_and_little_is_not() {
        let mut echoes = echoes();
        assert_eq!(*echoes.pass(b"a sk-sk-").expect("none"), b"a ");
        assert!(echoes.holds_little());
        assert_eq!(*echoes.pass(b"0123456789").expect("none"), b"");
        assert!(!echoes.holds_little());
        assert_eq!(*echoes.pass(b"x").expect("none"), b"sk-sk-0123456789x");
    }
}
