//! Garbage collection, and check, backup and restore of a store.

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_testbed::{Output, Repository, TestCluster, run};
use site::{page, push_site, site};

fn names(path: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn blobs(cluster: &TestCluster) -> BTreeMap<String, PathBuf> {
    let all = cluster.path("data/server/blobs/sha256");
    let parts = names(all.clone()).into_iter().map(|part| all.join(part));
    parts.flat_map(|part| names(part.clone()).into_iter().map(move |name| (name.clone(), part.join(name)))).collect()
}

/// Blobs that are no manifest and that no manifest names, such as the uploads of a push after its build.
fn loose(cluster: &TestCluster) -> BTreeSet<String> {
    let blobs = blobs(cluster);
    // Manifests are small. A manifest that is removed meanwhile names no blob.
    let read = |path: &PathBuf| match std::fs::metadata(path) {
        Ok(is) if is.len() < 100_000 => std::fs::read_to_string(path).ok().filter(|text| text.contains("\"layers\"")),
        _ => None,
    };
    let manifests: BTreeMap<&String, String> =
        blobs.iter().filter_map(|(name, path)| Some((name, read(path)?))).collect();
    let named = |name: &String| manifests.values().any(|text| text.contains(name.as_str()));
    blobs.keys().filter(|name| !manifests.contains_key(name) && !named(name)).cloned().collect()
}

#[test]
fn garbage_is_removed_and_a_rollback_finds_its_image() {
    let cluster = TestCluster::start(&["--collect-every", "1", "--collect-grace", "2"]);
    let kept = site(&cluster, "kept", 1);
    push_site(&kept, "one");
    push_site(&kept, "two");
    // Failed deploys do not stop garbage collection.
    for text in ["raise SystemExit(3)", "raise SystemExit(4)"] {
        kept.write("server.py", text);
        kept.commit("broken");
        assert_ne!(kept.push().status, 0);
    }
    let settled = |cluster: &TestCluster, what: &str, expected: &dyn Fn(&TestCluster) -> bool| {
        cluster.wait(what, |cluster| expected(cluster).then_some(()));
    };
    settled(&cluster, "the archives of what was built are gone", &|cluster| loose(cluster).is_empty());
    // Layers of the failed deploys may be removed meanwhile.
    let layers = names(cluster.path("data/layers"));
    let new =
        |cluster: &TestCluster| names(cluster.path("data/layers")).into_iter().any(|name| !layers.contains(&name));
    let before = blobs(&cluster);
    assert!(before.len() > 5, "{before:?}");
    let gone = site(&cluster, "gone", 1);
    gone.compile_with("head -c 1000000 /dev/urandom > /app/made");
    push_site(&gone, "never again");
    assert!(new(&cluster));
    assert!(blobs(&cluster).len() >= before.len() + 3, "a manifest, a configuration and a layer at least");
    let _ = cluster.gantry(&["app", "destroy", "gone", "--confirm", "gone"]).good();
    settled(&cluster, "its blobs are gone", &|cluster| blobs(cluster).keys().eq(before.keys()));
    settled(&cluster, "its layers are gone", &|cluster| !new(cluster));
    settled(&cluster, "its repository, cache and build's log are gone", &|cluster| {
        let of = |folder: &str| names(cluster.path(folder)).iter().any(|name| name.starts_with("gone"));
        !of("data/server/git") && !of("data/caches") && !of("data/times") && !of("data/server/builds")
    });
    // `gantry status` reports disk space by kind, as JSON and as text.
    let status: serde_json::Value =
        serde_json::from_str(&cluster.gantry(&["status", "--json"]).good().out).expect("JSON");
    let shown = cluster.gantry(&["status"]).good().out;
    for kind in ["blobs", "layers", "images", "git", "builds", "logs", "containers", "router"] {
        assert!(status["space"][kind].as_u64().is_some_and(|bytes| bytes > 0), "{kind}: {status}");
        assert!(shown.contains(kind), "{shown}");
    }
    let measured: u64 = blobs(&cluster).values().map(|path| std::fs::metadata(path).expect("there").len()).sum();
    let shown = status["space"]["blobs"].as_u64().expect("a number");
    assert!((measured..measured * 2).contains(&shown), "{shown} where the blobs have {measured}");
    assert!(page(&cluster, "kept").starts_with("two"));
    let _ = cluster.gantry(&["rollback", "kept"]).good();
    assert!(page(&cluster, "kept").starts_with("one"));
    // A base is kept even when no app runs on it.
    let _ = cluster.gantry(&["app", "destroy", "kept", "--confirm", "kept"]).good();
    settled(&cluster, "nothing but the base is left", &|cluster| {
        names(cluster.path("data/layers")).iter().all(|n| n == "lock")
    });
    push_site(&site(&cluster, "fresh", 1), "three");
    assert!(page(&cluster, "fresh").starts_with("three"));
}

#[test]
fn a_new_app_has_no_log_line_job_event_or_release_number_of_a_destroyed_one() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "old");
    let logs = |cluster: &TestCluster| cluster.gantry(&["logs", "shop", "-n", "1000"]);
    cluster.wait("its line", |cluster| logs(cluster).good().out.contains("old serves").then_some(()));
    let _ = cluster.gantry(&["job", "run", "shop/web", "--follow", "--", "/bin/echo", "old"]).good();
    let _ = cluster.gantry(&["schedule", "create", "shop/web", "--every", "1h"]).good();
    let _ = cluster.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
    cluster.wait("it is gone", |cluster| cluster.gantry(&["app", "show", "shop"]).err.contains("no app").then_some(()));
    let refused = logs(&cluster);
    assert!(refused.status == 1 && refused.err.contains("no app") && refused.out.is_empty(), "{refused:?}");
    assert!(cluster.path("data/logs/shop/shop.v1.web-1").exists(), "the machine keeps the log");
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let empty = logs(&cluster).good();
    assert!(!empty.out.contains("old serves"), "{empty:?}");
    let token = cluster.gantry(&["token", "create", "ci", "--deploy", "shop"]).good().out;
    let own = |arguments: &[&str]| cluster.gantry_as(token.trim(), arguments);
    for arguments in [["job", "show", "1"], ["job", "logs", "1"], ["job", "retry", "1"]] {
        let hidden = own(&arguments);
        assert!(hidden.status != 0 && hidden.all().contains("E_JOB_NOT_FOUND"), "{arguments:?}: {hidden:?}");
    }
    let jobs = own(&["job", "ls", "shop"]).good();
    assert!(!jobs.out.contains("shop/web"), "{jobs:?}");
    let schedules = own(&["schedule", "ls", "shop"]).good();
    assert!(!schedules.out.contains("shop/web"), "{schedules:?}");
    let events = own(&["events", "shop"]).good().out;
    assert!(events.contains("created app shop") && !events.contains("destroyed app shop"), "{events}");
    let all = cluster.gantry(&["job", "ls", "shop"]).good();
    assert!(all.out.contains("shop/web"), "an administrator sees the jobs: {all:?}");
    push_site(&shop, "new");
    let shown =
        cluster.wait("the new line", |cluster| Some(logs(cluster).good().out).filter(|out| out.contains("new serves")));
    assert!(!shown.contains("old serves"), "{shown}");
    let releases = cluster.gantry(&["releases", "shop"]).good().out;
    assert!(releases.contains("v2") && !releases.contains("v1"), "{releases}");
    assert!(
        cluster.path("data/logs/shop/shop.v2.web-1").exists() && cluster.path("data/logs/shop/shop.v1.web-1").exists()
    );
}

