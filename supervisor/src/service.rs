//! What serves a call, whatever way it came: catalog → arguments → admission → cell → receipt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::audit::Audit;
use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::outcome::Outcome;
use crate::results::Results;
use crate::tool::Tool;

/// Everything that a call needs, shared by all of them.
pub struct Service {
    /// The tools, as a snapshot that can be swapped.
    pub catalog: Catalog,
    /// Outputs and artifacts that are kept for `resources/read`.
    pub results: Results,
    /// The receipts.
    pub audit: Audit,
    /// Concurrency, rates and queues.
    pub admission: Admission,
    /// What runs a call in a cell.
    pub cells: Arc<dyn Run>,
}

/// One call as it was asked for.
pub struct Request {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments, unchecked.
    pub arguments: serde_json::Value,
    /// Who asks.
    pub caller: Caller,
    /// Cancelled when the caller gives up or goes away.
    pub cancel: CancellationToken,
    /// Where to say how it goes on, if anybody wants to know.
    pub progress: Option<mpsc::Sender<Progress>>,
}

/// News of a running call. It is lost if nobody takes it in time: a call never waits for its
/// audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The tool wrote something.
    Output {
        /// Where to.
        stream: Stream,
        /// What; bytes that are not UTF-8 appear as U+FFFD.
        text: String,
    },
    /// The call has been running this long.
    Elapsed(Duration),
}

/// One of a tool's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What runs a call: [`crate::call::Cells`], or a stand-in where a test is about something else.
pub trait Run: Send + Sync + 'static {
    /// Runs one call from launch to verified end. It must come to an end soon after
    /// [`Start::cancel`] is cancelled, and it never fails: whatever happens is an [`Outcome`].
    fn run(&self, start: Start) -> Running<'_>;
}

/// A call under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// A call that was admitted, with all that is needed to run it.
pub struct Start {
    /// Identifier of the call, for its cgroup, its receipt and its outcome.
    pub call: String,
    /// The tool.
    pub tool: Arc<Tool>,
    /// The tool's command, filled with the call's arguments.
    pub plan: profiles::Plan,
    /// Who asks; named workspaces belong to its `id`.
    pub caller: Caller,
    /// Cancelled when the caller gives up or goes away.
    pub cancel: CancellationToken,
    /// Where to say how it goes on, if anybody wants to know; use `try_send`.
    pub progress: Option<mpsc::Sender<Progress>>,
    /// Where outputs too long for the answer, and artifacts, are kept.
    pub kept: crate::results::Keep,
}
