//! A fleet whose machines have other times, and whose agents and routers find damaged files.

mod cluster;
mod site;

use std::path::PathBuf;

use cluster::{CHECKED, create_app, machine, ready_copies, under_load, wait_until_settled};
use gantry_testbed::{Fleet, ShiftedClock};
use site::push_site;

const MINUTE: i64 = 60_000;

/// Copies of the app under load, one for each machine.
const COPIES: usize = 3;

#[test]
fn neither_a_wrong_clock_nor_a_damaged_file_takes_a_machine_out_of_its_cluster() {
    let mut fleet = Fleet::start(1);
    let clocks = machines_with_other_times_join(&mut fleet);
    let shop = create_app(&fleet, "shop", &format!("{CHECKED}, instances: {COPIES}"));
    push_site(&shop, "one");
    for name in fleet.names() {
        let page = fleet.curl(&name, "shop").good().out;
        assert!(page.starts_with("one"), "{name}: {page}");
    }
    clocks_that_jump_hold_up_no_deploy(&mut fleet, &clocks);
    for file in ["plan.json", "users.json", "policy.json", "router/table.json", "machine-id", "instance.json"] {
        a_damaged_file_is_made_good(&mut fleet, file);
    }
}

/// Certificates begin an hour before they are issued: a machine with a clock further behind learns why it cannot join.
fn machines_with_other_times_join(fleet: &mut Fleet) -> [ShiftedClock; 2] {
    let clocks = [ShiftedClock::new(), ShiftedClock::new()];
    let [behind, ahead] = [fleet.add(), fleet.add()];
    let join = |fleet: &Fleet, name: &str| fleet.join(name, &fleet.join_token(&["--role", "agent"]));
    clocks[0].set(-120 * MINUTE);
    fleet.set_clock(&behind, &clocks[0]);
    let refused = join(fleet, &behind);
    assert!(refused.status == 1 && refused.err.contains("E_CLOCK_OFF"), "{refused:?}");
    clocks[0].set(-10 * MINUTE);
    clocks[1].set(10 * MINUTE);
    fleet.set_clock(&ahead, &clocks[1]);
    for name in [&behind, &ahead] {
        let _ = join(fleet, name).good();
        fleet.up(name);
    }
    fleet.wait_until_ready(&fleet.names());
    offsets_are_told(fleet, &behind, &ahead);
    clocks
}

fn offsets_are_told(fleet: &Fleet, behind: &str, ahead: &str) {
    fleet.wait("the status has the offsets of both clocks", |fleet| {
        let status = fleet.gantry(&["status", "--json"]).good().out;
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let offset = |name: &str| status["machines"][name]["clock_offset_millis"].as_i64();
        let is_about = |name: &str, minutes: i64| offset(name).is_some_and(|by| (by - minutes * MINUTE).abs() < MINUTE);
        (is_about(behind, -10) && is_about(ahead, 10) && offset("m1").is_none()).then_some(())
    });
    let shown = fleet.gantry(&["status"]).good().out;
    for part in [
        format!("machine  {behind}: heard "),
        "behind the server's\n".to_owned(),
        format!("set the clock on {behind} (`timedatectl set-ntp true`)"),
        format!("the clock of {ahead} is "),
    ] {
        assert!(shown.contains(&part), "{part}: {shown}");
    }
}

fn clocks_that_jump_hold_up_no_deploy(fleet: &mut Fleet, clocks: &[ShiftedClock]) {
    under_load(fleet, "shop", &["m1", "m2"], |fleet| {
        clocks[0].set(10 * MINUTE);
        clocks[1].set(-10 * MINUTE);
        for name in ["m2", "m3"] {
            let seen = machine(fleet, name)["seen"].as_u64();
            fleet.wait("the machine reports on", |fleet| {
                (machine(fleet, name)["seen"].as_u64() > seen.map(|seen| seen + 3_000)).then_some(())
            });
        }
        let _ = fleet.gantry(&["config", "set", "shop", "A=1"]).good();
        wait_until_settled(fleet, &[("shop", COPIES)]);
    });
}

/// Damages a file of m2 while its agent and its router are dead, and waits until everything is as before.
fn a_damaged_file_is_made_good(fleet: &mut Fleet, file: &str) {
    let damaged = "m2";
    let id = machine(fleet, damaged)["id"].clone();
    under_load(fleet, "shop", &["m1"], |fleet| {
        let path = path(fleet, damaged, file);
        assert!(path.is_file(), "{}", path.display());
        for service in ["agent", "router"] {
            fleet.signal(damaged, service, "STOP");
        }
        std::fs::write(&path, "\0\0{ torn").expect("damaged");
        for service in ["agent", "router"] {
            fleet.signal(damaged, service, "KILL");
        }
        for service in ["agent", "router"] {
            fleet.wait("the service is back", |fleet| fleet.service(damaged, service));
        }
        wait_until_settled(fleet, &[("shop", COPIES)]);
    });
    assert_eq!(machine(fleet, damaged)["id"], id, "{file}: the machine is the same");
    let page = fleet.curl(damaged, "shop").good().out;
    assert!(page.starts_with("one"), "{file}: {page}");
}

fn path(fleet: &Fleet, name: &str, file: &str) -> PathBuf {
    if file != "instance.json" {
        return fleet.path(name, "data").join(file);
    }
    let copies = ready_copies(fleet, "shop");
    let (copy, _) = copies.iter().find(|(_, machine)| *machine == name).expect("a copy");
    fleet.path(name, "data/containers").join(copy).join(file)
}
