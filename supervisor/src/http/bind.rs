//! Sockets to accept connections from: made, or taken over from systemd, before the supervisor
//! confines itself and can make none any more.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::sys::socket::{Backlog, getsockopt, listen, sockopt};
use nix::sys::stat::{Mode, umask};

/// Connections that may wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// Most sockets to listen on.
pub const SOCKETS_MAX: usize = 16;
/// What a Unix socket's mode lacks: others do not get in, and nobody executes it.
const SOCKET_MASK: Mode = Mode::S_IXUSR.union(Mode::S_IXGRP).union(Mode::S_IRWXO);

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, whose peers the kernel names.
    Unix(UnixListener),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("could not listen on `{address}`: {source}")]
    Address {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The path cannot be had.
    #[error("could not listen on `{}`: {source}", path.display())]
    Path {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens there, or it is no socket.
    #[error("`{}` is in use; hint: end who listens there, or choose another path", .0.display())]
    InUse(PathBuf),
    /// What systemd passed on is nothing to listen on.
    #[error(
        "descriptor {number} of socket activation is no stream socket that listens: {source}; hint: \
         `ListenStream=` in the socket unit"
    )]
    Activated {
        /// Its place among them.
        number: usize,
        /// What is wrong.
        source: io::Error,
    },
    /// More than anybody needs.
    #[error("more than {SOCKETS_MAX} sockets to listen on")]
    TooMany,
}

impl Socket {
    /// Whether only this machine, or who may open a file, reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(listener) => listener
                .local_addr()
                .is_ok_and(|address| address.ip().to_canonical().is_loopback()),
        }
    }

    /// Its own address, if it has one of TCP's.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}"),
                Err(_) => f.write_str("TCP"),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr();
                match address
                    .as_ref()
                    .ok()
                    .and_then(|address| address.as_pathname())
                {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("a Unix socket"),
                }
            }
        }
    }
}

/// Listens on an address of TCP.
pub fn tcp(address: SocketAddr) -> Result<Socket, BindError> {
    let made = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        // The kernel takes the new length for a socket that listens already.
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    });
    match made {
        Ok(listener) => Ok(Socket::Tcp(listener)),
        Err(source) => Err(BindError::Address { address, source }),
    }
}

/// Listens on a path, which its owner and their group may connect to. What a supervisor that is gone
/// has left there is replaced.
pub fn unix(path: &Path) -> Result<Socket, BindError> {
    let failed = |source| BindError::Path {
        path: path.to_owned(),
        source,
    };
    if let Ok(found) = fs::symlink_metadata(path) {
        let is_abandoned = found.file_type().is_socket()
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_abandoned {
            return Err(BindError::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    // There are no other threads yet that could make a file meanwhile.
    let before = umask(SOCKET_MASK);
    let bound = UnixListener::bind(path);
    umask(before);
    let made = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    });
    made.map(Socket::Unix).map_err(failed)
}

/// Takes over what systemd, or another that activates by sockets, has passed on (sd_listen_fds(3)).
pub fn activated() -> Result<Vec<Socket>, BindError> {
    let mut passed = ListenFd::from_env();
    if passed.len() > SOCKETS_MAX {
        return Err(BindError::TooMany);
    }
    let mut sockets = Vec::new();
    for number in 0..passed.len() {
        let failed = |source| BindError::Activated { number, source };
        let socket = match passed.take_unix_listener(number) {
            Ok(listener) => listener.map(Socket::Unix),
            Err(_) => passed
                .take_tcp_listener(number)
                .map_err(failed)?
                .map(Socket::Tcp),
        };
        let Some(socket) = socket else { continue };
        match &socket {
            Socket::Tcp(listener) => adopt(listener, |on| listener.set_nonblocking(on)),
            Socket::Unix(listener) => adopt(listener, |on| listener.set_nonblocking(on)),
        }
        .map_err(failed)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn adopt(listener: &impl AsFd, set_nonblocking: impl Fn(bool) -> io::Result<()>) -> io::Result<()> {
    if !getsockopt(listener, sockopt::AcceptConn)? {
        return Err(io::Error::other("it does not listen"));
    }
    set_nonblocking(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn loopback_is_local_and_everything_else_is_not() {
        for (address, local) in [
            ("127.0.0.1:0", true),
            ("127.9.9.9:0", true),
            ("0.0.0.0:0", false),
        ] {
            let socket = tcp(address.parse().unwrap()).unwrap();
            assert_eq!(socket.is_local(), local, "{address}");
        }
    }

    // One test, since the mask is the process's.
    #[test]
    fn a_path_has_its_mode_from_the_start_and_only_an_abandoned_one_is_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("socket");
        let first = unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(unix(&path), Err(BindError::InUse(_))));
        drop(first);
        unix(&path).unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "text").unwrap();
        assert!(matches!(unix(&file), Err(BindError::InUse(_))));
        assert_eq!(fs::read(&file).unwrap(), b"text");
    }
}
