//! Unix sockets of the host that a cell may connect to.

use profiles::diagnostics::Kind;
use profiles::filter::Action;
use profiles::{Diagnostics, Socket, SocketFact};

use super::*;

const RESOLVE_UNIX: u64 = 1 << 16;
const POSTGRES: &str = "/run/postgresql/.s.PGSQL.5432";

fn on(abi: u32, text: &str) -> Result<Compiled, Diagnostics> {
    let resolved = debian::resolve(&format!("{HEAD}{text}")).unwrap();
    compile(&resolved, &debian::host(&resolved, Arch::X86_64, abi))
}

fn makes_unix_sockets(cell: &Compiled) -> bool {
    // socket(AF_UNIX, SOCK_STREAM, 0) on x86_64.
    cell.policy.decide(41, &[1, 1, 0, 0, 0, 0]) == Action::Allow
}

fn makes_tcp_sockets(cell: &Compiled) -> bool {
    // socket(AF_INET, SOCK_STREAM, 0) on x86_64.
    cell.policy.decide(41, &[2, 1, 0, 0, 0, 0]) == Action::Allow
}

#[test]
fn a_kernel_that_cannot_refuse_tcp_gives_no_socket_for_it() {
    for (abi, text, made) in [
        (2, "", false),
        (3, "", false),
        // Landlock refuses what is done with it.
        (4, "", true),
        (2, "network.loopback = true", true),
        (2, "network.allow = [\"example.org\"]", true),
    ] {
        let cell = on(abi, text).unwrap();
        assert_eq!(makes_tcp_sockets(&cell), made, "{abi} {text}");
    }
}

fn call(cell: &Compiled, found: &[&str]) -> Result<Call, CallError> {
    let plan = cell
        .fill_command(vec!["/usr/bin/cat".to_owned()], &BTreeMap::new())
        .unwrap();
    let sockets = found.iter().map(|path| SocketFact {
        path: path.into(),
        identity: THERE,
    });
    let facts = CallFacts {
        sockets: sockets.collect(),
        ..facts()
    };
    cell.call(&plan, &facts)
}

#[test]
fn the_socket_alone_is_mounted_as_it_was_identified() {
    let text = format!("sockets.connect = [\"{POSTGRES}\"]");
    for abi in [7, 9] {
        let cell = on(abi, &text).unwrap();
        assert_eq!(bind(&cell.template.mounts, POSTGRES), None);
        assert!(makes_unix_sockets(&cell));
        let call = call(&cell, &[POSTGRES]).unwrap();
        assert_eq!(
            call.mounts,
            [Mount::Bind {
                source: POSTGRES.into(),
                target: POSTGRES.into(),
                directory: false,
                writable: false,
                exec: false,
                identity: Some(THERE),
                owner: None,
            }]
        );
        let rights: Vec<_> = call.rules.iter().map(|rule| rule.access).collect();
        assert_eq!(rights, if abi < 9 { vec![] } else { vec![RESOLVE_UNIX] });
    }
}

#[test]
fn a_socket_is_named_by_the_links_that_lead_to_it() {
    let cell = compiled("sockets.connect = [\"/var/run/postgresql/.s.PGSQL.5432\"]");
    let socket = Socket {
        path: POSTGRES.into(),
        if_present: false,
    };
    assert_eq!(cell.sockets, [socket]);
    assert_eq!(link(&cell.template.mounts, "/var/run"), Some("/run".into()));
    // The control: who lists no socket has no such link.
    assert_eq!(link(&compiled("").template.mounts, "/var/run"), None);
}

#[test]
fn a_socket_must_be_there_unless_it_need_not() {
    let cell = compiled("sockets.connect = [\"/run/some.sock\"]");
    assert!(call(&cell, &["/run/some.sock"]).is_ok());
    let gone = CallError::Socket("/run/some.sock".to_owned());
    assert_eq!(call(&cell, &[]), Err(gone));
    let cell = compiled("sockets.connect = [{ path = \"/run/later.sock\", if_present = true }]");
    assert!(call(&cell, &[]).unwrap().mounts.is_empty());
    assert_eq!(call(&cell, &["/run/later.sock"]).unwrap().mounts.len(), 1);
}

/// Before ABI 9 the filter alone decides, for all sockets that can be named.
#[test]
fn one_socket_never_opens_others_that_are_shown() {
    let text = "files.read = [\"/srv/docs\"]\nsockets.connect = [\"/run/some.sock\"]";
    let error = on(7, text).unwrap_err();
    assert!(error.all(Kind::HostTooWeak), "{error}");
    insta::assert_snapshot!(error.to_string());
    assert!(on(9, text).is_ok());
    // The control: without the directory, and where the profile accepts it.
    assert!(on(7, "sockets.connect = [\"/run/some.sock\"]").is_ok());
    assert!(on(7, &format!("network.unix = true\n{text}")).is_ok());
}

#[test]
fn a_socket_beneath_what_an_argument_may_write_is_refused() {
    let text = r#"
        input = { type = "object", properties = { where = { type = "string" } } }
        sockets.connect = ["/srv/work/some.sock"]
        [roots]
        work = "/srv/work"
        [paths.where]
        beneath = "{roots.work}"
        [files]
    "#;
    let error = on(9, &format!("{text}write = [\"{{where}}\"]")).unwrap_err();
    assert!(
        error.0[0].message.contains("another socket in its place"),
        "{error}"
    );
    assert!(on(9, &format!("{text}read = [\"{{where}}\"]")).is_ok());
}
