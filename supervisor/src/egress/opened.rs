//! TLS that is opened, in the gateway: towards the tool by the cell's own authority, towards the
//! server by the host's, and between the two each request with the headers that the profile adds.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use profiles::egress::Name;
use runner::spec::APPENDED_BYTES_MAX;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::connection::{Connection, End, Stop};
use super::denied;
use super::dial::Destination;
use super::echoes::{Echoes, Found};
use super::opening::holds_now;
use super::relay::{self, LastMoved};
use super::requests::Requests;
use super::verify::{Peer, Violation, Wrong};
use super::wire::{Header, Opened};
use crate::outcome::Denial;

/// The one protocol that is spoken: each request can be seen, and the next one after it.
const ALPN: &[u8] = b"http/1.1";
/// Longest wait for a handshake with either side.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a tool to take the answer that refuses its request, and to end.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// Most bytes that are still taken from it meanwhile.
const REFUSED_BYTES_MAX: u64 = 1 << 20;
/// How long the last bytes of what a server sent wait for those behind them.
const HELD_MAX: Duration = Duration::from_millis(50);
/// How much is read at a time.
const READ_BYTES: usize = 16 * 1024;

type Client<'a> = server::TlsStream<Socket<'a>>;
type Server<'a> = client::TlsStream<Socket<'a>>;

/// What opens the TLS of one cell.
pub struct Opener {
    headers: Vec<Header>,
    towards_tool: Arc<ServerConfig>,
    towards_server: Arc<ClientConfig>,
}

impl Opener {
    /// Takes what the supervisor made for the call, and the host's authorities.
    ///
    /// # Errors
    /// If they are not what they should be.
    pub fn new(opened: Opened, bundle: OwnedFd) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut pem = Vec::new();
        File::from(bundle)
            .take(APPENDED_BYTES_MAX)
            .read_to_end(&mut pem)?;
        let mut roots = RootCertStore::empty();
        // One that is none does no harm: servers are checked by the others.
        let listed = CertificateDer::pem_slice_iter(&pem).flatten();
        roots.add_parsable_certificates(listed.filter(holds_now));
        if roots.is_empty() {
            return Err(io::Error::other("the host has no certificate authorities"));
        }
        let mut towards_server = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        towards_server.alpn_protocols = vec![ALPN.to_vec()];
        let key = PrivatePkcs8KeyDer::from(opened.key.expose().to_vec());
        let mut towards_tool = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(opened.certificate)],
                PrivateKeyDer::from(key),
            )
            .map_err(io::Error::other)?;
        towards_tool.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            headers: opened.headers,
            towards_tool: Arc::new(towards_tool),
            towards_server: Arc::new(towards_server),
        })
    }

    /// Whether TLS to a host is opened.
    #[must_use]
    pub fn opens(&self, name: &Name, port: u16) -> bool {
        self.headers_for(name, port).next().is_some()
    }

    fn headers_for(&self, name: &Name, port: u16) -> impl Iterator<Item = &Header> {
        let headers = self.headers.iter();
        headers.filter(move |header| header.injection.is_for(name, port))
    }
}

impl Connection {
    /// What opens this connection's TLS, if anything does, and the name that it is to.
    #[must_use]
    pub fn opener(&self) -> Option<(&Opener, &Name)> {
        let opener = self.cell.opener.as_ref()?;
        match &self.destination {
            Destination::Name(name) | Destination::Machine(name) => {
                opener.opens(name, self.port).then_some((opener, name))
            }
            Destination::Address(_) => None,
        }
    }

