//! Measurements for `benches/placement`: decisions per second in a large cluster under churn, and the number of machines
//! that a set of copies takes, beside other rules of choice and the proven lower bound.

#![expect(clippy::disallowed_methods, reason = "a bench reads its sizes and a clock")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gantry_model::{AppName, MachineName, ReleaseNumber, RoleName};
use gantry_placement::{MachineReadiness, PlacedRole, PlacementDemand, PlacementIndex, PlacementMachine, Resources};
use gantry_random::Random;

const SHAPES: u64 = 100;

fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn machine(number: u64, capacity: Resources) -> PlacementMachine {
    PlacementMachine {
        name: MachineName::parse(&format!("m{number}")).expect("a name"),
        capacity,
        reserve: Resources::default(),
        architecture: None,
        labels: BTreeMap::new(),
        protocol: 3,
        readiness: MachineReadiness::Ready,
    }
}

fn role(number: u64) -> PlacedRole {
    PlacedRole {
        app: AppName::parse(&format!("app-{number}")).expect("a name"),
        role: RoleName::parse("web").expect("a name"),
        release: ReleaseNumber(1),
    }
}

/// Memory in MiB and processor time in thousandths: small shapes are frequent, and some want much of one resource.
fn shape(random: &mut Random) -> Resources {
    let steps = |random: &mut Random| 1 << random.below(5);
    let memory = 64 * steps(random) + 16 * random.below(8);
    let cpu = 50 * steps(random) + 10 * random.below(8);
    Resources { memory, cpu }
}

/// Four copies of one role after another.
fn demands(count: u64, random: &mut Random) -> Vec<PlacementDemand> {
    let shapes: Vec<Resources> = (0..SHAPES).map(|_| shape(random)).collect();
    let demand = |number: u64, random: &mut Random| {
        let place = usize::try_from(random.below(SHAPES)).expect("small");
        PlacementDemand::new(role(number), shapes[place])
    };
    (0..count.div_ceil(4)).flat_map(|number| vec![demand(number, random); 4]).collect()
}

#[test]
#[ignore = "a measurement; benches/placement runs it"]
fn decides_under_churn() {
    let (machines, copies) = (size("MACHINES", 10_000), size("COPIES", 1_000_000));
    let mut random = Random::new(1);
    let demands = demands(copies, &mut random);
    let sum = demands.iter().fold(Resources::default(), |sum, demand| add(sum, demand.shape.resources));
    // The copies fill 95 % of the cluster.
    let share = |amount: u64| amount * 20 / 19 / machines + 1;
    let capacity = Resources { memory: share(sum.memory), cpu: share(sum.cpu) };
    let mut index = PlacementIndex::default();
    (0..machines).for_each(|number| index.put_machine(machine(number, capacity)));
    let begun = Instant::now();
    let mut placed: Vec<(MachineName, &PlacementDemand)> = Vec::new();
    for demand in &demands {
        placed.extend(index.place(demand).ok().map(|machine| (machine, demand)));
    }
    let filled = begun.elapsed();
    let rounds = size("ROUNDS", 200_000);
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..rounds {
        let gone = usize::try_from(random.below(placed.len() as u64)).expect("small");
        let (machine, demand) = placed.swap_remove(gone);
        index.vacate(&machine, demand);
        let next = &demands[usize::try_from(random.below(copies)).expect("small")];
        let begun = Instant::now();
        let chosen = index.place(next);
        took.push(begun.elapsed());
        placed.extend(chosen.ok().map(|machine| (machine, next)));
    }
    let all: Duration = took.iter().sum();
    took.sort_unstable();
    println!(
        "placement: {:.0} filling/s, {:.0} churn/s, {} us/p99, {} of {copies} placed",
        demands.len() as f64 / filled.as_secs_f64(),
        rounds as f64 / all.as_secs_f64(),
        took[took.len() * 99 / 100].as_nanos() as f64 / 1e3,
        placed.len(),
    );
}

fn add(one: Resources, two: Resources) -> Resources {
    Resources { memory: one.memory + two.memory, cpu: one.cpu + two.cpu }
}

fn fits(free: Resources, demand: Resources) -> bool {
    free.memory >= demand.memory && free.cpu >= demand.cpu
}

/// A rule that chooses among the machines in use; a copy that fits nowhere opens a new machine.
type Rule = fn(&[Resources], Resources, Resources) -> Option<usize>;

fn first_fit(free: &[Resources], demand: Resources, _: Resources) -> Option<usize> {
    free.iter().position(|free| fits(*free, demand))
}

/// Sum of the shares of the capacity that a machine has left.
fn left(free: Resources, capacity: Resources) -> f64 {
    let share = |free: u64, capacity: u64| free as f64 / capacity as f64;
    share(free.memory, capacity.memory) + share(free.cpu, capacity.cpu)
}

fn by_share_left(free: &[Resources], demand: Resources, capacity: Resources, sign: f64) -> Option<usize> {
    let fitting = (0..free.len()).filter(|place| fits(free[*place], demand));
    fitting.min_by(|a, b| (sign * left(free[*a], capacity)).total_cmp(&(sign * left(free[*b], capacity))))
}

fn best_fit(free: &[Resources], demand: Resources, capacity: Resources) -> Option<usize> {
    by_share_left(free, demand, capacity, 1.0)
}

