//! Layers from machines that have them: many machines want one image at once, and the servers send two copies. Machines
//! die in the middle, and send wrong bytes.

mod cluster;
mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cluster::{CHECKED, create_app, ready_copies};
use gantry_testbed::Fleet;
use site::push_site;

/// Machines of the fleet, the server's among them.
const MACHINES: u8 = 7;

/// Bytes of the random file in the image.
const SIZE: u64 = 24 << 20;

/// Bytes beside the layers that the server may send: manifests, the plan, reports.
const SLACK: u64 = 6 << 20;

/// Kilobits per second of the server while a machine dies: the file takes some seconds.
const NARROW: u32 = 60_000;

/// Bytes that a machine has sent on its cable.
fn sent(fleet: &Fleet, machine: &str) -> u64 {
    // The ninth number of the device's line: sent bytes.
    let devices = fleet.run_on(machine, "cat", &["/proc/net/dev"]).good().out;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("a cable");
    line.split_whitespace().nth(8).expect("sent bytes").parse().expect("a number")
}

/// Creates an app with a random file in its image and without copies.
fn app(fleet: &Fleet, name: &str) {
    let shop = create_app(fleet, name, &format!("{CHECKED}, instances: 0"));
    shop.compile_with(&format!("head -c {SIZE} /dev/urandom > random-{name}"));
    push_site(&shop, name);
}

/// A number in a line of a log.
fn number(line: &str, field: &str) -> Option<u64> {
    line.split(&format!(" {field}=")).nth(1)?.split(' ').next()?.parse().ok()
}

/// The layers that a machine fetched, by its log: the layer, its bytes, and how many of them servers sent.
fn fetched_by(fleet: &Fleet, machine: &str) -> Vec<(String, u64, u64)> {
    let read = |line: &str| {
        let layer = line.split(" layer=").nth(1)?.split(' ').next()?.trim_matches('"').to_owned();
        Some((layer, number(line, "bytes")?, number(line, "from_servers")?))
    };
    let log = fleet.log(machine);
    log.lines().filter(|line| line.contains("layer fetched")).filter_map(read).collect()
}

/// The layers that all machines fetched.
fn fetched(fleet: &Fleet) -> Vec<(String, u64, u64)> {
    fleet.names().iter().flat_map(|machine| fetched_by(fleet, machine)).collect()
}

/// The copies of each layer that servers sent, by the logs; and the bytes of the layers.
fn copies(fetched: &[(String, u64, u64)]) -> (BTreeMap<&str, f64>, u64) {
    let (mut copies, mut sizes) = (BTreeMap::<&str, f64>::new(), BTreeMap::new());
    for (layer, bytes, from_servers) in fetched {
        *copies.entry(layer.as_str()).or_default() += *from_servers as f64 / (*bytes).max(1) as f64;
        sizes.insert(layer, *bytes);
    }
    (copies, sizes.values().sum())
}

fn wait_for_pages(fleet: &Fleet, app: &str, machines: &[String]) {
    fleet.wait("every machine has a copy", |fleet| {
        let ready = ready_copies(fleet, app);
        machines.iter().all(|name| ready.values().any(|machine| machine == name)).then_some(())
    });
    for machine in machines {
        let page = fleet.curl(machine, app).good().out;
        assert!(page.starts_with(app), "{machine}: {page}");
    }
}

/// Size of a part of a layer.
const PART: u64 = 4 << 20;

/// The file of a layer that a machine receives in parts, once the second part arrives.
fn receiving(fleet: &Fleet, machine: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(fleet.path(machine, "data/shared-layers")).ok()?.flatten();
    let is_part = |path: &PathBuf| {
        let is_new = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("parts-"));
        is_new && path.metadata().is_ok_and(|metadata| metadata.len() > PART)
    };
    files.map(|file| file.path()).find(is_part)
}

/// Damages every layer that a machine has for others.
fn damage_shared_layers(fleet: &Fleet, machine: &str) {
    for file in std::fs::read_dir(fleet.path(machine, "data/shared-layers")).expect("a folder").flatten() {
        let mut bytes = std::fs::read(file.path()).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(file.path(), bytes).expect("written");
    }
}

