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

fn volume(world: &TestCluster, name: &str) -> PathBuf {
    world.path("data/volumes/shop").join(name)
}

/// Removes the store, as before a restore.
fn remove_store(world: &TestCluster) {
    for end in ["", "-head", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.path(&format!("data/server/store.db{end}")));
    }
}

#[test]
fn a_backup_with_volumes_brings_them_back() {
    let mut world = TestCluster::start_with_file();
    let shop = site(&world, "shop", 1);
    shop.write("container/roles.json", ROLES);
    push_site(&shop, "one");
    fill(&volume(&world, "base"));
    let wanted = described(&volume(&world, "base"));
    let plain = world.path("plain.tar").display().to_string();
    let saved = world.offline(&["backup", &plain]).good();
    assert!(saved.err.contains("`gantry backup --volumes FILE` includes them"), "{saved:?}");
    let checked = world.offline(&["check"]).good();
    assert!(checked.out.contains(" layers, 2 volumes") && !checked.out.contains(" 0 layers"), "{checked:?}");
    unreadable_volumes_are_named(&world);

    let file = world.path("backup.tar").display().to_string();
    let saved = world.offline(&["backup", "--volumes", &file]).good();
    assert!(saved.out.contains(", 2 volumes"), "{saved:?}");
    assert!(saved.err.contains("shop.v1.web-1 may have written to volume data of shop"), "{saved:?}");
    let starts = std::fs::read_to_string(volume(&world, "data").join("starts")).expect("read");
    let left = shell(&format!("ls {}", world.path("").display())).good().out;
    assert!(!left.contains(".new") && !left.contains(".sums"), "{left}");

    world.kill_everything();
    remove_store(&world);
    data_here_is_replaced_only_when_told(&world, &file, &wanted);
    let _ = world.down();
    std::fs::write(volume(&world, "data").join("later"), "").expect("written");
    remove_store(&world);
    let restored = world.offline(&["restore", "--volumes", "all", &file]).good();
    assert!(restored.out.contains("and 2 volumes are back"), "{restored:?}");
    assert_eq!(described(&volume(&world, "base")), wanted);
    assert_eq!(std::fs::read_to_string(volume(&world, "data").join("starts")).expect("read"), starts);
    assert!(!volume(&world, "data").join("later").exists());

    killed_in_the_middle(&world, &file, &wanted);
    damage_is_named_and_left_out(&world, &wanted);
    world.up();
    world.wait("the app serves", |world| page(world, "shop").starts_with("one").then_some(()));
    let told = world.gantry(&["why", "shop"]).out;
    assert!(!told.contains("empty volume"), "{told}");
    data_that_is_gone_is_told(&mut world, &plain);
}

/// A volume whose folders are nested deeper than a walk goes.
fn unreadable_volumes_are_named(world: &TestCluster) {
    let deep = volume(world, "deep");
    let _ = shell(&format!("mkdir -p {}/$(printf 'd/%.0s' $(seq 300))", deep.display())).good();
    let file = world.path("incomplete.tar").display().to_string();
    for arguments in [&["check"][..], &["backup", "--volumes", &file]] {
        let told = world.offline(arguments);
        let named = told.err.contains("volumes/shop/deep cannot be read: d/d/") && told.err.contains("volume import");
        assert!(told.status == 1 && named, "{told:?}");
    }
    let _ = shell(&format!("rm -r {}", deep.display())).good();
    std::fs::rename(volume(world, "data"), volume(world, "away")).expect("moved");
    let told = world.offline(&["check"]);
    assert!(told.status == 1 && told.err.contains("volumes/shop/data is missing (role web of shop)"), "{told:?}");
    std::fs::rename(volume(world, "away"), volume(world, "data")).expect("moved back");
}

fn data_here_is_replaced_only_when_told(world: &TestCluster, file: &str, wanted: &str) {
    let before = described(&volume(world, "data"));
    let refused = world.offline(&["restore", file]);
    let named =
        refused.err.contains("volumes/shop/base, volumes/shop/data") && refused.err.contains("--volumes missing");
    assert!(refused.status == 1 && named && !world.path("data/server/store.db").exists(), "{refused:?}");
    // The containers outlive `gantry up`.
    let refused = world.offline(&["restore", "--volumes", "all", file]);
    let named = refused.err.contains("in use by shop.v1.web-1") && refused.err.contains("gantry down");
    assert!(refused.status == 1 && named && !world.path("data/server/store.db").exists(), "{refused:?}");
    let _ = shell(&format!("rm -r {}", volume(world, "base").display())).good();
    let restored = world.offline(&["restore", "--volumes", "missing", file]).good();
    assert!(restored.out.contains("and 1 volume are back"), "{restored:?}");
    assert!(restored.err.contains("volume data of shop was not restored"), "{restored:?}");
    assert_eq!(described(&volume(world, "base")), wanted);
    assert_eq!(described(&volume(world, "data")), before);
}

