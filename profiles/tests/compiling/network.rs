//! What cells are given to reach hosts by name.

use std::net::IpAddr;

use profiles::egress::{Lookup, Name, RESOLVER, Refusal};
use profiles::{Host, Library, SourceFile, Tier};
use runner::spec::Network;

use super::*;

fn file_in(cell: &Compiled, path: &str) -> String {
    let found = cell.template.mounts.iter().find_map(|mount| match mount {
        Mount::File {
            target, contents, ..
        } if target == Path::new(path) => Some(String::from_utf8(contents.clone()).unwrap()),
        _ => None,
    });
    found.unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[test]
fn a_cell_without_hosts_has_no_resolver_and_no_sockets() {
    let cell = compiled("extends = [\"network\"]");
    assert_eq!(cell.template.network, Network::None);
    assert_eq!(cell.egress, None);
    assert_eq!(cell.template.landlock.handled_net, 3);
    assert!(!file_in(&cell, "/etc/resolv.conf").contains("nameserver"));
    // One that is not there is asked, so that the question is seen.
    assert!(file_in(&cell, "/etc/nsswitch.conf").contains("hosts: files dns files\n"));
}

#[test]
fn a_cell_with_hosts_has_a_resolver_and_the_plans_sockets_in_order() {
    let cell = compiled(
        "network.allow = [\"example.org\", \"*.example.org:443\", \"db.example.org:5432/tcp\", \
         \"192.0.2.7:443\"]\nnetwork.deny = [\"secret.example.org\"]",
    );
    let plan = cell.egress.as_ref().unwrap();
    let Network::Egress { sockets } = &cell.template.network else {
        panic!("{:?}", cell.template.network);
    };
    let planned: Vec<_> = plan
        .sockets()
        .iter()
        .map(|socket| (socket.address, socket.listens()))
        .collect();
    let ordered: Vec<_> = sockets
        .iter()
        .map(|socket| (socket.address, socket.listens))
        .collect();
    assert_eq!(ordered, planned);
    assert!(matches!(
        plan.look_up(&name("example.org")),
        Lookup::Known(_)
    ));
    assert!(
        plan.admit_address(IpAddr::from([192, 0, 2, 7]), 443)
            .is_ok()
    );
    // The place of the entry is there, for messages.
    let Err(Refusal::Denied(rule)) = plan.admit(&name("secret.example.org"), 443) else {
        panic!("it is denied");
    };
    assert_eq!(rule.place, "profiles/tool.toml:5:17");

    let resolv = format!("nameserver {RESOLVER}\n");
    assert_eq!(file_in(&cell, "/etc/resolv.conf"), resolv);
    assert!(file_in(&cell, "/etc/nsswitch.conf").contains("hosts: files dns\n"));
    // What leaves the cell is decided by name; Landlock knows only ports.
    assert_eq!(cell.template.landlock.handled_net, 0);
}

#[test]
fn explaining_changes_nothing_of_a_cell_that_reaches_nothing() {
    // Notifications say what was looked up.
    let (plain, explained) = (compiled(""), compiled("explain.paths = true"));
    assert_eq!(explained.egress, None);
    assert_eq!(explained.template.network, plain.template.network);
    assert_eq!(explained.template.landlock.handled_net, 3);
}

#[test]
fn every_tier_that_there_is_has_network_namespaces() {
    for tier in [Tier::Full, Tier::Rlimits] {
        let resolved = debian::resolve(&format!("{HEAD}network.allow = [\"a.org\"]")).unwrap();
        let host = Host {
            tier,
            ..debian::host(&resolved, Arch::X86_64, 7)
        };
        assert!(tier.has_network_namespace());
        compile(&resolved, &host).unwrap();
    }
}

#[test]
fn a_base_may_deny_in_general_and_a_profile_take_back_what_its_base_allows() {
    let base = "format = 1\nname = \"company\"\nnetwork.allow = [\"api.example.org\"]\n";
    let general = "format = 1\nname = \"general\"\nnetwork.deny = [\"*.internal\"]\n";
    let resolve = |text: &str| {
        let mut library = Library::builtin();
        for (name, text) in [("company", base), ("general", general), ("tool", text)] {
            let name = format!("{name}.toml");
            let text = text.to_owned();
            library.add(SourceFile { name, text }).unwrap();
        }
        library.resolve("tool", &Overrides::default())
    };
    let head = "format = 1\nname = \"tool\"\n";
    resolve(&format!(
        "{head}extends = [\"general\"]\nnetwork.allow = [\"example.org\"]"
    ))
    .unwrap();
    resolve(&format!(
        "{head}extends = [\"company\"]\nnetwork.allow = [\"a.org\"]\nnetwork.deny = \
         [\"api.example.org\"]"
    ))
    .unwrap();
    // What is allowed against the base's denial would be without effect.
    let error = resolve(&format!(
        "{head}extends = [\"general\"]\nnetwork.allow = [\"db.internal\"]"
    ));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("all of it is denied by `*.internal`"),
        "{error}"
    );
}

