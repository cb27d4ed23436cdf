//! What is wrong with a request, as an answer: problem details (RFC 9457).

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request is not served.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Nothing but the status is meant for programs, so that it is always `about:blank`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What is wrong with this request, and what would mend it.
    detail: String,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with this status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            headers: Vec::new(),
        }
    }

    /// The request itself is not as it must be; the connection has told its last.
    #[must_use]
    pub fn malformed(detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, detail);
        let close = HeaderValue::from_static("close");
        problem.headers.push((http::header::CONNECTION, close));
        problem
    }

    /// Who asks has to say who they are.
    #[must_use]
    pub fn unauthenticated(detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, detail);
        let how = HeaderValue::from_static("Bearer realm=\"toolcell\"");
        problem.headers.push((WWW_AUTHENTICATE, how));
        problem
    }

    /// It may go better after a while.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.headers
            .push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A problem has nothing in it that JSON lacks.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}
