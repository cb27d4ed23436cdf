//! Addresses that a name must not lead to, unless the profile opens them.
//!
//! A public name may resolve to anything, today or a second from now: to the machine itself, to the
//! private network around it, to a cloud's metadata service. What is not plainly a public unicast
//! address is *special* and refused (IANA special-purpose address registries, RFC 6890).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What an address is if it is not plainly public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Special {
    /// The machine itself.
    Loopback,
    /// A private network (RFC 1918, RFC 4193).
    Private,
    /// The link (RFC 3927, RFC 4291), where clouds keep their metadata services.
    LinkLocal,
    /// A carrier's network (RFC 6598).
    Shared,
    /// Reserved for documentation (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// Reserved for benchmarks (RFC 2544, RFC 5180); Toolcell's own inside cells.
    Benchmarking,
    /// Many receivers, or all.
    Multicast,
    /// "This" network, unspecified, or reserved for protocols and the future.
    Reserved,
}

impl Special {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Loopback,
        Self::Private,
        Self::LinkLocal,
        Self::Shared,
        Self::Documentation,
        Self::Benchmarking,
        Self::Multicast,
        Self::Reserved,
    ];

    /// The word for it in `network.allow_addresses`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link_local",
            Self::Shared => "shared",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
        }
    }

    /// Whether a profile may open it: nobody serves at the others.
    #[must_use]
    pub fn can_be_opened(self) -> bool {
        !matches!(self, Self::Multicast | Self::Reserved)
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

const V4: [(&str, Special); 17] = [
    ("0.0.0.0/8", Special::Reserved),
    ("10.0.0.0/8", Special::Private),
    ("100.64.0.0/10", Special::Shared),
    ("127.0.0.0/8", Special::Loopback),
    ("169.254.0.0/16", Special::LinkLocal),
    ("172.16.0.0/12", Special::Private),
    ("192.0.0.0/24", Special::Reserved),
    ("192.0.2.0/24", Special::Documentation),
    ("192.31.196.0/24", Special::Reserved),
    ("192.52.193.0/24", Special::Reserved),
    ("192.88.99.0/24", Special::Reserved),
    ("192.168.0.0/16", Special::Private),
    ("192.175.48.0/24", Special::Reserved),
    ("198.18.0.0/15", Special::Benchmarking),
    ("198.51.100.0/24", Special::Documentation),
    ("203.0.113.0/24", Special::Documentation),
    ("224.0.0.0/4", Special::Multicast),
];

/// What an address is, if it is not plainly a public unicast address.
///
/// An IPv6 address that carries an IPv4 one (mapped, compatible, NAT64, 6to4, Teredo) is never
/// plainly public: who relays it decides where it leads.
#[must_use]
pub fn special(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    if address.octets()[0] >= 240 {
        return Some(Special::Reserved);
    }
    V4.iter()
        .find(|(range, _)| {
            let range: Ipv4Net = range.parse().expect("the table holds ranges");
            range.contains(&address)
        })
        .map(|(_, special)| *special)
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if address.is_loopback() {
        return Some(Special::Loopback);
    }
    if let Some(carried) = address.to_ipv4_mapped() {
        // The kernel connects to the IPv4 address.
        return Some(special_v4(carried).unwrap_or(Special::Reserved));
    }
    let within = |range: &str| {
        let range: Ipv6Net = range.parse().expect("a range");
        range.contains(&address)
    };
    if within("fc00::/7") {
        Some(Special::Private)
    } else if within("fe80::/10") {
        Some(Special::LinkLocal)
    } else if within("ff00::/8") {
        Some(Special::Multicast)
    } else if within("2001:db8::/32") || within("3fff::/20") {
        Some(Special::Documentation)
    } else if within("2001:2::/48") {
        Some(Special::Benchmarking)
    } else if within("2000::/3") && !within("2002::/16") && !within("2001::/23") {
        None
    } else {
        // Unspecified, compatible, NAT64, 6to4, Teredo and other protocols' assignments, site-local,
        // discard-only, SRv6, and whatever is not yet assigned.
        Some(Special::Reserved)
    }
}

/// What makes a range one that no entry of `network.allow` can list: addresses at which nobody serves,
/// or which are the cell's own within it.
#[must_use]
pub fn unlistable(range: IpNet) -> Option<Special> {
    let never = |kind: Special| {
        !kind.can_be_opened() || matches!(kind, Special::Loopback | Special::Benchmarking)
    };
    match range {
        IpNet::V4(v4) => {
            let future: Ipv4Net = "240.0.0.0/4".parse().expect("a range");
            let table = V4.iter().map(|(range, kind)| {
                let range: Ipv4Net = range.parse().expect("the table holds ranges");
                (range, *kind)
            });
            table
                .chain([(future, Special::Reserved)])
                .find(|(other, kind)| never(*kind) && (v4.contains(other) || other.contains(&v4)))
                .map(|(_, kind)| kind)
        }
        IpNet::V6(v6) => {
            let ends = [v6.network(), v6.broadcast()].map(special_v6);
            if let Some(kind) = ends.into_iter().flatten().find(|kind| never(*kind)) {
                return Some(kind);
            }
            // Teredo and its like, and 6to4, within what is otherwise public.
            let carriers = ["2001::/23", "2002::/16"].map(|range| range.parse().expect("a range"));
            let carries = carriers
                .iter()
                .any(|carrier: &Ipv6Net| v6.contains(carrier));
            let mixed = ends[0] != ends[1];
            (carries || mixed).then_some(Special::Reserved)
        }
    }
}

/// One entry of `network.allow_addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Opened {
    /// A word such as `private`: all of that kind.
    Kind(Special),
    /// A range within one kind.
    Range(IpNet),
}

