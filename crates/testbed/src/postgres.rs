//! A real PostgreSQL for the container jobs of a cloud.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A PostgreSQL on a port of its own. It runs until the value is dropped.
pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Starts a new PostgreSQL.
    ///
    /// # Panics
    /// If PostgreSQL cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("gantry-postgres-").tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("opened");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let mut postgres = Self { folder, port, process: None };
        postgres.restart();
        postgres
    }

    /// Starts a killed PostgreSQL again with its data.
    ///
    /// # Panics
    /// If PostgreSQL cannot be started.
    pub fn restart(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/test-postgres");
        let mut process = Command::new(script)
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tools/test-postgres");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "PostgreSQL does not start");
        self.process = Some(process);
    }

    /// Kills PostgreSQL with SIGKILL.
    ///
    /// # Panics
    /// If PostgreSQL does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("PostgreSQL runs");
        process.stdin.take().expect("piped").write_all(b"kill\n").expect("asked");
        assert!(process.wait().expect("an end").success(), "PostgreSQL is not killed");
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }

    /// Makes a database, and returns its address in the form that `--job-store` expects.
    ///
    /// # Panics
    /// If PostgreSQL refuses.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.tool("createdb", &[name]);
        let password = self.folder.path().join("password");
        format!("postgres://gantry@127.0.0.1:{}/{name}?password={}", self.port, password.display())
    }

    /// Carries out SQL, and returns the output.
    ///
    /// # Panics
    /// If PostgreSQL refuses.
    #[must_use]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.tool("psql", &["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", database, "--command", sql])
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let password = std::fs::read_to_string(self.folder.path().join("password")).expect("a password");
        let output = Command::new(name)
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string(), "--username", "gantry"])
            .args(arguments)
            .env("PGPASSWORD", password.trim())
            .output()
            .expect(name);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
