//! `toolcell serve`: the MCP server.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use profiles::host::Host;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{SourceArgs, show, tell};
use crate::audit::{Audit, Durability};
use crate::caller::Caller;
use crate::catalog::{Catalog, Snapshot};
use crate::dirs;
use crate::lines::{InFlight, Lines};
use crate::results::Results;
use crate::server::Server;
use crate::service::{Run, Service};
use crate::systemd::{self, Notifier};

pub mod http;

use http::Listening;

/// How long calls may go on by themselves when the client has closed its side: a script that pipes
/// its requests in gets its answers, and clients wait two seconds before they send SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(1);
/// How long cancelled calls may take to end: the longest grace that a profile commonly gives its
/// tool, and time to empty the cell. What is left then dies with the supervisor.
pub const EXIT_GRACE: Duration = Duration::from_secs(10);
/// How long the last answers may take to be written.
pub const GOODBYE: Duration = Duration::from_secs(1);
/// How long profile files must be at rest before they are read again: editors write in several
/// steps.
pub const DEBOUNCE: Duration = Duration::from_millis(250);

/// Longest wait for that rest.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(5);

/// Arguments of `toolcell serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Serve one client on standard input and output (the default)
    #[arg(long)]
    pub stdio: bool,
    /// Sockets to serve on instead, and how.
    #[command(flatten)]
    pub http: http::HttpArgs,
    /// Where profiles come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// When a receipt counts as written
    #[arg(long, value_name = "WHERE", default_value = "disk")]
    pub receipts: ReceiptsOn,
}

/// Where a receipt must be before its call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReceiptsOn {
    /// On the disk: it outlives a power failure
    Disk,
    /// In the kernel: it outlives the supervisor
    Kernel,
}

impl From<ReceiptsOn> for Durability {
    fn from(on: ReceiptsOn) -> Self {
        match on {
            ReceiptsOn::Disk => Self::Disk,
            ReceiptsOn::Kernel => Self::Kernel,
        }
    }
}

/// Builds the service that every command that makes calls goes through.
pub fn service(
    sources: &SourceArgs,
    receipts: Durability,
    host: Host,
    cells: Arc<dyn Run>,
) -> Result<Arc<Service>, ExitCode> {
    match Catalog::load(sources.sources(host)) {
        Ok(catalog) => service_of(catalog, receipts, cells),
        Err(diagnostics) => {
            show(&diagnostics);
            Err(ExitCode::FAILURE)
        }
    }
}

/// Builds the service around a catalog.
pub fn service_of(
    catalog: Catalog,
    receipts: Durability,
    cells: Arc<dyn Run>,
) -> Result<Arc<Service>, ExitCode> {
    let state = match dirs::state() {
        Ok(state) => state,
        Err(error) => {
            tell(&format!("toolcell: {error}"));
            return Err(ExitCode::FAILURE);
        }
    };
    let results = Results::new(state.clone());
    let audit = Audit::new(state, receipts);
    Ok(Arc::new(Service::new(catalog, results, audit, cells)))
}