#[test]
fn a_change_that_would_fill_the_disk_is_refused_with_the_numbers() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    let commit = push_site(&shop, "one");
    let _ = cluster.gantry(&["app", "create", "other"]).good();
    let _ = cluster.gantry(&["cluster", "policy", "set", "reserve=900000G"]).good();
    let refused = |output: Output, texts: &[&str]| {
        assert_ne!(output.status, 0, "{output:?}");
        for text in texts.iter().chain(&["free of", "needs 900000", "`gantry status` lists"]) {
            assert!(output.all().contains(text), "{text:?} is not in\n{}", output.all());
        }
    };
    shop.write("server.py", "x");
    shop.commit("two");
    refused(shop.push(), &["a push needs"]);
    // No registry listens at this address: the server checks the free space before it connects.
    refused(cluster.gantry(&["deploy", "other", "--image", "127.0.0.1:1/x:1"]), &["a pull needs"]);
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    refused(cluster.gantry(&["base", "import", "again", &archive]), &["a base needs"]);
    let mut curl = Command::new("curl");
    let address = format!("http://127.0.0.1:{}/v2/other/blobs/uploads/", cluster.api_port());
    curl.args(["-sS", "-X", "POST", "-w", "%{http_code}", "-u", &format!("x:{}", cluster.token()), &address]);
    let answer = gantry_testbed::run(curl).good().out;
    assert!(answer.ends_with("507") && answer.contains("an upload needs 900000"), "{answer}");
    // Operations that need no space succeed.
    let _ = cluster.gantry(&["config", "set", "shop", "COLOR=blue"]).good();
    let _ = cluster.gantry(&["deploy", "other", "--image", &format!("shop:{commit}")]).good();
    let _ = cluster.gantry(&["scale", "shop", "web=2"]).good();
    assert!(page(&cluster, "shop").starts_with("one") && page(&cluster, "other").starts_with("one"));
}

