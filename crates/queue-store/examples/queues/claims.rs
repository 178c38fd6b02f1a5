//! The time of a claim, of a completion and of a page with many waiting jobs.

use std::path::Path;
use std::time::{Duration, Instant};

use gantry_model::{MachineName, Moment};
use gantry_queue::QueueName;
use gantry_queue_store::{JobFilter, QueueCommand, QueueReader, QueueReply, QueueStore, SqliteQueue};

use super::{Outcome, gantry};

const NOW: Moment = Moment(1_000_000);
const QUEUES: usize = 10;
const ROUNDS: u32 = 200;

/// Fills a storage step by step, and prints a line for each step.
pub(crate) fn measure(queue: &str, place: &str, waiting: &[&str]) -> Outcome<()> {
    let (mut store, reader): (Box<dyn QueueStore>, QueueReader) = if queue == "sqlite" {
        let store = SqliteQueue::open(Path::new(place))?;
        let reader = store.reader()?;
        (Box::new(store), reader)
    } else {
        let store = gantry::in_postgres(place)?;
        let reader = store.reader();
        (Box::new(store), reader)
    };
    let mut submitted = 0;
    for waiting in waiting {
        let waiting = waiting.parse()?;
        submit(&mut *store, submitted, waiting)?;
        submitted = waiting;
        for most in [1, 100] {
            let (claim, complete) = lifecycles(&mut *store, most)?;
            let begun = Instant::now();
            reader.page(&JobFilter::default(), 100)?;
            println!(
                "{queue} waiting {waiting} at-a-time {most} claim-us {} completion-us {} page-us {}",
                claim.as_micros(),
                complete.as_micros(),
                begun.elapsed().as_micros()
            );
        }
    }
    Ok(())
}

fn submit(store: &mut dyn QueueStore, from: usize, to: usize) -> Outcome<()> {
    let queues: Vec<QueueName> =
        (0..QUEUES).map(|number| format!("project-{number}/code").parse()).collect::<Result<_, _>>()?;
    for begin in (from..to).step_by(1000) {
        let jobs = (begin..to.min(begin + 1000)).map(|number| gantry::job(&queues[number % QUEUES])).collect();
        store.commit(vec![QueueCommand::Submit(jobs)], NOW)?;
    }
    Ok(())
}

/// Medians of the times of a claim of `most` jobs and of their completion. As many jobs are queued again.
fn lifecycles(store: &mut dyn QueueStore, most: usize) -> Outcome<(Duration, Duration)> {
    let machine = MachineName::parse("m")?;
    let (mut claims, mut completions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let claim = QueueCommand::Claim { machine: machine.clone(), most, limit: None };
        let Some(QueueReply::Claimed(claimed)) = store.commit(vec![claim], NOW)?.pop() else {
            return Err("no claim".into());
        };
        claims.push(begun.elapsed());
        if claimed.len() != most {
            return Err(format!("{} of {most} jobs were claimed", claimed.len()).into());
        }
        let begun = Instant::now();
        store.commit(claimed.iter().map(gantry::completion).collect(), NOW)?;
        completions.push(begun.elapsed());
        submit(store, 0, most)?;
        // The thread that writes does so whenever no command waits.
        store.look_ahead();
    }
    Ok((median(claims), median(completions)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
