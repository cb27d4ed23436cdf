//! Egress by name: a cell's connections, resolved, checked, dialled and relayed outside of it.
//!
//! In the cell's network namespace every address is its own, and sockets that stand for the allowed
//! hosts are handed out of it ([`runner`]'s `network`). A process of its own, the **gateway**, answers
//! its questions for names, accepts its connections, checks that the bytes name the host that was
//! connected to, connects to an address that was checked, and keeps the account. No program needs to
//! know: there is no proxy variable and no certificate to install.

pub mod budget;
pub mod cell;
pub mod confinement;
pub mod connection;
pub mod denied;
pub mod dial;
pub mod dns;
pub mod echoes;
pub mod gateway;
pub mod host;
pub mod names;
pub mod opened;
pub mod opening;
pub mod relay;
pub mod requests;
pub mod session;
pub mod verify;
pub mod watcher;
pub mod wire;
