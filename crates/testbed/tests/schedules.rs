//! Schedules of container jobs from end to end: times, roles of releases, the death of the server, backups.

use std::collections::BTreeSet;

use gantry_testbed::{Output, TestCluster};
use serde_json::Value;

const PLAIN: &str = "{ worker: { command: 'sleep 100000', memory: '64M' } }";

/// A cluster with the app `shop`, whose role `worker` sleeps.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start_with_file();
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    push(&cluster, PLAIN);
    cluster
}

fn push(cluster: &TestCluster, roles: &str) {
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", roles);
    shop.commit("roles");
    let _ = shop.push().good();
}

fn create(cluster: &TestCluster, flags: &[&str]) -> Output {
    cluster.gantry(
        &[&["schedule", "create", "shop/worker"], flags, &["--", "/bin/sh", "-c", "echo $GANTRY_SCHEDULED_AT"]]
            .concat(),
    )
}

fn json(cluster: &TestCluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&cluster.gantry(&[arguments, &["--json"]].concat()).out).unwrap_or_default()
}

/// Waits until a schedule has run `runs` times.
fn wait_for_runs(cluster: &TestCluster, name: &str, runs: u64) -> Value {
    cluster.wait(&format!("schedule {name} has run {runs} times"), |cluster| {
        let info = json(cluster, &["schedule", "show", name]);
        info["runs"].as_u64().is_some_and(|count| count >= runs).then_some(info)
    })
}

#[test]
fn a_schedule_queues_jobs_until_it_is_paused_or_removed() {
    let cluster = cluster();
    let shown =
        create(&cluster, &["--name", "nightly", "--cron", "30 6 * * MON-FRI", "--timezone", "Europe/Paris"]).good();
    let next: Vec<&str> = shown.out.lines().filter(|line| line.starts_with("next ")).collect();
    assert!(next.len() == 5 && next.iter().all(|line| line.contains(" 06:30:00 +0")), "{}", shown.out);
    let again = create(&cluster, &["--name", "nightly", "--every", "1h"]);
    assert!(again.all().contains("E_SCHEDULE_EXISTS"), "{}", again.all());
    let _ = create(&cluster, &["--name", "often", "--cron", "* * * * * *", "--count", "3"]).good();
    let info = wait_for_runs(&cluster, "shop/often", 3);
    let last = info["last_job"].to_string();
    let output = cluster.wait("the job has ended", |cluster| {
        let info = json(cluster, &["job", "show", &last]);
        (info["status"] == "succeeded").then(|| cluster.gantry(&["job", "logs", &last]).good().out)
    });
    assert!(output.contains(":") && output.trim().ends_with("+00:00"), "{output}");
    assert_eq!(json(&cluster, &["schedule", "show", "shop/often"])["next"], Value::from(Vec::<u64>::new()));
    assert_eq!(json(&cluster, &["job", "show", &last])["by"], "schedule shop/often");
    let _ = create(&cluster, &["--name", "paused", "--every", "1s"]).good();
    let _ = cluster.gantry(&["schedule", "pause", "shop/paused"]).good();
    let runs = json(&cluster, &["schedule", "show", "shop/paused"])["runs"].clone();
    assert!(cluster.gantry(&["schedule", "show", "shop/paused"]).good().out.contains("next             paused"));
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(json(&cluster, &["schedule", "show", "shop/paused"])["runs"], runs);
    let _ = cluster.gantry(&["schedule", "resume", "shop/paused"]).good();
    wait_for_runs(&cluster, "shop/paused", runs.as_u64().unwrap_or_default() + 1);
    let _ = cluster.gantry(&["schedule", "rm", "shop/paused"]).good();
    let gone = cluster.gantry(&["schedule", "show", "shop/paused"]);
    assert!(gone.all().contains("E_SCHEDULE_NOT_FOUND"), "{}", gone.all());
    assert_eq!(json(&cluster, &["schedule", "ls", "shop"]).as_array().map(Vec::len), Some(2));
    for (flags, expected) in [
        (&["--cron", "0 0 30 2 *"][..], "E_INVALID_SCHEDULE"),
        (&["--every", "400d"], "E_INVALID_SCHEDULE"),
        (&["--cron", "61 * * * *"], "is not a valid minute"),
        (&["--cron", "@daily", "--timezone", "Mars/Base"], "there is no time zone"),
        (&["--name", "x"], "--cron, --every or --start"),
        (&["--cron", "@daily", "--retries", "1000"], "E_INVALID_JOB"),
    ] {
        let refused = create(&cluster, flags);
        assert!(refused.status != 0 && refused.all().contains(expected), "{flags:?}: {}", refused.all());
    }
}

