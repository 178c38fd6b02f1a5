//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use gantry_agent::{HostPorts, MetadataAddress};
use gantry_model::{
    AllocationId, AppName, BaseName, Bytes, ClusterPolicy, HostName, MachineName, PolicyKey, ReleaseNumber, RoleName,
    RuleError, Subnet, UnknownRule, VolumeName,
};
use gantry_queue::{ConcurrencyKey, InvalidQueueName, JobId, Priority, QueueName};
use gantry_store::StoreAddress;

use crate::commands::jobs::QueueFilter;
use crate::restore_volumes::VolumeChoice;
use crate::server_user::UserName;

/// An internal cloud on your own Linux machine: push a commit, get a running, routed, replaceable application.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The server that a command asks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remote {
    /// Address of the server
    #[arg(long, global = true, env = "GANTRY_URL", default_value = "http://127.0.0.1:4680")]
    pub(crate) url: String,
    /// File that holds the token; the variable GANTRY_TOKEN holds the token itself
    #[arg(long, global = true, env = "GANTRY_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Settings file: the flags of `gantry up` without their dashes, as TOML; /etc/gantry/gantry.toml by default
    #[arg(long, global = true, env = "GANTRY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder that the settings name. The folder holds the machine's own token.
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: server, agent and router
    ///
    /// A settings file may hold each setting: /etc/gantry/gantry.toml, or the file that --config names. The file is
    /// TOML, one line for each flag without its dashes: `listen = "0.0.0.0:4680"`. A flag wins over the environment,
    /// the environment over the file. Do not put secrets into the file. `gantry down`, `backup`, `restore`, `store
    /// check` and all client commands read the file, too, and the settings of the last `gantry up` of a data folder.
    Up(Machine),
    /// Stop `gantry up` and all its containers; the data and other clouds of this machine stay
    Down(Machine),
    /// Run only the server: API, git endpoint, registry, planner
    Server(Machine),
    /// Run only the agent: the containers of this machine
    Agent(Machine),
    /// Run only the router: HTTP entry and name server
    Router(Machine),
    /// Show machines, routers, apps and disk usage
    Status,
    /// Create, list, show and destroy apps
    #[command(subcommand)]
    App(App),
    /// Deploy an image from Gantry's registry or from another registry
    Deploy {
        app: AppName,
        /// `app:tag`, `app@sha256:…`, or `registry.example/team/app:tag`. The variables GANTRY_REGISTRY_USER and
        /// GANTRY_REGISTRY_PASSWORD hold the login for another registry
        #[arg(long, value_name = "REF")]
        image: String,
        /// Keep the files that a foreign image writes at PATH in a volume of the app. The app then has one copy,
        /// replaced stop-first. The setting stays for later images, config changes and rollbacks; `NAME:` removes the
        /// setting and keeps the data
        #[arg(long = "volume", value_parser = volume, value_name = "NAME:PATH")]
        volumes: Vec<(String, String)>,
        /// Port that a foreign image listens on. The setting stays for later images; `auto` removes the setting
        #[arg(long, value_parser = image_port, value_name = "PORT")]
        port: Option<u16>,
        /// Stop before promotion and serve at the release's own name, until `gantry promote` or `gantry abort`
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        follow: Follow,
    },
    /// List an app's releases
    Releases { app: AppName },
    /// Go back to a release; by default to the last good release before the current one
    Rollback {
        app: AppName,
        /// Release, such as v12
        release: Option<ReleaseNumber>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Move the traffic to a held release
    Promote {
        app: AppName,
        #[command(flatten)]
        follow: Follow,
    },
    /// Take back the deploy in progress
    Abort { app: AppName },
    /// List instances
    Ps { app: Option<AppName> },
    /// Set how many copies of a role run
    Scale {
        app: AppName,
        /// Number of copies of each role
        #[arg(required = true, value_parser = parse_count, value_name = "ROLE=COUNT")]
        counts: Vec<(RoleName, u32)>,
        /// Wait until these copies are ready and all others are gone, for at most 15 minutes
        #[arg(long)]
        wait: bool,
    },
    /// Let the requests of an app wait, for at most 30 s each
    Pause { app: AppName },
    /// Let the waiting requests of a paused app continue
    Resume { app: AppName },
    /// Answer all requests of an app with 503 and a message
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Limit the requests of an app at each router; a limit that is not named is removed
    Limit {
        app: AppName,
        /// Most requests per second
        #[arg(long, value_name = "COUNT")]
        rate: Option<u32>,
        /// Most requests at the same time, open websockets included
        #[arg(long, value_name = "COUNT")]
        concurrent: Option<u32>,
    },
    /// Set, get, unset and list configuration
    #[command(subcommand)]
    Config(Config),
    /// Show the output of an app
    Logs {
        app: AppName,
        /// Follow new output
        #[arg(short, long)]
        follow: bool,
        /// Show the last N lines
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Show only lines of this age or newer: `90s`, `15m`, `1h`, `2d`
        #[arg(long, value_parser = age, value_name = "AGE")]
        since: Option<u64>,
        /// Show only lines of this role
        #[arg(short = 'p', long = "role", value_name = "ROLE")]
        role: Option<RoleName>,
        /// Show only lines with this text
        #[arg(long, value_name = "TEXT")]
        grep: Option<String>,
    },
    /// Run a command in a running instance; at a terminal, the command gets the keyboard
    Exec {
        app: AppName,
        /// Pass standard input on to the command
        #[arg(short = 'i', long)]
        input: bool,
        /// Instance, such as `web-1`; by default the first instance of web
        #[arg(long)]
        instance: Option<String>,
        /// Command; `/bin/sh` by default
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command in a new container with the image and configuration of the current release
    Run {
        app: AppName,
        /// Pass standard input on to the command
        #[arg(short = 'i', long)]
        input: bool,
        /// Mount a volume of the app where its role has the volume, or at PATH. Only one container may have a volume,
        /// unless several roles name the volume: stop its instance first with `gantry scale APP ROLE=0`
        #[arg(long = "volume", value_parser = run_volume, value_name = "NAME[:PATH]")]
        volumes: Vec<(VolumeName, Option<String>)>,
        /// Command with its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run container jobs from a queue, and look at them
    #[command(subcommand)]
    Job(Job),
    /// Show, pause, limit and purge the queues of container jobs
    #[command(subcommand)]
    Queue(Queue),
    /// List, show, remove, export, import and copy volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Explain the state of all apps, of one app, or of one instance
    Why {
        /// App; without it, each app gets one line
        app: Option<AppName>,
        /// Instance, such as `storefront.v12.web-1`
        #[arg(value_parser = |text: &str| AllocationId::try_from(text.to_owned()))]
        instance: Option<AllocationId>,
    },
    /// Create, list and remove bases: the images that apps are built on
    #[command(subcommand)]
    Base(Base),
    /// List and show machines
    #[command(subcommand, name = "machine")]
    Machines(MachineCommand),
    /// Show and change the rules of the cluster
    #[command(subcommand)]
    Cluster(Cluster),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(Token),
    /// Show the audit trail
    Events { app: Option<AppName> },
    /// Explain an error code, such as E_APP_NOT_FOUND
    Explain {
        /// The code; without one, the command lists all codes
        code: Option<String>,
    },
    /// Show a page of the manual
    Docs {
        /// Page; without one, the command lists all pages
        topic: Option<String>,
    },
    /// Check the store, on the server's machine
    #[command(subcommand)]
    Store(Store),
    /// Check the store, blobs, repositories, layers and volumes, and name damage; on the server's machine
    Check {
        #[command(flatten)]
        machine: Machine,
        /// Remove damaged blobs and layers, so that the next push, pull, base create or start writes them again
        #[arg(long)]
        repair: bool,
    },
    /// Write a backup of the server into a file, on the server's machine, while the server runs
    Backup {
        #[command(flatten)]
        machine: Machine,
        /// Include the volumes of the apps on this machine. The files of a running program are of different moments
        #[arg(long)]
        volumes: bool,
        /// File to write
        file: PathBuf,
    },
    /// Restore a backup on a machine without a store
    Restore {
        #[command(flatten)]
        machine: Machine,
        /// Skip damaged files of the backup and restore everything else
        #[arg(long)]
        skip_damaged: bool,
        /// Which volumes of the backup to restore; by default all, unless this machine has data of one of them
        #[arg(long, value_enum, value_name = "WHICH")]
        volumes: Option<VolumeChoice>,
        /// Backup
        file: PathBuf,
    },
    /// Tell whether this program can take over from a running one
    #[command(hide = true)]
    UpgradeCheck(Machine),
    /// Print completions for a shell
    Completions {
        /// Shell
        shell: Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// Folder to write into; it is created if it does not exist
        folder: PathBuf,
    },
}

/// This machine's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Machine {
    /// Name of this machine; by default from its host name
    #[arg(long, env = "GANTRY_MACHINE")]
    pub(crate) machine: Option<MachineName>,
    /// Folder for data that must last
    #[arg(long, env = "GANTRY_DATA", default_value = "/var/lib/gantry")]
    pub(crate) data: PathBuf,
    /// Folder for sockets and for data that a reboot removes
    #[arg(long, env = "GANTRY_RUN", default_value = "/run/gantry")]
    pub(crate) run: PathBuf,
    /// Address of the API, git endpoint and registry
    #[arg(long, env = "GANTRY_LISTEN", default_value = "127.0.0.1:4680")]
    pub(crate) listen: SocketAddr,
    /// Address where apps are reached over HTTP
    #[arg(long, env = "GANTRY_HTTP", default_value = "0.0.0.0:80")]
    pub(crate) http: SocketAddr,
    /// Address where apps are reached over HTTPS; needs --tls-cert and --tls-key
    #[arg(long, env = "GANTRY_HTTPS")]
    pub(crate) https: Option<SocketAddr>,
    /// Certificate chain, PEM
    #[arg(long, env = "GANTRY_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, env = "GANTRY_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Store: a file, or etcd://host:2379[,host:2379][/prefix]; by default a file in the data folder
    #[arg(long, env = "GANTRY_STORE")]
    pub(crate) store: Option<StoreAddress>,
    /// System user that runs the server; `gantry up` makes a missing one
    #[arg(long, env = "GANTRY_SERVER_USER", default_value = "gantry", value_name = "NAME")]
    pub(crate) server_user: UserName,
    /// Address of the bridge, with the prefix length of the containers' network
    #[arg(long, env = "GANTRY_NETWORK", default_value = "10.83.0.1/16", value_parser = network)]
    pub(crate) network: (Ipv4Addr, u8),
    /// Name of the bridge
    #[arg(long, env = "GANTRY_BRIDGE", default_value = "gantry0")]
    pub(crate) bridge: String,
    /// Ports of this machine that containers and builds may reach, such as `5432,6379,8125/udp`; by default only the
    /// router's
    #[arg(long, env = "GANTRY_HOST_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = HostPorts::parse)]
    pub(crate) host_ports: Vec<HostPorts>,
    /// Metadata addresses that containers and builds may reach, such as `169.254.169.254`; by default none
    #[arg(long, env = "GANTRY_METADATA", value_name = "ADDRESSES", value_delimiter = ',', value_parser = MetadataAddress::parse)]
    pub(crate) metadata: Vec<MetadataAddress>,
    /// Control group of all containers
    #[arg(long, env = "GANTRY_CGROUP", default_value = "gantry")]
    pub(crate) cgroup: String,
    /// Most container jobs that run at the same time on a machine; by default four for each processor
    #[arg(long, env = "GANTRY_JOBS", value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) jobs: Option<u16>,
    #[command(flatten)]
    pub(crate) policy: FirstPolicy,
}

/// First values of the cluster policy. A cluster that has a policy keeps it: `gantry cluster policy set` changes it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct FirstPolicy {
    /// Domain of all apps: an app is reached as <app>.<domain>; `localhost` by default
    #[arg(long, env = "GANTRY_DOMAIN", value_name = "DOMAIN", value_parser = |text: &str| rule_value(PolicyKey::Domain, text))]
    pub(crate) domain: Option<String>,
    /// Bake time: how long the old release stands by after promotion; 15s by default
    #[arg(long, alias = "watch", env = "GANTRY_BAKE_TIME", value_name = "TIME",
        value_parser = |text: &str| rule_value(PolicyKey::BakeTime, text))]
    pub(crate) bake_time: Option<String>,
    /// When a push or deploy command returns: once the release serves, which is the default, or at the end of the bake time
    #[arg(long, env = "GANTRY_WAIT_FOR", value_name = "serving|bake", value_parser = |text: &str| rule_value(PolicyKey::WaitFor, text))]
    pub(crate) wait_for: Option<String>,
    /// Drain time: how long a retired instance may finish its requests; 30s by default
    #[arg(long, env = "GANTRY_DRAIN", value_name = "TIME", value_parser = |text: &str| rule_value(PolicyKey::Drain, text))]
    pub(crate) drain: Option<String>,
    /// Deadline of a deploy without progress; 2m by default
    #[arg(long, env = "GANTRY_DEADLINE", value_name = "TIME", value_parser = |text: &str| rule_value(PolicyKey::Deadline, text))]
    pub(crate) deadline: Option<String>,
    /// Time limit of container/compile; 30m by default
    #[arg(long, env = "GANTRY_COMPILE_TIME", value_name = "TIME", value_parser = |text: &str| rule_value(PolicyKey::CompileTime, text))]
    pub(crate) compile_time: Option<String>,
    /// Memory limit of container/compile; 4G by default
    #[arg(long, env = "GANTRY_COMPILE_MEMORY", value_name = "SIZE", value_parser = |text: &str| rule_value(PolicyKey::CompileMemory, text))]
    pub(crate) compile_memory: Option<String>,
    /// Disk limit of container/compile, its cache included; 8G by default
    #[arg(long, env = "GANTRY_COMPILE_DISK", value_name = "SIZE", value_parser = |text: &str| rule_value(PolicyKey::CompileDisk, text))]
    pub(crate) compile_disk: Option<String>,
    /// Most builds that run at the same time on a machine; 2 by default
    #[arg(long, env = "GANTRY_BUILDS", value_name = "NUMBER", value_parser = |text: &str| rule_value(PolicyKey::Builds, text))]
    pub(crate) builds: Option<String>,
    /// Interval of garbage collection; 10m by default
    #[arg(long, env = "GANTRY_COLLECT_EVERY", value_name = "TIME", value_parser = |text: &str| rule_value(PolicyKey::CollectEvery, text))]
    pub(crate) collect_every: Option<String>,
    /// Age below which garbage collection keeps unreferenced data; 1h by default
    #[arg(long, env = "GANTRY_COLLECT_GRACE", value_name = "TIME", value_parser = |text: &str| rule_value(PolicyKey::CollectGrace, text))]
    pub(crate) collect_grace: Option<String>,
    /// Free disk space that a push, build, pull, base or upload must leave; 1G by default
    #[arg(long, env = "GANTRY_RESERVE", value_name = "SIZE", value_parser = |text: &str| rule_value(PolicyKey::Reserve, text))]
    pub(crate) reserve: Option<String>,
}

