//! All entries of a profile, compiled: what a cell's sockets stand for, and what is admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::addresses::{Opened, Special, special};
use super::entry::{Entry, Protocol, Target};
use super::name::Name;

/// Where the cell's resolver answers. Every address of a cell is its own, so any would do.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where names that are listed get their addresses, one after the other (RFC 2544: no public host).
const NAMES_FROM: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// Where names beneath a wildcard get theirs.
const POOL_FROM: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Most sockets that stand for hosts in one cell: they travel in one message with three others, and
/// the kernel passes at most 253 (unix(7), SCM_RIGHTS).
pub const SOCKETS_MAX: usize = 240;
/// Most different names beneath wildcards in one call.
pub const POOL_NAMES_MAX: usize = 64;
/// Fewest that a profile with wildcards must have room for.
pub const POOL_MIN: usize = 8;

/// An entry, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The entry.
    pub entry: Entry,
    /// File, line and column, for messages.
    pub place: String,
}

/// What one profile's cells may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    opened: Vec<Opened>,
    allow_no_sni: bool,
    hosts: BTreeMap<Name, Ipv4Addr>,
    sockets: Vec<PlannedSocket>,
}

/// A TCP socket in the cell's network namespace, bound there and handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSocket {
    /// Where it is bound.
    pub address: SocketAddr,
    /// What it stands for.
    pub role: Role,
}

impl PlannedSocket {
    /// Whether it listens from the beginning; one of the pool does when a name gets its address.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.role != Role::Pool
    }
}

/// What a socket of a cell stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A listed name.
    Name(Name),
    /// Whichever name beneath a wildcard gets the address.
    Pool,
    /// The address itself, which is listed.
    Address,
    /// Every address: a listed range has this port. What is connected to says which.
    Range,
}

/// Why entries cannot become a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There are more pairs of host and port than a cell has sockets.
    #[error(
        "`network.allow` needs {0} sockets, more than {SOCKETS_MAX} (one for each host and port, and {POOL_MIN} for each port of a wildcard)"
    )]
    TooMany(usize),
}

/// What the resolver says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It has this address in every cell of the profile.
    Known(Ipv4Addr),
    /// It lies beneath a wildcard, and gets an address of the pool.
    Pooled,
    /// It does not exist for the cell.
    Refused(Refusal),
}

/// Why something is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// An entry of `network.deny` covers it; the entry, and where it stands.
    Denied(Rule),
    /// No entry of `network.allow` covers the host.
    Host,
    /// Entries cover the host, but not the port.
    Port,
    /// A name led to a special address that is not opened.
    Special(Special),
}

/// What a connection is admitted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// What is checked of its bytes.
    pub protocol: Protocol,
    /// It is for a service on the machine's own loopback.
    pub machine: bool,
}

impl Plan {
    /// Compiles entries; without any, nothing is admitted.
    ///
    /// # Errors
    /// If they need more sockets than a cell has.
    pub fn new(
        allow: Vec<Rule>,
        deny: Vec<Rule>,
        opened: Vec<Opened>,
        allow_no_sni: bool,
    ) -> Result<Self, PlanError> {
        let mut plan = Self {
            allow,
            deny,
            opened,
            allow_no_sni,
            hosts: BTreeMap::new(),
            sockets: Vec::new(),
        };
        plan.assign_names();
        plan.assign_addresses();
        plan.assign_pool()?;
        Ok(plan)
    }

