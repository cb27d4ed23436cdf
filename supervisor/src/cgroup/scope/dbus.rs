//! As much of D-Bus as asking one question takes, by blocking calls with a deadline and no thread.
//!
//! Values are written and read by `zvariant`. Its client, `zbus`, is not used: it panics at the names
//! that systemd has on a socket of its own (it takes every sender for a bus's), and it wants a
//! runtime while the supervisor must be single-threaded. See the D-Bus specification, "Message
//! Protocol" and "Authentication Protocol".

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use serde::Serialize;
use zvariant::serialized::{Context, Data};
use zvariant::{DynamicType, LE, Value};

/// Longest line of the authentication.
const LINE_BYTES_MAX: usize = 1024;
/// Longest message: what systemd broadcasts of its units takes a few kilobytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The part of a header before its fields, with the length of these.
const FIXED_BYTES: usize = 16;
/// Fields of a header are followed by zeros up to a multiple of this.
const ALIGNMENT: usize = 8;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

const BUS: Interface = Interface {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    name: "org.freedesktop.DBus",
};

/// An interface of an object that somebody serves.
#[derive(Debug, Clone, Copy)]
pub struct Interface {
    pub destination: &'static str,
    pub path: &'static str,
    pub name: &'static str,
}

/// A connection on which nobody else talks.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
}

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The one who was called says no.
    #[error("{0}")]
    Refused(String),
    /// The connection failed, or what came on it makes no sense.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A message that came.
struct Message {
    kind: u8,
    reply_serial: Option<u32>,
    interface: Option<String>,
    member: Option<String>,
    error: Option<String>,
    body: Data<'static, 'static>,
}

impl Connection {
    /// Connects to a socket that root or this user serves: the way to it may come from the
    /// environment.
    pub fn open(path: &Path, uid: u32, deadline: Instant) -> io::Result<Self> {
        // A full queue is an error rather than a wait.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let server = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
        if server != 0 && server != uid {
            return Err(io::Error::other(format!("served by the user {server}")));
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        let mut connection = Self {
            stream,
            deadline,
            serial: 0,
        };
        connection.authenticate(uid)?;
        Ok(connection)
    }

    /// Registers with a message bus, and asks it for the signals of an interface.
    pub fn join_bus(&mut self, signals: &Interface) -> Result<(), CallError> {
        let _: Data<'_, '_> = self.call(&BUS, "Hello", &())?;
        let rule = format!("type='signal',interface='{}'", signals.name);
        let _: Data<'_, '_> = self.call(&BUS, "AddMatch", &(rule,))?;
        Ok(())
    }

    /// Says who we are, which the kernel confirms.
    fn authenticate(&mut self, uid: u32) -> io::Result<()> {
        let mut hexadecimal = String::new();
        for digit in uid.to_string().bytes() {
            write!(hexadecimal, "{digit:02x}").expect("a string takes it");
        }
        self.send(format!("\0AUTH EXTERNAL {hexadecimal}\r\n").as_bytes())?;
        let answer = self.line()?;
        if !answer.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(io::Error::other(format!(
                "it does not believe us: {answer}"
            )));
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method and returns what the answer holds. Signals that come before it are dropped.
    pub fn call<B>(
        &mut self,
        of: &Interface,
        method: &str,
        body: &B,
    ) -> Result<Data<'static, 'static>, CallError>
    where
        B: Serialize + DynamicType,
    {
        self.serial += 1;
        let serial = self.serial;
        let message = method_call(serial, of, method, body)?;
        self.send(&message)?;
        loop {
            let message = self.message()?;
            if message.reply_serial != Some(serial) {
                continue;
            }
            match message.kind {
                METHOD_RETURN => return Ok(message.body),
                ERROR => return Err(CallError::Refused(message.words())),
                _ => {}
            }
        }
    }

    /// Waits for the next signal of this name, and returns what it holds.
    pub fn signal(&mut self, of: &Interface, name: &str) -> io::Result<Data<'static, 'static>> {
        loop {
            let message = self.message()?;
            if message.kind == SIGNAL
                && message.interface.as_deref() == Some(of.name)
                && message.member.as_deref() == Some(name)
            {
                return Ok(message.body);
            }
        }
    }

    fn remaining(&self) -> io::Result<Duration> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(remaining)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        self.stream.write_all(bytes).map_err(late)
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            self.stream.set_read_timeout(Some(self.remaining()?))?;
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(late(error)),
            }
        }
        Ok(())
    }

    /// A line of the authentication, without its end: byte by byte, as messages may follow.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.len() < LINE_BYTES_MAX {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                return Ok(line);
            }
        }
        Err(malformed())
    }

    fn message(&mut self) -> io::Result<Message> {
        let mut bytes = vec![0; FIXED_BYTES];
        self.read(&mut bytes)?;
        // Whoever we call answers in the byte order of this machine.
        if bytes[0] != b'l' {
            return Err(malformed());
        }
        let number = |at: usize| {
            let four = bytes[at..at + 4].try_into().expect("four bytes are four");
            usize::try_from(u32::from_le_bytes(four)).unwrap_or(usize::MAX)
        };
        let (kind, body, fields) = (bytes[1], number(4), number(12));
        if body > MESSAGE_BYTES_MAX || fields > MESSAGE_BYTES_MAX {
            return Err(malformed());
        }
        let header = (FIXED_BYTES + fields).next_multiple_of(ALIGNMENT);
        bytes.resize(header + body, 0);
        self.read(&mut bytes[FIXED_BYTES..])?;
        Message::new(
            kind,
            &bytes[..FIXED_BYTES + fields],
            bytes[header..].to_vec(),
        )
    }
}

