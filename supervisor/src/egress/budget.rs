//! What a tool may ask its resolver, so that names do not become a channel of their own.
//!
//! A name beneath an allowed wildcard may carry a program's data in its labels to whoever answers
//! for the suffix. How much can get out so is bounded by [`TEXT_BYTES_MAX`]; that names which are
//! plainly data are refused ([`is_data`]) keeps the usual tunnels from working at all.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use profiles::egress::Name;

/// Queries each second, after a burst: about what five hundred new connections a second ask for.
pub const QUERIES_PER_SECOND: u32 = 1000;
/// Queries at once.
pub const QUERIES_BURST: u32 = 2000;
/// Queries of one call.
pub const QUERIES_MAX: u64 = 200_000;
/// Different names beneath wildcards that one call may ask for.
pub const WILD_NAMES_MAX: usize = 256;
/// Different refused names of one call that are told apart.
pub const REFUSED_NAMES_MAX: usize = 1024;
/// Text of all different names beneath wildcards of one call, in bytes, suffixes included.
pub const TEXT_BYTES_MAX: usize = 8 << 10;

/// Letters and digits in one label from which on it can be data: more than a UUID (32) and the
/// identifiers of clouds (32 at most) have, less than 20 bytes in hexadecimal.
pub const DATA_LABEL_BYTES: usize = 38;
/// Letters and digits in all labels of a name that look like data: more than two UUIDs have.
pub const DATA_NAME_BYTES: usize = 76;
/// Shortest label that counts towards [`DATA_NAME_BYTES`].
const DATA_PART_BYTES: usize = 12;
/// Shannon entropy of a byte from which on text can be data: of 38 random hexadecimal digits, all
/// but one in ten thousand have more than 3.1 bits.
const DATA_BITS_PER_BYTE: f64 = 3.0;
/// In data, digits and letters take turns at least once in so many bytes; in words, digits come
/// together at an end.
const DATA_TURN_BYTES: usize = 8;

/// Which budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// [`QUERIES_PER_SECOND`].
    Rate,
    /// [`QUERIES_MAX`].
    Queries,
    /// [`WILD_NAMES_MAX`] or [`REFUSED_NAMES_MAX`].
    Names,
    /// [`TEXT_BYTES_MAX`].
    Text,
    /// A name that is data ([`is_data`]).
    Data,
    /// The plan has no more addresses for names beneath wildcards.
    Pool,
}

impl Kind {
    /// What was tried, for a denial.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Rate => "more DNS queries at a time than a cell may make",
            Self::Queries => "more DNS queries than a call may make",
            Self::Names => "DNS queries for more different names than a call may make",
            Self::Text => "DNS queries with more text beneath wildcards than a call may make",
            Self::Data => "a DNS query for a name that carries data",
            Self::Pool => "more names beneath wildcards than the profile's ports leave room for",
        }
    }
}

/// What one call has asked for so far.
#[derive(Debug, Default)]
pub struct Budget {
    rate: Bucket,
    queries: u64,
    wild: HashSet<Name>,
    refused: HashSet<Name>,
    text: usize,
    told: BTreeSet<Kind>,
}

impl Budget {
    /// Counts a query.
    ///
    /// # Errors
    /// If there have been too many.
    pub fn query(&mut self, now: Instant) -> Result<(), Kind> {
        if self.queries >= QUERIES_MAX {
            return Err(Kind::Queries);
        }
        if !self.rate.take(now) {
            return Err(Kind::Rate);
        }
        self.queries += 1;
        Ok(())
    }

    /// Counts a name beneath a wildcard, once.
    ///
    /// # Errors
    /// If there have been too many, or it is data.
    pub fn wild(&mut self, name: &Name) -> Result<(), Kind> {
        if self.wild.contains(name) {
            return Ok(());
        }
        if is_data(name) {
            return Err(Kind::Data);
        }
        if self.wild.len() >= WILD_NAMES_MAX {
            return Err(Kind::Names);
        }
        let text = self.text + name.as_str().len();
        if text > TEXT_BYTES_MAX {
            return Err(Kind::Text);
        }
        self.text = text;
        self.wild.insert(name.clone());
        Ok(())
    }