/// A restore is killed once its first volume is in place. The next one needs no option, and ends the work.
fn killed_in_the_middle(world: &TestCluster, file: &str, wanted: &str) {
    remove_store(world);
    let _ = shell(&format!("rm -r {}", world.path("data/volumes").display())).good();
    let paths = ["data", "run"].map(|name| world.path(name).display().to_string());
    let mut restore = Command::new(program("gantry"))
        .args(["restore", file, "--data", &paths[0], "--run", &paths[1]])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("gantry");
    world.wait("a volume is in place", |world| volume(world, "base").exists().then_some(()));
    restore.kill().expect("killed");
    let _ = restore.wait();
    remove_store(world);
    let restored = world.offline(&["restore", file]).good();
    assert!(restored.out.contains("and 2 volumes are back"), "{restored:?}");
    assert_eq!(described(&volume(world, "base")), wanted);
    for left in ["data/restoring", "data/restored-volumes.json"] {
        assert!(!world.path(left).exists(), "{left}");
    }
}

/// A byte of a volume's file changed in the backup.
fn damage_is_named_and_left_out(world: &TestCluster, wanted: &str) {
    let mut bytes = std::fs::read(world.path("backup.tar")).expect("read");
    let place = bytes.windows(MARKER.len()).position(|piece| piece == MARKER.as_bytes()).expect("the marker");
    bytes[place] ^= 1;
    std::fs::write(world.path("damaged.tar"), bytes).expect("written");
    remove_store(world);
    let _ = shell(&format!("rm -r {}", world.path("data/volumes").display())).good();
    let file = world.path("damaged.tar").display().to_string();
    let refused = world.offline(&["restore", &file]);
    assert!(refused.status == 1 && refused.err.contains("volumes/shop/base/marker is damaged"), "{refused:?}");
    assert!(!world.path("data/volumes").exists() && !world.path("data/server/store.db").exists());
    let restored = world.offline(&["restore", "--skip-damaged", &file]).good();
    assert!(restored.err.contains("left out: volumes/shop/base/marker is damaged"), "{restored:?}");
    // The time of the folder changes with the file that is left out.
    let is_rest = |line: &&str| !line.contains("marker") && !line.starts_with(". ");
    let found = described(&volume(world, "base"));
    assert_eq!(found.lines().filter(is_rest).collect::<Vec<_>>(), wanted.lines().filter(is_rest).collect::<Vec<_>>());

    // Of a volume that is incomplete in the backup, nothing comes back.
    remove_store(world);
    let _ = shell(&format!("rm -r {}", world.path("data/volumes").display())).good();
    let file = world.path("incomplete.tar").display().to_string();
    let refused = world.offline(&["restore", &file]);
    assert!(refused.status == 1 && refused.err.contains("volumes/shop/deep cannot be read"), "{refused:?}");
    let restored = world.offline(&["restore", "--skip-damaged", &file]).good();
    assert!(restored.out.contains("and 2 volumes are back") && !volume(world, "deep").exists(), "{restored:?}");
    assert_eq!(described(&volume(world, "base")), wanted);
}

/// The backup has no volumes, and the disk has none either.
fn data_that_is_gone_is_told(world: &mut TestCluster, plain: &str) {
    let archive = world.path("data.tar").display().to_string();
    let _ = world.gantry(&["volume", "export", "shop", "data", "-o", &archive]).good();
    let _ = world.down();
    remove_store(world);
    let _ = shell(&format!("rm -r {}", world.path("data/volumes").display())).good();
    let restored = world.offline(&["restore", plain]).good();
    assert!(restored.err.contains("shop has no data of volume data: web begins with an empty one"), "{restored:?}");
    world.up();
    world.wait("why names the empty volume", |world| {
        let told = world.gantry(&["why", "shop"]).out;
        (told.contains("shop.v1.web-1 began with an empty volume data") && told.contains("volume import shop data"))
            .then_some(())
    });
    let events = world.gantry(&["events", "shop"]).good().out;
    assert!(events.contains("has no data of volume data: web begins with an empty one"), "{events}");
    let _ = world.gantry(&["scale", "shop", "web=0"]).good();
    world.wait("it is stopped", |world| (!world.gantry(&["ps", "shop"]).out.contains("shop.v")).then_some(()));
    let _ = world.gantry(&["volume", "import", "shop", "data", "--replace", &archive]).good();
    let _ = world.gantry(&["scale", "shop", "web=1"]).good();
    world.wait("it serves with its data", |world| {
        let told = world.gantry(&["why", "shop"]).out;
        (page(world, "shop").starts_with("one") && !told.contains("empty volume")).then_some(())
    });
}
