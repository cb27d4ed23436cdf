//! The cell's network namespace: loopback only, or loopback on which every address is the cell's own.
//!
//! With egress, each address that a program may connect to is local to the cell, and what may be
//! reached has a socket there. The sockets go to the supervisor before capabilities drop; the cell
//! keeps none. So no packet ever leaves the namespace: what the supervisor accepts on a socket it may
//! relay, and the kernel refuses everything else at once, where the watchers see it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname,
    listen, setsockopt, socket, sockopt,
};

use crate::confine::{At, send};
use crate::report::{Report, SetupFailure, Step};
use crate::spec::{CELL_SOCKETS_MAX, CellSocket, Network};
use crate::sys;

mod routes;
mod watcher;

pub use watcher::WATCHED_BYTES_MAX;
use watcher::{WATCHERS, WATCHERS_V4};

/// The cell's own address, from which all its connections come: not a loopback address, as programs
/// look for one before they ask for others' (`AI_ADDRCONFIG`).
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Port of the resolver's sockets.
const DNS_PORT: u16 = 53;
/// Connections that wait to be accepted on one socket. One that finds no room is tried again by the
/// kernel after a second, so there is room for hundreds at once.
const BACKLOG: i32 = 1024;
/// The resolver's sockets, which come first.
const RESOLVERS: usize = 2;
const _: () =
    assert!(RESOLVERS + WATCHERS.len() + CELL_SOCKETS_MAX <= crate::wire::DESCRIPTORS_MAX);
/// Addresses of the world outside: if these are the cell's own, so are all.
const OUTSIDE_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), DNS_PORT);

/// Sets the fresh network namespace up as ordered, and hands its sockets out on `report`.
///
/// The index of a failure is that of the socket among those that are handed out.
pub(crate) fn set_up(network: &Network, report: &impl AsFd) -> Result<(), SetupFailure> {
    match network {
        Network::None => sys::loopback_up().at(Step::Network),
        Network::Egress { sockets } => {
            let (watchers, sockets) = open(sockets)?;
            let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            send(report, &Report::Network { watchers }, &borrowed).at(Step::Network)
        }
    }
}

/// Asks the kernel whether the namespace is as ordered. Without egress, that the interface came up
/// is all that was ordered.
pub(crate) fn holds(network: &Network) -> Result<bool, Errno> {
    match network {
        Network::None => Ok(true),
        // Only what is routed back to the cell itself is sent from this address.
        Network::Egress { .. } => Ok(source_towards(OUTSIDE_V4)? == IpAddr::V4(OWN_ADDRESS)),
    }
}

/// All sockets in the order of [`Report::Network`], and how many of them are watchers.
fn open(sockets: &[CellSocket]) -> Result<(u8, Vec<OwnedFd>), SetupFailure> {
    if sockets.len() > CELL_SOCKETS_MAX {
        return Err(Errno::E2BIG).at(Step::Network);
    }
    let v6 = routes::make_every_address_local().at(Step::Network)?;
    let watchers = if v6 {
        &WATCHERS[..]
    } else {
        &WATCHERS[..WATCHERS_V4]
    };
    let resolver = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DNS_PORT));
    let mut all = Vec::with_capacity(RESOLVERS + watchers.len() + sockets.len());
    all.push(datagrams(resolver).at_item(Step::Network, all.len())?);
    all.push(stream(resolver, true, false).at_item(Step::Network, all.len())?);
    for watcher in watchers {
        all.push(watcher.open().at_item(Step::Network, all.len())?);
    }
    for socket in sockets {
        let item = all.len();
        if socket.address.is_ipv6() && !v6 {
            return Err(Errno::EAFNOSUPPORT).at_item(Step::Network, item);
        }
        let shared = shares_its_port(socket, sockets);
        let opened = stream(socket.address, socket.listens, shared);
        all.push(opened.at_item(Step::Network, item)?);
    }
    let watchers = u8::try_from(watchers.len()).expect("there are four at most");
    Ok((watchers, all))
}

