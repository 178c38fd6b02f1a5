//! Random histories: the counts in memory are those of the file, and no limit is exceeded.

use gantry_model::Moment;
use gantry_queue::{AttemptOutcome, ConcurrencyKey, Fence, JobId, JobSettings, JobState, RetryPolicy};
use gantry_queue_store::{JobFilter, QueueCommand};
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::World;

const QUEUES: [&str; 3] = ["a/x", "a/y", "b/x"];

/// Random numbers from a fixed seed.
struct Dice(TestRng);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        use proptest::prelude::Rng;
        self.0.next_u64() % most
    }
}

/// Each queue's counts, from the states of all jobs.
fn counted(world: &World) -> [[u64; 5]; 3] {
    let mut counts = [[0; 5]; 3];
    for job in world.reader.page(&JobFilter::default(), 10_000).expect("read").jobs {
        let place = QUEUES.iter().position(|name| *name == job.queue.to_string()).expect("a queue");
        let state = match job.job.state {
            JobState::Delayed { .. } => 0,
            JobState::Held { .. } => 1,
            JobState::Ready { .. } => 2,
            JobState::Leased { .. } => 3,
            JobState::Ended { .. } => 4,
        };
        counts[place][state] += 1;
    }
    counts
}

/// Most jobs with the key, ready and leased.
fn with_key(world: &World) -> u64 {
    let jobs = world.reader.page(&JobFilter::default(), 10_000).expect("read").jobs;
    jobs.iter()
        .filter(|job| job.job.settings.key.is_some() && job.job.takes_room() && job.queue.to_string() == "a/x")
        .count() as u64
}

pub(crate) fn a_random_history_keeps_the_counts(world: &mut World) {
    let mut dice = Dice(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut leases: Vec<(JobId, Fence)> = Vec::new();
    let mut last = JobId(0);
    for round in 0..600 {
        match dice.below(10) {
            0..=3 => {
                let key = (dice.below(3) == 0).then(|| ConcurrencyKey { name: "k".to_owned(), limit: 2 });
                let settings = JobSettings {
                    delay: dice.below(2) * 3,
                    retries: RetryPolicy { most: 1, delay: 1 },
                    expires: (dice.below(5) == 0).then_some(4),
                    key,
                    ..JobSettings::default()
                };
                last = world.submit(QUEUES[dice.below(3) as usize], settings);
            }
            4 | 5 => {
                let most = dice.below(4) as usize;
                leases.extend(world.claim("m", most).iter().map(|job| (job.id, job.fence)));
            }
            6 | 7 if !leases.is_empty() => {
                let (job, fence) = leases.swap_remove(dice.below(leases.len() as u64) as usize);
                let outcome = if dice.below(3) == 0 { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded };
                let _ = world.complete(job, fence, outcome);
            }
            8 if !leases.is_empty() => {
                let (job, fence) = leases.swap_remove(dice.below(leases.len() as u64) as usize);
                let _ = world.one(QueueCommand::Lose { job, fence });
            }
            _ => {
                let _ = world.cancel(JobId(dice.below(last.0 + 2)));
                world.now = Moment(world.now.0 + 700);
                let _ = world.upkeep();
            }
        }
        if round % 20 == 0 {
            let told: Vec<[u64; 5]> = QUEUES.iter().filter_map(|name| world.counts_if_there(name)).collect();
            let there: Vec<[u64; 5]> =
                counted(world).into_iter().filter(|counts| counts.iter().sum::<u64>() > 0).collect();
            assert_eq!(told, there, "round {round}");
            assert!(with_key(world) <= 2, "round {round}");
        }
    }
    // A restart counts the file again.
    let before = counted(world);
    world.restart();
    let claimed = world.claim("m", 1000);
    let ready: u64 = before.iter().map(|counts| counts[2]).sum();
    assert!(claimed.len() as u64 <= ready, "{} of {ready}", claimed.len());
}
