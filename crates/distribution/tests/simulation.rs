//! Whole clusters under virtual time that want one image at once. The simulation counts the bytes that the servers send.

#![expect(clippy::disallowed_methods, reason = "a bench reads its sizes")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_distribution::{Distribution, LayerReport, LayerSource, PartPlan};
use gantry_model::{Digest, MachineName};
use gantry_random::Random;

/// Length of a step.
const STEP: Duration = Duration::from_millis(10);

/// Bytes that a link carries in one step, in each direction: 1 Gbit/s.
const LINK: u64 = 1_250_000;

/// Bytes of a part.
const PART: u64 = 4 << 20;

/// Faults of a run.
#[derive(Default, Clone, Copy)]
struct Faults {
    /// Percentage of machines that die at a random step.
    dying: u64,
    /// Percentage of machines that send wrong bytes.
    corrupt: u64,
    /// The first receivers die in the middle of the first layer.
    first_receivers: bool,
}

/// A machine that fetches the layers one after the other.
#[derive(Default)]
struct Fetcher {
    report: LayerReport,
    /// Number of layers that the machine has.
    done: usize,
    /// The plan of the next layer.
    plan: Option<PartPlan>,
    /// The part that each source sends, and the bytes of the part that have arrived.
    under_way: BTreeMap<LayerSource, (usize, u64)>,
    dies_at: Option<u64>,
    is_corrupt: bool,
}

impl Fetcher {
    /// Takes over the sources of the next layer.
    fn offer(&mut self, size: u64, sources: impl IntoIterator<Item = LayerSource>) {
        let count = usize::try_from(size.div_ceil(PART)).expect("few parts");
        let plan = self.plan.get_or_insert_with(|| PartPlan::new(count, &BTreeSet::new()));
        plan.offer(sources);
        for source in plan.start() {
            if let Some(part) = plan.next(&source) {
                self.under_way.insert(source, (part, 0));
            }
        }
    }

    /// Ends a source that failed.
    fn fail(&mut self, source: &LayerSource, digest: &Digest) {
        self.under_way.remove(source);
        self.plan.as_mut().expect("a plan").failed(source);
        if let LayerSource::Machine(machine) = source {
            self.report.wants.entry(digest.clone()).or_default().failed.insert(machine.clone());
        }
    }

    /// Adds bytes of a part. Returns whether the part has arrived.
    fn receive(&mut self, source: &LayerSource, size: u64, bytes: u64) -> (u64, bool) {
        let (part, received) = self.under_way.get_mut(source).expect("under way");
        let length = PART.min(size - *part as u64 * PART);
        let bytes = bytes.min(length - *received);
        *received += bytes;
        (bytes, *received == length)
    }

    /// Goes on with the next part of a source. Returns whether the layer is complete.
    fn verify(&mut self, source: &LayerSource) -> bool {
        self.under_way.remove(source);
        let plan = self.plan.as_mut().expect("a plan");
        // All links are equally fast.
        plan.verified(source, STEP);
        if let Some(part) = plan.next(source) {
            self.under_way.insert(source.clone(), (part, 0));
        }
        let is_complete = plan.is_complete();
        if is_complete {
            self.plan = None;
            self.done += 1;
        }
        is_complete
    }
}

/// Outcome of a run.
struct Outcome {
    /// Bytes from the servers, over the bytes of the image.
    copies: f64,
    seconds: f64,
    /// The most transfers at once from one machine.
    uploads: usize,
    /// Bytes that machines sent wrong, over the bytes of the image.
    wasted: f64,
}

struct Cluster {
    layers: Vec<(Digest, u64)>,
    machines: BTreeMap<MachineName, Fetcher>,
    distribution: Distribution,
    from_servers: u64,
    uploads: usize,
    wasted: u64,
    /// Bytes that a machine receives in one step.
    download: u64,
    step: u64,
}

fn name(number: usize) -> MachineName {
    MachineName::parse(&format!("m{number}")).expect("a name")
}

impl Cluster {
    fn new(machines: usize, sizes: &[u64], faults: Faults, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let digest = |number: usize| Digest::from_hex(&format!("{number:064x}")).expect("a digest");
        let layers = sizes.iter().enumerate().map(|(number, size)| (digest(number), *size)).collect();
        let fetcher = |number: usize, random: &mut Random| {
            let dies_at = (random.below(100) < faults.dying).then(|| random.below(300));
            let first = (faults.first_receivers && number < 2).then_some(sizes[0] / LINK / 2 + number as u64);
            let is_corrupt = random.below(100) < faults.corrupt;
            Fetcher { dies_at: first.or(dies_at), is_corrupt, ..Fetcher::default() }
        };
        let machines = (0..machines).map(|number| (name(number), fetcher(number, &mut random))).collect();
        Self {
            layers,
            machines,
            distribution: Distribution::default(),
            from_servers: 0,
            uploads: 0,
            wasted: 0,
            download: LINK,
            step: 0,
        }
    }

