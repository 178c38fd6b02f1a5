//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use gantry_agent::{HostPorts, Metadata};
use gantry_model::{AppName, BaseName, Bytes, HostName, MachineName, ReleaseNumber, RoleName, Subnet, SubnetError};
use gantry_store::Address;

/// An internal cloud on your own Linux machine: push a commit, get a running, routed, replaceable application.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remote {
    /// The server's address
    #[arg(long, global = true, env = "GANTRY_URL", default_value = "http://127.0.0.1:4680")]
    pub(crate) url: String,
    /// A file with a token; GANTRY_TOKEN holds the token itself
    #[arg(long, global = true, env = "GANTRY_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with settings: flags of `gantry up` without their dashes, as TOML; /etc/gantry/gantry.toml if there is one
    #[arg(long, global = true, env = "GANTRY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder that the settings name: the machine's own token is in it
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: server, agent and router
    ///
    /// Each setting may stand in a settings file, too: /etc/gantry/gantry.toml, or the one that --config names. It is TOML: `listen =
    /// "0.0.0.0:4680"`, one line for each flag, without its dashes. A flag comes before the environment, the environment before the file.
    /// Secrets do not belong there. `gantry down`, `backup`, `restore`, `store check` and the commands that ask a server read it too, and
    /// what the last `gantry up` of a data folder was given.
    Up(Machine),
    /// Stop a cloud: `gantry up` and every container of it; data stays, and so do other clouds of this machine
    Down(Machine),
    /// Run the server alone: API, git door, registry, planner
    Server(Machine),
    /// Run the agent alone: this machine's containers
    Agent(Machine),
    /// Run the router alone: HTTP and names
    Router(Machine),
    /// Show machines, routers, apps and space
    Status,
    /// Create, list, show and destroy apps
    #[command(subcommand)]
    App(App),
    /// Deploy an image of Gantry's registry or of another
    Deploy {
        app: AppName,
        /// `app:tag`, `app@sha256:…`, or `registry.example/team/app:tag`; GANTRY_REGISTRY_USER and
        /// GANTRY_REGISTRY_PASSWORD say who asks another registry
        #[arg(long, value_name = "REF")]
        image: String,
        /// Keep what an image from elsewhere writes at PATH, in a volume of the app's: one copy then, replaced stop-first. Stays for
        /// later images, config changes and rollbacks; `NAME:` takes it away, and leaves the data
        #[arg(long = "volume", value_parser = volume, value_name = "NAME:PATH")]
        volumes: Vec<(String, String)>,
        /// The port that an image from elsewhere listens on; stays for later images, until it is `auto`
        #[arg(long, value_parser = image_port, value_name = "PORT")]
        port: Option<u16>,
        /// Stop before promotion, and serve under the release's own name until `promote` or `abort`
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        follow: Follow,
    },
    /// List an app's releases
    Releases { app: AppName },
    /// Go back to a release; to the last good one before the current if none is named
    Rollback {
        app: AppName,
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
    /// Take a deploy under way back
    Abort { app: AppName },
    /// List instances
    Ps { app: Option<AppName> },
    /// Set how many copies of a role run: `gantry scale shop web=3 worker=2`
    Scale {
        app: AppName,
        #[arg(required = true, value_parser = count, value_name = "ROLE=COUNT")]
        counts: Vec<(RoleName, u32)>,
    },
    /// Let an app's requests wait, 30 s each at most
    Pause { app: AppName },
    /// Let the requests of a paused app go on
    Resume { app: AppName },
    /// Answer every request of an app with 503 and a message
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Limit an app's requests, at each router; what is not named has no limit
    Limit {
        app: AppName,
        /// In a second
        #[arg(long, value_name = "COUNT")]
        rate: Option<u32>,
        /// At once, open websockets included
        #[arg(long, value_name = "COUNT")]
        concurrent: Option<u32>,
    },
    /// Set, get, unset and list configuration
    #[command(subcommand)]
    Config(Config),
    /// Show what an app printed
    Logs {
        app: AppName,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// At most so many of the newest lines
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Only what is newer: `90s`, `15m`, `1h`, `2d`
        #[arg(long, value_parser = age, value_name = "AGE")]
        since: Option<u64>,
        /// Only of this role
        #[arg(short = 'p', long = "role", value_name = "ROLE")]
        role: Option<RoleName>,
        /// Only lines with this text
        #[arg(long, value_name = "TEXT")]
        grep: Option<String>,
    },
    /// Run a command in a running instance; at a terminal, with its keyboard
    Exec {
        app: AppName,
        /// Pass standard input on to the command: `gantry exec -i shop -- psql <dump.sql`
        #[arg(short = 'i', long)]
        input: bool,
        /// `web-1`; the first web instance if none is named
        #[arg(long)]
        instance: Option<String>,
        /// The command; `/bin/sh` if none is given
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command in a container of its own, with the current release's image and configuration
    Run {
        app: AppName,
        /// Pass standard input on to the command
        #[arg(short = 'i', long)]
        input: bool,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Say why an app, or one of its instances, is as it is
    Why {
        app: AppName,
        /// `storefront.v12.web-1`
        instance: Option<String>,
    },
    /// Make, list and remove bases: the images that apps are built on
    #[command(subcommand)]
    Base(Base),
    /// Show and change what holds for the whole cluster
    #[command(subcommand)]
    Cluster(Cluster),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(Token),
    /// Show the audit trail
    Events { app: Option<AppName> },
    /// Show a page of the manual
    Docs { topic: Option<String> },
    /// Look after the store, on the server's machine
    #[command(subcommand)]
    Store(Store),
    /// Read the store, every blob and every repository, and name what is damaged; on the server's machine
    Check {
        #[command(flatten)]
        machine: Machine,
        /// Remove damaged blobs, so that the next push, pull or base writes them again
        #[arg(long)]
        repair: bool,
    },
    /// Write everything that the server knows into a file, on its machine, while it runs
    Backup {
        #[command(flatten)]
        machine: Machine,
        file: PathBuf,
    },
    /// Bring a backup back, on a machine that has nothing yet
    Restore {
        #[command(flatten)]
        machine: Machine,
        /// Bring back everything else where files of the backup are damaged
        #[arg(long)]
        skip_damaged: bool,
        file: PathBuf,
    },
    /// Say whether this program can take over from a running one
    #[command(hide = true)]
    UpgradeCheck(Machine),
    /// Print a shell's completions
    Completions { shell: Shell },
}

/// This machine's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Machine {
    /// This machine's name; made of its host name if none
    #[arg(long, env = "GANTRY_MACHINE")]
    pub(crate) machine: Option<MachineName>,
    /// Where everything that must last is kept
    #[arg(long, env = "GANTRY_DATA", default_value = "/var/lib/gantry")]
    pub(crate) data: PathBuf,
    /// For sockets and what a reboot empties
    #[arg(long, env = "GANTRY_RUN", default_value = "/run/gantry")]
    pub(crate) run: PathBuf,
    /// Where the API, git door and registry listen
    #[arg(long, env = "GANTRY_LISTEN", default_value = "127.0.0.1:4680")]
    pub(crate) listen: SocketAddr,
    /// Where apps are reached over HTTP
    #[arg(long, env = "GANTRY_HTTP", default_value = "0.0.0.0:80")]
    pub(crate) http: SocketAddr,
    /// Where apps are reached over HTTPS; needs --tls-cert and --tls-key
    #[arg(long, env = "GANTRY_HTTPS")]
    pub(crate) https: Option<SocketAddr>,
    /// The certificate chain, PEM
    #[arg(long, env = "GANTRY_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, env = "GANTRY_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Every app is reached as <app>.<domain>
    #[arg(long, env = "GANTRY_DOMAIN", default_value = "localhost")]
    pub(crate) domain: HostName,
    /// The store: a file, or etcd://host:2379[,host:2379][/prefix]; a file in the data folder if none
    #[arg(long, env = "GANTRY_STORE")]
    pub(crate) store: Option<Address>,
    /// The bridge's address, with the network's prefix length
    #[arg(long, env = "GANTRY_NETWORK", default_value = "10.83.0.1/16", value_parser = network)]
    pub(crate) network: (Ipv4Addr, u8),
    /// The bridge's name
    #[arg(long, env = "GANTRY_BRIDGE", default_value = "gantry0")]
    pub(crate) bridge: String,
    /// Ports of this machine that containers and builds may reach: `5432,6379,8125/udp`; none but the router's otherwise
    #[arg(long, env = "GANTRY_HOST_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = HostPorts::parse)]
    pub(crate) host_ports: Vec<HostPorts>,
    /// Metadata addresses that containers and builds may reach: `169.254.169.254`; none otherwise
    #[arg(long, env = "GANTRY_METADATA", value_name = "ADDRESSES", value_delimiter = ',', value_parser = Metadata::parse)]
    pub(crate) metadata: Vec<Metadata>,
    /// The control group that everything is in
    #[arg(long, env = "GANTRY_CGROUP", default_value = "gantry")]
    pub(crate) cgroup: String,
    /// How long the old release stands by after promotion, in seconds
    #[arg(long, env = "GANTRY_WATCH", default_value_t = 15, value_name = "SECONDS")]
    pub(crate) watch: u32,
    /// What a push and every other deploy waits for: `bake` is the end of the time that the old release stands by
    #[arg(long, env = "GANTRY_WAIT_FOR", default_value = "serving", value_name = "serving|bake")]
    pub(crate) wait_for: WaitFor,
    /// How long a retired instance may finish its requests, in seconds
    #[arg(long, env = "GANTRY_DRAIN", default_value_t = 30, value_name = "SECONDS")]
    pub(crate) drain: u32,
    /// How long a deploy may make no progress before it is taken back, in seconds
    #[arg(long, env = "GANTRY_DEADLINE", default_value_t = 120, value_name = "SECONDS")]
    pub(crate) deadline: u32,
    /// The longest that container/compile may take, in seconds
    #[arg(long, env = "GANTRY_COMPILE_TIME", default_value_t = 1800, value_name = "SECONDS")]
    pub(crate) compile_time: u32,
    /// How often what is of no use any more is looked for, in seconds
    #[arg(long, env = "GANTRY_COLLECT_EVERY", default_value_t = 600, value_name = "SECONDS")]
    pub(crate) collect_every: u32,
    /// How long it must have been of no use before it goes, in seconds
    #[arg(long, env = "GANTRY_COLLECT_GRACE", default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) collect_grace: u32,
    /// What a build must find free on the disk
    #[arg(long, env = "GANTRY_RESERVE", default_value = "1G", value_name = "SIZE", value_parser = Bytes::parse)]
    pub(crate) reserve: Bytes,
    /// The memory that container/compile may use
    #[arg(long, env = "GANTRY_COMPILE_MEMORY", default_value = "4G", value_name = "SIZE", value_parser = Bytes::parse)]
    pub(crate) compile_memory: Bytes,
    /// What container/compile may write, with what its app's cache holds
    #[arg(long, env = "GANTRY_COMPILE_DISK", default_value = "8G", value_name = "SIZE", value_parser = Bytes::parse)]
    pub(crate) compile_disk: Bytes,
}

/// What a deploy is followed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WaitFor {
    /// The new release serves
    Serving,
    /// The bake time is over
    Bake,
}