#[test]
fn many_machines_take_two_copies_of_an_image_from_the_servers() {
    let mut fleet = Fleet::start(MACHINES);
    // The last machine comes later. No copy is on the server's machine, so that its cable carries the server's bytes.
    let last = format!("m{MACHINES}");
    for machine in ["m1", &last] {
        let _ = fleet.gantry(&["machine", "cordon", machine]).good();
    }
    let takers: Vec<String> = fleet.names().into_iter().filter(|name| *name != "m1" && *name != last).collect();

    app(&fleet, "shop");
    let before = sent(&fleet, "m1");
    let _ = fleet.gantry(&["scale", "shop", &format!("web={}", takers.len())]).good();
    wait_for_pages(&fleet, "shop", &takers);
    let by_cable = sent(&fleet, "m1") - before;
    let lines = fetched(&fleet);
    let (by_layer, image) = copies(&lines);
    assert!(image > SIZE && by_layer.values().all(|copies| *copies <= 2.0), "{lines:?}");
    assert!(by_cable > image && by_cable <= 2 * image + SLACK, "{by_cable} bytes for an image of {image}");
    println!("{} machines, image of {image} bytes: the server sent {by_cable} bytes, {by_layer:?}", takers.len());

    a_receiver_dies(&mut fleet, &takers);
    a_receiver_is_killed(&fleet, &takers);

    // Every machine that has the layers sends wrong bytes. The last machine tries some, and then the server.
    takers.iter().for_each(|machine| damage_shared_layers(&fleet, machine));
    let _ = fleet.gantry(&["machine", "uncordon", &last]).good();
    let _ = fleet.gantry(&["scale", "shop", &format!("web={}", takers.len() + 1)]).good();
    wait_for_pages(&fleet, "shop", std::slice::from_ref(&last));
    let log = fleet.log(&last);
    assert!(log.contains("sent wrong bytes of a layer; trying the next source"), "{log}");
    // Each wrong part came again from another source. The other parts stayed.
    let (_, bytes, from_servers) = fetched_by(&fleet, &last).into_iter().max_by_key(|line| line.1).expect("a layer");
    assert!(bytes > SIZE && from_servers < bytes, "{from_servers} of {bytes} bytes from the server\n{log}");
}

/// A machine loses its power while it receives a new image. All others get the image.
fn a_receiver_dies(fleet: &mut Fleet, takers: &[String]) {
    app(fleet, "blog");
    fleet.limit("m1", Some(NARROW));
    let before = sent(fleet, "m1");
    let _ = fleet.gantry(&["scale", "blog", &format!("web={}", takers.len())]).good();
    let dead = fleet.wait("a machine receives the layer", |fleet| {
        takers.iter().find(|machine| receiving(fleet, machine).is_some()).cloned()
    });
    fleet.power_off(&dead);
    let others: Vec<String> = takers.iter().filter(|machine| **machine != dead).cloned().collect();
    wait_for_pages(fleet, "blog", &others);
    let by_cable = sent(fleet, "m1") - before;
    // One copy was broken off; the plan's copy of the dead machine moves to a machine that has the image.
    assert!(by_cable <= 3 * SIZE + SLACK, "{by_cable} bytes");
    fleet.limit("m1", None);
    fleet.power_on(&dead);
    fleet.wait_until_ready(&fleet.names());
}

/// The agent of a machine is killed while it receives a new image. The next agent goes on with the parts that are there.
fn a_receiver_is_killed(fleet: &Fleet, takers: &[String]) {
    app(fleet, "wiki");
    fleet.limit("m1", Some(NARROW));
    let _ = fleet.gantry(&["scale", "wiki", "web=1"]).good();
    let killed = fleet.wait("a machine receives the layer", |fleet| {
        takers.iter().find(|machine| receiving(fleet, machine).is_some()).cloned()
    });
    fleet.signal(&killed, "agent", "KILL");
    wait_for_pages(fleet, "wiki", std::slice::from_ref(&killed));
    fleet.limit("m1", None);
    let log = fleet.log(&killed);
    let resumed = log.lines().filter_map(|line| number(line, "resumed")).max();
    assert!(resumed.is_some_and(|bytes| bytes >= PART), "{resumed:?} bytes from before the kill\n{log}");
}
