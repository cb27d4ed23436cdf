//! Sockets: kinds, options, and where they lead.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::raw::{self, syscall};
use crate::{Attempt, Found, argument, errno, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("socket", socket),
    ("option", option),
    ("fast_open", fast_open),
    ("fast_open_option", fast_open_option),
    ("tcp", tcp),
    ("udp", udp),
    ("bind_tcp", bind_tcp),
    ("own_tcp", own_tcp),
    ("own_udp", own_udp),
    ("unix", unix),
    ("unix_datagram", unix_datagram),
    ("pair_datagram", pair_datagram),
    ("own_unix", own_unix),
    ("abstract", abstract_name),
    ("own_abstract", own_abstract),
    ("interfaces", interfaces),
];

/// Longest wait for an answer; what the tests connect to answers at once or not at all.
const WAIT: Duration = Duration::from_secs(5);

fn done<T>(result: std::io::Result<T>) -> Found {
    result.map(|_| String::new()).map_err(|error| errno(&error))
}

fn open(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    syscall!(libc::SYS_socket, family, kind, protocol).map(raw::descriptor)
}

/// `socket FAMILY KIND PROTOCOL`
fn socket(arguments: &[String]) -> Found {
    open(
        number(arguments, 0),
        number(arguments, 1),
        number(arguments, 2),
    )?;
    Ok(String::new())
}

/// `option LEVEL NAME filter|text`: on a TCP socket.
fn option(arguments: &[String]) -> Found {
    let socket = open(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let (level, name): (i32, i32) = (number(arguments, 0), number(arguments, 1));
    // A program of one instruction: accept everything.
    let instruction = [0x06, 0, 0, 0, 0xff, 0xff, 0, 0_u8];
    let program = [1, instruction.as_ptr() as usize]
        .map(usize::to_ne_bytes)
        .concat();
    let value = match argument(arguments, 2) {
        "filter" => program,
        text => text.as_bytes().to_vec(),
    };
    syscall!(
        libc::SYS_setsockopt,
        socket.as_raw_fd(),
        level,
        name,
        &value[..],
        value.len()
    )?;
    Ok(String::new())
}

/// `fast_open PORT`: connects to this host's loopback by sending.
fn fast_open(arguments: &[String]) -> Found {
    let socket = open(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let port: u16 = number(arguments, 0);
    let [high, low] = port.to_be_bytes();
    let mut address = [0, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0_u8];
    address[..2].copy_from_slice(&2_u16.to_ne_bytes());
    let data = b"hello";
    syscall!(
        libc::SYS_sendto,
        socket.as_raw_fd(),
        &data[..],
        data.len(),
        libc::MSG_FASTOPEN,
        &address[..],
        address.len()
    )?;
    Ok(String::new())
}

/// `fast_open_option`
fn fast_open_option(_: &[String]) -> Found {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let socket = open(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let on = 1_i32.to_ne_bytes();
    syscall!(
        libc::SYS_setsockopt,
        socket.as_raw_fd(),
        libc::IPPROTO_TCP,
        TCP_FASTOPEN_CONNECT,
        &on[..],
        on.len()
    )?;
    Ok(String::new())
}

fn address(arguments: &[String]) -> SocketAddr {
    argument(arguments, 0)
        .parse()
        .expect("an address with a port")
}

/// `tcp ADDRESS:PORT`
fn tcp(arguments: &[String]) -> Found {
    done(TcpStream::connect_timeout(&address(arguments), WAIT))
}

/// `udp ADDRESS:PORT`: sends without connecting, which Landlock has no say over.
fn udp(arguments: &[String]) -> Found {
    let to = address(arguments);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    done(UdpSocket::bind(any).and_then(|socket| socket.send_to(b"hello", to)))
}

/// `bind_tcp ADDRESS:PORT`
fn bind_tcp(arguments: &[String]) -> Found {
    done(TcpListener::bind(address(arguments)))
}

/// `own_tcp`: a server and its client, both here.
fn own_tcp(_: &[String]) -> Found {
    done((|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect_timeout(&listener.local_addr()?, WAIT)?;
        let (mut server, _) = listener.accept()?;
        server.write_all(b"hello")?;
        client.read_exact(&mut [0; 5])
    })())
}

/// `own_udp`: the same with datagrams.
fn own_udp(_: &[String]) -> Found {
    done((|| {
        let server = UdpSocket::bind("127.0.0.1:0")?;
        server.set_read_timeout(Some(WAIT))?;
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.send_to(b"hello", server.local_addr()?)?;
        server.recv(&mut [0; 5])
    })())
}

/// `unix PATH`
fn unix(arguments: &[String]) -> Found {
    done(UnixStream::connect(argument(arguments, 0)))
}

/// `unix_datagram PATH`
fn unix_datagram(arguments: &[String]) -> Found {
    let socket = UnixDatagram::unbound();
    done(socket.and_then(|socket| socket.send_to(b"hello", argument(arguments, 0))))
}

/// `pair_datagram PATH`: sends away from a pair to another address.
fn pair_datagram(arguments: &[String]) -> Found {
    let pair = UnixDatagram::pair();
    done(pair.and_then(|(socket, _other)| socket.send_to(b"hello", argument(arguments, 0))))
}

/// `own_unix DIRECTORY`: a server and its client, both here.
fn own_unix(arguments: &[String]) -> Found {
    let path = format!("{}/socket", argument(arguments, 0));
    done((|| {
        let listener = UnixListener::bind(&path)?;
        let mut client = UnixStream::connect(&path)?;
        let (mut server, _) = listener.accept()?;
        server.write_all(b"hello")?;
        client.read_exact(&mut [0; 5])
    })())
}

fn abstract_address(arguments: &[String]) -> std::io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(argument(arguments, 0))
}

/// `abstract NAME`: connects to it.
fn abstract_name(arguments: &[String]) -> Found {
    done(abstract_address(arguments).and_then(|address| UnixStream::connect_addr(&address)))
}

/// `own_abstract NAME`: a server and its client, both here.
fn own_abstract(arguments: &[String]) -> Found {
    done((|| {
        let address = abstract_address(arguments)?;
        let listener = UnixListener::bind_addr(&address)?;
        let _client = UnixStream::connect_addr(&address)?;
        listener.accept()
    })())
}

/// `interfaces`: names of the network's interfaces.
fn interfaces(_: &[String]) -> Found {
    let text = std::fs::read_to_string("/proc/net/dev").map_err(|error| errno(&error))?;
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    Ok(names.join(","))
}