    fn now(&self) -> Duration {
        STEP * u32::try_from(self.step).expect("a short run")
    }

    /// Lets a machine report, with its next layer as the wanted one.
    fn report_state(&mut self, machine: &MachineName) {
        let now = self.now();
        let Some(fetcher) = self.machines.get_mut(machine) else { return };
        fetcher.report.has = self.layers[..fetcher.done].iter().map(|(digest, _)| digest.clone()).collect();
        let next = self.layers.get(fetcher.done).map(|(digest, _)| digest.clone());
        fetcher.report.wants.retain(|digest, _| Some(digest) == next.as_ref());
        if let Some(next) = next {
            fetcher.report.wants.entry(next).or_default();
        }
        self.distribution.report(machine, fetcher.report.clone(), now);
    }

    fn run(mut self) -> Outcome {
        let names: Vec<MachineName> = self.machines.keys().cloned().collect();
        names.iter().for_each(|machine| self.report_state(machine));
        while self.machines.values().any(|fetcher| fetcher.done < self.layers.len()) {
            assert!(self.step < 100_000, "the image does not arrive");
            self.remove_dead();
            self.advance();
            self.step += 1;
        }
        let image: u64 = self.layers.iter().map(|(_, size)| size).sum();
        let copies = self.from_servers as f64 / image as f64;
        let wasted = self.wasted as f64 / image as f64;
        Outcome { copies, seconds: self.now().as_secs_f64(), uploads: self.uploads, wasted }
    }

    /// Removes the machines that die in this step. The servers notice after the keepalive of the connection.
    fn remove_dead(&mut self) {
        let dead: Vec<MachineName> = self
            .machines
            .iter()
            .filter(|(_, fetcher)| fetcher.dies_at.is_some_and(|at| at <= self.step))
            .map(|(name, _)| name.clone())
            .collect();
        for machine in dead {
            self.machines.remove(&machine);
            self.distribution.forget(&machine);
        }
    }

    /// Lets each machine take over the sources that the decider names.
    fn offer(&mut self) {
        for (machine, fetcher) in &mut self.machines {
            let Some((digest, size)) = self.layers.get(fetcher.done) else { continue };
            let first = self.distribution.grants(machine).remove(digest).flatten();
            let further_sources = self.distribution.further_sources(machine).remove(digest).unwrap_or_default();
            fetcher.offer(*size, first.into_iter().chain(further_sources.into_iter().map(LayerSource::Machine)));
        }
    }

    /// Moves the bytes of one step. Each link is shared by its transfers.
    fn advance(&mut self) {
        self.offer();
        let mut transfers = Vec::new();
        let mut load: BTreeMap<LayerSource, u64> = BTreeMap::new();
        for (machine, fetcher) in &self.machines {
            for source in fetcher.under_way.keys() {
                *load.entry(source.clone()).or_default() += 1;
                transfers.push((machine.clone(), source.clone(), fetcher.under_way.len() as u64));
            }
        }
        let most = load.iter().filter(|(source, _)| **source != LayerSource::Server).map(|(_, count)| *count).max();
        self.uploads = self.uploads.max(usize::try_from(most.unwrap_or_default()).expect("small"));
        for (machine, source, receiving) in transfers {
            self.transfer(&machine, &source, (LINK / load[&source]).min(self.download / receiving));
        }
    }

    /// Moves bytes from a source to a machine, of one part after the other.
    fn transfer(&mut self, machine: &MachineName, source: &LayerSource, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            match self.transfer_part(machine, source, left) {
                0 => return,
                moved => left -= moved,
            }
        }
    }

    /// Moves bytes of one part, and returns their number: 0 once the source has ended.
    fn transfer_part(&mut self, machine: &MachineName, source: &LayerSource, bytes: u64) -> u64 {
        let peer = match source {
            LayerSource::Server => None,
            LayerSource::Machine(peer) => Some(self.machines.get(peer).map(|peer| peer.is_corrupt)),
        };
        let Some(fetcher) = self.machines.get_mut(machine) else { return 0 };
        // The layer may be complete since the step began.
        if !fetcher.under_way.contains_key(source) {
            return 0;
        }
        let (digest, size) = self.layers[fetcher.done].clone();
        if peer == Some(None) {
            fetcher.fail(source, &digest);
            self.report_state(machine);
            return 0;
        }
        let (bytes, has_arrived) = fetcher.receive(source, size, bytes);
        if peer.is_none() {
            self.from_servers += bytes;
        }
        if has_arrived && peer == Some(Some(true)) {
            self.wasted += bytes_of_part(size);
            fetcher.fail(source, &digest);
            self.report_state(machine);
        } else if has_arrived && fetcher.verify(source) {
            self.report_state(machine);
        }
        bytes
    }
}

