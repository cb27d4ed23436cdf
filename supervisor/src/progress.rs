//! Progress notifications: what a running call writes, and that it still runs.

use std::time::Duration;

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::service::Progress;

/// Most pieces of news that wait to be told; what comes on top is lost.
pub const QUEUE_MAX: usize = 64;
/// Shortest time between two notifications: more often than this, nobody can read them.
pub const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Longest message in bytes. Progress shows how a call is doing; its output is in the result.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Tells a client how its call is doing, until the sender is dropped.
///
/// Lines are told whole, and those that come quickly together; a client that does not read holds up
/// nobody but itself.
pub async fn report(
    mut news: mpsc::Receiver<Progress>,
    peer: Peer<RoleServer>,
    token: ProgressToken,
) {
    let began = Instant::now();
    let mut lines = Lines::default();
    let mut told = None;
    let mut progress = 0.0;
    let mut open = true;
    while open {
        match news.recv().await {
            Some(piece) => lines.take(piece),
            None => open = false,
        }
        if let (Some(told), true) = (told, open) {
            let until: Instant = told + TOLD_EVERY;
            while let Ok(piece) = tokio::time::timeout_at(until, news.recv()).await {
                let Some(piece) = piece else {
                    open = false;
                    break;
                };
                lines.take(piece);
            }
        }
        let Some(message) = lines.message(!open) else {
            continue;
        };
        // The protocol wants a number that grows: it is the seconds that have passed.
        progress = began.elapsed().as_secs_f64().max(f64::next_up(progress));
        let notification = ProgressNotificationParam::new(token.clone(), progress);
        if peer
            .notify_progress(notification.with_message(message))
            .await
            .is_err()
        {
            return;
        }
        told = Some(Instant::now());
    }
}

/// Output that was not told yet.
#[derive(Default)]
struct Lines {
    text: String,
    elapsed: Option<Duration>,
    left_out: usize,
}

impl Lines {
    fn take(&mut self, piece: Progress) {
        match piece {
            Progress::Elapsed(elapsed) => self.elapsed = Some(elapsed),
            Progress::Output { text, .. } => {
                let room = MESSAGE_BYTES_MAX.saturating_sub(self.text.len());
                let head = &text[..text.floor_char_boundary(room)];
                self.text.push_str(head);
                self.left_out += text.len() - head.len();
            }
        }
    }

    /// The next message, if there is anything to say: whole lines, but for one that is too long or
    /// the last of all.
    fn message(&mut self, last: bool) -> Option<String> {
        let full = self.text.len() + 4 > MESSAGE_BYTES_MAX || self.left_out > 0;
        let end = if last || full {
            self.text.len()
        } else {
            self.text.rfind('\n').map_or(0, |newline| newline + 1)
        };
        let rest = self.text.split_off(end);
        let mut message = std::mem::replace(&mut self.text, rest);
        message.truncate(message.trim_end_matches(['\n', '\r']).len());
        let left_out = std::mem::take(&mut self.left_out);
        let elapsed = self.elapsed.take();
        if left_out > 0 {
            message = format!("{message}\n[{left_out} more bytes]");
        }
        if !message.is_empty() {
            return Some(message);
        }
        let seconds = elapsed?.as_secs();
        (!last).then(|| format!("running for {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Stream;

    fn output(text: &str) -> Progress {
        Progress::Output {
            stream: Stream::Stdout,
            text: text.to_owned(),
        }
    }

    #[test]
    fn lines_are_told_whole() {
        let mut lines = Lines::default();
        lines.take(output("one\ntw"));
        assert_eq!(lines.message(false).as_deref(), Some("one"));
        lines.take(output("o\n"));
        assert_eq!(lines.message(false).as_deref(), Some("two"));
        lines.take(output("three"));
        assert_eq!(lines.message(false), None);
        assert_eq!(lines.message(true).as_deref(), Some("three"));
        assert_eq!(lines.message(true), None);
    }

    #[test]
    fn flood_is_cut_and_counted() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.take(output(&"é".repeat(1_000)));
        }
        let message = lines.message(false).unwrap();
        assert!(message.len() < MESSAGE_BYTES_MAX + 32);
        assert!(message.ends_with("[195904 more bytes]"), "{message}");
    }

    #[test]
    fn silence_is_told_by_the_time() {
        let mut lines = Lines::default();
        lines.take(Progress::Elapsed(Duration::from_secs(4)));
        assert_eq!(lines.message(false).as_deref(), Some("running for 4 s"));
        assert_eq!(lines.message(false), None);
    }
}
