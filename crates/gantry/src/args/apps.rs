//! Arguments of the commands for apps.

use clap::Subcommand;
use gantry_model::{AppName, BaseName, HostName, Subnet};

use super::Follow;
use super::values::{Variable, variable};

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Begin maintenance
    On {
        app: AppName,
        /// Message for clients
        #[arg(long, default_value = "down for maintenance")]
        message: String,
    },
    /// End maintenance
    Off { app: AppName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum App {
    /// Create an app
    Create {
        name: AppName,
        /// Base that images of the app are built on, unless the repository names a base
        #[arg(long)]
        base: Option<BaseName>,
        /// Branch that is deployed; main by default
        #[arg(long)]
        branch: Option<String>,
        /// Host name besides <app>.<domain>; may be given several times
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<HostName>,
    },
    /// List apps
    Ls,
    /// Show an app
    Show { name: AppName },
    /// Give an app another name, without a failed request
    ///
    /// The release that serves is deployed under the new name. Releases, hosts, volumes and tokens move along.
    /// The address of the former name leads to the app until `gantry app host NEW --rm` removes it.
    Rename {
        name: AppName,
        /// New name
        new: AppName,
    },
    /// Change the base of an app, from its next push on
    Base {
        name: AppName,
        /// Base; `gantry base ls` lists them
        base: BaseName,
    },
    /// Change the branch of an app that is deployed, from its next push on
    Branch {
        name: AppName,
        /// Branch
        branch: String,
    },
    /// Show, add or remove the host names of an app besides <app>.<domain>
    Host {
        name: AppName,
        /// Host names to add
        #[arg(value_name = "HOST")]
        hosts: Vec<HostName>,
        /// Remove the host names instead
        #[arg(long = "rm", requires = "hosts")]
        remove: bool,
    },
    /// Show or set the proxies that an app trusts besides those of the cluster
    ///
    /// Gantry believes X-Forwarded-*, Forwarded and X-Real-IP from these addresses only.
    Proxies {
        name: AppName,
        /// Address ranges; they replace the list
        #[arg(value_name = "RANGE")]
        ranges: Vec<Subnet>,
        /// Empty the list
        #[arg(long, conflicts_with = "ranges")]
        none: bool,
    },
    /// Stop an app and remove all its data but its volumes
    Destroy {
        name: AppName,
        /// Name of the app, as a confirmation
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Set values and deploy them as a new release; NAME=- reads a value from standard input
    Set {
        app: AppName,
        /// Names with their new values
        #[arg(required = true, value_parser = variable, value_name = "NAME=VALUE")]
        variables: Vec<Variable>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Print one value
    Get {
        app: AppName,
        /// Name of the value
        name: String,
    },
    /// Remove values and deploy a new release
    Unset {
        app: AppName,
        /// Names of the values
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// List names and values
    Ls { app: AppName },
}
