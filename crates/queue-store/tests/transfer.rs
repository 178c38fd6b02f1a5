//! The move of a queue from a file into a database.

mod cluster;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::{CLOUD, Cluster, server, server_of};
use gantry_model::{ClusterId, MachineName, Moment};
use gantry_queue::{AttemptOutcome, ConcurrencyKey, Jitter, JobId, JobSettings};
use gantry_queue_store::{
    JobReport, MoveError, MoveStep, MovedQueue, NewJob, PostgresAddress, QueueCommand, QueueReply, QueueStore,
    QueueStoreError, SqliteQueue, move_queue,
};
use rusqlite::Connection;

const NOW: Moment = Moment(1_000_000);

/// Tables whose rows are made up, column by column.
const MADE_UP: [&str; 5] = ["message_queues", "messages", "deliveries", "schedules", "signing_keys"];

/// A column with its declared type in SQLite.
type Column = (String, String);

struct Move {
    folder: tempfile::TempDir,
    cluster: Cluster,
}

impl Move {
    fn new() -> Self {
        let moved = Self { folder: tempfile::tempdir().expect("a folder"), cluster: Cluster::start(&[]) };
        fill(&moved.file());
        moved
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }
}

fn job(number: usize) -> NewJob {
    let key = number.is_multiple_of(3).then(|| ConcurrencyKey { name: format!("k\0{}", number % 20), limit: 2 });
    let idempotency = Some(format!("once-{number}"));
    let settings = JobSettings { key, idempotency, delay: (number % 7) as u64, ..JobSettings::default() };
    NewJob {
        queue: format!("project-{}/code", number % 4).parse().expect("a queue"),
        settings,
        work: b"work".to_vec(),
        payload: vec![0xff; 10_000],
        by: "me\0too".to_owned(),
    }
}

fn claim(store: &mut dyn QueueStore, most: usize) -> Vec<(JobId, gantry_queue::Fence)> {
    let machine = MachineName::parse("m").expect("a name");
    let claim = QueueCommand::Claim { machine, most, limit: None };
    match store.commit(vec![claim], NOW).expect("claimed").pop() {
        Some(QueueReply::Claimed(claimed)) => claimed.iter().map(|job| (job.id, job.fence)).collect(),
        other => panic!("{other:?}"),
    }
}

/// Jobs in several states; and rows of all other tables, with and without values where they may be missing.
fn fill(file: &Path) {
    let mut store = SqliteQueue::open(file).expect("opened");
    store.commit(vec![QueueCommand::Submit((0..1500).map(job).collect())], NOW).expect("queued");
    let leases = claim(&mut store, 300);
    let report = JobReport { outcome: AttemptOutcome::Failed, details: b"{}".to_vec(), output: vec![0, b'x'] };
    let complete = |(job, fence)| QueueCommand::Complete { job, fence, report: report.clone(), jitter: Jitter(0) };
    store.commit(leases.into_iter().take(120).map(complete).collect(), NOW).expect("completed");
    drop(store);
    let connection = Connection::open(file).expect("opened");
    for table in MADE_UP {
        let columns = columns(&connection, table);
        for row in 1..=20 {
            let value = |(number, (_, kind)): (usize, &Column)| match kind.as_str() {
                _ if row % 4 == number % 4 && may_miss(&connection, table, number) => "NULL".to_owned(),
                "INTEGER" => (row * 1000 + number).to_string(),
                "TEXT" => format!("'ü {table} {number} {row}'"),
                _ => format!("x'00ff{row:02x}'"),
            };
            let values: Vec<String> = columns.iter().enumerate().map(value).collect();
            connection.execute(&format!("INSERT INTO {table} VALUES ({})", values.join(", ")), []).expect("inserted");
        }
    }
}

fn may_miss(connection: &Connection, table: &str, number: usize) -> bool {
    let sql = "SELECT \"notnull\" = 0 AND pk = 0 FROM pragma_table_info(?1) WHERE cid = ?2";
    connection.query_row(sql, (table, number as i64), |row| row.get(0)).expect("a column")
}

fn columns(connection: &Connection, table: &str) -> Vec<Column> {
    let mut statement = connection.prepare("SELECT name, type FROM pragma_table_info(?1)").expect("prepared");
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).expect("read");
    rows.collect::<Result<_, _>>().expect("columns")
}

fn tables(connection: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name != 'moving'";
    let mut statement = connection.prepare(sql).expect("prepared");
    statement.query_map([], |row| row.get(0)).expect("read").collect::<Result<_, _>>().expect("names")
}

/// All rows of a file, each value as a text.
fn rows_of_file(file: &Path) -> Vec<(String, Vec<String>)> {
    let connection = Connection::open(file).expect("opened");
    let rows = |table: &String| {
        let columns = columns(&connection, table);
        let text = |(name, _): &Column| {
            format!("CASE typeof({name}) WHEN 'null' THEN '-' WHEN 'integer' THEN {name} ELSE hex({name}) END")
        };
        let texts: Vec<String> = columns.iter().map(text).collect();
        let sql = format!("SELECT {} FROM {table} ORDER BY {}", texts.join(" || ' ' || "), columns[0].0);
        let mut statement = connection.prepare(&sql).expect("prepared");
        let rows = statement.query_map([], |row| row.get(0)).expect("read");
        (table.clone(), rows.collect::<Result<Vec<String>, _>>().expect("rows"))
    };
    tables(&connection).iter().map(rows).collect()
}

