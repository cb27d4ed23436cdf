//! What holds for all entries of `[network]` and all plans that are made of them, tried with many.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::net::IpAddr;

use profiles::egress::{
    Entry, Lookup, Name, Opened, Plan, Protocol, Refusal, Role, Rule, SOCKETS_MAX, Target, nearest,
    special,
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn an_entry_reads_back_as_it_is_shown(text in entry()) {
        let read = Entry::allow(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(Entry::allow(&read.to_string()), Ok(read.clone()));
        let denied = Entry::deny(&text).unwrap();
        prop_assert_eq!(Entry::deny(&denied.to_string()), Ok(denied));
    }

    #[test]
    fn an_opening_reads_back_as_it_is_shown(text in opening()) {
        let read = Opened::read(&text).unwrap();
        prop_assert_eq!(Opened::read(&read.to_string()), Ok(read));
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "\\PC{0,60}") {
        let _ = Entry::allow(&text);
        let _ = Entry::deny(&text);
        let _ = Opened::read(&text);
        let _ = nearest(&text);
    }

    #[test]
    fn what_is_proposed_is_an_entry(text in "[a-z0-9:/.*@,\\[\\] -]{0,30}") {
        if let Some(meant) = nearest(&text) {
            prop_assert!(Entry::allow(&meant).is_ok(), "{} for {}", meant, text);
        }
    }

    #[test]
    fn nothing_is_admitted_that_no_entry_covers(plan in rules(), name in name(), port in port()) {
        let (allow, deny) = plan;
        let Some(plan) = made(&allow, &deny) else { return Ok(()) };
        let name = Name::parse(&name).unwrap();
        let covered = |rules: &[Rule]| rules
            .iter()
            .any(|rule| rule.entry.covers(&name) && rule.entry.covers_port(port));
        let admitted = plan.admit(&name, port);
        prop_assert_eq!(admitted.is_ok(), covered(&allow) && !covered(&deny));
        // A name that may be reached by any port has an address, and no other has.
        let reachable = allow
            .iter()
            .flat_map(|rule| &rule.entry.ports)
            .any(|port| plan.admit(&name, *port).is_ok());
        match plan.look_up(&name) {
            Lookup::Refused(_) => prop_assert!(!reachable, "{}", name),
            Lookup::Known(_) => prop_assert!(reachable, "{}", name),
            // An address of the pool is given whatever the port; a port that is denied is denied.
            Lookup::Pooled => {}
        }
    }

    #[test]
    fn a_denial_wins(plan in rules(), name in name(), port in port()) {
        let (allow, mut deny) = plan;
        let name = Name::parse(&name).unwrap();
        deny.push(rule(&format!("{name}:{port}"), Entry::deny));
        let Some(plan) = made(&allow, &deny) else { return Ok(()) };
        prop_assert!(matches!(plan.admit(&name, port), Err(Refusal::Denied(_))));
        let mut everything = deny.clone();
        everything.push(rule("*", Entry::deny));
        let plan = made(&allow, &everything).unwrap();
        prop_assert!(matches!(plan.look_up(&name), Lookup::Refused(Refusal::Denied(_))));
    }

    #[test]
    fn an_address_is_admitted_only_by_an_entry_for_it(
        plan in rules(), address in any::<[u8; 4]>(), port in port(),
    ) {
        let (allow, deny) = plan;
        let Some(plan) = made(&allow, &deny) else { return Ok(()) };
        let address = IpAddr::from(address);
        let covered = |rules: &[Rule]| rules
            .iter()
            .any(|rule| rule.entry.covers_address(address) && rule.entry.covers_port(port));
        let listed = covered(&allow) && !covered(&deny);
        match plan.admit_address(address, port) {
            Ok(_) => prop_assert!(listed),
            // A range may be wider than what its author thought of.
            Err(Refusal::Special(_)) => prop_assert!(listed && special(address).is_some()),
            Err(_) => prop_assert!(!listed),
        }
    }

    #[test]
    fn no_name_leads_to_a_special_address_that_is_not_opened(
        address in any::<[u8; 4]>(), opening in opening(), port in port(),
    ) {
        let opened = Opened::read(&opening).unwrap();
        let allow = vec![rule("*", Entry::allow)];
        let plan = Plan::new(allow, vec![], vec![opened], false).unwrap();
        let address = IpAddr::from(address);
        let may = special(address).is_none() || opened.opens(address);
        prop_assert_eq!(plan.admit_resolved(address, port).is_ok(), may);
    }

    #[test]
    fn every_socket_stands_for_something_that_is_admitted(plan in rules()) {
        let (allow, deny) = plan;
        let Some(plan) = made(&allow, &deny) else { return Ok(()) };
        prop_assert!(plan.sockets().len() <= SOCKETS_MAX);
        let mut seen = std::collections::BTreeSet::new();
        for socket in plan.sockets() {
            prop_assert!(seen.insert(socket.address), "{} twice", socket.address);
            if let Role::Name(name) = &socket.role {
                prop_assert_eq!(plan.look_up(name), Lookup::Known(match socket.address.ip() {
                    IpAddr::V4(address) => address,
                    IpAddr::V6(_) => unreachable!("names have IPv4 addresses"),
                }));
                prop_assert!(plan.admit(name, socket.address.port()).is_ok());
            }
        }
    }

    #[test]
    fn what_a_denial_leaves_is_what_is_still_admitted(
        denied in target(), allowed in target(), name in name(),
    ) {
        let (Ok(denied), Ok(allowed)) = (Entry::deny(&denied), Entry::allow(&allowed)) else {
            return Ok(());
        };
        let name = Name::parse(&name).unwrap();
        let left = denied.leaves(&allowed, &allowed.ports);
        if allowed.covers(&name) {
            let gone = |port: &&u16| denied.covers(&name) && denied.covers_port(**port);
            let taken = allowed.ports.iter().filter(gone).count();
            // Whatever is said to be denied wholly is denied for every name.
            if left.is_empty() {
                prop_assert_eq!(taken, allowed.ports.len());
            }
            prop_assert!(taken == 0 || denied.touches(&allowed));
        }
    }
}

#[test]
fn bytes_are_unchecked_only_where_an_entry_says_so() {
    let allow = [
        "*.example.org",
        "db.example.org:5432/tcp",
        "host:cache.internal:6379/tcp",
    ];
    let allow: Vec<_> = allow.iter().map(|text| rule(text, Entry::allow)).collect();
    let plan = made(&allow, &[]).unwrap();
    let protocol = |name: &str, port| {
        let admitted = plan.admit(&Name::parse(name).unwrap(), port);
        admitted.map(|admission| (admission.protocol, admission.machine))
    };
    assert_eq!(protocol("db.example.org", 443), Ok((Protocol::Web, false)));
    assert_eq!(protocol("db.example.org", 5432), Ok((Protocol::Tcp, false)));
    assert_eq!(protocol("a.example.org", 5432), Err(Refusal::Port));
    assert_eq!(protocol("cache.internal", 6379), Ok((Protocol::Tcp, true)));
    assert!(matches!(allow[2].entry.target, Target::Machine(_)));
}

fn rule(text: &str, read: fn(&str) -> Result<Entry, profiles::egress::EntryError>) -> Rule {
    Rule {
        entry: read(text).unwrap_or_else(|error| panic!("{text}: {error}")),
        place: String::new(),
    }
}

fn made(allow: &[Rule], deny: &[Rule]) -> Option<Plan> {
    Plan::new(allow.to_vec(), deny.to_vec(), vec![], false).ok()
}

/// Few enough names that entries meet.
fn name() -> impl Strategy<Value = String> {
    "([ab]\\.){0,2}(org|net)"
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(&[80_u16, 443, 8443, 5432][..])
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => name(),
        2 => name().prop_map(|name| format!("*.{name}")),
        1 => Just("*".to_owned()),
        1 => any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).to_string()),
        1 => any::<u8>().prop_map(|octet| format!("{octet}.0.0.0/8")),
    ]
}

fn entry() -> impl Strategy<Value = String> {
    let ports = prop::collection::btree_set(port(), 1..3);
    (target(), prop::option::of((ports, any::<bool>()))).prop_map(|(target, ports)| {
        let Some((ports, tcp)) = ports else {
            return target;
        };
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let tcp = if tcp { "/tcp" } else { "" };
        format!("{target}:{}{tcp}", ports.join(","))
    })
}

fn rules() -> impl Strategy<Value = (Vec<Rule>, Vec<Rule>)> {
    let list = |read: fn(&str) -> Result<Entry, profiles::egress::EntryError>| {
        let entries = prop::collection::vec(entry(), 0..5);
        entries.prop_map(move |texts| texts.iter().map(|text| rule(text, read)).collect())
    };
    (list(Entry::allow), list(Entry::deny))
}

fn opening() -> impl Strategy<Value = String> {
    let words = [
        "loopback",
        "private",
        "link_local",
        "shared",
        "documentation",
        "10.0.0.0/8",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}