impl Opened {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it: a range that is none, that is public anyway, or that spans more than
    /// one kind, so that it would open what its author did not think of.
    pub fn read(text: &str) -> Result<Self, String> {
        let kind = Special::ALL.into_iter().find(|kind| kind.word() == text);
        if let Some(kind) = kind {
            return openable(kind).map(|()| Self::Kind(kind));
        }
        let range = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .filter(|range| range.addr() == range.network())
            .ok_or_else(|| {
                let words = Special::ALL.into_iter().filter(|kind| kind.can_be_opened());
                let words: Vec<_> = words.map(Special::word).collect();
                format!(
                    "is no range such as `10.0.0.0/8` and none of {}",
                    words.join(", ")
                )
            })?;
        let first = special(range.network());
        let last = special(range.broadcast());
        match (first, last) {
            (Some(first), Some(last)) if first == last => {
                openable(first).map(|()| Self::Range(range))
            }
            (None, None) if range.prefix_len() > 8 => {
                Err("is public: names may lead there without it".to_owned())
            }
            _ => Err("spans more than one kind of address: list each range".to_owned()),
        }
    }

    /// Whether it opens a special address.
    #[must_use]
    pub fn opens(&self, address: IpAddr) -> bool {
        // A mapped address is the IPv4 address that the kernel connects to.
        let address = address.to_canonical();
        match self {
            Self::Kind(kind) => special(address) == Some(*kind),
            Self::Range(range) => range.contains(&address),
        }
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "{kind}"),
            Self::Range(range) if range.prefix_len() == range.max_prefix_len() => {
                write!(f, "{}", range.addr())
            }
            Self::Range(range) => write!(f, "{range}"),
        }
    }
}

