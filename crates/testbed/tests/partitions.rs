//! Faults of the machines of a fleet under load: cut cables, links in one direction, narrow links, processes that stand
//! still, machines that are emptied or vanish, and demands that no machine meets.
//!
//! One fleet serves all cases. After each case every machine has exactly the containers that the server reports, and no
//! request has failed.

mod cluster;
mod site;

use std::time::Instant;

use cluster::{
    Acknowledged, CHECKED, create_app, machine, ready_copies, under_load, wait_for_copies_apart_from, wait_for_state,
    wait_until_settled,
};
use gantry_testbed::{Fleet, Repository};
use site::{SERVER, push_site};

/// Copies of the app under load, on three of the four machines.
const COPIES: usize = 3;

#[test]
fn no_fault_of_a_machine_fails_a_request_that_a_living_copy_can_serve() {
    let mut fleet = Fleet::start(4);
    // The server's machine keeps no copy, so that the others lose one each time.
    let _ = fleet.gantry(&["machine", "cordon", "m1", "-m", "keeps no copy"]).good();
    let shop = create_app(&fleet, "shop", &format!("{CHECKED}, instances: {COPIES}"));
    push_site(&shop, "one");
    let mut acknowledged = Acknowledged::default();
    let mut case = |name: &str, fleet: &mut Fleet, run: &dyn Fn(&mut Fleet)| {
        let begun = Instant::now();
        run(fleet);
        acknowledged.change(fleet, name);
        wait_until_settled(fleet, &[("shop", COPIES)]);
        println!("{name}: {:?}", begun.elapsed());
    };
    case("cut-cable", &mut fleet, &a_machine_whose_cable_is_cut_is_replaced);
    case("deaf", &mut fleet, &a_machine_that_does_not_hear_the_server_goes_on_serving);
    case("unheard", &mut fleet, &a_machine_that_the_server_does_not_hear_goes_on_serving);
    case("narrow", &mut fleet, &a_narrow_link_delays_and_fails_nothing);
    case("agent-stands", &mut fleet, &an_agent_that_stands_still_moves_nothing);
    case("router-stands", &mut fleet, &|fleet| promotion_waits_for_a_router_that_stands_still(fleet, &shop));
    case("drain", &mut fleet, &a_drain_fails_no_request);
    case("full", &mut fleet, &a_drain_without_another_machine_reports_the_reason_and_keeps_serving);
    case("demand", &mut fleet, &a_demand_that_no_machine_meets_is_counted);
    case("vanishes", &mut fleet, &|fleet| a_deploy_ends_well_while_a_machine_vanishes(fleet, &shop));
    acknowledged.check(&fleet);
}

/// A machine with a copy of the app.
fn machine_with_a_copy(fleet: &Fleet) -> String {
    ready_copies(fleet, "shop").into_values().next().expect("a copy")
}

fn a_machine_whose_cable_is_cut_is_replaced(fleet: &mut Fleet) {
    let cut = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1"], |fleet| {
        fleet.unplug(&cut);
        wait_for_copies_apart_from(fleet, "shop", COPIES, &[&cut]);
        assert_eq!(machine(fleet, &cut)["state"], "lost");
        fleet.plug(&cut);
        wait_until_settled(fleet, &[("shop", COPIES)]);
    });
}

fn a_machine_that_does_not_hear_the_server_goes_on_serving(fleet: &mut Fleet) {
    let cut = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1", &cut], |fleet| {
        fleet.drop_packets_from(&cut, &["m1"]);
        wait_for_state(fleet, &cut, "lost");
        wait_for_copies_apart_from(fleet, "shop", COPIES, &[&cut]);
        fleet.drop_packets_from(&cut, &[]);
        wait_until_settled(fleet, &[("shop", COPIES)]);
    });
}

fn a_machine_that_the_server_does_not_hear_goes_on_serving(fleet: &mut Fleet) {
    let cut = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1", &cut], |fleet| {
        fleet.drop_packets_from("m1", &[&cut]);
        wait_for_state(fleet, &cut, "lost");
        wait_for_copies_apart_from(fleet, "shop", COPIES, &[&cut]);
        fleet.drop_packets_from("m1", &[]);
        wait_until_settled(fleet, &[("shop", COPIES)]);
    });
}

fn a_narrow_link_delays_and_fails_nothing(fleet: &mut Fleet) {
    let slow = machine_with_a_copy(fleet);
    let before = ready_copies(fleet, "shop");
    under_load(fleet, "shop", &["m1", &slow], |fleet| {
        fleet.limit(&slow, Some(128));
        // The image of the release is on the machine. A change of the server still reaches it.
        let _ = fleet.gantry(&["scale", "shop", "web=4", "--wait"]).good();
        let _ = fleet.gantry(&["scale", "shop", &format!("web={COPIES}"), "--wait"]).good();
        fleet.limit(&slow, None);
    });
    assert_eq!(ready_copies(fleet, "shop"), before, "nothing has moved");
}