/// Garbage collection keeps the data for a rollback to each of the last five releases.
#[test]
fn each_of_the_last_five_releases_is_gone_back_to() {
    let cluster = TestCluster::start(&["--collect-every", "1", "--collect-grace", "1", "--bake-time", "1"]);
    let shop = site(&cluster, "shop", 1);
    for number in 1..=6 {
        // A layer that no other release references.
        shop.compile_with(&format!("head -c 10000 /dev/urandom > /app/made-{number}"));
        push_site(&shop, &format!("number-{number}"));
    }
    cluster.wait("the archives of what was built are gone", |cluster| loose(cluster).is_empty().then_some(()));
    for number in 1..=5 {
        // The layers of releases that do not run are removed, and unpacked again from the blobs.
        let _ = cluster.gantry(&["rollback", "shop", &format!("v{number}")]).good();
        let text = page(&cluster, "shop");
        assert!(text.starts_with(&format!("number-{number} ")), "{text}");
    }
}

/// Moves a file's modification time `days` days into the past.
fn aged(path: &Path, days: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(then)).expect("set");
}

#[test]
fn caches_logs_and_builds_output_are_bounded() {
    let cluster = TestCluster::start(&["--collect-every", "1", "--collect-grace", "2"]);
    let shop = site(&cluster, "shop", 1);
    // More output than Gantry keeps of a build. The pusher still sees its end.
    shop.compile_with("head -c 20000000 /dev/zero | tr '\\0' x | fold -w 10000; echo; echo the end");
    push_site(&shop, "one");
    let log = std::fs::metadata(cluster.path("data/server/builds/shop-1.log")).expect("there").len();
    assert!((10_000_000..17 << 20).contains(&log), "{log} bytes of a build's output are kept");

    let cache = cluster.path("data/caches/shop/large");
    std::fs::create_dir_all(cache.parent().expect("a folder")).expect("made");
    let mut fill = Command::new("fallocate");
    fill.args(["-l", "4200M"]).arg(&cache);
    let _ = run(fill).good();
    let note = |app: &str, number: u32, days: u64| {
        let folder = cluster.path("data/logs").join(app).join(format!("{app}.v9{number:02}.web-1"));
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("0.log"), "1 o F old\n").expect("written");
        aged(&folder.join("0.log"), days);
    };
    (1..=25).for_each(|number| note("shop", number, number.into()));
    // An app that no longer exists on this machine.
    note("gone", 1, 6);
    note("gone", 2, 8);
    cluster.wait("the build starts another cache", |_| (!cache.exists()).then_some(()));
    cluster.wait("the oldest logs are gone", |cluster| {
        let (kept, gone) = (names(cluster.path("data/logs/shop")), names(cluster.path("data/logs/gone")));
        let oldest =
            kept.iter().filter_map(|name| name.strip_prefix("shop.v9")?.strip_suffix(".web-1")?.parse().ok()).max();
        (kept.len() == 21 && oldest == Some(20u32) && gone == ["gone.v901.web-1"]).then_some(())
    });
    assert!(page(&cluster, "shop").starts_with("one"));
}

/// A role that fails when another writer has its volume, and that takes three seconds to stop.
const WRITER: &str = r#"{ web: {
    command: "trap 'sleep 3; exit' TERM; exec 9>/data/lock; flock -n 9 || { echo two write; exit 9; }; python3 server.py & wait",
    health: { path: '/up' }, volumes: { data: '/data' },
} }"#;

