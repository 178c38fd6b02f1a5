//! A cloud of its own, for one test.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::command;
use crate::number::Number;
use crate::{Etcd, Output, Repository, program, run};

/// Between two looks at what is waited for: a look starts a program, and must not take the processor from what it looks at.
const LOOK: Duration = Duration::from_millis(20);

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// A cloud with everything of its own.
pub struct World {
    folder: tempfile::TempDir,
    name: String,
    number: Number,
    http: u16,
    api: u16,
    /// The gateway's last number, and how long the prefix is.
    network: (u8, u8),
    up: Option<Child>,
    extra: Vec<String>,
    /// What `up` has in its environment besides.
    environment: Vec<(String, String)>,
    /// The program that `up` is.
    program: PathBuf,
    /// Ends after everything else.
    _etcd: Option<Etcd>,
}

impl World {
    /// Starts a cloud, with a base named `debian`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(extra: &[&str]) -> Self {
        Self::begin(None, etcd_if_asked(extra), extra)
    }

    /// The same, with a program of its own at `gantry` in the world's folder, which the test may replace, and with more in the
    /// environment of `up`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_alone(environment: &[(&str, &str)], extra: &[&str]) -> Self {
        let mut world = Self::prepare(None, etcd_if_asked(extra), extra);
        world.program = world.path("gantry");
        std::fs::copy(program("gantry"), &world.program).expect("copied");
        world.environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        world.populate();
        world
    }

    /// The same, with its store in a file, wherever those of other worlds are.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with_file() -> Self {
        Self::begin(None, None, &[])
    }

    /// The same, with its data on another file system, its store too.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_on(disk: &Path, extra: &[&str]) -> Self {
        Self::begin(Some(disk), None, extra)
    }

    fn begin(disk: Option<&Path>, etcd: Option<Etcd>, extra: &[&str]) -> Self {
        let mut world = Self::prepare(disk, etcd, extra);
        world.populate();
        world
    }

    fn prepare(disk: Option<&Path>, etcd: Option<Etcd>, extra: &[&str]) -> Self {
        let number = Number::claim();
        let [http, api] = number.ports();
        let store = etcd.iter().flat_map(|etcd| ["--store", etcd.address()]);
        let extra = extra.iter().copied().chain(store).map(str::to_owned).collect();
        let folder = tempfile::Builder::new().prefix("gantry-world-").tempdir().expect("a folder");
        let (name, network) = (format!("gt{}", number.value), (1, 24));
        let (environment, program) = (Vec::new(), program("gantry"));
        let world =
            Self { folder, name, number, http, api, network, up: None, extra, environment, program, _etcd: etcd };
        if let Some(disk) = disk {
            std::fs::DirBuilder::new().mode(0o700).create(disk.join("data")).expect("made");
            std::os::unix::fs::symlink(disk.join("data"), world.path("data")).expect("a link");
        }
        world
    }

    fn populate(&mut self) {
        self.up();
        let base = base_archive();
        let _ = self.gantry(&["base", "import", "debian", base.to_str().expect("text")]).good();
    }

    /// Starts `gantry up` again, with more settings from now on.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn up_with(&mut self, extra: &[&str]) {
        self.extra.extend(extra.iter().copied().map(str::to_owned));
        self.up();
    }

    /// Starts `gantry up` again, with another network of the machine's from now on: the upper half of the one it had.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn up_on_another_network(&mut self) {
        self.network = (129, 25);
        self.up();
    }

    /// Starts `gantry up`, and waits until everything has reported.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("up.log")).expect("a log");
        let child = Command::new(&self.program)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("up")
            .args(self.machine())
            .args(["--listen", &format!("127.0.0.1:{}", self.api), "--http", &format!("127.0.0.1:{}", self.http)])
            .args(["--network", &self.network(), "--drain", "5"])
            .args(if self.extra.iter().any(|word| word == "--watch") { &[][..] } else { &["--watch", "2"] })
            // What most tests look at is there when all is over.
            .args(if self.extra.iter().any(|word| word == "--wait-for") { &[][..] } else { &["--wait-for", "bake"] })
            // The virtual machine's disk is a small one.
            .args(if self.extra.iter().any(|word| word == "--reserve") { &[][..] } else { &["--reserve", "50M"] })
            .args(&self.extra)
            .env("GANTRY_STEPS", self.path("steps"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("gantry up");
        self.up = Some(child);
        self.wait("everything reports", |world| {
            let status = world.gantry(&["status", "--json"]);
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

    /// A path in the world's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The name of its bridge, table and control group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port that apps are reached at.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// The API's port.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.api
    }

    /// The administrator's token.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("data/admin-token")).unwrap_or_default().trim().to_owned()
    }

    /// What `gantry up` and its services said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// What is told of everything, and what the services' threads wait for in the kernel: for whoever looks for why a test failed.
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

    /// Starts `gantry` with the administrator's token and goes on; what it prints is in the file `name` of this world.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn gantry_into(&self, name: &str, arguments: &[&str]) -> Child {
        let file = File::create(self.path(name)).expect("a file");
        let errors = file.try_clone().expect("a file");
        self.command(&self.token(), arguments).stdout(file).stderr(errors).spawn().expect("started")
    }

    fn command(&self, token: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gantry"));
        command
            .args(arguments)
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", self.api))
            .env("GANTRY_TOKEN", token)
            .stdin(Stdio::null());
        command
    }

    /// Asks an app with curl, as a person would: the answer's body.
    #[must_use]
    pub fn curl(&self, host: &str, arguments: &[&str]) -> Output {
        run(self.curl_command(host, arguments))
    }

    /// Curl, about to ask an app.
    #[must_use]
    pub fn curl_command(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "40"]).args(arguments).arg(format!("http://{host}:{}/", self.http));
        command
    }

    /// Waits until `probe` finds something.
    ///
    /// # Panics
    /// When it does not in time; says what was waited for, and what the cloud said.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "waited too long until {what}\n{}\n{}", self.log(), self.state());
            std::thread::sleep(LOOK);
        }
    }

    /// A repository with a copy of `example`, whose remote is the app's.
    ///
    /// # Panics
    /// When git fails.
    #[must_use]
    pub fn repository(&self, app: &str, example: Option<&str>) -> Repository {
        let folder = self.path(&format!("repository-{app}"));
        std::fs::create_dir_all(&folder).expect("made");
        let repository = Repository { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        let remote = format!("http://x:{}@127.0.0.1:{}/git/{app}.git", self.token(), self.api);
        repository.git(&["remote", "add", "gantry", &remote]);
        if let Some(example) = example {
            let source = examples().join(example);
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(source.join(".")).arg(&repository.folder);
            let _ = run(copy).good();
        }
        repository
    }

    /// Kills one of the services with SIGKILL; `up` starts it again.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_service(&self, service: &str) {
        let pid = self.service_pid(service).unwrap_or_else(|| panic!("{service} does not run"));
        self.signal("KILL", pid);
    }

    /// The process of a service.
    #[must_use]
    pub fn service_pid(&self, service: &str) -> Option<u32> {
        let pattern = format!("gantry {service} --machine m --data {}", self.path("data").display());
        run(command("pgrep", &["-f", &pattern])).out.lines().next()?.parse().ok()
    }

    /// The containers that the agent knows, by name, each with its first process.
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
    /// When there is no such process.
    pub fn signal(&self, signal: &str, pid: u32) {
        let _ = run(command("kill", &["-s", signal, &pid.to_string()])).good();
    }

    /// Tells `up` to replace every service by the program as it is on disk.
    ///
    /// # Panics
    /// When it does not run.
    pub fn replace_services(&self) {
        self.signal("HUP", self.up_pid());
    }

    /// The process of `up`.
    ///
    /// # Panics
    /// When it never ran.
    #[must_use]
    pub fn up_pid(&self) -> u32 {
        let pid = std::fs::read_to_string(self.path("data/up.lock")).expect("a lock");
        pid.trim().parse().expect("a process")
    }

    /// Kills `up` alone; its services end when they notice.
    ///
    /// # Panics
    /// When they do not.
    pub fn kill_up(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        for service in ["server", "agent", "router"] {
            self.wait("it has ended", |world| world.service_pid(service).is_none().then_some(()));
        }
    }

    /// Ends `up` without its having a say, with all three services: what a power failure does to them.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill_everything(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        for service in ["server", "agent", "router"] {
            // It may have ended by itself already, with `up`.
            if let Some(pid) = self.service_pid(service) {
                let _ = run(command("kill", &["-9", &pid.to_string()]));
            }
            self.wait("it is gone", |world| world.service_pid(service).is_none().then_some(()));
        }
    }

    /// Takes away what a reboot takes besides: bridge, rules and control groups, once nothing of this world's runs any more.
    ///
    /// # Panics
    /// When something of it stays.
    pub fn forget_network_and_groups(&self) {
        let _ = run(command("ip", &["link", "delete", &self.name])).good();
        let _ = run(command("nft", &["delete", "table", "inet", &self.name])).good();
        let groups = || {
            let mut find = command("find", &["/sys/fs/cgroup", "-depth", "-type", "d", "-path"]);
            find.args([format!("*/{}", self.name), "-o".to_owned(), "-path".to_owned(), format!("*/{}/*", self.name)]);
            run(find).out.lines().map(PathBuf::from).collect::<Vec<_>>()
        };
        self.wait("its groups are gone", |_| {
            groups().iter().for_each(|group| drop(std::fs::remove_dir(group)));
            groups().is_empty().then_some(())
        });
    }

    /// Takes everything down.
    pub fn down(&mut self) -> Output {
        let mut command = Command::new(program("gantry"));
        command.arg("down").args(self.machine()).args(["--network", &self.network()]).stdin(Stdio::null());
        let output = run(command);
        if let Some(mut up) = self.up.take() {
            let _ = up.wait();
        }
        output
    }

    /// The first three numbers of its addresses.
    pub(crate) fn subnet(&self) -> [u16; 3] {
        self.number.network()
    }

    /// Who answers names here.
    #[must_use]
    pub fn resolver(&self) -> String {
        let ([a, b, c], (d, _)) = (self.subnet(), self.network);
        format!("{a}.{b}.{c}.{d}:53")
    }

    /// A network in a range of 254 addresses of this world's own.
    fn network(&self) -> String {
        let ([a, b, c], (d, prefix)) = (self.subnet(), self.network);
        format!("{a}.{b}.{c}.{d}/{prefix}")
    }
}

/// An etcd for a world that does not say where its store is.
fn etcd_if_asked(extra: &[&str]) -> Option<Etcd> {
    let asked = std::env::var_os("GANTRY_TEST_ETCD").is_some() && !extra.contains(&"--store");
    asked.then(Etcd::start)
}

impl Drop for World {
    fn drop(&mut self) {
        let output = self.down();
        let left = self.left_behind();
        if std::thread::panicking() {
            eprintln!("--- the cloud said\n{}", self.log());
            return;
        }
        assert_eq!(output.status, 0, "{}", output.all());
        assert_eq!(left, Vec::<String>::new(), "left behind");
    }
}

/// The examples; elsewhere on a machine that has the tests and not the source.
fn examples() -> PathBuf {
    let source = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    std::env::var_os("GANTRY_EXAMPLES").map_or_else(source, PathBuf::from)
}

/// The examples' base as an OCI archive, made once by `./test`.
fn base_archive() -> PathBuf {
    let path = std::env::var_os("GANTRY_TEST_BASE").map(PathBuf::from).expect("GANTRY_TEST_BASE; `./test` sets it");
    assert!(path.is_file(), "{} is missing; `./test` makes it", path.display());
    path
}
