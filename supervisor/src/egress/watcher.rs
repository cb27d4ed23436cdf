//! What a cell's watchers saw: connections and datagrams that the kernel refused.
//!
//! The filters in the cell (`runner::network`) pass resets and unreachable destinations only. Here
//! each is read for what the tool had tried.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{SockaddrStorage, recvfrom};
use runner::network::WATCHED_BYTES_MAX;

/// What a tool tried and was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    /// Over what.
    pub protocol: Transport,
    /// Where to.
    pub address: SocketAddr,
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Port of the resolver: a client that has gone refuses its late answer, which is no attempt.
const DNS_PORT: u16 = 53;

const UDP: u8 = 17;
const TCP_RST: u8 = 4;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_V6_UNREACHABLE: u8 = 1;
/// Before what an ICMP message is about (RFC 792, RFC 4443).
const ICMP_HEADER_BYTES: usize = 8;
const V4_HEADER_BYTES_MIN: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What a watcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A reset that answers a request to connect.
    Reset,
    /// An unreachable destination.
    Unreachable,
}

impl Sign {
    /// That of the watcher with this index among those that a cell hands out.
    #[must_use]
    pub fn of(index: usize) -> Self {
        if index.is_multiple_of(2) {
            Self::Reset
        } else {
            Self::Unreachable
        }
    }
}

/// Takes the next packet from a watcher; `None` if it refuses nothing that the tool tried.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is none; otherwise as recvfrom(2).
pub fn receive(watcher: &impl AsFd, sign: Sign) -> io::Result<Option<Attempt>> {
    let mut packet = [0; WATCHED_BYTES_MAX as usize];
    let (length, from) = recvfrom::<SockaddrStorage>(watcher.as_fd().as_raw_fd(), &mut packet)?;
    let Some(from) = from else { return Ok(None) };
    let v4 = from.as_sockaddr_in().map(|from| IpAddr::V4(from.ip()));
    let v6 = from.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip()));
    let packet = &packet[..length];
    Ok(v4.or(v6).and_then(|from| refused(sign, from, packet)))
}

/// Reads a packet as a raw socket yields it, with a network header only if it is of IPv4; `None` if it
/// refuses nothing.
///
/// The tool's own addresses are among what can be refused, and all of them are its own; whether a
/// loopback address is worth telling is for the caller to decide.
#[must_use]
pub fn refused(sign: Sign, from: IpAddr, packet: &[u8]) -> Option<Attempt> {
    let (payload, unreachable) = match from {
        IpAddr::V4(_) => (Header::read(packet)?.payload, ICMP_UNREACHABLE),
        IpAddr::V6(_) => (packet, ICMP_V6_UNREACHABLE),
    };
    match sign {
        Sign::Reset => refused_connection(from, payload),
        Sign::Unreachable => refused_datagram(payload, unreachable),
    }
}

/// A reset comes from where the connection should have gone; in answer to a request to connect its
/// sequence number is 0 (RFC 9293, 3.10.7.1).
fn refused_connection(from: IpAddr, reset: &[u8]) -> Option<Attempt> {
    let sequence = reset.get(4..8)?;
    let flags = *reset.get(13)?;
    (flags & TCP_RST != 0 && sequence == [0; 4]).then_some(Attempt {
        protocol: Transport::Tcp,
        address: SocketAddr::new(from, half(reset, 0)?),
    })
}

fn refused_datagram(message: &[u8], unreachable: u8) -> Option<Attempt> {
    if *message.first()? != unreachable {
        return None;
    }
    let about = Header::read(message.get(ICMP_HEADER_BYTES..)?)?;
    let (source, destination) = (half(about.payload, 0)?, half(about.payload, 2)?);
    (about.protocol == UDP && source != DNS_PORT).then_some(Attempt {
        protocol: Transport::Udp,
        address: SocketAddr::new(about.destination, destination),
    })
}