    /// Serves a connection whose TLS is opened, from its ClientHello, which was checked.
    ///
    /// The server comes first: if it is not to be trusted, the tool sees an error at once.
    pub(super) async fn open(
        &self,
        (opener, name): (&Opener, &Name),
        client: &TcpStream,
        hello: Vec<u8>,
    ) -> Result<End, Stop> {
        let (destination, port) = (&self.destination, self.port);
        let stream = self.dial().await?;
        let account = self.cell.account_of(denied::endpoint(destination, port));
        account.connections.fetch_add(1, Ordering::Relaxed);
        let outcome = async {
            let named = ServerName::try_from(name.to_string())
                .map_err(|error| denied::untrusted(destination, port, &io::Error::other(error)))?;
            let connector = TlsConnector::from(Arc::clone(&opener.towards_server));
            let connecting = connector.connect(named, Socket::new(&stream, vec![]));
            let server = shake(connecting)
                .await
                .map_err(|error| denied::untrusted(destination, port, &error))?;
            let acceptor = TlsAcceptor::from(Arc::clone(&opener.towards_tool));
            let accepting = acceptor.accept(Socket::new(client, hello));
            let client = shake(accepting)
                .await
                .map_err(|error| denied::not_opened(destination, port, &error))?;
            let headers = opener.headers_for(name, port).collect();
            let secrets = opener
                .headers_for(name, port)
                .map(|one| one.secret.expose());
            let looking = (
                Requests::new(headers, Peer::Name(name.clone()), port),
                Echoes::of(secrets),
            );
            let counts = (&account.sent, &account.received);
            self.relay_opened(client, server, looking, counts).await
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            relay::reset(stream);
        }
        outcome.map(|()| End::Finished)
    }

    /// Moves requests and answers until both directions are finished, or one fails.
    async fn relay_opened(
        &self,
        client: Client<'_>,
        server: Server<'_>,
        (requests, echoes): (Requests<'_>, Echoes<'_>),
        (sent, received): (&AtomicU64, &AtomicU64),
    ) -> Result<(), Stop> {
        let last = LastMoved::default();
        let awaited = AtomicBool::new(false);
        let (mut from_tool, mut to_tool) = split(client);
        let (from_server, to_server) = split(server);
        let ended = {
            let from = &mut from_tool;
            let outwards = self.requests(requests, from, to_server, (sent, &last), &awaited);
            let towards = (&mut to_tool, echoes);
            let backwards = self.answers(from_server, towards, (received, &last), &awaited);
            tokio::pin!(outwards, backwards);
            tokio::select! {
                ended = &mut outwards => match ended {
                    Ok(()) => backwards.await.map_err(Ended::from),
                    Err(ended) => Err(ended),
                },
                // Who has nothing more to say is not asked.
                ended = &mut backwards => ended.map_err(Ended::from),
            }
        };
        match ended {
            Ok(()) => Ok(()),
            Err(Ended::Stopped(stop)) => Err(stop),
            Err(Ended::Refused(violation)) => {
                // Before an earlier request is answered, ours would be taken for its answer.
                if !awaited.load(Ordering::Relaxed) {
                    let answer = refusal(&violation);
                    let telling = async {
                        to_tool.write_all(answer.as_bytes()).await?;
                        to_tool.shutdown().await?;
                        // Who is still sending reads the answer only then, and not after a reset.
                        let mut rest = from_tool.take(REFUSED_BYTES_MAX);
                        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
                    };
                    // The connection ends in either case.
                    let _ = timeout(REFUSAL_MAX, telling).await;
                }
                Err(Stop::Denied(denial_of(&violation)))
            }
        }
    }

