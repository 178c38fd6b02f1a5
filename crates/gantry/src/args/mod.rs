//! The command line: the commands and their arguments.

mod apps;
mod cluster;
mod codes;
mod images;
mod jobs;
mod locks;
mod machine;
mod schedules;
mod values;
mod volumes;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use gantry_model::{AllocationId, AppName, ReleaseNumber, RoleName, VolumeName};
use gantry_trust::CaHash;

pub(crate) use self::apps::{App, Config, Maintenance};
pub(crate) use self::cluster::{
    Base, Cluster, Join, JoinTokenCommand, MachineAdd, MachineCommand, PolicyCommand, ServerArgs, ServerCommand, Store,
    Token,
};
pub(crate) use self::codes::{Code, Stack};
pub(crate) use self::images::{Image, ImageSnapshot};
pub(crate) use self::jobs::{Job, JobRun, JobSpec, Queue};
pub(crate) use self::locks::{Lock, LockName, LockRun};
pub(crate) use self::machine::{FirstPolicy, Machine};
pub(crate) use self::schedules::{Schedule, ScheduleCreate};
pub(crate) use self::values::{CODES_APP, Variable};
use self::values::{age, image_port, number, parse_count, run_volume, volume};
pub(crate) use self::volumes::{Snapshot, Volume};
use crate::restore_volumes::VolumeChoice;

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
#[expect(clippy::large_enum_variant, reason = "the program has one command")]
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
    Server(ServerArgs),
    /// Join a cluster: get this machine's certificate and network from a server
    Join(Join),
    /// Trust a cluster's servers over HTTPS, by the hash of its authority
    Login {
        /// A server, such as https://m1:7000
        url: String,
        /// Hash of the cluster's authority; `gantry cluster join-token create` prints it
        #[arg(long, value_name = "HASH")]
        ca_hash: CaHash,
    },
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
        #[arg(long, value_name = "REF", required_unless_present = "plan")]
        image: Option<String>,
        /// Keep the files that a foreign image writes at PATH in a volume; the app then has one copy, replaced
        /// stop-first. The setting stays for later images, config changes and rollbacks; `NAME:` removes the setting
        /// and keeps the data
        #[arg(long = "volume", value_parser = volume, value_name = "NAME:PATH")]
        volumes: Vec<(String, String)>,
        /// Port that a foreign image listens on. The setting stays for later images; `auto` removes the setting
        #[arg(long, value_parser = image_port, value_name = "PORT")]
        port: Option<u16>,
        /// Stop before promotion and serve at the release's own name, until `gantry promote` or `gantry abort`
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        planned: Planned,
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
        planned: Planned,
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
        /// Maximum number of requests per second
        #[arg(long, value_name = "COUNT", value_parser = number::<u32>)]
        rate: Option<u32>,
        /// Maximum number of requests at the same time, open websockets included
        #[arg(long, value_name = "COUNT", value_parser = number::<u32>)]
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
        #[arg(short = 'n', long, default_value_t = 100, value_parser = number::<usize>)]
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
    /// Upload code for jobs, without a build, and look at it
    #[command(subcommand)]
    Code(Code),
    /// Show, pause, limit and purge the queues of container jobs
    #[command(subcommand)]
    Queue(Queue),
    /// Run container jobs at fixed times
    #[command(subcommand)]
    Schedule(Schedule),
    /// Locks of an app: run a command while holding one
    #[command(subcommand)]
    Lock(Lock),
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
    /// Show what an image is made of
    #[command(subcommand)]
    Image(Image),
    /// List and make stacks: bases with well-known recipes, for uploaded code
    #[command(subcommand)]
    Stack(Stack),
    /// Add, list, label, drain and remove machines
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
    /// Explain the code of an error or a cause, such as E_APP_NOT_FOUND or checks_fail
    Explain {
        /// The code; without one, the command lists all codes
        code: Option<String>,
    },
    /// Show a page of the manual
    Docs {
        /// Page; without one, the command lists all pages
        topic: Option<String>,
    },
    /// Check the store, or move its records and jobs to shared databases; on the server's machine
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
        /// Volumes of the backup to restore; by default all, unless this machine has data of one of them
        #[arg(long, value_enum, value_name = "WHICH")]
        volumes: Option<VolumeChoice>,
        /// Backup
        file: PathBuf,
    },
    /// Carry images to machines that must start without a registry
    #[command(subcommand)]
    Snapshot(ImageSnapshot),
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

/// Options for the plan of a deploy.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Planned {
    /// Show what would happen, and change nothing. Without an image, the plan is that of the current release
    #[arg(long, conflicts_with_all = ["plan_id", "wait"])]
    pub(crate) plan: bool,
    /// Deploy only if exactly this plan would happen; `--plan` shows its ID
    #[arg(long, value_name = "ID")]
    pub(crate) plan_id: Option<String>,
}

/// Options for following a deploy.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Follow {
    /// Return at the end of the bake time, with 1 if the release was taken back
    #[arg(long)]
    pub(crate) wait: bool,
}
