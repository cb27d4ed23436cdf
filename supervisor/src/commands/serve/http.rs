//! `toolcell serve --listen`, `--socket`, and socket activation: the server for many.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use metrics_exporter_prometheus::BuildError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use url::Url;

use super::Stop;
use crate::commands::key::FileArgs;
use crate::commands::tell;
use crate::http::access::Access;
use crate::http::bind::{self, BindError, SOCKETS_MAX, Socket};
use crate::http::connection::{CONNECTIONS_MAX, DESCRIPTORS_KEPT};
use crate::http::{Metrics, Options, serve};
use crate::metrics;
use crate::service::Service;
use crate::systemd::Notifier;

/// Arguments of `toolcell serve` that are about HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpArgs {
    /// Serve over HTTP on this address, such as 127.0.0.1:8080 (may be repeated)
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "stdio")]
    pub listen: Vec<SocketAddr>,
    /// Serve over HTTP on a Unix socket, for its owner and their group (may be repeated)
    #[arg(long, value_name = "PATH", conflicts_with = "stdio")]
    pub socket: Vec<PathBuf>,
    /// A name by which clients may mean this server, besides localhost (may be repeated)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow_host: Vec<Authority>,
    /// An origin whose web pages may ask, such as https://app.example.org (may be repeated)
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub allow_origin: Vec<String>,
    /// A user of this machine who may ask on a Unix socket, and their roles (may be repeated)
    #[arg(long, value_name = "UID=ROLE[,ROLE]", value_parser = user)]
    pub allow_uid: Vec<(u32, Vec<String>)>,
    /// The keys that are asked for.
    #[command(flatten)]
    pub keys: FileArgs,
    /// Tell what is counted (Prometheus) at /metrics on this address
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "stdio")]
    pub metrics: Option<SocketAddr>,
    /// How long running calls may go on when the server is asked to end
    #[arg(long, value_name = "DURATION", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub drain: Duration,
}

/// Why it does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is no socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Whoever reaches the address could run tools.
    #[error(
        "not listening on `{0}`: others than this machine would reach it, and nobody is asked who \
         they are; hint: `toolcell key add NAME` makes a key, after which keys are asked for; or listen \
         on 127.0.0.1, or on `--socket PATH`"
    )]
    Open(String),
    /// Nothing is served that could be counted.
    #[error("`--metrics` is for a server that listens; hint: `--listen` or `--socket`")]
    OnlyMetrics,
    /// It cannot count.
    #[error("could not count: {0}")]
    Metrics(#[from] BuildError),
}

/// Where it listens, and who is let in.
#[derive(Debug)]
pub struct Listening {
    sockets: Vec<Socket>,
    metrics: Option<Socket>,
    access: Access,
}

impl HttpArgs {
    /// Makes the sockets that are asked for, and takes over those of socket activation. Without any it
    /// is standard input and output that is served.
    pub fn listen(&self, stdio: bool) -> Result<Option<Listening>, ListenError> {
        if stdio {
            return Ok(None);
        }
        let mut sockets = bind::activated()?;
        for address in &self.listen {
            sockets.push(bind::tcp(*address)?);
        }
        for path in &self.socket {
            sockets.push(bind::unix(path)?);
        }
        if sockets.len() > SOCKETS_MAX {
            return Err(BindError::TooMany.into());
        }
        let metrics = self.metrics.map(bind::tcp).transpose()?;
        if sockets.is_empty() {
            return match metrics {
                Some(_) => Err(ListenError::OnlyMetrics),
                None => Ok(None),
            };
        }
        let access = Access::new(self.keys.open(), self.allow_uid.iter().cloned().collect());
        if access.is_open() {
            let mut all = sockets.iter().chain(&metrics);
            if let Some(open) = all.find(|socket| !socket.is_local()) {
                let address = open.address().map(|address| address.to_string());
                return Err(ListenError::Open(
                    address.unwrap_or_else(|| open.to_string()),
                ));
            }
        }
        Ok(Some(Listening {
            sockets,
            metrics,
            access,
        }))
    }

    fn options(
        &self,
        sockets: &[Socket],
        metrics: Option<Socket>,
        access: Access,
    ) -> Result<Options, ListenError> {
        let mut hosts = self.allow_host.clone();
        // Those who connect to an address may mean it by itself.
        let own = sockets.iter().chain(&metrics).filter_map(Socket::address);
        let own = own.filter(|address| !address.ip().is_unspecified());
        hosts.extend(own.filter_map(|address| address.to_string().parse().ok()));
        let metrics = match metrics {
            None => None,
            Some(socket) => Some(Metrics {
                counted: metrics::install()?,
                // Whoever is on this machine may know; from elsewhere it takes a key.
                access: if socket.is_local() {
                    Access::new(None, BTreeMap::new())
                } else {
                    access.clone()
                },
                socket,
            }),
        };
        Ok(Options {
            hosts,
            origins: self.allow_origin.clone(),
            access,
            drain: self.drain,
            connections: connections(),
            metrics,
        })
    }
}

/// As browsers write it (RFC 6454, 6.2).
fn origin(text: &str) -> Result<String, String> {
    let plain = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    });
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| "expected an origin such as `https://app.example.org`".to_owned())
}

fn user(text: &str) -> Result<(u32, Vec<String>), String> {
    let parsed = text.split_once('=').and_then(|(uid, roles)| {
        let roles: Vec<_> = roles.split(',').map(ToOwned::to_owned).collect();
        let named = roles.iter().all(|role| !role.is_empty());
        Some((uid.parse().ok()?, named.then_some(roles)?))
    });
    parsed.ok_or_else(|| "expected `UID=ROLE` or `UID=ROLE,ROLE`".to_owned())
}

/// Has the kernel give as many descriptors as it will: each connection needs one. What is started
/// before keeps what it has.
pub fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If it is refused, there are fewer connections.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn connections() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    limit
        .saturating_sub(DESCRIPTORS_KEPT)
        .clamp(limit / 4, CONNECTIONS_MAX.max(limit / 4))
        .min(CONNECTIONS_MAX)
}

/// Serves until a signal says to stop.
pub async fn run(
    args: &HttpArgs,
    service: &Arc<Service>,
    listening: Listening,
    mut stop: Stop,
    notifier: &Notifier,
) -> io::Result<()> {
    let Listening {
        sockets,
        metrics,
        access,
    } = listening;
    if let Some(socket) = &metrics {
        tell(&format!("toolcell: metrics on {socket}/metrics"));
    }
    for socket in &sockets {
        tell(&format!("toolcell: listening on {socket}"));
    }
    let options = args.options(&sockets, metrics, access);
    let options = options.map_err(io::Error::other)?;
    let asked = async || {
        stop.asked().await;
        notifier.stopping(&service.status());
    };
    serve(service, sockets, options, asked).await
}