#[test]
fn every_weakening_is_named() {
    let cell = compiled(
        r#"
        extends = ["network"]
        [network]
        allow = [
          "api.example.org",
          { host = "*.example.org", why = "its subdomains" },
          "*:443",
          { host = "db.example.org:5432/tcp", why = "the database" },
          "10.0.0.0/8:443",
          "192.0.2.7:443",
          "169.254.169.254:80",
          { host = "host:db.internal:5432/tcp", why = "this machine's database" },
        ]
        allow_addresses = [{ range = "10.0.0.0/8", why = "behind a proxy" }, "link_local"]
        allow_no_sni = true
        [sockets]
        connect = [{ path = "/run/postgresql/.s.PGSQL.5432", why = "the database" }]
        "#,
    );
    insta::assert_snapshot!(cell.resolved.weakenings.join("\n"));
    let plain = compiled("extends = [\"network\"]\nnetwork.allow = [\"api.example.org\"]");
    assert!(plain.resolved.weakenings.is_empty());
}

#[test]
fn in_json_entries_are_as_people_write_them() {
    let cell = compiled(
        "network.allow = [\"Example.ORG\", \"host:db.internal:5432/tcp\"]\n\
         network.allow_addresses = [\"private\", \"127.0.0.1\"]",
    );
    let json = serde_json::to_value(&cell.resolved).unwrap();
    assert_eq!(
        json["network"],
        json!({
            "allow": ["example.org:443,80", "host:db.internal:5432/tcp"],
            "deny": [],
            "allow_addresses": ["private", "127.0.0.1"],
            "allow_no_sni": false,
            "loopback": false,
            "unix": false,
        })
    );
}

#[test]
fn what_only_asks_is_read_only_while_it_writes_nothing() {
    let hosts = "network.allow = [\"a.org\"]\nrun.argv = [\"/usr/bin/cat\"]\nfiles.exec = [\"/usr/bin/cat\"]";
    for (text, read_only, destructive) in [
        (hosts.to_owned(), false, true),
        (format!("{hosts}\nrun.effect = \"changes\""), false, true),
        (format!("{hosts}\nrun.effect = \"adds\""), false, false),
        (format!("{hosts}\nrun.effect = \"reads\""), true, false),
        (
            format!(
                "{hosts}\nrun.effect = \"reads\"\nfiles.write = [\"/work\"]\n\
                 files.workspace = {{ kind = \"named\", name = \"kept\" }}"
            ),
            false,
            true,
        ),
    ] {
        let resolved = compiled(&text).resolved;
        let found = (resolved.is_read_only(), resolved.is_destructive());
        assert_eq!(found, (read_only, destructive), "{text}");
    }
}

#[test]
fn what_reaches_out_is_not_read_only() {
    for (text, out) in [
        ("", false),
        ("network.loopback = true", false),
        ("network.allow = [\"a.org\"]", true),
        ("network.allow = [\"host:db.internal:5432/tcp\"]", true),
        ("sockets.connect = [\"/run/some.sock\"]", true),
    ] {
        let resolved = compiled(text).resolved;
        assert_eq!(resolved.reaches_out(), out, "{text}");
        assert_eq!(resolved.is_read_only(), !out, "{text}");
    }
}
