//! Gantry's queue, as the server uses the storage.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use gantry_model::{ClusterId, MachineName, Moment};
use gantry_queue::{AttemptOutcome, Jitter, JobSettings, QueueName};
use gantry_queue_store::{
    ClaimedJob, JobReport, NewJob, PostgresQueue, QueueCommand, QueueReply, QueueWriter, SqliteQueue,
};

use super::{Client, OUTPUT, Outcome, PAYLOAD};

/// The thread that writes.
pub(crate) fn writer(queue: &str, place: &str) -> Outcome<Arc<QueueWriter>> {
    let broken =
        |error: &gantry_queue_store::QueueStoreError| eprintln!("{error}: {:?}", std::error::Error::source(error));
    let writer = match queue {
        "sqlite" => QueueWriter::start(SqliteQueue::open(Path::new(place))?, now, broken)?,
        _ => QueueWriter::start(in_postgres(place)?, now, broken)?,
    };
    Ok(Arc::new(writer))
}

/// The queue in a database.
pub(crate) fn in_postgres(place: &str) -> Outcome<PostgresQueue> {
    Ok(PostgresQueue::new(place.parse()?, ClusterId::from_random(0)))
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or_default())
}

/// A job of a queue.
pub(crate) fn job(queue: &QueueName) -> NewJob {
    NewJob {
        queue: queue.clone(),
        settings: JobSettings::default(),
        work: b"work".to_vec(),
        payload: PAYLOAD.to_vec(),
        by: "bench".to_owned(),
    }
}

/// The command that records the end of a job.
pub(crate) fn completion(job: &ClaimedJob) -> QueueCommand {
    let report = JobReport { outcome: AttemptOutcome::Succeeded, details: b"{}".to_vec(), output: OUTPUT.to_vec() };
    QueueCommand::Complete { job: job.id, fence: job.fence, report, jitter: Jitter(0) }
}

/// A client of the writer.
pub(crate) struct QueueClient {
    writer: Arc<QueueWriter>,
    machine: MachineName,
    queue: QueueName,
}

impl QueueClient {
    pub(crate) fn new(writer: &Arc<QueueWriter>) -> Self {
        let machine = MachineName::parse("bench").expect("a name");
        Self { writer: Arc::clone(writer), machine, queue: "bench/code".parse().expect("a queue") }
    }
}

impl Client for QueueClient {
    async fn lifecycles(&mut self, batch: usize) -> Outcome<usize> {
        let jobs = (0..batch).map(|_| job(&self.queue)).collect();
        self.writer.one(QueueCommand::Submit(jobs)).await?;
        let claim = QueueCommand::Claim { machine: self.machine.clone(), most: batch, limit: None };
        let QueueReply::Claimed(claimed) = self.writer.one(claim).await? else { return Err("no claim".into()) };
        self.writer.all(claimed.iter().map(completion).collect()).await?;
        Ok(claimed.len())
    }
}
