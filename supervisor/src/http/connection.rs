//! Connections: accepted, limited in number and time, and asked to end when the server does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::bind::Socket;

/// Most connections at once; an idle one takes a few KiB.
pub const CONNECTIONS_MAX: usize = 2048;
/// Descriptors that calls and the supervisor itself need: connections get no more than the rest.
pub const DESCRIPTORS_KEPT: usize = 1024;
/// Longest wait for a request's line and headers, which an idle connection waits for as well.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes of a request's line and headers.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Longest wait for a client to take what is written to it.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a peer may leave unacknowledged what it was sent, before it counts as gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);
/// Silence on a connection after which the kernel asks whether the peer is still there.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// Rest after a connection could not be accepted: there are no descriptors, or no memory.
const REST: Duration = Duration::from_millis(100);
/// What is told where there are too many connections.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// A process of this user's.
    Unix {
        /// Its user when it connected.
        uid: u32,
    },
}

/// What all connections share.
#[derive(Clone)]
pub struct Connections {
    app: Router,
    places: Arc<Semaphore>,
    tracker: TaskTracker,
    /// No more connections, and no more requests on those that there are.
    draining: CancellationToken,
    /// Everything ends.
    ending: CancellationToken,
}

impl Connections {
    /// Serves these routes on at most so many connections.
    #[must_use]
    pub fn new(
        app: Router,
        most: usize,
        draining: CancellationToken,
        ending: CancellationToken,
    ) -> Self {
        Self {
            app,
            places: Arc::new(Semaphore::new(most)),
            tracker: TaskTracker::new(),
            draining,
            ending,
        }
    }

    /// Accepts connections on a socket, until the server drains.
    pub fn accept(&self, socket: Socket) -> io::Result<()> {
        let this = self.clone();
        match socket {
            Socket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                self.tracker
                    .spawn(async move { this.of_tcp(&listener).await });
            }
            Socket::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                self.tracker
                    .spawn(async move { this.of_unix(&listener).await });
            }
        }
        Ok(())
    }

    /// Waits until every connection has ended, and no more are accepted.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn of_tcp(&self, listener: &TcpListener) {
        while let Some(accepted) = self.next(listener.accept()).await {
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            set_options(&stream);
            self.open(stream, Peer::Tcp(address), refuse_tcp);
        }
    }

    async fn of_unix(&self, listener: &UnixListener) {
        while let Some(accepted) = self.next(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let Ok(credentials) = stream.peer_cred() else {
                continue;
            };
            let uid = credentials.uid();
            self.open(stream, Peer::Unix { uid }, refuse_unix);
        }
    }

    async fn next<T>(&self, accepting: impl Future<Output = T>) -> Option<T> {
        self.draining.run_until_cancelled(accepting).await
    }

    /// Serves a connection in a task of its own, if there is a place for it.
    fn open<S>(&self, stream: S, peer: Peer, refuse: fn(&S))
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            refuse(&stream);
            return;
        };
        let this = self.clone();
        self.tracker.spawn(async move {
            this.serve(stream, peer).await;
            drop(place);
        });
    }

    async fn serve<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME_MAX));
        let app = self.app.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            app.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            // A client that has closed its side is gone, and its call with it.
            .half_close(false)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What is wrong with a connection is its client's affair.
            _ = connection.as_mut() => return,
            () = self.draining.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = self.ending.cancelled() => {}
        }
    }
}

/// Notices peers that have vanished without a word.
fn set_options(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let milliseconds = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    let seconds = u32::try_from(SILENCE_MAX.as_secs()).unwrap_or(u32::MAX);
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &milliseconds);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &seconds);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
}

// A few bytes always fit into the buffer of a fresh connection.
fn refuse_tcp(stream: &TcpStream) {
    let _ = stream.try_write(FULL);
}

fn refuse_unix(stream: &UnixStream) {
    let _ = stream.try_write(FULL);
}
