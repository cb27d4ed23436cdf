//! Egress by name: the other end of the sockets that a cell hands out.

pub mod watcher;
