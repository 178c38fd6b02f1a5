//! A server beside the one of a [`TestCluster`](crate::TestCluster): the cluster has several servers on one etcd.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::number::Number;
use crate::{Etcd, program};

/// A `gantry server` without agent and router. It runs until the value is dropped.
pub struct SpareServer {
    name: String,
    number: Number,
    folder: tempfile::TempDir,
    store: String,
    extra: Vec<String>,
    child: Option<Child>,
}

impl SpareServer {
    /// Starts a server on this etcd.
    ///
    /// # Panics
    /// If the server cannot be started.
    #[must_use]
    pub fn start(name: &str, etcd: &Etcd) -> Self {
        Self::start_with(name, etcd, &[])
    }

    /// Starts a server on this etcd with more arguments.
    ///
    /// # Panics
    /// If the server cannot be started.
    #[must_use]
    pub fn start_with(name: &str, etcd: &Etcd, extra: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("gantry-server-").tempdir().expect("a folder");
        let (number, store) = (Number::claim(), etcd.address());
        let extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { name: name.to_owned(), number, folder, store, extra, child: None };
        for folder in ["data", "run", "failpoints"] {
            std::fs::DirBuilder::new().mode(0o700).create(server.path(folder)).expect("made");
        }
        server.restart();
        server
    }

    /// Starts a killed server again with its data.
    ///
    /// # Panics
    /// If the server cannot be started.
    pub fn restart(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let path = |name: &str| self.path(name).display().to_string();
        let [http, api] = self.number.ports();
        let child = Command::new(program("gantry"))
            .args(["server", "--machine", &self.name, "--data", &path("data"), "--run", &path("run")])
            .args(["--listen", &format!("127.0.0.1:{api}"), "--http", &format!("127.0.0.1:{http}")])
            .args([
                "--store",
                &self.store,
                "--drain",
                "5",
                "--bake-time",
                "2",
                "--wait-for",
                "bake",
                "--reserve",
                "50M",
            ])
            .args(&self.extra)
            .env("GANTRY_FAILPOINTS", self.path("failpoints"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a server");
        self.child = Some(child);
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again if it has ended: a failpoint killed it.
    ///
    /// # Panics
    /// If the server cannot be started.
    pub fn restart_if_ended(&mut self) {
        if self.has_ended() {
            self.restart();
        }
    }

    /// Reports whether the server's process has ended.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("asked").is_some())
    }

    /// Returns the server's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns the port of the server's API.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.number.ports()[1]
    }

    /// Returns the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Returns a path in the server's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SpareServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the server {} said\n{}", self.name, self.log());
        }
    }
}
