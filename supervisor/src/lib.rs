//! The supervisor: receives MCP tool calls, has each run in a cell, and says what came of it.
#![forbid(unsafe_code)]

pub mod admission;
pub mod audit;
pub mod caller;
pub mod catalog;
pub mod commands;
pub mod dirs;
pub mod facts;
pub mod lines;
pub mod outcome;
pub mod progress;
pub mod render;
pub mod results;
pub mod scan;
pub mod server;
pub mod service;
pub mod tool;
