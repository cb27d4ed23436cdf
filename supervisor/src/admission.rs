//! Whether a call may start now: who may call, how often, how many at once.
//!
//! A call that finds its tool busy waits its turn in a line with a bound and a deadline, in which callers
//! are served in rotation; what is refused is
//! refused with the profile line that says so, and costs nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use profiles::resolve::{Approve, Limits, Rate, Resolved};
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::service::Cause;
use crate::turns::{Asked, Places, Turn, Turns};

/// Most calls at once, of all tools together: each has a cell, with its processes, mounts and
/// memory.
pub const CALLS_MAX: usize = 64;
/// Most calls of one caller that wait for one tool, and for a place among all calls.
pub const QUEUE_MAX: usize = 64;
/// Most calls of all callers together that wait so.
pub const QUEUE_ALL_MAX: usize = 512;
/// Callers whose rate is remembered for a tool, before those are forgotten for whom it is full again.
const CALLERS_MAX: usize = 1024;
/// Longest wait; clients give up after a minute.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a call was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller has none of the roles.
    #[error(
        "none of your roles may call this tool; hint: `access.roles` in its profile names those \
         that may"
    )]
    Role,
    /// A person would have to be asked, and this build cannot.
    #[error(
        "the tool's profile has `access.approve`, and nobody can be asked here; hint: \
         `approve = \"never\"` in `[access]`"
    )]
    Approval,
    /// The tool was called too often.
    #[error(
        "the rate limit of {calls} calls in {} is used up; hint: call again in {}, or raise \
         `limits.rate`", spoken(*per), spoken(*wait)
    )]
    Rate {
        /// How many calls.
        calls: u32,
        /// In what time.
        per: Duration,
        /// When the next one is possible.
        wait: Duration,
    },
    /// Too many calls wait already.
    #[error(
        "too many calls are waiting for this tool already ({QUEUE_MAX} of yours, or {QUEUE_ALL_MAX} in \
         all), as {at_once} run at once; hint: call again later, or raise `limits.concurrency`"
    )]
    QueueFull {
        /// `limits.concurrency`.
        at_once: usize,
    },
    /// Its turn did not come in time.
    #[error(
        "its turn did not come within {}, as {at_once} calls run at once; hint: call again later, or \
         raise `limits.concurrency`",
        spoken(QUEUE_WAIT_MAX)
    )]
    Waited {
        /// `limits.concurrency`.
        at_once: usize,
    },
    /// The caller gave up while it waited.
    #[error("cancelled before it started")]
    Cancelled,
}

fn spoken(duration: Duration) -> humantime::FormattedDuration {
    // Nobody wants to read nanoseconds.
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(milliseconds.max(1)))
}

impl Refusal {
    /// Why the call is not begun; nothing if the caller does not want it any more.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Role | Self::Approval => Some(Cause::Forbidden),
            Self::Rate { wait, .. } => Some(Cause::Busy { wait: Some(*wait) }),
            Self::QueueFull { .. } | Self::Waited { .. } => Some(Cause::Busy { wait: None }),
            Self::Cancelled => None,
        }
    }
}

/// What all tools share.
pub struct Admission {
    calls: Arc<Turns>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            calls: Turns::new(CALLS_MAX),
        }
    }
}

/// The right to run one call; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    _tool: Turn,
    _calls: Turn,
}

impl Admission {
    /// Admits a call, when its turn has come.
    pub async fn admit(
        &self,
        profile: &Resolved,
        gate: &Gate,
        caller: &Caller,
        cancel: &CancellationToken,
    ) -> Result<Permit, Refusal> {
        if !caller.may_call(profile) {
            return Err(Refusal::Role);
        }
        if profile.access.approve != Approve::Never {
            return Err(Refusal::Approval);
        }
        gate.count(&caller.id)?;
        let at_once = gate.running.at_once();
        let waiting = async {
            let tool = turn(&gate.running, &caller.id, at_once).await?;
            let calls = turn(&self.calls, &caller.id, at_once).await?;
            Ok(Permit {
                _tool: tool,
                _calls: calls,
            })
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Refusal::Cancelled),
            turn = tokio::time::timeout(QUEUE_WAIT_MAX, waiting) => match turn {
                Ok(admitted) => admitted,
                Err(_) => Err(Refusal::Waited { at_once }),
            },
        }
    }

    /// How many calls run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.calls.running()
    }
}

/// Waits for a turn.
async fn turn(turns: &Arc<Turns>, caller: &str, at_once: usize) -> Result<Turn, Refusal> {
    let places = Places {
        of_caller: QUEUE_MAX,
        of_all: QUEUE_ALL_MAX,
    };
    match turns.ask(caller, places) {
        Asked::Now(turn) => Ok(turn),
        // Whoever gives turns lives as long as those who wait.
        Asked::Later(told) => told.await.map_err(|_| Refusal::QueueFull { at_once }),
        Asked::Full => Err(Refusal::QueueFull { at_once }),
    }
}

/// What one tool's calls have to pass. It outlives a reload that leaves its limits as they are.
pub struct Gate {
    rate: Option<(Rate, DefaultKeyedRateLimiter<String>)>,
    running: Arc<Turns>,
}

impl Gate {
    /// A gate with these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            rate: limits
                .rate
                .and_then(|rate| Some((rate, DefaultKeyedRateLimiter::keyed(quota(rate)?)))),
            running: Turns::new(at_once(limits)),
        }
    }

    /// Whether it has these limits.
    #[must_use]
    pub fn fits(&self, limits: &Limits) -> bool {
        self.running.at_once() == at_once(limits)
            && self.rate.as_ref().map(|(rate, _)| *rate) == limits.rate
    }

    /// Counts a call of a caller's: one who calls too often takes nothing from others.
    fn count(&self, caller: &String) -> Result<(), Refusal> {
        let Some((rate, limiter)) = &self.rate else {
            return Ok(());
        };
        if limiter.len() > CALLERS_MAX {
            // Of those who have not called for a while there is nothing to remember.
            limiter.retain_recent();
        }
        limiter.check_key(caller).map_err(|until| Refusal::Rate {
            calls: rate.calls,
            per: rate.per,
            wait: until.wait_time_from(DefaultClock::default().now()),
        })
    }
}

fn at_once(limits: &Limits) -> usize {
    usize::try_from(limits.concurrency)
        .unwrap_or(CALLS_MAX)
        .clamp(1, CALLS_MAX)
}

/// As many calls at once as the rate has in its time, and then evenly spread.
fn quota(rate: Rate) -> Option<Quota> {
    let calls = NonZeroU32::new(rate.calls)?;
    Some(Quota::with_period(rate.per / calls.get())?.allow_burst(calls))
}
