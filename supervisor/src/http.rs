//! HTTP: the same service for many callers, over TCP and Unix sockets.
//!
//! `bind` (before the supervisor is confined) → `connection` → `guard` (is it well-formed, meant for
//! us, and by whom: `access`) → `mcp` or `health`. What is wrong is told as a `problem`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use http::uri::Authority;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::Service;

pub mod access;
pub mod bind;
pub mod connection;
pub mod guard;
pub mod health;
pub mod mcp;
pub mod problem;
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

/// What is told of a method that is not served; the header `Allow` has those that are.
const METHOD: &str = "this method is not served here";

/// How it serves.
#[derive(Debug, Clone)]
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
    let guard = Guard::new(
        options.hosts,
        options.origins,
        options.access,
        draining.clone(),
    );
    let routes = routes(app.clone(), Arc::new(guard));
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
    Ok(())
}

fn routes(app: App, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/mcp", any(answer_mcp))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/health", get(health::ready))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, METHOD))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .with_state(app)
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
}

async fn answer_mcp(State(app): State<App>, request: Request) -> Response {
    let is_post = request.method() == Method::POST;
    let response = app.0.mcp.answer(request).await;
    if !is_post {
        // Streams of news end when everything does.
        return response;
    }
    let unwritten = app.0.answers.token();
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |frame| {
            // It is held until the body is.
            let _ = &unwritten;
            frame
        }))
    })
}
