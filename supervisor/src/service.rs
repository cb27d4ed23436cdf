//! What serves a call, whatever way it came: arguments → admission → cell → receipt.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use profiles::arguments::Arguments;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::audit::{Audit, Link, Receipt, Reservation};
use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::metrics;
use crate::outcome::{self, Outcome, Status, Usage};
use crate::results::{Keep, Results};
use crate::tool::Tool;

/// How often a running call says that it still runs: well within the patience of clients that
/// restart their timeout with each sign of life.
pub const ELAPSED_EVERY: Duration = Duration::from_secs(2);

/// Everything that a call needs, shared by all of them.
pub struct Service {
    /// The tools, as a snapshot that can be swapped.
    pub catalog: Catalog,
    /// Outputs and artifacts that are kept for `resources/read`.
    pub results: Results,
    /// The receipts.
    pub audit: Audit,
    /// How many calls run at once.
    pub admission: Admission,
    /// What runs a call in a cell.
    pub cells: Arc<dyn Run>,
    calls: TaskTracker,
    closing: CancellationToken,
}

/// Why calls are refused and cancelled at the end.
const EXITING: &str = "the supervisor is about to exit";

/// One call as it was asked for.
pub struct Request {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments, unchecked.
    pub arguments: Value,
    /// Who asks, and how they can be reached.
    pub asker: Asker,
}

/// Who asks for a call, and how they can be reached while it runs.
#[derive(Clone)]
pub struct Asker {
    /// Who.
    pub caller: Caller,
    /// Cancelled when they give up or go away.
    pub cancel: CancellationToken,
    /// Where to say how it goes on, if anybody wants to know.
    pub progress: Option<mpsc::Sender<Progress>>,
    /// The asker is the person at this process's own standard streams: the tool reads their input
    /// if the profile gives it none, and its output is copied to theirs as it comes.
    pub terminal: bool,
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
    /// The call has been running this long; [`Service`] says so by itself.
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
    /// [`Asker::cancel`] is cancelled, and it never fails: whatever happens is an [`Outcome`].
    fn run(&self, start: Start) -> Running<'_>;

    /// Resolves once what runs calls has shown that it can; the error says why it cannot. Whoever
    /// asks sets the deadline.
    fn alive(&self) -> Alive<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Why no call can be run here, if so.
    fn unable(&self) -> Option<&str> {
        None
    }

    /// Prepares for calls to come, until it is cancelled; nothing of it is left when this returns.
    fn keep_waiting<'a>(
        &'a self,
        _catalog: &'a Catalog,
        closing: &'a CancellationToken,
    ) -> Keeping<'a> {
        Box::pin(closing.cancelled())
    }
}

/// Preparations under way.
pub type Keeping<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A sign of life that is waited for.
pub type Alive<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// A call under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// A call that was admitted, with all that is needed to run it.
pub struct Start {
    /// Identifier of the call, for its cgroup, its receipt and its outcome.
    pub call: String,
    /// The tool.
    pub tool: Arc<Tool>,
    /// The tool's command, filled with the call's arguments.
    pub plan: profiles::compile::Plan,
    /// Who asks. Named workspaces belong to `caller.id`; use `try_send` for `progress`.
    pub asker: Asker,
    /// Where outputs too long for the answer, and artifacts, are kept.
    pub keep: Keep,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// Where its receipt is in the log; nothing if the log refused it, which the outcome says.
    pub receipt: Option<Link>,
    /// Why the supervisor had it not begin, or not go on, if so; the outcome says it in words.
    pub cause: Option<Cause>,
}

/// Why a call was never begun, or did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its arguments are not what the tool takes.
    Arguments,
    /// The caller may not call the tool.
    Forbidden,
    /// There are too many calls.
    Busy {
        /// When it may go better, if that is known.
        wait: Option<Duration>,
    },
    /// The supervisor is about to exit.
    Ending,
    /// There would be no receipt.
    Unrecorded,
}

/// There is no such tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no tool `{0}`")]
pub struct UnknownTool(pub String);

/// What a call does.
enum Task {
    /// Runs the tool's own command with these arguments.
    Arguments(Value),
    /// Runs a person's own command in the tool's cell.
    Command(Vec<String>),
}

impl Service {
    /// Serves the tools of a catalog.
    #[must_use]
    pub fn new(catalog: Catalog, results: Results, audit: Audit, cells: Arc<dyn Run>) -> Self {
        let under_way = TaskTracker::new();
        // It takes tasks all the same: closing only means that one can wait until it has none.
        under_way.close();
        Self {
            catalog,
            results,
            audit,
            admission: Admission::default(),
            cells,
            calls: under_way,
            closing: CancellationToken::new(),
        }
    }

