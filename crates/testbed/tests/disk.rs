//! A disk that becomes read-only under a running cloud: reads continue, and changes are refused with the cause. When
//! the disk is repaired, everything resumes by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_testbed::{TestCluster, run};

/// A file system of the test's own.
struct Disk {
    folder: tempfile::TempDir,
}

fn tool(name: &str, arguments: &[&str], paths: &[&Path]) {
    let mut command = Command::new(name);
    command.args(arguments).args(paths);
    let _ = run(command).good();
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Self { folder };
        std::fs::File::create(disk.path("image")).and_then(|file| file.set_len(1200 << 20)).expect("an image");
        std::fs::create_dir(disk.path("disk")).expect("made");
        tool("mkfs.ext4", &["-q", "-F", "-e", "remount-ro"], &[&disk.path("image")]);
        tool("mount", &["-o", "loop"], &[&disk.path("image"), &disk.path("disk")]);
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the kernel report an error and remount the file system read-only.
    fn fail(&self) {
        tool("mount", &["-o", "remount,abort"], &[&self.path("disk")]);
        let _ = std::fs::write(self.path("disk/touch"), "x");
        let probe = std::fs::write(self.path("disk/probe"), "x");
        assert!(probe.is_err(), "it takes writes still");
    }

    /// Replaces the file system by a repaired copy: the kernel releases the original only when no process uses it any
    /// more.
    fn repair(&self) {
        tool("cp", &["--sparse=always"], &[&self.path("image"), &self.path("repaired")]);
        let mut check = Command::new("e2fsck");
        check.args(["-f", "-y"]).arg(self.path("repaired"));
        let _ = run(check);
        tool("umount", &["-l"], &[&self.path("disk")]);
        tool("mount", &["-o", "loop"], &[&self.path("repaired"), &self.path("disk")]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(self.path("disk"));
        let _ = run(unmount);
    }
}

#[test]
fn serves_reads_on_a_read_only_disk_and_recovers() {
    let disk = Disk::new();
    let mut cluster = TestCluster::start_on(&disk.path("disk"), &["--reserve", "1M"]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", "{ worker: { command: 'echo begun; exec sleep 100000', memory: '16M' } }");
    shop.commit("one");
    let _ = shop.push().good();
    let _ = cluster.gantry(&["config", "set", "shop", "COLOR=blue"]).good();
    disk.fail();

    let reads = |cluster: &TestCluster| {
        let status = cluster.gantry(&["status"]);
        let alive = status.status == 0 && status.out.contains("cannot be written to");
        let all = [&["why", "shop"][..], &["ps", "shop"], &["logs", "shop"], &["events"], &["releases", "shop"]];
        alive && all.iter().all(|words| cluster.gantry(words).status == 0)
    };
    let refuses = |cluster: &TestCluster| {
        let refused = cluster.gantry(&["config", "set", "shop", "COLOR=red"]);
        assert_ne!(refused.status, 0);
        refused.err.contains("cannot be written to")
    };
    cluster.wait("reads are answered", |cluster| reads(cluster).then_some(()));
    cluster.wait("changes are refused by name", |cluster| refuses(cluster).then_some(()));
    assert!(cluster.gantry(&["config", "get", "shop", "COLOR"]).good().out.contains("blue"));
    // A service that ends is restarted and serves what the read-only disk allows.
    for service in ["server", "agent", "router"] {
        cluster.kill_service(service);
    }
    cluster.wait("reads are answered again", |cluster| reads(cluster).then_some(()));
    cluster.wait("changes are refused again", |cluster| refuses(cluster).then_some(()));
    shop.write("two", "2");
    shop.commit("two");
    let refused = shop.push();
    assert!(refused.status != 0 && refused.all().contains("a push must write to it"), "{refused:?}");
    // `gantry why` says why a crashed instance is not restarted.
    let (_, pid) = cluster.containers().into_iter().next().expect("an instance");
    cluster.signal("KILL", pid);
    cluster.wait("why says why not", |cluster| {
        cluster.gantry(&["why", "shop"]).out.contains("is read-only").then_some(())
    });

    disk.repair();
    cluster.wait("changes are taken", |cluster| {
        (cluster.gantry(&["config", "set", "shop", "COLOR=green"]).status == 0).then_some(())
    });
    cluster.wait("the instance is back, and nothing is wrong any more", |cluster| {
        let status = cluster.gantry(&["status"]).out;
        let ps = cluster.gantry(&["ps", "shop"]).out;
        (!status.contains("cannot be written to") && ps.contains("ready")).then_some(())
    });
    // The lock of `up` is on the replaced file system.
    cluster.signal("TERM", cluster.up_pid());
    let _ = cluster.down().good();
}
