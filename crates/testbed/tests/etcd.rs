//! The same cloud with its store in a real etcd.

mod site;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use gantry_testbed::World;
use site::{page, push_site, site};

struct Etcd {
    child: Child,
    _folder: tempfile::TempDir,
    address: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn etcd() -> Etcd {
    let folder = tempfile::tempdir().expect("a folder");
    let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
    let child = Command::new("etcd")
        .args(["--name", "t", "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("t={peer}"), "--data-dir"])
        .arg(folder.path().join("data"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd; install Debian's etcd-server");
    let address = format!("etcd://{}/test", client.trim_start_matches("http://"));
    Etcd { child, _folder: folder, address }
}

#[test]
fn a_cloud_on_etcd_does_the_same() {
    let etcd = etcd();
    let world = World::start(&["--store", &etcd.address]);
    let repository = site(&world, "shop", 2);
    push_site(&repository, "one");
    push_site(&repository, "two");
    assert!(page(&world, "shop").starts_with("two"));
    let _ = world.gantry(&["rollback", "shop"]).good();
    assert!(page(&world, "shop").starts_with("one"));
    world.kill_service("server");
    world.wait("the server is back with everything", |world| {
        world.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(())
    });
    push_site(&repository, "three");
    assert!(page(&world, "shop").starts_with("three"));
    assert!(!world.path("data/store.db").exists());
}
