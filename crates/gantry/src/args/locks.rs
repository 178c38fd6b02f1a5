//! Arguments of the commands for locks.

use clap::Subcommand;
use gantry_model::AppName;

use super::values::{InvalidValue, age};

#[derive(Debug, Subcommand)]
pub(crate) enum Lock {
    /// Run a command while holding a lock of an app
    ///
    /// The command gets the fencing token in GANTRY_LOCK_TOKEN. A resource that remembers the highest token, and refuses lower ones, is safe from a holder that lost the lock without noticing. If the lock is lost, the command gets SIGTERM, then SIGKILL.
    Run(LockRun),
    /// Show who holds a lock
    Show {
        /// App and name of the lock, such as `shop/migrate`; in a container of the app, the name alone
        #[arg(value_name = "APP/NAME")]
        name: LockName,
    },
}

/// A command that needs a lock.
#[derive(Debug, clap::Args)]
pub(crate) struct LockRun {
    /// App and name of the lock, such as `shop/migrate`; in a container of the app, the name alone
    #[arg(value_name = "APP/NAME")]
    pub(crate) name: LockName,
    /// Time after which the lock is free if this machine is lost
    #[arg(long, default_value = "15s", value_parser = age, value_name = "DURATION")]
    pub(crate) ttl: u64,
    /// Longest wait for the lock; without it, the command waits for ever
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) wait: Option<u64>,
    /// The command
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// App and name of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockName {
    /// None in a container of the app.
    pub(crate) app: Option<AppName>,
    pub(crate) name: String,
}

impl std::str::FromStr for LockName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (app, name) = match text.split_once('/') {
            Some((app, name)) => (Some(AppName::parse(app)?), name),
            None => (None, text),
        };
        if name.is_empty() {
            return Err(InvalidValue::NoLockName);
        }
        Ok(Self { app, name: name.to_owned() })
    }
}