    async fn requests(
        &self,
        mut requests: Requests<'_>,
        from: &mut (impl AsyncRead + Unpin),
        mut to: impl AsyncWrite + Unpin,
        (sent, last): (&AtomicU64, &LastMoved),
        awaited: &AtomicBool,
    ) -> Result<(), Ended> {
        let mut pending = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let mut taken = 0;
            // What is not a head goes on together: a chunk may be of one byte.
            let mut bodies = Vec::new();
            let refused = loop {
                let piece = match requests.next(&pending[taken..]) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break None,
                    Err(wrong) => break Some(wrong),
                };
                // What is added is not the tool's, and how long it is nobody's business.
                self.account(piece.taken, sent, last)?;
                taken += piece.taken;
                if piece.head {
                    last.unless_forgotten(to.write_all(&bodies)).await?;
                    bodies.clear();
                    awaited.store(true, Ordering::Relaxed);
                    last.unless_forgotten(to.write_all(&piece.sent)).await?;
                } else {
                    bodies.extend_from_slice(&piece.sent);
                }
            };
            last.unless_forgotten(to.write_all(&bodies)).await?;
            last.unless_forgotten(to.flush()).await?;
            if let Some(wrong) = refused {
                let violation = Violation::new(wrong, requests.peer(), self.port);
                return Err(Ended::Refused(violation));
            }
            pending.drain(..taken);
            match last.unless_forgotten(from.read(&mut buffer)).await {
                Ok(read) if read > 0 => pending.extend_from_slice(&buffer[..read]),
                // What was not said to its end is not forwarded.
                Ok(_) => return Ok(last.unless_forgotten(to.shutdown()).await?),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(last.unless_forgotten(to.shutdown()).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        (to, mut echoes): (&mut (impl AsyncWrite + Unpin), Echoes<'_>),
        (received, last): (&AtomicU64, &LastMoved),
        awaited: &AtomicBool,
    ) -> Result<(), Stop> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let reading = last.unless_forgotten(from.read(&mut buffer));
            let read = if echoes.waits() {
                match timeout(HELD_MAX, reading).await {
                    Ok(read) => read,
                    Err(_late) => {
                        last.unless_forgotten(to.write_all(&echoes.release()))
                            .await?;
                        last.unless_forgotten(to.flush()).await?;
                        continue;
                    }
                }
            } else {
                reading.await
            };
            match read {
                Ok(read) if read > 0 => {
                    self.account(read, received, last)?;
                    awaited.store(false, Ordering::Relaxed);
                    let (passed, found) = match echoes.pass(&buffer[..read]) {
                        Ok(passed) => (passed, false),
                        Err(Found { before }) => (before, true),
                    };
                    last.unless_forgotten(to.write_all(&passed)).await?;
                    // An answer may come in events, each of which is waited for.
                    last.unless_forgotten(to.flush()).await?;
                    if found {
                        return Err(denied::sent_back(&self.destination, self.port).into());
                    }
                }
                Ok(_) => {
                    last.unless_forgotten(to.write_all(&echoes.release()))
                        .await?;
                    return Ok(last.unless_forgotten(to.shutdown()).await?);
                }
                // The server did not say that this is the end, and so neither do we.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    last.unless_forgotten(to.write_all(&echoes.release()))
                        .await?;
                    return Ok(last.unless_forgotten(to.flush()).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn account(&self, bytes: usize, moved: &AtomicU64, last: &LastMoved) -> Result<(), Stop> {
        let flow = relay::Flow {
            budget: &self.cell.budget,
            moved,
            last,
        };
        if flow.account(bytes) {
            Ok(())
        } else {
            Err(Stop::Denied(denied::too_many_bytes(self.cell.bytes)))
        }
    }
}

/// Why requests are no longer passed on.
enum Ended {
    /// One is refused.
    Refused(Violation),
    /// As any relay ends.
    Stopped(Stop),
}

impl<T: Into<Stop>> From<T> for Ended {
    fn from(stop: T) -> Self {
        Self::Stopped(stop.into())
    }
}

/// A refused request, as it is told.
fn denial_of(violation: &Violation) -> Denial {
    let mut denial = violation.denial();
    // With any protocol there would be no request to add a header to.
    denial.allow_with.clear();
    denial
}

/// What a tool is answered in the server's place.
fn refusal(violation: &Violation) -> String {
    let status = match violation.wrong {
        Wrong::Host(_) | Wrong::Port(_) => "421 Misdirected Request",
        Wrong::Malformed(_) => "400 Bad Request",
        _ => "403 Forbidden",
    };
    let text = format!("toolcell: {}: {}\n", violation.what, violation.rule);
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}",
        text.len()
    )
}

/// Waits for a handshake, and not forever.
async fn shake<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no handshake in time");
    timeout(HANDSHAKE_MAX, handshake)
        .await
        .map_err(|_| late())?
}

/// A connection that somebody else resets, if it comes to that, with what was read of it already.
struct Socket<'a> {
    stream: &'a TcpStream,
    pending: Vec<u8>,
}

impl<'a> Socket<'a> {
    fn new(stream: &'a TcpStream, pending: Vec<u8>) -> Self {
        Self { stream, pending }
    }
}

impl AsyncRead for Socket<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.pending.is_empty() {
            let bytes = self.pending.len().min(buffer.remaining());
            buffer.put_slice(&self.pending[..bytes]);
            self.pending.drain(..bytes);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(relay::finish(self.stream))
    }
}
