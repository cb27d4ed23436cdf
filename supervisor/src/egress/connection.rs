//! One connection of a cell: looked at, connected on the host, relayed, accounted for.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiles::egress::{Admission, Protocol, Refusal};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::cell::{Cell, Use};
use super::denied;
use super::dial::{Destination, DialError};
use super::relay::{self, Channel, Chunk, Flow, LastMoved, READ_BYTES};
use super::verify::{PENDING_BYTES_MAX, Peer, Verdict, Verifier, tls};
use crate::outcome::Denial;

/// Longest wait until a client has said enough to know whom it means to talk to.
pub const FIRST_WORDS_MAX: Duration = Duration::from_secs(10);
/// How an answer begins that turns the connection into one of another protocol (RFC 9110, section
/// 15.2.2).
const SWITCHING: &[u8] = b"HTTP/1.1 101";

/// A connection that a tool has made.
pub struct Connection {
    /// The cell.
    pub cell: Arc<Cell>,
    /// What it stands for.
    pub destination: Destination,
    /// The port.
    pub port: u16,
}

/// How a connection came to its end.
pub(super) enum End {
    /// Both sides said that nothing more comes, or the client never said anything.
    Finished,
    /// A side reset it, or forgot it.
    Broken,
}

/// Serves a connection to its end. What is refused is reset, so that the tool sees an error at once.
pub async fn serve(connection: Connection, client: TcpStream) {
    let _ = client.set_nodelay(true);
    match connection.run(&client).await {
        Ok(End::Finished) => {}
        Ok(End::Broken) => relay::reset(client),
        Err(denial) => {
            connection.cell.deny(denial);
            relay::reset(client);
        }
    }
}

impl Connection {
    async fn run(&self, client: &TcpStream) -> Result<End, Denial> {
        let admission = self
            .admission()
            .map_err(|refusal| denied::connection(&self.destination, self.port, &refusal))?;
        let opener = self.opener();
        let allow_no_sni = self.cell.plan.allows_no_sni() && opener.is_none();
        let mut heard = Heard::new(self, admission.protocol, allow_no_sni);
        if admission.protocol == Protocol::Web {
            match heard.first_words_in_time(client).await {
                None => return Err(denied::silent(&self.destination, self.port)),
                Some(Ok(true)) => {}
                Some(Ok(false)) => return Ok(End::Finished),
                Some(Err(Stop::Denied(denial))) => return Err(denial),
                Some(Err(Stop::Broken)) => return Ok(End::Broken),
            }
        }
        if let Some(opener) = opener {
            if heard.pending.first() != Some(&tls::HANDSHAKE) {
                return Err(denied::not_tls(&self.destination, self.port));
            }
            return match self.open(opener, client, heard.pending).await {
                Ok(end) => Ok(end),
                Err(Stop::Denied(denial)) => Err(denial),
                Err(Stop::Broken) => Ok(End::Broken),
            };
        }
        let server = self.dial().await?;
        let account = self
            .cell
            .account_of(denied::endpoint(&self.destination, self.port));
        account.connections.fetch_add(1, Ordering::Relaxed);
        let relayed = self.relay(client, &server, heard, &account).await;
        match relayed {
            Ok(()) => Ok(End::Finished),
            Err(stop) => {
                relay::reset(server);
                match stop {
                    Stop::Denied(denial) => Err(denial),
                    Stop::Broken => Ok(End::Broken),
                }
            }
        }
    }

    fn admission(&self) -> Result<Admission, Refusal> {
        let plan = &self.cell.plan;
        match &self.destination {
            Destination::Name(name) | Destination::Machine(name) => plan.admit(name, self.port),
            Destination::Address(address) => plan.admit_address(*address, self.port),
        }
    }

    pub(super) async fn dial(&self) -> Result<TcpStream, Denial> {
        let (destination, port) = (&self.destination, self.port);
        let dialling = self.cell.dialer.connect(&self.cell.plan, destination, port);
        dialling.await.map_err(|error| match error {
            DialError::Refused { address, refusal } => {
                denied::led_to(destination, port, address, &refusal)
            }
            DialError::Unreachable(why) => denied::unreachable(destination, port, &why),
        })
    }