#[test]
fn a_backup_brings_everything_back() {
    let mut cluster = TestCluster::start_with_file();
    let shop = site(&cluster, "shop", 1);
    let first = push_site(&shop, "one");
    let _ = cluster.gantry(&["config", "set", "shop", "COLOR=blue"]).good();
    let keeper = site(&cluster, "keeper", 1);
    keeper.write("container/roles.json", WRITER);
    push_site(&keeper, "one");
    let checked = cluster.offline(&["store", "check"]).good();
    assert!(checked.out.contains("sound:"), "{checked:?}");
    let file = cluster.path("backup.tar");
    let path = file.display().to_string();
    let _ = cluster.offline(&["backup", &path]).good();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("there"));
    assert_eq!(mode & 0o777, 0o600, "a backup holds tokens");
    // The backup does not contain later releases.
    push_site(&shop, "two");
    push_site(&keeper, "two");

    let running = cluster.offline(&["restore", &path]);
    assert!(running.status == 1 && running.err.contains("runs with the data folder"), "{running:?}");
    let token = cluster.token();
    cluster.kill_everything();
    let replaced = cluster.offline(&["restore", &path]);
    assert!(replaced.status == 1 && replaced.err.contains("there is a store at"), "{replaced:?}");
    // Running containers and the state of agent and router stay, and are newer than the backup.
    for name in ["blobs", "git", "builds"] {
        std::fs::remove_dir_all(cluster.path("data/server").join(name)).expect("removed");
    }
    for name in ["admin-token", "machine-token", "server/store.db", "server/store.db-head"] {
        std::fs::remove_file(cluster.path("data").join(name)).expect("removed");
    }
    // SQLite would read a leftover log into the restored store.
    std::fs::write(cluster.path("data/server/store.db-wal"), "old").expect("written");
    let replaced = cluster.offline(&["restore", &path]);
    assert!(replaced.status == 1 && replaced.err.contains("store.db-wal already"), "{replaced:?}");
    assert!(replaced.err.contains("[E_STORE_EXISTS]"), "{replaced:?}");
    for end in ["wal", "shm"] {
        let _ = std::fs::remove_file(cluster.path(&format!("data/server/store.db-{end}")));
    }

    let good = std::fs::read(&file).expect("read");
    for (what, bytes, expected, code) in [
        ("cut", good[..good.len() / 2].to_vec(), "not a backup of Gantry's", "[E_INVALID_BACKUP]"),
        ("empty", Vec::new(), "not a backup of Gantry's", "[E_INVALID_BACKUP]"),
        ("foreign", b"hello".repeat(1000), "not a backup of Gantry's", "[E_INVALID_BACKUP]"),
        ("damaged", flipped(&good), "is damaged", "[E_BACKUP_DAMAGED]"),
        ("cut between two files", cut_between(&good), "it was cut", "[E_INVALID_BACKUP]"),
        ("with another value", valued(&good), "its records.jsonl is damaged", "[E_BACKUP_DAMAGED]"),
    ] {
        std::fs::write(cluster.path("bad.tar"), bytes).expect("written");
        let refused = cluster.offline(&["restore", &cluster.path("bad.tar").display().to_string()]);
        assert!(refused.status == 1 && refused.err.contains(expected), "{what}: {refused:?}");
        assert!(refused.err.contains(code), "{what}: {refused:?}");
        assert!(!cluster.path("data/server/store.db").exists(), "{what}: a store was begun");
    }
    let restored = cluster.offline(&["restore", &path]).good();
    assert!(restored.out.contains("records are back"), "{restored:?}");
    assert_eq!(cluster.token(), token);
    cluster.up();
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));
    cluster.wait("the other one too", |cluster| page(cluster, "keeper").starts_with("one").then_some(()));
    let shown = cluster.gantry(&["logs", "keeper", "-n", "1000"]).good().out;
    assert!(!shown.contains("two write"), "{shown}");
    assert!(cluster.gantry(&["config", "get", "shop", "COLOR"]).good().out.contains("blue"));
    // The repository is restored too: the next push sends only its new objects.
    push_site(&shop, "three");
    assert!(page(&cluster, "shop").starts_with("three"));
    // Restore does not reuse the number of the release that the backup lacks, because instances and logs of that
    // number exist.
    assert!(cluster.gantry(&["releases", "shop"]).good().out.contains("v4"));

    damage_is_named_and_left_out(&mut cluster);
    damage_is_repaired(&cluster, &shop, &first);

    let _ = cluster.down();
    let store = cluster.path("data/server/store.db");
    // The log beside the store may hold an intact copy of every page.
    for end in ["wal", "shm"] {
        let _ = std::fs::remove_file(cluster.path(&format!("data/server/store.db-{end}")));
    }
    let mut bytes = std::fs::read(&store).expect("read");
    // Damages every page, because the middle of a page may be unused.
    bytes.iter_mut().skip(5000).step_by(100).for_each(|byte| *byte ^= 0x10);
    std::fs::write(&store, bytes).expect("written");
    let damaged = cluster.offline(&["store", "check"]);
    assert!(damaged.status == 1 && damaged.err.contains("store.db is damaged"), "{damaged:?}");
    assert!(damaged.err.contains("gantry restore"), "{damaged:?}");
}

