//! The same cloud with its store in a real etcd.

mod site;

use gantry_testbed::{Etcd, TestCluster};
use site::{page, push_site, site};

#[test]
fn a_cloud_on_etcd_does_the_same() {
    let etcd = Etcd::start();
    let cluster = TestCluster::start(&["--store", &etcd.address()]);
    let repository = site(&cluster, "shop", 2);
    push_site(&repository, "one");
    push_site(&repository, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let _ = cluster.gantry(&["rollback", "shop"]).good();
    assert!(page(&cluster, "shop").starts_with("one"));
    cluster.kill_service("server");
    cluster.wait("the server is back with everything", |cluster| {
        cluster.gantry(&["app", "show", "shop"]).out.contains("2/2").then_some(())
    });
    push_site(&repository, "three");
    assert!(page(&cluster, "shop").starts_with("three"));
    assert!(!cluster.path("data/server/store.db").exists());
}

/// Removes all records, as a new etcd has none.
fn remove_records(etcd: &Etcd) {
    let _ = etcd.call(0, "kv/deleterange", r#"{"key":"AA==","range_end":"AA=="}"#).good();
}

/// A restore is killed once the records have their mark, and once a part of them is there. Nothing uses such a store.
fn killed_in_the_middle(cluster: &TestCluster, file: &str) {
    for failpoint in ["copy.marked", "copy.part"] {
        std::fs::write(cluster.path("failpoints/kill"), format!("{failpoint}\n")).expect("armed");
        let folder = cluster.path("failpoints").display().to_string();
        let killed = cluster.offline_with(&[("GANTRY_FAILPOINTS", &folder)], &["restore", file]);
        let at = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
        assert!(killed.status != 0 && at.trim_end().ends_with(failpoint), "{at}: {killed:?}");
        let part = cluster.path("part.tar").display().to_string();
        for words in [&["store", "check"][..], &["check"], &["backup", &part]] {
            let refused = cluster.offline(words);
            assert!(refused.status == 1 && refused.err.contains("E_STORE_UNFINISHED"), "{words:?}: {refused:?}");
        }
    }
}

#[test]
fn a_cloud_on_etcd_with_client_certificates_is_checked_saved_and_restored() {
    let etcd = Etcd::with_client_certificates();
    let address = etcd.address();
    let mut cluster = TestCluster::start(&["--store", &address]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");

    // etcd serves no client without a certificate, and the commands name etcd.
    let (bare, _) = address.split_once("&cert=").expect("a client's certificate");
    let refused = cluster.offline(&["store", "check", "--store", bare]);
    assert!(refused.status == 1 && refused.err.contains("E_STORE_UNAVAILABLE"), "{refused:?}");
    assert!(refused.err.contains(&etcd.member(0)), "{refused:?}");

    let sound = cluster.offline(&["store", "check"]).good();
    assert!(sound.out.contains("sound: ") && sound.out.contains(" records"), "{sound:?}");
    let checked = cluster.offline(&["check"]).good();
    assert!(checked.out.contains(" blobs, 1 repositories"), "{checked:?}");
    let file = cluster.path("backup.tar").display().to_string();
    let saved = cluster.offline(&["backup", &file]).good();
    assert!(saved.out.contains(" records, revision ") && !saved.err.contains("warning"), "{saved:?}");

    // The records and the server's files are gone; etcd itself stays.
    let _ = cluster.down();
    let refused = cluster.offline(&["restore", &file]);
    assert!(refused.status == 1 && refused.err.contains("E_STORE_EXISTS"), "{refused:?}");
    remove_records(&etcd);
    for folder in ["blobs", "git", "builds"] {
        std::fs::remove_dir_all(cluster.path("data/server").join(folder)).expect("removed");
    }
    cluster.make_failpoints();
    killed_in_the_middle(&cluster, &file);
    let restored = cluster.offline(&["restore", &file]).good();
    assert!(restored.out.contains("records are back"), "{restored:?}");
    cluster.up();
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));
    push_site(&repository, "two");
    assert!(page(&cluster, "shop").starts_with("two"));
    let _ = cluster.offline(&["check"]).good();
}
