//! Messages between the supervisor and the gateway.
//!
//! One socket carries orders for the whole gateway. Each call has a socket of its own, on which the
//! supervisor says that the call is over by closing its half, and the gateway answers with what it
//! saw; so nothing of one call can be taken for another's.

use std::sync::Arc;

use profiles::egress::{Injection, Plan};
use serde::{Deserialize, Serialize};

use crate::outcome::{Denial, EgressUse};
use crate::secrets::Secret;

/// Largest message in bytes, either way: it must fit a socket's send buffer (212,992 bytes by
/// default, of which the kernel uses a part for itself).
pub const MESSAGE_BYTES_MAX: usize = 160 * 1024;
/// Most different hosts in one call's account; further ones are summed up.
pub const HOSTS_COUNTED_MAX: usize = 256;

/// An order to the gateway.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// How the host finds names and gets out. Descriptors: `resolv.conf` and `hosts`, open for
    /// reading, as far as `files` says that they are there.
    Host(Host),
    /// Serve a cell. Descriptors: the call's own socket; the host's authorities (PEM), open for
    /// reading, if TLS is opened; then those of [`runner::report::Report::Network`] in their order.
    Serve(Box<Service>),
}

/// What the gateway is told about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Whether `resolv.conf` comes along, and whether `hosts` does.
    pub files: (bool, bool),
    /// A proxy through which everything goes out.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy of the host's, which is asked with `CONNECT` (RFC 9110, section 9.3.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its host: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What its `Proxy-Authorization` field says, if its URL has a user.
    pub authorization: Option<String>,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    pub except: Vec<String>,
}

/// What one cell gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// What it may reach.
    pub plan: Arc<Plan>,
    /// How many watchers are among its sockets.
    pub watchers: u8,
    /// Most bytes of all its connections together, both ways.
    pub bytes: u64,
    /// Most connections at once.
    pub connections: u32,
    /// What is needed to open TLS, if the profile injects headers.
    pub opened: Option<Opened>,
}

/// What is needed to open TLS to some hosts and add headers to requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    /// The certificate that stands for all of these hosts, by the cell's own authority (DER).
    pub certificate: Vec<u8>,
    /// Its private key (PKCS #8).
    pub key: Secret,
    /// The headers.
    pub headers: Vec<Header>,
}

/// A header that is added to requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    /// To which, and what it says around the secret.
    pub injection: Injection,
    /// The secret.
    pub secret: Secret,
}

/// What the gateway saw of a call, at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What was denied.
    pub denials: Vec<Denial>,
    /// What was reached.
    pub reached: Vec<EgressUse>,
}
