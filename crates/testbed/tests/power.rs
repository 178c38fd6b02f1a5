//! Loss of power. The test aborts its own ext4 file system, which loses all unsynced data. Afterwards all
//! acknowledged data is there and intact, and no repair was necessary.
//!
//! `trigger_fs_error` is a feature of ext4: the journal stops, and with it every write that is not on the disk yet.

mod site;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_testbed::{Repository, TestCluster, program, run};
use site::{SERVER, page, push_site, site};

/// A file system that can lose its power.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Self { folder };
        std::fs::File::create(disk.image()).and_then(|file| file.set_len(3 << 30)).expect("an image");
        std::fs::create_dir(disk.path()).expect("made");
        tool("mkfs.ext4", &["-q", "-F"], &[&disk.image()]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) {
        tool("mount", &["-o", "loop,errors=remount-ro"], &[&self.image(), &self.path()]);
    }

    /// Stops all writes to the disk.
    fn stop(&self) {
        let mut find = Command::new("findmnt");
        find.args(["--noheadings", "--output", "SOURCE"]).arg(self.path());
        let device = run(find).good().out.trim().trim_start_matches("/dev/").to_owned();
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "x").expect("aborted");
    }

    /// Unmounts, checks and mounts the file system, as a booting machine does.
    fn start(&self) {
        let begun = Instant::now();
        loop {
            let mut unmount = Command::new("umount");
            unmount.arg(self.path());
            let output = run(unmount);
            if output.status == 0 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{output:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.release();
        let mut check = Command::new("fsck.ext4");
        check.arg("-fy").arg(self.image());
        let checked = run(check);
        // Exit code 1: errors were corrected.
        assert!(checked.status <= 1, "{checked:?}");
        self.mount();
    }

    /// Unmounts the file system in other mount namespaces, such as those of the servers of parallel tests, and waits until
    /// the kernel has let go of the image.
    fn release(&self) {
        let line = format!(
            "for file in $(grep -ls ' {0} ' /proc/[0-9]*/mountinfo); do pid=${{file#/proc/}}; \
             nsenter -t ${{pid%/*}} -m umount {0}; done; losetup --associated {1}",
            self.path().display(),
            self.image().display()
        );
        let begun = Instant::now();
        loop {
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]);
            if run(shell).out.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the image is in use");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("--lazy").arg(self.path());
        drop(run(unmount));
    }
}

fn tool(name: &str, arguments: &[&str], paths: &[&Path]) {
    let mut command = Command::new(name);
    command.args(arguments).args(paths);
    drop(run(command).good());
}

/// Simulates a loss of power and a restart of the machine.
fn lose_power(cluster: &mut TestCluster, disk: &Disk) {
    disk.stop();
    after_the_stop(cluster, disk);
    cluster.up();
}

fn after_the_stop(cluster: &mut TestCluster, disk: &Disk) {
    cluster.kill_everything();
    for (_, pid) in cluster.containers() {
        cluster.signal("KILL", pid);
    }
    std::fs::remove_dir_all(cluster.path("run")).expect("removed");
    cluster.forget_network_and_groups();
    disk.start();
}

fn git(cluster: &TestCluster, app: &str, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(cluster.path(&format!("data/server/git/{app}.git"))).args(arguments);
    let output = run(git);
    // In an empty repository, git notes that the branch does not exist yet.
    let complaints: Vec<&str> = output.err.lines().filter(|line| !line.starts_with("notice: ")).collect();
    assert!(output.status == 0 && complaints.is_empty(), "{output:?}");
    output.out.trim().to_owned()
}

/// Asserts that the repository is intact and that the server did not have to repair the repository.
fn is_whole(cluster: &TestCluster, app: &str) {
    git(cluster, app, &["fsck", "--full", "--strict", "--no-dangling", "--no-progress"]);
    assert_eq!(git(cluster, app, &["symbolic-ref", "HEAD"]), "refs/heads/main");
    let events = cluster.gantry(&["events"]).good().out;
    assert!(!events.contains("damaged"), "{events}");
}

fn offline(cluster: &TestCluster, words: &[&str]) -> gantry_testbed::Output {
    let mut command = Command::new(program("gantry"));
    command.args(words).arg("--data").arg(cluster.path("data")).arg("--run").arg(cluster.path("run"));
    command.args(["--machine", "m"]);
    run(command)
}