/// Whether a socket for every address has the same port. The kernel then wants to hear from both that
/// it is meant (`SO_REUSEPORT`), and gives each connection to the one with the exact address.
fn shares_its_port(socket: &CellSocket, all: &[CellSocket]) -> bool {
    all.iter().any(|other| {
        other.address.ip().is_unspecified()
            && other.address.port() == socket.address.port()
            && other.address.is_ipv4() == socket.address.is_ipv4()
    })
}

/// The resolver's socket for datagrams; it tells which address each was sent to, so that the answer
/// can come from there.
fn datagrams(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = unbound(address, SockType::Datagram)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// A TCP socket at an address. One that does not listen keeps the port from the tool meanwhile:
/// without `SO_REUSEADDR` nothing else can be bound there.
fn stream(address: SocketAddr, listens: bool, shared: bool) -> Result<OwnedFd, Errno> {
    let socket = unbound(address, SockType::Stream)?;
    if shared {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if listens {
        listen(&socket, Backlog::new(BACKLOG)?)?;
    }
    Ok(socket)
}

fn unbound(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        // An address that is the cell's own only by its route cannot be bound otherwise.
        sys::set_socket_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
    }
    Ok(socket)
}

/// The address from which the kernel would send to another; nothing is sent.
fn source_towards(address: SocketAddr) -> Result<IpAddr, Errno> {
    let socket = unbound(address, SockType::Datagram)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
    let v6 = own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()));
    Ok(v4.or(v6).unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does something in a network namespace of its own; only root can without one for users, too,
    /// which a process with threads cannot make.
    fn in_fresh_namespace(test: &str, what: impl FnOnce() + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED {test}: the tests were not started by root");
            return;
        }
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
            what();
        });
        thread.join().expect("it passes");
    }

    fn sockets(addresses: &[&str]) -> Vec<CellSocket> {
        let socket = |address: &&str| CellSocket {
            address: address.parse().expect("an address"),
            listens: true,
        };
        addresses.iter().map(socket).collect()
    }

    fn counts(wanted: &[CellSocket]) -> (u8, usize) {
        let (watchers, all) = open(wanted).expect("it works");
        (watchers, all.len())
    }

    fn failure(opened: Result<(u8, Vec<OwnedFd>), SetupFailure>) -> (Errno, u32) {
        let failure = opened.expect_err("it is refused");
        assert_eq!(failure.step, Step::Network);
        (Errno::from_raw(failure.errno), failure.index)
    }

    #[test]
    fn without_ipv6_only_its_sockets_are_refused() {
        let test = "without_ipv6_only_its_sockets_are_refused";
        let disable = || {
            let file = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
            std::fs::write(file, "1").expect("it is the namespace's own");
        };
        in_fresh_namespace(test, move || {
            disable();
            let wanted = sockets(&["198.18.1.1:443"]);
            assert_eq!(counts(&wanted), (2, 5));
        });
        in_fresh_namespace(test, move || {
            disable();
            let wanted = sockets(&["198.18.1.1:443", "[2001:db8::1]:443"]);
            assert_eq!(failure(open(&wanted)), (Errno::EAFNOSUPPORT, 5));
        });
        // The control.
        in_fresh_namespace(test, || {
            let wanted = sockets(&["198.18.1.1:443", "[2001:db8::1]:443"]);
            assert_eq!(counts(&wanted), (4, 8));
        });
    }

    #[test]
    fn the_namespace_is_read_back() {
        in_fresh_namespace("the_namespace_is_read_back", || {
            let ordered = Network::Egress { sockets: vec![] };
            sys::loopback_up().expect("root may");
            assert_ne!(holds(&ordered), Ok(true));
            let _sockets = open(&[]).expect("root may");
            assert_eq!(holds(&ordered), Ok(true));
        });
    }

    #[test]
    fn the_socket_that_fails_is_named() {
        in_fresh_namespace("the_socket_that_fails_is_named", || {
            let twice = sockets(&["198.18.1.1:443", "198.18.1.2:443", "198.18.1.1:443"]);
            assert_eq!(failure(open(&twice)), (Errno::EADDRINUSE, 8));
            let many = sockets(&vec!["198.18.1.1:443"; CELL_SOCKETS_MAX + 1]);
            assert_eq!(failure(open(&many)), (Errno::E2BIG, 0));
        });
    }
}
