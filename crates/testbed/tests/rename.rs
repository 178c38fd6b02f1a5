//! `gantry app rename`: an app gets another name without a failed request, and keeps its releases and volumes.

mod site;

use std::time::Duration;

use gantry_testbed::TestCluster;
use gantry_testbed::load::{Load, PLAIN, Target};
use site::{page, push_site, site};

/// Roles of an app that writes the number of its starts to a volume.
const BOOKS: &str = "{ web: {
    command: 'echo start >>/data/starts; exec python3 server.py', volumes: { data: '/data' }, health: { path: '/up' },
} }";

/// Renames an app under load, and takes the renamed app through a push and a rollback.
fn under_load(cluster: &TestCluster) {
    let shop = site(cluster, "shop", 2);
    push_site(&shop, "one");
    push_site(&shop, "two");
    let ci = cluster.gantry(&["token", "create", "ci", "--deploy", "shop"]).good().out;
    let target = Target::shop(cluster.http_port(), &PLAIN, Duration::from_millis(10));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 4, Duration::from_secs(90)) });
    let renamed = cluster.gantry(&["app", "rename", "shop", "store"]).good();
    assert!(renamed.err.contains("shop is store now") && renamed.err.contains("/git/store.git"), "{renamed:?}");
    cluster.wait("nothing of the name is left", |cluster| {
        let shown = cluster.gantry(&["app", "show", "shop"]);
        shown.err.contains("there is no app shop").then_some(())
    });
    let before = load.sent();
    cluster.wait("load goes on", |_| (load.sent() > before + 50).then_some(()));
    let report = runtime.block_on(load.end());
    assert!(report.failed == 0 && report.sent > 100, "{report:?}");
    assert!(page(cluster, "shop").starts_with("two ") && page(cluster, "store").starts_with("two "));
    let ps = cluster.gantry(&["ps"]).good().out;
    assert!(ps.contains("store.v3.web-2") && !ps.contains("shop."), "{ps}");

    assert!(cluster.gantry_as(ci.trim(), &["app", "show", "store"]).status == 0, "its token deploys it");
    let moved = cluster.repository("store", None);
    let head = shop.git(&["rev-parse", "HEAD"]).out;
    assert_eq!(moved.remote_head(), head.trim());
    let url = moved.git(&["config", "remote.gantry.url"]).out;
    shop.git(&["config", "remote.gantry.url", url.trim()]);
    push_site(&shop, "three");
    assert!(page(cluster, "store").starts_with("three "));
    let _ = cluster.gantry(&["rollback", "store", "v1"]).good();
    assert!(page(cluster, "store").starts_with("one "));
    let refused = cluster.gantry(&["app", "create", "shop"]);
    assert!(refused.status != 0 && refused.err.contains("gantry app host store --rm shop.localhost"), "{refused:?}");
}

/// An app with a volume: the old copy ends first, and the new copy has the data. An abort leaves the name as it was.
fn with_a_volume(cluster: &TestCluster) {
    let books = site(cluster, "books", 1);
    books.write("container/roles.json", BOOKS);
    push_site(&books, "one");
    let starts = |app: &str| cluster.gantry(&["exec", app, "--", "wc", "-l", "/data/starts"]).out;
    assert!(starts("books").starts_with("1 "), "{}", starts("books"));
    let mut rename = cluster.gantry_into("rename.log", &["app", "rename", "books", "library"]);
    cluster
        .wait("the rename is called off", |cluster| (cluster.gantry(&["abort", "library"]).status == 0).then_some(()));
    assert!(!rename.wait().expect("waited").success());
    cluster.wait("the name is free", |cluster| {
        cluster.gantry(&["app", "show", "library"]).err.contains("there is no app").then_some(())
    });
    cluster.wait("it serves as before", |cluster| page(cluster, "books").starts_with("one ").then_some(()));
    let before: u32 = starts("books").split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    let _ = cluster.gantry(&["app", "rename", "books", "library"]).good();
    assert!(page(cluster, "books").starts_with("one ") && page(cluster, "library").starts_with("one "));
    assert!(starts("library").starts_with(&format!("{} ", before + 1)), "{} after {before}", starts("library"));
}

#[test]
fn an_app_is_renamed_without_a_failed_request() {
    let cluster = TestCluster::start(&[]);
    std::thread::scope(|scope| {
        scope.spawn(|| under_load(&cluster));
        scope.spawn(|| with_a_volume(&cluster));
    });
}