/// Commits the next version without a push.
fn change(repository: &Repository, version: &str) -> String {
    repository.write("server.py", &SERVER.replace("VERSION", version));
    repository.commit(version)
}

/// Removes the files that would prevent a restore, as after the loss of a disk.
fn clear(cluster: &TestCluster) {
    for name in ["blobs", "git", "builds"] {
        std::fs::remove_dir_all(cluster.path("data/server").join(name)).expect("removed");
    }
    for name in ["store.db", "store.db-head", "store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(cluster.path("data/server").join(name));
    }
    for name in ["admin-token", "machine-token"] {
        let _ = std::fs::remove_file(cluster.path("data").join(name));
    }
}

#[test]
fn acknowledged_changes_outlive_a_power_loss() {
    let disk = Disk::new();
    let mut cluster = TestCluster::start_on(&disk.path(), &["--bake-time", "1"]);
    let shop = site(&cluster, "shop", 1);
    lose_power(&mut cluster, &disk);
    is_whole(&cluster, "shop");

    let one = push_site(&shop, "one");
    lose_power(&mut cluster, &disk);
    is_whole(&cluster, "shop");
    assert_eq!(shop.remote_head(), one);
    cluster.wait("the release serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));

    // In the middle of a push: the push is either complete or leaves no trace.
    let two = change(&shop, "two");
    let mut pushing = shop.push_in_background();
    cluster.wait("the new release starts", |cluster| {
        cluster.gantry(&["ps", "shop"]).out.contains("shop.v2.web-1").then_some(())
    });
    lose_power(&mut cluster, &disk);
    let status = pushing.wait().expect("ended");
    is_whole(&cluster, "shop");
    let head = shop.remote_head();
    assert!(head == two || head == one && !status.success(), "{head}: {status}");
    cluster.wait("the deploy is over", |cluster| page(cluster, "shop").starts_with("two").then_some(()));
    let three = push_site(&shop, "three");

    let file = disk.path().join("backup.tar").display().to_string();
    let _ = offline(&cluster, &["backup", &file]).good();
    disk.stop();
    after_the_stop(&mut cluster, &disk);
    clear(&cluster);
    let _ = offline(&cluster, &["restore", &file]).good();
    disk.stop();
    disk.start();
    cluster.up();
    is_whole(&cluster, "shop");
    assert_eq!(shop.remote_head(), three);
    cluster.wait("what was backed up serves", |cluster| page(cluster, "shop").starts_with("three").then_some(()));
    push_site(&shop, "four");
    assert!(page(&cluster, "shop").starts_with("four"));
    drop(cluster);
}

/// The server repairs a repository that a disk damaged, from its records, and reports the repair.
#[test]
fn repairs_and_reports_a_damaged_repository() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    let one = push_site(&shop, "one");
    let path = cluster.path("data/server/git/shop.git");
    for name in ["refs/heads/main", "HEAD", "config"] {
        std::fs::write(path.join(name), "").expect("written");
        assert_eq!(shop.remote_head(), one, "after {name}");
    }
    let events = cluster.gantry(&["events"]).good().out;
    for expected in ["the branch main was damaged and is at", "HEAD was damaged", "config was damaged"] {
        assert!(events.contains(expected), "{expected:?} is not in\n{events}");
    }
    shop.write("server.py", &SERVER.replace("VERSION", "two"));
    shop.commit("two");
    let pushed = shop.push().good();
    assert!(pushed.err.contains("the branch main was damaged"), "{pushed:?}");
    assert!(page(&cluster, "shop").starts_with("two"));
    // All objects are lost while the server is down: the next push sends all of them again.
    for entry in std::fs::read_dir(path.join("objects/pack")).expect("read").flatten() {
        std::fs::remove_file(entry.path()).expect("removed");
    }
    cluster.kill_service("server");
    cluster.wait("it was found", |cluster| {
        cluster.gantry(&["events"]).out.contains("its objects are damaged").then_some(())
    });
    let three = push_site(&shop, "three");
    assert!(page(&cluster, "shop").starts_with("three"));
    assert_eq!(shop.remote_head(), three);
    let mut log = Command::new("git");
    log.arg("--git-dir").arg(&path).args(["rev-list", "--count", "main"]);
    assert_eq!(run(log).good().out.trim(), "3");
}

