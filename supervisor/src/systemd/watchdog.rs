//! Signs of life, each after a proof: systemd ends a service that gives none.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Notifier;
use crate::service::Service;

/// How many proofs fall within the time that systemd waits: one may be late.
const PROOFS: u32 = 3;

/// Gives signs of life as long as the runtime, its threads for what blocks, and the launcher answer.
/// Returns at once if nobody waits for any.
pub async fn watch(notifier: Notifier, service: Arc<Service>) {
    let Some(limit) = notifier.watchdog() else {
        return;
    };
    let every = limit / PROOFS;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(every, proof(&service)).await {
            Ok(Ok(())) => notifier.alive(&service.status()),
            Ok(Err(reason)) => miss(&notifier, &reason),
            Err(_elapsed) => miss(&notifier, &format!("no answer within {every:?}")),
        }
    }
}

fn miss(notifier: &Notifier, reason: &str) {
    tracing::error!(reason, "no sign of life for systemd: the service hangs");
    notifier.status(&format!("hung: {reason}"));
}

/// That this is polled proves that the runtime does its work, timers included.
async fn proof(service: &Service) -> Result<(), String> {
    // Receipts are written, and profiles read, by these.
    tokio::task::spawn_blocking(|| ())
        .await
        .map_err(|error| error.to_string())?;
    service.cells.alive().await
}
