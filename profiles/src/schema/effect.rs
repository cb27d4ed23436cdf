//! What a program does beyond its cell, as a profile says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a program does to the hosts and sockets that it reaches, by its author's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It only asks.
    Reads,
    /// It may add something, and takes nothing away.
    Adds,
    /// It may do anything.
    #[default]
    Changes,
}