    /// Runs a call from its arguments to its receipt.
    ///
    /// The call is ended, and its receipt written, also if this future is dropped.
    pub async fn call(self: &Arc<Self>, request: Request) -> Result<Answer, UnknownTool> {
        let tool = self.catalog.tool(&request.tool);
        let tool = tool.ok_or(UnknownTool(request.tool))?;
        let task = Task::Arguments(request.arguments);
        Ok(self.spawn(tool, task, request.asker).await)
    }

    /// Runs a person's own command in a cell of this tool's, with the same limits and receipt.
    pub async fn command(
        self: &Arc<Self>,
        tool: Arc<Tool>,
        command: Vec<String>,
        asker: Asker,
    ) -> Answer {
        self.spawn(tool, Task::Command(command), asker).await
    }

    /// Keeps cells ready for calls to come until the service is closed; none is left when this returns.
    pub async fn keep_waiting(&self) {
        self.cells.keep_waiting(&self.catalog, &self.closing).await;
    }

    /// Whether calls are under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// How it goes, in one line.
    #[must_use]
    pub fn status(&self) -> String {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let tools = self.catalog.snapshot().tools.len();
        let calls = self.calls.len();
        let does = if self.closing.is_cancelled() {
            "stopping"
        } else {
            "serving"
        };
        format!(
            "{does} {tools} tool{}, {calls} call{} under way",
            plural(tools),
            plural(calls)
        )
    }

    /// Cancelled when no more calls are taken.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Waits until no call is under way, or until the time is over.
    pub async fn idle(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.calls.wait())
            .await
            .is_ok()
    }

    /// Takes no more calls, cancels those under way, and waits until their receipts are written, or
    /// until the time is over.
    pub async fn close(&self, at_most: Duration) -> bool {
        self.closing.cancel();
        self.idle(at_most).await
    }

    async fn spawn(self: &Arc<Self>, tool: Arc<Tool>, task: Task, asker: Asker) -> Answer {
        let call = uuid::Uuid::now_v7().simple().to_string();
        let cancel = CancellationToken::new();
        let dropped = cancel.clone().drop_guard();
        let name = tool.name().to_owned();
        let service = Arc::clone(self);
        let id = call.clone();
        let work = self.calls.spawn(async move {
            let given_up = asker.cancel.clone();
            let closing = service.closing.clone();
            let asker = Asker {
                cancel: cancel.clone(),
                ..asker
            };
            let cancelled = async {
                tokio::select! {
                    () = given_up.cancelled() => {}
                    () = closing.cancelled() => {}
                }
                cancel.cancel();
                std::future::pending::<Answer>().await
            };
            tokio::select! {
                answer = service.serve(id, &tool, task, asker) => answer,
                never = cancelled => never,
            }
        });
        let answer = work.await.unwrap_or_else(|_| Answer {
            outcome: ended(
                &call,
                &name,
                Status::SetupFailed,
                "an internal error ended the call; the log of the supervisor says more".to_owned(),
            ),
            receipt: None,
            cause: None,
        });
        dropped.disarm();
        metrics::call(&answer);
        answer
    }

    /// Runs a call and writes its receipt.
    async fn serve(&self, call: String, tool: &Arc<Tool>, task: Task, asker: Asker) -> Answer {
        let reservation = match self.audit.reserve().await {
            Ok(reservation) => reservation,
            Err(error) => {
                // Who is at the terminal reads the reason there.
                if !asker.terminal {
                    tracing::error!(%error, "call refused: its receipt could not be written");
                }
                let reason = format!("no receipt could be written: {error}");
                return Answer {
                    outcome: ended(&call, tool.name(), Status::Refused, reason),
                    receipt: None,
                    cause: Some(Cause::Unrecorded),
                };
            }
        };
        let digest = match &task {
            Task::Arguments(arguments) => reservation.digest(arguments),
            Task::Command(command) => reservation.digest(&json!(command)),
        };
        let caller = asker.caller.clone();
        let (mut outcome, mut cause) = match self.run(&call, tool, task, asker).await {
            Ok(outcome) => (outcome, None),
            Err(Unbegun(outcome, cause)) => (*outcome, Some(cause)),
        };
        if outcome.status == Status::Cancelled && self.closing.is_cancelled() {
            EXITING.clone_into(&mut outcome.reason);
            cause = Some(Cause::Ending);
        }
        // One place names the call, whoever made the outcome.
        outcome.call = call;
        let receipt = Receipt::new(&outcome, &tool.compiled.digest, digest, &caller);
        let receipt = write(reservation, receipt, &mut outcome).await;
        tell(&outcome, &caller);
        Answer {
            outcome,
            receipt,
            cause,
        }
    }

    async fn run(
        &self,
        call: &str,
        tool: &Arc<Tool>,
        task: Task,
        asker: Asker,
    ) -> Result<Outcome, Unbegun> {
        let refused = |reason: &dyn fmt::Display, cause| {
            let outcome = ended(call, tool.name(), Status::Refused, reason.to_string());
            Err(Unbegun(Box::new(outcome), cause))
        };
        if self.closing.is_cancelled() {
            return refused(&EXITING, Cause::Ending);
        }
        let environment = tool.environment();
        let plan = match task {
            Task::Arguments(arguments) => Arguments::check(&tool.compiled.input, arguments)
                .and_then(|arguments| tool.compiled.fill(&arguments, &environment)),
            Task::Command(command) => tool.compiled.fill_command(command, &environment),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return refused(&error, Cause::Arguments),
        };
        let profile = &tool.compiled.resolved;
        let asked = Instant::now();
        let admitted = self
            .admission
            .admit(profile, &tool.gate, &asker.caller, &asker.cancel)
            .await;
        let _permit = match admitted {
            Ok(permit) => permit,
            Err(error) => {
                let Some(cause) = error.cause() else {
                    let reason = error.to_string();
                    return Ok(ended(call, tool.name(), Status::Cancelled, reason));
                };
                return refused(&error, cause);
            }
        };
        metrics::waited(tool.name(), asked.elapsed());
        let progress = asker.progress.clone();
        let start = Start {
            call: call.to_owned(),
            tool: Arc::clone(tool),
            plan,
            keep: self.results.keep(&asker.caller.id, tool.name()),
            asker,
        };
        let running = self.cells.run(start);
        Ok(match progress {
            None => running.await,
            Some(progress) => with_elapsed(running, progress).await,
        })
    }
}

