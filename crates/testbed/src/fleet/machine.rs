//! One machine of a fleet: its folders, its processes, and its power switch.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::API;
use super::network::{FleetNetwork, address};
use crate::command::command;
use crate::{ShiftedClock, groups, program, run};

/// Timeout for killed processes to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// A machine of a fleet.
pub(super) struct FleetMachine {
    /// Name in the fleet.
    pub(super) name: String,
    /// Name in the cluster: that of the fleet, or of another machine.
    alias: String,
    /// The last byte of the machine's address.
    number: u8,
    /// Folder of the machine's data, run-time state and log.
    folder: PathBuf,
    /// Control group of the machine's containers.
    cgroup: String,
    /// Variables of the machine's programs.
    environment: Vec<(String, PathBuf)>,
    /// `gantry up`; none while the machine is off, or has not joined.
    up: Option<Child>,
    /// Arguments of the machine's member of etcd; none without a member.
    pub(super) member: Option<Vec<String>>,
    etcd: Option<Child>,
    /// The machine's namespace exists.
    is_on: bool,
}

impl FleetMachine {
    /// Prepares the machine with the given number: `m1`, `m2` and so on. It calls itself by its `alias`.
    pub(super) fn new(fleet: &str, folder: &Path, number: u8, alias: Option<&str>) -> Self {
        let name = format!("m{number}");
        let alias = alias.unwrap_or(&name).to_owned();
        let (folder, cgroup) = (folder.join(&name), format!("{fleet}-{name}"));
        // The server's user enters the machine's folder.
        super::make_folder(&folder, 0o711);
        super::make_folder(&folder.join("data"), 0o700);
        let environment = Vec::new();
        Self { name, alias, number, folder, cgroup, environment, up: None, member: None, etcd: None, is_on: false }
    }

    /// Address of the machine.
    pub(super) fn address(&self) -> String {
        address(self.number)
    }

    /// A path in the machine's folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Standard error of the machine's processes.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the machine's member of etcd, if there is one and it does not run.
    pub(super) fn start_member(&mut self, network: &FleetNetwork) {
        let Some(arguments) = self.member.as_ref().filter(|_| self.etcd.is_none()) else { return };
        let mut etcd = network.program(&self.name, Path::new("etcd"));
        etcd.args(arguments).arg("--data-dir").arg(self.path("etcd"));
        let quiet = etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.etcd = Some(quiet.spawn().expect("etcd; install Debian's etcd-server"));
    }

    /// Starts `gantry up`.
    pub(super) fn up(&mut self, network: &FleetNetwork) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut up = self.gantry(network, &["up"]);
        up.args(["--drain", "5", "--bake-time", "2", "--wait-for", "bake", "--reserve", "50M"]);
        // The servers' API without TLS, for git and curl. Nothing outside of the fleet reaches it.
        up.args(["--listen", &format!("{}:{API}", self.address())]);
        self.up = Some(up.stdout(Stdio::null()).stderr(log).spawn().expect("started"));
    }

    /// Lets a process count as the machine's first one.
    pub(super) fn boot(&mut self, first: Child) {
        self.up = Some(first);
    }

    /// Control group of the machine's containers.
    pub(super) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Builds a command of `gantry` that runs on the machine, with the machine's settings.
    pub(super) fn gantry(&self, network: &FleetNetwork, words: &[&str]) -> Command {
        let mut command = network.program(&self.name, &program("gantry"));
        command.args(words).args(self.settings()).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Arguments that name the machine and keep it apart from the others.
    fn settings(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (data, run, address) = (path("data"), path("run"), self.address());
        let words = ["--machine", &self.alias, "--data", &data, "--run", &run, "--cgroup", &self.cgroup];
        words.into_iter().chain(["--advertise", &address]).map(str::to_owned).collect()
    }

    /// Gives a clock to the programs of the machine that start from now on.
    pub(super) fn set_clock(&mut self, clock: &ShiftedClock) {
        self.environment = clock.environment().map(|(name, path)| (name.to_owned(), path.to_owned())).into();
    }

    /// Reports whether the machine is on.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Process ids of everything that runs on the machine, containers included.
    fn processes(&self, network: &FleetNetwork) -> Vec<String> {
        // Containers have network namespaces of their own.
        let namespace = network.namespace(&self.name);
        let own = run(command("ip", &["netns", "pids", &namespace])).out;
        let contained = groups::processes(&self.cgroup);
        own.split_whitespace().map(str::to_owned).chain(contained).collect()
    }

    /// Sends a signal to everything that runs on the machine. Returns whether anything runs.
    pub(super) fn signal(&self, network: &FleetNetwork, signal: &str) -> bool {
        let processes = self.processes(network);
        if processes.is_empty() {
            return false;
        }
        let mut kill = command("kill", &["-s", signal]);
        kill.args(&processes);
        // Some of the processes may have ended meanwhile.
        let _ = run(kill);
        true
    }

    /// Takes the power away. The data folder stays; a reboot empties the run-time folder and everything in the kernel.
    pub(super) fn power_off(&mut self, network: &FleetNetwork) {
        // No packet tells other machines that the processes have ended.
        network.connect(&self.name, false);
        let begun = Instant::now();
        while self.signal(network, "KILL") {
            assert!(begun.elapsed() < KILL_TIMEOUT, "{} does not end: {:?}", self.name, self.processes(network));
            // A killed child is a process until it is waited for.
            for child in self.up.iter_mut().chain(&mut self.etcd) {
                let _ = child.try_wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for mut child in self.up.take().into_iter().chain(self.etcd.take()) {
            let _ = child.wait();
        }
        network.remove(&self.name);
        self.is_on = false;
        let _ = std::fs::remove_dir_all(self.path("run"));
        while !groups::remove(&self.cgroup) {
            assert!(begun.elapsed() < KILL_TIMEOUT, "the control groups of {} stay", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Puts the machine's namespace and cable in place.
    pub(super) fn plug_in(&mut self, network: &FleetNetwork) {
        network.add(&self.name, self.number);
        self.is_on = true;
    }

    /// Remains on this computer of a machine that is off.
    pub(super) fn left_behind(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}"));
        let groups = groups::folders(&self.cgroup).into_iter().map(|path| format!("group {}", path.display()));
        let processes = run(command("pgrep", &["-a", "-f", &format!("{folder}/")])).out;
        let processes = processes.lines().filter(|line| line.contains("gantry")).map(|line| format!("process {line}"));
        mounts.chain(groups).chain(processes).collect()
    }

    /// Process id of a service.
    pub(super) fn service(&self, service: &str) -> Option<u32> {
        let data = self.path("data");
        let pattern = format!("gantry {service} --machine {} --data {}", self.alias, data.display());
        run(command("pgrep", &["-f", &pattern])).out.lines().next()?.parse().ok()
    }
}