/// The part of a network header that says what was sent to whom.
struct Header<'a> {
    protocol: u8,
    destination: IpAddr,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let length = usize::from(first & 0xf) * 4;
                let whole = half(packet, 6)? & FRAGMENT_OFFSET == 0;
                (whole && length >= V4_HEADER_BYTES_MIN).then_some(())?;
                Some(Self {
                    protocol: *packet.get(9)?,
                    destination: v4(packet, 16)?,
                    payload: packet.get(length..)?,
                })
            }
            // Linux puts no extension header into what it refuses with.
            6 => Some(Self {
                protocol: *packet.get(6)?,
                destination: v6(packet, 24)?,
                payload: packet.get(V6_HEADER_BYTES..)?,
            }),
            _ => None,
        }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Packets that watchers of Linux 6.18 have yielded, and from where.
    type Packet = (Sign, &'static str, &'static str);
    const RESET: Packet = (
        Sign::Reset,
        "93.184.216.34",
        "45000028000040004006 3ee1 5db8d822 c6120002 \
         01bb95de 00000000 ba130b5e 5014000056d60000",
    );
    const RESET_V6: Packet = (
        Sign::Reset,
        "2606:4700::1111",
        "00508272 00000000 130afc6e 50140000 7e320000",
    );
    const UNREACHABLE: Packet = (
        Sign::Unreachable,
        "1.1.1.1",
        "45c00039f6ab00004001bb42 01010101 c6120002 03031e0300000000 \
         4500001d9e1e40004011d49b c6120002 01010101 9d0401bb 0009c830 78",
    );
    const UNREACHABLE_V6: Packet = (
        Sign::Unreachable,
        "::1",
        "0104788400000000 60026e5e00091140 00000000000000000000000000000001 \
         26064700470000000000000000001111 a3ce0035 0009c532 78",
    );
    const LATE_ANSWER: Packet = (
        Sign::Unreachable,
        "198.18.0.2",
        "45c0003c723b000040013fb0 c6120002 01010101 0303a0a900000000 \
         450000207d7f40004011f537 01010101 c6120002 0035b317 000cc833 6c617465",
    );

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        let pairs = digits.chunks_exact(2);
        pairs
            .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits"))
            .collect()
    }

    fn told((sign, from, _): Packet, packet: &[u8]) -> Option<(Transport, String)> {
        let from = from.parse().expect("an address");
        refused(sign, from, packet).map(|attempt| (attempt.protocol, attempt.address.to_string()))
    }

    #[test]
    fn refusals_tell_what_was_tried() {
        let cases = [
            (RESET, Transport::Tcp, "93.184.216.34:443"),
            (RESET_V6, Transport::Tcp, "[2606:4700::1111]:80"),
            (UNREACHABLE, Transport::Udp, "1.1.1.1:443"),
            (UNREACHABLE_V6, Transport::Udp, "[2606:4700:4700::1111]:53"),
        ];
        for (packet, protocol, address) in cases {
            let told = told(packet, &bytes(packet.2));
            assert_eq!(told, Some((protocol, address.to_owned())));
        }
    }

    #[test]
    fn what_refuses_nothing_is_no_attempt() {
        assert_eq!(told(LATE_ANSWER, &bytes(LATE_ANSWER.2)), None);
        let changed = |packet: Packet, at: usize, to: u8| {
            let mut bytes = bytes(packet.2);
            bytes[at] = to;
            told(packet, &bytes)
        };
        // The control: a change that means nothing.
        assert!(changed(RESET, 1, 8).is_some());
        for (what, packet, at, to) in [
            ("a reset of a connection", RESET, 27, 1),
            ("an acknowledgement", RESET, 33, 0x10),
            ("a later fragment", RESET, 7, 1),
            ("a header that is too short", RESET, 0, 0x44),
            ("another version", RESET, 0, 0x75),
            ("time exceeded", UNREACHABLE, 20, 11),
            ("about no datagram", UNREACHABLE, 28 + 9, 6),
            ("a reset of a connection", RESET_V6, 7, 1),
            ("time exceeded", UNREACHABLE_V6, 0, 3),
        ] {
            assert_eq!(changed(packet, at, to), None, "{what}");
        }
    }

    const PACKETS: [Packet; 4] = [RESET, RESET_V6, UNREACHABLE, UNREACHABLE_V6];

    #[test]
    fn packets_may_end_anywhere() {
        for packet in PACKETS {
            let bytes = bytes(packet.2);
            for length in 0..bytes.len() {
                let _ = told(packet, &bytes[..length]);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_surprise(
            which in 0..PACKETS.len(),
            packet in prop::collection::vec(any::<u8>(), 0..160),
        ) {
            let _ = told(PACKETS[which], &packet);
        }

        #[test]
        fn no_changed_refusal_is_a_surprise(
            which in 0..PACKETS.len(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut packet = bytes(PACKETS[which].2);
            for (at, to) in changes {
                let at = at.index(packet.len());
                packet[at] = to;
            }
            let _ = told(PACKETS[which], &packet);
        }
    }
}