    /// Counts a name that is refused anyway, once; says whether it is new.
    ///
    /// # Errors
    /// If there have been too many, or it is data.
    pub fn refused(&mut self, name: &Name) -> Result<bool, Kind> {
        if self.refused.contains(name) {
            return Ok(false);
        }
        if is_data(name) {
            return Err(Kind::Data);
        }
        if self.refused.len() >= REFUSED_NAMES_MAX {
            return Err(Kind::Names);
        }
        self.refused.insert(name.clone());
        Ok(true)
    }

    /// Whether this is the first time that a budget is said to be used up.
    pub fn tell(&mut self, kind: Kind) -> bool {
        self.told.insert(kind)
    }
}

/// Tokens that come back with time.
#[derive(Debug)]
struct Bucket {
    /// In queries.
    tokens: f64,
    filled: Option<Instant>,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            tokens: f64::from(QUERIES_BURST),
            filled: None,
        }
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = self
            .filled
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.filled = Some(self.filled.map_or(now, |then| then.max(now)));
        let back = since.as_secs_f64() * f64::from(QUERIES_PER_SECOND);
        self.tokens = (self.tokens + back).min(f64::from(QUERIES_BURST));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Whether a name plainly carries data: a label that is long and random, or several that are together.
///
/// What is written in words, however long, is not; neither are a label in another script's letters
/// (valid punycode), nor UUIDs and the identifiers that clouds give. Data that is spelled in words
/// passes: only the budgets hold against it.
#[must_use]
pub fn is_data(name: &Name) -> bool {
    let mut together = 0;
    for label in name.as_str().split('.') {
        let text: Vec<u8> = label.bytes().filter(u8::is_ascii_alphanumeric).collect();
        if text.len() < DATA_PART_BYTES || entropy(&text) < DATA_BITS_PER_BYTE || is_punycode(label)
        {
            continue;
        }
        let mixed = turns(&text) * DATA_TURN_BYTES >= text.len();
        let unbroken = label
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|run| run.len() >= DATA_LABEL_BYTES);
        if text.len() >= DATA_LABEL_BYTES && (mixed || unbroken) {
            return true;
        }
        if mixed {
            together += text.len();
        }
    }
    together >= DATA_NAME_BYTES
}

/// Bits of Shannon entropy of a byte.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let length = as_f64(text.len());
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| as_f64(*count) / length)
        .map(|share| -share * share.log2())
        .sum()
}

/// How often a digit follows a letter, or a letter a digit.
fn turns(text: &[u8]) -> usize {
    text.windows(2)
        .filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit())
        .count()
}

/// Whether a label stands for one in another script; random text seldom does.
fn is_punycode(label: &str) -> bool {
    label.starts_with("xn--") && idna::domain_to_unicode(label).1.is_ok()
}

