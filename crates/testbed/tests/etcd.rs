//! The same cloud with its store in a real etcd.

mod site;

use gantry_testbed::{Etcd, World};
use site::{page, push_site, site};

#[test]
fn a_cloud_on_etcd_does_the_same() {
    let etcd = Etcd::start();
    let world = World::start(&["--store", &etcd.address()]);
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
    assert!(!world.path("data/server/store.db").exists());
}
