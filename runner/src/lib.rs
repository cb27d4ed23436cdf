//! The confined side of Toolcell.
//!
//! A small single-threaded **launcher** receives complete orders ([`spec`]) from the supervisor and
//! clones one **cell** for each call; inside it, [`confine`] takes the steps, in one visible order,
//! by which the process confines itself before it execs the tool. What happened comes back as
//! [`report`] messages on a socket of the call's own.
#![deny(unsafe_code)]

pub mod confine;
pub mod descriptors;
mod idmaps;
pub mod init;
pub mod landlock;
pub mod launcher;
mod leftovers;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod reader;
pub mod report;
pub mod seccomp;
pub mod spec;
#[allow(unsafe_code)] // the one module that has any
pub mod sys;
pub mod wire;
