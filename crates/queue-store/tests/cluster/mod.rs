//! A PostgreSQL of its own for each test program.

// Each test program uses some of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gantry_model::ClusterId;
use gantry_queue_store::{PostgresAddress, PostgresQueue};

/// The cloud of the servers under test.
pub(crate) const CLOUD: u128 = 1;

/// The queue at an address, as a server of the cloud opens it.
pub(crate) fn server(address: PostgresAddress) -> PostgresQueue {
    server_of(CLOUD, address)
}

/// The queue at an address, as a server of a cloud opens it.
pub(crate) fn server_of(cloud: u128, address: PostgresAddress) -> PostgresQueue {
    PostgresQueue::new(address, ClusterId::from_random(cloud))
}

/// A running PostgreSQL. It ends with this value, and with the test program.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Cluster {
    /// Starts a new one, with settings such as `ssl=on`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("permissions");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut cluster = Self { folder, port, settings, process: None };
        cluster.run();
        cluster
    }

    /// Starts the program again, after [`Self::kill`].
    pub(crate) fn run(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/test-postgres");
        let mut process = Command::new(script)
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .args(&self.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tools/test-postgres");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "PostgreSQL does not start");
        self.process = Some(process);
    }

    /// Kills the whole PostgreSQL with SIGKILL, as a power failure would.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("PostgreSQL runs");
        process.stdin.take().expect("piped").write_all(b"kill\n").expect("asked");
        assert!(process.wait().expect("an end").success(), "PostgreSQL is not killed");
    }

    /// Changes the settings of the next start.
    pub(crate) fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn password(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Makes a database; returns its address.
    pub(crate) fn database(&self, name: &str) -> PostgresAddress {
        self.tool("createdb", &[name]);
        let password = self.password();
        format!("postgres://gantry@127.0.0.1:{}/{name}?password={}", self.port, password.display())
            .parse()
            .expect("an address")
    }

    /// Carries out SQL, as a person would; returns the output.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.tool("psql", &["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", database, "--command", sql])
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let password = std::fs::read_to_string(self.password()).expect("a password");
        let port = self.port.to_string();
        let output = Command::new(name)
            .args(["--host", "127.0.0.1", "--port", &port, "--username", "gantry"])
            .args(arguments)
            .env("PGPASSWORD", password.trim())
            .output()
            .expect(name);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}
