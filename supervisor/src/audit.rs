//! The receipts: one hash-chained line of JSON for each call, written before the call is answered.
//!
//! Room for a receipt is reserved before the call starts, so that a disk that is full or read-only
//! refuses the call instead of losing its receipt; the next call tries again. The chain shows cuts,
//! edits and swaps by whoever does not write the whole log anew; against that, `verify` prints the
//! last hash, and every result carries its receipt's, to be kept elsewhere.

mod chain;
mod end;
mod log;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use chain::{BreakReason, Entry, LINE_BYTES_MAX, Line, LineError, Link, Receipt};
pub use log::{Durability, FILE_BYTES_MAX, HEAD_FILE, KEY_FILE, LOCK_WAIT_MAX, LOG_FILE};
pub use verify::{Finding, Severity, Verified, verify_directory, verify_file};

use crate::caller::Caller;
use crate::outcome::{Denial, EgressUse, Outcome};

/// Most denials in a receipt; the outcome has them all.
pub const DENIALS_MAX: usize = 24;
/// Most hosts in a receipt, those with the most bytes; the outcome has them all.
pub const HOSTS_MAX: usize = 16;
/// Longest text in a receipt, in bytes of JSON; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;

/// Why receipts cannot be written, so that no call can be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The system refused something.
    #[error("could not {act} the audit log's `{}`: {source}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read or change it.
    #[error(
        "`{}` is no regular file that only its owner can read; hint: `chmod 600` it, or move it away",
        path.display()
    )]
    NotPrivate {
        /// Which file.
        path: PathBuf,
    },
    /// The task that writes was stopped.
    #[error("the audit log's writer was stopped")]
    Stopped,
}

/// The receipts of this supervisor; clones share the log.
#[derive(Clone)]
pub struct Audit {
    log: Arc<Mutex<log::Log>>,
    reserved: Arc<AtomicU64>,
}

impl Audit {
    /// Receipts go to this directory, which exists and is private. Nothing is touched before the
    /// first call.
    #[must_use]
    pub fn new(directory: PathBuf, durability: Durability) -> Self {
        Self::with_log(log::Log::new(directory, durability))
    }

    /// The same, with files that are set aside at another size than [`FILE_BYTES_MAX`].
    #[must_use]
    pub fn with_file_bytes_max(directory: PathBuf, durability: Durability, bytes: u64) -> Self {
        Self::with_log(log::Log::new(directory, durability).with_file_bytes_max(bytes))
    }

    fn with_log(log: log::Log) -> Self {
        Self {
            log: Arc::new(Mutex::new(log)),
            reserved: Arc::default(),
        }
    }

    /// Makes sure that one more receipt can be written.
    pub async fn reserve(&self) -> Result<Reservation, AuditError> {
        let lines = self.reserved.fetch_add(1, Ordering::Relaxed) + 1;
        // From here on, dropping it gives the place back.
        let mut reservation = Reservation {
            audit: self.clone(),
            key: [0; 32],
        };
        // A rotation adds a header, a mended log a line that says so.
        let lines = lines.saturating_add(2);
        reservation.key = self
            .blocking(move |log| {
                log.reserve(lines)?;
                log.key()
            })
            .await?;
        Ok(reservation)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut log::Log) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let log = Arc::clone(&self.log);
        tokio::task::spawn_blocking(move || {
            // Nothing in the log's own code panics half-way through a change of its fields.
            act(&mut log.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .unwrap_or(Err(AuditError::Stopped))
    }
}

/// The right to write one receipt.
pub struct Reservation {
    audit: Audit,
    key: [u8; 32],
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.audit.reserved.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reservation {
    /// Digest of a call's arguments, keyed so that whoever reads the log cannot try out guesses.
    #[must_use]
    pub fn digest(&self, arguments: &serde_json::Value) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of every length");
        mac.update(chain::canonical(arguments).as_bytes());
        chain::hex(&mac.finalize().into_bytes())
    }

    /// Writes the receipt. When this returns, the log has it.
    pub async fn write(self, receipt: Receipt) -> Result<Link, AuditError> {
        self.audit
            .blocking(move |log| log.append(Entry::Call(Box::new(receipt))))
            .await
    }
}

impl Receipt {
    /// The receipt of an outcome, cut to what a line has room for.
    #[must_use]
    pub fn new(outcome: &Outcome, profile: &str, arguments: String, caller: &Caller) -> Self {
        let cut_denial = |denial: &Denial| Denial {
            what: cut(&denial.what),
            rule: cut(&denial.rule),
            allow_with: cut(&denial.allow_with),
            ..*denial
        };
        let enforced = outcome.enforced.clone().map(|mut enforced| {
            enforced.cgroup.truncate(DENIALS_MAX);
            enforced
                .cgroup
                .iter_mut()
                .for_each(|text| *text = cut(text));
            enforced
        });
        Self {
            call: cut(&outcome.call),
            tool: cut(&outcome.tool),
            profile: profile.to_owned(),
            arguments,
            caller: caller.clone(),
            status: outcome.status,
            exit_code: outcome.exit_code,
            signal: outcome.signal.clone(),
            reason: cut(&outcome.reason),
            output_bytes: [outcome.stdout.bytes, outcome.stderr.bytes],
            usage: outcome.usage,
            denials: outcome
                .denials
                .iter()
                .take(DENIALS_MAX)
                .map(cut_denial)
                .collect(),
            denials_left_out: outcome.denials.len().saturating_sub(DENIALS_MAX),
            egress: most_reached(&outcome.egress),
            egress_left_out: outcome.egress.len().saturating_sub(HOSTS_MAX),
            enforced,
        }
    }
}

fn most_reached(egress: &[EgressUse]) -> Vec<EgressUse> {
    let mut hosts: Vec<_> = egress.iter().collect();
    hosts.sort_by_key(|host| std::cmp::Reverse(host.sent_bytes + host.received_bytes));
    let cut_host = |host: &EgressUse| EgressUse {
        host: cut(&host.host),
        ..*host
    };
    hosts.into_iter().take(HOSTS_MAX).map(cut_host).collect()
}

/// The head of a text that takes up to [`TEXT_BYTES_MAX`] as JSON.
fn cut(text: &str) -> String {
    let mut bytes = 0;
    for (position, character) in text.char_indices() {
        bytes += match character {
            '"' | '\\' => 2,
            control if control.is_control() => "\\u0000".len(),
            other => other.len_utf8(),
        };
        if bytes > TEXT_BYTES_MAX {
            return format!("{}…", &text[..position]);
        }
    }
    text.to_owned()
}
