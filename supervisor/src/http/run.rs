//! `GET /tools`, `POST /run/{tool}`: the same tools for programs that do not speak MCP.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::App;
use super::guard::BODY_BYTES_MAX;
use super::problem::Problem;
use crate::caller::Caller;
use crate::commands::with_kept_output;
use crate::outcome::{Outcome, Status};
use crate::service::{Answer, Asker, Cause, Service};

/// The header that says where a call's receipt is in the audit log: its number and hash.
pub const RECEIPT: HeaderName = HeaderName::from_static("toolcell-receipt");
/// When to call again where the server is busy, and nobody knows better.
const RETRY_BUSY: Duration = Duration::from_secs(1);
/// When to call again where the server is about to exit, or lacks something.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// The tools that the caller may call, sorted by name.
pub async fn tools(State(app): State<App>, Extension(caller): Extension<Caller>) -> Response {
    let snapshot = app.0.service.catalog.snapshot();
    let tools = snapshot.tools.values();
    let theirs = tools.filter(|tool| caller.may_call(&tool.compiled.resolved));
    let listed: Vec<_> = theirs
        .map(|tool| {
            let mut definition = tool.definition.clone();
            // It is the same for all, and in the description of this interface.
            definition.output_schema = None;
            definition
        })
        .collect();
    Json(json!({ "tools": listed })).into_response()
}

/// Calls a tool with the arguments in the body.
pub async fn run(
    State(app): State<App>,
    tool: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let called = match tool {
        Ok(Path(tool)) => call(&app, tool, request).await,
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.to_string())),
    };
    let (answer, caller) = match called {
        Ok(called) => called,
        Err(problem) => return problem.into_response(),
    };
    let receipt = answer.receipt.as_ref().map(|link| {
        let place = format!("{} {}", link.records - 1, link.hash);
        HeaderValue::try_from(place).ok()
    });
    let mut response = match problem(&answer) {
        Some(problem) => problem.into_response(),
        None => match whole(&app.0.service, &caller, answer.outcome).await {
            Ok(outcome) => Json(outcome).into_response(),
            Err(problem) => problem.into_response(),
        },
    };
    if let Some(Some(place)) = receipt {
        response.headers_mut().insert(RECEIPT, place);
    }
    response
}

async fn call(app: &App, tool: String, request: Request) -> Result<(Answer, Caller), Problem> {
    let (parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Problem::unauthenticated("who are you?", None))?;
    check_types(&parts.headers)?;
    // It is in memory already: see `guard`.
    let body = to_bytes(body, BODY_BYTES_MAX).await;
    let body = body.map_err(|_| Problem::malformed("the body did not come whole"))?;
    let arguments = if body.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("the body is no JSON object of arguments: {error}");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?
    };
    let asker = Asker {
        caller: caller.clone(),
        cancel: CancellationToken::new(),
        progress: None,
        terminal: false,
    };
    let arguments = Value::Object(arguments);
    let request = crate::service::Request {
        tool,
        arguments,
        asker,
    };
    // If the client goes, this future is dropped, and the call with it.
    match app.0.service.call(request).await {
        Ok(answer) => Ok((answer, caller)),
        Err(unknown) => {
            let detail = format!("{unknown}; hint: `GET /tools` lists those that there are");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// Refuses other types than JSON, in and out.
fn check_types(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    if !headers.get(CONTENT_TYPE).is_some_and(is_json) {
        let detail = "arguments are sent as `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let mut accepted = headers.get_all(ACCEPT).iter().peekable();
    if accepted.peek().is_none() || accepted.any(accepts_json) {
        return Ok(());
    }
    let detail = "outcomes are `application/json`";
    Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail))
}

fn accepts_json(value: &HeaderValue) -> bool {
    let ranges = value.to_str().unwrap_or_default().split(',');
    ranges.into_iter().any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_json = ["application/json", "application/*", "*/*"].contains(&essence.as_str());
        let is_excluded = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
        };
        is_json && !parts.any(is_excluded)
    })
}

/// The problem that an answer is, if the call was never begun or not by fault of the tool's.
fn problem(answer: &Answer) -> Option<Problem> {
    let outcome = &answer.outcome;
    let (status, wait) = match (&answer.cause, outcome.status) {
        (Some(Cause::Arguments), _) => (StatusCode::BAD_REQUEST, None),
        (Some(Cause::Forbidden), _) => (StatusCode::FORBIDDEN, None),
        (Some(Cause::Busy { wait }), _) => (
            StatusCode::TOO_MANY_REQUESTS,
            Some(wait.unwrap_or(RETRY_BUSY)),
        ),
        (Some(Cause::Ending | Cause::Unrecorded), _) | (None, Status::Refused) => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_LATER))
        }
        (None, Status::SetupFailed) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        (None, _) => return None,
    };
    let problem = Problem::new(status, outcome.reason.clone()).of_call(&outcome.call);
    Some(match wait {
        Some(wait) => problem.retry_after(wait),
        None => problem,
    })
}

/// The outcome with what was kept of its long output, up to a limit: there is no other way to it here.
async fn whole(
    service: &Arc<Service>,
    caller: &Caller,
    mut outcome: Outcome,
) -> Result<Outcome, Problem> {
    let results = service.results.clone();
    let caller = caller.id.clone();
    tokio::task::spawn_blocking(move || {
        with_kept_output(&results, &caller, &mut outcome);
        outcome
    })
    .await
    .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_json_gets_json() {
        let takes = |value: &str| accepts_json(&HeaderValue::from_str(value).unwrap());
        for value in [
            "application/json",
            "text/html, */*;q=0.1",
            "Application/JSON; q=1",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in ["text/html", "application/json;q=0", "*/*;q=0.0", ""] {
            assert!(!takes(value), "{value}");
        }
    }
}
