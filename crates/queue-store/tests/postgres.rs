//! Faults of PostgreSQL: kills, lost connections, a second server, and what the tables look like afterwards.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::{CLOUD, Cluster, server, server_of};
use gantry_model::{ClusterId, MachineName, Moment};
use gantry_queue::{AttemptOutcome, Jitter, JobId, JobSettings, JobState};
use gantry_queue_store::{
    ClaimedJob, Completed, JobFilter, JobReport, NewJob, PostgresAddress, PostgresQueue, QueueCommand, QueueReply,
    QueueStore, QueueStoreError, WAITING_MAX,
};

const NOW: Moment = Moment(1_000_000);

fn job(key: Option<String>) -> NewJob {
    NewJob {
        queue: "shop/report".parse().expect("a queue"),
        settings: JobSettings { idempotency: key, ..JobSettings::default() },
        work: b"work".to_vec(),
        payload: b"pay\0load".to_vec(),
        by: "me\0too".to_owned(),
    }
}

fn submit(store: &mut PostgresQueue, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueStoreError> {
    match store.commit(vec![QueueCommand::Submit(jobs)], NOW)?.pop() {
        Some(QueueReply::Submitted(Ok(ids))) => Ok(ids),
        other => panic!("{other:?}"),
    }
}

fn claim(store: &mut PostgresQueue, most: usize) -> Result<Vec<ClaimedJob>, QueueStoreError> {
    let machine = MachineName::parse("m").expect("a name");
    match store.commit(vec![QueueCommand::Claim { machine, most, limit: None }], NOW)?.pop() {
        Some(QueueReply::Claimed(claimed)) => Ok(claimed),
        other => panic!("{other:?}"),
    }
}

fn complete(store: &mut PostgresQueue, jobs: &[ClaimedJob]) -> Result<Vec<Completed>, QueueStoreError> {
    let report = JobReport { outcome: AttemptOutcome::Succeeded, details: b"{}".to_vec(), output: b"done".to_vec() };
    let command = |job: &ClaimedJob| QueueCommand::Complete {
        job: job.id,
        fence: job.fence,
        report: report.clone(),
        jitter: Jitter(0),
    };
    let replies = store.commit(jobs.iter().map(command).collect(), NOW)?;
    let completed = |reply| match reply {
        QueueReply::Completed(completed) => completed,
        other => panic!("{other:?}"),
    };
    Ok(replies.into_iter().map(completed).collect())
}

/// Repeats a command until PostgreSQL is back.
fn insist<T>(mut attempt: impl FnMut() -> Result<T, QueueStoreError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(error.is_passing() && Instant::now() < deadline, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client of the queue: submits, claims and completes jobs; remembers what was acknowledged.
fn load(address: &PostgresAddress, stop: &AtomicBool, acknowledged: &Mutex<BTreeSet<JobId>>) -> BTreeMap<JobId, u32> {
    let mut store = server(address.clone());
    let mut recorded: BTreeMap<JobId, u32> = BTreeMap::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let jobs: Vec<NewJob> = (0..10).map(|place| job(Some(format!("{round}-{place}")))).collect();
        let ids = insist(|| submit(&mut store, jobs.clone()));
        acknowledged.lock().expect("a lock").extend(ids);
        // A claim whose answer was lost: its jobs are found in the database, as by a server that starts.
        let claimed = match claim(&mut store, 10) {
            Ok(claimed) => claimed,
            Err(error) => {
                assert!(error.is_passing(), "{error:?}");
                continue;
            }
        };
        for (job, outcome) in claimed.iter().zip(insist(|| complete(&mut store, &claimed))) {
            match outcome {
                Completed::Recorded(_) => *recorded.entry(job.id).or_default() += 1,
                // The completion before this one was committed, and its answer was lost.
                Completed::Refused(refusal) => assert_eq!(refusal, gantry_queue::Refusal::Repeated),
            }
        }
    }
    recorded
}

#[test]
fn a_killed_postgres_loses_no_acknowledged_job_and_completes_none_twice() {
    let mut cluster = Cluster::start(&[]);
    let address = cluster.database("kills");
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
    let client = std::thread::spawn({
        let (address, stop, acknowledged) = (address.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
        move || load(&address, &stop, &acknowledged)
    });
    for round in 0..4 {
        let before = acknowledged.lock().expect("a lock").len();
        let deadline = Instant::now() + Duration::from_secs(60);
        while acknowledged.lock().expect("a lock").len() < before + 100 && !client.is_finished() {
            assert!(Instant::now() < deadline, "no progress in round {round}");
            std::thread::sleep(Duration::from_millis(7 * (round + 1)));
        }
        cluster.kill();
        cluster.run();
    }
    stop.store(true, Ordering::Relaxed);
    let recorded = client.join().expect("a client");
    assert!(recorded.values().all(|times| *times == 1), "completed twice: {recorded:?}");

    let mut store = server(address);
    let reader = store.reader();
    // The leases whose claim was never answered: a new server takes them over, and completes or loses them.
    for (id, leased) in reader.leased().expect("read") {
        let lose = QueueCommand::Lose { job: id, fence: leased.fence };
        assert_eq!(store.commit(vec![lose], NOW).expect("lost"), [QueueReply::Lost(true)]);
    }
    while let claimed @ [_, ..] = &claim(&mut store, 100).expect("claimed")[..] {
        complete(&mut store, claimed).expect("completed");
    }
    let ended = reader.page(&JobFilter::default(), 1_000_000).expect("read");
    let states: BTreeMap<JobId, JobState> = ended.jobs.into_iter().map(|job| (job.id, job.job.state)).collect();
    for id in acknowledged.lock().expect("a lock").iter() {
        assert!(matches!(states.get(id), Some(JobState::Ended { .. })), "{id}: {:?}", states.get(id));
    }
    let acknowledged = acknowledged.lock().expect("a lock").len();
    assert_eq!(states.len(), acknowledged, "the repeated submissions queued nothing twice");
    let counts = &reader.queues().expect("read")[0].counts;
    assert_eq!(*counts, [0, 0, 0, 0, acknowledged as u64]);
}

#[test]
fn while_postgres_is_away_commands_fail_at_once_and_go_on_afterwards() {
    let mut cluster = Cluster::start(&[]);
    let address = cluster.database("away");
    let mut store = server(address.clone());
    let first = submit(&mut store, vec![job(None)]).expect("queued");
    cluster.kill();
    let away = submit(&mut store, vec![job(None)]).expect_err("away");
    assert!(away.is_passing() && away.to_string().contains(&address.to_string()), "{away}");
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(submit(&mut store, vec![job(None)]).is_err());
        assert!(store.reader().queues().is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    cluster.run();
    let second = insist(|| submit(&mut store, vec![job(None)]));
    let claimed = claim(&mut store, 10).expect("claimed");
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [first[0], second[0]]);
    assert_eq!(claimed[0].payload, b"pay\0load");
    assert_eq!(store.reader().job(first[0]).expect("read").expect("a job").by, "me\0too");
    // A connection that ends between two commands costs nothing.
    cluster.psql("away", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gantry'");
    assert_eq!(complete(&mut store, &claimed).expect("completed").len(), 2);
}

#[test]
fn a_replaced_server_writes_nothing() {
    let cluster = Cluster::start(&[]);
    let address = cluster.database("servers");
    let mut old = server(address.clone());
    let ids = submit(&mut old, vec![job(None), job(None)]).expect("queued");
    let mut new = server(address);
    let claimed = claim(&mut new, 1).expect("claimed");
    assert_eq!(claimed[0].id, ids[0]);
    for _ in 0..3 {
        let refused = submit(&mut old, vec![job(None)]).expect_err("replaced");
        assert!(matches!(refused, QueueStoreError::Superseded { .. }), "{refused}");
    }
    assert_eq!(complete(&mut new, &claimed).expect("completed").len(), 1);
    assert_eq!(new.reader().queues().expect("read")[0].counts, [0, 0, 1, 0, 1]);
    // A row that a person has locked is passed over.
    let psql = "BEGIN; SELECT 1 FROM gantry_queue.jobs WHERE state = 2 FOR UPDATE; DO $$ BEGIN FOR look IN 1..3000 LOOP \
                EXIT WHEN EXISTS (SELECT FROM pg_database WHERE datname = 'claimed'); PERFORM pg_sleep(0.01); \
                END LOOP; END $$; COMMIT";
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.psql("servers", psql));
        // The lock is held once the person's session waits for the database `claimed`.
        let deadline = Instant::now() + Duration::from_secs(30);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'";
        while cluster.psql("servers", waits) != "1" {
            assert!(Instant::now() < deadline, "nobody holds the lock");
        }
        assert_eq!(claim(&mut new, 1).expect("claimed"), []);
        let _ = cluster.database("claimed");
    });
    assert_eq!(claim(&mut new, 1).expect("claimed").len(), 1);
}

#[test]
fn the_servers_of_another_cloud_leave_a_queue_alone() {
    let cluster = Cluster::start(&[]);
    let address = cluster.database("clouds");
    let mut own = server(address.clone());
    submit(&mut own, vec![job(None)]).expect("queued");
    let mut other = server_of(CLOUD + 1, address.clone());
    let owner = ClusterId::from_random(CLOUD);
    let is_refused = |error: &QueueStoreError| {
        let names =
            error.to_string().contains(&format!("belongs to another cloud (id {owner}); name an empty database"));
        names && error.is_passing() && matches!(error, QueueStoreError::OtherCluster { .. })
    };
    for _ in 0..3 {
        let refused = submit(&mut other, vec![job(None)]).expect_err("another cloud");
        assert!(is_refused(&refused), "{refused}");
        let refused = other.reader().queues().expect_err("another cloud");
        assert!(is_refused(&refused), "{refused}");
        submit(&mut own, vec![job(None)]).expect("the owner goes on");
    }
    // The next server of the cloud takes over, as before.
    let mut next = server(address.clone());
    assert_eq!(claim(&mut next, 10).expect("claimed").len(), 4);
    // A person gives the queue to the other cloud.
    cluster.psql("clouds", "UPDATE gantry_queue.owner SET cluster_id = NULL");
    let mut heir = server_of(CLOUD + 1, address.clone());
    submit(&mut heir, vec![job(None)]).expect("the queue belongs to no cloud");
    let refused = submit(&mut next, vec![job(None)]).expect_err("replaced");
    assert!(matches!(refused, QueueStoreError::Superseded { .. }), "{refused}");
    let refused = submit(&mut server(address), vec![job(None)]).expect_err("given away");
    assert!(matches!(refused, QueueStoreError::OtherCluster { .. }), "{refused}");
}

#[test]
fn a_queue_without_a_cloud_gets_that_of_its_first_server() {
    let cluster = Cluster::start(&[]);
    let address = cluster.database("earlier");
    let ids = submit(&mut server(address.clone()), vec![job(None)]).expect("queued");
    // The database as a program without this rule left it.
    cluster.psql("earlier", "ALTER TABLE gantry_queue.owner DROP COLUMN cluster_id");
    cluster.psql("earlier", "UPDATE gantry_queue.owner SET format = 3");
    let mut first = server_of(CLOUD + 1, address.clone());
    assert_eq!(first.reader().queues().expect("a look takes no queue")[0].counts, [0, 0, 1, 0, 0]);
    assert_eq!(claim(&mut first, 10).expect("claimed")[0].id, ids[0]);
    let refused = claim(&mut server(address), 10).expect_err("another cloud");
    assert!(
        matches!(refused, QueueStoreError::OtherCluster { owner, .. } if owner == ClusterId::from_random(CLOUD + 1))
    );
}

#[test]
fn parts_without_jobs_are_dropped() {
    let cluster = Cluster::start(&[]);
    let mut store = server(cluster.database("parts")).with_part(100);
    let parts = || -> BTreeSet<String> {
        let sql = "SELECT relname FROM pg_class WHERE relname ~ '^(jobs|bodies|results)_p[0-9]+$'";
        cluster.psql("parts", sql).lines().map(str::to_owned).collect()
    };
    let kept = submit(&mut store, vec![job(None)]).expect("queued")[0];
    for _ in 0..5 {
        submit(&mut store, (0..100).map(|_| job(None)).collect()).expect("queued");
    }
    assert_eq!(parts().len(), 21, "{:?}", parts());
    let claimed = claim(&mut store, 501).expect("claimed");
    assert_eq!(claimed.len(), 501);
    let rest: Vec<ClaimedJob> = claimed.into_iter().filter(|job| job.id != kept).collect();
    complete(&mut store, &rest).expect("completed");
    let upkeep = || QueueCommand::Upkeep { keep_since: Moment(NOW.0 + 1), most_open: WAITING_MAX };
    for _ in 0..3 {
        store.commit(vec![upkeep()], NOW).expect("removed");
    }
    let left = parts();
    assert_eq!(left.len(), 9, "the first part has a job, the last one is in use: {left:?}");
    assert!(left.contains("jobs_p0") && left.contains("jobs_p5"), "{left:?}");
    assert_eq!(store.reader().queues().expect("read")[0].counts, [0, 0, 0, 1, 0]);
    // The queue works on with the parts that are left, and after a restart.
    let mut again = server(store_address(&cluster));
    submit(&mut again, vec![job(None)]).expect("queued");
    assert_eq!(claim(&mut again, 10).expect("claimed").len(), 1);
}

fn store_address(cluster: &Cluster) -> PostgresAddress {
    let address = cluster.database("other").to_string();
    address.replace("/other", "/parts").parse().expect("an address")
}

#[test]
fn a_newer_database_and_a_wrong_password_are_refused_with_words() {
    let cluster = Cluster::start(&[]);
    let address = cluster.database("newer");
    submit(&mut server(address.clone()), vec![job(None)]).expect("queued");
    cluster.psql("newer", "UPDATE gantry_queue.owner SET format = 99");
    let refused = submit(&mut server(address.clone()), vec![job(None)]).expect_err("newer");
    assert!(matches!(refused, QueueStoreError::Newer { found: 99, .. }), "{refused}");
    let wrong = cluster.folder().join("wrong");
    std::fs::write(&wrong, "geheim\n").expect("written");
    let address = PostgresAddress { password: Some(wrong), ..address };
    let refused = submit(&mut server(address), vec![job(None)]).expect_err("a wrong password");
    let text = format!("{refused:?} {refused}");
    assert!(text.contains("password authentication failed") && !text.contains("geheim"), "{text}");
}

#[test]
fn tls_takes_only_the_certificate_of_the_named_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let mut cluster = Cluster::start(&[]);
    let address = cluster.database("tls");
    for (name, text) in [("cert.pem", signed.cert.pem()), ("key.pem", signed.signing_key.serialize_pem())] {
        let path = cluster.folder().join("data").join(name);
        std::fs::write(&path, text).expect("written");
        let owner = std::fs::metadata(cluster.folder().join("data")).expect("data");
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).expect("given");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("permissions");
    }
    cluster.kill();
    cluster.set(&["ssl=on", "ssl_cert_file=cert.pem", "ssl_key_file=key.pem"]);
    cluster.run();
    let with = |name: &str, text: String| {
        let ca = folder.path().join(name);
        std::fs::write(&ca, text).expect("written");
        server(PostgresAddress { ca: Some(ca), ..address.clone() })
    };
    submit(&mut with("ca.pem", signed.cert.pem()), vec![job(None)]).expect("queued");
    let refused = submit(&mut with("other.pem", other.cert.pem()), vec![job(None)]).expect_err("another authority");
    assert!(format!("{refused:?}").contains("InvalidCertificate"), "{refused:?}");
    let sql =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'gantry'";
    let mut encrypted = with("ca.pem", signed.cert.pem());
    submit(&mut encrypted, vec![job(None)]).expect("queued");
    assert_eq!(cluster.psql("tls", sql), "1");
}
