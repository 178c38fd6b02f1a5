//! Fleets: several machines on one computer, each made of a network namespace with its own folders and control group.
//!
//! ```text
//! namespace gt12-net: the test, with `gantry`, git, curl and load
//!   bridge 198.18.0.254
//!     ├─ cable ─ namespace gt12-m1: 198.18.0.1, `gantry up`, containers, a member of etcd if there are several servers
//!     ├─ cable ─ namespace gt12-m2: 198.18.0.2, …
//!     └─ …
//! ```
//! - [`Fleet`]: the machines, and commands to them. Begin there.
//! - `faults`: power, frozen machines, partitions, narrow links.
//! - `ssh`: machines with nothing but an ssh server.
//! - `network`: the namespaces and cables; `machine`: one machine's processes.
//!
//! A fleet does not pretend to be more than it is: all machines share the kernel, its clock, its processors and its disk.

mod faults;
mod machine;
mod network;
mod ssh;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machine::FleetMachine;
use network::FleetNetwork;

use crate::command::command;
use crate::load::{Load, LoadKind, Report, Target};
use crate::number::Number;
use crate::{Output, Repository, program, run};

/// Poll interval of [`Fleet::wait`].
const POLL: Duration = Duration::from_millis(50);

/// Timeout of [`Fleet::wait`].
const DEADLINE: Duration = Duration::from_secs(90);

/// Port of the API.
const API: u16 = 4680;

/// Longest time that load runs.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// Several machines that are one cloud. `m1` has a server, and the others have joined. The thread that started the fleet is
/// in the fleet's network until the value is dropped.
pub struct Fleet {
    machines: Vec<FleetMachine>,
    /// Machine whose server gets the commands.
    entry: String,
    network: FleetNetwork,
    folder: tempfile::TempDir,
    number: Number,
    /// The network namespace belongs to the thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Fleet {
    /// Starts `count` machines with a base named `debian`, and waits until all of them report.
    ///
    /// # Panics
    /// If a machine does not start.
    #[must_use]
    pub fn start(count: u8) -> Self {
        Self::start_with_servers(1, count)
    }

    /// Starts `count` machines as [`Fleet::start`] does. With more than one, the first `servers` machines have servers on
    /// etcd, with a member of etcd each.
    ///
    /// # Panics
    /// If a machine does not start.
    #[must_use]
    pub fn start_with_servers(servers: u8, count: u8) -> Self {
        let number = Number::claim();
        let folder = tempfile::Builder::new().prefix("gantry-fleet-").tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("opened");
        let network = FleetNetwork::enter(&number.name());
        let (machines, entry) = (Vec::new(), "m1".to_owned());
        let mut fleet = Self { machines, entry, network, folder, number, _thread: std::marker::PhantomData };
        for _ in 0..count {
            fleet.add();
        }
        let store = (servers > 1).then(|| fleet.start_etcd(usize::from(servers)));
        fleet.found(store.as_deref());
        for (number, machine) in fleet.names().iter().enumerate().skip(1) {
            let role = if number < usize::from(servers) { "server" } else { "agent" };
            let _ = fleet.join(machine, &fleet.join_token(&["--role", role])).good();
            fleet.up(machine);
        }
        fleet.wait_until_ready(&fleet.names());
        let base = crate::test_cluster::base_archive();
        let _ = fleet.gantry(&["base", "import", "debian", base.to_str().expect("text")]).good();
        fleet
    }

    /// Starts etcd with a member on each of the first machines. Returns the address of the store.
    fn start_etcd(&mut self, count: usize) -> String {
        let url = |machine: &FleetMachine, port| format!("http://{}:{port}", machine.address());
        let peers: Vec<String> =
            self.machines[..count].iter().map(|machine| format!("{}={}", machine.name, url(machine, 2380))).collect();
        let hosts: Vec<String> =
            self.machines[..count].iter().map(|machine| format!("{}:2379", machine.address())).collect();
        for machine in &mut self.machines[..count] {
            let (client, peer) = (url(machine, 2379), url(machine, 2380));
            let arguments = [
                ["--name", &machine.name],
                ["--listen-client-urls", &client],
                ["--advertise-client-urls", &client],
                ["--listen-peer-urls", &peer],
                ["--initial-advertise-peer-urls", &peer],
                ["--initial-cluster", &peers.join(",")],
            ];
            machine.member = Some(arguments.concat().into_iter().map(str::to_owned).collect());
            machine.start_member(&self.network);
        }
        format!("etcd://{}/fleet", hosts.join(","))
    }

