//! A real etcd that runs until the [`Etcd`] value is dropped.

use std::process::{Child, Command, Stdio};

use crate::command::{Output, command, run};
use crate::number::Number;

/// An etcd cluster on this machine with its own data folders.
pub struct Etcd {
    members: Vec<EtcdMember>,
    /// Arguments of every member, beside those for its place in the cluster.
    extra: Vec<String>,
    folder: tempfile::TempDir,
}

struct EtcdMember {
    child: Option<Child>,
    number: Number,
}

impl EtcdMember {
    fn name(&self) -> String {
        format!("t{}", self.number.ports()[0])
    }

    /// URLs of the client's and of the members' side.
    fn urls(&self) -> [String; 2] {
        self.number.ports().map(|port| format!("http://127.0.0.1:{port}"))
    }
}

impl Etcd {
    /// Starts etcd with a single member. Does not wait for readiness, because the store's client waits.
    ///
    /// # Panics
    /// If etcd cannot be started.
    #[must_use]
    pub fn start() -> Self {
        Self::cluster(1)
    }

    /// Starts etcd with several members.
    ///
    /// # Panics
    /// If etcd cannot be started.
    #[must_use]
    pub fn cluster(members: usize) -> Self {
        Self::cluster_with(members, &[])
    }

    /// Starts etcd with several members, and more arguments for each of them.
    ///
    /// # Panics
    /// If etcd cannot be started.
    #[must_use]
    pub fn cluster_with(members: usize, extra: &[&str]) -> Self {
        let extra = extra.iter().copied().map(str::to_owned).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let members = (0..members).map(|_| EtcdMember { child: None, number: Number::claim() }).collect();
        let mut etcd = Self { members, extra, folder };
        (0..etcd.members.len()).for_each(|member| etcd.restart(member));
        etcd
    }

    /// Starts a member, or starts a killed one again with its data.
    ///
    /// # Panics
    /// If etcd cannot be started.
    pub fn restart(&mut self, member: usize) {
        let all: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name(), member.urls()[1])).collect();
        let (name, [client, peer]) = (self.members[member].name(), self.members[member].urls());
        let child = Command::new("etcd")
            .args(["--name", &name, "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--data-dir"])
            .arg(self.folder.path().join(&name))
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd; install Debian's etcd-server");
        self.members[member].child = Some(child);
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Reports whether a member answers, and knows a leader.
    #[must_use]
    pub fn is_healthy(&self, member: usize) -> bool {
        let [client, _] = self.members[member].urls();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "2", &format!("{client}/health")]);
        run(curl).out.contains("true")
    }

    /// Returns the address of a member, as errors and warnings name it.
    #[must_use]
    pub fn member(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].number.ports()[0])
    }

    /// Calls a member's JSON API, with a body. Returns the response.
    #[must_use]
    pub fn call(&self, member: usize, path: &str, body: &str) -> Output {
        let url = format!("http://{}/v3/{path}", self.member(member));
        run(command("curl", &["-sS", "--max-time", "20", "-d", body, &url]))
    }

    /// Returns the address in the form that `--store` expects.
    #[must_use]
    pub fn address(&self) -> String {
        let hosts: Vec<String> = (0..self.members.len()).map(|member| self.member(member)).collect();
        format!("etcd://{}/test", hosts.join(","))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