/// The same rows of a database.
fn rows_of_database(cluster: &Cluster, database: &str, file: &Path) -> Vec<(String, Vec<String>)> {
    let connection = Connection::open(file).expect("opened");
    let rows = |table: &String| {
        let columns = columns(&connection, table);
        let kind = |name: &str| {
            let sql = "SELECT data_type FROM information_schema.columns WHERE table_schema = 'gantry_queue'";
            cluster.psql(database, &format!("{sql} AND table_name = '{table}' AND column_name = '{name}'"))
        };
        let text = |(name, _): &Column| match kind(name).as_str() {
            "bigint" => format!("coalesce({name}::text, '-')"),
            "text" => format!("coalesce(upper(encode(convert_to({name}, 'UTF8'), 'hex')), '-')"),
            _ => format!("coalesce(upper(encode({name}, 'hex')), '-')"),
        };
        let texts: Vec<String> = columns.iter().map(text).collect();
        let sql = format!("SELECT {} FROM gantry_queue.{table} ORDER BY {}", texts.join(" || ' ' || "), columns[0].0);
        (table.clone(), cluster.psql(database, &sql).lines().map(str::to_owned).collect())
    };
    tables(&connection).iter().map(rows).collect()
}

/// A move to the queue of the cloud.
fn move_here(file: &Path, to: &PostgresAddress, passed: impl FnMut(MoveStep)) -> Result<MovedQueue, MoveError> {
    move_queue(file, to, Some(ClusterId::from_random(CLOUD)), passed)
}

/// A move that ends at its step `last`, counted from 0, as after a kill.
fn killed_at(file: &Path, to: &PostgresAddress, last: usize) {
    let mut steps = 0;
    let passed = |_| {
        assert!(steps < last, "the end");
        steps += 1;
    };
    catch_unwind(AssertUnwindSafe(|| move_here(file, to, passed))).expect_err("ended in the middle");
}

/// A move that ends at this step, as after a kill.
fn killed_after(file: &Path, to: &PostgresAddress, last: MoveStep) -> Vec<MoveStep> {
    let mut steps = Vec::new();
    let passed = |step: MoveStep| {
        steps.push(step);
        assert!(steps.last() != Some(&last), "the end");
    };
    catch_unwind(AssertUnwindSafe(|| move_here(file, to, passed))).expect_err("ended in the middle");
    steps
}

/// No server uses a part of a queue.
fn refuses_servers(to: &PostgresAddress) {
    let refused = server(to.clone()).commit(Vec::new(), NOW).expect_err("half a queue");
    assert!(matches!(refused, QueueStoreError::Unfinished { .. }) && refused.is_passing(), "{refused:?}");
}

