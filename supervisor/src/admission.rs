//! Whether a call may start now: who may call, how often, how many at once.
//!
//! A call that finds its tool busy waits in a queue with a bound and a deadline; what is refused is
//! refused with the profile line that says so, and costs nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use profiles::resolve::{Approve, Limits, Rate, Resolved};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;

/// Most calls at once, of all tools together: each has a cell, with its processes, mounts and
/// memory.
pub const CALLS_MAX: usize = 64;
/// Most calls that wait for one tool.
pub const QUEUE_MAX: usize = 64;
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
        "{QUEUE} calls are waiting for this tool already, as {at_once} run at once; hint: call again \
         later, or raise `limits.concurrency`", QUEUE = QUEUE_MAX
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

/// What all tools share.
pub struct Admission {
    calls: Arc<Semaphore>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }
}

/// The right to run one call; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    _tool: OwnedSemaphorePermit,
    _calls: OwnedSemaphorePermit,
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
        gate.count()?;
        if let Ok(tool) = Arc::clone(&gate.running).try_acquire_owned()
            && let Ok(calls) = Arc::clone(&self.calls).try_acquire_owned()
        {
            return Ok(Permit {
                _tool: tool,
                _calls: calls,
            });
        }
        let _place = gate.queue()?;
        let turn = async {
            // The semaphores are never closed.
            let tool = Arc::clone(&gate.running).acquire_owned().await.ok()?;
            let calls = Arc::clone(&self.calls).acquire_owned().await.ok()?;
            Some(Permit {
                _tool: tool,
                _calls: calls,
            })
        };
        let waited = Refusal::Waited {
            at_once: gate.at_once,
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Refusal::Cancelled),
            turn = tokio::time::timeout(QUEUE_WAIT_MAX, turn) => match turn {
                Ok(Some(permit)) => Ok(permit),
                Ok(None) | Err(_) => Err(waited),
            },
        }
    }
}

/// What one tool's calls have to pass. It outlives a reload that leaves its limits as they are.
pub struct Gate {
    at_once: usize,
    rate: Option<(Rate, DefaultDirectRateLimiter)>,
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    /// A gate with these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let at_once = at_once(limits);
        Self {
            at_once,
            rate: limits
                .rate
                .and_then(|rate| Some((rate, DefaultDirectRateLimiter::direct(quota(rate)?)))),
            running: Arc::new(Semaphore::new(at_once)),
            waiting: Arc::default(),
        }
    }

    /// Whether it has these limits.
    #[must_use]
    pub fn fits(&self, limits: &Limits) -> bool {
        self.at_once == at_once(limits) && self.rate.as_ref().map(|(rate, _)| *rate) == limits.rate
    }

    fn count(&self) -> Result<(), Refusal> {
        let Some((rate, limiter)) = &self.rate else {
            return Ok(());
        };
        limiter.check().map_err(|until| Refusal::Rate {
            calls: rate.calls,
            per: rate.per,
            wait: until.wait_time_from(DefaultClock::default().now()),
        })
    }

    fn queue(&self) -> Result<Place, Refusal> {
        // From here on, dropping the place gives it back.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.waiting));
        if before >= QUEUE_MAX {
            return Err(Refusal::QueueFull {
                at_once: self.at_once,
            });
        }
        Ok(place)
    }
}

/// A place in a queue.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
