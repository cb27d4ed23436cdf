//! HTTP: the same service for many callers, over TCP and Unix sockets.
//!
//! `bind` (before the supervisor is confined) → `connection` → `guard` (is it well-formed, meant for
//! us, and by whom: `access`) → `mcp`, `run` or `health`. What is wrong is told as a `problem`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get, post};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderName, Method, StatusCode};
use http_body_util::BodyExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::metrics;
use crate::service::Service;

pub mod access;
pub mod bind;
pub mod connection;
pub mod guard;
pub mod health;
pub mod mcp;
pub mod openapi;
pub mod problem;
pub mod run;
pub mod sessions;

use access::Access;
use bind::Socket;
use connection::Connections;
use guard::Guard;
use mcp::Mcp;
use problem::Problem;

/// How long cancelled calls may take to end, and the last answers to be taken.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// How long the last answers may take to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// Most connections for what is counted: one scraper needs one.
const METRICS_CONNECTIONS_MAX: usize = 16;
/// What is told of a method that is not served; the header `Allow` has those that are.
const METHOD: &str = "this method is not served here";

/// How it serves.
#[derive(Debug)]
pub struct Options {
    /// Names by which clients may mean this server.
    pub hosts: Vec<Authority>,
    /// Origins of pages that may ask.
    pub origins: Vec<String>,
    /// How callers are known.
    pub access: Access,
    /// How long running calls may go on when the server is asked to end.
    pub drain: Duration,
    /// Most connections at once.
    pub connections: usize,
    /// Where it tells what is counted, if it is asked to.
    pub metrics: Option<Metrics>,
}

/// A socket of its own for what is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Where it listens.
    pub socket: Socket,
    /// What has been counted.
    pub counted: PrometheusHandle,
    /// Who may know.
    pub access: Access,
}

/// What the routes share.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    service: Arc<Service>,
    mcp: Mcp,
    /// Requests whose answers are not written yet.
    answers: TaskTracker,
    draining: CancellationToken,
}

impl App {
    /// Why no calls are served, if so.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        if self.0.draining.is_cancelled() {
            return Some("the server is about to exit".to_owned());
        }
        self.0.service.cells.unable().map(ToOwned::to_owned)
    }
}

/// Serves on these sockets, until asked to stop; then no more requests are taken, those under way get
/// their time, and what is left of them is ended and told so.
pub async fn serve(
    service: &Arc<Service>,
    sockets: Vec<Socket>,
    options: Options,
    mut asked_to_stop: impl AsyncFnMut(),
) -> io::Result<()> {
    let draining = CancellationToken::new();
    let ending = CancellationToken::new();
    let app = App(Arc::new(Shared {
        service: Arc::clone(service),
        mcp: Mcp::new(Arc::clone(service), ending.clone()),
        answers: TaskTracker::new(),
        draining: draining.clone(),
    }));
    let told = options.metrics.map(|metrics| {
        let hosts = options.hosts.clone();
        tell_metrics(metrics, hosts, app.clone(), &ending)
    });
    let told = told.transpose()?;
    let origins = options.origins.clone();
    let guard = Guard::new(
        options.hosts,
        options.origins,
        options.access,
        draining.clone(),
    );
    let routes = routes(app.clone(), Arc::new(guard)).layer(cors(&origins));
    let connections = Connections::new(
        routes,
        options.connections,
        draining.clone(),
        ending.clone(),
    );
    for socket in sockets {
        connections.accept(socket)?;
    }
    asked_to_stop().await;

    draining.cancel();
    tokio::select! {
        _ = service.idle(options.drain) => {}
        // Whoever asks a second time does not want to wait.
        () = asked_to_stop() => {}
    }
    // What runs still is cancelled; subscriptions end, too.
    if !service.close(EXIT_GRACE).await {
        tracing::warn!("a call did not end in time; its cell dies with the supervisor");
    }
    app.0.answers.close();
    let _ = timeout(GOODBYE, app.0.answers.wait()).await;
    ending.cancel();
    let _ = timeout(GOODBYE, connections.ended()).await;
    if let Some(told) = told {
        let _ = timeout(GOODBYE, told.ended()).await;
    }
    Ok(())
}

/// Tells browsers that pages of these origins may ask, and read what they are answered.
fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| origin.parse().ok());
    let headers = [
        "accept",
        "authorization",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "x-api-key",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers.map(HeaderName::from_static))
        .expose_headers([
            run::RECEIPT,
            HeaderName::from_static(mcp::SESSION),
            WWW_AUTHENTICATE,
            RETRY_AFTER,
        ])
}

/// Serves `/metrics` on its own socket, to the very end.
fn tell_metrics(
    metrics: Metrics,
    hosts: Vec<Authority>,
    app: App,
    ending: &CancellationToken,
) -> io::Result<Connections> {
    let counted = metrics.counted;
    let upkeep = counted.clone();
    tokio::spawn(ending.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(metrics::UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    }));
    let guard = Guard::new(hosts, Vec::new(), metrics.access, ending.clone());
    let render = async move || {
        let running = app.0.service.admission.running();
        metrics::now(running, app.0.mcp.sessions());
        ([(CONTENT_TYPE, metrics::MEDIA_TYPE)], counted.render())
    };
    let routes = Router::new()
        .route("/metrics", get(render))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(from_fn_with_state(Arc::new(guard), guard::guard));
    let connections = Connections::new(
        routes,
        METRICS_CONNECTIONS_MAX,
        ending.clone(),
        ending.clone(),
    );
    connections.accept(metrics.socket)?;
    Ok(connections)
}

fn routes(app: App, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/mcp", any(answer_mcp))
        .route("/tools", get(run::tools))
        .route("/run/{tool}", post(run::run))
        .route("/openapi.json", get(openapi::serve))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/health", get(health::ready))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, METHOD))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(from_fn_with_state(app.clone(), remember))
        .with_state(app)
        .layer(from_fn_with_state(guard, guard::guard))
}

async fn answer_mcp(State(app): State<App>, request: Request) -> Response {
    app.0.mcp.answer(request).await
}

/// Remembers answers that are not written yet, so that the server does not end before they are.
/// Streams of news, which are asked for by `GET`, end when everything does.
async fn remember(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let unwritten = app.0.answers.token();
    let response = next.run(request).await;
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |frame| {
            // It is held until the body is.
            let _ = &unwritten;
            frame
        }))
    })
}
