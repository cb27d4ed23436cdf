//! The watcher: a packet socket that passes only what the kernel says when it refuses the cell
//! something; see packet(7).

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::routes::LOOPBACK;
use crate::spec::Instruction;
use crate::sys;

/// Most bytes of a packet that are passed: the longest IPv4 header, an ICMP header, and the longest
/// IPv4 header and the ports of what it is about.
pub const WATCHED_BYTES_MAX: u32 = 60 + 8 + 60 + 8;
/// Receive buffer, of which the kernel makes double: room for about a hundred refusals. What comes
/// while it is full is refused all the same, and only not told.
const BUFFER_BYTES: usize = 64 * 1024;

/// Opens the watcher on the loopback interface. It begins at the network header.
pub(super) fn open() -> Result<OwnedFd, Errno> {
    // Without a protocol it receives nothing, until the filter is on and locked.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES)?;
    sys::attach_socket_filter(socket.as_fd(), &refusals())?;
    sys::set_socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
    // Loopback shows each packet as it leaves and as it arrives. The filter drops the former; that
    // they are not even looked at spares time, and is not in kernels before 4.20.
    let option = libc::PACKET_IGNORE_OUTGOING;
    match sys::set_socket_option(socket.as_fd(), libc::SOL_PACKET, option, 1) {
        Ok(()) | Err(Errno::ENOPROTOOPT) => {}
        Err(error) => return Err(error),
    }
    sys::bind_packet_socket(socket.as_fd(), LOOPBACK)?;
    Ok(socket)
}

/// What is at these places of the headers (RFC 791, 792, 8200, 4443, 9293).
mod at {
    pub const V4_FRAGMENT: u32 = 6;
    pub const V4_PROTOCOL: u32 = 9;
    pub const V6_NEXT_HEADER: u32 = 6;
    pub const V6_END: u32 = 40;
    pub const TCP_SEQUENCE: u32 = 4;
    pub const TCP_FLAGS: u32 = 13;
}
const TCP_RST: u32 = 4;
const ICMP_UNREACHABLE: u32 = 3;
const ICMP6_UNREACHABLE: u32 = 1;
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// The filter: resets that answer a request to connect, and unreachable destinations.
///
/// A reset in answer to a request to connect has sequence number 0, as nothing was acknowledged (RFC
/// 9293, 3.10.7.1); one that breaks a connection has the connection's.
fn refusals() -> Vec<Instruction> {
    let end = Jump::To(Label::Drop);
    assemble(&[
        load_ancillary(libc::SKF_AD_PKTTYPE),
        equals(u32::from(libc::PACKET_HOST), Jump::Next, end),
        load_ancillary(libc::SKF_AD_PROTOCOL),
        equals(
            ether_type(libc::ETH_P_IPV6),
            Jump::To(Label::V6),
            Jump::Next,
        ),
        equals(ether_type(libc::ETH_P_IP), Jump::Next, end),
        load(HALF, ABSOLUTE, at::V4_FRAGMENT),
        any_bit(FRAGMENT_OFFSET, end, Jump::Next),
        // X is the length of the IPv4 header.
        plain(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        load(BYTE, ABSOLUTE, at::V4_PROTOCOL),
        equals(
            protocol(libc::IPPROTO_ICMP),
            Jump::To(Label::Icmp4),
            Jump::Next,
        ),
        equals(protocol(libc::IPPROTO_TCP), Jump::To(Label::Tcp), end),
        Line::Label(Label::V6),
        plain(libc::BPF_LDX | libc::BPF_IMM, at::V6_END),
        load(BYTE, ABSOLUTE, at::V6_NEXT_HEADER),
        equals(
            protocol(libc::IPPROTO_ICMPV6),
            Jump::To(Label::Icmp6),
            Jump::Next,
        ),
        equals(protocol(libc::IPPROTO_TCP), Jump::Next, end),
        Line::Label(Label::Tcp),
        load(BYTE, INDIRECT, at::TCP_FLAGS),
        any_bit(TCP_RST, Jump::Next, end),
        load(WORD, INDIRECT, at::TCP_SEQUENCE),
        equals(0, Jump::To(Label::Pass), end),
        Line::Label(Label::Icmp4),
        load(BYTE, INDIRECT, 0),
        equals(ICMP_UNREACHABLE, Jump::To(Label::Pass), end),
        Line::Label(Label::Icmp6),
        load(BYTE, INDIRECT, 0),
        equals(ICMP6_UNREACHABLE, Jump::Next, end),
        Line::Label(Label::Pass),
        plain(libc::BPF_RET | libc::BPF_K, WATCHED_BYTES_MAX),
        Line::Label(Label::Drop),
        plain(libc::BPF_RET | libc::BPF_K, 0),
    ])
}

const BYTE: u32 = libc::BPF_B;
const HALF: u32 = libc::BPF_H;
const WORD: u32 = libc::BPF_W;
const ABSOLUTE: u32 = libc::BPF_ABS;
const INDIRECT: u32 = libc::BPF_IND;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    V6,
    Tcp,
    Icmp4,
    Icmp6,
    Pass,
    Drop,
}

#[derive(Clone, Copy)]
enum Jump {
    Next,
    To(Label),
}

enum Line {
    Label(Label),
    Plain {
        code: u32,
        k: u32,
    },
    Test {
        code: u32,
        k: u32,
        yes: Jump,
        no: Jump,
    },
}

fn plain(code: u32, k: u32) -> Line {
    Line::Plain { code, k }
}

fn load(size: u32, mode: u32, at: u32) -> Line {
    plain(libc::BPF_LD | size | mode, at)
}

/// Loads what the kernel knows of a packet beside its bytes (`SKF_AD_OFF`).
fn load_ancillary(what: libc::c_int) -> Line {
    load(WORD, ABSOLUTE, (libc::SKF_AD_OFF + what).cast_unsigned())
}

fn equals(k: u32, yes: Jump, no: Jump) -> Line {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    Line::Test { code, k, yes, no }
}

fn any_bit(k: u32, yes: Jump, no: Jump) -> Line {
    let code = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    Line::Test { code, k, yes, no }
}

fn protocol(number: libc::c_int) -> u32 {
    number.cast_unsigned()
}

fn ether_type(number: libc::c_int) -> u32 {
    number.cast_unsigned()
}

/// Turns labels into distances. All jumps of classic BPF go forward.
fn assemble(lines: &[Line]) -> Vec<Instruction> {
    let is_instruction = |line: &&Line| !matches!(line, Line::Label(_));
    let distance = |from: usize, jump: Jump| match jump {
        Jump::Next => 0,
        Jump::To(label) => {
            let between = lines[from + 1..]
                .iter()
                .take_while(|line| !matches!(line, Line::Label(found) if *found == label));
            let distance = between.filter(is_instruction).count();
            u8::try_from(distance).expect("the program is short")
        }
    };
    let code = |code: u32| u16::try_from(code).expect("operations have 16 bits");
    let lines = lines.iter().enumerate();
    lines
        .filter_map(|(index, line)| match *line {
            Line::Label(_) => None,
            Line::Plain { code: what, k } => Some(Instruction {
                code: code(what),
                jt: 0,
                jf: 0,
                k,
            }),
            Line::Test {
                code: what,
                k,
                yes,
                no,
            } => Some(Instruction {
                code: code(what),
                jt: distance(index, yes),
                jf: distance(index, no),
                k,
            }),
        })
        .collect()
}