/// Damages a layer of an old release and removes its configuration. Backup and check report both, and all other data
/// is restored.
fn damage_is_named_and_left_out(cluster: &mut TestCluster) {
    let sound = cluster.offline(&["check"]).good();
    assert!(sound.out.contains("sound: ") && sound.out.contains("2 repositories"), "{sound:?}");
    let releases = cluster.gantry(&["releases", "shop", "--json"]).good().out;
    let releases: serde_json::Value = serde_json::from_str(&releases).expect("JSON");
    let releases = releases.as_array().expect("a list");
    let first = releases.iter().find(|release| release["number"] == 1).expect("the first release");
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest").to_owned();
        (cluster.path(&format!("data/server/blobs/sha256/{}/{hex}", &hex[..2])), hex)
    };
    let manifest = std::fs::read(blob(&first["image"]).0).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let (layer, layer_name) = blob(&manifest["layers"].as_array().expect("layers").last().expect("a layer")["digest"]);
    let (config, config_name) = blob(&manifest["config"]["digest"]);
    let mut bytes = std::fs::read(&layer).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, bytes).expect("written");
    std::fs::remove_file(config).expect("removed");
    let head = cluster.path("data/server/git/keeper.git/HEAD");
    let kept = std::fs::read(&head).expect("read");
    std::fs::write(&head, "").expect("written");

    let path = cluster.path("damaged.tar").display().to_string();
    for (arguments, has_git) in [(&["check"][..], true), (&["backup", &path], false)] {
        let shown = cluster.offline(arguments);
        let names = |text: &str| shown.err.lines().any(|line| line.contains(text) && line.contains("shop v1"));
        assert_eq!(shown.status, 1, "{shown:?}");
        assert!(names(&format!("{layer_name} is damaged")) && names(&format!("{config_name} is missing")), "{shown:?}");
        assert_eq!(shown.err.contains("git/keeper.git"), has_git, "{shown:?}");
    }
    std::fs::write(&head, kept).expect("written");

    let _ = cluster.down();
    let away = cluster.path("away");
    std::fs::create_dir(&away).expect("made");
    for name in ["blobs", "git", "builds", "store.db", "store.db-head"] {
        std::fs::rename(cluster.path("data/server").join(name), away.join(name)).expect("moved");
    }
    for end in ["wal", "shm"] {
        let _ = std::fs::remove_file(cluster.path(&format!("data/server/store.db-{end}")));
    }
    let refused = cluster.offline(&["restore", &path]);
    assert!(refused.status == 1 && refused.err.contains("--skip-damaged"), "{refused:?}");
    assert!(refused.err.contains(&layer_name) && refused.err.contains(&config_name), "{refused:?}");
    assert!(!cluster.path("data/server/store.db").exists(), "a store was begun");
    let restored = cluster.offline(&["restore", "--skip-damaged", &path]).good();
    assert!(restored.err.contains(&layer_name) && restored.out.contains("records are back"), "{restored:?}");
    assert!(!layer.exists(), "what is damaged was brought back");
    cluster.up();
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("three").then_some(()));
}

