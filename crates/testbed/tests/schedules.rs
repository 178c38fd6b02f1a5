//! Schedules of container jobs from end to end: times, roles of releases, the death of the server, backups.

use std::collections::BTreeSet;

use gantry_testbed::{Output, TestCluster};
use serde_json::Value;

const PLAIN: &str = "{ worker: { command: 'sleep 100000', memory: '64M' } }";

/// A cluster with the app `shop`, whose role `worker` sleeps.
fn world() -> TestCluster {
    let world = TestCluster::start_with_file();
    let _ = world.gantry(&["app", "create", "shop"]).good();
    push(&world, PLAIN);
    world
}

fn push(world: &TestCluster, roles: &str) {
    let shop = world.repository("shop", None);
    shop.write("container/roles.json", roles);
    shop.commit("roles");
    let _ = shop.push().good();
}

fn create(world: &TestCluster, flags: &[&str]) -> Output {
    world.gantry(
        &[&["schedule", "create", "shop/worker"], flags, &["--", "/bin/sh", "-c", "echo $GANTRY_SCHEDULED_AT"]]
            .concat(),
    )
}

fn json(world: &TestCluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&world.gantry(&[arguments, &["--json"]].concat()).out).unwrap_or_default()
}

/// Waits until a schedule has run `runs` times.
fn wait_for_runs(world: &TestCluster, name: &str, runs: u64) -> Value {
    world.wait(&format!("schedule {name} has run {runs} times"), |world| {
        let told = json(world, &["schedule", "show", name]);
        told["runs"].as_u64().is_some_and(|count| count >= runs).then_some(told)
    })
}

#[test]
fn a_schedule_queues_jobs_until_it_is_paused_or_removed() {
    let world = world();
    let shown =
        create(&world, &["--name", "nightly", "--cron", "30 6 * * MON-FRI", "--timezone", "Europe/Paris"]).good();
    let next: Vec<&str> = shown.out.lines().filter(|line| line.starts_with("next ")).collect();
    assert!(next.len() == 5 && next.iter().all(|line| line.contains(" 06:30:00 +0")), "{}", shown.out);
    let again = create(&world, &["--name", "nightly", "--every", "1h"]);
    assert!(again.all().contains("E_SCHEDULE_EXISTS"), "{}", again.all());
    let _ = create(&world, &["--name", "often", "--cron", "* * * * * *", "--count", "3"]).good();
    let told = wait_for_runs(&world, "shop/often", 3);
    let last = told["last_job"].to_string();
    let output = world.wait("the job has ended", |world| {
        let told = json(world, &["job", "show", &last]);
        (told["status"] == "succeeded").then(|| world.gantry(&["job", "logs", &last]).good().out)
    });
    assert!(output.contains(":") && output.trim().ends_with("+00:00"), "{output}");
    assert_eq!(json(&world, &["schedule", "show", "shop/often"])["next"], Value::from(Vec::<u64>::new()));
    assert_eq!(json(&world, &["job", "show", &last])["by"], "schedule shop/often");
    let _ = create(&world, &["--name", "paused", "--every", "1s"]).good();
    let _ = world.gantry(&["schedule", "pause", "shop/paused"]).good();
    let runs = json(&world, &["schedule", "show", "shop/paused"])["runs"].clone();
    assert!(world.gantry(&["schedule", "show", "shop/paused"]).good().out.contains("next             paused"));
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(json(&world, &["schedule", "show", "shop/paused"])["runs"], runs);
    let _ = world.gantry(&["schedule", "resume", "shop/paused"]).good();
    wait_for_runs(&world, "shop/paused", runs.as_u64().unwrap_or_default() + 1);
    let _ = world.gantry(&["schedule", "rm", "shop/paused"]).good();
    let gone = world.gantry(&["schedule", "show", "shop/paused"]);
    assert!(gone.all().contains("E_SCHEDULE_NOT_FOUND"), "{}", gone.all());
    assert_eq!(json(&world, &["schedule", "ls", "shop"]).as_array().map(Vec::len), Some(2));
    for (flags, wanted) in [
        (&["--cron", "0 0 30 2 *"][..], "E_INVALID_SCHEDULE"),
        (&["--every", "400d"], "E_INVALID_SCHEDULE"),
        (&["--cron", "61 * * * *"], "is not a valid minute"),
        (&["--cron", "@daily", "--timezone", "Mars/Base"], "there is no time zone"),
        (&["--name", "x"], "--cron, --every or --start"),
        (&["--cron", "@daily", "--retries", "1000"], "E_INVALID_JOB"),
    ] {
        let refused = create(&world, flags);
        assert!(refused.status != 0 && refused.all().contains(wanted), "{flags:?}: {}", refused.all());
    }
}

