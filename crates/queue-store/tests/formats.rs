//! Queues that an earlier version wrote: the orders of the jobs were indexes, and a success had a number.

mod cluster;

use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{Cluster, server};
use gantry_model::{MachineName, Moment};
use gantry_queue::{AttemptOutcome, ConcurrencyKey, Fence, Jitter, JobEnd, JobId, JobSettings, JobState, Priority};
use gantry_queue_store::{
    JobFilter, JobReport, NewJob, QueueCommand, QueueReader, QueueReply, QueueStore, SqliteQueue, WAITING_MAX,
};
use rusqlite::Connection;

const NOW: Moment = Moment(1_000_000);

/// The tables of format 4, from those of format 5. The statements suit both storages.
const EARLIER: [&str; 10] = [
    "DROP INDEX {}jobs_dead",
    "CREATE INDEX jobs_delayed ON {}jobs (place) WHERE state = 0",
    "CREATE INDEX jobs_held ON {}jobs (queue, key, place) WHERE state = 1",
    "CREATE INDEX jobs_ready ON {}jobs (queue, place, id) WHERE state = 2",
    "CREATE INDEX jobs_leased ON {}jobs (queue) WHERE state = 3",
    "CREATE INDEX jobs_ended ON {}jobs (place) WHERE state = 4",
    "CREATE INDEX jobs_dead ON {}jobs (queue, id) WHERE state = 4 AND ended IN (1, 2, 4, 5)",
    "CREATE INDEX jobs_expiry ON {}jobs (expiry) WHERE state < 3 AND expiry IS NOT NULL",
    "CREATE INDEX jobs_key ON {}jobs (queue, key) WHERE key IS NOT NULL AND state IN (2, 3)",
    "UPDATE {}jobs SET ended = 0 WHERE state = 4 AND ended IS NULL",
];

fn job(settings: JobSettings) -> NewJob {
    NewJob {
        queue: "shop/report".parse().expect("a queue"),
        settings,
        work: b"work".to_vec(),
        payload: b"payload".to_vec(),
        by: "me".to_owned(),
    }
}

fn claim(store: &mut dyn QueueStore, most: usize) -> Vec<(JobId, Fence)> {
    let machine = MachineName::parse("m").expect("a name");
    match store.commit(vec![QueueCommand::Claim { machine, most, limit: None }], NOW).expect("claimed").pop() {
        Some(QueueReply::Claimed(claimed)) => claimed.iter().map(|job| (job.id, job.fence)).collect(),
        other => panic!("{other:?}"),
    }
}

fn complete(store: &mut dyn QueueStore, (job, fence): (JobId, Fence), outcome: AttemptOutcome) {
    let report = JobReport { outcome, details: b"{}".to_vec(), output: b"out".to_vec() };
    let command = QueueCommand::Complete { job, fence, report, jitter: Jitter(0) };
    store.commit(vec![command], NOW).expect("completed");
}

/// A job in each state: 1 succeeded, 2 failed, 3 leased with the key, 4 held by it, 5 and 7 ready, 6 delayed, 8 expiring.
fn fill(store: &mut dyn QueueStore) {
    let key = || Some(ConcurrencyKey { name: "k".to_owned(), limit: 1 });
    let settings = [
        JobSettings { priority: Priority::High, ..JobSettings::default() },
        JobSettings { priority: Priority::High, ..JobSettings::default() },
        JobSettings { priority: Priority::High, key: key(), ..JobSettings::default() },
        JobSettings { key: key(), ..JobSettings::default() },
        JobSettings::default(),
        JobSettings { delay: 10, ..JobSettings::default() },
        JobSettings { priority: Priority::Normal, ..JobSettings::default() },
        JobSettings { expires: Some(5), ..JobSettings::default() },
    ];
    store.commit(vec![QueueCommand::Submit(settings.into_iter().map(job).collect())], NOW).expect("queued");
    let leases = claim(store, 3);
    complete(store, leases[0], AttemptOutcome::Succeeded);
    complete(store, leases[1], AttemptOutcome::Failed);
}