fn openable(kind: Special) -> Result<(), String> {
    if kind.can_be_opened() {
        Ok(())
    } else {
        Err(format!("is {kind}, where nobody serves"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata services of clouds; Alibaba's is in the shared range, Oracle's in the protocols'.
    const METADATA: [&str; 4] = [
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
    ];

    fn of(text: &str) -> Option<Special> {
        special(text.parse().expect("an address"))
    }

    #[test]
    fn what_is_not_public_is_special() {
        for (text, kind) in [
            ("127.0.0.1", Special::Loopback),
            ("127.255.255.254", Special::Loopback),
            ("::1", Special::Loopback),
            ("::ffff:127.0.0.1", Special::Loopback),
            ("10.0.0.1", Special::Private),
            ("172.31.255.255", Special::Private),
            ("192.168.1.1", Special::Private),
            ("fd12:3456::1", Special::Private),
            ("::ffff:10.0.0.1", Special::Private),
            ("169.254.169.254", Special::LinkLocal),
            ("fe80::1", Special::LinkLocal),
            ("100.64.0.1", Special::Shared),
            ("100.100.100.200", Special::Shared),
            ("192.0.2.1", Special::Documentation),
            ("2001:db8::1", Special::Documentation),
            ("198.18.0.1", Special::Benchmarking),
            ("224.0.0.1", Special::Multicast),
            ("ff02::1", Special::Multicast),
            ("0.0.0.0", Special::Reserved),
            ("0.1.2.3", Special::Reserved),
            ("::", Special::Reserved),
            ("240.0.0.1", Special::Reserved),
            ("255.255.255.255", Special::Reserved),
            ("::ffff:8.8.8.8", Special::Reserved),
            ("::8.8.8.8", Special::Reserved),
            ("64:ff9b::808:808", Special::Reserved),
            ("64:ff9b:1::1", Special::Reserved),
            ("2002:808:808::1", Special::Reserved),
            ("2001::1", Special::Reserved),
            ("fec0::1", Special::Reserved),
            ("100::1", Special::Reserved),
        ] {
            assert_eq!(of(text), Some(kind), "{text}");
        }
        for text in METADATA {
            assert!(of(text).is_some(), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_not() {
        for text in [
            "8.8.8.8",
            "93.184.215.14",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn an_opening_opens_what_it_says() {
        let read = |text: &str| Opened::read(text).expect("an opening");
        let address = |text: &str| text.parse().expect("an address");
        assert!(read("private").opens(address("10.1.2.3")));
        assert!(!read("private").opens(address("127.0.0.1")));
        assert!(read("10.0.0.0/8").opens(address("::ffff:10.1.2.3")));
        assert!(!read("10.0.0.0/8").opens(address("192.168.0.1")));
        assert!(read("127.0.0.1").opens(address("127.0.0.1")));
        assert!(!read("127.0.0.1").opens(address("127.0.0.2")));
    }

    #[test]
    fn what_cannot_be_listed_is_told() {
        let of = |text: &str| unlistable(text.parse().expect("a range"));
        for (text, kind) in [
            ("0.0.0.0/0", Special::Reserved),
            ("127.0.0.1/32", Special::Loopback),
            ("64.0.0.0/2", Special::Loopback),
            ("198.18.0.1/32", Special::Benchmarking),
            ("224.0.0.1/32", Special::Multicast),
            ("255.255.255.255/32", Special::Reserved),
            ("::/0", Special::Reserved),
            ("::1/128", Special::Loopback),
            ("::ffff:8.8.8.8/128", Special::Reserved),
            ("2000::/3", Special::Reserved),
            ("2000::/12", Special::Reserved),
            ("f000::/4", Special::Reserved),
        ] {
            assert_eq!(of(text), Some(kind), "{text}");
        }
        for text in [
            "8.8.8.8/32",
            "10.0.0.0/8",
            "169.254.169.254/32",
            "192.0.2.0/24",
            "2606:4700::/32",
            "fc00::/7",
            "fe80::/10",
            "2001:db8::/32",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn an_opening_that_says_too_much_is_refused() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "multicast",
            "reserved",
            "8.8.8.0/24",
            "10.0.0.1/8",
            "all",
            "",
        ] {
            assert!(Opened::read(text).is_err(), "{text}");
        }
    }
}