    /// Gives each listed name an address, and a socket for each port that it may be reached by.
    fn assign_names(&mut self) {
        let names: BTreeSet<Name> = self
            .allow
            .iter()
            .filter_map(|rule| match &rule.entry.target {
                Target::Name(name) | Target::Machine(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        for (index, name) in names.into_iter().enumerate() {
            let ports: BTreeSet<u16> = self
                .allow
                .iter()
                .filter(|rule| rule.entry.covers(&name))
                .flat_map(|rule| rule.entry.ports.iter().copied())
                .filter(|port| self.admit(&name, *port).is_ok())
                .collect();
            if ports.is_empty() {
                continue;
            }
            let address = nth(NAMES_FROM, index);
            self.hosts.insert(name.clone(), address);
            self.sockets
                .extend(ports.into_iter().map(|port| PlannedSocket {
                    address: SocketAddr::from((address, port)),
                    role: Role::Name(name.clone()),
                }));
        }
    }

    /// A socket for each listed address and port, and one for each port of a listed range.
    fn assign_addresses(&mut self) {
        let mut sockets = BTreeMap::new();
        for rule in &self.allow {
            let Target::Addresses(range) = rule.entry.target else {
                continue;
            };
            for port in &rule.entry.ports {
                let single = range.prefix_len() == range.max_prefix_len();
                let (address, role) = if single {
                    (range.addr(), Role::Address)
                } else {
                    (unspecified(range), Role::Range)
                };
                sockets.insert(SocketAddr::from((address, *port)), role);
            }
        }
        self.sockets.extend(
            sockets
                .into_iter()
                .map(|(address, role)| PlannedSocket { address, role }),
        );
    }

    /// As many addresses for names beneath wildcards as there is room for.
    fn assign_pool(&mut self) -> Result<(), PlanError> {
        let ports: BTreeSet<u16> = self
            .allow
            .iter()
            .filter(|rule| matches!(rule.entry.target, Target::Beneath(_) | Target::Any))
            .flat_map(|rule| rule.entry.ports.iter().copied())
            .collect();
        let least = self.sockets.len() + ports.len() * POOL_MIN;
        if least > SOCKETS_MAX {
            return Err(PlanError::TooMany(least));
        }
        if ports.is_empty() {
            return Ok(());
        }
        let room = (SOCKETS_MAX - self.sockets.len()) / ports.len();
        for index in 0..room.min(POOL_NAMES_MAX) {
            let address = nth(POOL_FROM, index);
            self.sockets.extend(ports.iter().map(|port| PlannedSocket {
                address: SocketAddr::from((address, *port)),
                role: Role::Pool,
            }));
        }
        Ok(())
    }

    /// The cell's sockets, in the order in which they are handed out.
    #[must_use]
    pub fn sockets(&self) -> &[PlannedSocket] {
        &self.sockets
    }

    /// Whether nothing can be reached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty()
    }

    /// Whether a TLS client may leave out the server's name.
    #[must_use]
    pub fn allows_no_sni(&self) -> bool {
        self.allow_no_sni
    }

    /// What the resolver says of a name.
    #[must_use]
    pub fn look_up(&self, name: &Name) -> Lookup {
        let whole = |rule: &&Rule| rule.entry.ports.is_empty() && rule.entry.covers(name);
        if let Some(rule) = self.deny.iter().find(whole) {
            return Lookup::Refused(Refusal::Denied(rule.clone()));
        }
        if let Some(address) = self.hosts.get(name) {
            return Lookup::Known(*address);
        }
        let wild = |entry: &Entry| matches!(entry.target, Target::Beneath(_) | Target::Any);
        let mut covering = self.allow.iter().filter(|rule| rule.entry.covers(name));
        if covering.any(|rule| wild(&rule.entry)) {
            Lookup::Pooled
        } else {
            // A name that is listed with ports which are all denied has no address either.
            Lookup::Refused(Refusal::Host)
        }
    }

    /// Whether a name may be reached by a port. Denials come first.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&self, name: &Name, port: u16) -> Result<Admission, Refusal> {
        let covering = |rule: &&Rule| rule.entry.covers(name);
        self.decide(port, covering)
    }

    /// Whether an address may be reached by a port without a name.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit_address(&self, address: IpAddr, port: u16) -> Result<Admission, Refusal> {
        let address = address.to_canonical();
        let admission = self.decide(port, |rule| rule.entry.covers_address(address))?;
        let Some(kind) = special(address) else {
            return Ok(admission);
        };
        // A range that spans more than one kind does not open what its author did not think of, and
        // the cell's own loopback is nobody else's.
        let named = self.allow.iter().any(|rule| match rule.entry.target {
            Target::Addresses(range) => {
                range.contains(&address)
                    && special(range.network()) == Some(kind)
                    && special(range.broadcast()) == Some(kind)
            }
            _ => false,
        });
        let opened = named || self.opened.iter().any(|opened| opened.opens(address));
        if opened && kind.can_be_opened() && kind != Special::Loopback {
            Ok(admission)
        } else {
            Err(Refusal::Special(kind))
        }
    }

