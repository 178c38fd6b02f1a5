//! Runs the simulation with many seeds. SEEDS and MACHINES make it larger. SEED runs one seed alone and prints its
//! transactions: `SEED=17 cargo test -p gantry-simulation`.

use std::sync::atomic::{AtomicU64, Ordering};

use gantry_simulation::{SimulationSettings, simulate};

/// Reads a number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn settings(seed: u64) -> SimulationSettings {
    let machines = usize::try_from(number("MACHINES", 50)).expect("a number of machines");
    SimulationSettings { prints: number("SEED", 0) != 0, ..SimulationSettings::new(seed, machines) }
}

/// Names the seed of a run that panics.
struct SeedNote(u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed; SEED={} cargo test -p gantry-simulation repeats it", self.0, self.0);
        }
    }
}

#[test]
fn every_seed_keeps_the_invariants_and_converges() {
    let (first, last) = match number("SEED", 0) {
        0 => (1, number("SEEDS", 200)),
        seed => (seed, seed),
    };
    let next = AtomicU64::new(first);
    let [deploys, rest, waiting, renames, replaced, jumps] = [const { AtomicU64::new(0) }; 6];
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    let _note = SeedNote(seed);
                    let outcome = simulate(settings(seed));
                    deploys.fetch_add(outcome.deploys as u64, Ordering::Relaxed);
                    waiting.fetch_add(outcome.waiting as u64, Ordering::Relaxed);
                    jumps.fetch_add(outcome.clock_jumps, Ordering::Relaxed);
                    renames.fetch_add(outcome.renames, Ordering::Relaxed);
                    replaced.fetch_add(outcome.replaced_routers, Ordering::Relaxed);
                    rest.fetch_max(outcome.rest_after, Ordering::Relaxed);
                }
            });
        }
    });
    let (deploys, rest, waiting) = (deploys.into_inner(), rest.into_inner() / 1000, waiting.into_inner());
    println!("{} seeds: {deploys} deploys, at rest {rest} s after the last fault at the latest", last - first + 1);
    let (renames, replaced) = (renames.into_inner(), replaced.into_inner());
    println!("{waiting} copies wait because no machine takes them");
    let jumps = jumps.into_inner();
    println!("{renames} apps got another name, {replaced} routers were replaced, and the clocks jumped {jumps} times");
    assert!(deploys > last - first, "each run has deploys");
    // A single run may have none of them.
    assert!(last - first < 50 || (renames > 0 && replaced > 0 && jumps > 0));
}

#[test]
fn a_seed_replays_exactly() {
    let outcome = simulate(settings(7));
    assert_eq!(simulate(settings(7)), outcome);
    assert_ne!(simulate(settings(8)).checksum, outcome.checksum);
}