/// 50 losses of power at random moments, during five operations in turn.
#[test]
fn fifty_power_losses_at_any_moment() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    let disk = Disk::new();
    let mut cluster = TestCluster::start_on(&disk.path(), &["--bake-time", "1"]);
    let shop = site(&cluster, "shop", 1);
    let mut acknowledged = push_site(&shop, "v0");
    let file = disk.path().join("backup.tar").display().to_string();
    let mut backed_up: Option<String> = None;
    for round in 1..=50 {
        let moment = Duration::from_millis(rand::random::<u64>() % 2500);
        eprintln!("round {round}: {moment:?}");
        let version = format!("v{round}");
        let restores = round % 5 == 0 && backed_up.is_some();
        if restores {
            // No process runs, and the loss of power interrupts a restore.
            disk.stop();
            after_the_stop(&mut cluster, &disk);
            clear(&cluster);
            let mut restoring = Command::new(program("gantry"));
            restoring.args(["restore", &file, "--machine", "m"]).arg("--data").arg(cluster.path("data"));
            let mut restoring = restoring.arg("--run").arg(cluster.path("run")).spawn().expect("started");
            std::thread::sleep(moment / 4);
            disk.stop();
            let done = restoring.wait().expect("ended").success();
            disk.start();
            if !cluster.path("data/server/store.db").exists() {
                assert!(!done, "round {round}: a restore was acknowledged, and nothing is there");
                clear_what_is_there(&cluster);
                let _ = offline(&cluster, &["restore", &file]).good();
            }
            cluster.up();
            acknowledged = backed_up.clone().expect("backed up");
            assert_eq!(shop.remote_head(), acknowledged, "round {round}");
            shop.git(&["reset", "--quiet", "--hard", &acknowledged]);
        } else {
            let asked = match round % 5 {
                1 | 3 => {
                    let commit = change(&shop, &version);
                    let mut pushing = shop.push_in_background();
                    std::thread::sleep(moment);
                    disk.stop();
                    after_the_stop(&mut cluster, &disk);
                    let done = pushing.wait().expect("ended").success();
                    Some((commit, done))
                }
                2 => {
                    let app = format!("app{round}");
                    let mut creating = cluster.gantry_into("create", &["app", "create", &app]);
                    std::thread::sleep(moment / 20);
                    disk.stop();
                    after_the_stop(&mut cluster, &disk);
                    let done = creating.wait().expect("ended").success();
                    cluster.up();
                    if done {
                        is_whole(&cluster, &app);
                        let _ = cluster.gantry(&["app", "show", &app]).good();
                    }
                    None
                }
                _ => {
                    let set = format!("ROUND={round}");
                    let mut setting = cluster.gantry_into("set", &["config", "set", "shop", &set]);
                    let saved = offline(&cluster, &["backup", &file]);
                    if saved.status == 0 {
                        backed_up = Some(shop.remote_head());
                    }
                    std::thread::sleep(moment / 2);
                    disk.stop();
                    after_the_stop(&mut cluster, &disk);
                    let _ = setting.wait();
                    None
                }
            };
            if cluster.service_pid("server").is_none() {
                cluster.up();
            }
            let head = shop.remote_head();
            match asked {
                Some((commit, true)) => assert_eq!(head, commit, "round {round}: it was acknowledged"),
                Some((commit, false)) => assert!(head == commit || head == acknowledged, "round {round}: {head}"),
                None => assert_eq!(head, acknowledged, "round {round}"),
            }
            acknowledged = head;
        }
        is_whole(&cluster, "shop");
        cluster.wait("the deploys are over", |cluster| {
            let shown = cluster.gantry(&["app", "show", "shop", "--json"]).out;
            serde_json::from_str::<serde_json::Value>(&shown).ok()?["deploy"].is_null().then_some(())
        });
    }
    push_site(&shop, "last");
    assert!(page(&cluster, "shop").starts_with("last"));
    drop(cluster);
}

/// Removes the remains of an interrupted restore.
fn clear_what_is_there(cluster: &TestCluster) {
    for name in ["blobs", "git", "builds"] {
        let _ = std::fs::remove_dir_all(cluster.path("data/server").join(name));
    }
}
