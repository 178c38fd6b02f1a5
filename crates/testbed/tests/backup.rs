//! `gantry backup --volumes` and its restore: what comes back, what is refused, and what is said about data that is gone.

mod site;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_testbed::{Output, TestCluster, program, run};
use site::{page, push_site, site};

/// Roles of the app with a volume. Each start appends a line to a file in the volume.
const ROLES: &str = "{
    web: { command: 'date +%s%N >>/data/starts; python3 server.py', volumes: { data: '/data' }, health: { path: '/up' } },
}";

/// Content of a file that the tests find in the archive.
const MARKER: &str = "the marker of this test, which occurs once";

fn shell(line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    run(command)
}

/// Everything in a folder that a round trip must keep, as text.
fn described(folder: &Path) -> String {
    let list = "find . -printf '%p %y %m %U:%G %T@ %l %n\\n' | sort";
    let sums = "find . -type f -exec sha256sum {} + | sort -k2";
    shell(&format!("cd {}; {list}; {sums}", folder.display())).out
}

/// Fills a folder with what a volume may have: owners, modes, times, links, holes, names of any kind.
fn fill(folder: &Path) {
    let line = format!(
        "mkdir -p {0}/base/5; cd {0}; printf '{MARKER}' >marker; echo x >.wh.plain; echo y >\"$(printf 'a\\nb')\"
         echo z >\"$(printf 'b\\377\\\\x41')\"; truncate -s 64M base/5/1259
         echo page | dd of=base/5/1259 bs=1M seek=30 conv=notrunc status=none
         ln base/5/1259 linked; ln -s /etc/passwd absolute; mkfifo pipe; chown -R 70:71 base; chown -h 1000:1000 absolute
         chmod 2770 base; touch -d '2001-09-09 01:46:40.123456789' marker base; chown 1000:1000 .; chmod 1750 .",
        folder.display()
    );
    let _ = shell(&line).good();
}

fn volume(cluster: &TestCluster, name: &str) -> PathBuf {
    cluster.path("data/volumes/shop").join(name)
}

/// Removes the store, as before a restore.
fn remove_store(cluster: &TestCluster) {
    for end in ["", "-head", "-wal", "-shm"] {
        let _ = std::fs::remove_file(cluster.path(&format!("data/server/store.db{end}")));
    }
}

#[test]
fn a_backup_with_volumes_brings_them_back() {
    let mut cluster = TestCluster::start_with_file();
    let shop = site(&cluster, "shop", 1);
    shop.write("container/roles.json", ROLES);
    push_site(&shop, "one");
    fill(&volume(&cluster, "base"));
    let expected = described(&volume(&cluster, "base"));
    let plain = cluster.path("plain.tar").display().to_string();
    let saved = cluster.offline(&["backup", &plain]).good();
    assert!(saved.err.contains("`gantry backup --volumes FILE` includes them"), "{saved:?}");
    let checked = cluster.offline(&["check"]).good();
    assert!(checked.out.contains(" layers, 2 volumes") && !checked.out.contains(" 0 layers"), "{checked:?}");
    unreadable_volumes_are_named(&cluster);

    let file = cluster.path("backup.tar").display().to_string();
    let saved = cluster.offline(&["backup", "--volumes", &file]).good();
    assert!(saved.out.contains(", 2 volumes"), "{saved:?}");
    assert!(saved.err.contains("shop.v1.web-1 may have written to volume data of shop"), "{saved:?}");
    let starts = std::fs::read_to_string(volume(&cluster, "data").join("starts")).expect("read");
    let left = shell(&format!("ls {}", cluster.path("").display())).good().out;
    assert!(!left.contains(".new") && !left.contains(".sums"), "{left}");

    cluster.kill_everything();
    remove_store(&cluster);
    data_here_is_replaced_only_when_told(&cluster, &file, &expected);
    let _ = cluster.down();
    std::fs::write(volume(&cluster, "data").join("later"), "").expect("written");
    remove_store(&cluster);
    let restored = cluster.offline(&["restore", "--volumes", "all", &file]).good();
    assert!(restored.out.contains("and 2 volumes are back"), "{restored:?}");
    assert_eq!(described(&volume(&cluster, "base")), expected);
    assert_eq!(std::fs::read_to_string(volume(&cluster, "data").join("starts")).expect("read"), starts);
    assert!(!volume(&cluster, "data").join("later").exists());

    killed_in_the_middle(&cluster, &file, &expected);
    damage_is_named_and_left_out(&cluster, &expected);
    cluster.up();
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));
    let shown = cluster.gantry(&["why", "shop"]).out;
    assert!(!shown.contains("empty volume"), "{shown}");
    data_that_is_gone_is_told(&mut cluster, &plain);
}