/// The server rebuilds a commit whose image lost parts. `check --repair` removes a damaged blob.
fn damage_is_repaired(cluster: &TestCluster, shop: &Repository, first: &str) {
    let pushed = shop.git(&["push", "gantry", &format!("+{first}:main")]);
    assert!(pushed.err.contains("was built before and is damaged: building again"), "{pushed:?}");
    assert!(page(cluster, "shop").starts_with("one"));
    let releases = cluster.gantry(&["releases", "shop", "--json"]).good().out;
    let releases: serde_json::Value = serde_json::from_str(&releases).expect("JSON");
    let releases = releases.as_array().expect("a list");
    let current = releases.iter().find(|release| release["current"] == true).expect("the current release");
    let hex = current["image"].as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
    let name = format!("blobs/sha256/{}/{hex}", &hex[..2]);
    let path = cluster.path("data/server").join(&name);
    std::fs::write(&path, "damaged").expect("written");
    let shown = cluster.offline(&["check"]);
    let damaged = format!("{name} is damaged");
    assert!(shown.status == 1 && shown.err.contains(&damaged) && path.exists(), "{shown:?}");
    assert!(shown.err.contains("[E_DATA_DAMAGED]"), "{shown:?}");
    let shown = cluster.offline(&["check", "--repair"]);
    assert!(shown.status == 1 && shown.err.contains(&format!("removed {name}")) && !path.exists(), "{shown:?}");
    let shown = cluster.offline(&["check"]);
    assert!(shown.status == 1 && shown.err.contains(&format!("{name} is missing")), "{shown:?}");
}

/// Cuts the archive before its last file, like a copy that was interrupted between two files.
fn cut_between(archive: &[u8]) -> Vec<u8> {
    let last = archive.windows(6).rposition(|bytes| bytes == b"sums\0\0").expect("its digests");
    archive[..last].to_vec()
}

/// Replaces a value in the records by another of the same length.
fn valued(archive: &[u8]) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    let place = archive.windows(4).position(|bytes| bytes == b"blue").expect("a value");
    bytes[place..place + 4].copy_from_slice(b"pink");
    bytes
}

/// Changes a byte of the largest file in the archive.
fn flipped(archive: &[u8]) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    bytes
}

/// A file system of 1,500 MB of the test's own, which the test can fill.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, place) = (folder.path().join("image"), folder.path().join("disk"));
        std::fs::File::create(&image).and_then(|file| file.set_len(1500 << 20)).expect("an image");
        std::fs::create_dir(&place).expect("made");
        let tool = |name: &str, arguments: &[&str], paths: &[&Path]| {
            let mut command = Command::new(name);
            command.args(arguments).args(paths);
            drop(run(command).good());
        };
        tool("mkfs.ext4", &["-q", "-F"], &[&image]);
        tool("mount", &["-o", "loop"], &[&image, &place]);
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Fills the disk except for `bytes` bytes.
    fn leave(&self, bytes: u64) -> PathBuf {
        let file = self.path().join("nearly");
        let mut df = Command::new("df");
        df.args(["--output=avail", "-B1"]).arg(self.path());
        let free = run(df).good().out.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
        let mut fill = Command::new("fallocate");
        fill.args(["-l", &(free.expect("told") - bytes).to_string()]).arg(&file);
        let _ = run(fill).good();
        file
    }

    /// Fills the disk to the last byte that `user` may write. The kernel reserves some space for root.
    fn fill(&self, name: &str, user: &str) -> PathBuf {
        let file = self.path().join(name);
        std::fs::File::create(&file).expect("made");
        let mut fill = Command::new("sh");
        let script = "chown $1 \"$0\" && setpriv --reuid=$1 --clear-groups sh -c 'cat /dev/zero >> \"$0\"' \"$0\" 2>/dev/null; true";
        fill.args(["-c", script]).arg(&file).arg(user);
        let _ = run(fill).good();
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg(self.path());
        let output = run(unmount);
        assert!(std::thread::panicking() || output.status == 0, "{output:?}");
    }
}

