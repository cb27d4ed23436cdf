//! The client: knows nothing of cells, and of proxies what srt's variables tell every program.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use crate::figure;
use crate::server::{DOWNLOAD_BYTES, PORT};

/// New connections that are timed, after some that are not.
const CONNECTIONS: usize = 400;
/// Requests over one connection that are timed.
const REQUESTS: usize = 3000;
const WARM_UP: usize = 50;

/// What the client measures.
pub struct Figures {
    /// Of the download, per second.
    pub mebibytes: f64,
    /// Median of microseconds for a new connection with a small GET.
    pub connection: f64,
    /// The same for a small GET on an open one.
    pub request: f64,
}

impl Figures {
    /// What the client printed.
    pub fn read(said: &str) -> Self {
        let said: Value = serde_json::from_str(said).expect("the client prints JSON");
        Self {
            mebibytes: figure(&said, "mebibytes"),
            connection: figure(&said, "connection"),
            request: figure(&said, "request"),
        }
    }
}

/// How the server is reached.
struct Way {
    address: SocketAddr,
    /// What is said to a proxy first.
    tunnel: Option<String>,
    host: String,
}

/// Measures, and prints the figures.
pub fn main(host: &str) -> ExitCode {
    let way = Way::find(host).expect("the server's name is known");
    let mut connection = way.connect().expect("the server answers");
    let begun = Instant::now();
    let got = way.get(&mut connection, "/much").expect("it downloads");
    assert_eq!(got, DOWNLOAD_BYTES);
    let seconds = begun.elapsed().as_secs_f64();
    let timed = |times: usize, once: &mut dyn FnMut() -> io::Result<()>| {
        let mut taken = Vec::with_capacity(times);
        for _ in 0..WARM_UP + times {
            let begun = Instant::now();
            once().expect("it is answered");
            taken.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        let mut taken = taken.split_off(WARM_UP);
        taken.sort_by(f64::total_cmp);
        taken[taken.len() / 2]
    };
    let request = timed(REQUESTS, &mut || way.get(&mut connection, "/").map(drop));
    let connection = timed(CONNECTIONS, &mut || {
        way.get(&mut way.connect()?, "/").map(drop)
    });
    let mebibytes = u32::try_from(DOWNLOAD_BYTES >> 20).expect("it is 1 GiB");
    let mebibytes = f64::from(mebibytes) / seconds;
    let said = json!({ "mebibytes": mebibytes, "connection": connection, "request": request });
    println!("{said}");
    ExitCode::SUCCESS
}

impl Way {
    fn find(host: &str) -> io::Result<Self> {
        let first = |name: &str| {
            let mut found = name.to_socket_addrs()?;
            found
                .next()
                .ok_or_else(|| io::Error::other("it has no address"))
        };
        let named = format!("{host}:{PORT}");
        // `http://USER:PASSWORD@HOST:PORT`
        let proxy = std::env::var("http_proxy").ok();
        let proxy = proxy
            .as_deref()
            .and_then(|url| url.strip_prefix("http://")?.split_once('@'));
        let Some((user, at)) = proxy else {
            return Ok(Self {
                address: first(&named)?,
                tunnel: None,
                host: named,
            });
        };
        let tunnel = format!(
            "CONNECT {named} HTTP/1.1\r\nHost: {named}\r\nProxy-Authorization: Basic {}\r\n\r\n",
            base64(user.as_bytes())
        );
        Ok(Self {
            address: first(at)?,
            tunnel: Some(tunnel),
            host: named,
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        if let Some(tunnel) = &self.tunnel {
            stream.write_all(tunnel.as_bytes())?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            assert!(
                head.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&head)
            );
        }
        Ok(stream)
    }

    /// Asks for a path and reads the whole answer; returns the bytes of its body.
    fn get(&self, stream: &mut TcpStream, path: &str) -> io::Result<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        stream.write_all(request.as_bytes())?;
        let mut buffer = vec![0; if path == "/" { 4096 } else { 256 << 10 }];
        let mut got = stream.read(&mut buffer)?;
        let head = |bytes: &[u8]| bytes.windows(4).position(|end| end == b"\r\n\r\n");
        while head(&buffer[..got]).is_none() {
            let more = stream.read(&mut buffer[got..])?;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += more;
        }
        let end = head(&buffer[..got]).expect("it was found") + 4;
        let text = String::from_utf8_lossy(&buffer[..end]);
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length
            .and_then(|text| text.parse().ok())
            .expect("the server says it");
        let mut body = got - end;
        while body < length {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => body += more,
            }
        }
        Ok(body)
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() {
                letter.into()
            } else {
                '='
            });
        }
    }
    text
}
