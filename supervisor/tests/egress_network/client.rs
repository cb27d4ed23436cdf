//! The tool in the cell: does what it is told line by line, and says what came of it.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// First argument of this executable as the tool.
pub const ARGUMENT: &str = "client";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers each line of standard input with one on standard output.
pub fn main() {
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("orders are text");
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let what = word().to_owned();
        let address = word().parse().unwrap_or(SocketAddr::from(([0; 4], 0)));
        let done = match what.as_str() {
            "tcp" => connect(address),
            "udp" => query(address, "x"),
            "query" => query(address, word()),
            "leave" => leave(address),
            "own" => own(address, false),
            "abort" => own(address, true),
            "sockets" => Ok(format!("sockets {}", sockets())),
            "keep" => keep(address),
            _ => Ok("what".to_owned()),
        };
        let answer = done.unwrap_or_else(|error| {
            let number = error.raw_os_error();
            number.map_or_else(|| error.to_string(), |number| format!("error {number}"))
        });
        println!("{answer}");
    }
}

fn connect(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(format!("connected {text}"))
}

fn towards(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    Ok(socket)
}

fn query(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let socket = towards(address)?;
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    Ok(format!("reply {text}"))
}

fn leave(address: SocketAddr) -> std::io::Result<String> {
    towards(address)?.send(b"x")?;
    Ok("left".to_owned())
}

/// Serves and connects to itself; with `abort` the client breaks the connection with a reset.
fn own(address: SocketAddr, abort: bool) -> std::io::Result<String> {
    let listener = TcpListener::bind(address)?;
    let mut to = listener.local_addr()?;
    if to.ip().is_unspecified() {
        to.set_ip([127, 0, 0, 1].into());
    }
    let mut client = TcpStream::connect_timeout(&to, PATIENCE)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"own")?;
    let mut text = [0; 3];
    server.read_exact(&mut text)?;
    if abort {
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, sockopt::Linger, &at_once)?;
        drop(client);
        let broken = server.read(&mut text).is_err();
        return Ok(if broken { "reset" } else { "closed" }.to_owned());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// How many sockets this process has.
fn sockets() -> usize {
    let numbers = std::fs::read_dir("/proc/self/fd").expect("the cell has a /proc");
    let links = numbers.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

fn keep(address: SocketAddr) -> std::io::Result<String> {
    let _kept = TcpStream::connect_timeout(&address, PATIENCE)?;
    Ok(format!("sockets {}", sockets()))
}
