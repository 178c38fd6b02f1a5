//! Random histories: the counts in memory are those of the file, no limit is exceeded, and a batch does what its commands
//! do one by one.

use gantry_model::Moment;
use gantry_queue::{
    AttemptOutcome, ConcurrencyKey, Fence, Jitter, JobId, JobSettings, JobState, Priority, RetryPolicy,
};
use gantry_queue_store::{JobFilter, JobReport, QueueCommand, QueueReply};
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{StorageUnderTest, machine, new_job};

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
fn counted(storage: &StorageUnderTest) -> [[u64; 5]; 3] {
    let mut counts = [[0; 5]; 3];
    for job in storage.reader.page(&JobFilter::default(), 10_000).expect("read").jobs {
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

/// Maximum number of jobs with the key, ready and leased.
fn with_key(storage: &StorageUnderTest) -> u64 {
    let jobs = storage.reader.page(&JobFilter::default(), 10_000).expect("read").jobs;
    jobs.iter()
        .filter(|job| job.job.settings.key.is_some() && job.job.takes_room() && job.queue.to_string() == "a/x")
        .count() as u64
}

pub(crate) fn a_random_history_keeps_the_counts(storage: &mut StorageUnderTest) {
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
                last = storage.submit(QUEUES[dice.below(3) as usize], settings);
            }
            4 | 5 => {
                let most = dice.below(4) as usize;
                leases.extend(storage.claim("m", most).iter().map(|job| (job.id, job.fence)));
            }
            6 | 7 if !leases.is_empty() => {
                let (job, fence) = leases.swap_remove(dice.below(leases.len() as u64) as usize);
                let outcome = if dice.below(3) == 0 { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded };
                let _ = storage.complete(job, fence, outcome);
            }
            8 if !leases.is_empty() => {
                let (job, fence) = leases.swap_remove(dice.below(leases.len() as u64) as usize);
                let _ = storage.one(QueueCommand::Lose { job, fence });
            }
            _ => {
                let _ = storage.cancel(JobId(dice.below(last.0 + 2)));
                storage.now = Moment(storage.now.0 + 700);
                let _ = storage.upkeep();
            }
        }
        if round % 20 == 0 {
            let told: Vec<[u64; 5]> = QUEUES.iter().filter_map(|name| storage.counts_if_there(name)).collect();
            let there: Vec<[u64; 5]> =
                counted(storage).into_iter().filter(|counts| counts.iter().sum::<u64>() > 0).collect();
            assert_eq!(told, there, "round {round}");
            assert!(with_key(storage) <= 2, "round {round}");
        }
    }
    // A restart counts the file again.
    let before = counted(storage);
    storage.restart();
    let claimed = storage.claim("m", 1000);
    let ready: u64 = before.iter().map(|counts| counts[2]).sum();
    assert!(claimed.len() as u64 <= ready, "{} of {ready}", claimed.len());
}

/// A random batch: commands on jobs up to the number `last`, in an order that puts changes of one job next to each other.
fn batch(dice: &mut Dice, last: u64, leases: &[(JobId, Fence)]) -> Vec<QueueCommand> {
    let mut commands = Vec::new();
    for _ in 0..=dice.below(12) {
        let job = JobId(1 + dice.below(last + 3));
        let lease = leases.get(dice.below(leases.len() as u64 + 1) as usize).copied();
        let (leased, fence) = lease.unwrap_or((job, Fence(1)));
        commands.push(match dice.below(8) {
            0 | 1 => {
                let new = |dice: &mut Dice| {
                    let key = (dice.below(3) == 0).then(|| ConcurrencyKey { name: "k".to_owned(), limit: 1 });
                    let idempotency = (dice.below(6) == 0).then(|| format!("once-{}", dice.below(4)));
                    let priority = Priority::try_from(dice.below(3) as u8).expect("a priority");
                    let retries = RetryPolicy { most: 1, delay: 0 };
                    let settings = JobSettings { key, idempotency, priority, retries, ..JobSettings::default() };
                    new_job(QUEUES[dice.below(3) as usize], settings)
                };
                QueueCommand::Submit((0..=dice.below(4)).map(|_| new(dice)).collect())
            }
            2 | 3 => QueueCommand::Claim { machine: machine("m"), most: dice.below(6) as usize, limit: Some(30) },
            4 => QueueCommand::Lose { job: leased, fence },
            5 => QueueCommand::Cancel(if dice.below(2) == 0 { leased } else { job }),
            _ => {
                let outcome = if dice.below(3) == 0 { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded };
                let report = JobReport { outcome, details: b"{}".to_vec(), output: vec![b'x'; dice.below(5) as usize] };
                QueueCommand::Complete { job: leased, fence, report, jitter: Jitter(0) }
            }
        });
    }
    commands
}

pub(crate) fn a_batch_does_what_its_commands_do_one_by_one(storage: &mut StorageUnderTest) {
    let folder =
        storage.folder.join(format!("{}-single", storage.folder.file_name().expect("a name").to_string_lossy()));
    std::fs::create_dir(&folder).expect("made");
    let mut single = StorageUnderTest::new(&folder, storage.open);
    let mut dice = Dice(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (mut leases, mut last): (Vec<(JobId, Fence)>, u64) = (Vec::new(), 0);
    for round in 0..120 {
        let commands = batch(&mut dice, last, &leases);
        let replies = storage.all(commands.clone());
        for (command, reply) in commands.into_iter().zip(replies) {
            match &reply {
                QueueReply::Submitted(Ok(ids)) => last = ids.iter().map(|id| id.0).fold(last, u64::max),
                QueueReply::Claimed(claimed) => leases.extend(claimed.iter().map(|job| (job.id, job.fence))),
                _ => {}
            }
            let text = format!("round {round}: {command:?}");
            assert_eq!(single.one(command), reply, "{text}");
        }
        leases.truncate(60);
        if dice.below(3) == 0 {
            leases.clear();
        }
        storage.now = Moment(storage.now.0 + 500);
        single.now = storage.now;
        assert_eq!(single.upkeep(), storage.upkeep(), "round {round}");
    }
    let jobs = |storage: &StorageUnderTest| {
        let page = storage.reader.page(&JobFilter::default(), 10_000).expect("read").jobs;
        let job = |job: gantry_queue_store::JobDetails| (job.id, job.job, storage.reader.output(job.id).expect("read"));
        page.into_iter().map(job).collect::<Vec<_>>()
    };
    assert!(last > 100, "{last}");
    assert_eq!(jobs(&single), jobs(storage));
}