/// Every rule still holds for the jobs of [`fill`].
fn goes_on(store: &mut dyn QueueStore, reader: &QueueReader) {
    let counts = |reader: &QueueReader| reader.queues().expect("read")[0].counts;
    assert_eq!(counts(reader), [1, 1, 3, 1, 2]);
    assert_eq!(reader.queues().expect("read")[0].dead, 1);
    let ended = |end| JobState::Ended { end, at: NOW };
    for (id, end) in [(1, JobEnd::Succeeded), (2, JobEnd::Failed)] {
        assert_eq!(reader.job(JobId(id)).expect("read").expect("a job").job.state, ended(end));
    }
    let dead = reader.page(&JobFilter { dead: true, ..JobFilter::default() }, 10).expect("read").jobs;
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [JobId(2)]);
    // The order of the ready jobs, and the key of the leased one.
    assert_eq!(claim(store, 2), [(JobId(7), Fence(1)), (JobId(5), Fence(1))]);
    complete(store, (JobId(3), Fence(1)), AttemptOutcome::Succeeded);
    assert_eq!(counts(reader), [1, 0, 2, 2, 3]);
    // The delay, the expiry, and the removal of both ended jobs.
    let upkeep = QueueCommand::Upkeep { keep_since: Moment(NOW.0 + 1), most_open: WAITING_MAX };
    store.commit(vec![upkeep], Moment(NOW.0 + 10_000)).expect("kept up");
    assert_eq!(counts(reader), [0, 0, 2, 2, 1]);
    assert_eq!(reader.output(JobId(1)).expect("read"), None);
    assert_eq!(claim(store, 10), [(JobId(4), Fence(1)), (JobId(6), Fence(1))]);
}

fn opened(file: &Path) -> (SqliteQueue, QueueReader) {
    let store = SqliteQueue::open(file).expect("opened");
    let reader = store.reader().expect("a reader");
    (store, reader)
}

#[test]
fn a_file_of_format_4_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jobs.db");
    fill(&mut opened(&file).0);
    let connection = Connection::open(&file).expect("opened");
    for statement in EARLIER {
        connection.execute_batch(&statement.replace("{}", "")).expect(statement);
    }
    connection.pragma_update(None, "user_version", 4).expect("set");
    let (mut store, reader) = opened(&file);
    goes_on(&mut store, &reader);
    let indexes = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_master WHERE type = 'index' \
                   AND tbl_name = 'jobs' ORDER BY name)";
    let indexes: String = connection.query_row(indexes, [], |row| row.get(0)).expect("read");
    assert_eq!(indexes, "jobs_dead,jobs_idempotency");
}

#[test]
fn a_database_of_format_4_goes_on() {
    let cluster = Cluster::start(&[]);
    let address = cluster.database("earlier");
    fill(&mut server(address.clone()));
    for statement in EARLIER {
        cluster.psql("earlier", &statement.replace("{}", "gantry_queue."));
    }
    cluster.psql("earlier", "UPDATE gantry_queue.owner SET format = 4");
    let mut store = server(address);
    let reader = store.reader();
    // A read makes no tables; the first command does.
    store.commit(Vec::new(), NOW).expect("opened");
    goes_on(&mut store, &reader);
    let indexes = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class \
                   WHERE relkind = 'I' AND relname LIKE 'jobs_%'";
    assert_eq!(cluster.psql("earlier", indexes), "jobs_dead,jobs_idempotency,jobs_pkey");
}

#[test]
fn claims_and_successes_stay_in_the_pages_of_their_jobs() {
    let cluster = Cluster::start(&[]);
    let mut store = server(cluster.database("pages"));
    let jobs = (0..200).map(|_| job(JobSettings::default())).collect();
    store.commit(vec![QueueCommand::Submit(jobs)], NOW).expect("queued");
    for lease in claim(&mut store, 200) {
        complete(&mut store, lease, AttemptOutcome::Succeeded);
    }
    drop(store);
    // PostgreSQL counts the updates of a session at its end, those without a new entry of an index apart.
    let counts = "SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_all_tables WHERE relname LIKE 'jobs_p%'";
    let deadline = Instant::now() + Duration::from_secs(30);
    let counts = loop {
        let counts = cluster.psql("pages", counts);
        if counts.starts_with("400|") {
            break counts;
        }
        assert!(Instant::now() < deadline, "{counts}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let without_index: u32 = counts["400|".len()..].parse().expect("a number");
    assert!(without_index >= 380, "{counts}");
}