/// A volume whose folders are nested deeper than a walk goes.
fn unreadable_volumes_are_named(cluster: &TestCluster) {
    let deep = volume(cluster, "deep");
    let _ = shell(&format!("mkdir -p {}/$(printf 'd/%.0s' $(seq 300))", deep.display())).good();
    let file = cluster.path("incomplete.tar").display().to_string();
    for arguments in [&["check"][..], &["backup", "--volumes", &file]] {
        let shown = cluster.offline(arguments);
        let named = shown.err.contains("volumes/shop/deep cannot be read: d/d/") && shown.err.contains("volume import");
        assert!(shown.status == 1 && named, "{shown:?}");
    }
    let _ = shell(&format!("rm -r {}", deep.display())).good();
    std::fs::rename(volume(cluster, "data"), volume(cluster, "away")).expect("moved");
    let shown = cluster.offline(&["check"]);
    assert!(shown.status == 1 && shown.err.contains("volumes/shop/data is missing (role web of shop)"), "{shown:?}");
    std::fs::rename(volume(cluster, "away"), volume(cluster, "data")).expect("moved back");
}

fn data_here_is_replaced_only_when_told(cluster: &TestCluster, file: &str, expected: &str) {
    let before = described(&volume(cluster, "data"));
    let refused = cluster.offline(&["restore", file]);
    let named =
        refused.err.contains("volumes/shop/base, volumes/shop/data") && refused.err.contains("--volumes missing");
    assert!(refused.status == 1 && named && !cluster.path("data/server/store.db").exists(), "{refused:?}");
    // The containers outlive `gantry up`.
    let refused = cluster.offline(&["restore", "--volumes", "all", file]);
    let named = refused.err.contains("in use by shop.v1.web-1") && refused.err.contains("gantry down");
    assert!(refused.status == 1 && named && !cluster.path("data/server/store.db").exists(), "{refused:?}");
    let _ = shell(&format!("rm -r {}", volume(cluster, "base").display())).good();
    let restored = cluster.offline(&["restore", "--volumes", "missing", file]).good();
    assert!(restored.out.contains("and 1 volume are back"), "{restored:?}");
    assert!(restored.err.contains("volume data of shop was not restored"), "{restored:?}");
    assert_eq!(described(&volume(cluster, "base")), expected);
    assert_eq!(described(&volume(cluster, "data")), before);
}

/// A restore is killed once its first volume is in place. The next one needs no option, and ends the work.
fn killed_in_the_middle(cluster: &TestCluster, file: &str, expected: &str) {
    remove_store(cluster);
    let _ = shell(&format!("rm -r {}", cluster.path("data/volumes").display())).good();
    let paths = ["data", "run"].map(|name| cluster.path(name).display().to_string());
    let mut restore = Command::new(program("gantry"))
        .args(["restore", file, "--data", &paths[0], "--run", &paths[1]])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("gantry");
    cluster.wait("a volume is in place", |cluster| volume(cluster, "base").exists().then_some(()));
    restore.kill().expect("killed");
    let _ = restore.wait();
    remove_store(cluster);
    let restored = cluster.offline(&["restore", file]).good();
    assert!(restored.out.contains("and 2 volumes are back"), "{restored:?}");
    assert_eq!(described(&volume(cluster, "base")), expected);
    for left in ["data/restoring", "data/restored-volumes.json"] {
        assert!(!cluster.path(left).exists(), "{left}");
    }
}

