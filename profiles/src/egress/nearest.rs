//! What somebody probably meant who wrote something that is no entry.

use ipnet::IpNet;

use super::entry::{Entry, PORTS_MAX};

/// Schemes of URLs, with the port of those that are not the web's.
const SCHEMES: [(&str, Option<u16>); 20] = [
    ("http", None),
    ("https", None),
    ("ws", None),
    ("wss", None),
    ("git", Some(9418)),
    ("ssh", Some(22)),
    ("sftp", Some(22)),
    ("git+ssh", Some(22)),
    ("ftp", Some(21)),
    ("smtp", Some(25)),
    ("smtps", Some(465)),
    ("imaps", Some(993)),
    ("ldap", Some(389)),
    ("ldaps", Some(636)),
    ("mysql", Some(3306)),
    ("postgres", Some(5432)),
    ("postgresql", Some(5432)),
    ("redis", Some(6379)),
    ("mongodb", Some(27017)),
    ("amqp", Some(5672)),
];
/// Ports that people write by name.
const PORTS: [(&str, u16); 6] = [
    ("http", 80),
    ("https", 443),
    ("ssh", 22),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("redis", 6379),
];
/// Longest text that is worth a guess.
const TEXT_BYTES_MAX: usize = 512;

/// The entry of `network.allow` that is nearest to a text which is none.
#[must_use]
pub fn nearest(text: &str) -> Option<String> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if text.contains("://") {
        return Some(of_url(&text)).filter(|guess| Entry::allow(guess).is_ok());
    }
    let guesses = [
        text.clone(),
        range(&text),
        without_path(&text),
        wildcard(&text),
        without_brackets(&text),
        with_ports(&text),
    ];
    let mut right = guesses
        .into_iter()
        .filter(|guess| Entry::allow(guess).is_ok());
    right.next()
}

/// `https://user@host:1/path` names `host:1`; a scheme that is not the web's names its port, too.
fn of_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return String::new();
    };
    let scheme = scheme.to_ascii_lowercase();
    let host = without_path(rest);
    let own = SCHEMES.iter().find(|(known, _)| *known == scheme);
    let has_port = host.contains(':');
    match own.and_then(|(_, port)| *port) {
        Some(_) if has_port => format!("{host}/tcp"),
        Some(port) => format!("{host}:{port}/tcp"),
        None if scheme == "http" && !has_port => format!("{host}:80"),
        None => host,
    }
}

/// The authority alone: no path, query, fragment or user.
fn without_path(text: &str) -> String {
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let authority = &text[..end];
    let host = authority.rsplit('@').next().unwrap_or(authority);
    host.trim_end_matches(':').to_owned()
}

/// `.example.org`, `*example.org` and `foo-*.example.org` are wildcards elsewhere.
fn wildcard(text: &str) -> String {
    let rest = if let Some(rest) = text.strip_prefix('.') {
        rest
    } else if let Some((_, rest)) = text.rsplit_once("*.") {
        rest
    } else if let Some(rest) = text.strip_prefix('*') {
        rest
    } else {
        return String::new();
    };
    format!("*.{rest}")
}

fn without_brackets(text: &str) -> String {
    text.replace(['[', ']'], "")
}

/// Ports by name, ranges of ports, and the same port twice.
fn with_ports(text: &str) -> String {
    let (text, tcp) = match text.strip_suffix("/tcp") {
        Some(text) => (text, "/tcp"),
        None => (text, ""),
    };
    let Some((host, ports)) = text.rsplit_once(':') else {
        return String::new();
    };
    let mut found: Vec<u16> = Vec::new();
    for part in ports.split(',') {
        let named = PORTS.iter().find(|(name, _)| *name == part);
        let range = part.split_once('-').and_then(|(first, last)| {
            Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?))
        });
        match (named, range, part.parse()) {
            (Some((_, port)), _, _) => found.push(*port),
            (_, Some((first, last)), _) => found.extend((first..=last).take(PORTS_MAX + 1)),
            (_, _, Ok(port)) => found.push(port),
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    let ports: Vec<_> = found.iter().map(u16::to_string).collect();
    if ports.is_empty() {
        format!("{host}{tcp}")
    } else {
        format!("{host}:{}{tcp}", ports.join(","))
    }
}

/// `10.1.2.3/8` is within `10.0.0.0/8`.
fn range(text: &str) -> String {
    let host = text.split_once(':').map_or(text, |(host, _)| host);
    match host.parse::<IpNet>().or_else(|_| text.parse::<IpNet>()) {
        Ok(IpNet::V4(range)) => text.replacen(host, &range.trunc().to_string(), 1),
        Ok(IpNet::V6(range)) => {
            let range = range.trunc();
            format!("[{}]/{}", range.addr(), range.prefix_len())
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_entry_is_what_was_meant() {
        for (text, meant) in [
            ("https://example.org", "example.org"),
            ("https://example.org/", "example.org"),
            (
                "https://user:password@example.org:8443/a?b#c",
                "example.org:8443",
            ),
            ("http://example.org", "example.org:80"),
            (
                "postgres://me@db.example.org/name",
                "db.example.org:5432/tcp",
            ),
            ("redis://db.example.org:7000", "db.example.org:7000/tcp"),
            ("example.org/path", "example.org"),
            ("example.org:443/path", "example.org:443"),
            ("example.org:443/udp", "example.org:443"),
            (" example.org", "example.org"),
            ("example.org: 443, 80", "example.org:443,80"),
            ("git@example.org:22/tcp", "example.org:22"),
            ("example.org:", "example.org"),
            ("example.org:https", "example.org:443"),
            ("example.org:443,443", "example.org:443"),
            ("example.org:8000-8002", "example.org:8000,8001,8002"),
            (".example.org", "*.example.org"),
            ("*example.org", "*.example.org"),
            ("api-*.example.org:443", "*.example.org:443"),
            ("[example.org]:443", "example.org:443"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/8:443", "10.0.0.0/8:443"),
            ("2001:db8::1/32", "[2001:db8::]/32"),
        ] {
            assert_eq!(nearest(text).as_deref(), Some(meant), "{text}");
        }
        for nothing in ["", "/", "::::", "a\0b", "example.org:1-60000", "://"] {
            assert_eq!(nearest(nothing), None, "{nothing}");
        }
    }
}
