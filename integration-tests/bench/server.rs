//! The server: a thread for each connection, and as little work as there can be.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

/// Where it listens; the internet's own servers have other ports.
pub const PORT: u16 = 9100;
/// The large answer.
pub const DOWNLOAD_BYTES: usize = 1 << 30;
const BLOCK_BYTES: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 4096;

/// Serves until standard input ends.
pub fn main() -> ExitCode {
    let listener = TcpListener::bind(("::", PORT)).expect("the port is free");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve(client));
        }
    });
    let _ = io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

/// Answers requests until the client goes.
fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let block = vec![b'x'; BLOCK_BYTES];
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut got = 0;
    loop {
        match client.read(&mut head[got..])? {
            0 => return Ok(()),
            more => got += more,
        }
        if !head[..got].ends_with(b"\r\n\r\n") {
            continue;
        }
        let length = if head.starts_with(b"GET /much ") {
            DOWNLOAD_BYTES
        } else {
            128
        };
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        let first = length.min(BLOCK_BYTES);
        answer.extend_from_slice(&block[..first]);
        client.write_all(&answer)?;
        for _ in 1..length / BLOCK_BYTES {
            client.write_all(&block)?;
        }
        got = 0;
    }
}
