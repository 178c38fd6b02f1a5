//! A test cluster for one test.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::command;
use crate::number::Number;
use crate::{Etcd, Output, Repository, groups, program, run};

/// Shortest and longest pause between two polls of [`TestCluster::wait`]: twice the duration of the poll. A poll starts a
/// program and must not take the processor from the tested system.
const POLL_PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

/// Timeout of [`TestCluster::wait`].
const DEADLINE: Duration = Duration::from_secs(90);

/// A test cluster with its own folders, ports, network and control group.
pub struct TestCluster {
    folder: tempfile::TempDir,
    name: String,
    number: Number,
    http: u16,
    api: u16,
    /// Last byte of the gateway's address, and the length of the network's prefix.
    network: (u8, u8),
    up: Option<Child>,
    /// Services that run without `up`.
    apart: Vec<Child>,
    extra: Vec<String>,
    /// Additional environment variables of `up`.
    environment: Vec<(String, String)>,
    /// Path of the program that runs as `up`.
    program: PathBuf,
    /// The program is that of commit cf11495, which also carries out the commands.
    is_earlier: bool,
    /// The cluster's own etcd, declared last so that it is dropped after everything else.
    _etcd: Option<Etcd>,
}

impl TestCluster {
    /// Starts a cluster with a base named `debian`.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start(extra: &[&str]) -> Self {
        Self::begin(None, etcd_if_asked(extra), extra)
    }

    /// Starts a cluster with additional environment variables of `up` and with its own copy of `gantry`. The copy is
    /// at `gantry` in the cluster's folder, and the test may replace it.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start_alone(environment: &[(&str, &str)], extra: &[&str]) -> Self {
        let mut cluster = Self::prepare(None, etcd_if_asked(extra), extra);
        cluster.program = cluster.path("gantry");
        std::fs::copy(program("gantry"), &cluster.program).expect("copied");
        cluster.environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        cluster.populate();
        cluster
    }

    /// Starts a cluster with its store in a file, even if `GANTRY_TEST_ETCD` is set.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start_with_file() -> Self {
        Self::begin(None, None, &[])
    }

    /// Starts a cluster of the program of commit cf11495. [`Self::upgrade`] puts the present program in its place.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start_earlier(program: &Path) -> Self {
        let mut cluster = Self::prepare(None, None, &[]);
        (cluster.program, cluster.is_earlier) = (program.to_owned(), true);
        cluster.populate();
        cluster
    }

    /// Ends `up` as a person would, which leaves containers running, and starts that of the present program in the same
    /// folders.
    ///
    /// # Panics
    /// If the daemons do not report in time.
    pub fn upgrade(&mut self) {
        self.signal("TERM", self.up_pid());
        if let Some(mut up) = self.up.take() {
            let _ = up.wait();
        }
        (self.program, self.is_earlier) = (program("gantry"), false);
        self.up();
    }

    /// Starts a cluster with its data folder, including the store, on another file system.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start_on(disk: &Path, extra: &[&str]) -> Self {
        Self::begin(Some(disk), None, extra)
    }

    /// Starts a cluster without `gantry up`: the server as the user `uid`, without any capability and with a data folder
    /// of its own, and agent and router as root.
    ///
    /// # Panics
    /// If the cluster does not start.
    #[must_use]
    pub fn start_apart(uid: u32) -> Self {
        let mut cluster = Self::prepare(None, None, &[]);
        // The user has a program that every user may run.
        cluster.program = cluster.path("gantry");
        std::fs::copy(program("gantry"), &cluster.program).expect("copied");
        for folder in ["server-data", "server-run"] {
            std::fs::DirBuilder::new().mode(0o700).create(cluster.path(folder)).expect("made");
            std::os::unix::fs::chown(cluster.path(folder), Some(uid), Some(uid)).expect("given");
        }
        std::fs::DirBuilder::new().mode(0o700).create(cluster.path("data")).expect("made");
        let id = uid.to_string();
        let mut server = Command::new("setpriv");
        server.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps", "-all"]).arg(&cluster.program);
        cluster.start_service(server, "server", "server-data", "server-run");
        for token in ["admin-token", "machine-token"] {
            cluster.wait("the server has its tokens", |cluster| {
                let text =
                    std::fs::read(cluster.path("server-data").join(token)).ok().filter(|text| !text.is_empty())?;
                std::fs::write(cluster.path("data").join(token), text).ok()
            });
        }
        for service in ["agent", "router"] {
            let command = Command::new(&cluster.program);
            cluster.start_service(command, service, "data", "run");
        }
        cluster.wait_until_all_report();
        cluster.import_base(&base_archive());
        cluster
    }

    /// Starts a service without `up`.
    fn start_service(&mut self, mut program: Command, service: &str, data: &str, run: &str) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("up.log")).expect("a log");
        let mut machine = self.machine();
        (machine[1], machine[3]) = (self.path(data).display().to_string(), self.path(run).display().to_string());
        let child = program
            .arg(service)
            .args(machine)
            .args(["--listen", &format!("127.0.0.1:{}", self.api), "--http", &format!("127.0.0.1:{}", self.http)])
            .args([
                "--network",
                &self.network(),
                "--drain",
                "5",
                "--bake-time",
                "2",
                "--wait-for",
                "bake",
                "--reserve",
                "50M",
            ])
            .env("GANTRY_FAILPOINTS", self.path("failpoints"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a service");
        self.apart.push(child);
    }

    /// Process ids of the services that run without `up`: server, agent, router.
    #[must_use]
    pub fn apart(&self) -> Vec<u32> {
        self.apart.iter().map(Child::id).collect()
    }

    fn begin(disk: Option<&Path>, etcd: Option<Etcd>, extra: &[&str]) -> Self {
        let mut cluster = Self::prepare(disk, etcd, extra);
        cluster.populate();
        cluster
    }

    fn prepare(disk: Option<&Path>, etcd: Option<Etcd>, extra: &[&str]) -> Self {
        let number = Number::claim();
        let [http, api] = number.ports();
        let store = etcd.iter().flat_map(|etcd| ["--store".to_owned(), etcd.address()]);
        let extra = extra.iter().copied().map(str::to_owned).chain(store).collect();
        let folder = tempfile::Builder::new().prefix("gantry-test-").tempdir().expect("a folder");
        // The server's user enters the cluster's folder, for the failpoints.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("opened");
        let (name, network) = (number.name(), (1, 24));
        let (environment, program) = (Vec::new(), program("gantry"));
        let cluster = Self {
            folder,
            name,
            number,
            http,
            api,
            network,
            up: None,
            apart: Vec::new(),
            extra,
            environment,
            program,
            is_earlier: false,
            _etcd: etcd,
        };
        if let Some(disk) = disk {
            std::fs::DirBuilder::new().mode(0o700).create(disk.join("data")).expect("made");
            std::os::unix::fs::symlink(disk.join("data"), cluster.path("data")).expect("a link");
        }
        cluster
    }

    fn populate(&mut self) {
        self.up();
        self.import_base(&base_archive());
    }

    /// Imports the examples' base as `debian`, in place of the small base that most tests need.
    ///
    /// # Panics
    /// If the import fails.
    pub fn import_examples_base(&self) {
        self.import_base(&archive("GANTRY_TEST_EXAMPLES_BASE"));
    }

    fn import_base(&self, archive: &Path) {
        let _ = self.gantry(&["base", "import", "debian", archive.to_str().expect("text")]).good();
    }

    /// Starts `gantry up` again with more arguments, which also apply to later starts.
    ///
    /// # Panics
    /// If the daemons do not report in time.
    pub fn up_with(&mut self, extra: &[&str]) {
        self.extra.extend(extra.iter().copied().map(str::to_owned));
        self.up();
    }

    /// Starts `gantry up` again on another store, or on the default one. Later starts use this store, too.
    ///
    /// # Panics
    /// If the daemons do not report in time.
    pub fn up_on_store(&mut self, store: Option<&str>) {
        if let Some(place) = self.extra.iter().position(|argument| argument == "--store") {
            self.extra.drain(place..place + 2);
        }
        self.up_with(&store.map_or(Vec::new(), |store| vec!["--store", store]));
    }

    /// Starts `gantry up` again on another network: the upper half of the previous network. Later starts use the new
    /// network too.
    ///
    /// # Panics
    /// If the daemons do not report in time.
    pub fn up_on_another_network(&mut self) {
        self.network = (129, 25);
        self.up();
    }

    /// Starts `gantry up` and waits until the agent and the router have reported.
    ///
    /// # Panics
    /// If the daemons do not report in time.
    pub fn up(&mut self) {
        self.up = Some(self.spawn_up());
        self.wait_until_all_report();
    }

    /// Starts `gantry up` and waits until a failpoint kills it.
    ///
    /// # Panics
    /// If `gantry up` ends otherwise.
    pub fn up_until_killed(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = self.spawn_up().wait().expect("ended");
        assert_eq!(status.signal(), Some(9), "{}", self.log());
    }

    fn spawn_up(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.path("up.log")).expect("a log");
        Command::new(&self.program)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("up")
            .args(self.machine())
            .args(["--listen", &format!("127.0.0.1:{}", self.api), "--http", &format!("127.0.0.1:{}", self.http)])
            .args(["--network", &self.network(), "--drain", "5"])
            .args(self.defaults())
            .args(&self.extra)
            .env("GANTRY_FAILPOINTS", self.path("failpoints"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("gantry up")
    }

    /// Settings that a test may overrule. Most tests check a state that exists only after the whole deploy, including the
    /// bake time; and the virtual machine of the tests has a small disk.
    fn defaults(&self) -> Vec<&'static str> {
        let deploys: &[[&str; 2]] = match self.is_earlier {
            true => &[["--watch", "2"]],
            false => &[["--bake-time", "2"], ["--wait-for", "bake"]],
        };
        let defaults = deploys.iter().chain(&[["--reserve", "50M"]]);
        let is_given = |name: &&str| self.extra.iter().any(|word| word == *name);
        defaults.filter(|[name, _]| !is_given(name)).flatten().copied().collect()
    }

    fn wait_until_all_report(&self) {
        self.wait("everything reports", |cluster| {
            let status = cluster.gantry(&["status", "--json"]);
            let value: serde_json::Value = serde_json::from_str(&status.out).ok()?;
            let count = |what: &str| value[what].as_object().map_or(0, serde_json::Map::len);
            (count("machines") == 1 && count("routers") == 1).then_some(())
        });
    }

    fn machine(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        [
            "--data",
            &path("data"),
            "--run",
            &path("run"),
            "--bridge",
            &self.name,
            "--cgroup",
            &self.name,
            "--machine",
            "m",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Returns a path in the cluster's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the folder of the failpoints, which services of any user write.
    ///
    /// # Panics
    /// If the folder cannot be made.
    pub fn make_failpoints(&self) {
        let folder = self.path("failpoints");
        std::fs::create_dir(&folder).expect("made");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("opened");
    }

    /// Returns the name of the cluster's bridge, nftables table and control group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the router's HTTP port.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// Returns the port of the API.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.api
    }

    /// Returns the administrator's token.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("data/admin-token")).unwrap_or_default().trim().to_owned()
    }

    /// Returns the log of `gantry up` and its services.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// Returns diagnostics for a failed test: the cluster's status, the agent's plan, and the kernel functions in
    /// which the services' threads wait.
    fn state(&self) -> String {
        let plan = std::fs::read_to_string(self.path("data/plan.json")).unwrap_or_default();
        let mut state = format!("{}\nthe agent's plan: {plan}", self.gantry(&["status", "--json"]).all());
        for service in ["server", "agent", "router"] {
            let Some(pid) = self.service_pid(service) else { continue };
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let waits = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("wchan")).ok());
            state += &format!("\n{service} waits in {}", waits.collect::<Vec<_>>().join(" "));
        }
        state
    }

    /// Runs `gantry` with the administrator's token.
    #[must_use]
    pub fn gantry(&self, arguments: &[&str]) -> Output {
        self.gantry_as(&self.token(), arguments)
    }

    /// Runs `gantry` with a token.
    #[must_use]
    pub fn gantry_as(&self, token: &str, arguments: &[&str]) -> Output {
        run(self.command(token, arguments))
    }

    /// Runs `gantry` with the administrator's token and more in its environment.
    #[must_use]
    pub fn gantry_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = self.command(&self.token(), arguments);
        command.envs(environment.iter().copied());
        run(command)
    }

    /// Runs a command of `gantry` that works on the cluster's folders.
    #[must_use]
    pub fn offline(&self, arguments: &[&str]) -> Output {
        self.offline_with(&[], arguments)
    }

    /// Runs a command of `gantry` that works on the cluster's folders, with more in its environment.
    #[must_use]
    pub fn offline_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let [data, run] = ["data", "run"].map(|name| self.path(name).display().to_string());
        self.gantry_with(environment, &[arguments, &["--data", &data, "--run", &run]].concat())
    }

    /// Starts `gantry` in the background with the administrator's token. Its output goes to the file `name` in the
    /// cluster's folder.
    ///
    /// # Panics
    /// If `gantry` cannot be started.
    #[must_use]
    pub fn gantry_into(&self, name: &str, arguments: &[&str]) -> Child {
        let file = File::create(self.path(name)).expect("a file");
        let errors = file.try_clone().expect("a file");
        self.command(&self.token(), arguments).stdout(file).stderr(errors).spawn().expect("started")
    }

    fn command(&self, token: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(if self.is_earlier { self.program.clone() } else { program("gantry") });
        command
            .args(arguments)
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", self.api))
            .env("GANTRY_TOKEN", token)
            .stdin(Stdio::null());
        command
    }

    /// Requests an app's page with curl and returns curl's output.
    #[must_use]
    pub fn curl(&self, host: &str, arguments: &[&str]) -> Output {
        run(self.curl_command(host, arguments))
    }

    /// Builds a curl command that requests an app's page.
    #[must_use]
    pub fn curl_command(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "40"]).args(arguments).arg(format!("http://{host}:{}/", self.http));
        command
    }

    /// Waits until `probe` returns a value.
    ///
    /// # Panics
    /// After the timeout; the message names the awaited state and has the cluster's log and status.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let polled = Instant::now();
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "waited too long until {what}\n{}\n{}", self.log(), self.state());
            std::thread::sleep((polled.elapsed() * 2).clamp(POLL_PAUSE[0], POLL_PAUSE[1]));
        }
    }

    /// Creates a repository with a copy of `example` and the app's repository as its remote.
    ///
    /// # Panics
    /// If git fails.
    #[must_use]
    pub fn repository(&self, app: &str, example: Option<&str>) -> Repository {
        let remote = format!("http://x:{}@127.0.0.1:{}/git/{app}.git", self.token(), self.api);
        let source = example.map(|example| examples().join(example));
        Repository::create(self.path(&format!("repository-{app}")), &remote, source.as_deref())
    }

    /// Kills a service with SIGKILL; `up` restarts the service.
    ///
    /// # Panics
    /// If the service is not running.
    pub fn kill_service(&self, service: &str) {
        let pid = self.service_pid(service).unwrap_or_else(|| panic!("{service} does not run"));
        self.signal("KILL", pid);
    }

    /// Returns the process id of a service.
    #[must_use]
    pub fn service_pid(&self, service: &str) -> Option<u32> {
        let data = self.path("data");
        // `up` resolves links in the server's paths.
        let data = if service == "server" { data.canonicalize().unwrap_or(data) } else { data };
        let pattern = format!("gantry {service} --machine m --data {}", data.display());
        run(command("pgrep", &["-f", &pattern])).out.lines().next()?.parse().ok()
    }

    /// Returns the containers known to the agent by name, each with the id of its first process.
    #[must_use]
    pub fn containers(&self) -> Vec<(String, u32)> {
        let entries = std::fs::read_dir(self.path("run/containers")).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let text = std::fs::read_to_string(entry.path().join("container.json")).ok()?;
                let record: serde_json::Value = serde_json::from_str(&text).ok()?;
                Some((entry.file_name().to_string_lossy().into_owned(), record["pid"].as_u64()?.try_into().ok()?))
            })
            .collect();
        found.sort();
        found
    }

    /// Sends a signal (`KILL`, `STOP`) to a process.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn signal(&self, signal: &str, pid: u32) {
        let _ = run(command("kill", &["-s", signal, &pid.to_string()])).good();
    }

    /// Tells `up` to replace every service with the program on disk.
    ///
    /// # Panics
    /// If `up` is not running.
    pub fn replace_services(&self) {
        self.signal("HUP", self.up_pid());
    }

    /// Returns the process id of `up`.
    ///
    /// # Panics
    /// If `up` never ran.
    #[must_use]
    pub fn up_pid(&self) -> u32 {
        let pid = std::fs::read_to_string(self.path("data/up.lock")).expect("a lock");
        pid.trim().parse().expect("a process")
    }

    /// Kills `up` only; its services end when they notice.
    ///
    /// # Panics
    /// If the services do not end.
    pub fn kill_up(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        for service in ["server", "agent", "router"] {
            self.wait("it has ended", |cluster| cluster.service_pid(service).is_none().then_some(()));
        }
    }

    /// Kills `up` and its three services with SIGKILL, like a power failure.
    ///
    /// # Panics
    /// If a service cannot be killed.
    pub fn kill_everything(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        for service in ["server", "agent", "router"] {
            // The service may have ended already, together with `up`.
            if let Some(pid) = self.service_pid(service) {
                let _ = run(command("kill", &["-9", &pid.to_string()]));
            }
            self.wait("it is gone", |cluster| cluster.service_pid(service).is_none().then_some(()));
        }
    }

    /// Removes what a reboot removes besides the processes: bridge, firewall rules and control groups. Needs a
    /// cluster without running processes.
    ///
    /// # Panics
    /// If a part remains.
    pub fn forget_network_and_groups(&self) {
        let _ = run(command("ip", &["link", "delete", &self.name])).good();
        let _ = run(command("nft", &["delete", "table", "inet", &self.name])).good();
        self.wait("its groups are gone", |_| groups::remove(&self.name).then_some(()));
    }

    /// Runs `gantry down` and waits for `up` to end.
    pub fn down(&mut self) -> Output {
        for mut service in self.apart.drain(..) {
            let _ = service.kill();
            let _ = service.wait();
        }
        let mut command = Command::new(program("gantry"));
        command.arg("down").args(self.machine()).args(["--network", &self.network()]).stdin(Stdio::null());
        let output = run(command);
        if let Some(mut up) = self.up.take() {
            // A test that failed may leave an `up` that `down` does not reach.
            if output.status != 0 {
                let _ = up.kill();
            }
            let _ = up.wait();
        }
        output
    }

    /// Returns the first three bytes of the cluster's addresses.
    pub(crate) fn subnet(&self) -> [u16; 3] {
        self.number.network()
    }

    /// Returns the address of the cluster's DNS resolver.
    #[must_use]
    pub fn resolver(&self) -> String {
        let ([a, b, c], (d, _)) = (self.subnet(), self.network);
        format!("{a}.{b}.{c}.{d}:53")
    }

    /// Returns the cluster's network, within its own range of 254 addresses.
    fn network(&self) -> String {
        let ([a, b, c], (d, prefix)) = (self.subnet(), self.network);
        format!("{a}.{b}.{c}.{d}/{prefix}")
    }
}

