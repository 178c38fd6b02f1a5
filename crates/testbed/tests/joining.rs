//! Joining a cluster: the first machine is prepared, others join with tokens, and a removed one is refused.
//!
//! The machines share this computer's network. Each has its own folders, ports, bridge, control group and identity.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_testbed::{Output, program, run};
use serde_json::Value;

/// A machine of the cluster.
struct Machine {
    name: &'static str,
    number: u16,
    folder: PathBuf,
    up: Option<Child>,
}

/// The machines of a test, and their folder.
struct Cluster {
    _folder: tempfile::TempDir,
    machines: Vec<Machine>,
}

/// Two clusters assign the same networks to the machines that join, so only one may be on this computer.
static ONE_CLUSTER: Mutex<()> = Mutex::new(());

/// First port of the cluster. Each test of this file has its own ports.
const PORTS: u16 = 18_200;

impl Machine {
    fn port(&self, place: u16) -> u16 {
        PORTS + self.number * 10 + place
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port(0))
    }

    fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let port = |place| format!("127.0.0.1:{}", self.port(place));
        let bridge = format!("gtj{}", self.number);
        let pairs = [
            ("data", path("data")),
            ("run", path("run")),
            ("machine", self.name.to_owned()),
            ("advertise", "127.0.0.1".to_owned()),
            ("cluster-listen", port(0)),
            ("listen", port(1)),
            ("http", port(2)),
            ("tunnel", port(3)),
            ("network", format!("10.79.{}.1/24", self.number)),
            ("bridge", bridge.clone()),
            ("cgroup", bridge),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]).collect()
    }

    /// Runs `gantry` with the machine's flags.
    fn gantry(&self, words: &[&str]) -> Output {
        let mut command = Command::new(program("gantry"));
        run({
            command.args(words).args(self.flags()).env("HOME", &self.folder).stdin(Stdio::null());
            command
        })
    }

    /// Runs `gantry`, which a power failure ends at the failpoint.
    fn killed(&self, words: &[&str], failpoint: &str) {
        let points = self.folder.join("failpoints");
        std::fs::create_dir_all(&points).expect("made");
        std::fs::write(points.join("kill"), format!("{failpoint}\n")).expect("written");
        let mut command = Command::new(program("gantry"));
        command.args(words).args(self.flags()).env("HOME", &self.folder).stdin(Stdio::null());
        command.env("GANTRY_FAILPOINTS", &points);
        let output = run(command);
        let killed = std::fs::read_to_string(points.join("killed")).unwrap_or_default();
        assert_eq!(killed.lines().last(), Some(failpoint), "{}", output.all());
    }

    /// Runs a client's command against the machine's own server.
    fn run_client(&self, words: &[&str]) -> Output {
        let token = std::fs::read_to_string(self.folder.join("data/admin-token")).unwrap_or_default();
        let mut command = Command::new(program("gantry"));
        command.args(words).env("GANTRY_URL", format!("http://127.0.0.1:{}", self.port(1)));
        command.env("GANTRY_TOKEN", token.trim()).env("HOME", &self.folder).stdin(Stdio::null());
        run(command)
    }

    fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = Command::new(program("gantry"));
        command.arg("up").args(self.flags()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.up = Some(command.spawn().expect("gantry up"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Ends `gantry up`.
    fn down(&mut self) {
        if let Some(mut up) = self.up.take() {
            let output = self.gantry(&["down"]);
            if output.status != 0 {
                eprintln!("{}: {}", self.name, output.all());
                let _ = up.kill();
            }
            let _ = up.wait();
        }
    }
}

impl Cluster {
    fn new(names: &[&'static str], first: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("gantry-joining-").tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("opened");
        let machine = |(number, name): (u16, &&'static str)| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).expect("made");
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("opened");
            Machine { name, number, folder, up: None }
        };
        let machines = (first..).zip(names).map(machine).collect();
        Self { _folder: folder, machines }
    }

    /// Waits until `probe` returns a value.
    fn wait<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "waited too long until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// State of a machine as the first machine's server knows it.
    fn state(&self, name: &str) -> Option<String> {
        let listed = self.machines[0].run_client(&["machine", "ls", "--json"]);
        let machines: Vec<Value> = serde_json::from_str(&listed.out).ok()?;
        let machine = machines.iter().find(|machine| machine["name"] == name)?;
        Some(machine["state"].as_str()?.to_owned())
    }

    fn wait_until_ready(&self, name: &str) {
        self.wait("the machine is ready", |cluster| (cluster.state(name)? == "ready").then_some(()));
    }

    /// A new join token of the first machine's server.
    fn token(&self, role: &str) -> Value {
        let created =
            self.machines[0].run_client(&["cluster", "join-token", "create", "--role", role, "--json"]).good();
        serde_json::from_str(&created.out).expect("JSON")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for machine in self.machines.iter_mut().rev() {
            machine.down();
            if std::thread::panicking() {
                eprintln!("--- {} said\n{}", machine.name, machine.log());
            }
        }
    }
}

/// The last word of a join command.
fn token_of(join: &str) -> String {
    join.split_whitespace().last().expect("a token").to_owned()
}

#[test]
fn a_machine_joins_with_a_token_and_is_refused_once_it_is_removed() {
    let _alone = ONE_CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = Cluster::new(&["one", "two", "three"], 0);
    let init = cluster.machines[0].gantry(&["server", "init"]).good();
    let first = token_of(&init.out);
    let again = cluster.machines[0].gantry(&["server", "init"]).good();
    let token = token_of(&again.out);
    assert_ne!(first, token, "each call makes a token");
    assert_eq!(first[..80], token[..80], "the authority stays");
    cluster.machines[0].up();
    cluster.wait_until_ready("one");
    assert!(!cluster.machines[0].folder.join("data/cluster/founding.json").exists());
    assert!(!cluster.machines[0].folder.join("data/server/founding.json").exists());
    let known = cluster.machines[0].gantry(&["server", "init"]);
    assert!(known.err.contains("another `gantry up` runs"), "{}", known.all());

    // Wrong tokens, each with its reason.
    let server = cluster.machines[0].address();
    let join = |cluster: &Cluster, machine: usize, token: &str| {
        cluster.machines[machine].gantry(&["join", &server, "--token", token, "--label", "disk=ssd"])
    };
    let refused = |output: Output, code: &str| {
        assert!(output.status != 0 && output.err.contains(code), "expected {code}: {}", output.all());
        assert!(!output.all().contains(&token[token.len() - 32..]), "the secret is printed");
    };
    refused(join(&cluster, 1, "gantry-join-x"), "E_INVALID_JOIN_TOKEN");
    refused(join(&cluster, 1, &first), "E_JOIN_TOKEN_UNKNOWN");
    refused(join(&cluster, 1, &token.replace("-agent-", "-server-")), "E_JOIN_TOKEN_ROLE");
    let other_authority = token.replace(&token[18..82], &"ab".repeat(32));
    refused(join(&cluster, 1, &other_authority), "E_AUTHORITY_MISMATCH");
    let short =
        cluster.machines[0].run_client(&["cluster", "join-token", "create", "--role", "agent", "--ttl", "1s"]).good();
    let ended = |cluster: &Cluster| join(cluster, 2, &token_of(&short.out)).err.contains("E_JOIN_TOKEN_EXPIRED");
    // A machine that comes in time joins with the token, and may repeat its request until the token has expired.
    cluster.wait("the token has expired", |cluster| ended(cluster).then_some(()));

    // A good token serves one machine, which may repeat its request.
    let joined = join(&cluster, 1, &token).good();
    assert!(joined.out.contains("machine two has joined as agent"), "{}", joined.all());
    let _ = join(&cluster, 1, &token).good();
    refused(join(&cluster, 2, &token), "E_JOIN_TOKEN_USED");
    let identity = std::fs::read_to_string(cluster.machines[1].folder.join("data/cluster/identity.json"));
    let identity: Value = serde_json::from_str(&identity.expect("an identity")).expect("JSON");
    assert_eq!(identity["servers"], serde_json::json!([server]));

    // The machine runs agent and router against the server, by its certificate alone.
    cluster.machines[1].up();
    cluster.wait_until_ready("two");
    assert!(!cluster.machines[1].folder.join("data/server").exists(), "no server runs there");
    let shown = cluster.machines[0].run_client(&["machine", "show", "two", "--json"]).good();
    assert!(shown.out.contains("ssd"), "{}", shown.out);
    cluster.wait("its router reports", |cluster| {
        let status: Value = serde_json::from_str(&cluster.machines[0].run_client(&["status", "--json"]).out).ok()?;
        (status["routers"].as_object()?.len() == 2).then_some(())
    });

    // Another machine cannot take its name.
    let new = cluster.token("agent");
    let text = new["token"].as_str().expect("a token");
    let impostor = Machine { name: "two", number: 2, folder: cluster.machines[2].folder.clone(), up: None };
    refused(impostor.gantry(&["join", &server, "--token", text]), "E_MACHINE_NAME_TAKEN");

    // HTTPS for people.
    let hash = new["ca_hash"].as_str().expect("a hash");
    let url = format!("https://{server}");
    let unknown = cluster.machines[0].run_client(&["status", "--url", &url]);
    assert!(unknown.err.contains("gantry login"), "{}", unknown.all());
    let wrong = cluster.machines[0].run_client(&["login", &url, "--ca-hash", &"ab".repeat(32)]);
    assert!(wrong.err.contains("E_AUTHORITY_MISMATCH"), "{}", wrong.all());
    let _ = cluster.machines[0].run_client(&["login", &url, "--ca-hash", hash]).good();
    let status = cluster.machines[0].run_client(&["status", "--url", &url, "--json"]).good();
    assert!(status.out.contains("\"two\""), "{}", status.out);

    // The certificate is good for the machine itself alone; one that proves no name may only renew.
    let two = cluster.machines[1].folder.join("data/cluster");
    let own_certificate = two.join("cert.pem");
    let self_signed = cluster.machines[1].folder.join("self.pem");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-new", "-days", "1", "-subj", "/CN=x", "-key"]).arg(two.join("key.pem"));
    let _ = run({
        openssl.arg("-out").arg(&self_signed);
        openssl
    })
    .good();
    let port = cluster.machines[0].port(0);
    let curl = |certificate: &std::path::Path, path: &str, body: Option<&str>| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--resolve", &format!("server.gantry.internal:{port}:127.0.0.1")]);
        command.arg("--cacert").arg(two.join("ca.pem")).arg("--key").arg(two.join("key.pem"));
        command.arg("--cert").arg(certificate).args(body.into_iter().flat_map(|body| ["-d", body]));
        command.arg(format!("https://server.gantry.internal:{port}{path}"));
        run(command).out
    };
    let own_path = "/internal/v1/machines/two/servers";
    assert!(curl(&own_certificate, own_path, None).contains(&server));
    let other = curl(&own_certificate, "/internal/v1/machines/one/servers", None);
    assert!(other.contains("scope_insufficient"), "{other}");
    let unproved = curl(&self_signed, own_path, None);
    assert!(unproved.contains("token_required"), "{unproved}");
    let renewed = curl(&self_signed, "/internal/v1/renew", Some(r#"{"machine":"two"}"#));
    assert!(renewed.contains("BEGIN CERTIFICATE"), "{renewed}");
    let stolen = curl(&self_signed, "/internal/v1/renew", Some(r#"{"machine":"one"}"#));
    assert!(stolen.contains("not_member"), "{stolen}");

    // A removed machine is refused at once, and joins again with its id.
    let id = || std::fs::read_to_string(cluster.machines[1].folder.join("data/machine-id")).expect("an id");
    let before = id();
    let _ = cluster.machines[0].run_client(&["machine", "rm", "two", "--force"]).good();
    let refused_now = curl(&own_certificate, own_path, None);
    assert!(refused_now.contains("not_member"), "{refused_now}");
    let renewed = curl(&own_certificate, "/internal/v1/renew", Some(r#"{"machine":"two"}"#));
    assert!(renewed.contains("not_member"), "{renewed}");
    cluster.machines[1].down();
    let again = cluster.token("agent");
    let joined = join(&cluster, 1, again["token"].as_str().expect("a token"));
    let _ = joined.good();
    cluster.machines[1].up();
    cluster.wait_until_ready("two");
    assert_eq!(std::fs::read_to_string(cluster.machines[1].folder.join("data/machine-id")).expect("an id"), before);
}

#[test]
fn a_killed_command_is_completed_by_its_repetition() {
    let _alone = ONE_CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    for failpoint in ["init.key", "init.certificate", "init.founding"] {
        let cluster = Cluster::new(&["one"], 5);
        cluster.machines[0].killed(&["server", "init"], failpoint);
        let repeated = cluster.machines[0].gantry(&["server", "init"]).good();
        assert!(token_of(&repeated.out).starts_with("gantry-join-agent-"), "{failpoint}: {}", repeated.all());
    }
    let mut cluster = Cluster::new(&["one", "two", "three", "four"], 5);
    let _ = cluster.machines[0].gantry(&["server", "init"]).good();
    cluster.machines[0].killed(&["up"], "init.given");
    cluster.machines[0].up();
    cluster.wait_until_ready("one");
    let server = cluster.machines[0].address();
    for (machine, failpoint) in [(1, "join.key"), (2, "join.joined"), (3, "join.certificate")] {
        let token = cluster.token("agent")["token"].as_str().expect("a token").to_owned();
        let join = ["join", &server, "--token", &token];
        cluster.machines[machine].killed(&join, failpoint);
        let _ = cluster.machines[machine].gantry(&join).good();
        cluster.machines[machine].up();
        cluster.wait_until_ready(cluster.machines[machine].name);
    }
}