    /// Moves bytes both ways until both directions are finished, or one fails.
    async fn relay(
        &self,
        client: &TcpStream,
        server: &TcpStream,
        heard: Heard,
        account: &Use,
    ) -> Result<(), Stop> {
        let last = LastMoved::default();
        let flow = |moved| Flow {
            budget: &self.cell.budget,
            moved,
            last: &last,
        };
        let (out, back) = (flow(&account.sent), flow(&account.received));
        let Heard {
            pending,
            verifier,
            verdict,
        } = heard;
        let watched = Watched::new(verifier);
        let outwards = self.outwards(&out, client, server, (pending, verdict), &watched);
        let backwards = self.backwards(&back, server, client, &watched);
        let both = async { tokio::try_join!(outwards, backwards).map(drop) };
        tokio::select! {
            ended = both => ended,
            () = last.forgotten() => Err(Stop::Broken),
        }
    }

    /// From the tool: looked at as long as something can be seen, then passed on.
    async fn outwards(
        &self,
        flow: &Flow<'_>,
        client: &TcpStream,
        server: &TcpStream,
        (mut pending, mut verdict): (Vec<u8>, Verdict),
        watched: &Watched,
    ) -> Result<(), Stop> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            // Before anything is forwarded that the server could answer.
            let awaits = watched.verifier().awaits_upgrade();
            watched.awaits_upgrade.store(awaits, Ordering::Release);
            match verdict {
                Verdict::Opaque => {
                    self.forward(flow, server, &pending).await?;
                    drop((buffer, pending));
                    return self.pass(flow, client, server).await;
                }
                Verdict::Forward(bytes) => {
                    self.forward(flow, server, &pending[..bytes]).await?;
                    pending.drain(..bytes);
                }
                Verdict::Refuse(violation) => return Err(Stop::Denied(violation.denial())),
                Verdict::NeedMore => {
                    let read = tokio::select! {
                        read = flow.read(client, &mut buffer) => read?,
                        // What is pending may go on now.
                        () = watched.upgraded.notified() => 0,
                    };
                    if read == 0 && !watched.verifier().is_opaque() {
                        // What was not said to its end is not forwarded.
                        return Ok(relay::finish(server)?);
                    }
                    pending.extend_from_slice(&buffer[..read]);
                    debug_assert!(pending.len() <= PENDING_BYTES_MAX + READ_BYTES);
                }
            }
            verdict = watched.verifier().feed(&pending);
        }
    }

    /// To the tool: passed on, but for the moments in which an answer may end HTTP on the connection.
    async fn backwards(
        &self,
        flow: &Flow<'_>,
        server: &TcpStream,
        client: &TcpStream,
        watched: &Watched,
    ) -> Result<(), Stop> {
        let mut channel = Channel::default();
        loop {
            server.readable().await?;
            if watched.awaits_upgrade.load(Ordering::Acquire) {
                if self.answer(flow, server, client, watched).await? {
                    return Ok(relay::finish(client)?);
                }
                continue;
            }
            match flow.move_once(&mut channel, server, client).await? {
                Chunk::Moved(_) => {}
                Chunk::Finished => return Ok(relay::finish(client)?),
                Chunk::OverBudget => return Err(self.over_budget()),
            }
        }
    }

    /// Relays what comes while an upgrade is awaited, read as far as it takes to know whether it is
    /// the answer to it; true at the end.
    async fn answer(
        &self,
        flow: &Flow<'_>,
        server: &TcpStream,
        client: &TcpStream,
        watched: &Watched,
    ) -> Result<bool, Stop> {
        let mut buffer = vec![0; READ_BYTES];
        let mut length = 0;
        while length < SWITCHING.len() {
            let read = flow.read(server, &mut buffer[length..]).await?;
            if read == 0 {
                self.forward(flow, client, &buffer[..length]).await?;
                return Ok(true);
            }
            length += read;
        }
        if buffer.starts_with(SWITCHING) && watched.verifier().upgraded() {
            watched.awaits_upgrade.store(false, Ordering::Release);
            watched.upgraded.notify_one();
        }
        self.forward(flow, client, &buffer[..length]).await?;
        Ok(false)
    }

    async fn forward(&self, flow: &Flow<'_>, to: &TcpStream, bytes: &[u8]) -> Result<(), Stop> {
        if !flow.account(bytes.len()) {
            return Err(self.over_budget());
        }
        Ok(flow.write(to, bytes).await?)
    }

    async fn pass(&self, flow: &Flow<'_>, from: &TcpStream, to: &TcpStream) -> Result<(), Stop> {
        let mut channel = Channel::default();
        loop {
            from.readable().await?;
            match flow.move_once(&mut channel, from, to).await? {
                Chunk::Moved(_) => {}
                Chunk::Finished => return Ok(relay::finish(to)?),
                Chunk::OverBudget => return Err(self.over_budget()),
            }
        }
    }

    fn over_budget(&self) -> Stop {
        Stop::Denied(denied::too_many_bytes(self.cell.bytes))
    }
}

