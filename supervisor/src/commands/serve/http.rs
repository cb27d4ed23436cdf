//! `toolcell serve --listen`, `--socket`, and socket activation: the server for many.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Stop;
use crate::commands::tell;
use crate::http::access::Access;
use crate::http::bind::{self, BindError, SOCKETS_MAX, Socket};
use crate::http::connection::{CONNECTIONS_MAX, DESCRIPTORS_KEPT};
use crate::http::{Options, serve};
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
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
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
         they are; hint: listen on 127.0.0.1, or on `--socket PATH`"
    )]
    Open(SocketAddr),
}

impl HttpArgs {
    /// Makes the sockets that are asked for, and takes over those of socket activation. None means
    /// standard input and output.
    pub fn sockets(&self, stdio: bool) -> Result<Vec<Socket>, ListenError> {
        if stdio {
            return Ok(Vec::new());
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
        let open = sockets.iter().find(|socket| !socket.is_local());
        match open.and_then(Socket::address) {
            Some(address) => Err(ListenError::Open(address)),
            None => Ok(sockets),
        }
    }

    fn options(&self, sockets: &[Socket]) -> Options {
        let mut hosts = self.allow_host.clone();
        // Those who connect to an address may mean it by itself.
        let own = sockets.iter().filter_map(Socket::address);
        let own = own.filter(|address| !address.ip().is_unspecified());
        hosts.extend(own.filter_map(|address| address.to_string().parse().ok()));
        Options {
            hosts,
            origins: self.allow_origin.clone(),
            access: Access::new(true),
            drain: self.drain,
            connections: connections(),
        }
    }
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
    sockets: Vec<Socket>,
    mut stop: Stop,
    notifier: &Notifier,
) -> io::Result<()> {
    let options = args.options(&sockets);
    for socket in &sockets {
        tell(&format!("toolcell: listening on {socket}"));
    }
    let asked = async || {
        stop.asked().await;
        notifier.stopping(&service.status());
    };
    serve(service, sockets, options, asked).await
}