#[test]
fn the_schedule_of_a_role_follows_the_current_release() {
    let cluster = cluster();
    push(&cluster, "{ worker: 'sleep 100000', report: { command: 'echo $GANTRY_RELEASE', schedule: '* * * * * *' } }");
    let info = wait_for_runs(&cluster, "shop/report", 1);
    assert_eq!((&info["of_release"], &info["overlap"]), (&Value::from(true), &Value::Null));
    let job = info["last_job"].to_string();
    cluster.wait("the job has ended", |cluster| {
        (json(cluster, &["job", "show", &job])["status"] == "succeeded").then_some(())
    });
    assert_eq!(cluster.gantry(&["job", "logs", &job]).good().out, "v2\n");
    let kept = cluster.gantry(&["schedule", "rm", "shop/report"]);
    assert!(kept.all().contains("E_SCHEDULE_OF_RELEASE"), "{}", kept.all());
    push(&cluster, PLAIN);
    cluster.wait("the schedule is gone", |cluster| {
        (json(cluster, &["schedule", "ls"]) == Value::from(Vec::<Value>::new())).then_some(())
    });
    let wrong = cluster.repository("shop", None);
    wrong.write("container/roles.json", "{ report: { command: 'true', schedule: '0 25 * * *' } }");
    wrong.commit("wrong");
    assert!(wrong.push().all().contains("\"25\" is not a valid hour; write 0 to 23"));
}

/// The server is killed again and again while a schedule is due each second.
#[test]
fn no_time_runs_twice_and_none_is_lost() {
    let cluster = cluster();
    let _ = create(&cluster, &["--every", "1s", "--missed", "all"]).good();
    for runs in [2, 5, 8] {
        wait_for_runs(&cluster, "shop/worker", runs);
        cluster.kill_service("server");
        cluster.wait("the server is back", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    }
    wait_for_runs(&cluster, "shop/worker", 10);
    let _ = cluster.gantry(&["schedule", "pause", "shop/worker"]).good();
    let info = json(&cluster, &["schedule", "show", "shop/worker"]);
    assert_eq!(info["skipped"], 0, "{info}");
    let jobs = json(&cluster, &["job", "ls", "shop/worker", "-n", "1000"]);
    let keys: Vec<String> = jobs["jobs"]
        .as_array()
        .expect("jobs")
        .iter()
        .map(|job| job["settings"]["idempotency"].as_str().expect("a key").to_owned())
        .collect();
    let times: BTreeSet<u64> =
        keys.iter().map(|key| key.rsplit('/').next().and_then(|time| time.parse().ok()).expect("a time")).collect();
    assert_eq!((keys.len(), Some(keys.len() as u64)), (times.len(), info["runs"].as_u64()), "{keys:?}");
    let (first, last) = (times.first().expect("a time"), times.last().expect("a time"));
    assert_eq!((last - first) / 1000 + 1, times.len() as u64, "a time is lost: {times:?}");
}

#[test]
fn a_backup_has_the_jobs_and_the_schedules() {
    let mut cluster = cluster();
    let _ = create(&cluster, &["--name", "nightly", "--cron", "@daily"]).good();
    let _ = cluster.gantry(&["queue", "ls"]).good();
    let job = cluster.gantry(&["job", "run", "shop/worker", "--delay", "2h", "--", "true"]).good().out;
    let offline = |cluster: &TestCluster, arguments: &[&str]| {
        let (data, run) = (cluster.path("data").display().to_string(), cluster.path("run").display().to_string());
        cluster.gantry(&[arguments, &["--data", &data, "--run", &run]].concat())
    };
    let file = cluster.path("backup.tar").display().to_string();
    let _ = offline(&cluster, &["backup", &file]).good();
    let checked = offline(&cluster, &["check"]).good();
    assert!(checked.out.contains(", 1 jobs"), "{checked:?}");
    let _ = cluster.down();
    for name in ["store.db", "store.db-head", "store.db-wal", "store.db-shm", "jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        let _ = std::fs::remove_file(cluster.path(&format!("data/server/{name}")));
    }
    let _ = offline(&cluster, &["restore", &file]).good();
    cluster.up();
    assert_eq!(json(&cluster, &["job", "show", job.trim()])["status"], "queued");
    assert_eq!(json(&cluster, &["schedule", "show", "shop/nightly"])["next"].as_array().map(Vec::len), Some(5));
    // Damage is named.
    let _ = cluster.down();
    let path = cluster.path("data/server/jobs.db");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[4096..].fill(7);
    std::fs::write(&path, bytes).expect("written");
    let damaged = offline(&cluster, &["check"]);
    assert!(damaged.status == 1 && damaged.all().contains("jobs.db"), "{damaged:?}");
}
