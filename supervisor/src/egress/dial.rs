//! Connections out of the host: to addresses that were checked, or through the host's proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use profiles::egress::{Name, Plan, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::names::Names;
use super::wire::Proxy;

/// Longest wait for one connection, over all addresses of its host.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long one address is tried alone before the next is tried beside it (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Most addresses of one host that are tried.
const ADDRESSES_TRIED_MAX: usize = 8;
/// Longest head of a proxy's answer.
const PROXY_HEAD_BYTES_MAX: usize = 16 * 1024;
const PROXY_FIELDS_MAX: usize = 64;

/// What a connection in the cell stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A name.
    Name(Name),
    /// A service on the machine's own loopback, under a name.
    Machine(Name),
    /// An address that the tool named itself.
    Address(IpAddr),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The plan does not admit an address that the name led to.
    Refused {
        /// The address.
        address: IpAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The host could not be reached; this is no denial.
    Unreachable(String),
}

/// How connections are made.
#[derive(Clone)]
pub struct Dialer {
    /// How names are looked up.
    pub names: Names,
    /// What everything goes through, if the host says so.
    pub proxy: Option<Arc<Proxy>>,
}

impl Dialer {
    /// Connects to a destination, and only to addresses that the plan admits: the very ones that
    /// were checked.
    ///
    /// # Errors
    /// If none is admitted, or none can be reached in time.
    pub async fn connect(
        &self,
        plan: &Plan,
        destination: &Destination,
        port: u16,
    ) -> Result<TcpStream, DialError> {
        let connecting = async {
            match destination {
                Destination::Machine(_) => {
                    let loopback = [
                        IpAddr::from(Ipv4Addr::LOCALHOST),
                        IpAddr::from(Ipv6Addr::LOCALHOST),
                    ];
                    race(
                        loopback
                            .map(|address| SocketAddr::new(address, port))
                            .into(),
                    )
                    .await
                }
                Destination::Address(address) => race(vec![SocketAddr::new(*address, port)]).await,
                Destination::Name(name) => self.to_name(plan, name, port).await,
            }
        };
        let late = || unreachable(format!("no connection within {} s", CONNECT_MAX.as_secs()));
        timeout(CONNECT_MAX, connecting).await.map_err(|_| late())?
    }

    async fn to_name(&self, plan: &Plan, name: &Name, port: u16) -> Result<TcpStream, DialError> {
        if let Some(proxy) = self.proxy_for(name) {
            // It looks the name up itself, so that there is no address to check.
            return self.through(proxy, name, port).await;
        }
        let found = self.names.look_up(name).await.map_err(unreachable)?;
        let admitted = admitted(plan, found, port)?;
        race(admitted).await
    }

    fn proxy_for(&self, name: &Name) -> Option<&Proxy> {
        let proxy = self.proxy.as_deref()?;
        let excepted = proxy.except.iter().any(|except| {
            let except = except.trim_start_matches("*.").trim_start_matches('.');
            except == "*"
                || Name::parse(except)
                    .is_ok_and(|except| *name == except || name.is_beneath(&except))
        });
        (!excepted).then_some(proxy)
    }

    /// Has the proxy connect (RFC 9110, section 9.3.6).
    async fn through(&self, proxy: &Proxy, name: &Name, port: u16) -> Result<TcpStream, DialError> {
        let addresses = if let Ok(address) = proxy.host.parse::<IpAddr>() {
            vec![address]
        } else {
            let own = Name::parse(&proxy.host)
                .map_err(|error| unreachable(format!("the proxy `{}` {error}", proxy.host)))?;
            self.names.look_up(&own).await.map_err(unreachable)?
        };
        let addresses = addresses
            .into_iter()
            .map(|a| SocketAddr::new(a, proxy.port));
        let mut stream = race(addresses.collect()).await?;
        ask_proxy(&mut stream, proxy, name, port)
            .await
            .map_err(|error| unreachable(format!("through the host's proxy: {error}")))?;
        Ok(stream)
    }
}

/// The addresses that a name may lead to. If some may not, the others are still used; if none may,
/// the first says why.
fn admitted(plan: &Plan, found: Vec<IpAddr>, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let mut admitted = Vec::new();
    let mut refused = None;
    for address in found {
        match plan.admit_resolved(address, port) {
            Ok(()) => admitted.push(SocketAddr::new(address.to_canonical(), port)),
            Err(refusal) => {
                refused.get_or_insert(DialError::Refused { address, refusal });
            }
        }
    }
    match (admitted.is_empty(), refused) {
        (false, _) => Ok(admitted),
        (true, Some(refused)) => Err(refused),
        (true, None) => Err(unreachable("the name has no address".to_owned())),
    }
}

/// Connects to the first address that answers: the next is tried when one has failed, or has not
/// answered for a while.
async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    if let [only] = addresses.as_slice() {
        let stream = TcpStream::connect(*only).await;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        return Ok(stream);
    }
    let mut rest = interleaved(addresses).into_iter();
    let mut trying = JoinSet::new();
    let mut failure = io::Error::other("the name has no address");
    let mut more = true;
    loop {
        if more {
            match rest.next() {
                Some(address) => {
                    trying.spawn(TcpStream::connect(address));
                }
                None => more = false,
            }
        }
        tokio::select! {
            tried = trying.join_next() => match tried {
                Some(Ok(Ok(stream))) => {
                    // Small requests must not wait for the answer to the one before.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(unreachable(failure.to_string())),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if more => {}
        }
    }
}

/// IPv6 and IPv4 by turns, beginning with the family of the first (RFC 8305, section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return addresses;
    };
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let mut mixed = Vec::new();
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    loop {
        match (one.next(), other.next()) {
            (None, None) => break,
            (a, b) => mixed.extend([a, b].into_iter().flatten()),
        }
    }
    mixed.truncate(ADDRESSES_TRIED_MAX);
    mixed
}

async fn ask_proxy(
    stream: &mut TcpStream,
    proxy: &Proxy,
    name: &Name,
    port: u16,
) -> io::Result<()> {
    let mut request = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n");
    if let Some(user) = &proxy.authorization {
        request.push_str("Proxy-Authorization: Basic ");
        base64::engine::general_purpose::STANDARD.encode_string(user, &mut request);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    loop {
        // Byte by byte: what follows the head is the host's already.
        let byte = stream.read_u8().await?;
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            break;
        }
        if head.len() == PROXY_HEAD_BYTES_MAX {
            return Err(io::Error::other("its answer has no end"));
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; PROXY_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(&head).map_err(io::Error::other)?;
    match response.code {
        Some(200..=299) => Ok(()),
        Some(code) => Err(io::Error::other(format!("it answers {code}"))),
        None => Err(io::Error::other("its answer is no answer")),
    }
}

fn unreachable(why: String) -> DialError {
    DialError::Unreachable(why)
}
