//! Arguments of the commands that run Gantry on a machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use gantry_agent::{HostPorts, MetadataAddress};
use gantry_model::{MachineName, PolicyKey};
use gantry_queue_store::PostgresAddress;
use gantry_store::StoreAddress;

use super::values::{JobStoreParser, host, network, rule_value, socket_address};
use crate::server_user::UserName;

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
    #[arg(long, env = "GANTRY_LISTEN", default_value = "127.0.0.1:4680", value_parser = socket_address)]
    pub(crate) listen: SocketAddr,
    /// Address where apps are reached over HTTP
    #[arg(long, env = "GANTRY_HTTP", default_value = "[::]:80", value_parser = socket_address)]
    pub(crate) http: SocketAddr,
    /// Address where apps are reached over HTTPS; needs --tls-cert and --tls-key
    #[arg(long, env = "GANTRY_HTTPS", value_parser = socket_address)]
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
    /// PostgreSQL database of the container jobs, which several servers need:
    /// postgres://user@host[:port][,host[:port]]/database[?password=FILE][&ca=FILE]; by default a file in the data folder
    #[arg(long, env = "GANTRY_JOB_STORE", value_name = "ADDRESS", value_parser = JobStoreParser)]
    pub(crate) job_store: Option<PostgresAddress>,
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
    /// Address where other machines and the command line reach the server over TLS; `gantry server init` makes it
    /// 0.0.0.0:7000
    #[arg(long, env = "GANTRY_CLUSTER_LISTEN", value_parser = socket_address)]
    pub(crate) cluster_listen: Option<SocketAddr>,
    /// Address where other machines' routers reach this machine's; 0.0.0.0:7001 on a machine that has joined
    #[arg(long, env = "GANTRY_TUNNEL", value_parser = socket_address)]
    pub(crate) tunnel: Option<SocketAddr>,
    /// Host name or IP address by which other machines reach this one
    #[arg(long, env = "GANTRY_ADVERTISE", value_name = "HOST", value_parser = host)]
    pub(crate) advertise: Option<String>,
    /// Control group of all containers
    #[arg(long, env = "GANTRY_CGROUP", default_value = "gantry")]
    pub(crate) cgroup: String,
    /// Maximum number of container jobs that run at the same time on a machine; by default four for each processor
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
    /// Maximum number of builds that run at the same time on a machine; 2 by default
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