impl Message {
    fn new(kind: u8, header: &[u8], body: Vec<u8>) -> io::Result<Self> {
        type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);
        let header = Data::new(header, Context::new_dbus(LE, 0));
        let (parts, _): (Header<'_>, _) = header.deserialize().map_err(io::Error::other)?;
        let mut message = Self {
            kind,
            reply_serial: None,
            interface: None,
            member: None,
            error: None,
            body: Data::new(body, Context::new_dbus(LE, 0)),
        };
        for field in parts.6 {
            match field {
                (REPLY_SERIAL, Value::U32(serial)) => message.reply_serial = Some(serial),
                (INTERFACE, Value::Str(name)) => message.interface = Some(name.to_string()),
                (MEMBER, Value::Str(name)) => message.member = Some(name.to_string()),
                (ERROR_NAME, Value::Str(name)) => message.error = Some(name.to_string()),
                _ => {}
            }
        }
        Ok(message)
    }

    /// What an error says: its text if it has one, and else its name.
    fn words(&self) -> String {
        match self.body.deserialize::<&str>() {
            Ok((text, _)) if !text.is_empty() => text.to_owned(),
            _ => self.error.clone().unwrap_or_default(),
        }
    }
}

/// A whole message that calls a method.
fn method_call<B>(serial: u32, of: &Interface, method: &str, body: &B) -> io::Result<Vec<u8>>
where
    B: Serialize + DynamicType,
{
    let signature = body.signature().to_string_no_parens();
    let body = zvariant::to_bytes(Context::new_dbus(LE, 0), body).map_err(io::Error::other)?;
    let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    message.extend(length(body.len())?.to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend([0; 4]);
    let texts = [
        (PATH, b'o', of.path),
        (INTERFACE, b's', of.name),
        (MEMBER, b's', method),
        (DESTINATION, b's', of.destination),
    ];
    for (code, kind, text) in texts {
        pad(&mut message);
        message.extend([code, 1, kind, 0]);
        message.extend(length(text.len())?.to_le_bytes());
        message.extend(text.bytes());
        message.push(0);
    }
    if !signature.is_empty() {
        pad(&mut message);
        message.extend([SIGNATURE, 1, b'g', 0]);
        message.push(u8::try_from(signature.len()).map_err(io::Error::other)?);
        message.extend(signature.bytes());
        message.push(0);
    }
    let fields = length(message.len() - FIXED_BYTES)?;
    message[FIXED_BYTES - 4..FIXED_BYTES].copy_from_slice(&fields.to_le_bytes());
    pad(&mut message);
    message.extend_from_slice(&body);
    Ok(message)
}

fn pad(message: &mut Vec<u8>) {
    message.resize(message.len().next_multiple_of(ALIGNMENT), 0);
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it says is not D-Bus")
}

/// A time-out as what it is: the kernel says that there is nothing yet.
fn late(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(Errno::EAGAIN as i32) {
        io::ErrorKind::TimedOut.into()
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: Interface = Interface {
        destination: "org.example.Service",
        path: "/org/example",
        name: "org.example.Interface",
    };

    #[test]
    fn a_call_reads_back_as_what_was_called() {
        let properties = [("PIDs", Value::from(vec![7_u32]))];
        let body = ("name", &properties[..]);
        let bytes = method_call(5, &OF, "Start", &body).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let header = (FIXED_BYTES + number(12)).next_multiple_of(ALIGNMENT);
        assert_eq!(bytes.len(), header + number(4));
        let fields = &bytes[..FIXED_BYTES + number(12)];
        let signature = b"\x01g\0\x06sa(sv)\0";
        let has = |part: &[u8]| fields.windows(part.len()).any(|found| found == part);
        assert!(has(signature));
        let message = Message::new(bytes[1], fields, bytes[header..].to_vec()).unwrap();
        assert_eq!(message.member.as_deref(), Some("Start"));
        assert_eq!(message.interface.as_deref(), Some(OF.name));
        let ((name, read), _): ((&str, Vec<(&str, Value<'_>)>), _) =
            message.body.deserialize().unwrap();
        assert_eq!((name, read[0].0), ("name", "PIDs"));
        assert_eq!(read[0].1, Value::from(vec![7_u32]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection {
            stream: ours,
            deadline: Instant::now() + Duration::from_secs(10),
            serial: 0,
        };
        let mut large = [0; FIXED_BYTES];
        large[0] = b'l';
        large[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        for bytes in [&large[..], b"GET / HTTP/1.1\r\n"] {
            theirs.write_all(bytes).unwrap();
            let error = connection.message().map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        drop(theirs);
        let error = connection.message().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn who_says_nothing_is_waited_for_until_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection {
            stream: ours,
            deadline: Instant::now() + Duration::from_millis(20),
            serial: 0,
        };
        let error = connection.message().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