/// Maximum number of bytes of a part of a layer.
fn bytes_of_part(size: u64) -> u64 {
    PART.min(size)
}

/// Layers of an image: 100 MB, 40 MB and 5 MB.
const IMAGE: [u64; 3] = [100_000_000, 40_000_000, 5_000_000];

#[test]
fn a_hundred_machines_take_two_copies_from_the_servers() {
    let outcome = Cluster::new(100, &IMAGE, Faults::default(), 1).run();
    assert!(outcome.copies <= 2.0, "{} copies", outcome.copies);
    // A source that is taken away for a waiting machine ends after its part.
    assert!(outcome.uploads <= 4, "{} transfers from one machine", outcome.uploads);
    // From the servers alone, over the same link, a hundred copies take 116 s.
    assert!(outcome.seconds < 30.0, "{} s", outcome.seconds);
}

#[test]
fn the_second_copy_goes_on_when_the_first_receiver_dies() {
    let outcome = Cluster::new(100, &IMAGE, Faults { first_receivers: true, ..Faults::default() }, 1).run();
    // Both die half-way through the first layer; one more copy takes their place.
    assert!(outcome.copies < 2.5, "{} copies", outcome.copies);
}

#[test]
fn machines_die_and_send_wrong_bytes_and_all_others_get_the_image() {
    for seed in 0..5 {
        let faults = Faults { dying: 10, corrupt: 5, first_receivers: false };
        let outcome = Cluster::new(100, &IMAGE, faults, seed).run();
        assert!(outcome.copies <= 4.0, "{} copies with seed {seed}", outcome.copies);
    }
}

#[test]
fn a_machine_that_sends_wrong_bytes_costs_one_part() {
    // Machines that have the image already. The first one is healthy.
    let mut cluster = Cluster::new(4, &IMAGE, Faults::default(), 1);
    for number in 0..3 {
        let holder = cluster.machines.get_mut(&name(number)).expect("a machine");
        holder.done = IMAGE.len();
        holder.is_corrupt = number > 0;
    }
    let outcome = cluster.run();
    // Both send one wrong part of each layer, and the healthy one sends the image.
    assert_eq!(outcome.copies, 0.0);
    let image: u64 = IMAGE.iter().sum();
    let parts = outcome.wasted * image as f64 / PART as f64;
    assert!(parts <= 2.0 * IMAGE.len() as f64 && parts >= 2.0, "{parts} wrong parts");
}

#[test]
fn a_machine_fetches_from_all_machines_that_have_the_image() {
    // The receiver's link is ten times as fast as those of the sources.
    let seconds = |holders: usize| {
        let mut cluster = Cluster::new(holders + 1, &IMAGE, Faults::default(), 1);
        cluster.download = LINK * 10;
        for number in 0..holders {
            cluster.machines.get_mut(&name(number)).expect("a machine").done = IMAGE.len();
        }
        cluster.run().seconds
    };
    let (one, three) = (seconds(1), seconds(3));
    assert!(three < one / 2.0, "{three} s from three machines, {one} s from one");
}

/// Prints the figures of `benches/distribution`.
#[test]
#[ignore = "a bench"]
fn counts_bytes() {
    let machines = std::env::var("MACHINES").map_or(1000, |text| text.parse().expect("a number"));
    let image: u64 = IMAGE.iter().sum();
    let plain = Cluster::new(machines, &IMAGE, Faults::default(), 1).run();
    let faulty = Cluster::new(machines, &IMAGE, Faults { dying: 10, corrupt: 1, first_receivers: true }, 1).run();
    // Without sources among the machines, all copies go over the link of the server.
    let alone = machines as f64 * image as f64 / LINK as f64 * STEP.as_secs_f64();
    println!(
        "distribution: copies {:.2} seconds {:.1} faulty-copies {:.2} faulty-seconds {:.1} server-copies {machines} server-seconds {alone:.0}",
        plain.copies, plain.seconds, faulty.copies, faulty.seconds
    );
}
