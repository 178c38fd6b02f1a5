//! A real etcd, for as long as it is held.

use std::process::{Child, Command, Stdio};

use crate::world::free_port;

/// One member on this machine, with a folder of its own.
pub struct Etcd {
    child: Child,
    _folder: tempfile::TempDir,
    address: String,
}

impl Etcd {
    /// Starts one; the store's client waits until it answers.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = || format!("http://127.0.0.1:{}", free_port());
        let (client, peer) = (url(), url());
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
        Self { child, _folder: folder, address }
    }

    /// As `--store` takes it.
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
