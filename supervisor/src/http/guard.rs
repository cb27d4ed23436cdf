//! What every request passes first: is it well-formed, meant for this server, from a page that may ask,
//! from somebody who may, and of a size and pace that is bearable?

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Denied};
use super::connection::Peer;
use super::problem::Problem;
use crate::lines;

/// Most bytes of a request's body: as much as a message on standard input may have.
pub const BODY_BYTES_MAX: usize = lines::MESSAGE_BYTES_MAX;
/// Longest time for a body to come.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes of bodies that are held at once, of all requests together.
pub const BODIES_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;
/// In what bodies are counted: a smaller one counts as one of these.
const UNIT: usize = 1 << 10;
/// When to try again where the server is about to exit: by then the next one listens, if one does.
const RETRY_DRAINING: Duration = Duration::from_secs(5);
/// Paths that answer anybody, and tell nothing.
pub const OPEN: [&str; 3] = ["/livez", "/readyz", "/health"];

/// What requests must meet.
pub struct Guard {
    /// Names by which clients may mean this server, besides those of loopback.
    hosts: Vec<Authority>,
    /// Origins of pages that may ask.
    origins: Vec<String>,
    access: Access,
    bodies: Arc<Semaphore>,
    draining: CancellationToken,
}

impl Guard {
    /// Admits requests for these hosts, from these origins, by those who have access.
    #[must_use]
    pub fn new(
        hosts: Vec<Authority>,
        origins: Vec<String>,
        access: Access,
        draining: CancellationToken,
    ) -> Self {
        Self {
            hosts,
            origins,
            access,
            bodies: Arc::new(Semaphore::new(BODIES_BYTES_MAX / UNIT)),
            draining,
        }
    }

    /// Checks the head of a request, and finds out who asks.
    fn head(&self, request: &mut Request) -> Result<(), Problem> {
        let headers = request.headers();
        check_framing(headers)?;
        let host = host(request)?;
        if OPEN.contains(&request.uri().path()) {
            return Ok(());
        }
        if self.draining.is_cancelled() {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let detail = "the server is about to exit";
            return Err(Problem::new(status, detail).retry_after(RETRY_DRAINING));
        }
        // Whoever connects to a Unix socket was not led there by a name.
        let peer = request.extensions().get::<Peer>().copied();
        if matches!(peer, Some(Peer::Tcp(_))) && !self.is_meant(&host) {
            let detail = format!(
                "this server is not `{host}`; hint: `--allow-host {}` if it is",
                host.host()
            );
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        self.check_origin(headers)?;
        let caller = self
            .access
            .caller(peer, headers)
            .map_err(|denied| match denied {
                Denied::Unknown(detail) => Problem::unauthenticated(detail),
                Denied::Refused(detail) => Problem::new(StatusCode::FORBIDDEN, detail),
            })?;
        request.extensions_mut().insert(caller);
        Ok(())
    }

    fn is_meant(&self, host: &Authority) -> bool {
        let name = bare(host);
        let is_loopback = name == "localhost"
            || name
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback());
        is_loopback
            || self.hosts.iter().any(|allowed| {
                bare(allowed) == name
                    && allowed
                        .port_u16()
                        .is_none_or(|port| host.port_u16() == Some(port))
            })
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Ok(());
        };
        let known = origin
            .to_str()
            .is_ok_and(|origin| self.origins.iter().any(|known| known == origin));
        if known && origins.next().is_none() {
            return Ok(());
        }
        let detail = "pages of this origin may not ask here; hint: `--allow-origin` names those that \
             may";
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Reads the whole body, within its limits.
    async fn body(&self, request: Request) -> Result<(Request, OwnedSemaphorePermit), Problem> {
        let (parts, body) = request.into_parts();
        let said = parts.headers.get(CONTENT_LENGTH);
        let said = said.and_then(|said| said.to_str().ok()?.parse::<usize>().ok());
        if said.is_some_and(|said| said > BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let chunked = parts.headers.contains_key(TRANSFER_ENCODING);
        let expected = said.unwrap_or(if chunked { BODY_BYTES_MAX } else { 0 });
        let read = async {
            let room = Arc::clone(&self.bodies).acquire_many_owned(units(expected));
            // The semaphore is never closed.
            let mut room = room.await.map_err(|_| too_slow())?;
            let read = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let bytes = read.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    too_large()
                } else {
                    Problem::malformed("the body did not come whole")
                }
            })?;
            let bytes = bytes.to_bytes();
            let spare = room
                .num_permits()
                .saturating_sub(units(bytes.len()) as usize);
            drop(room.split(spare));
            Ok((bytes, room))
        };
        let read: Result<(Bytes, _), Problem> =
            timeout(BODY_TIME_MAX, read).await.map_err(|_| too_slow())?;
        let (bytes, room) = read?;
        Ok((Request::from_parts(parts, Body::from(bytes)), room))
    }
}

/// The middleware.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    // Where two parts of a path could differ on where a message ends, none comes after it.
    let is_last = request.headers().contains_key(TRANSFER_ENCODING);
    let mut response = match guard.head(&mut request) {
        // What is left of its body is read by nobody, so the connection ends.
        Err(problem) => closing(problem.into_response()),
        Ok(()) => match guard.body(request).await {
            Err(problem) => closing(problem.into_response()),
            Ok((request, _room)) => next.run(request).await,
        },
    };
    if is_last {
        response = closing(response);
    }
    response
}

fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn too_large() -> Problem {
    let detail = format!("the body is larger than {BODY_BYTES_MAX} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn too_slow() -> Problem {
    let detail = format!("the body did not come within {} s", BODY_TIME_MAX.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
}

fn units(bytes: usize) -> u32 {
    let units = bytes.min(BODY_BYTES_MAX).div_ceil(UNIT).max(1);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// Refuses what could be read in two ways (RFC 9112, section 6): hyper has refused lengths that
/// differ, and chunks that do not come last.
fn check_framing(headers: &HeaderMap) -> Result<(), Problem> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else {
        return Ok(());
    };
    let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if is_chunked && encodings.next().is_none() && !headers.contains_key(CONTENT_LENGTH) {
        return Ok(());
    }
    let detail = "a body has one length, or comes in chunks and no other encoding";
    Err(Problem::malformed(detail))
}

/// The one host that a request is for.
fn host(request: &Request) -> Result<Authority, Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::malformed("a request has one `Host` header"));
    };
    if !matches!(request.version(), Version::HTTP_11 | Version::HTTP_10) {
        return Err(Problem::malformed("only HTTP/1.1 is served here"));
    }
    let host = Authority::try_from(host.as_bytes()).ok();
    let host = host.filter(|host| {
        let is_bare = host.as_str() == host.host();
        !host.as_str().contains('@') && (is_bare || host.port_u16().is_some())
    });
    let host = host.ok_or_else(|| Problem::malformed("the `Host` header is not a host"))?;
    match request.uri().authority() {
        Some(other) if other != &host => {
            let detail = "the request is for one host, and its `Host` header names another";
            Err(Problem::malformed(detail))
        }
        _ => Ok(host),
    }
}

/// The host without its port, as it is compared.
fn bare(host: &Authority) -> String {
    host.host().trim_end_matches('.').to_ascii_lowercase()
}
