//! The network of a cell with egress, from the supervisor's end of its sockets: what is listed can be
//! accepted outside, and all else is refused at once and told by the watchers.
//!
//! Without a test harness, because this executable is the launcher and the tool, too: only a process
//! with a single thread may clone.
#![allow(clippy::unwrap_used)] // a test may panic

mod client;
mod outside;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, listen};
use runner::network::OWN_ADDRESS;
use runner::spec::{CELL_SOCKETS_MAX, CellSocket, Network};
use supervisor::egress::watcher::{Attempt, Transport};

use outside::{Running, start};

/// A refusal that takes longer than this was no refusal but a stall.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The ordinary user that the tests run as, too, when root starts them: nobody.
const USER: u32 = 65_534;
/// First argument of this executable for one test as that user.
const AS_USER: &str = "as-user";

type Test = (&'static str, fn());

const TESTS: [Test; 12] = [
    (
        "what_is_listed_is_accepted_outside",
        what_is_listed_is_accepted_outside,
    ),
    ("refused_connections_are_told", refused_connections_are_told),
    ("refused_datagrams_are_told", refused_datagrams_are_told),
    ("nothing_else_is_told", nothing_else_is_told),
    (
        "a_query_is_answered_from_where_it_was_sent",
        a_query_is_answered_from_where_it_was_sent,
    ),
    (
        "a_pool_refuses_until_it_listens",
        a_pool_refuses_until_it_listens,
    ),
    (
        "the_exact_address_comes_before_a_range",
        the_exact_address_comes_before_a_range,
    ),
    ("the_tools_own_servers_work", the_tools_own_servers_work),
    (
        "addresses_of_version_6_are_the_same",
        addresses_of_version_6_are_the_same,
    ),
    (
        "nobody_in_the_cell_keeps_a_socket",
        nobody_in_the_cell_keeps_a_socket,
    ),
    (
        "as_many_sockets_as_a_profile_may_have",
        as_many_sockets_as_a_profile_may_have,
    ),
    (
        "without_egress_there_is_no_route",
        without_egress_there_is_no_route,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    match arguments.first().map(String::as_str) {
        Some(runner::launcher::ARGUMENT) => assert_eq!(runner::launcher::main(), 0),
        Some(client::ARGUMENT) => client::main(),
        Some(AS_USER) => {
            let test = TESTS.iter().find(|test| test.0 == arguments[1]);
            test.expect("a test").1();
        }
        Some("measure") => measure(),
        _ if has("--list") => list(has("--ignored")),
        _ => run(&arguments),
    }
}

/// Answers cargo-nextest, which asks every test binary.
fn list(ignored: bool) {
    for (name, _) in TESTS.iter().filter(|_| !ignored) {
        println!("{name}: test");
    }
}

fn run(arguments: &[String]) {
    let wanted: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w));
    let mut passed = 0;
    for (name, test) in TESTS.iter().filter(|test| is_wanted(test.0)) {
        test();
        if nix::unistd::geteuid().is_root() {
            as_user(name);
        } else {
            outside::skip(name, "as root: the tests were not started by root");
        }
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored");
}

/// Runs a test in this executable, started again as an ordinary user.
fn as_user(name: &str) {
    use std::os::unix::process::CommandExt;
    #[allow(clippy::disallowed_methods)] // a test of its own
    let mut command = std::process::Command::new("/proc/self/exe");
    let status = command.args([AS_USER, name]).uid(USER).gid(USER).status();
    assert!(status.unwrap().success(), "{name} as an ordinary user");
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn listening(text: &str) -> CellSocket {
    CellSocket {
        address: at(text),
        listens: true,
    }
}

fn bound(text: &str) -> CellSocket {
    CellSocket {
        listens: false,
        ..listening(text)
    }
}

fn tcp(text: &str) -> Attempt {
    Attempt {
        protocol: Transport::Tcp,
        address: at(text),
    }
}

fn udp(text: &str) -> Attempt {
    Attempt {
        protocol: Transport::Udp,
        ..tcp(text)
    }
}

/// Has the tool try something that must be refused at once.
fn assert_refused(cell: &mut Running, order: &str) {
    let begun = Instant::now();
    assert_eq!(cell.ask(order), "error 111", "{order}");
    assert!(begun.elapsed() < AT_ONCE, "{order}: {:?}", begun.elapsed());
}

fn what_is_listed_is_accepted_outside() {
    let sockets = vec![listening("198.18.1.1:443"), listening("198.18.1.2:443")];
    let mut cell = start(Network::Egress { sockets });
    for (index, address) in [(0, "198.18.1.1:443"), (1, "198.18.1.2:443")] {
        cell.order(&format!("tcp {address}"));
        let (local, peer) = cell.accept(index, "hello");
        assert_eq!(local, at(address));
        assert_eq!(peer.ip(), OWN_ADDRESS);
        assert_eq!(cell.answer(), "connected hello");
        assert!(cell.has_none_waiting(1 - index));
    }
    assert_refused(&mut cell, "tcp 198.18.1.1:80");
    cell.end();
}

fn refused_connections_are_told() {
    let mut cell = start(Network::Egress {
        sockets: vec![listening("198.18.1.1:443")],
    });
    // The control: what is accepted is not told as refused.
    cell.order("tcp 198.18.1.1:443");
    cell.accept(0, "hello");
    assert_eq!(cell.answer(), "connected hello");
    assert_eq!(cell.attempt(), None);
    let addresses = [
        "93.184.216.34:443",
        "169.254.169.254:80",
        "198.18.1.1:22",
        "10.0.0.1:5432",
    ];
    for address in addresses {
        assert_refused(&mut cell, &format!("tcp {address}"));
        assert_eq!(cell.attempt(), Some(tcp(address)));
        assert_eq!(cell.attempt(), None, "{address} is told once");
    }
    cell.end();
}

fn refused_datagrams_are_told() {
    let mut cell = start(Network::Egress { sockets: vec![] });
    for address in ["1.1.1.1:443", "198.18.1.1:123"] {
        assert_refused(&mut cell, &format!("udp {address}"));
        assert_eq!(cell.attempt(), Some(udp(address)));
        assert_eq!(cell.attempt(), None, "{address} is told once");
    }
    // The control: one that arrives is not told.
    cell.order("udp 1.1.1.1:53");
    assert_eq!(cell.query().0, "x");
    assert_eq!(cell.attempt(), None);
    cell.end();
}

fn nothing_else_is_told() {
    let mut cell = start(Network::Egress { sockets: vec![] });
    // A connection that is broken with a reset, and a late answer to a client that has gone.
    assert_eq!(cell.ask("abort 127.0.0.1:8443"), "reset");
    cell.order("leave 1.1.1.1:53");
    let (_, local, peer) = cell.query();
    assert_eq!(cell.answer(), "left");
    cell.reply("late", local, peer);
    assert_eq!(cell.attempt(), None);
    // The control: the watchers are awake.
    assert_refused(&mut cell, "udp 1.1.1.1:54");
    assert_eq!(cell.attempt(), Some(udp("1.1.1.1:54")));
    cell.end();
}

fn a_query_is_answered_from_where_it_was_sent() {
    let mut cell = start(Network::Egress { sockets: vec![] });
    for address in ["8.8.8.8:53", "198.18.0.1:53"] {
        cell.order(&format!("query {address} who"));
        let (text, local, peer) = cell.query();
        assert_eq!((text.as_str(), local), ("who", at(address).ip()));
        cell.reply("me", local, peer);
        // The tool's socket is connected, and would not receive it from anywhere else.
        assert_eq!(cell.answer(), "reply me");
    }
    cell.order("tcp 8.8.8.8:53");
    let (local, _) = cell.accept_query("hello");
    assert_eq!(local, at("8.8.8.8:53"));
    assert_eq!(cell.answer(), "connected hello");
    // The control: one that comes from another address does not arrive.
    cell.order("query 8.8.8.8:53 who");
    let (_, _, peer) = cell.query();
    cell.reply("somebody", at("9.9.9.9:53").ip(), peer);
    cell.reply("me", at("8.8.8.8:53").ip(), peer);
    assert_eq!(cell.answer(), "reply me");
    cell.end();
}

fn a_pool_refuses_until_it_listens() {
    let sockets = vec![
        bound("198.19.0.1:443"),
        bound("198.19.0.2:443"),
        bound("198.19.0.2:8443"),
    ];
    let mut cell = start(Network::Egress { sockets });
    assert_refused(&mut cell, "tcp 198.19.0.1:443");
    // Whoever serves the cell outside has no capability there, nor here.
    std::thread::scope(|scope| {
        let socket = &cell.network[0];
        let listening = scope.spawn(move || {
            // An ordinary user has none to drop.
            if nix::unistd::geteuid().is_root() {
                runner::sys::drop_capabilities().unwrap();
                assert!(runner::sys::has_no_capabilities().unwrap());
            }
            listen(socket, Backlog::new(8).unwrap())
        });
        listening.join().unwrap().unwrap();
    });
    cell.order("tcp 198.19.0.1:443");
    let (local, _) = cell.accept(0, "now");
    assert_eq!(local, at("198.19.0.1:443"));
    assert_eq!(cell.answer(), "connected now");
    assert_refused(&mut cell, "tcp 198.19.0.2:443");
    // What waits in the pool is not the tool's to take.
    assert_eq!(cell.ask("own 198.19.0.2:8443"), "error 98");
    assert_eq!(cell.ask("own 198.19.0.3:8443"), "own");
    cell.end();
}

fn the_exact_address_comes_before_a_range() {
    let sockets = vec![
        listening("0.0.0.0:443"),
        listening("198.18.1.1:443"),
        bound("198.19.0.1:443"),
        listening("198.18.1.1:80"),
    ];
    let mut cell = start(Network::Egress { sockets });
    listen(&cell.network[2], Backlog::new(8).unwrap()).unwrap();
    let cases = [
        ("10.1.2.3:443", 0),
        ("198.18.1.1:443", 1),
        ("198.19.0.1:443", 2),
        ("198.18.1.1:80", 3),
    ];
    // Often, as sockets that share a port could also share its connections.
    for (address, index) in cases.into_iter().cycle().take(40) {
        cell.order(&format!("tcp {address}"));
        let (local, _) = cell.accept(index, "hello");
        assert_eq!(local, at(address));
        assert_eq!(cell.answer(), "connected hello");
    }
    assert_refused(&mut cell, "tcp 10.1.2.3:80");
    cell.end();
}

fn the_tools_own_servers_work() {
    let sockets = vec![listening("198.18.1.1:8443"), bound("198.19.0.1:8443")];
    let mut cell = start(Network::Egress { sockets });
    assert_eq!(cell.ask("own 127.0.0.1:8443"), "own");
    assert_eq!(cell.ask(&format!("own {OWN_ADDRESS}:8443")), "own");
    assert_eq!(cell.ask("own 0.0.0.0:8000"), "own");
    // The control: where a host stands, it cannot stand.
    assert_eq!(cell.ask("own 198.18.1.1:8443"), "error 98");
    assert!(cell.has_none_waiting(0));
    assert_eq!(cell.attempt(), None);
    cell.end();
}

fn addresses_of_version_6_are_the_same() {
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        outside::skip("addresses_of_version_6_are_the_same", "no IPv6 here");
        return;
    }
    let sockets = vec![
        listening("[2001:db8::1]:443"),
        bound("[2001:db8::2]:443"),
        listening("[::]:443"),
        listening("0.0.0.0:443"),
    ];
    let mut cell = start(Network::Egress { sockets });
    let cases = [
        ("[2001:db8::1]:443", 0),
        ("[2606:4700::1111]:443", 2),
        ("1.1.1.1:443", 3),
    ];
    for (address, index) in cases {
        cell.order(&format!("tcp {address}"));
        let (local, _) = cell.accept(index, "hello");
        assert_eq!(local, at(address));
        assert_eq!(cell.answer(), "connected hello");
    }
    assert_refused(&mut cell, "tcp [2606:4700::1111]:80");
    assert_eq!(cell.attempt(), Some(tcp("[2606:4700::1111]:80")));
    // A name server of this version is nobody, and nobody waits for it.
    for protocol in ["tcp", "udp"] {
        assert_refused(&mut cell, &format!("{protocol} [2606:4700:4700::1111]:53"));
    }
    assert_eq!(cell.attempt(), Some(tcp("[2606:4700:4700::1111]:53")));
    assert_eq!(cell.attempt(), Some(udp("[2606:4700:4700::1111]:53")));
    assert_eq!(cell.attempt(), None);
    cell.end();
}

fn nobody_in_the_cell_keeps_a_socket() {
    let sockets = vec![listening("198.18.1.1:443"), bound("198.19.0.1:443")];
    let mut cell = start(Network::Egress { sockets });
    assert_eq!(cell.network.len(), 2);
    assert_eq!(cell.ask("sockets"), "sockets 0");
    if nix::unistd::geteuid().is_root() {
        // The report socket, and no other.
        assert_eq!(outside::sockets_of(cell.pid), 1);
    }
    // The control: with a socket of its own it has one.
    assert_eq!(cell.ask("keep 198.18.1.1:443"), "sockets 1");
    cell.end();
}

fn as_many_sockets_as_a_profile_may_have() {
    let socket = |index: usize| listening(&format!("198.18.1.{}:443", index + 1));
    let sockets: Vec<_> = (0..CELL_SOCKETS_MAX).map(socket).collect();
    let mut cell = start(Network::Egress { sockets });
    assert_eq!(cell.network.len(), CELL_SOCKETS_MAX);
    let last = CELL_SOCKETS_MAX - 1;
    cell.order(&format!("tcp 198.18.1.{}:443", last + 1));
    cell.accept(last, "hello");
    assert_eq!(cell.answer(), "connected hello");
    cell.end();
}

fn without_egress_there_is_no_route() {
    let mut cell = start(Network::None);
    assert!(cell.network.is_empty());
    assert_eq!(cell.ask("tcp 93.184.216.34:443"), "error 101");
    assert_eq!(cell.ask("udp 1.1.1.1:53"), "error 101");
    // The control.
    assert_eq!(cell.ask("own 127.0.0.1:8443"), "own");
    cell.end();
}

/// Prints how long cells take from their launch to the tool's exec, with and without egress.
fn measure() {
    const ROUNDS: usize = 300;
    let sockets = |count: usize| -> Vec<CellSocket> {
        let socket = |n| listening(&format!("198.18.1.{}:{}", n / 2 + 1, 443 + n % 2));
        (0..count).map(socket).collect()
    };
    let cases = [
        ("none", Network::None),
        ("egress, no sockets", Network::Egress { sockets: vec![] }),
        (
            "egress, 20 sockets",
            Network::Egress {
                sockets: sockets(20),
            },
        ),
        (
            "egress, 240 sockets",
            Network::Egress {
                sockets: sockets(240),
            },
        ),
    ];
    for (what, [quarter, half]) in outside::quartiles(&cases, ROUNDS) {
        println!("{what}: {quarter} µs in the best quarter, {half} µs in the better half");
    }
}
