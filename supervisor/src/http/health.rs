//! `/livez`, `/readyz`, `/health`: for whoever watches over the process. They ask nobody who they are.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use super::App;
use super::problem::Problem;

/// The process answers.
pub async fn live() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether calls are served: not where none can be, and not any more while the server drains.
pub async fn ready(State(app): State<App>) -> Response {
    match app.unready() {
        None => Json(json!({ "status": "ok" })).into_response(),
        Some(reason) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}
