//! Permissions of a token.

use serde::{Deserialize, Serialize};

use crate::{AppName, MachineName};

/// Permissions of a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Scope {
    /// Every operation.
    Admin,
    /// Every read except configuration values; no changes.
    Read,
    /// Every operation on a single app except to create and destroy the app.
    Deploy {
        /// The app.
        app: AppName,
    },
    /// The operations that the agent and router of a machine need.
    Machine {
        /// The machine.
        machine: MachineName,
    },
}
