//! The supervisor: receives MCP tool calls, has each run in a cell, and says what came of it.
#![forbid(unsafe_code)]

pub mod admission;
pub mod artifacts;
pub mod audit;
pub mod call;
pub mod caller;
pub mod catalog;
pub mod cgroup;
pub mod cli;
pub mod commands;
pub mod confinement;
pub mod denials;
pub mod descriptor;
pub mod dirs;
pub mod disk;
pub mod exceeded;
pub mod facts;
pub mod ids;
pub mod launch;
pub mod lines;
pub mod marks;
pub mod outcome;
pub mod probe;
pub mod processes;
pub mod progress;
pub mod render;
pub mod results;
pub mod scan;
pub mod server;
pub mod service;
pub mod streams;
pub mod supervise;
pub mod tool;
pub mod verdict;
pub mod workspace;
