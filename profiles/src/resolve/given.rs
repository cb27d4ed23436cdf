//! Hosts that the operator gives to a profile beside what is written in it: `--allow NAME=HOST,…`.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostics::{Origin, SourceFile};

use super::chain::{RuleKey, WrittenRule};

/// The option by which hosts are given; diagnostics about them name it as others name a file.
pub const ALLOW_OPTION: &str = "--allow";

/// The operator's entries as rules of `network.allow`.
pub(super) fn rules(profile: &str, hosts: &str) -> Vec<WrittenRule> {
    let text = format!("{profile}={hosts}");
    let file = Arc::new(SourceFile {
        name: ALLOW_OPTION.to_owned(),
        text,
    });
    let before = profile.len() + 1;
    let rule = |entry: Range<usize>| WrittenRule {
        key: RuleKey::NetworkAllow,
        text: hosts[entry.clone()].to_owned(),
        why: "the operator gave it".to_owned(),
        if_present: false,
        profile: profile.to_owned(),
        origin: Origin {
            file: Arc::clone(&file),
            span: before + entry.start..before + entry.end,
        },
    };
    entries(hosts).into_iter().map(rule).collect()
}

/// Where each entry stands. Commas part entries, and ports of one entry, which are numbers; no host
/// is one.
fn entries(hosts: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for part in hosts.split(',') {
        let end = start + part.len();
        let digits = part.trim_end_matches("/tcp");
        let is_port = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match found.last_mut().filter(|_| is_port) {
            Some(entry) => entry.end = end,
            None => found.push(start..end),
        }
        start = end + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::rules;

    #[test]
    fn commas_part_entries_and_ports_of_one() {
        let texts = |hosts: &str| -> Vec<_> {
            let rules = rules("http_fetch", hosts).into_iter();
            rules.map(|rule| rule.text).collect()
        };
        assert_eq!(texts("example.org"), ["example.org"]);
        assert_eq!(
            texts("a.example:443,8443,*.b.example,10.0.0.0/8:5432,5433/tcp"),
            [
                "a.example:443,8443",
                "*.b.example",
                "10.0.0.0/8:5432,5433/tcp"
            ]
        );
        assert_eq!(
            texts("a.example,,b.example"),
            ["a.example", "", "b.example"]
        );
        assert_eq!(texts(""), [""]);
    }

    #[test]
    fn each_entry_has_its_place() {
        let rules = rules("http_fetch", "a.example,b.example");
        assert_eq!(rules[1].origin.to_string(), "--allow:1:22");
        let span = rules[1].origin.span.clone();
        assert_eq!(&rules[1].origin.file.text[span], "b.example");
    }
}
