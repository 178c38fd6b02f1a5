//! Speed with many jobs. By hand: `cargo test -p gantry-queue-store --release --test scale -- --ignored --nocapture`.

mod cluster;

use std::time::{Duration, Instant};

use gantry_model::{MachineName, Moment};
use gantry_queue::{AttemptOutcome, Jitter, JobSettings};
use gantry_queue_store::{
    JobFilter, JobReport, NewJob, PostgresQueue, QueueCommand, QueueReader, QueueReply, QueueStore, SqliteQueue,
};

const NOW: Moment = Moment(1_000_000);

fn submit(store: &mut dyn QueueStore, count: usize) {
    let job = |number: usize| NewJob {
        queue: format!("project-{}/code", number % 10).parse().expect("a queue"),
        settings: JobSettings::default(),
        work: b"work".to_vec(),
        payload: vec![b'x'; 100],
        by: "me".to_owned(),
    };
    for from in (0..count).step_by(1000) {
        let jobs = (from..count.min(from + 1000)).map(job).collect();
        store.commit(vec![QueueCommand::Submit(jobs)], NOW).expect("queued");
    }
}

/// Mean time of a claim of `most` jobs and of their completion.
fn lifecycles(store: &mut dyn QueueStore, rounds: u32, most: usize) -> (Duration, Duration) {
    let machine = MachineName::parse("m").expect("a name");
    let (mut claims, mut completions) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..rounds {
        let begun = Instant::now();
        let claim = QueueCommand::Claim { machine: machine.clone(), most, limit: None };
        let Some(QueueReply::Claimed(claimed)) = store.commit(vec![claim], NOW).expect("claimed").pop() else {
            panic!()
        };
        claims += begun.elapsed();
        assert_eq!(claimed.len(), most);
        let report =
            JobReport { outcome: AttemptOutcome::Succeeded, details: b"{}".to_vec(), output: b"done\n".to_vec() };
        let complete = |job: &gantry_queue_store::ClaimedJob| QueueCommand::Complete {
            job: job.id,
            fence: job.fence,
            report: report.clone(),
            jitter: Jitter(0),
        };
        let begun = Instant::now();
        store.commit(claimed.iter().map(complete).collect(), NOW).expect("completed");
        completions += begun.elapsed();
    }
    (claims / rounds, completions / rounds)
}

/// Fills a queue step by step, and prints how long a claim takes.
fn measure(store: &mut dyn QueueStore, reader: &QueueReader, counts: &[usize]) {
    for count in counts {
        let begun = Instant::now();
        submit(store, *count);
        let submitted = begun.elapsed();
        for most in [1, 100] {
            let (claim, complete) = lifecycles(store, 50, most);
            println!("{count} waiting: submitted in {submitted:?}; claim of {most} {claim:?}, completion {complete:?}");
        }
        let begun = Instant::now();
        let page = reader.page(&JobFilter::default(), 100).expect("a page");
        println!("{count} waiting: page of {} in {:?}", page.jobs.len(), begun.elapsed());
    }
}

#[test]
#[ignore = "a measurement, of minutes"]
fn claims_stay_fast_with_a_million_jobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = SqliteQueue::open(&folder.path().join("jobs.db")).expect("opened");
    let reader = store.reader().expect("a reader");
    measure(&mut store, &reader, &[10_000, 1_000_000]);
    let begun = Instant::now();
    drop(store);
    let _ = SqliteQueue::open(&folder.path().join("jobs.db")).expect("opened");
    println!("opened again in {:?}", begun.elapsed());
}

#[test]
#[ignore = "a measurement, of minutes"]
fn claims_stay_fast_in_postgres() {
    let cluster = cluster::Cluster::start(&[]);
    let address = cluster.database("scale");
    let mut store = PostgresQueue::new(address.clone());
    let reader = store.reader();
    measure(&mut store, &reader, &[10_000, 100_000]);
    let begun = Instant::now();
    let _ = PostgresQueue::new(address).commit(Vec::new(), NOW).expect("opened");
    println!("opened again in {:?}", begun.elapsed());
}
