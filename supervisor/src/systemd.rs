//! What the supervisor tells systemd when it runs as one of its services: how it goes
//! (sd_notify(3)), that it is not hung, and what its log says, with fields.
//!
//! All of it goes over sockets that are opened before the supervisor confines itself, as it makes
//! none afterwards.

pub mod journal;
mod notifier;
mod watchdog;

pub use notifier::Notifier;
pub use watchdog::watch;