/// The length of a label or less.
fn as_f64(count: usize) -> f64 {
    u16::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn names_of_clouds_and_people_are_no_data() {
        for text in [
            "api.github.com",
            "d111111abcdef8.cloudfront.net",
            "3f2504e0-4f89-11d3-9a0c-0305e82c3301.example.org",
            "3f2504e0-4f89-11d3-9a0c-0305e82c3301.9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d.example.org",
            "3f2504e04f8911d39a0c0305e82c3301.example.org",
            "ynzqyvu3wrfmpb5sfpvzk5ut3q.appsync-api.us-east-1.amazonaws.com",
            "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
            "internal-my-load-balancer-1234567890.us-east-1.elb.amazonaws.com",
            "project-git-feature-add-a-very-long-branch-name-the-team.vercel.app",
            "5f3c1b2a9d8e7f6a5b4c3d2e--site-name.netlify.app",
            "my-bucket-123456789012.s3.dualstack.eu-central-1.amazonaws.com",
            "a1b2c3d4e5f6g7-dsn.algolia.net",
            "r4---sn-4g5e6nze.googlevideo.com",
            "ec2-203-0-113-25.compute-1.amazonaws.com",
            "xn--fiqs8s.xn--55qx5d",
            "донаудампфшиффартсгезельшафтскапитан.example",
            "ドメイン名例ドメイン名例ドメイン名例.example",
            "llanfairpwllgwyngyllgogerychwyrndrob-wll-llantysilio.wales",
            "_http._tcp.deb.debian.org",
            "gateway.prod-europe-west4-b.services.internal.example.org",
        ] {
            assert!(!is_data(&name(text)), "{text}");
        }
    }

    #[test]
    fn names_that_carry_data_are_told() {
        for text in [
            // Hexadecimal, base32 and base64 (as DNS has it: without case and signs).
            "546869732069732061207365637265742074657874.t.example.org",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709.t.example.org",
            "krugs4zanfzsaylpnztsa43fmnzgk5baor2xg33omu.t.example.org",
            "vghpcybpcybhihnly3jldcb0zxh0ihroyxqgz29lcyb.t.example.org",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85.t.example.org",
            // Broken up within a label, and over labels.
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709.t.example.org",
            "da39a3ee5e6b4b0d3255.bfef95601890afd80709.e3b0c44298fc1c149afb.f4c8996fb92427ae41e4.x.org",
            // Letters alone.
            "qzjxkvbpwmfhtgydcnrlsuoaeiqzjxkvbpwmfhtgydcnr.t.example.org",
            // Behind the prefix of punycode.
            "xn--da39a3ee5e6b4b0d3255bfef95601890afd80709.t.example.org",
        ] {
            assert!(is_data(&name(text)), "{text}");
        }
    }

    #[test]
    fn queries_come_back_with_time() {
        let mut budget = Budget::default();
        let start = Instant::now();
        for _ in 0..QUERIES_BURST {
            assert_eq!(budget.query(start), Ok(()));
        }
        assert_eq!(budget.query(start), Err(Kind::Rate));
        let later = start + Duration::from_secs(1);
        for _ in 0..QUERIES_PER_SECOND {
            assert_eq!(budget.query(later), Ok(()));
        }
        assert_eq!(budget.query(later), Err(Kind::Rate));
        // A clock that goes backwards gives nothing.
        assert_eq!(budget.query(start), Err(Kind::Rate));
        let much_later = later + Duration::from_hours(1);
        for _ in 0..QUERIES_BURST {
            assert_eq!(budget.query(much_later), Ok(()));
        }
        assert_eq!(budget.query(much_later), Err(Kind::Rate));
    }

    #[test]
    fn queries_of_a_call_are_counted() {
        let mut budget = Budget::default();
        let mut now = Instant::now();
        for _ in 0..QUERIES_MAX {
            now += Duration::from_millis(1);
            assert_eq!(budget.query(now), Ok(()));
        }
        assert_eq!(
            budget.query(now + Duration::from_secs(9)),
            Err(Kind::Queries)
        );
    }

    #[test]
    fn names_beneath_wildcards_are_counted_once_each() {
        let mut budget = Budget::default();
        for _ in 0..2 {
            for number in 0..WILD_NAMES_MAX {
                assert_eq!(
                    budget.wild(&name(&format!("n{number}.example.org"))),
                    Ok(())
                );
            }
        }
        assert_eq!(budget.wild(&name("more.example.org")), Err(Kind::Names));
    }

    #[test]
    fn text_beneath_wildcards_is_bounded() {
        let mut budget = Budget::default();
        let words = ["some-words-that-are-long"; 8].join(".");
        let names = (0..WILD_NAMES_MAX).map(|n| name(&format!("n{n}.{words}.org")));
        let refused = names.map(|name| budget.wild(&name)).find(Result::is_err);
        assert_eq!(refused, Some(Err(Kind::Text)));
        assert!(budget.text <= TEXT_BYTES_MAX);
    }

    #[test]
    fn refused_names_are_told_apart_up_to_a_number() {
        let mut budget = Budget::default();
        for number in 0..REFUSED_NAMES_MAX {
            let name = name(&format!("n{number}.org"));
            assert_eq!(budget.refused(&name), Ok(true));
            assert_eq!(budget.refused(&name), Ok(false));
        }
        assert_eq!(budget.refused(&name("more.org")), Err(Kind::Names));
        assert!(budget.tell(Kind::Names));
        assert!(!budget.tell(Kind::Names));
        assert!(budget.tell(Kind::Data));
    }
}
