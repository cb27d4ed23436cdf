//! How two entries relate: whether one takes anything, or everything, from another.

use ipnet::IpNet;

use super::entry::{Entry, Target};

impl Entry {
    /// Whether a denial takes anything from an allowed entry.
    #[must_use]
    pub fn touches(&self, allowed: &Self) -> bool {
        let ports = self.ports.is_empty()
            || allowed.ports.is_empty()
            || self.ports.iter().any(|port| allowed.covers_port(*port));
        ports && self.target.touches(&allowed.target)
    }

    /// The ports of an allowed entry that a denial leaves it, of those in `ports`.
    #[must_use]
    pub fn leaves(&self, allowed: &Self, ports: &[u16]) -> Vec<u16> {
        let spared = |port: &&u16| !self.target.spans(&allowed.target) || !self.covers_port(**port);
        ports.iter().filter(spared).copied().collect()
    }
}

impl Target {
    fn touches(&self, allowed: &Self) -> bool {
        match (self, allowed) {
            (Self::Addresses(denied), Self::Addresses(allowed)) => overlap(*denied, *allowed),
            // A denied range is denied by any name that leads there; a service of the machine has
            // no address that a name leads to.
            (Self::Addresses(_), allowed) => !matches!(allowed, Self::Machine(_)),
            (_, Self::Addresses(_)) => false,
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Beneath(denied), Self::Beneath(allowed)) => {
                denied == allowed || denied.is_beneath(allowed) || allowed.is_beneath(denied)
            }
            (Self::Beneath(suffix), Self::Name(name) | Self::Machine(name))
            | (Self::Name(name) | Self::Machine(name), Self::Beneath(suffix)) => {
                name.is_beneath(suffix)
            }
            (Self::Name(one) | Self::Machine(one), Self::Name(other) | Self::Machine(other)) => {
                one == other
            }
        }
    }

    /// Whether everything that `allowed` names is also named here.
    fn spans(&self, allowed: &Self) -> bool {
        match (self, allowed) {
            (Self::Addresses(denied), Self::Addresses(allowed)) => denied.contains(allowed),
            (Self::Any, allowed) => !matches!(allowed, Self::Addresses(_)),
            (Self::Beneath(denied), Self::Beneath(allowed)) => {
                denied == allowed || allowed.is_beneath(denied)
            }
            (Self::Beneath(suffix), Self::Name(name) | Self::Machine(name)) => {
                name.is_beneath(suffix)
            }
            (Self::Name(one) | Self::Machine(one), Self::Name(other) | Self::Machine(other)) => {
                one == other
            }
            _ => false,
        }
    }
}

/// Whether two ranges have an address in common: then one holds the other.
pub(super) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(denied: &str, allowed: &str) -> (bool, Vec<u16>) {
        let denied = Entry::deny(denied).expect("an entry");
        let allowed = Entry::allow(allowed).expect("an entry");
        let left = denied.leaves(&allowed, &allowed.ports);
        (denied.touches(&allowed), left)
    }

    #[test]
    fn a_denial_takes_everything_a_part_or_nothing() {
        for (denied, allowed) in [
            ("a.org", "a.org"),
            ("a.org:443,80,22", "a.org"),
            ("*.org", "a.org"),
            ("*.org", "*.a.org"),
            ("*", "*"),
            ("*", "host:db.internal:5432"),
            ("10.0.0.0/8", "10.1.0.0/16:443"),
        ] {
            let (touches, left) = relation(denied, allowed);
            assert!(touches && left.is_empty(), "{denied} {allowed}: {left:?}");
        }
        for (denied, allowed) in [
            ("a.org:80", "a.org"),
            ("x.a.org", "*.a.org"),
            ("*.x.a.org", "*.a.org"),
            ("a.org", "*"),
            ("10.0.0.0/8", "a.org"),
            ("10.1.0.0/16", "10.0.0.0/8:443"),
        ] {
            let (touches, left) = relation(denied, allowed);
            assert!(touches && !left.is_empty(), "{denied} {allowed}");
        }
        for (denied, allowed) in [
            ("b.org", "a.org"),
            ("a.org:22", "a.org"),
            ("a.org", "*.a.org"),
            ("*.a.org", "a.org"),
            ("*", "10.0.0.0/8:443"),
            ("10.0.0.0/8", "11.0.0.0/8:443"),
            ("10.0.0.0/8", "host:db.internal:5432"),
        ] {
            let (touches, left) = relation(denied, allowed);
            assert!(!touches && !left.is_empty(), "{denied} {allowed}");
        }
    }
}