    /// The listed name that has an address.
    #[must_use]
    pub fn name_at(&self, address: Ipv4Addr) -> Option<&Name> {
        let mut hosts = self.hosts.iter();
        hosts
            .find(|(_, own)| **own == address)
            .map(|(name, _)| name)
    }

    /// Whether a name is listed for a service of the machine's own.
    #[must_use]
    pub fn is_of_the_machine(&self, name: &Name) -> bool {
        let is = |target: &Target| matches!(target, Target::Machine(own) if own == name);
        self.allow.iter().any(|rule| is(&rule.entry.target))
    }

    fn decide(&self, port: u16, covers: impl Fn(&&Rule) -> bool) -> Result<Admission, Refusal> {
        let denied = self.deny.iter().filter(&covers);
        if let Some(rule) = { denied }.find(|rule| rule.entry.covers_port(port)) {
            return Err(Refusal::Denied(rule.clone()));
        }
        let mut covering = self.allow.iter().filter(&covers).peekable();
        if covering.peek().is_none() {
            return Err(Refusal::Host);
        }
        let by_port: Vec<_> = covering
            .filter(|rule| rule.entry.covers_port(port))
            .collect();
        if by_port.is_empty() {
            return Err(Refusal::Port);
        }
        let any = |test: fn(&Entry) -> bool| by_port.iter().any(|rule| test(&rule.entry));
        Ok(Admission {
            protocol: if any(|entry| entry.protocol == Protocol::Tcp) {
                Protocol::Tcp
            } else {
                Protocol::Web
            },
            machine: any(|entry| matches!(entry.target, Target::Machine(_))),
        })
    }

    /// Whether a name may lead to an address: to a public one, or to one that is opened. A denied
    /// range is denied by any name.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit_resolved(&self, address: IpAddr, port: u16) -> Result<(), Refusal> {
        let canonical = address.to_canonical();
        let denied = self
            .deny
            .iter()
            .find(|rule| rule.entry.covers_address(canonical) && rule.entry.covers_port(port));
        if let Some(rule) = denied {
            return Err(Refusal::Denied(rule.clone()));
        }
        match special(address) {
            None => Ok(()),
            Some(_) if self.opened.iter().any(|opened| opened.opens(address)) => Ok(()),
            Some(kind) => Err(Refusal::Special(kind)),
        }
    }
}

fn nth(from: Ipv4Addr, index: usize) -> Ipv4Addr {
    let index = u32::try_from(index).expect("there are far fewer sockets than addresses");
    Ipv4Addr::from(u32::from(from) + index)
}