fn least_allocated(free: &[Resources], demand: Resources, capacity: Resources) -> Option<usize> {
    by_share_left(free, demand, capacity, -1.0)
}

/// Number of machines that a rule takes.
fn machines_taken(rule: Rule, demands: &[PlacementDemand], capacity: Resources) -> usize {
    let mut free: Vec<Resources> = Vec::new();
    for demand in demands.iter().map(|demand| demand.shape.resources) {
        let place = rule(&free, demand, capacity).unwrap_or_else(|| {
            free.push(capacity);
            free.len() - 1
        });
        let Resources { memory, cpu } = free[place];
        free[place] = Resources { memory: memory - demand.memory, cpu: cpu - demand.cpu };
    }
    free.len()
}

/// The frequent shapes of a public trace: number of containers, processor time in thousandths, memory in MiB. They are all
/// shapes of at least ten containers in `openb_pod_list_default.csv` of Alibaba's cluster-trace-gpu-v2023
/// (<https://github.com/alibaba/clusterdata>), which has 103 shapes of 8,152 containers.
const TRACE: [(u64, u64, u64); 46] = [
    (1592, 3152, 5600),
    (857, 11_300, 49_152),
    (778, 11_908, 47_104),
    (649, 8000, 30_517),
    (534, 11_400, 48_128),
    (364, 12_500, 57_344),
    (284, 32_000, 49_152),
    (255, 18_708, 64_512),
    (195, 9810, 41_560),
    (189, 4000, 22_888),
    (182, 4000, 15_258),
    (162, 12_000, 24_576),
    (158, 15_700, 58_368),
    (152, 4152, 10_600),
    (136, 4000, 30_517),
    (120, 15_400, 51_200),
    (110, 16_000, 32_768),
    (106, 8000, 16_384),
    (104, 4000, 24_576),
    (99, 12_000, 16_384),
    (95, 16_500, 51_200),
    (93, 14_200, 58_368),
    (84, 24_200, 93_184),
    (65, 11_400, 77_824),
    (55, 8000, 32_768),
    (51, 6000, 6144),
    (51, 11_900, 77_824),
    (44, 12_000, 15_360),
    (41, 8200, 33_792),
    (40, 4000, 31_250),
    (36, 15_200, 80_896),
    (34, 16_000, 65_536),
    (29, 6000, 12_288),
    (28, 6000, 22_888),
    (27, 16_400, 125_952),
    (26, 1000, 2048),
    (18, 6000, 18_432),
    (18, 64_200, 263_168),
    (18, 88_000, 327_680),
    (16, 11_300, 37_888),
    (15, 1000, 6144),
    (12, 8000, 15_625),
    (11, 7000, 30_000),
    (11, 11_400, 57_344),
    (11, 16_000, 31_250),
    (10, 6000, 8192),
];

/// The most frequent machine of the same trace.
const TRACE_MACHINE: Resources = Resources { memory: 393_216, cpu: 96_000 };

/// A shape, as often as in the trace.
fn trace_shape(random: &mut Random) -> Resources {
    let all: u64 = TRACE.iter().map(|(count, ..)| count).sum();
    let mut place = random.below(all);
    for (count, cpu, memory) in TRACE {
        if place < count {
            return Resources { memory, cpu };
        }
        place -= count;
    }
    unreachable!("the place is below the sum of the counts")
}

/// Packs the copies by each rule, and prints how many machines more than the proven bound each rule takes.
fn compare(name: &str, demands: &[PlacementDemand], capacity: Resources) {
    let sum = demands.iter().fold(Resources::default(), |sum, demand| add(sum, demand.shape.resources));
    let bound = [sum.memory.div_ceil(capacity.memory), sum.cpu.div_ceil(capacity.cpu)];
    let bound = bound.into_iter().max().expect("two");
    let mut index = PlacementIndex::default();
    (0..bound * 2).for_each(|number| index.put_machine(machine(number, capacity)));
    demands.iter().for_each(|demand| drop(index.place(demand).expect("room")));
    let is_used = |number: &u64| index.free(&machine(*number, capacity).name) != Some(capacity);
    let taken = (0..bound * 2).filter(is_used).count();
    let over = |taken: usize| (taken as f64 / bound as f64 - 1.0) * 100.0;
    println!(
        "packing {name}: {:.2} over, {:.2} first-fit, {:.2} best-fit, {:.2} least-allocated, bound {bound}",
        over(taken),
        over(machines_taken(first_fit, demands, capacity)),
        over(machines_taken(best_fit, demands, capacity)),
        over(machines_taken(least_allocated, demands, capacity)),
    );
}

#[test]
#[ignore = "a measurement; benches/placement runs it"]
fn packs() {
    let mut random = Random::new(2);
    let copies = size("PACKED", 50_000);
    // Every role has one copy: copies that spread are no question of packing.
    let mut synthetic = demands(copies, &mut random);
    synthetic.iter_mut().zip(0..).for_each(|(demand, number)| demand.role = role(number));
    compare("synthetic", &synthetic, Resources { memory: 65_536, cpu: 32_000 });
    let trace = (0..copies).map(|number| PlacementDemand::new(role(number), trace_shape(&mut random)));
    compare("trace", &trace.collect::<Vec<_>>(), TRACE_MACHINE);
}
