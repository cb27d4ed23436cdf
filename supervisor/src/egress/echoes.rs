//! Secrets that a server sends back: found in its answers, as far as they come as they were sent,
//! before the tool has them.
//!
//! The last bytes that came always wait for those behind them, whatever they are. If only the
//! beginning of a secret did, a tool that has a server repeat its guesses would see by their delay
//! which of them is right, letter by letter.

use memchr::memmem::Finder;
use zeroize::Zeroizing;

/// Shortest secret that is looked for: shorter ones could be anything.
const SECRET_BYTES_MIN: usize = 8;

/// What looks for secrets in a server's answers over one connection.
pub struct Echoes<'a> {
    secrets: Vec<Finder<'a>>,
    /// So many bytes at the end of what came may be the beginning of a secret.
    most: usize,
    /// Those bytes.
    last: Zeroizing<Vec<u8>>,
    /// How many of them have gone on.
    gone: usize,
}

/// A secret came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What came before it, and may go on.
    pub before: Zeroizing<Vec<u8>>,
}

impl<'a> Echoes<'a> {
    /// Looks for these.
    #[must_use]
    pub fn of(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let secrets = secrets.into_iter();
        let long: Vec<_> = secrets
            .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
            .collect();
        let longest = long.iter().map(|secret| secret.len()).max();
        Self {
            secrets: long.into_iter().map(Finder::new).collect(),
            most: longest.map_or(0, |longest| longest - 1),
            last: Zeroizing::default(),
            gone: 0,
        }
    }

    /// Takes what came, and returns what may go on.
    ///
    /// # Errors
    /// If there is a secret in it.
    pub fn pass(&mut self, came: &[u8]) -> Result<Zeroizing<Vec<u8>>, Found> {
        let mut all = Zeroizing::new(Vec::with_capacity(self.last.len() + came.len()));
        all.extend_from_slice(&self.last);
        all.extend_from_slice(came);
        let found = self.secrets.iter().filter_map(|one| one.find(&all));
        if let Some(at) = found.min() {
            let before = Zeroizing::new(all[self.gone.min(at)..at].to_vec());
            return Err(Found { before });
        }
        let kept = all.len() - all.len().min(self.most);
        let passed = kept.max(self.gone);
        self.last = Zeroizing::new(all[kept..].to_vec());
        let passing = Zeroizing::new(all[self.gone..passed].to_vec());
        self.gone = passed - kept;
        Ok(passing)
    }

    /// Whether something waits for what comes behind it.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.gone < self.last.len()
    }

    /// Gives up what waits: nothing has come behind it for a while, or ever will.
    #[must_use]
    pub fn release(&mut self) -> Zeroizing<Vec<u8>> {
        let waiting = Zeroizing::new(self.last[self.gone..].to_vec());
        self.gone = self.last.len();
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"sk-sk-0123456789abcdef";

    fn echoes() -> Echoes<'static> {
        Echoes::of([SECRET, b"short", b"another-one"])
    }

    /// What goes on of a text in pieces, and whether all of it does; some are long awaited.
    fn passed(text: &[u8], size: usize, late: usize) -> (Vec<u8>, bool) {
        let mut echoes = echoes();
        let mut passed = Vec::new();
        for (number, part) in text.chunks(size).enumerate() {
            match echoes.pass(part) {
                Ok(part) => passed.extend_from_slice(&part),
                Err(Found { before }) => {
                    passed.extend_from_slice(&before);
                    return (passed, false);
                }
            }
            if (number + 1) % late == 0 {
                passed.extend_from_slice(&echoes.release());
                assert!(!echoes.waits());
            }
        }
        passed.extend_from_slice(&echoes.release());
        (passed, true)
    }

    #[test]
    fn a_secret_is_found_however_it_is_cut() {
        for secret in [SECRET, b"another-one"] {
            let before = b"{\"Authorization\": \"Bearer sk-";
            let text = [before, secret, b"\"}"].concat();
            for size in 1..=text.len() {
                let (got, whole) = passed(&text, size, usize::MAX);
                assert_eq!((&got[..], whole), (&before[..], false), "{size}");
                // Who got its beginning, since the rest was late, does not get the rest.
                let (got, whole) = passed(&text, size, 2);
                assert!(!whole && got.len() < before.len() + secret.len(), "{size}");
            }
        }
    }

    #[test]
    fn everything_else_passes_unchanged() {
        let text = b"sk-sk-sk-01 short sk-sk-0123456789abcdeX another-on anot sk-";
        for size in 1..=text.len() {
            for late in [1, 2, 5, usize::MAX] {
                assert_eq!(passed(text, size, late), (text.to_vec(), true), "{size}");
            }
        }
        let mut none = Echoes::of([b"short".as_slice()]);
        assert_eq!(*none.pass(b"short").expect("not looked for"), b"short");
        assert!(!none.waits());
    }

    #[test]
    fn a_right_guess_waits_as_long_as_a_wrong_one() {
        for guess in [
            "sk-sk-0123456789abcde",
            "sk-sk-0123456789abcdx",
            "xxxxxxxxxxxxxxxxxxxxx",
        ] {
            let mut echoes = echoes();
            let text = format!("you said {guess}");
            let went = echoes.pass(text.as_bytes()).expect("it is none");
            assert_eq!(went.len(), text.len() - (SECRET.len() - 1), "{guess}");
        }
    }
}
