//! Measures queues of jobs. `benches/queue` uses this program.
//!
//! `queues rate QUEUE PLACE CLIENTS BATCH SECONDS` prints the job lifecycles per second. In one lifecycle, a client submits,
//! claims and completes a job; BATCH jobs at a time. QUEUE and PLACE are one of:
//! - `sqlite FILE`, `postgres ADDRESS`: Gantry's storages, behind the thread that writes them in the server;
//! - `skip-locked ADDRESS`: a table of PostgreSQL, as people write it by hand;
//! - `redis HOST:PORT`, `beanstalkd HOST:PORT`.
//!
//! `queues claims QUEUE PLACE WAITING…` fills one of Gantry's storages step by step, and prints the time of a claim, of a
//! completion and of a page, with as many waiting jobs.

mod beanstalkd;
mod claims;
mod gantry;
mod lines;
mod redis;
mod skip_locked;

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Result of a step.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The payload of each job.
pub(crate) const PAYLOAD: [u8; 100] = [b'x'; 100];

/// The recorded output of each job.
pub(crate) const OUTPUT: &[u8] = b"done\n";

/// A client of a queue.
pub(crate) trait Client: Send + 'static {
    /// Submits a batch of jobs, claims as many, and completes them. Returns the number of completed jobs.
    fn lifecycles(&mut self, batch: usize) -> impl Future<Output = Outcome<usize>> + Send;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match *words.as_slice() {
        ["rate", queue, place, clients, batch, seconds] => rate(queue, place, [clients, batch, seconds]),
        ["claims", queue, place, ref waiting @ ..] => claims::measure(queue, place, waiting),
        _ => Err("queues rate QUEUE PLACE CLIENTS BATCH SECONDS | queues claims QUEUE PLACE WAITING…".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("queues: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rate(queue: &str, place: &str, numbers: [&str; 3]) -> Outcome<()> {
    let [clients, batch, seconds] = numbers.map(str::parse::<u32>);
    let (clients, batch, time) = (clients?, batch? as usize, Duration::from_secs(seconds?.into()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rate = runtime.block_on(async {
        match queue {
            "sqlite" | "postgres" => {
                let writer = gantry::writer(queue, place)?;
                run(time, batch, (0..clients).map(|_| gantry::QueueClient::new(&writer)).collect()).await
            }
            "skip-locked" => run(time, batch, skip_locked::connect(place, clients).await?).await,
            "redis" => run(time, batch, redis::connect(place, clients).await?).await,
            "beanstalkd" => run(time, batch, beanstalkd::connect(place, clients).await?).await,
            other => Err(format!("{other} is no queue").into()),
        }
    })?;
    println!("{queue} {clients} clients, {batch} at a time: {rate:.0} lifecycles/s");
    Ok(())
}

/// Lifecycles per second of all clients together.
async fn run<C: Client>(time: Duration, batch: usize, clients: Vec<C>) -> Outcome<f64> {
    let begun = Instant::now();
    let tasks = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut done = 0;
            while begun.elapsed() < time {
                done += client.lifecycles(batch).await?;
            }
            Outcome::Ok(done)
        })
    });
    let mut done = 0;
    for task in tasks.collect::<Vec<_>>() {
        done += task.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}
