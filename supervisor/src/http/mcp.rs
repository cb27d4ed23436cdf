//! `/mcp`: MCP over Streamable HTTP, for clients of either era.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;

use super::guard::BODY_BYTES_MAX;
use super::problem::Problem;
use super::sessions::{ASKING, Asking, RETRY, Sessions};
use crate::caller::Caller;
use crate::server::Server;
use crate::service::Service;

/// How often something is written to a stream that nothing else is written to: proxies commonly end
/// it after a minute.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The header that names a session.
const SESSION: &str = "mcp-session-id";
/// When to try again where there are too many sessions.
const RETRY_FULL: Duration = Duration::from_secs(30);

/// MCP over HTTP.
#[derive(Clone)]
pub struct Mcp {
    library: StreamableHttpService<Server, Sessions>,
    sessions: Arc<Sessions>,
}

impl Mcp {
    /// Serves these tools until the token is cancelled, when every stream ends.
    #[must_use]
    pub fn new(service: Arc<Service>, ending: CancellationToken) -> Self {
        let sessions = Sessions::new();
        let connections = ending.clone();
        let library = StreamableHttpService::new(
            move || {
                Ok(Server::over_http(
                    Arc::clone(&service),
                    connections.child_token(),
                ))
            },
            Arc::clone(&sessions),
            // Host and Origin have been checked when a request comes here: see `guard`.
            StreamableHttpServerConfig::default()
                .disable_allowed_hosts()
                .with_sse_keep_alive(Some(KEEP_ALIVE))
                .with_sse_retry(Some(RETRY))
                .with_max_request_body_bytes(BODY_BYTES_MAX)
                .with_cancellation_token(ending),
        );
        Self { library, sessions }
    }

    /// How many clients of the older era are in a session.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.count()
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request) -> Response {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Problem::unauthenticated("who are you?").into_response();
        };
        if let Some(session) = request.headers().get(SESSION) {
            let theirs = session
                .to_str()
                .is_ok_and(|session| self.sessions.is_of(session, &caller));
            if !theirs {
                // Nobody is told of the sessions of others.
                let detail = "there is no such session; hint: `initialize` begins another";
                return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
            }
        }
        let asking = Asking {
            caller,
            refused: Arc::new(Mutex::new(false)),
        };
        let refused = Arc::clone(&asking.refused);
        let response = ASKING.scope(asking, self.library.handle(request)).await;
        if *refused.lock().unwrap_or_else(PoisonError::into_inner) {
            let detail = "there are too many sessions already; hint: end those that are not needed \
                 (`DELETE`)";
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
                .retry_after(RETRY_FULL)
                .into_response();
        }
        response.into_response()
    }
}
