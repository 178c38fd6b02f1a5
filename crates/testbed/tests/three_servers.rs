//! Three servers on machines of their own: they speak mutual TLS alone, any of them serves machines and people, and the
//! machine of the leader may be lost.

mod site;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_testbed::load::LoadKind;
use gantry_testbed::{Fleet, Output, Repository, program, run};
use serde_json::Value;
use site::push_site;

/// Longest time from the loss of the leader's machine to the next accepted change.
const TAKEOVER_MAX: Duration = Duration::from_secs(6);

/// Additional time if the machine had the leading member of etcd, too: the other members elect one after 1 to 2 s, and it
/// gives every lease its full time again.
const ELECTION_MAX: Duration = Duration::from_secs(4);

/// Reports whether the member of etcd on a machine leads.
fn leads_etcd(fleet: &Fleet, machine: &str) -> bool {
    let url = format!("http://{}:2379/v3/maintenance/status", fleet.address(machine));
    let status = fleet.run_on(machine, "curl", &["-sS", "--max-time", "10", "--data", "{}", &url]).good().out;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert!(status["leader"].is_string(), "{status}");
    status["leader"] == status["header"]["member_id"]
}

fn servers(fleet: &Fleet) -> Option<Vec<Value>> {
    let status: Value = serde_json::from_str(&fleet.gantry(&["status", "--json"]).out).ok()?;
    status["servers"].as_array().cloned()
}

fn leader(fleet: &Fleet) -> Option<String> {
    let leads = servers(fleet)?.into_iter().find(|server| server["leads"] == true)?;
    leads["name"].as_str().map(str::to_owned)
}

fn names(servers: &[Value]) -> Vec<&str> {
    servers.iter().filter_map(|server| server["name"].as_str()).collect()
}

/// Runs `gantry` as a person does who has logged in.
fn person(fleet: &Fleet, words: &[&str]) -> Output {
    let mut command = Command::new(program("gantry"));
    command.args(words).env("HOME", fleet.path("m5", "home")).env("GANTRY_TOKEN", fleet.token());
    command.stdin(Stdio::null());
    run(command)
}

/// A person trusts the cluster at the address of a machine. git verifies the same authority.
fn log_in(fleet: &Fleet, repository: &Repository, machine: &str) -> String {
    let server = format!("{}:7000", fleet.address(machine));
    let created = fleet.gantry(&["cluster", "join-token", "create", "--role", "agent", "--json"]).good();
    let created: Value = serde_json::from_str(&created.out).expect("JSON");
    let (url, hash) = (format!("https://{server}"), created["ca_hash"].as_str().expect("a hash"));
    let said = person(fleet, &["login", &url, "--ca-hash", hash]).good();
    // The printed command names git's setting and the file.
    let setting = said.err.lines().find_map(|line| line.strip_prefix("git config --global ")).expect("a setting");
    repository.git(&["config", setting.split(' ').next().expect("a name"), setting.split(' ').nth(1).expect("a file")]);
    url
}

/// The hex digits of the image of the shop's first release.
fn image_of(fleet: &Fleet) -> String {
    let shown = fleet.gantry(&["releases", "shop", "--json"]).good().out;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown[0]["image"].as_str().expect("an image").trim_start_matches("sha256:").to_owned()
}