/// A call that was never begun: its outcome, and why.
struct Unbegun(Box<Outcome>, Cause);

/// Says now and then that the call still runs.
async fn with_elapsed(mut running: Running<'_>, progress: mpsc::Sender<Progress>) -> Outcome {
    let began = Instant::now();
    let mut ticks = tokio::time::interval_at(began + ELAPSED_EVERY, ELAPSED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            outcome = &mut running => return outcome,
            now = ticks.tick() => {
                // Whoever does not keep up hears of it the next time.
                let _ = progress.try_send(Progress::Elapsed(now - began));
            }
        }
    }
}

/// Says in the log how a call ended; not what it was given, nor what it wrote.
fn tell(outcome: &Outcome, caller: &Caller) {
    let wall = outcome.usage.wall_ms;
    tracing::info!(
        call = outcome.call,
        tool = outcome.tool,
        caller = caller.id,
        status = outcome.status.name(),
        exit_code = outcome.exit_code,
        wall_ms = wall,
        memory_peak_bytes = outcome.usage.memory_peak_bytes,
        denials = outcome.denials.len(),
        "call of `{}`: {} after {wall} ms",
        outcome.tool,
        outcome.status.name(),
    );
}

/// Writes the receipt; an outcome without one says so.
async fn write(reservation: Reservation, receipt: Receipt, outcome: &mut Outcome) -> Option<Link> {
    match reservation.write(receipt).await {
        Ok(link) => Some(link),
        Err(error) => {
            tracing::error!(%error, call = outcome.call, "a receipt is missing");
            let said = std::mem::take(&mut outcome.reason);
            let separator = if said.is_empty() { "" } else { "; " };
            outcome.reason = format!("{said}{separator}its receipt is missing: {error}");
            None
        }
    }
}

/// The outcome of a call that did not get as far as a cell.
#[must_use]
pub fn ended(call: &str, tool: &str, status: Status, reason: String) -> Outcome {
    Outcome {
        call: call.to_owned(),
        tool: tool.to_owned(),
        status,
        succeeded: false,
        exit_code: None,
        signal: None,
        reason,
        stdout: outcome::Stream::default(),
        stderr: outcome::Stream::default(),
        denials: Vec::new(),
        usage: Usage::default(),
        egress: Vec::new(),
        enforced: None,
        files: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn running_call_says_so_now_and_then() {
        let (sender, mut news) = mpsc::channel(8);
        let running: Running<'_> = Box::pin(async {
            tokio::time::sleep(ELAPSED_EVERY * 2 + ELAPSED_EVERY / 2).await;
            ended("call", "tool", Status::Exited, String::new())
        });
        with_elapsed(running, sender).await;
        for times in 1..=2 {
            assert_eq!(
                news.recv().await,
                Some(Progress::Elapsed(ELAPSED_EVERY * times))
            );
        }
        assert_eq!(news.recv().await, None);
    }
}