/// Why a relay stopped before both sides were finished.
pub(super) enum Stop {
    /// Something was refused.
    Denied(Denial),
    /// A side reset the connection, or forgot it.
    Broken,
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// What a client has said before there is a server to say it to.
struct Heard {
    pending: Vec<u8>,
    verifier: Verifier,
    /// What was last said of `pending`.
    verdict: Verdict,
}

impl Heard {
    fn new(connection: &Connection, protocol: Protocol, allow_no_sni: bool) -> Self {
        let peer = match &connection.destination {
            Destination::Name(name) | Destination::Machine(name) => Peer::Name(name.clone()),
            Destination::Address(address) => Peer::Address(*address),
        };
        Self::of(peer, connection.port, protocol, allow_no_sni)
    }

    fn of(peer: Peer, port: u16, protocol: Protocol, allow_no_sni: bool) -> Self {
        Self {
            pending: Vec::new(),
            verifier: Verifier::new(peer, port, protocol, allow_no_sni),
            verdict: match protocol {
                Protocol::Web => Verdict::NeedMore,
                Protocol::Tcp => Verdict::Opaque,
            },
        }
    }

    /// The same, or nothing if that takes longer than [`FIRST_WORDS_MAX`].
    async fn first_words_in_time(&mut self, client: &TcpStream) -> Option<Result<bool, Stop>> {
        let words = self.first_words(client);
        timeout(FIRST_WORDS_MAX, words).await.ok()
    }

    /// Listens until the client has said something that may be forwarded; false if it closed before.
    async fn first_words(&mut self, client: &TcpStream) -> Result<bool, Stop> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            client.readable().await?;
            match relay::try_read(client, &mut buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => self.pending.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            match self.verifier.feed(&self.pending) {
                Verdict::NeedMore => {}
                Verdict::Refuse(violation) => return Err(Stop::Denied(violation.denial())),
                verdict => {
                    self.verdict = verdict;
                    return Ok(true);
                }
            }
        }
    }
}

/// A verifier that both directions have to do with.
struct Watched {
    verifier: Mutex<Verifier>,
    /// Whether the server's next bytes may be the answer that ends HTTP on the connection.
    awaits_upgrade: AtomicBool,
    /// Told when they were.
    upgraded: Notify,
}

impl Watched {
    fn new(verifier: Verifier) -> Self {
        Self {
            verifier: Mutex::new(verifier),
            awaits_upgrade: AtomicBool::new(false),
            upgraded: Notify::new(),
        }
    }

    fn verifier(&self) -> MutexGuard<'_, Verifier> {
        self.verifier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiles::egress::Name;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    /// What becomes of a client that says this and no more, and how long that takes.
    async fn says(words: &[u8]) -> (Option<bool>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connected, listener.accept());
        let (mut client, (accepted, _)) = (client.unwrap(), accepted.unwrap());
        client.write_all(words).await.unwrap();
        let peer = Peer::Name(Name::parse("www.example.org").unwrap());
        let mut heard = Heard::of(peer, 80, Protocol::Web, false);
        // The clock goes on by itself whenever nobody has anything to do.
        tokio::time::pause();
        let begun = Instant::now();
        let words = heard.first_words_in_time(&accepted).await;
        let took = begun.elapsed();
        let words = words.map(|words| words.unwrap_or_else(|_| panic!("it was refused")));
        (words, took)
    }

    #[tokio::test]
    async fn a_client_that_says_too_little_is_given_up_in_time() {
        let silent: [&[u8]; 3] = [b"", b"GET / HTTP/1.1\r\nHost:", &[22, 3, 1, 2, 0, 1]];
        for words in silent {
            let (heard, took) = says(words).await;
            tokio::time::resume();
            assert_eq!(heard, None, "{words:?}");
            // A clock that is paused goes on by whole milliseconds.
            let latest = FIRST_WORDS_MAX + Duration::from_millis(100);
            assert!((FIRST_WORDS_MAX..latest).contains(&took), "{took:?}");
        }
        // The control: one that says whom it means is heard at once.
        let (heard, took) = says(b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n").await;
        assert_eq!(heard, Some(true));
        assert!(took < FIRST_WORDS_MAX, "{took:?}");
    }
}
