//! Machines that lose their power, one after the other: the time until a replacement answers, and the requests that
//! fail meanwhile. `benches/failover` runs the long form.

mod cluster;
mod site;

use std::time::{Duration, Instant};

use cluster::{CHECKED, create_app, load_during, ready_copies, wait_for_copies_apart_from, wait_until_settled};
use gantry_testbed::{Fleet, kills, percentiles};
use site::push_site;

/// Time from the end of a machine to the first answer of a replacement above which something is wrong, however slow this
/// computer is. `benches/failover` compares with the reach.
const REPLACED_MAX: Duration = Duration::from_secs(20);

/// Copies of the app under load.
const COPIES: usize = 4;

#[test]
fn copies_of_a_lost_machine_answer_elsewhere_in_time() {
    let mut fleet = Fleet::start(5);
    // The server's machine is never killed, so it keeps no copy.
    let _ = fleet.gantry(&["machine", "cordon", "m1"]).good();
    for (name, copies) in [("shop", COPIES), ("single", 1)] {
        push_site(&create_app(&fleet, name, &format!("{CHECKED}, instances: {copies}")), name);
    }
    let (mut answered, mut restored, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..kills(2) {
        let victim = ready_copies(&fleet, "single").into_values().next().expect("a copy");
        let reports = load_during(&mut fleet, "shop", &["m1"], |fleet| {
            let begun = Instant::now();
            fleet.power_off(&victim);
            // The killed machine is the only one that could still have answered.
            let _ = fleet.wait("the replacement answers", |fleet| fleet.page_at_once("m1", "single"));
            answered.push(begun.elapsed());
            wait_for_copies_apart_from(fleet, "shop", COPIES, &[&victim]);
            restored.push(begun.elapsed());
        });
        failures.extend(reports.into_iter().filter(|(_, report)| report.failed > 0));
        fleet.power_on(&victim);
        wait_until_settled(&fleet, &[("shop", COPIES), ("single", 1)]);
    }
    println!("machine killed → replacement answers: {}", percentiles(&mut answered));
    println!("machine killed → all copies of the other app ready: {}", percentiles(&mut restored));
    let failed: u64 = failures.iter().map(|(_, report)| report.failed).sum();
    println!("failed requests of the app with {COPIES} copies: {failed}");
    assert_eq!(failed, 0, "{failures:?}");
    assert!(answered.iter().all(|took| *took < REPLACED_MAX), "{answered:?}");
}
