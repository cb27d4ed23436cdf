//! Loopback up and every address the cell's own, in one message; see rtnetlink(7).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::OWN_ADDRESS;

/// Index of the loopback interface: the first that the kernel makes in a namespace.
const LOOPBACK: u32 = 1;
/// Largest answer: an error with the message that it is about.
const ANSWER_BYTES_MAX: usize = 512;
/// How many messages are sent.
const MESSAGES: usize = 4;
/// `NLMSG_HDRLEN`.
const HEADER_BYTES: usize = 16;

/// Takes the loopback interface up, gives it [`OWN_ADDRESS`], and makes every address of both families
/// local. False if the kernel is without IPv6, where no such address leads anywhere in any case.
pub(super) fn make_every_address_local() -> Result<bool, Errno> {
    // A netlink socket of its own kind and single purpose: it is closed on return.
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let messages = Messages::default()
        .link_up()
        .address(OWN_ADDRESS)
        .local_route(
            libc::AF_INET,
            &Ipv4Addr::UNSPECIFIED.octets(),
            Some(OWN_ADDRESS),
        )
        .local_route(libc::AF_INET6, &Ipv6Addr::UNSPECIFIED.octets(), None);
    send(socket.as_raw_fd(), &messages.bytes, MsgFlags::empty())?;
    // The kernel has worked through all of them by the time `send` returns, and has answered each.
    let mut answers = [Err(Errno::EPROTO); MESSAGES];
    for _ in 0..MESSAGES {
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let (number, answer) = read_answer(&buffer[..length]).ok_or(Errno::EPROTO)?;
        *answers.get_mut(number as usize).ok_or(Errno::EPROTO)? = answer;
    }
    let [link, address, v4, v6] = answers;
    link.and(address).and(v4)?;
    match v6 {
        Ok(()) => Ok(true),
        // Not built in; without support on this interface; disabled by `disable_ipv6`.
        Err(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Number of the message that an `NLMSG_ERROR` is about, and what became of it.
fn read_answer(bytes: &[u8]) -> Option<(u32, Result<(), Errno>)> {
    let word = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    let number = u32::from_ne_bytes(word(8)?);
    let answer = match i32::from_ne_bytes(word(HEADER_BYTES)?) {
        0 => Ok(()),
        error => Err(Errno::from_raw(error.checked_neg()?)),
    };
    Some((number, answer))
}

/// Messages to the kernel, numbered from 0, each to be answered.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    /// `struct ifinfomsg`: family, padding, type, index, flags, and which of them to change.
    fn link_up(self) -> Self {
        let up = (libc::IFF_UP.cast_unsigned()).to_ne_bytes();
        let mut body = vec![0; 4];
        body.extend(LOOPBACK.to_ne_bytes());
        body.extend(up);
        body.extend(up);
        self.add(libc::RTM_NEWLINK, 0, &body)
    }

    /// `struct ifaddrmsg`: family, length of the prefix, flags, scope, index.
    fn address(self, address: Ipv4Addr) -> Self {
        let mut body = vec![family(libc::AF_INET), 32, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(LOOPBACK.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &address.octets());
        self.add(libc::RTM_NEWADDR, libc::NLM_F_CREATE, &body)
    }

    /// `struct rtmsg`: family, lengths of both prefixes, TOS, table, who made it, scope, type, flags.
    fn local_route(self, of: i32, to: &[u8], source: Option<Ipv4Addr>) -> Self {
        let mut body = vec![
            family(of),
            0,
            0,
            0,
            libc::RT_TABLE_LOCAL,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_HOST,
            libc::RTN_LOCAL,
        ];
        body.extend(0_u32.to_ne_bytes());
        attribute(&mut body, libc::RTA_DST, to);
        attribute(&mut body, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        if let Some(source) = source {
            attribute(&mut body, libc::RTA_PREFSRC, &source.octets());
        }
        self.add(libc::RTM_NEWROUTE, libc::NLM_F_CREATE, &body)
    }

    /// `struct nlmsghdr`: length, type, flags, number, and no sender; then the body.
    fn add(mut self, kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let flags = u16::try_from(flags).expect("netlink's flags have 16 bits");
        let length = u32::try_from(HEADER_BYTES + body.len()).expect("messages are short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.count += 1;
        self
    }
}

fn family(family: i32) -> u8 {
    u8::try_from(family).expect("the families of addresses are small numbers")
}

/// Appends a `struct rtattr`. All values here are whole words, so nothing needs padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("attributes are short");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_number() {
        let answer = |error: i32| {
            let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 9, 9, 9, 9];
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert_eq!(read_answer(&answer(0)), Some((3, Ok(()))));
        assert_eq!(read_answer(&answer(-17)), Some((3, Err(Errno::EEXIST))));
        assert_eq!(read_answer(&answer(0)[..19]), None);
        assert_eq!(read_answer(&[]), None);
    }

    #[test]
    fn every_message_is_whole_words_and_as_long_as_it_says() {
        let messages = Messages::default()
            .link_up()
            .address(OWN_ADDRESS)
            .local_route(libc::AF_INET6, &[0; 16], Some(OWN_ADDRESS));
        let mut rest = messages.bytes.as_slice();
        for number in 0..3_u8 {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!((length % 4, rest[8]), (0, number));
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    }
}
