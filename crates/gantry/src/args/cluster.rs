//! Arguments of the commands for the cluster: machines, rules, tokens, bases, and the store.

use std::path::PathBuf;

use clap::Subcommand;
use gantry_model::{AppName, BaseName, MachineName, PolicyKey};

use super::machine::Machine;
use super::values::{age, rule};

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show and change the rules that hold for the whole cluster
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print every rule with its value, or the value of one rule
    Get {
        /// Rule whose value is printed alone
        rule: Option<PolicyKey>,
    },
    /// Change rules of the cluster, at once and without a restart
    ///
    /// A time is written 30s, 10m, 2h or 1d; a size 512M or 2G. trusted-proxies has the address ranges whose X-Forwarded-*,
    /// Forwarded, X-Real-IP and PROXY protocol headers count; an empty value trusts none.
    Set {
        /// Rules with their new values
        #[arg(required = true, value_parser = rule, value_name = "RULE=VALUE")]
        rules: Vec<(PolicyKey, String)>,
    },
    /// Give rules their defaults again
    Unset {
        /// Rules
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<PolicyKey>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Read every page and every record, and report damage
    Check {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MachineCommand {
    /// List the machines
    Ls,
    /// Show one machine
    Show {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Base {
    /// Create a base from a recipe
    Create {
        name: BaseName,
        /// Recipe, such as base.toml
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
    },
    /// Import a base from an OCI archive or from another registry
    Import {
        name: BaseName,
        /// OCI archive (`skopeo copy docker://… oci-archive:FILE`), or `registry.example/team/base:tag`
        #[arg(value_name = "FILE|REF")]
        from: String,
    },
    /// List bases
    Ls,
    /// Remove a base that no app is set to
    Rm { name: BaseName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Create a token; the secret is shown once
    Create {
        name: String,
        /// Allow everything
        #[arg(long, group = "scope")]
        admin: bool,
        /// Allow reading
        #[arg(long, group = "scope")]
        read: bool,
        /// Allow everything with this app but to create and destroy the app
        #[arg(long, group = "scope", value_name = "APP")]
        deploy: Option<AppName>,
        /// Lifetime of the token: `90s`, `15m`, `1h`, `30d`
        #[arg(long, value_parser = age, value_name = "AGE")]
        expires: Option<u64>,
    },
    /// List tokens
    Ls,
    /// Revoke a token
    Revoke { name: String },
}
