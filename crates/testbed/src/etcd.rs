//! A real etcd that runs until the [`Etcd`] value is dropped.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::command::{Output, command, run};
use crate::number::Number;

/// An etcd cluster on this machine with its own data folders.
pub struct Etcd {
    members: Vec<EtcdMember>,
    /// Arguments of every member, beside those for its place in the cluster.
    extra: Vec<String>,
    /// Clients need a certificate, and speak TLS.
    has_tls: bool,
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

    /// Addresses of the client's and of the members' side.
    fn addresses(&self) -> [String; 2] {
        self.number.ports().map(|port| format!("127.0.0.1:{port}"))
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
        Self::run(members, extra, false, folder)
    }

    /// Starts etcd with a single member that serves only clients with a certificate.
    ///
    /// # Panics
    /// If etcd cannot be started.
    #[must_use]
    pub fn with_client_certificates() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write_certificates(folder.path());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let extra = ["--cert-file", &file("etcd.pem"), "--key-file", &file("etcd-key.pem"), "--client-cert-auth"]
            .into_iter()
            .chain(["--trusted-ca-file", &file("ca.pem")])
            .map(str::to_owned)
            .collect();
        Self::run(1, extra, true, folder)
    }

    fn run(members: usize, extra: Vec<String>, has_tls: bool, folder: tempfile::TempDir) -> Self {
        let members = (0..members).map(|_| EtcdMember { child: None, number: Number::claim() }).collect();
        let mut etcd = Self { members, extra, has_tls, folder };
        (0..etcd.members.len()).for_each(|member| etcd.restart(member));
        etcd
    }

    /// Starts a member, or starts a killed one again with its data.
    ///
    /// # Panics
    /// If etcd cannot be started.
    pub fn restart(&mut self, member: usize) {
        let all: Vec<String> =
            self.members.iter().map(|member| format!("{}=http://{}", member.name(), member.addresses()[1])).collect();
        let (name, [client, peer]) = (self.members[member].name(), self.members[member].addresses());
        let (client, peer) = (format!("{}://{client}", self.scheme()), format!("http://{peer}"));
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
        let url = format!("{}://{}/health", self.scheme(), self.member(member));
        let mut curl = command("curl", &["-sS", "--max-time", "2", &url]);
        curl.args(self.certificate_options());
        run(curl).out.contains("true")
    }

    /// Returns the address of a member, as errors and warnings name it.
    #[must_use]
    pub fn member(&self, member: usize) -> String {
        let [client, _] = self.members[member].addresses();
        client
    }

    /// Calls a member's JSON API, with a body. Returns the response.
    #[must_use]
    pub fn call(&self, member: usize, path: &str, body: &str) -> Output {
        let url = format!("{}://{}/v3/{path}", self.scheme(), self.member(member));
        let mut curl = command("curl", &["-sS", "--max-time", "20", "-d", body, &url]);
        curl.args(self.certificate_options());
        run(curl)
    }

    /// Returns the address in the form that `--store` expects.
    #[must_use]
    pub fn address(&self) -> String {
        let hosts: Vec<String> = (0..self.members.len()).map(|member| self.member(member)).collect();
        let files: Vec<String> = self.client_files().map(|(name, file)| format!("{name}={file}")).collect();
        let query = if files.is_empty() { String::new() } else { format!("?{}", files.join("&")) };
        format!("etcd://{}/test{query}", hosts.join(","))
    }

    /// Scheme of the client's side.
    fn scheme(&self) -> &'static str {
        if self.has_tls { "https" } else { "http" }
    }

    /// Files of a client, with their names in an address; none without TLS.
    fn client_files(&self) -> impl Iterator<Item = (&'static str, String)> {
        let files = [("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client-key.pem")];
        let files = files.into_iter().filter(|_| self.has_tls);
        files.map(|(name, file)| (name, self.folder.path().join(file).display().to_string()))
    }

    /// Options of curl for a client's certificate.
    fn certificate_options(&self) -> Vec<String> {
        let option = |name| if name == "ca" { "--cacert".to_owned() } else { format!("--{name}") };
        self.client_files().flat_map(|(name, file)| [option(name), file]).collect()
    }
}

/// Writes the certificate of an authority, and certificates with keys of etcd and of a client.
fn write_certificates(folder: &Path) {
    // The server's user reads the files of the client.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("opened");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Clients take a certificate for self-signed if its subject and its issuer have one name.
    authority.distinguished_name.push(DnType::CommonName, "authority of a test's etcd");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    write("ca.pem", authority.pem());
    for (name, host) in [("etcd", "127.0.0.1"), ("client", "client.test")] {
        let key = KeyPair::generate().expect("a key");
        let subject = CertificateParams::new([host.to_owned()]).expect("a host");
        write(&format!("{name}.pem"), subject.signed_by(&key, &authority).expect("a certificate").pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
