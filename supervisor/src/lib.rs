//! The supervisor: receives MCP tool calls, has each run in a cell, and says what came of it.
#![forbid(unsafe_code)]

pub mod caller;
pub mod outcome;