fn unspecified(range: IpNet) -> IpAddr {
    match range {
        IpNet::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(allow: &[&str], deny: &[&str], opened: &[&str]) -> Plan {
        let rules = |list: &[&str], read: fn(&str) -> Result<Entry, super::super::EntryError>| {
            let rule = |text: &&str| Rule {
                entry: read(text).expect("an entry"),
                place: String::new(),
            };
            list.iter().map(rule).collect()
        };
        let opened = opened
            .iter()
            .map(|text| Opened::read(text).expect("an opening"));
        Plan::new(
            rules(allow, Entry::allow),
            rules(deny, Entry::deny),
            opened.collect(),
            false,
        )
        .expect("a plan")
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn an_empty_plan_admits_nothing() {
        let plan = plan(&[], &[], &[]);
        assert_eq!(
            plan.look_up(&name("example.org")),
            Lookup::Refused(Refusal::Host)
        );
        assert_eq!(plan.admit(&name("example.org"), 443), Err(Refusal::Host));
        assert!(plan.admit_address(IpAddr::from([8, 8, 8, 8]), 443).is_err());
        assert!(plan.sockets().is_empty());
    }

    #[test]
    fn a_listed_name_has_an_address_and_its_ports() {
        let plan = plan(
            &["example.org", "example.org:8443", "*.org:9000/tcp"],
            &["example.org:80"],
            &[],
        );
        let Lookup::Known(address) = plan.look_up(&name("example.org")) else {
            panic!("not known");
        };
        let ports = plan
            .sockets()
            .iter()
            .filter(|socket| socket.address.ip() == address);
        let ports: Vec<_> = ports.map(|socket| socket.address.port()).collect();
        assert_eq!(ports, [443, 8443, 9000]);
        assert_eq!(
            plan.admit(&name("example.org"), 9000).map(|a| a.protocol),
            Ok(Protocol::Tcp)
        );
        assert!(matches!(
            plan.admit(&name("example.org"), 80),
            Err(Refusal::Denied(_))
        ));
        assert_eq!(plan.admit(&name("example.org"), 22), Err(Refusal::Port));
    }

    #[test]
    fn wildcards_share_a_pool_and_denials_come_first() {
        let plan = plan(
            &["*.example.org"],
            &["secret.example.org", "*.deep.example.org"],
            &[],
        );
        assert_eq!(plan.look_up(&name("a.example.org")), Lookup::Pooled);
        assert_eq!(
            plan.look_up(&name("example.org")),
            Lookup::Refused(Refusal::Host)
        );
        for denied in ["secret.example.org", "x.deep.example.org"] {
            let looked_up = plan.look_up(&name(denied));
            assert!(
                matches!(looked_up, Lookup::Refused(Refusal::Denied(_))),
                "{denied}"
            );
        }
        let pooled = plan
            .sockets()
            .iter()
            .filter(|socket| socket.role == Role::Pool);
        assert_eq!(pooled.count(), 2 * POOL_NAMES_MAX);
    }

    #[test]
    fn names_do_not_lead_to_special_addresses_unless_opened() {
        let closed = plan(&["a.org"], &[], &[]);
        let open = plan(&["a.org"], &["10.9.0.0/16"], &["10.0.0.0/8"]);
        let admit = |plan: &Plan, text: &str| plan.admit_resolved(text.parse().expect("one"), 443);
        assert_eq!(admit(&closed, "8.8.8.8"), Ok(()));
        assert_eq!(
            admit(&closed, "10.0.0.1"),
            Err(Refusal::Special(Special::Private))
        );
        assert_eq!(admit(&open, "10.0.0.1"), Ok(()));
        assert_eq!(admit(&open, "::ffff:10.0.0.1"), Ok(()));
        assert!(matches!(admit(&open, "10.9.0.1"), Err(Refusal::Denied(_))));
        assert_eq!(
            admit(&open, "127.0.0.1"),
            Err(Refusal::Special(Special::Loopback))
        );
    }

    #[test]
    fn addresses_and_ranges_have_sockets() {
        let plan = plan(
            &["192.0.2.7:5432/tcp", "10.0.0.0/8:443", "[2001:db8::1]:443"],
            &[],
            &[],
        );
        let sockets: Vec<_> = plan
            .sockets()
            .iter()
            .map(|s| (s.address.to_string(), s.role.clone()))
            .collect();
        assert!(sockets.contains(&("192.0.2.7:5432".into(), Role::Address)));
        assert!(sockets.contains(&("0.0.0.0:443".into(), Role::Range)));
        assert!(sockets.contains(&("[2001:db8::1]:443".into(), Role::Address)));
        assert!(plan.admit_address(IpAddr::from([10, 1, 2, 3]), 443).is_ok());
        assert_eq!(
            plan.admit_address(IpAddr::from([10, 1, 2, 3]), 80),
            Err(Refusal::Port)
        );
        assert_eq!(
            plan.admit_address(IpAddr::from([11, 1, 2, 3]), 443),
            Err(Refusal::Host)
        );
    }

    #[test]
    fn a_wide_range_does_not_open_special_addresses() {
        let plan = plan(&["0.0.0.0/0:443", "10.1.0.0/16:443"], &[], &[]);
        assert!(plan.admit_address(IpAddr::from([8, 8, 8, 8]), 443).is_ok());
        assert!(plan.admit_address(IpAddr::from([10, 1, 2, 3]), 443).is_ok());
        for address in [
            [10, 2, 2, 3],
            [127, 0, 0, 1],
            [169, 254, 169, 254],
            [192, 168, 0, 1],
        ] {
            let refused = plan.admit_address(IpAddr::from(address), 443);
            assert!(matches!(refused, Err(Refusal::Special(_))), "{address:?}");
        }
    }

    #[test]
    fn too_many_are_refused() {
        let names: Vec<_> = (0..130).map(|n| format!("n{n}.org")).collect();
        let names: Vec<_> = names
            .iter()
            .map(|name| Rule {
                entry: Entry::allow(name).expect("one"),
                place: String::new(),
            })
            .collect();
        assert_eq!(
            Plan::new(names, vec![], vec![], false),
            Err(PlanError::TooMany(260))
        );
    }
}
