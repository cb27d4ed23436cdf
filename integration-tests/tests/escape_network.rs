//! The network: nothing of the host's is reached, whether by TCP or UDP, on its loopback or on its
//! other addresses; a cell's own loopback works.
//!
//! Each listener of the host says whether anything arrived. The positive control is the same probe
//! outside, which arrives.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use harness::ground::{Ground, Said};
use harness::{Who, everyone, skip};

/// Longest wait for what the control sends to the same machine.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// An address of the host that is not loopback, if it has one. Nothing is sent to find out.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // A documentation address: asking for the route to it picks the address that faces outward.
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn profile(ground: &Ground, loopback: bool) -> PathBuf {
    ground.profile("", &format!("[network]\nloopback = {loopback}\n"))
}

fn tcp_is_not_reached(address: IpAddr, loopback: bool) {
    for who in everyone() {
        let ground = Ground::new(who);
        let Ok(listener) = TcpListener::bind(SocketAddr::new(address, 0)) else {
            return skip(
                "the host's listener",
                &format!("{address} cannot be listened on"),
            );
        };
        listener.set_nonblocking(true).expect("a socket can be");
        let to = listener.local_addr().expect("it is bound").to_string();
        let said = ground.attempt(&profile(&ground, loopback), &["tcp", &to]);
        assert!(refused(&said), "{who:?}: {said:#?}");
        let arrived = listener.accept().map_err(|error| error.kind());
        assert_eq!(arrived.err(), Some(ErrorKind::WouldBlock), "{who:?}");

        assert!(
            ground.outside(&["tcp", &to]).succeeded(),
            "the control of {who:?}"
        );
        assert!(listener.accept().is_ok(), "the control of {who:?}");
    }
}

fn udp_is_not_reached(address: IpAddr, loopback: bool) {
    for who in everyone() {
        let ground = Ground::new(who);
        let Ok(listener) = UdpSocket::bind(SocketAddr::new(address, 0)) else {
            return skip(
                "the host's listener",
                &format!("{address} cannot be listened on"),
            );
        };
        let to = listener.local_addr().expect("it is bound").to_string();
        // Whether sending fails is no matter: a datagram may well be sent into the void.
        let _ = ground.attempt(&profile(&ground, loopback), &["udp", &to]);
        listener.set_nonblocking(true).expect("a socket can be");
        let arrived = listener.recv(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(arrived.err(), Some(ErrorKind::WouldBlock), "{who:?}");

        listener.set_nonblocking(false).expect("a socket can be");
        listener
            .set_read_timeout(Some(ARRIVAL_MAX))
            .expect("a socket can be");
        assert!(
            ground.outside(&["udp", &to]).succeeded(),
            "the control of {who:?}"
        );
        assert!(
            listener.recv(&mut [0; 16]).is_ok(),
            "the control of {who:?}"
        );
    }
}

/// Refused at once, rather than after a time.
fn refused(said: &Said) -> bool {
    [
        "EACCES",
        "ECONNREFUSED",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "EADDRNOTAVAIL",
    ]
    .contains(&said.answer.as_str())
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[test]
fn tcp_on_the_hosts_loopback_is_not_reached() {
    tcp_is_not_reached(LOOPBACK, false);
}

#[test]
fn tcp_on_the_hosts_loopback_is_not_reached_by_ipv6() {
    tcp_is_not_reached(LOOPBACK_6, false);
}

#[test]
fn tcp_on_the_hosts_loopback_is_not_reached_with_a_loopback_of_the_cells_own() {
    tcp_is_not_reached(LOOPBACK, true);
}

#[test]
fn tcp_on_the_hosts_other_address_is_not_reached() {
    match outer_address() {
        Some(address) => tcp_is_not_reached(address, false),
        None => skip("another address", "the host has only loopback"),
    }
}

#[test]
fn tcp_on_the_hosts_other_address_is_not_reached_with_a_loopback_of_the_cells_own() {
    match outer_address() {
        Some(address) => tcp_is_not_reached(address, true),
        None => skip("another address", "the host has only loopback"),
    }
}

#[test]
fn udp_on_the_hosts_loopback_is_not_reached() {
    udp_is_not_reached(LOOPBACK, false);
}

#[test]
fn udp_on_the_hosts_loopback_is_not_reached_by_ipv6() {
    udp_is_not_reached(LOOPBACK_6, true);
}

#[test]
fn udp_on_the_hosts_other_address_is_not_reached() {
    match outer_address() {
        Some(address) => udp_is_not_reached(address, true),
        None => skip("another address", "the host has only loopback"),
    }
}

#[test]
fn the_only_interface_is_loopback() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&profile(&ground, true), &["interfaces"]);
        assert_eq!(said.detail(), "lo", "{who:?}");
        // Without anything else on the host there is nothing to compare with.
        if outer_address().is_some() {
            assert_ne!(
                ground.outside(&["interfaces"]).detail(),
                "lo",
                "the control of {who:?}"
            );
        }
    }
}

#[test]
fn the_cells_own_loopback_works_where_the_profile_says_so() {
    for who in everyone() {
        let ground = Ground::new(who);
        for attempt in ["own_tcp", "own_udp"] {
            let said = ground.attempt(&profile(&ground, true), &[attempt]);
            assert!(said.succeeded(), "{who:?}: {said:#?}");
        }
    }
}

#[test]
fn the_cells_own_loopback_takes_no_tcp_where_the_profile_does_not_say_so() {
    for who in everyone() {
        let ground = Ground::new(who);
        // By Landlock, or before its ABI 4 by the filter, which then refuses the socket itself.
        let said = ground.attempt(&profile(&ground, false), &["own_tcp"]);
        assert_eq!(said, "EACCES", "{who:?}");
        let control = ground.attempt(&profile(&ground, true), &["own_tcp"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn a_port_of_the_host_that_is_taken_can_be_bound_in_a_cell() {
    for who in everyone() {
        let ground = Ground::new(who);
        let listener = TcpListener::bind("127.0.0.1:0").expect("the host has loopback");
        let address = listener.local_addr().expect("it is bound").to_string();
        let said = ground.attempt(&profile(&ground, true), &["bind_tcp", &address]);
        assert!(said.succeeded(), "{who:?}: {said:#?}");
        assert_eq!(
            ground.outside(&["bind_tcp", &address]),
            "EADDRINUSE",
            "the control of {who:?}"
        );
    }
}

/// Metadata services of clouds, and the rest of 127/8, are not there either.
#[test]
fn link_local_and_private_addresses_are_unreachable_at_once() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = profile(&ground, true);
        for to in [
            "169.254.169.254:80",
            "10.0.0.1:80",
            "[fd00::1]:80",
            "[::ffff:127.0.0.1]:9",
        ] {
            let said = ground.attempt(&profile, &["tcp", to]);
            assert!(refused(&said), "{who:?} {to}: {said:#?}");
        }
    }
}

/// A user that has no privileges outside has none over the network inside either.
#[test]
fn nobody_configures_the_cells_network() {
    let ground = Ground::new(Who::User);
    let said = ground.attempt(
        &profile(&ground, true),
        &["open", "/proc/sys/net/ipv4/ip_forward", "1"],
    );
    assert!(
        ["EROFS", "EACCES"].contains(&said.answer.as_str()),
        "{said:#?}"
    );
}
