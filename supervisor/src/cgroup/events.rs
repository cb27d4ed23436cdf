//! Waiting for a cell's counters to change: by poll(2) on v2, by an eventfd(2) on v1.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often counters are looked at that the kernel says nothing about: `pids.events` on v1.
const COUNTERS_TICK: Duration = Duration::from_millis(50);
/// How often once v1 has said that memory ran out: it says so right before it kills.
const OOM_TICK: Duration = Duration::from_millis(1);
/// How many times; beyond that reclaim has found a page after all, or the tick above sees the kill.
const OOM_TICKS_MAX: u32 = 100;

/// What tells that counters may have changed.
#[derive(Debug)]
pub(super) enum Notice {
    /// `memory.events` and `pids.events`, which are urgent (`POLLPRI`) after every change.
    V2([Source; 2]),
    /// The eventfd on `memory.oom_control`, where the kernel has it.
    V1(Option<Source>),
}

impl Notice {
    /// For files of v2 that are open.
    pub fn v2(files: [&std::fs::File; 2]) -> std::io::Result<Self> {
        let [memory, pids] = files;
        // A duplicate shares the position of the last change that was read, which is what counts.
        Ok(Self::V2([
            Source::new(memory.as_fd(), Interest::PRIORITY)?,
            Source::new(pids.as_fd(), Interest::PRIORITY)?,
        ]))
    }

    /// For v1.
    pub fn v1(eventfd: Option<OwnedFd>) -> Self {
        Self::V1(eventfd.map(|descriptor| Source {
            interest: Interest::READABLE,
            descriptor,
            registered: OnceLock::new(),
        }))
    }

    /// Waits until `changed` says so, and asks it whenever there is reason to. Nothing is lost when
    /// the wait is given up: what a change is lies with `changed`.
    pub async fn until(&self, changed: impl Fn() -> bool) {
        while !changed() {
            match self {
                Self::V2([memory, pids]) => tokio::select! {
                    () = memory.news() => {}
                    () = pids.news() => {}
                },
                Self::V1(oom) => tokio::select! {
                    () = news_if_any(oom.as_ref()) => {
                        let mut ticks = 0;
                        while !changed() && ticks < OOM_TICKS_MAX {
                            tokio::time::sleep(OOM_TICK).await;
                            ticks += 1;
                        }
                        if ticks < OOM_TICKS_MAX {
                            return;
                        }
                    }
                    () = tokio::time::sleep(COUNTERS_TICK) => {}
                },
            }
        }
    }

    /// Whether the kernel tells of every source, so that nothing is left to the clock.
    #[cfg(test)]
    pub fn is_told(&self) -> bool {
        let is_registered = |source: &Source| matches!(source.registered.get(), Some(Some(_)));
        match self {
            Self::V2(sources) => sources.iter().all(is_registered),
            Self::V1(oom) => oom.as_ref().is_some_and(is_registered),
        }
    }
}

async fn news_if_any(source: Option<&Source>) {
    match source {
        Some(source) => source.news().await,
        None => std::future::pending().await,
    }
}

/// One descriptor that the kernel has news on.
#[derive(Debug)]
pub(super) struct Source {
    interest: Interest,
    descriptor: OwnedFd,
    /// Made at the first wait, since that is when there is a runtime; None if it failed.
    registered: OnceLock<Option<AsyncFd<OwnedFd>>>,
}

impl Source {
    fn new(descriptor: BorrowedFd<'_>, interest: Interest) -> std::io::Result<Self> {
        Ok(Self {
            interest,
            descriptor: descriptor.try_clone_to_owned()?,
            registered: OnceLock::new(),
        })
    }

    /// Resolves after news since the last time; without a registration, now and then.
    async fn news(&self) {
        let registered = self.registered.get_or_init(|| self.register().ok());
        if let Some(source) = registered
            && let Ok(mut ready) = source.ready(self.interest).await
        {
            // Watched by edge: the next news sets it again, whether or not the file was read.
            ready.clear_ready();
            return;
        }
        tokio::time::sleep(COUNTERS_TICK).await;
    }

    fn register(&self) -> std::io::Result<AsyncFd<OwnedFd>> {
        crate::descriptor::watch(self.descriptor.try_clone()?, self.interest)
    }
}