#[test]
fn the_schedule_of_a_role_follows_the_current_release() {
    let world = world();
    push(&world, "{ worker: 'sleep 100000', report: { command: 'echo $GANTRY_RELEASE', schedule: '* * * * * *' } }");
    let told = wait_for_runs(&world, "shop/report", 1);
    assert_eq!((&told["of_release"], &told["overlap"]), (&Value::from(true), &Value::Null));
    let job = told["last_job"].to_string();
    world.wait("the job has ended", |world| {
        (json(world, &["job", "show", &job])["status"] == "succeeded").then_some(())
    });
    assert_eq!(world.gantry(&["job", "logs", &job]).good().out, "v2\n");
    let kept = world.gantry(&["schedule", "rm", "shop/report"]);
    assert!(kept.all().contains("E_SCHEDULE_OF_RELEASE"), "{}", kept.all());
    push(&world, PLAIN);
    world.wait("the schedule is gone", |world| {
        (json(world, &["schedule", "ls"]) == Value::from(Vec::<Value>::new())).then_some(())
    });
    let wrong = world.repository("shop", None);
    wrong.write("container/roles.json", "{ report: { command: 'true', schedule: '0 25 * * *' } }");
    wrong.commit("wrong");
    assert!(wrong.push().all().contains("\"25\" is not a valid hour; write 0 to 23"));
}

/// The server is killed again and again while a schedule is due each second.
#[test]
fn no_time_runs_twice_and_none_is_lost() {
    let world = world();
    let _ = create(&world, &["--every", "1s", "--missed", "all"]).good();
    for runs in [2, 5, 8] {
        wait_for_runs(&world, "shop/worker", runs);
        world.kill_service("server");
        world.wait("the server is back", |world| (world.gantry(&["status"]).status == 0).then_some(()));
    }
    wait_for_runs(&world, "shop/worker", 10);
    let _ = world.gantry(&["schedule", "pause", "shop/worker"]).good();
    let told = json(&world, &["schedule", "show", "shop/worker"]);
    assert_eq!(told["skipped"], 0, "{told}");
    let jobs = json(&world, &["job", "ls", "shop/worker", "-n", "1000"]);
    let keys: Vec<String> = jobs["jobs"]
        .as_array()
        .expect("jobs")
        .iter()
        .map(|job| job["settings"]["idempotency"].as_str().expect("a key").to_owned())
        .collect();
    let times: BTreeSet<u64> =
        keys.iter().map(|key| key.rsplit('/').next().and_then(|time| time.parse().ok()).expect("a time")).collect();
    assert_eq!((keys.len(), Some(keys.len() as u64)), (times.len(), told["runs"].as_u64()), "{keys:?}");
    let (first, last) = (times.first().expect("a time"), times.last().expect("a time"));
    assert_eq!((last - first) / 1000 + 1, times.len() as u64, "a time is lost: {times:?}");
}

#[test]
fn a_backup_has_the_jobs_and_the_schedules() {
    let mut world = world();
    let _ = create(&world, &["--name", "nightly", "--cron", "@daily"]).good();
    let _ = world.gantry(&["queue", "ls"]).good();
    let job = world.gantry(&["job", "run", "shop/worker", "--delay", "2h", "--", "true"]).good().out;
    let offline = |world: &TestCluster, arguments: &[&str]| {
        let (data, run) = (world.path("data").display().to_string(), world.path("run").display().to_string());
        world.gantry(&[arguments, &["--data", &data, "--run", &run]].concat())
    };
    let file = world.path("backup.tar").display().to_string();
    let _ = offline(&world, &["backup", &file]).good();
    let checked = offline(&world, &["check"]).good();
    assert!(checked.out.contains(", 1 jobs"), "{checked:?}");
    let _ = world.down();
    for name in ["store.db", "store.db-head", "store.db-wal", "store.db-shm", "jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        let _ = std::fs::remove_file(world.path(&format!("data/server/{name}")));
    }
    let _ = offline(&world, &["restore", &file]).good();
    world.up();
    assert_eq!(json(&world, &["job", "show", job.trim()])["status"], "queued");
    assert_eq!(json(&world, &["schedule", "show", "shop/nightly"])["next"].as_array().map(Vec::len), Some(5));
    // Damage is named.
    let _ = world.down();
    let path = world.path("data/server/jobs.db");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[4096..].fill(7);
    std::fs::write(&path, bytes).expect("written");
    let damaged = offline(&world, &["check"]);
    assert!(damaged.status == 1 && damaged.all().contains("jobs.db"), "{damaged:?}");
}
