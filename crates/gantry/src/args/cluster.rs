//! Arguments of the commands for the cluster: machines, rules, tokens, bases, and the store.

use std::path::PathBuf;

use clap::Subcommand;
use gantry_model::{AppName, BaseName, JoinRole, LabelKey, LabelValue, MachineName, PolicyKey};
use gantry_queue_store::PostgresAddress;
use gantry_store::StoreAddress;

use super::machine::Machine;
use super::values::{JobStoreParser, SshTarget, age, host, label, label_change, rule, server_address, ssh_target};

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show and change the rules that hold for the whole cluster
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Create tokens with which machines join
    #[command(subcommand)]
    JoinToken(JoinTokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Create a join token and print the command that uses it
    Create {
        /// Purpose of the token: agent or server
        #[arg(long, value_name = "ROLE")]
        role: JoinRole,
        /// Lifetime of the token: `90s`, `15m`, `1h`, `2d`; an hour by default
        #[arg(long, value_parser = age, value_name = "TIME")]
        ttl: Option<u64>,
    },
}

/// Arguments of `gantry server`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ServerCommand>,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Prepare this machine as the first of a cluster, and print the command with which others join
    Init {
        #[command(flatten)]
        machine: Machine,
    },
}

/// Arguments of `gantry join`.
#[derive(clap::Args)]
pub(crate) struct Join {
    /// A server of the cluster, such as m1:7000
    #[arg(value_parser = server_address, value_name = "HOST:PORT")]
    pub(crate) server: String,
    /// Join token; the variable keeps the token out of the process list
    #[arg(long, env = "GANTRY_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: String,
    /// Label of this machine; may be given several times
    #[arg(long = "label", value_parser = label, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(LabelKey, LabelValue)>,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Leaves out the token.
impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("server", &self.server)
            .field("labels", &self.labels)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
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
    /// Copy the records of a stopped cloud into an empty etcd, which more servers can share
    Migrate {
        #[command(flatten)]
        machine: Machine,
        /// The new store, etcd://host:2379[,host:2379][/prefix]
        #[arg(long, value_name = "STORE")]
        to: StoreAddress,
    },
    /// Move the container jobs of a stopped cloud from the file into an empty PostgreSQL database
    MigrateJobs {
        #[command(flatten)]
        machine: Machine,
        /// The database, postgres://user@host[:port][,host[:port]]/database[?password=FILE][&ca=FILE]
        #[arg(long, value_name = "ADDRESS", value_parser = JobStoreParser)]
        to: PostgresAddress,
    },
}

/// Arguments of `gantry machine add`.
#[derive(Debug, clap::Args)]
pub(crate) struct MachineAdd {
    /// The machine, as ssh takes it
    #[arg(value_parser = ssh_target, value_name = "root@HOST")]
    pub(crate) target: SshTarget,
    /// Role of the machine in the cluster: agent or server
    #[arg(long, value_name = "ROLE", default_value_t = JoinRole::Agent)]
    pub(crate) role: JoinRole,
    /// Label of the machine; may be given several times
    #[arg(long = "label", value_parser = label, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(LabelKey, LabelValue)>,
    /// Host name or IP address by which other machines reach the new one; by default that of ssh
    // The id differs from that of this machine's own setting, whose value in the settings file is no default here.
    #[arg(id = "its_advertise", long = "advertise", value_name = "HOST", value_parser = host)]
    pub(crate) advertise: Option<String>,
    /// Program or release tarball to install, such as one for another architecture; by default this program
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Option of ssh, such as Port=2222; may be given several times
    #[arg(short = 'o', long = "ssh-option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MachineCommand {
    /// List the machines
    Ls,
    /// Make another machine a member over ssh
    ///
    /// Installs this program as /usr/local/bin/gantry there, joins, starts the service, and waits until the machine is ready. ssh must
    /// let you in as root without a password. The machine reads its settings from /etc/gantry/gantry.toml, if it has the file.
    Add(MachineAdd),
    /// Show one machine
    Show {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
    },
    /// Give a machine labels, and take them away
    ///
    /// Roles name the labels of the machines that they run on.
    Label {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
        /// Labels to set, or to remove with a hyphen at the end
        #[arg(required = true, value_parser = label_change, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<(LabelKey, Option<LabelValue>)>,
    },
    /// Let a machine take no new copies; its own stay
    Cordon {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
        /// Reason, for those who ask later
        #[arg(short, long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Let a machine take copies again
    Uncordon {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
    },
    /// Move the copies of a machine to others
    ///
    /// Each new copy is ready before its old one stops, one copy of a role at a time. A copy that no other machine takes,
    /// and a copy with a volume, goes on where it is; `gantry machine show` says which.
    Drain {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
        /// Time within which all copies are expected to leave: `90s`, `15m`, `1h`, `2d`
        // The id differs from that of the policy's deadline, whose value in the settings file is no default here.
        #[arg(id = "drain_deadline", long = "deadline", value_parser = age, value_name = "DURATION")]
        deadline: Option<u64>,
        /// Reason, for those who ask later
        #[arg(short, long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Remove a machine on which nothing runs
    ///
    /// The machine is refused from then on.
    Rm {
        #[arg(value_name = "MACHINE")]
        name: MachineName,
        /// Remove a lost machine, and give up what was on it: volumes too
        #[arg(long)]
        force: bool,
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
        #[arg(long, value_parser = age, value_name = "DURATION")]
        expires: Option<u64>,
    },
    /// List tokens
    Ls,
    /// Revoke a token
    Revoke { name: String },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Args;

    #[test]
    fn debug_leaves_out_the_join_token() {
        let words = ["gantry", "join", "m1:7000", "--token", "join-secret"];
        let shown = format!("{:?}", Args::try_parse_from(words).expect("arguments"));
        assert!(shown.contains("m1:7000") && !shown.contains("join-secret"), "{shown}");
    }
}