    /// Makes the first machine a server, and starts it.
    fn found(&mut self, store: Option<&str>) {
        let first = self.machines[0].name.clone();
        let (machine, network) = self.parts(&first);
        let store = store.into_iter().flat_map(|store| ["--store", store]);
        let words: Vec<&str> = ["server", "init"].into_iter().chain(store).collect();
        let _ = run(machine.gantry(network, &words)).good();
        machine.up(network);
        self.wait("the server answers", |fleet| (fleet.gantry(&["app", "ls"]).status == 0).then_some(()));
        // One of several servers serves machines once the first term has written the authority.
        let port = format!("{}:7000", self.address(&first));
        self.wait("machines can join", |_| std::net::TcpStream::connect(&port).ok());
    }

    /// Adds a machine that is on and has not joined. Returns its name: `m1`, `m2` and so on.
    ///
    /// # Panics
    /// If the machine cannot be made.
    pub fn add(&mut self) -> String {
        self.add_as(None)
    }

    /// Adds a machine that is on and has not joined, and that calls itself by the name of another machine.
    ///
    /// # Panics
    /// If the machine cannot be made.
    pub fn add_twin(&mut self, of: &str) -> String {
        self.add_as(Some(of))
    }

    fn add_as(&mut self, alias: Option<&str>) -> String {
        let number = u8::try_from(self.machines.len() + 1).expect("few machines");
        let mut machine = FleetMachine::new(&self.number.name(), self.folder.path(), number, alias);
        machine.plug_in(&self.network);
        let name = machine.name.clone();
        self.machines.push(machine);
        name
    }

    /// Creates a join token with arguments such as `--role agent`.
    ///
    /// # Panics
    /// If the server creates none.
    #[must_use]
    pub fn join_token(&self, arguments: &[&str]) -> String {
        let created = self.gantry(&[&["cluster", "join-token", "create"], arguments].concat()).good();
        let mut words = created.out.split_whitespace();
        words.find(|word| *word == "--token").expect("the join command");
        words.next().expect("a token").to_owned()
    }