#[test]
fn a_killed_move_continues_and_moves_everything() {
    let transfer = Move::new();
    let (file, to) = (transfer.file(), transfer.cluster.database("target"));
    // A server used the database, and left it empty.
    server(to.clone()).with_part(200).commit(Vec::new(), NOW).expect("opened");
    let before = rows_of_file(&file);
    assert!(before.iter().all(|(table, rows)| !rows.is_empty() && table != "moving"), "{:?}", before.len());
    for last in [0, 1, 2, 3, 5] {
        killed_at(&file, &to, last);
    }
    refuses_servers(&to);
    let steps = killed_after(&file, &to, MoveStep::Copied);
    assert!(steps.contains(&MoveStep::Slice), "{steps:?}");
    assert_eq!(rows_of_database(&transfer.cluster, "target", &file), before);
    assert_eq!(killed_after(&file, &to, MoveStep::Renamed), [MoveStep::Marked, MoveStep::Copied, MoveStep::Renamed]);
    // The file has its new name, and the database still has its mark. Only this database takes the queue.
    assert!(!file.exists());
    refuses_servers(&to);
    let other = move_here(&file, &transfer.cluster.database("other"), |_| ()).expect_err("begun elsewhere");
    assert!(matches!(other, MoveError::Moved { .. }), "{other}");
    let mut steps = Vec::new();
    let moved = move_here(&file, &to, |step| steps.push(step)).expect("moved");
    assert_eq!(steps, [MoveStep::Marked, MoveStep::Copied]);
    assert_eq!((moved.jobs, moved.schedules, moved.messages), (1500, 20, 20));
    assert!(!file.exists() && moved.file.exists());
    assert_eq!(rows_of_file(&moved.file), before);
    let again = move_here(&file, &to, |_| ()).expect_err("moved before");
    assert!(matches!(again, MoveError::Moved { .. }), "{again}");
    // The next server goes on, and no number is given twice.
    let mut store = server(to);
    let new = NewJob { queue: "project-0/code".parse().expect("a queue"), ..job(1500) };
    match store.commit(vec![QueueCommand::Submit(vec![new, job(7)])], NOW).expect("queued").pop() {
        Some(QueueReply::Submitted(Ok(ids))) => assert_eq!(ids, [JobId(1501), JobId(8)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(claim(&mut store, 5).len(), 5);
}

#[test]
fn a_database_with_a_queue_is_refused() {
    let transfer = Move::new();
    let to = transfer.cluster.database("used");
    let mut store = server(to.clone());
    store.commit(vec![QueueCommand::Submit(vec![job(0)])], NOW).expect("queued");
    let before = rows_of_file(&transfer.file());
    let refused = move_here(&transfer.file(), &to, |_| ()).expect_err("used");
    assert!(matches!(&refused, MoveError::NotEmpty { rows: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("/used?"), "{refused}");
    assert_eq!(rows_of_file(&transfer.file()), before);
    store.commit(Vec::new(), NOW).expect("the server goes on");
}

#[test]
fn a_move_goes_to_no_database_of_another_cloud_and_gives_the_queue_to_its_own() {
    let transfer = Move::new();
    let (file, taken, free) = (transfer.file(), transfer.cluster.database("taken"), transfer.cluster.database("free"));
    server_of(CLOUD + 1, taken.clone()).commit(Vec::new(), NOW).expect("an empty queue of another cloud");
    for cloud in [Some(CLOUD), None] {
        let refused = move_queue(&file, &taken, cloud.map(ClusterId::from_random), |_| ()).expect_err("another cloud");
        assert!(matches!(&refused, MoveError::Target(QueueStoreError::OtherCluster { .. })), "{refused}");
    }
    move_here(&file, &free, |_| ()).expect("moved");
    let refused = server_of(CLOUD + 1, free.clone()).commit(Vec::new(), NOW).expect_err("another cloud");
    assert!(matches!(refused, QueueStoreError::OtherCluster { .. }), "{refused}");
    server(free).commit(Vec::new(), NOW).expect("the cloud's own queue");
}

#[test]
fn a_file_that_was_used_meanwhile_is_not_mixed_with_its_copy() {
    let transfer = Move::new();
    let (file, to) = (transfer.file(), transfer.cluster.database("target"));
    killed_at(&file, &to, 2);
    let mut store = SqliteQueue::open(&file).expect("a server");
    store.commit(vec![QueueCommand::Submit(vec![job(5000)])], NOW).expect("queued");
    drop(store);
    let refused = move_here(&file, &to, |_| ()).expect_err("other contents");
    assert!(matches!(refused, MoveError::OtherMove { .. }), "{refused}");
    let other = transfer.cluster.database("other");
    assert_eq!(move_here(&file, &other, |_| ()).expect("moved").jobs, 1501);
}

#[test]
fn a_file_that_a_server_has_open_is_not_moved() {
    let transfer = Move::new();
    let (file, to) = (transfer.file(), transfer.cluster.database("target"));
    let mut store = SqliteQueue::open(&file).expect("a server");
    let refused = move_here(&file, &to, |_| ()).expect_err("in use");
    assert!(matches!(refused, MoveError::InUse { .. }), "{refused}");
    store.commit(vec![QueueCommand::Submit(vec![job(5000)])], NOW).expect("the server goes on");
    drop(store);
    assert_eq!(move_here(&file, &to, |_| ()).expect("moved").jobs, 1501);
}

#[test]
fn nobody_opens_a_file_that_is_being_moved() {
    let transfer = Move::new();
    let (file, to) = (transfer.file(), transfer.cluster.database("target"));
    let mut opened = None;
    let passed = |step: MoveStep| {
        if step == MoveStep::Marked {
            let connection = Connection::open(&file).expect("a connection");
            connection.busy_timeout(Duration::ZERO).expect("set");
            opened = Some(connection.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)));
        }
    };
    move_here(&file, &to, passed).expect("moved");
    assert!(matches!(opened, Some(Err(_))), "{opened:?}");
}

#[test]
fn the_file_of_an_earlier_move_is_not_overwritten() {
    let transfer = Move::new();
    let (file, to) = (transfer.file(), transfer.cluster.database("target"));
    let earlier = file.with_added_extension("moved");
    std::fs::write(&earlier, "earlier").expect("written");
    let refused = move_here(&file, &to, |_| ()).expect_err("an earlier move");
    assert!(matches!(refused, MoveError::Earlier { .. }), "{refused}");
    assert_eq!(std::fs::read(&earlier).expect("read"), b"earlier");
}

#[test]
fn a_missing_file_and_a_missing_database_are_named() {
    let transfer = Move::new();
    let missing = transfer.folder.path().join("none.db");
    let to = transfer.cluster.database("target");
    assert!(matches!(move_here(&missing, &to, |_| ()), Err(MoveError::Missing { .. })));
    assert!(!missing.exists());
    let nowhere: PostgresAddress = to.to_string().replace("/target", "/nowhere").parse().expect("an address");
    let refused = move_here(&transfer.file(), &nowhere, |_| ()).expect_err("no database");
    assert!(matches!(refused, MoveError::Target(_)), "{refused}");
}