/// Each blob is on two of three servers. The check of each is sound, and names the servers once none has the blob.
fn check_asks_the_other_servers(fleet: &Fleet) {
    let data = |machine: &str| fleet.path(machine, "data").display().to_string();
    let check = |machine: &str| {
        let (url, token) =
            (format!("GANTRY_URL=http://{}:4680", fleet.address(machine)), format!("GANTRY_TOKEN={}", fleet.token()));
        let gantry = program("gantry").display().to_string();
        fleet.run_on(machine, "env", &[&url, &token, &gantry, "check", "--data", &data(machine)])
    };
    let listed = |machine: &str| blobs_of(&fleet.path(machine, "data/server/blobs/sha256"));
    let all: Vec<_> = ["m1", "m2", "m3"].map(listed).into();
    let is_partial = |blobs: &BTreeSet<String>| all.iter().any(|other| !other.is_subset(blobs));
    assert!(all.iter().any(is_partial), "no server lacks a blob: {all:?}");
    for machine in ["m1", "m2", "m3"] {
        let checked = check(machine).good();
        assert!(checked.out.contains("sound: "), "{machine}: {}", checked.all());
        // The machine's identity names the store.
        let gantry = program("gantry").display().to_string();
        let stored = fleet.run_on(machine, &gantry, &["store", "check", "--data", &data(machine)]).good();
        assert!(stored.out.starts_with("sound: "), "{machine}: {}", stored.all());
    }
    let image = image_of(fleet);
    let away = |machine: &str| fleet.path(machine, &format!("data/server/blobs/sha256/{}/{image}", &image[..2]));
    let kept: Vec<_> =
        ["m1", "m2", "m3"].into_iter().filter_map(|name| Some((away(name), std::fs::read(away(name)).ok()?))).collect();
    kept.iter().for_each(|(path, _)| std::fs::rename(path, path.with_extension("away")).expect("moved"));
    let damaged = check("m2");
    let expected = format!("{image} is missing on every server: m1, m2, m3 (shop v1");
    assert!(damaged.status == 1 && damaged.err.contains(&expected), "{expected}: {}", damaged.all());
    kept.iter().for_each(|(path, _)| std::fs::rename(path.with_extension("away"), path).expect("moved"));
    let _ = check("m2").good();
}

/// Each server's data folder has a token that the cluster knows, and a backup needs no more than the folder: the identity
/// names the store, and the certificate brings the blobs of other servers.
fn each_server_has_a_token_and_makes_a_backup(fleet: &Fleet) {
    let image = image_of(fleet);
    for machine in ["m1", "m2", "m3"] {
        let (data, url) = (fleet.path(machine, "data"), format!("http://{}:4680", fleet.address(machine)));
        let gantry = program("gantry").display().to_string();
        let token = data.join("admin-token").display().to_string();
        let listed = fleet.run_on(machine, &gantry, &["app", "ls", "--url", &url, "--token-file", &token]).good();
        assert!(listed.out.contains("shop"), "{machine}: {}", listed.all());
        let (file, data) = (fleet.path(machine, "backup.tar").display().to_string(), data.display().to_string());
        let saved = fleet.run_on(machine, &gantry, &["backup", &file, "--data", &data]).good();
        assert!(!saved.err.contains("warning"), "{machine}: {}", saved.all());
        let names = fleet.run_on(machine, "tar", &["-tf", &file]).good().out;
        assert!(names.contains("records.jsonl") && names.contains(&image), "{machine}: {names}");
    }
}