/// Options for following a deploy.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Follow {
    /// Return at the end of the bake time, with 1 if the release was taken back
    #[arg(long)]
    pub(crate) wait: bool,
}

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
pub(crate) enum Config {
    /// Set values and deploy them as a new release; NAME=- reads a value from standard input
    Set {
        app: AppName,
        /// Names with their new values
        #[arg(required = true, value_parser = parse_pair, value_name = "NAME=VALUE")]
        pairs: Vec<(String, String)>,
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
pub(crate) enum Volume {
    /// List the volumes of an app, or of all apps
    Ls { app: Option<AppName> },
    /// Show a volume: where roles have it, its owner, size, files and snapshots, and who has it now
    Show { app: AppName, name: VolumeName },
    /// Remove a volume and its snapshots; refused while a container has it
    Rm {
        app: AppName,
        name: VolumeName,
        /// Remove the volume even if a role of the current release names it
        #[arg(long)]
        force: bool,
    },
    /// Write a volume as a tar archive: owners as in the container, modes, times, attributes, links, sparse files
    ///
    /// The archive of a volume in use has the files of a running program, from different moments. Stop the program
    /// first, or use its own dump.
    Export {
        app: AppName,
        name: VolumeName,
        /// File; compressed with zstd if its name ends in .zst. By default standard output, not compressed
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a volume of a tar archive (plain, gzip or zstd); refused while a container has the volume
    ///
    /// The volume gets the archive's content in one step, or stays as it is.
    Import {
        app: AppName,
        name: VolumeName,
        /// Put the archive in the place of the volume's content
        #[arg(long)]
        replace: bool,
        /// Limit on the unpacked archive; by default the disk limit of the role
        #[arg(long, value_name = "SIZE", value_parser = Bytes::parse)]
        limit: Option<Bytes>,
        /// Archive; standard input by default
        file: Option<PathBuf>,
    },
    /// Make, list, remove and restore copies of a volume beside the volume; makes one by default
    ///
    /// A snapshot stops nothing. Its files are copied one after the other: the snapshot of a volume in use has files of
    /// different moments. For files of one moment, stop the program first with `gantry scale APP ROLE=0`.
    Snapshot {
        app: AppName,
        name: VolumeName,
        #[command(subcommand)]
        what: Option<Snapshot>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Queue a job: a role of an app, or any image of the registry
    ///
    /// The job runs once in a container of its own, on any machine. It reads its payload from the file that PAYLOAD_FILE names.
    Run(Box<JobRun>),
    /// List jobs, newest first
    Ls {
        /// Only jobs of this app, or of this queue: `shop`, `shop/report`
        #[arg(value_parser = queue_filter, value_name = "QUEUE")]
        queue: Option<QueueFilter>,
        /// Only dead letters: jobs that ended without success and were not cancelled
        #[arg(long)]
        dead: bool,
        /// Only jobs before this one
        #[arg(long, value_name = "JOB")]
        before: Option<JobId>,
        /// Most jobs to list
        #[arg(short = 'n', long, default_value_t = 30, value_name = "COUNT")]
        limit: usize,
    },
    /// Show a job
    Show {
        /// Number of the job
        job: JobId,
    },
    /// Show the output of a job's last attempt
    Logs {
        /// Number of the job
        job: JobId,
    },
    /// Cancel a job in any state
    Cancel {
        /// Number of the job
        job: JobId,
    },
    /// Queue an ended job again, as a new job
    Retry {
        /// Number of the job
        job: JobId,
        /// Delay before the job may start
        #[arg(long, value_parser = age, value_name = "AGE")]
        delay: Option<u64>,
    },
}

/// A job to queue.
#[derive(Debug, clap::Args)]
pub(crate) struct JobRun {
    /// App and role, such as `shop/report`: the role's command, configuration and limits in the current release
    #[arg(value_parser = queue_name, value_name = "APP/ROLE", conflicts_with = "image", required_unless_present = "image")]
    pub(crate) code: Option<QueueName>,
    /// Image of Gantry's registry, such as `shop:1.2`
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Payload: a text, `@FILE`, or `-` for standard input
    #[arg(short = 'p', long, value_name = "PAYLOAD")]
    pub(crate) payload: Option<String>,
    /// Wait for the end, print the output, and return the job's exit status
    #[arg(long)]
    pub(crate) follow: bool,
    /// Priority: 0, 1 or 2; 2 goes first
    #[arg(long, default_value = "0", value_parser = priority, value_name = "NUMBER")]
    pub(crate) priority: Priority,
    /// Delay before the job may start: `90s`, `15m`, `1h`
    #[arg(long, value_parser = age, value_name = "AGE")]
    pub(crate) delay: Option<u64>,
    /// Timeout of each attempt; one hour by default
    #[arg(long, value_parser = age, value_name = "AGE")]
    pub(crate) timeout: Option<u64>,
    /// Retries after failed attempts
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(crate) retries: u32,
    /// Pause before the first retry, doubled for each further one; 10 s by default
    #[arg(long, value_parser = age, value_name = "AGE")]
    pub(crate) retry_delay: Option<u64>,
    /// End the job if it has not started after this time
    #[arg(long, value_parser = age, value_name = "AGE")]
    pub(crate) expires: Option<u64>,
    /// Run at most LIMIT jobs with this key at the same time; 1 by default
    #[arg(long, value_parser = concurrency_key, value_name = "KEY[=LIMIT]")]
    pub(crate) key: Option<ConcurrencyKey>,
    /// Queue only the first of all jobs with this idempotency key
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency: Option<String>,
    /// Variable of the job's environment; may be given several times
    #[arg(short = 'e', long, value_parser = parse_pair, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<(String, String)>,
    /// Memory limit; by default that of the role, or 512M
    #[arg(long, value_name = "SIZE", value_parser = Bytes::parse)]
    pub(crate) memory: Option<Bytes>,
    /// Run without a network
    #[arg(long)]
    pub(crate) no_network: bool,
    /// Program with its arguments; by default the command of the role or of the image
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List queues
    Ls,
    /// Show a queue
    Show {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: QueueName,
    },
    /// Start no more jobs of a queue; running jobs go on
    Pause {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: QueueName,
    },
    /// Start jobs of a paused queue again
    Resume {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: QueueName,
    },
    /// Limit the jobs of a queue that run at the same time; 0 removes the limit
    Limit {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: QueueName,
        /// Most jobs at the same time
        #[arg(value_name = "COUNT")]
        count: u32,
    },
    /// Cancel all waiting jobs of a queue
    Purge {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: QueueName,
        /// Name of the queue, as a confirmation
        #[arg(long, value_name = "QUEUE")]
        confirm: Option<String>,
    },
    /// List dead letters, newest first; `gantry job retry` queues one again
    Dead {
        /// Queue: `shop/report`
        #[arg(value_parser = queue_name, value_name = "QUEUE")]
        queue: Option<QueueName>,
        /// Most jobs to list
        #[arg(short = 'n', long, default_value_t = 30, value_name = "COUNT")]
        limit: usize,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Make a snapshot, at most 20 of a volume
    Create {
        /// Name of the snapshot; by default made from the time
        snapshot: Option<VolumeName>,
    },
    /// List the snapshots
    Ls,
    /// Remove a snapshot
    Rm {
        /// Name of the snapshot
        snapshot: VolumeName,
    },
    /// Replace the volume's content with a copy of a snapshot; refused while a container has the volume
    Restore {
        /// Name of the snapshot
        snapshot: VolumeName,
    },
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

fn queue_name(text: &str) -> Result<QueueName, String> {
    text.parse().map_err(|error: InvalidQueueName| error.to_string())
}

fn queue_filter(text: &str) -> Result<QueueFilter, String> {
    let is_queue = text.contains('/');
    let QueueName { project, code } = queue_name(&if is_queue { text.to_owned() } else { format!("{text}/x") })?;
    Ok(QueueFilter { project, code: is_queue.then_some(code) })
}

fn priority(text: &str) -> Result<Priority, String> {
    let number: u8 = text.parse().map_err(|_| format!("{text:?} is no priority; choose 0, 1, or 2"))?;
    Priority::try_from(number).map_err(|error| error.to_string())
}

/// Parses a concurrency key: `KEY` or `KEY=LIMIT`.
fn concurrency_key(text: &str) -> Result<ConcurrencyKey, String> {
    let (name, limit) = text.rsplit_once('=').unwrap_or((text, "1"));
    let limit = limit.parse().map_err(|_| format!("{limit:?} is no number of jobs"))?;
    Ok(ConcurrencyKey { name: name.to_owned(), limit })
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Parses `drain=60s`.
fn rule(text: &str) -> Result<(PolicyKey, String), RuleArgumentError> {
    let (name, value) = text.split_once('=').ok_or_else(|| RuleArgumentError::Form(text.to_owned()))?;
    let key = name.parse()?;
    Ok((key, rule_value(key, value)?))
}

/// Checks that a text is a value of the rule.
fn rule_value(key: PolicyKey, text: &str) -> Result<String, RuleError> {
    ClusterPolicy::default().set(key, text).map(|()| text.to_owned())
}

/// Reason why an argument is no rule with its value.
#[derive(Debug, thiserror::Error)]
enum RuleArgumentError {
    #[error("{0:?} is not RULE=VALUE")]
    Form(String),
    #[error(transparent)]
    Rule(#[from] UnknownRule),
    #[error(transparent)]
    Value(#[from] RuleError),
}

fn volume(text: &str) -> Result<(String, String), String> {
    let (name, path) =
        text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME:PATH, such as data:/var/lib/data"))?;
    if !path.is_empty() && !path.starts_with('/') {
        return Err(format!("{path:?} is no absolute path; write for example {name}:/var/lib/data"));
    }
    VolumeName::parse(name)
        .map(|name| (name.to_string(), path.to_owned()))
        .map_err(|_| format!("{name:?} cannot be the name of a volume; write for example data:{path}"))
}

/// Parses a volume of a one-off: `data` or `data:/path`.
fn run_volume(text: &str) -> Result<(VolumeName, Option<String>), String> {
    let (name, path) = text.split_once(':').map_or((text, None), |(name, path)| (name, Some(path)));
    if let Some(path) = path.filter(|path| !path.starts_with('/')) {
        return Err(format!("{path:?} is no absolute path; write for example {name}:/var/lib/data"));
    }
    VolumeName::parse(name).map(|name| (name, path.map(str::to_owned))).map_err(|error| error.to_string())
}

/// Parses a port; 0 stands for `auto`, the port that the image declares.
fn image_port(text: &str) -> Result<u16, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(0),
        (_, Ok(port @ 1..)) => Ok(port),
        _ => Err(format!("{text:?} is no port; write 1 to 65535, or auto for the one that the image says")),
    }
}

fn parse_count(text: &str) -> Result<(RoleName, u32), String> {
    let (role, count) = text.split_once('=').ok_or_else(|| format!("{text:?} is not ROLE=COUNT"))?;
    let role = RoleName::parse(role).map_err(|error| error.to_string())?;
    count.parse().map(|count| (role, count)).map_err(|_| format!("{count:?} is not a number of copies"))
}

/// Parses an age into milliseconds.
fn age(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not an age; write for example 90s, 15m, 1h or 2d");
    let unit = match text.chars().last() {
        Some('s') => 1000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

fn network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("{text:?} is not a network; write for example 10.83.0.1/16");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let (address, prefix): (Ipv4Addr, u8) =
        (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
    if (8..=28).contains(&prefix) {
        Ok((address, prefix))
    } else {
        Err("the prefix length is between 8 and 28".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        assert_eq!(age("15m"), Ok(900_000));
        assert!(age("15").is_err() && age("ü").is_err() && age("").is_err());
        assert!(network("10.0.0.1/33").is_err() && network("x").is_err());
        let parse = |words: &[&str]| Args::try_parse_from([&["gantry", "up"], words].concat());
        let openings = ["--host-ports", "5432,8125/udp", "--metadata", "169.254.169.254,fd00:ec2::254"];
        let Ok(Args { command: Command::Up(machine), .. }) = parse(&openings) else { panic!("{openings:?}") };
        assert_eq!((machine.host_ports.len(), machine.metadata.len()), (2, 2));
        assert!(parse(&["--host-ports", "5432,x"]).is_err() && parse(&["--metadata", "10.0.0.1"]).is_err());
        assert!(matches!(rule("trusted-proxies="), Ok((PolicyKey::TrustedProxies, value)) if value.is_empty()));
        let why = |text: &str| rule(text).expect_err(text).to_string();
        assert_eq!(why("drain=soon"), "\"soon\" is not a time; write for example 30s, 10m, 2h or 1d");
        assert!(why("x=1").starts_with("there is no rule \"x\"; the rules are: domain"));
        assert_eq!(why("drain"), "\"drain\" is not RULE=VALUE");
        assert_eq!(parse_count("web=3").map(|(role, n)| (role.to_string(), n)), Ok(("web".to_owned(), 3)));
    }
}
