//! A real etcd that runs until the [`Etcd`] value is dropped.

use std::process::{Child, Command, Stdio};

use crate::number::Number;

/// A single-member etcd on this machine with its own data folder.
pub struct Etcd {
    child: Child,
    _folder: tempfile::TempDir,
    address: String,
    _number: Number,
}

impl Etcd {
    /// Starts etcd. Does not wait for readiness, because the store's client waits.
    ///
    /// # Panics
    /// If etcd cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let number = Number::claim();
        let [client, peer] = number.ports().map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .args(["--name", "t", "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("t={peer}"), "--data-dir"])
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd; install Debian's etcd-server");
        let address = format!("etcd://{}/test", client.trim_start_matches("http://"));
        Self { child, _folder: folder, address, _number: number }
    }

    /// Returns the address in the form that `--store` expects.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