#[test]
fn survives_and_reports_a_full_disk() {
    let disk = Disk::new();
    let cluster = TestCluster::start_on(&disk.path(), &["--reserve", "50M"]);
    let shop = site(&cluster, "shop", 2);
    push_site(&shop, "one");
    let _ = cluster.gantry(&["config", "set", "shop", "COLOR=blue"]).good();
    // The agent stops an application that fills the disk early, and its neighbours continue to write.
    let _ = cluster.gantry(&["app", "create", "filler"]).good();
    let filler = cluster.repository("filler", None);
    filler.write("server.py", "import time\nfor n in range(3000):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 1_000_000)\n    time.sleep(0.005)\n");
    filler.write(
        "container/roles.json",
        "{ web: { command: 'python3 server.py', disk: '50M', health: { path: '/up' } } }",
    );
    filler.commit("fill");
    let mut pushed = filler.push_in_background();
    let mut rounds = 0;
    while pushed.try_wait().expect("looked at").is_none() {
        let _ = cluster.gantry(&["exec", "shop", "--", "/bin/sh", "-c", "echo written > /tmp/mine"]).good();
        assert!(page(&cluster, "shop").starts_with("one"));
        rounds += 1;
    }
    let why = cluster.gantry(&["why", "filler"]).good().out;
    assert!(rounds > 3 && why.contains("wrote more than its limit of 50M"), "{rounds}: {why}");
    let ps = cluster.gantry(&["ps", "shop", "--json"]).good().out;
    assert!(!ps.contains("\"restarts\":1"), "{ps}");
    let _ = cluster.gantry(&["app", "destroy", "filler", "--confirm", "filler"]).good();
    // An upload of unknown size is refused during the transfer.
    let nearly = disk.leave(80 << 20);
    let archive = std::env::var("GANTRY_TEST_EXAMPLES_BASE").expect("a base");
    let refused = cluster.gantry(&["base", "import", "again", &archive]);
    assert!(refused.status != 0 && refused.err.contains("a base needs 50M"), "{refused:?}");
    assert!(!cluster.gantry(&["base", "ls"]).good().out.contains("again"));
    std::fs::remove_file(nearly).expect("removed");
    // Fills the disk as an application would. The agent continues on the space reserved for root.
    let filler = disk.fill("filler", "65534");
    assert!(page(&cluster, "shop").starts_with("one"));
    shop.write("server.py", "x");
    shop.commit("two");
    let refused = shop.push();
    assert_ne!(refused.status, 0);
    assert!(refused.err.contains("is full: ") && refused.err.contains("a push needs 50M"), "{refused:?}");
    let restarts = |cluster: &TestCluster| {
        let ps = cluster.gantry(&["ps", "shop", "--json"]).good().out;
        let value: serde_json::Value = serde_json::from_str(&ps).expect("JSON");
        let all = value.as_array().expect("instances").clone();
        let ready = all.iter().filter(|instance| instance["phase"] == "ready").count();
        (all.iter().filter_map(|instance| instance["restarts"].as_u64()).sum::<u64>(), ready)
    };
    // An exec is an event of the audit trail, which may have no room left.
    let containers = cluster.containers();
    let (_, pid) = containers.iter().find(|(name, _)| name.starts_with("shop.")).expect("an instance");
    cluster.signal("KILL", *pid);
    cluster.wait("what crashed was started again", |cluster| (restarts(cluster) == (1, 2)).then_some(()));

    // From here on no process can write.
    let more = disk.fill("more", "0");
    assert!(page(&cluster, "shop").starts_with("one"));
    // The store's log has room for a few more changes.
    let mut rate = 1000;
    let refused = cluster.wait("a change is refused", |cluster| {
        rate += 1;
        let output = cluster.gantry(&["limit", "shop", "--rate", &rate.to_string()]);
        (output.status != 0).then_some(output)
    });
    assert!(refused.err.contains("is full; free some space"), "{refused:?}");
    assert!(cluster.gantry(&["status"]).good().out.contains("shop"));
    assert!(cluster.gantry(&["config", "get", "shop", "COLOR"]).good().out.contains("blue"));
    assert!(page(&cluster, "shop").starts_with("one"));

    for file in [filler, more] {
        std::fs::remove_file(file).expect("removed");
    }
    cluster.wait("it takes changes again", |cluster| {
        (cluster.gantry(&["scale", "shop", "web=1"]).status == 0).then_some(())
    });
    push_site(&shop, "three");
    assert!(page(&cluster, "shop").starts_with("three"));
    drop(cluster);
}
