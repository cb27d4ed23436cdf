//! What is counted and measured, for Prometheus. Where nobody asks for it, nothing is.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::outcome::DenialKind;
use crate::service::Answer;

/// Media type of what is rendered.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often what was measured is put together, so that it does not pile up if nobody asks.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Upper ends of the ranges that times are counted in, in seconds: from a call of `/bin/true` to the
/// longest that is usual.
const SECONDS: [f64; 12] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0,
];

const CALLS: &str = "toolcell_calls_total";
const CALL_SECONDS: &str = "toolcell_call_seconds";
const QUEUE_SECONDS: &str = "toolcell_queue_seconds";
const RUNNING: &str = "toolcell_calls_running";
const DENIALS: &str = "toolcell_denials_total";
const CPU_SECONDS: &str = "toolcell_cpu_milliseconds_total";
const EGRESS_BYTES: &str = "toolcell_egress_bytes_total";
const RESPONSES: &str = "toolcell_http_responses_total";
const SESSIONS: &str = "toolcell_mcp_sessions";

/// Counts from now on; what is returned renders it.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe_counter!(CALLS, "Calls, by tool and by how they ended");
    describe_histogram!(CALL_SECONDS, "How long calls ran, by tool");
    describe_histogram!(
        QUEUE_SECONDS,
        "How long calls waited for their turn, by tool"
    );
    describe_gauge!(RUNNING, "Calls that run now");
    describe_counter!(DENIALS, "What calls were denied, by kind");
    describe_counter!(
        CPU_SECONDS,
        "Milliseconds of CPU time that calls used, by tool"
    );
    describe_counter!(
        EGRESS_BYTES,
        "Bytes that calls sent to and received from hosts, by tool"
    );
    describe_counter!(RESPONSES, "Answers to requests over HTTP, by status");
    describe_gauge!(SESSIONS, "Sessions of clients of the older era of MCP");
    Ok(handle)
}

/// A call is over.
pub fn call(answer: &Answer) {
    let outcome = &answer.outcome;
    let tool = outcome.tool.clone();
    let usage = &outcome.usage;
    let status = text(&outcome.status);
    counter!(CALLS, "tool" => tool.clone(), "status" => status).increment(1);
    if answer.cause.is_none() {
        let seconds = Duration::from_millis(usage.wall_ms).as_secs_f64();
        histogram!(CALL_SECONDS, "tool" => tool.clone()).record(seconds);
    }
    let cpu = usage.cpu_user_ms + usage.cpu_system_ms;
    counter!(CPU_SECONDS, "tool" => tool.clone()).increment(cpu);
    counter!(EGRESS_BYTES, "tool" => tool).increment(usage.egress_bytes);
    for denial in &outcome.denials {
        denied(denial.kind, denial.count);
    }
}

fn denied(kind: DenialKind, count: u64) {
    counter!(DENIALS, "kind" => text(&kind)).increment(count);
}

/// A call had its turn after so long.
pub fn waited(tool: &str, wait: Duration) {
    histogram!(QUEUE_SECONDS, "tool" => tool.to_owned()).record(wait.as_secs_f64());
}

/// A request has this status.
pub fn response(status: u16) {
    counter!(RESPONSES, "status" => status.to_string()).increment(1);
}

/// How it is now.
#[allow(clippy::cast_precision_loss)] // far fewer than a double counts
pub fn now(running: usize, sessions: usize) {
    gauge!(RUNNING).set(running as f64);
    gauge!(SESSIONS).set(sessions as f64);
}

/// The word that outcomes have for it.
fn text(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
