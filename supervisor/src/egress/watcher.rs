//! What a cell's watcher saw: connections and datagrams that the kernel refused.
//!
//! The filter in the cell (`runner::network`) passes resets and unreachable destinations only. Here
//! each is read for what the tool had tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const TCP_RST: u8 = 4;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_V6_UNREACHABLE: u8 = 1;
/// Before what an ICMP message is about (RFC 792, RFC 4443).
const ICMP_HEADER_BYTES: usize = 8;
const V4_HEADER_BYTES_MIN: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads a packet that begins at its network header; `None` if it refuses nothing.
///
/// The tool's own addresses are among what can be refused, and all of them are its own; whether a
/// loopback address is worth telling is for the caller to decide.
#[must_use]
pub fn refused(packet: &[u8]) -> Option<Attempt> {
    let outer = Header::read(packet)?;
    match (outer.protocol, outer.source) {
        (TCP, _) => refused_connection(&outer),
        (ICMP, IpAddr::V4(_)) => refused_datagram(outer.payload, ICMP_UNREACHABLE),
        (ICMP_V6, IpAddr::V6(_)) => refused_datagram(outer.payload, ICMP_V6_UNREACHABLE),
        _ => None,
    }
}

/// A reset comes from where the connection should have gone; in answer to a request to connect its
/// sequence number is 0 (RFC 9293, 3.10.7.1).
fn refused_connection(reset: &Header<'_>) -> Option<Attempt> {
    let sequence = reset.payload.get(4..8)?;
    let flags = *reset.payload.get(13)?;
    (flags & TCP_RST != 0 && sequence == [0; 4]).then_some(Attempt {
        protocol: Transport::Tcp,
        address: SocketAddr::new(reset.source, half(reset.payload, 0)?),
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

/// The part of a network header that says who sent what to whom.
struct Header<'a> {
    protocol: u8,
    source: IpAddr,
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
                    source: v4(packet, 12)?,
                    destination: v4(packet, 16)?,
                    payload: packet.get(length..)?,
                })
            }
            // Linux puts no extension header into what it refuses with.
            6 => Some(Self {
                protocol: *packet.get(6)?,
                source: v6(packet, 8)?,
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