fn an_agent_that_stands_still_moves_nothing(fleet: &mut Fleet) {
    let still = machine_with_a_copy(fleet);
    let before = ready_copies(fleet, "shop");
    under_load(fleet, "shop", &["m1", &still], |fleet| {
        fleet.signal(&still, "agent", "STOP");
        wait_for_state(fleet, &still, "suspected");
        assert_eq!(ready_copies(fleet, "shop"), before, "the router proves that the machine lives");
        fleet.signal(&still, "agent", "CONT");
        wait_for_state(fleet, &still, "ready");
    });
    assert_eq!(ready_copies(fleet, "shop"), before);
}

fn promotion_waits_for_a_router_that_stands_still(fleet: &mut Fleet, shop: &Repository) {
    let still = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1"], |fleet| {
        fleet.signal(&still, "router", "STOP");
        shop.write("server.py", &SERVER.replace("VERSION", "two"));
        shop.commit("two");
        let mut push = shop.push_in_background();
        fleet.wait("`gantry why` names the router", |fleet| {
            let why = fleet.gantry(&["why", "shop"]).out;
            why.contains(&format!("the router on {still} has acknowledged routing table")).then_some(())
        });
        assert!(push.try_wait().expect("a process").is_none(), "the push waits, too");
        fleet.signal(&still, "router", "CONT");
        assert!(push.wait().expect("ended").success(), "{}", fleet.gantry(&["why", "shop"]).all());
    });
    for name in fleet.names() {
        let page = fleet.curl(&name, "shop").good().out;
        assert!(page.starts_with("two"), "{name}: {page}");
    }
}

fn a_drain_fails_no_request(fleet: &mut Fleet) {
    let left = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1", &left], |fleet| {
        let _ = fleet.gantry(&["machine", "drain", &left, "--deadline", "1m", "-m", "new disk"]).good();
        fleet.wait("the machine is empty", |fleet| (machine(fleet, &left)["instances"] == 0).then_some(()));
        assert_eq!(machine(fleet, &left)["reason"], "new disk");
        let _ = fleet.gantry(&["machine", "uncordon", &left]).good();
    });
}

fn a_drain_without_another_machine_reports_the_reason_and_keeps_serving(fleet: &mut Fleet) {
    let _ = fleet.gantry(&["machine", "label", "m2", "disk=ssd"]).good();
    let books = create_app(fleet, "books", &format!("{CHECKED}, placement: {{ labels: {{ disk: 'ssd' }} }}"));
    push_site(&books, "one");
    under_load(fleet, "books", &["m1", "m2"], |fleet| {
        let _ = fleet.gantry(&["machine", "drain", "m2"]).good();
        let shown = fleet.wait("only the copy that cannot leave is there", |fleet| {
            let shown = machine(fleet, "m2");
            (shown["instances"] == 1).then_some(shown)
        });
        let stays = shown["stays"].to_string();
        for reason in ["books.v1.web-1 stays on m2", "2: label disk has no required value", "1: cordoned"] {
            assert!(stays.contains(reason), "{reason}: {shown}");
        }
        let _ = fleet.gantry(&["machine", "uncordon", "m2"]).good();
    });
    let _ = fleet.gantry(&["machine", "label", "m2", "disk-"]).good();
    let _ = fleet.gantry(&["app", "destroy", "books", "--confirm", "books"]).good();
}

fn a_demand_that_no_machine_meets_is_counted(fleet: &mut Fleet) {
    let tapes = create_app(fleet, "tapes", &format!("{CHECKED}, placement: {{ labels: {{ disk: 'tape' }} }}"));
    tapes.write("server.py", &SERVER.replace("VERSION", "one"));
    tapes.commit("one");
    let mut push = tapes.push_in_background();
    fleet.wait("`gantry why` counts the machines", |fleet| {
        let why = fleet.gantry(&["why", "tapes"]).out;
        let counts = ["no machine takes tapes.v1.web-1", "3: label disk has no required value", "1: cordoned"];
        counts.iter().all(|count| why.contains(count)).then_some(())
    });
    let _ = fleet.gantry(&["abort", "tapes"]).good();
    assert!(!push.wait().expect("ended").success());
    let _ = fleet.gantry(&["app", "destroy", "tapes", "--confirm", "tapes"]).good();
}

fn a_deploy_ends_well_while_a_machine_vanishes(fleet: &mut Fleet, shop: &Repository) {
    let gone = machine_with_a_copy(fleet);
    under_load(fleet, "shop", &["m1"], |fleet| {
        shop.write("server.py", &SERVER.replace("VERSION", "three"));
        shop.commit("three");
        let mut push = shop.push_in_background();
        fleet.wait("a copy of the new release is there", |fleet| {
            fleet.gantry(&["ps", "shop"]).out.contains("shop.v3.").then_some(())
        });
        fleet.power_off(&gone);
        assert!(push.wait().expect("ended").success(), "{}", fleet.gantry(&["why", "shop"]).all());
        wait_for_copies_apart_from(fleet, "shop", COPIES, &[&gone]);
        let page = fleet.curl("m1", "shop").good().out;
        assert!(page.starts_with("three"), "{page}");
    });
    fleet.power_on(&gone);
}