    /// Runs `gantry join` on a machine.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn join(&self, name: &str, token: &str) -> Output {
        let server = format!("{}:7000", self.address("m1"));
        run(self.machine(name).gantry(&self.network, &["join", &server, "--token", token]))
    }

    /// Starts `gantry up` on a machine that has joined.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub fn up(&mut self, name: &str) {
        let (machine, network) = self.parts(name);
        machine.up(network);
    }

    /// Names of all machines: `m1`, `m2` and so on.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.name.clone()).collect()
    }

    /// Address of a machine.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn address(&self, machine: &str) -> String {
        self.machine(machine).address()
    }

    /// A path in a machine's folder: `data`, `run`, `log`.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn path(&self, machine: &str, name: &str) -> PathBuf {
        self.machine(machine).path(name)
    }

    /// Standard error of a machine's processes.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn log(&self, machine: &str) -> String {
        self.machine(machine).log()
    }

    /// Waits until the server reports that all these machines are ready, each with its router.
    ///
    /// # Panics
    /// After the timeout.
    pub fn wait_until_ready(&self, machines: &[String]) {
        self.wait("all machines report", |fleet| {
            let status: serde_json::Value = serde_json::from_str(&fleet.gantry(&["status", "--json"]).out).ok()?;
            let fresh = |seen: &serde_json::Value| seen["silent_millis"].as_u64().is_some_and(|millis| millis < 3000);
            let routers: Vec<_> = status["routers"].as_object()?.iter().filter(|(_, seen)| fresh(seen)).collect();
            let has_router = |name: &str| routers.iter().any(|(id, _)| id.split('/').next() == Some(name));
            machines.iter().all(|name| fresh(&status["machines"][name]) && has_router(name)).then_some(())
        });
    }

    /// Gives all further commands to the server of a machine.
    pub fn enter_at(&mut self, machine: &str) {
        machine.clone_into(&mut self.entry);
    }

    /// Runs `gantry` with the administrator's token, at the server of `m1` or of another machine ([`Fleet::enter_at`]).
    #[must_use]
    pub fn gantry(&self, arguments: &[&str]) -> Output {
        let mut gantry = std::process::Command::new(program("gantry"));
        gantry.args(arguments).env("GANTRY_URL", self.url()).env("GANTRY_TOKEN", self.token());
        gantry.stdin(std::process::Stdio::null());
        run(gantry)
    }

    /// Runs a program on a machine.
    #[must_use]
    pub fn run_on(&self, machine: &str, name: &str, arguments: &[&str]) -> Output {
        let mut command = self.network.program(machine, Path::new(name));
        command.args(arguments).stdin(std::process::Stdio::null());
        run(command)
    }

    /// The response of an app's page on a machine.
    #[must_use]
    pub fn curl(&self, machine: &str, app: &str) -> Output {
        let resolve = format!("{app}.localhost:80:{}", self.address(machine));
        run(command("curl", &["-sS", "--max-time", "40", "--resolve", &resolve, &format!("http://{app}.localhost/")]))
    }

    /// The app's page on a machine, if the machine answers with it within half a second.
    #[must_use]
    pub fn page_at_once(&self, machine: &str, app: &str) -> Option<String> {
        let address = format!("http://{}/", self.address(machine));
        let host = format!("Host: {app}.localhost");
        let asked = run(command("curl", &["-sSf", "--max-time", "0.5", "-H", &host, &address]));
        (asked.status == 0).then_some(asked.out)
    }

    /// Puts load on an app by the router of a machine, until [`FleetLoad::end`].
    ///
    /// # Panics
    /// If the runtime cannot be made.
    #[must_use]
    pub fn load(&self, machine: &str, app: &str, kinds: &[LoadKind]) -> FleetLoad {
        // The threads of a runtime are in the namespace of the thread that makes it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
        let target = Target {
            address: format!("{}:80", self.address(machine)).parse().expect("an address"),
            host: format!("{app}.localhost"),
            path: "/".to_owned(),
            awaited: None,
            kinds: kinds.to_vec(),
            pause: Duration::from_millis(20),
        };
        let load = runtime.block_on(async { Load::begin(&target, kinds.len(), LOAD_LIMIT) });
        FleetLoad { runtime, load }
    }

    /// Waits until `probe` returns a value.
    ///
    /// # Panics
    /// After the timeout; the message names the awaited state and has the status of the fleet and the logs.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "waited too long until {what}\n{}", self.state());
            std::thread::sleep(POLL);
        }
    }

    /// Status, instances and logs, for the message of a failed test.
    fn state(&self) -> String {
        let mut state = String::new();
        for words in [&["status"][..], &["machine", "ls"], &["ps"], &["why"], &["events"]] {
            let output = self.gantry(words);
            state += &format!("--- gantry {}\n{}", words.join(" "), output.all());
        }
        for machine in &self.machines {
            let log = machine.log();
            let last = log.lines().rev().take(40).collect::<Vec<_>>();
            state += &format!("--- {}\n{}\n", machine.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        state
    }

    /// Creates a repository with an app's repository as its remote.
    ///
    /// # Panics
    /// If git fails.
    #[must_use]
    pub fn repository(&self, app: &str) -> Repository {
        let remote = format!("http://x:{}@{}:{API}/git/{app}.git", self.token(), self.address("m1"));
        Repository::create(self.folder.path().join(format!("repository-{app}")), &remote, None)
    }

    /// The server's URL.
    fn url(&self) -> String {
        format!("http://{}:{API}", self.address(&self.entry))
    }

    /// The administrator's token.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("m1", "data/admin-token")).unwrap_or_default().trim().to_owned()
    }

    fn machine(&self, name: &str) -> &FleetMachine {
        self.machines.iter().find(|machine| machine.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for machine in &mut self.machines {
            if failed {
                eprintln!("--- {} said\n{}", machine.name, machine.log());
            }
            if machine.is_on() {
                machine.power_off(&self.network);
            }
        }
        let left: Vec<String> = self.machines.iter().flat_map(FleetMachine::left_behind).collect();
        if !failed {
            assert_eq!(left, Vec::<String>::new(), "left behind");
        }
    }
}

/// Load on an app of a fleet.
pub struct FleetLoad {
    runtime: tokio::runtime::Runtime,
    load: Load,
}

impl FleetLoad {
    /// Number of completed requests so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.load.sent()
    }

    /// Ends the load and returns its report.
    #[must_use]
    pub fn end(self) -> Report {
        self.runtime.block_on(self.load.end())
    }
}

/// Makes a folder with a mode.
fn make_folder(path: &Path, mode: u32) {
    std::fs::DirBuilder::new().mode(mode).create(path).expect("made");
}
