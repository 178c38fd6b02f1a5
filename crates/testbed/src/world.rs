//! A cloud of its own, for one test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Etcd;
use crate::number::Number;

/// Between two looks at what is waited for: a look starts a program, and must not take the processor from what it looks at.
const LOOK: Duration = Duration::from_millis(20);

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Everything that it said.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// It succeeded.
    ///
    /// # Panics
    /// When it did not, with everything it said.
    #[must_use]
    pub fn good(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.all());
        self
    }
}

/// A cloud with everything of its own.
pub struct World {
    folder: tempfile::TempDir,
    name: String,
    number: Number,
    http: u16,
    api: u16,
    up: Option<Child>,
    extra: Vec<String>,
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
        let number = Number::claim();
        let [http, api] = number.ports();
        let store = etcd.iter().flat_map(|etcd| ["--store", etcd.address()]);
        let extra = extra.iter().copied().chain(store).map(str::to_owned).collect();
        let folder = tempfile::Builder::new().prefix("gantry-world-").tempdir().expect("a folder");
        let mut world =
            Self { folder, name: format!("gt{}", number.value), number, http, api, up: None, extra, _etcd: etcd };
        if let Some(disk) = disk {
            std::fs::create_dir(disk.join("data")).expect("made");
            std::os::unix::fs::symlink(disk.join("data"), world.path("data")).expect("a link");
        }
        world.up();
        let base = base_archive();
        let _ = world.gantry(&["base", "import", "debian", base.to_str().expect("text")]).good();
        world
    }

    /// Starts `gantry up` again, with more settings from now on.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn up_with(&mut self, extra: &[&str]) {
        self.extra.extend(extra.iter().copied().map(str::to_owned));
        self.up();
    }

    /// Starts `gantry up`, and waits until everything has reported.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("up.log")).expect("a log");
        let child = Command::new(program("gantry"))
            .arg("up")
            .args(self.machine())
            .args(["--listen", &format!("127.0.0.1:{}", self.api), "--http", &format!("127.0.0.1:{}", self.http)])
            .args(["--network", &self.network(), "--drain", "5"])
            .args(if self.extra.iter().any(|word| word == "--watch") { &[][..] } else { &["--watch", "2"] })
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
        self.command(&self.token(), arguments).stdout(file).spawn().expect("started")
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
            assert!(begun.elapsed() < DEADLINE, "waited too long until {what}\n{}", self.log());
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
        let pid = std::fs::read_to_string(self.path("data/up.lock")).expect("a lock");
        self.signal("HUP", pid.trim().parse().expect("a process"));
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
        let _ = run(command("nft", &["delete", "table", "ip", &self.name])).good();
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

    /// What there is besides the instances that are wanted: folders, control groups, links, and everything half made.
    #[must_use]
    pub fn strays(&self, wanted: &[String]) -> Vec<String> {
        let entries = |path: PathBuf| -> Vec<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let mut strays = Vec::new();
        let groups = Path::new("/sys/fs/cgroup/pids").join(&self.name);
        for (what, found) in [
            ("folder", entries(self.path("data/containers"))),
            ("state", entries(self.path("run/containers"))),
            ("group", entries(groups.clone())),
        ] {
            let is_file = |name: &String| what == "group" && !groups.join(name).is_dir();
            strays.extend(
                found
                    .iter()
                    .filter(|name| !wanted.contains(name) && !is_file(name) && *name != "build")
                    .map(|name| format!("{what} {name}")),
            );
            strays.extend(wanted.iter().filter(|name| !found.contains(name)).map(|name| format!("no {what} {name}")));
        }
        for folder in ["data/scratch", "data/blobs/uploads"] {
            strays.extend(entries(self.path(folder)).into_iter().map(|name| format!("{folder}/{name}")));
        }
        strays
            .extend(entries(groups.join("build")).into_iter().filter(|name| groups.join("build").join(name).is_dir()));
        strays.extend(entries(self.path("data/layers")).into_iter().filter(|name| name.starts_with("new-")));
        let mut find = command("find", &[]);
        find.arg(self.path("data/git")).args(["-name", "tmp_objdir-*"]);
        strays.extend(run(find).out.lines().map(str::to_owned));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        strays.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
        let links = run(command("ip", &["-o", "link", "show", "master", &self.name])).out.lines().count();
        if links != wanted.len() {
            strays.push(format!("{links} links for {} instances", wanted.len()));
        }
        strays
    }

    /// A network of 254 addresses, in a range of this world's own.
    fn network(&self) -> String {
        let [a, b, c] = self.number.network();
        format!("{a}.{b}.{c}.1/24")
    }

    /// Everything of this world's that the machine still has.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        let name = &self.name;
        if run(command("ip", &["link", "show", name])).status == 0 {
            left.push(format!("bridge {name}"));
        }
        // A container's link is named after its address.
        let [a, b, c] = self.number.network();
        let prefix = format!("gt{a:02x}{b:02x}{c:02x}");
        let links = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|link| link.file_name());
        left.extend(links.filter_map(|link| link.into_string().ok()).filter(|link| link.starts_with(&prefix)));
        let tables = run(command("nft", &["list", "tables"])).out;
        left.extend(tables.lines().filter(|line| line.split(' ').any(|word| word == name)).map(str::to_owned));
        for hierarchy in ["", "memory", "pids", "cpu", "cpuacct", "devices", "systemd", "unified"] {
            let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let folder = self.folder.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        let processes = run(command("pgrep", &["-a", "-f", &folder])).out;
        left.extend(processes.lines().filter(|line| line.contains("gantry")).map(str::to_owned));
        left
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

/// A git repository to push from.
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// Runs git in it; it must succeed.
    ///
    /// # Panics
    /// When git fails.
    pub fn git(&self, arguments: &[&str]) -> Output {
        self.try_git(arguments).good()
    }

    fn try_git(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "protocol.version=2"])
            .args(arguments)
            .current_dir(&self.folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null());
        run(command)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    /// Replaces a text in a file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.folder.join(path)).expect("a file");
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, &text.replace(from, to));
    }

    /// Commits everything; its full SHA.
    ///
    /// # Panics
    /// When git fails.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"]).out.trim().to_owned()
    }

    /// Pushes the head to the app's branch.
    #[must_use]
    pub fn push(&self) -> Output {
        self.try_git(&["push", "gantry", "HEAD:main"])
    }

    /// A push that goes on by itself.
    ///
    /// # Panics
    /// When git cannot be started.
    #[must_use]
    pub fn push_in_background(&self) -> Child {
        Command::new("git")
            .args(["push", "gantry", "HEAD:main"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("git")
    }

    /// Any other git command, whatever comes of it.
    #[must_use]
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        self.try_git(arguments)
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program of this workspace, as it was built with the test.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.ancestors().find(|path| path.join(name).is_file());
    folder.unwrap_or_else(|| panic!("{name} is not built; `./test` does it")).join(name)
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
