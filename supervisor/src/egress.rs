//! Egress by name: what stands between a cell and the hosts that its profile lists.

pub mod budget;
pub mod dns;
pub mod verify;
