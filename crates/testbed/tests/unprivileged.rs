//! The server without root: it serves the whole product, starts no container, and has no capability. Agent and router run
//! beside it as root.

mod site;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_testbed::TestCluster;
use site::{page, push_site, site};

/// A user id that no other test and no system uses.
const USER: u32 = 54_321;

/// Fields of `/proc/<pid>/status`.
fn field(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a field").trim().to_owned()
}

/// The user of a process that has no right of root's, at any time of its life: capabilities cannot be gained.
fn user_without_rights(pid: u32) -> u32 {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(pid, set), "0".repeat(16), "{set}");
    }
    let ids: Vec<u32> = field(pid, "Uid").split_whitespace().map(|id| id.parse().expect("a number")).collect();
    assert_eq!(ids, [ids[0]; 4]);
    ids[0]
}

/// Names in a folder, as a process sees the folder.
fn seen_by(pid: u32, folder: &Path) -> Vec<String> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let entries = std::fs::read_dir(root.join(folder.strip_prefix("/").expect("a path"))).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Files below a folder that do not belong to the user.
fn of_others(folder: &Path, user: u32) -> String {
    let mut find = Command::new("find");
    run_command(find.arg(folder).args(["!", "-uid", &user.to_string()]))
}

fn run_command(command: &mut Command) -> String {
    let output = command.output().expect("run");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn up_runs_the_server_as_a_user_who_sees_the_servers_folders_alone() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    for _ in 0..2 {
        let server = cluster.service_pid("server").expect("it runs");
        let user = user_without_rights(server);
        assert_ne!(user, 0);
        assert_eq!((field(server, "Groups").as_str(), field(server, "NoNewPrivs").as_str()), ("", "1"));
        for folder in ["data", "run"] {
            assert_eq!(seen_by(server, &cluster.path(folder)), ["server"], "{folder}");
            assert_eq!(of_others(&cluster.path(folder).join("server"), user), "");
            let about = std::fs::metadata(cluster.path(folder)).expect("there");
            assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o700), "{folder}");
        }
        assert_eq!(field(cluster.service_pid("agent").expect("it runs"), "Uid").split_whitespace().next(), Some("0"));
        // So is the next server.
        cluster.replace_services();
        cluster.wait("it is replaced", |cluster| cluster.service_pid("server").filter(|pid| *pid != server));
        cluster.wait("it serves", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    }
    push_site(&shop, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    // A token that was removed is made again, and the one before is no longer valid.
    let before = cluster.token();
    std::fs::remove_file(cluster.path("data/admin-token")).expect("removed");
    cluster.replace_services();
    cluster.wait("there is a new token", |cluster| (cluster.gantry(&["token", "ls"]).status == 0).then_some(()));
    assert!(cluster.token() != before && cluster.gantry_as(&before, &["token", "ls"]).status == 1);
}

/// A data folder of a version whose server was root: its files are in the data folder itself.
#[test]
fn the_files_of_a_server_of_root_are_taken_over_and_containers_run_on() {
    let mut cluster = TestCluster::start_with_file();
    cluster.make_failpoints();
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let containers = cluster.containers();
    assert_eq!(containers.len(), 1);
    cluster.kill_up();
    let (data, server) = (cluster.path("data"), cluster.path("data/server"));
    std::fs::remove_file(data.join("store.db")).expect("the file in place of the store");
    for token in ["admin-token", "machine-token"] {
        std::fs::remove_file(server.join(token)).expect("a copy");
    }
    for entry in std::fs::read_dir(&server).expect("a folder").flatten() {
        std::fs::rename(entry.path(), data.join(entry.file_name())).expect("moved");
    }
    std::fs::remove_dir(&server).expect("empty");
    run_command(
        Command::new("chown").arg("-R").arg("0:0").args(["blobs", "git", "builds"].map(|name| data.join(name))),
    );
    run_command(Command::new("sh").arg("-c").arg(format!("chown 0:0 {}/store.db*", data.display())));

    std::fs::write(cluster.path("failpoints/kill"), "server.moved\nserver.moved\nserver.given\n").expect("armed");
    for _ in 0..3 {
        cluster.up_until_killed();
    }
    cluster.up();
    let user = user_without_rights(cluster.service_pid("server").expect("it runs"));
    assert_eq!(of_others(&server, user), "");
    assert_eq!(cluster.containers(), containers, "a container was started again");
    assert!(page(&cluster, "shop").starts_with("one"));
    push_site(&shop, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let guard = std::fs::read_to_string(data.join("store.db")).expect("a file in place of the store");
    assert!(guard.contains("server/store.db"), "{guard}");
}

#[test]
fn an_unprivileged_server_builds_deploys_and_reports() {
    let cluster = TestCluster::start_apart(USER);
    let server = cluster.apart()[0];
    let repository = site(&cluster, "shop", 1);
    repository.compile_with("id -u > /app/made; echo kept >> /cache/made; cat /cache/made");
    push_site(&repository, "one");
    assert!(page(&cluster, "shop").starts_with("one"));
    push_site(&repository, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let ran = cluster.gantry(&["run", "shop", "--", "cat", "made"]).good().out;
    assert_eq!(ran.trim(), "1000", "the compile step ran as the app's user");

    assert_eq!(user_without_rights(server), USER);

    // The agent tells the server what the server cannot see.
    let status: serde_json::Value =
        serde_json::from_str(&cluster.gantry(&["status", "--json"]).good().out).expect("JSON");
    for kind in ["blobs", "store", "git", "layers", "containers", "caches"] {
        assert!(status["space"][kind].as_u64().is_some_and(|bytes| bytes > 0), "{kind}: {status}");
    }
    // Nothing of a container, a layer or a cache is in the server's folder.
    let own: Vec<String> = std::fs::read_dir(cluster.path("server-data"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    for name in ["containers", "layers", "images", "caches", "times", "volumes", "init"] {
        assert!(!own.iter().any(|entry| entry == name), "{own:?}");
    }
    let _ = cluster.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
}