/// Starts an etcd if `GANTRY_TEST_ETCD` is set and the test names no store.
fn etcd_if_asked(extra: &[&str]) -> Option<Etcd> {
    let asked = std::env::var_os("GANTRY_TEST_ETCD").is_some() && !extra.contains(&"--store");
    asked.then(Etcd::start)
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let output = self.down();
        let left = self.left_behind();
        if std::thread::panicking() {
            eprintln!("--- the cloud said\n{}", self.log());
            return;
        }
        assert_eq!(output.status, 0, "{}", output.all());
        assert_eq!(left, Vec::<String>::new(), "left behind");
        let log = self.log();
        let undeclared: Vec<&str> = log.lines().filter(|line| line.contains("undeclared error code")).collect();
        assert!(undeclared.is_empty(), "errors that endpoints do not declare: {undeclared:?}");
    }
}

/// Returns the folder of the examples. `GANTRY_EXAMPLES` names the folder on a machine that has the tests but not the
/// source.
fn examples() -> PathBuf {
    let source = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    std::env::var_os("GANTRY_EXAMPLES").map_or_else(source, PathBuf::from)
}

/// Returns the path of the base of most tests, an OCI archive made once by `./test`.
pub(crate) fn base_archive() -> PathBuf {
    archive("GANTRY_TEST_BASE")
}

/// Returns the path of the archive that an environment variable names.
fn archive(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set; `./test` sets it"));
    assert!(path.is_file(), "{} is missing; `./test` makes it", path.display());
    path
}
