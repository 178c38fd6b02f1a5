//! Measurement for `benches/core`: status changes absorbed per second, and memory, in a cluster of 1,000 machines and
//! 100,000 copies. Reports are made up beforehand; planning is not part of the figures.

use std::time::{Duration, Instant};

use gantry_api::types::MachineReport;
use gantry_model::clock::ClockJumps;
use gantry_model::{App, Generation, InstanceGoal, InstanceId, InstancePhase, MachinePlan, Moment};

use super::state::{CoreEvent, CoreState};
use super::tests::{app_name, assignment, instance_id, machine_name, ready};
use gantry_records::{RecordIndex, StoreRecord};

const MACHINES: usize = 1_000;
const COPIES: usize = 100;

/// Memory of this process in MiB.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    (pages * 4096) >> 20
}

fn ids(machine: usize) -> impl Iterator<Item = InstanceId> {
    (0..COPIES).map(move |copy| {
        let number = machine * COPIES + copy;
        instance_id(&format!("app-{}.v1.web-{}", number / 4, number % 4 + 1))
    })
}

fn report(machine: usize) -> MachineReport {
    let instances = ids(machine).map(|id| (id, ready([10, 83, 0, 2].into()))).collect();
    MachineReport { generation: Generation(1), instances, network: Vec::new() }
}

#[test]
#[ignore = "a measurement; benches/core runs it"]
fn absorbs_status_changes() {
    let before = resident();
    let mut records = RecordIndex::default();
    for app in 0..MACHINES * COPIES / 4 {
        records.apply(StoreRecord::App(App::new(app_name(&format!("app-{app}")), Moment(0))).into());
    }
    for machine in 0..MACHINES {
        let instances = ids(machine).map(|id| (id, assignment(InstanceGoal::Run))).collect();
        let part = MachinePlan { generation: Generation(1), instances };
        records.apply(StoreRecord::Machine(machine_name(&format!("m{machine}")), part).into());
    }
    let mut state = CoreState::new(records, ClockJumps::default(), Moment(0));
    for machine in 0..MACHINES {
        state.apply(CoreEvent::Machine(machine_name(&format!("m{machine}")), report(machine)), Moment(1));
    }
    let memory = resident() - before;
    // Each event is a machine's report in which one copy has another phase than before.
    let rounds = 20;
    let (mut dirty, mut took) = (0, Duration::ZERO);
    for round in 0..rounds {
        let news = |machine: usize| {
            let mut report = report(machine);
            report.instances.values_mut().nth(round).expect("a copy").phase = InstancePhase::Unhealthy;
            CoreEvent::Machine(machine_name(&format!("m{machine}")), report)
        };
        let events: Vec<CoreEvent> = (0..MACHINES).map(news).collect();
        let begun = Instant::now();
        for event in events {
            dirty += state.apply(event, Moment(2)).dirty.apps.len();
        }
        took += begun.elapsed();
    }
    let changes = rounds * MACHINES;
    let rate = changes as f64 / took.as_secs_f64();
    assert!(dirty >= changes, "each report has news");
    println!("core: {rate:.0} changes/s, {memory} MiB");
}
