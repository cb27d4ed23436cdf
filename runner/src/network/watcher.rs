//! The watchers: raw sockets that pass only what the kernel says when it refuses the cell something;
//! see raw(7) and ipv6(7).
//!
//! One packet socket would see as much, but its last close waits for an RCU grace period, which was
//! measured at ten milliseconds and more; these cost a few microseconds each from open to close.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::spec::Instruction;
use crate::sys;

/// Most bytes of a packet that are passed: the longest IPv4 header, an ICMP header, and the longest
/// IPv4 header and the ports of what it is about.
pub const WATCHED_BYTES_MAX: u32 = 60 + 8 + 60 + 8;
/// Receive buffer of each, of which the kernel makes double: room for about a hundred refusals. What
/// comes while it is full is refused all the same, and only not told.
const BUFFER_BYTES: usize = 64 * 1024;

/// What one watcher waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watcher {
    family: AddressFamily,
    protocol: SockProtocol,
    sign: Sign,
}

#[derive(Debug, Clone, Copy)]
enum Sign {
    /// A reset that answers a request to connect.
    Reset,
    /// An ICMP message of this type: the destination is unreachable (RFC 792, RFC 4443).
    Unreachable(u32),
}

/// Every watcher of a cell; the kernel may be without the last two's family.
pub(super) const WATCHERS: [Watcher; 4] = [
    Watcher {
        family: AddressFamily::Inet,
        protocol: SockProtocol::Tcp,
        sign: Sign::Reset,
    },
    Watcher {
        family: AddressFamily::Inet,
        protocol: SockProtocol::Icmp,
        sign: Sign::Unreachable(3),
    },
    Watcher {
        family: AddressFamily::Inet6,
        protocol: SockProtocol::Tcp,
        sign: Sign::Reset,
    },
    Watcher {
        family: AddressFamily::Inet6,
        protocol: SockProtocol::IcmpV6,
        sign: Sign::Unreachable(1),
    },
];
/// Watchers where there is no IPv6.
pub(super) const WATCHERS_V4: usize = 2;

impl Watcher {
    /// Opens it and locks its filter. What came before is not the tool's, which does not exist yet.
    pub(super) fn open(self) -> Result<OwnedFd, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(self.family, SockType::Raw, flags, self.protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES)?;
        sys::attach_socket_filter(socket.as_fd(), &self.filter())?;
        sys::set_socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
        Ok(socket)
    }

    /// The filter. What an IPv4 socket sees begins with the network header, which X then skips; what
    /// an IPv6 socket sees begins after it.
    ///
    /// A reset in answer to a request to connect has sequence number 0, as nothing was acknowledged
    /// (RFC 9293, 3.10.7.1); one that breaks a connection has the connection's.
    fn filter(self) -> Vec<Instruction> {
        /// Places in a TCP header, and one of its flags.
        const SEQUENCE: u32 = 4;
        const FLAGS: u32 = 13;
        const RST: u32 = 4;
        let skip = match self.family {
            AddressFamily::Inet => plain(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
            _ => plain(libc::BPF_LDX | libc::BPF_IMM, 0),
        };
        let mut program = vec![skip];
        match self.sign {
            Sign::Reset => program.extend([
                load(libc::BPF_B, FLAGS),
                // If not, over the next two and the one that passes.
                test(libc::BPF_JSET, RST, 3),
                load(libc::BPF_W, SEQUENCE),
                test(libc::BPF_JEQ, 0, 1),
            ]),
            Sign::Unreachable(kind) => {
                program.extend([load(libc::BPF_B, 0), test(libc::BPF_JEQ, kind, 1)]);
            }
        }
        program.push(plain(libc::BPF_RET | libc::BPF_K, WATCHED_BYTES_MAX));
        program.push(plain(libc::BPF_RET | libc::BPF_K, 0));
        program
    }
}

/// An instruction that goes on with the next.
fn plain(code: u32, k: u32) -> Instruction {
    Instruction {
        code: u16::try_from(code).expect("operations have 16 bits"),
        jt: 0,
        jf: 0,
        k,
    }
}

/// Loads from beyond the network header.
fn load(size: u32, at: u32) -> Instruction {
    plain(libc::BPF_LD | size | libc::BPF_IND, at)
}

/// Goes on with the next if the test holds, and otherwise skips so many.
fn test(how: u32, k: u32, skipped: u8) -> Instruction {
    Instruction {
        jf: skipped,
        ..plain(libc::BPF_JMP | how | libc::BPF_K, k)
    }
}