/// A byte of a volume's file changed in the backup.
fn damage_is_named_and_left_out(cluster: &TestCluster, expected: &str) {
    let mut bytes = std::fs::read(cluster.path("backup.tar")).expect("read");
    let place = bytes.windows(MARKER.len()).position(|piece| piece == MARKER.as_bytes()).expect("the marker");
    bytes[place] ^= 1;
    std::fs::write(cluster.path("damaged.tar"), bytes).expect("written");
    remove_store(cluster);
    let _ = shell(&format!("rm -r {}", cluster.path("data/volumes").display())).good();
    let file = cluster.path("damaged.tar").display().to_string();
    let refused = cluster.offline(&["restore", &file]);
    assert!(refused.status == 1 && refused.err.contains("volumes/shop/base/marker is damaged"), "{refused:?}");
    assert!(!cluster.path("data/volumes").exists() && !cluster.path("data/server/store.db").exists());
    let restored = cluster.offline(&["restore", "--skip-damaged", &file]).good();
    assert!(restored.err.contains("left out: volumes/shop/base/marker is damaged"), "{restored:?}");
    // The time of the folder changes with the file that is left out.
    let is_rest = |line: &&str| !line.contains("marker") && !line.starts_with(". ");
    let found = described(&volume(cluster, "base"));
    assert_eq!(found.lines().filter(is_rest).collect::<Vec<_>>(), expected.lines().filter(is_rest).collect::<Vec<_>>());

    // Of a volume that is incomplete in the backup, nothing comes back.
    remove_store(cluster);
    let _ = shell(&format!("rm -r {}", cluster.path("data/volumes").display())).good();
    let file = cluster.path("incomplete.tar").display().to_string();
    let refused = cluster.offline(&["restore", &file]);
    assert!(refused.status == 1 && refused.err.contains("volumes/shop/deep cannot be read"), "{refused:?}");
    let restored = cluster.offline(&["restore", "--skip-damaged", &file]).good();
    assert!(restored.out.contains("and 2 volumes are back") && !volume(cluster, "deep").exists(), "{restored:?}");
    assert_eq!(described(&volume(cluster, "base")), expected);
}

/// The backup has no volumes, and the disk has none either.
fn data_that_is_gone_is_told(cluster: &mut TestCluster, plain: &str) {
    let archive = cluster.path("data.tar").display().to_string();
    let _ = cluster.gantry(&["volume", "export", "shop", "data", "-o", &archive]).good();
    let _ = cluster.down();
    remove_store(cluster);
    let _ = shell(&format!("rm -r {}", cluster.path("data/volumes").display())).good();
    let restored = cluster.offline(&["restore", plain]).good();
    assert!(restored.err.contains("shop has no data of volume data: web begins with an empty one"), "{restored:?}");
    cluster.up();
    cluster.wait("why names the empty volume", |cluster| {
        let shown = cluster.gantry(&["why", "shop"]).out;
        (shown.contains("shop.v1.web-1 began with an empty volume data") && shown.contains("volume import shop data"))
            .then_some(())
    });
    let events = cluster.gantry(&["events", "shop"]).good().out;
    assert!(events.contains("has no data of volume data: web begins with an empty one"), "{events}");
    let _ = cluster.gantry(&["scale", "shop", "web=0"]).good();
    cluster.wait("it is stopped", |cluster| (!cluster.gantry(&["ps", "shop"]).out.contains("shop.v")).then_some(()));
    let _ = cluster.gantry(&["volume", "import", "shop", "data", "--replace", &archive]).good();
    let _ = cluster.gantry(&["scale", "shop", "web=1"]).good();
    cluster.wait("it serves with its data", |cluster| {
        let shown = cluster.gantry(&["why", "shop"]).out;
        (page(cluster, "shop").starts_with("one") && !shown.contains("empty volume")).then_some(())
    });
}
