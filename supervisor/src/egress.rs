//! Egress by name.
pub mod budget;
pub mod dns;
pub mod verify;
pub mod watcher;