fn blobs_of(folder: &Path) -> BTreeSet<String> {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// Connections between the servers' machines to the port of the API without TLS.
fn plain_connections(fleet: &Fleet) -> Vec<String> {
    let of_machine = |machine: &str| {
        let listed = fleet.run_on(machine, "ss", &["-Htn", "state", "established", "dport", "=", ":4680"]).good().out;
        listed.lines().map(|line| format!("{machine}: {line}")).collect::<Vec<_>>()
    };
    ["m1", "m2", "m3"].into_iter().flat_map(of_machine).collect()
}

#[test]
fn the_leader_s_machine_may_be_lost_and_every_server_serves_over_tls() {
    let mut fleet = Fleet::start_with_servers(3, 5);
    let known = servers(&fleet).expect("a status");
    assert_eq!(names(&known), ["m1", "m2", "m3"]);
    for server in &known {
        let address = format!("{}:7000", fleet.address(server["name"].as_str().expect("a name")));
        assert_eq!(server["address"], address.as_str(), "{known:?}");
    }
    assert_eq!(leader(&fleet).as_deref(), Some("m1"));

    // People and git speak HTTPS with a follower, which forwards to the leader.
    let _ = fleet.gantry(&["app", "create", "shop"]).good();
    let shop = fleet.repository("shop");
    let roles = "{ web: { command: 'python3 server.py', instances: 4, health: { path: '/up' } } }";
    shop.write("container/roles.json", roles);
    let url = log_in(&fleet, &shop, "m2");
    let status = person(&fleet, &["status", "--url", &url]).good();
    assert!(status.out.contains("m5"), "{}", status.out);
    let remote = format!("https://x:{}@{}/git/shop.git", fleet.token(), url.trim_start_matches("https://"));
    shop.git(&["config", "remote.gantry.url", &remote]);
    push_site(&shop, "one");
    let said = person(&fleet, &["run", "shop", "--url", &url, "--", "echo", "through a follower"]).good();
    assert!(said.out.contains("through a follower"), "{said:?}");
    assert_eq!(plain_connections(&fleet), Vec::<String>::new());

    // Each machine learns all servers.
    let all: Vec<String> = ["m1", "m2", "m3"].iter().map(|name| format!("{}:7000", fleet.address(name))).collect();
    for machine in ["m4", "m5"] {
        fleet.wait("the machine knows all servers", |fleet| {
            let text = std::fs::read_to_string(fleet.path(machine, "data/cluster/identity.json")).ok()?;
            let identity: Value = serde_json::from_str(&text).ok()?;
            (identity["servers"] == Value::from(all.clone())).then_some(())
        });
    }

    check_asks_the_other_servers(&fleet);
    each_server_has_a_token_and_makes_a_backup(&fleet);

    // A machine that the leader cannot reach goes on through a follower, by its own certificate.
    fleet.drop_packets_from("m5", &["m1"]);
    fleet.drop_packets_from("m1", &["m5"]);
    fleet.wait("m5 reports through a follower", |fleet| {
        let connected = fleet.run_on("m5", "ss", &["-Htn", "state", "established", "dport", "=", ":7000"]).good().out;
        let through = |name: &str| connected.contains(&format!("{}:7000", fleet.address(name)));
        (!through("m1") && (through("m2") || through("m3"))).then_some(())
    });
    fleet.wait_until_ready(&fleet.names());
    fleet.drop_packets_from("m5", &[]);
    fleet.drop_packets_from("m1", &[]);

    // The leader's machine loses its power. Another server leads, and the machine's copies run elsewhere.
    let load = fleet.load("m4", "shop", &[LoadKind::Keep, LoadKind::Fresh]);
    fleet.enter_at("m2");
    let election = if leads_etcd(&fleet, "m1") { ELECTION_MAX } else { Duration::ZERO };
    let begun = Instant::now();
    fleet.power_off("m1");
    fleet.wait("a change is accepted", |fleet| {
        let created = fleet.gantry(&["token", "create", "after", "--read"]);
        (created.status == 0 || created.err.contains("E_TOKEN_EXISTS")).then_some(())
    });
    let took = begun.elapsed();
    assert!(took < TAKEOVER_MAX + election, "{took:?}, of them {election:?} for etcd's own election");
    assert_ne!(leader(&fleet).as_deref(), Some("m1"));
    let rest = ["m2", "m3", "m4", "m5"].map(str::to_owned);
    fleet.wait_until_ready(&rest);
    fleet.wait("all copies run on other machines", |fleet| {
        let listed: Vec<Value> = serde_json::from_str(&fleet.gantry(&["ps", "shop", "--json"]).out).ok()?;
        let runs = |copy: &&Value| copy["phase"] == "ready" && copy["goal"] == "run" && copy["machine"] != "m1";
        (listed.iter().filter(runs).count() == 4).then_some(())
    });
    println!(
        "leader's machine off (etcd's election: {election:?}) → next accepted change: {took:?}; all copies: {:?}",
        begun.elapsed()
    );
    let report = load.end();
    println!("{} requests, {} failed: {:?}", report.sent, report.failed, report.reasons);
    // A request that was under way on the machine may fail: two connections, each with one request.
    assert!(report.failed <= 4, "{report:?}");
    push_site(&shop, "two");

    fleet.power_on("m1");
    fleet.wait_until_ready(&fleet.names());
    let page = fleet.curl("m1", "shop").good().out;
    assert!(page.starts_with("two"), "{page}");

    // A server whose machine is removed is forgotten.
    fleet.power_off("m1");
    fleet.wait("the server is away", |fleet| {
        fleet.gantry(&["status"]).out.contains("the server m1 is away").then_some(())
    });
    let _ = fleet.gantry(&["machine", "rm", "m1", "--force"]).good();
    fleet.wait("the server is forgotten", |fleet| (names(&servers(fleet)?) == ["m2", "m3"]).then_some(()));
    let status = fleet.gantry(&["status"]).good().out;
    assert!(!status.contains("the server m1"), "{status}");
}