/// How a command follows the deploy that it asks for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Follow {
    /// Return only when the bake time is over: 1 if the release was taken back in it
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Begin
    On {
        app: AppName,
        /// What clients are told
        #[arg(long, default_value = "down for maintenance")]
        message: String,
    },
    /// End
    Off { app: AppName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum App {
    /// Create an app
    Create {
        name: AppName,
        /// The base its images are built on, unless its repository names one
        #[arg(long)]
        base: Option<BaseName>,
        /// The branch that deploys
        #[arg(long)]
        branch: Option<String>,
        /// A host name besides <app>.<domain>; may be given several times
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<HostName>,
    },
    /// List apps
    Ls,
    /// Show an app
    Show { name: AppName },
    /// Put an app on another base, from its next push on
    Base { name: AppName, base: BaseName },
    /// Deploy another branch of an app, from its next push on
    Branch { name: AppName, branch: String },
    /// Show, add or remove the host names of an app besides <app>.<domain>
    ///
    /// Example: gantry app host shop www.example.com shop.example.com
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
    /// Example: gantry app proxies shop 10.0.0.0/8 2001:db8::/32
    Proxies {
        name: AppName,
        /// Address ranges; they replace the list
        #[arg(value_name = "RANGE")]
        ranges: Vec<Subnet>,
        /// Empty the list
        #[arg(long, conflicts_with = "ranges")]
        none: bool,
    },
    /// Stop an app and remove everything of it but its volumes
    Destroy {
        name: AppName,
        /// The app's name once more, to be sure
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show and change the rules that hold for all apps
    #[command(subcommand)]
    Policy(ClusterPolicy),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterPolicy {
    /// Print every rule and its value
    Get,
    /// Change rules: `gantry cluster policy set trusted-proxies=10.0.0.0/8,192.0.2.7`
    ///
    /// trusted-proxies: address ranges whose X-Forwarded-*, Forwarded, X-Real-IP and PROXY protocol headers count;
    /// an empty value trusts none.
    Set {
        #[arg(required = true, value_parser = rule, value_name = "RULE=VALUE")]
        rules: Vec<PolicyRule>,
    },
}

/// One rule with its new value.
#[derive(Debug, Clone)]
pub(crate) enum PolicyRule {
    TrustedProxies(Vec<Subnet>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Set values; becomes a release: `gantry config set shop COLOR=blue`, or `KEY=-` to read a secret from standard input
    Set {
        app: AppName,
        #[arg(required = true, value_parser = pair, value_name = "NAME=VALUE")]
        pairs: Vec<(String, String)>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Print one value
    Get { app: AppName, name: String },
    /// Remove values; becomes a release
    Unset {
        app: AppName,
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// List names and values
    Ls { app: AppName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Read every page and every record, and say whether they are what was written
    Check {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Base {
    /// Make a base from a recipe
    Create {
        name: BaseName,
        /// The recipe, base.toml
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
    },
    /// Take a base from an OCI archive, or from another registry
    Import {
        name: BaseName,
        /// A file (`skopeo copy docker://… oci-archive:FILE`), or `registry.example/team/base:tag`
        #[arg(value_name = "FILE|REF")]
        from: String,
    },
    /// List bases
    Ls,
    /// Remove a base that no app is on
    Rm { name: BaseName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Create a token; its secret is shown once
    Create {
        name: String,
        /// May do everything
        #[arg(long, group = "scope")]
        admin: bool,
        /// May look
        #[arg(long, group = "scope")]
        read: bool,
        /// May do everything with this app but create and destroy it
        #[arg(long, group = "scope", value_name = "APP")]
        deploy: Option<AppName>,
        /// It is of no use after this: `90s`, `15m`, `1h`, `30d`
        #[arg(long, value_parser = age, value_name = "AGE")]
        expires: Option<u64>,
    },
    /// List tokens
    Ls,
    /// Revoke a token
    Revoke { name: String },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

fn rule(text: &str) -> Result<PolicyRule, String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not RULE=VALUE"))?;
    match name {
        "trusted-proxies" => {
            let ranges = value.split(',').filter(|range| !range.is_empty());
            let ranges: Result<_, SubnetError> = ranges.map(str::parse).collect();
            ranges.map(PolicyRule::TrustedProxies).map_err(|error| error.to_string())
        }
        _ => Err(format!("there is no rule {name:?}; the rules are: trusted-proxies")),
    }
}

fn volume(text: &str) -> Result<(String, String), String> {
    let (name, path) =
        text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME:PATH, such as data:/var/lib/data"))?;
    if !path.is_empty() && !path.starts_with('/') {
        return Err(format!("{path:?} is no absolute path; write for example {name}:/var/lib/data"));
    }
    RoleName::parse(name)
        .map(|name| (name.to_string(), path.to_owned()))
        .map_err(|_| format!("{name:?} cannot be the name of a volume; write for example data:{path}"))
}

/// Parses a port; 0 stands for `auto`, the port that the image declares.
fn image_port(text: &str) -> Result<u16, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(0),
        (_, Ok(port @ 1..)) => Ok(port),
        _ => Err(format!("{text:?} is no port; write 1 to 65535, or auto for the one that the image says")),
    }
}

fn count(text: &str) -> Result<(RoleName, u32), String> {
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
        assert!(
            matches!(rule("trusted-proxies=10.0.0.0/8,::1"), Ok(PolicyRule::TrustedProxies(ranges)) if ranges.len() == 2)
        );
        assert!(matches!(rule("trusted-proxies="), Ok(PolicyRule::TrustedProxies(ranges)) if ranges.is_empty()));
        assert!(rule("trusted-proxies=10.0.0.1/8").is_err() && rule("x=1").is_err() && rule("x").is_err());
        assert_eq!(count("web=3").map(|(role, n)| (role.to_string(), n)), Ok(("web".to_owned(), 3)));
    }
}