/// Serves on sockets, or if there are none one client on standard input and output, until the client
/// goes away or a signal says to stop.
///
/// A read from standard input may still be waiting in a thread of its own when this returns: leave
/// the runtime with `shutdown_background`.
pub async fn run(
    args: &Args,
    listening: Option<Listening>,
    host: Host,
    cells: Arc<dyn Run>,
    notifier: &Notifier,
) -> ExitCode {
    let service = match service(&args.sources, args.receipts.into(), host, cells) {
        Ok(service) => service,
        Err(status) => return status,
    };
    tell_left_out(&service.catalog.snapshot());
    let watching = match watch(Arc::clone(&service), notifier.clone()) {
        Ok(watching) => watching,
        Err(error) => {
            tell(&format!("toolcell: could not watch the profiles: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => {
            tell(&format!("toolcell: could not wait for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let keeping = Arc::clone(&service);
    let keeping = tokio::spawn(async move { keeping.keep_waiting().await });
    let alive = tokio::spawn(systemd::watch(notifier.clone(), Arc::clone(&service)));
    let closing = tokio::spawn(tell_of_end(notifier.clone(), Arc::clone(&service)));
    // The sockets listen already: who connects from now on is waited for.
    notifier.ready(&service.status());
    let end = match listening {
        None => serve(&service, tokio::io::stdin(), tokio::io::stdout(), stop).await,
        Some(listening) => http::run(&args.http, &service, listening, stop, notifier).await,
    };
    service.close(Duration::ZERO).await;
    // What still waits dies with the supervisor, and the launcher removes what it stood on.
    let _ = timeout(EXIT_GRACE, keeping).await;
    for task in [watching, alive, closing] {
        task.abort();
    }
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("toolcell: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the service manager when no more calls are taken.
async fn tell_of_end(notifier: Notifier, service: Arc<Service>) {
    service.closing().cancelled().await;
    notifier.stopping(&service.status());
}

fn tell_left_out(snapshot: &Snapshot) {
    if !snapshot.left_out.is_empty() {
        let names: Vec<_> = snapshot
            .left_out
            .iter()
            .map(|tool| tool.name.as_str())
            .collect();
        tell(&format!(
            "toolcell: not offered: {}; hint: `toolcell list` says why",
            names.join(", ")
        ));
    }
    if snapshot.tools.is_empty() {
        tell("toolcell: no tool is offered; hint: `toolcell check` says why");
    }
}

/// Serves one client on a pair of streams, from its first message to the end of its last call.
pub async fn serve<R, W>(
    service: &Arc<Service>,
    read: R,
    write: W,
    mut stop: Stop,
) -> io::Result<()>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let ended = CancellationToken::new();
    let connection = CancellationToken::new();
    let hang_up = CancellationToken::new();
    let lines = Lines::new(read, write, ended.clone());
    let mut in_flight = lines.in_flight();
    let server = Server::new(Arc::clone(service), Caller::local(), connection.clone());
    let running = tokio::select! {
        opened = server.serve_with_ct(lines, hang_up.clone()) => match opened {
            Ok(running) => running,
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(io::Error::other(error)),
        },
        // It went away before it said anything.
        () = ended.cancelled() => return Ok(()),
        () = stop.asked() => return Ok(()),
    };
    let mut session = tokio::spawn(running.waiting());
    tokio::select! {
        () = ended.cancelled() => {
            let _ = timeout(DRAIN, in_flight.wait_for(InFlight::is_answered)).await;
        }
        () = stop.asked() => service.closing().cancel(),
        _ = &mut session => {}
    }
    connection.cancel();
    tokio::select! {
        idle = service.idle(EXIT_GRACE) => {
            if !idle {
                tell("toolcell: a call did not end in time; its cell dies with the supervisor");
            }
        }
        // Whoever asks a second time does not want to wait.
        () = stop.asked() => {}
    }
    if !session.is_finished() {
        // The answers to what was cancelled are on their way; after them, it hangs up.
        hang_up.cancel();
        let _ = timeout(GOODBYE, session).await;
    }
    Ok(())
}

/// Waits for the signals that end a server.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Takes the signals over from now on.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reads the profiles again when their files or the user's secrets change, or at SIGHUP.
pub fn watch(service: Arc<Service>, notifier: Notifier) -> io::Result<tokio::task::JoinHandle<()>> {
    let (tell_of, mut touches) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let harmless = event.is_ok_and(|event| event.kind.is_access());
        if !harmless {
            // One that waits already stands for this one, too.
            let _ = tell_of.try_send(());
        }
    })
    .map_err(io::Error::other)?;
    watch_directories(&mut watcher, &service);
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hang_up.recv() => notifier.reloading(),
                touch = touches.recv() => {
                    if touch.is_none() {
                        return;
                    }
                    let _ = timeout(DEBOUNCE_MAX, at_rest(&mut touches)).await;
                }
            }
            let read = reload(&service).await;
            // After each reading, since a manager that was told of a reload waits for this.
            notifier.ready(&if read {
                service.status()
            } else {
                format!(
                    "a profile is wrong, the tools stay as they were; {}",
                    service.status()
                )
            });
            // One that was not there before, or was replaced, has to be watched anew.
            watch_directories(&mut watcher, &service);
        }
    }))
}

/// Waits until nothing was touched for a while.
async fn at_rest(touches: &mut mpsc::Receiver<()>) {
    while let Ok(Some(())) = timeout(DEBOUNCE, touches.recv()).await {}
}

fn watch_directories(watcher: &mut impl Watcher, service: &Service) {
    for directory in service.catalog.directories() {
        watch_directory(watcher, &directory.path);
    }
    // With its secret a tool comes, and goes.
    if let Some(secrets) = dirs::secrets() {
        watch_directory(watcher, &secrets);
    }
}

fn watch_directory(watcher: &mut impl Watcher, path: &Path) {
    if !path.is_dir() {
        return;
    }
    if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
        let path = path.display();
        tracing::warn!(%error, "changes in `{path}` are noticed at SIGHUP only");
    }
}

/// Whether they could be read; if not, the tools stay as they were.
async fn reload(service: &Arc<Service>) -> bool {
    let reloading = Arc::clone(service);
    let reloaded = tokio::task::spawn_blocking(move || reloading.catalog.reload()).await;
    match reloaded {
        Ok(Ok(changed)) => {
            tracing::info!(changed, "profiles read again");
            if changed {
                tell_left_out(&service.catalog.snapshot());
            }
            true
        }
        Ok(Err(diagnostics)) => {
            tell("toolcell: the profiles changed, and one is wrong; the tools stay as they were");
            show(&diagnostics);
            false
        }
        Err(error) => {
            tracing::error!(%error, "reading the profiles again failed");
            false
        }
    }
}
