//! `gantry snapshot`: images as a file, for machines that start without a registry.

use std::path::Path;

use gantry_testbed::TestCluster;
use serde_json::Value;

/// A cluster with a base, and an app whose copy holds an image.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start(&["--collect-every", "1s", "--collect-grace", "0s"]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", "{ worker: { command: 'sleep 100000' } }");
    shop.commit("one");
    let _ = shop.push().good();
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let _ = cluster.gantry(&["base", "import", "python", &archive]).good();
    cluster
}

fn load(cluster: &TestCluster, data: &Path, file: &Path) -> gantry_testbed::Output {
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    cluster.gantry(&["snapshot", "load", "--data", &text(data), "--run", &text(&data.join("run")), &text(file)])
}

/// Names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_brings_every_image_and_damage_brings_none() {
    let cluster = cluster();
    let file = cluster.path("images.snapshot");
    let data = cluster.path("data");
    let flags = ["--data", data.to_str().expect("text")];
    let saved = cluster.gantry(&[&["snapshot", "save"], &flags[..], &[file.to_str().expect("text")]].concat()).good();
    assert!(saved.out.contains("base/python") && saved.out.contains("base/debian"), "{}", saved.all());
    let images = saved.out.lines().count();
    let held = names(&data.join("images"));
    assert!(held.iter().all(|image| saved.out.contains(image.as_str())), "{held:?}\n{}", saved.out);
    // A cut file and a damaged layer: refused whole, nothing written.
    let whole = std::fs::read(&file).expect("read");
    let (cut, damaged, fresh) = (cluster.path("cut"), cluster.path("damaged"), cluster.path("fresh"));
    std::fs::write(&cut, &whole[..whole.len() - 2000]).expect("written");
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).expect("written");
    for broken in [&cut, &damaged] {
        let refused = load(&cluster, &fresh, broken);
        assert!(refused.status != 0 && refused.all().contains("E_INVALID_SNAPSHOT"), "{}", refused.all());
        assert!(!fresh.exists(), "{}", refused.all());
    }
    // A kill between the steps leaves whole layers; the next load goes on.
    cluster.make_failpoints();
    for failpoint in ["snapshot.checked", "snapshot.layer", "snapshot.image"] {
        std::fs::write(cluster.path("failpoints/kill"), format!("{failpoint}\n")).expect("written");
        let folder = cluster.path("failpoints");
        let environment = [("GANTRY_FAILPOINTS", folder.to_str().expect("text"))];
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let arguments = ["snapshot", "load", "--data", &text(&fresh), "--run", &text(&fresh.join("run")), &text(&file)];
        assert_ne!(cluster.gantry_with(&environment, &arguments).status, 0, "{failpoint}");
    }
    let loaded = load(&cluster, &fresh, &file).good();
    assert_eq!(loaded.out.lines().count(), images, "{}", loaded.all());
    let there = names(&fresh.join("images"));
    assert_eq!(there.len(), images);
    for image in &there {
        assert!(fresh.join("images").join(image).join("snapshot").exists(), "{image} has no mark");
    }
    assert!(names(&fresh.join("layers")).iter().all(|name| !name.starts_with("new-")), "a half-made layer is left");
    // The same files as those that the agent unpacked itself.
    for layer in names(&data.join("layers")).iter().filter(|name| name.len() == 64) {
        let same = gantry_testbed::run({
            let mut diff = std::process::Command::new("diff");
            diff.args(["-r", "--no-dereference", "-q"])
                .arg(data.join("layers").join(layer))
                .arg(fresh.join("layers").join(layer));
            diff
        });
        assert_eq!(same.status, 0, "{}", same.all());
    }
    // On the machine itself: garbage collection keeps the images of the snapshot, also those that nothing runs on.
    let _ = load(&cluster, &data, &file).good();
    let _ = cluster.gantry(&["scale", "shop", "worker=0", "--wait"]).good();
    let before = names(&data.join("images"));
    assert_eq!(before.len(), images);
    // An image that nothing runs on and that has no mark.
    let unused = data.join("images").join("f".repeat(64));
    std::fs::create_dir(&unused).expect("made");
    cluster.wait("garbage was collected", |_| (!unused.exists()).then_some(()));
    assert_eq!(names(&data.join("images")), before);
    let shown: Value = serde_json::from_str(&cluster.gantry(&["base", "ls", "--json"]).good().out).expect("JSON");
    assert!(shown.as_array().is_some_and(|bases| bases.len() >= 2), "{shown}");
}
