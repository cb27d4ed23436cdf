//! The supervisor: receives MCP tool calls, has each run in a cell, and says what came of it.
#![forbid(unsafe_code)]

pub mod audit;
pub mod caller;
pub mod dirs;
pub mod lines;
pub mod outcome;
pub mod scan;
