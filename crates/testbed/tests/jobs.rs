//! Container jobs from end to end: outcomes, limits, and the death of server and agent while jobs run.

use std::collections::BTreeSet;
use std::time::Instant;

use gantry_testbed::{Output, Postgres, TestCluster};
use serde_json::Value;

/// A cluster with an app whose role `worker` sleeps; jobs run with its image.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start(&["--jobs", "4"]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let shop = cluster.repository("shop", None);
    shop.write(
        "container/roles.json",
        "{ worker: { command: 'sleep 100000', memory: '64M' }, report: { command: 'echo \"$REPORT of $GANTRY_ROLE\"', instances: 0 } }",
    );
    shop.commit("one");
    let _ = shop.push().good();
    cluster
}

/// Runs a job with a shell script, and follows it.
fn follow(cluster: &TestCluster, flags: &[&str], script: &str) -> Output {
    let command = ["job", "run", "shop/worker", "--follow"];
    cluster.gantry(&[&command[..], flags, &["--", "/bin/sh", "-c", script]].concat())
}

/// Queues a job with a shell script; returns its number.
fn queue(cluster: &TestCluster, flags: &[&str], script: &str) -> String {
    let command = ["job", "run", "shop/worker"];
    let queued = cluster.gantry(&[&command[..], flags, &["--", "/bin/sh", "-c", script]].concat());
    queued.good().out.trim().to_owned()
}

fn show(cluster: &TestCluster, job: &str) -> Value {
    serde_json::from_str(&cluster.gantry(&["job", "show", job, "--json"]).out).unwrap_or_default()
}

fn wait_for(cluster: &TestCluster, job: &str, status: &str) -> Value {
    cluster.wait(&format!("job {job} is {status}"), |cluster| {
        let info = show(cluster, job);
        (info["status"] == status).then_some(info)
    })
}

fn logs(cluster: &TestCluster, job: &str) -> String {
    cluster.gantry(&["job", "logs", job]).good().out
}

#[test]
fn runs_a_job_once_and_keeps_its_result() {
    let cluster = cluster();
    let said = follow(
        &cluster,
        &["-p", r#"{"month":11,"api_key":"k"}"#],
        "cat $PAYLOAD_FILE; echo; echo oops >&2; echo $TASK_ID",
    );
    assert_eq!(said.status, 0, "{}", said.all());
    assert_eq!(said.out, "{\"month\":11,\"api_key\":\"k\"}\n1\n");
    assert!(said.all().contains("oops"), "{}", said.all());
    let info = wait_for(&cluster, "1", "succeeded");
    assert_eq!(info["payload"], r#"{"api_key":"[masked]","month":11}"#);
    assert_eq!((&info["attempt"]["code"], &info["queue"]["code"]), (&Value::from(0), &Value::from("worker")));
    // The role's own command and configuration, in a queue of its own.
    let _ = cluster.gantry(&["config", "set", "shop", "REPORT=sales"]).good();
    let said = cluster.gantry(&["job", "run", "shop/report", "--follow"]).good();
    assert_eq!(said.out, "sales of report\n");
    // Any image of the registry.
    let status: Value =
        serde_json::from_str(&cluster.gantry(&["releases", "shop", "--json"]).good().out).expect("JSON");
    let image = format!("shop@{}", status[0]["image"].as_str().expect("an image"));
    let said =
        cluster.gantry(&["job", "run", "--image", &image, "--no-network", "--follow", "--", "cat", "/proc/net/dev"]);
    assert!(said.status == 0 && said.out.contains("lo:") && !said.out.contains("eth0"), "{}", said.all());
    let listed = cluster.gantry(&["job", "ls"]).good().out;
    assert!(
        listed.contains("shop/worker") && listed.contains("shop/report") && listed.contains("shop/image"),
        "{listed}"
    );
    let queues = cluster.gantry(&["queue", "ls"]).good().out;
    assert_eq!(queues.lines().count(), 4, "{queues}");
    cluster.wait("no container is left", |cluster| {
        let left = std::fs::read_dir(cluster.path("data/containers")).expect("read").flatten();
        let jobs = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("job-")).count();
        let files = std::fs::read_dir(cluster.path("data/jobs")).expect("read").count();
        (jobs + files == 0).then_some(())
    });
}

#[test]
fn a_followed_job_shows_its_output_while_it_runs() {
    let cluster = cluster();
    let script = "(sleep 4; touch /tmp/go) & echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo second";
    let command = ["job", "run", "shop/worker", "--follow", "--", "/bin/sh", "-c", script];
    let mut follower = cluster.gantry_into("followed", &command);
    cluster.wait("the first line is shown", |cluster| {
        let shown = std::fs::read_to_string(cluster.path("followed")).unwrap_or_default();
        shown.contains("first").then_some(())
    });
    assert_eq!(show(&cluster, "1")["status"], "running");
    assert!(follower.wait().expect("ended").success());
    let shown = std::fs::read_to_string(cluster.path("followed")).expect("the output");
    assert_eq!(
        shown.lines().filter(|line| ["first", "second"].contains(line)).collect::<Vec<_>>(),
        ["first", "second"]
    );
}

#[test]
fn retries_failures_and_distinguishes_every_outcome() {
    let cluster = cluster();
    let failed = follow(&cluster, &["--retries", "1", "--retry-delay", "1s"], "echo attempt; exit 3");
    assert_eq!(failed.status, 3, "{}", failed.all());
    let info = show(&cluster, "1");
    assert_eq!(
        (&info["status"], &info["failures"], &info["note"]),
        (&"failed".into(), &2.into(), &"exited with 3".into())
    );
    let slow = follow(&cluster, &["--timeout", "1s"], "echo begun; sleep 100");
    assert_eq!(slow.status, 70, "{}", slow.all());
    assert!(slow.out.contains("begun"), "{}", slow.all());
    // A program that ignores the stop signal is killed after the stop timeout.
    let begun = Instant::now();
    let stubborn = follow(&cluster, &["--timeout", "1s"], "trap '' TERM; while true; do sleep 1; done");
    assert_eq!(stubborn.status, 70, "{}", stubborn.all());
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let hungry =
        follow(&cluster, &["--memory", "16M"], "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo $x | wc -c");
    assert_ne!(hungry.status, 0, "{}", hungry.all());
    let info = show(&cluster, "4");
    assert_eq!(info["note"], "killed: exceeded its memory limit of 16 MiB", "{info}");
    assert!(info["attempt"]["peak_memory"].as_u64().is_some_and(|peak| peak > 1 << 20), "{info}");
    let loud = queue(&cluster, &[], "yes 0123456789 | head -c 20000000; echo end");
    let info = wait_for(&cluster, &loud, "succeeded");
    let output = logs(&cluster, &loud);
    assert!(output.ends_with("end\n") && output.len() < 100_000 && info["attempt"]["output_cut"] == true, "{info}");
    let missing = cluster.gantry(&["job", "run", "shop/worker", "--follow", "--", "/no/such/program"]);
    assert_ne!(missing.status, 0, "{}", missing.all());
    let dead = cluster.gantry(&["queue", "dead", "shop/worker", "--json"]).good().out;
    let dead: Value = serde_json::from_str(&dead).expect("JSON");
    assert_eq!(dead["jobs"].as_array().map(Vec::len), Some(5), "{dead}");
    let again = cluster.gantry(&["job", "retry", "1"]).good().out;
    wait_for(&cluster, again.trim(), "failed");
}

#[test]
fn jobs_wait_and_are_cancelled_in_every_state() {
    let cluster = cluster();
    let running = queue(&cluster, &["--key", "a"], "trap 'echo stopped; exit 0' TERM; while true; do sleep 0.1; done");
    wait_for(&cluster, &running, "running");
    let held = queue(&cluster, &["--key", "a"], "echo held");
    let delayed = queue(&cluster, &["--delay", "1h"], "true");
    assert_eq!(show(&cluster, &held)["note"], "waits until another job with its key has ended");
    assert!(show(&cluster, &delayed)["note"].as_str().is_some_and(|note| note.starts_with("waits for")));
    let _ = cluster.gantry(&["job", "cancel", &delayed]).good();
    assert_eq!(show(&cluster, &delayed)["status"], "cancelled");
    let over = cluster.gantry(&["job", "cancel", &delayed]);
    assert!(over.status == 1 && over.all().contains("E_JOB_ENDED"), "{}", over.all());
    let early = cluster.gantry(&["job", "retry", &running]);
    assert!(early.status == 1 && early.all().contains("E_JOB_NOT_ENDED"), "{}", early.all());
    let _ = cluster.gantry(&["job", "cancel", &running]).good();
    wait_for(&cluster, &running, "cancelled");
    assert_eq!(logs(&cluster, &running), "stopped\n");
    wait_for(&cluster, &held, "succeeded");
    let _ = cluster.gantry(&["queue", "pause", "shop/worker"]).good();
    let paused = queue(&cluster, &[], "echo at last");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(show(&cluster, &paused)["status"], "queued");
    let _ = cluster.gantry(&["queue", "resume", "shop/worker"]).good();
    wait_for(&cluster, &paused, "succeeded");
    let _ = cluster.gantry(&["queue", "pause", "shop/worker"]).good();
    let purged: Vec<String> = (0..3).map(|_| queue(&cluster, &[], "true")).collect();
    let _ = cluster.gantry(&["queue", "purge", "shop/worker", "--confirm", "shop/worker"]).good();
    for job in purged {
        assert_eq!(show(&cluster, &job)["status"], "cancelled");
    }
}

#[test]
fn invalid_jobs_are_refused_and_nothing_is_queued() {
    let cluster = cluster();
    for (arguments, code) in [
        (&["shop/nothing"][..], "E_ROLE_NOT_FOUND"),
        (&["shop/nothing"], "run one of the roles ("),
        (&["shopp/worker"], "E_APP_NOT_FOUND"),
        (&["shop"], "write APP/ROLE, such as shop/shop [E_CODE_NOT_FOUND]"),
        (&["--image", "shop:none"], "E_IMAGE_NOT_FOUND"),
        (&["shop/worker", "--delay", "30d"], "E_INVALID_JOB"),
        (&["shop/worker", "--timeout", "2d"], "E_INVALID_JOB"),
        (&["shop/worker", "--retries", "1000"], "E_INVALID_JOB"),
    ] {
        let refused = cluster.gantry(&[&["job", "run"], arguments].concat());
        assert!(refused.status != 0 && refused.all().contains(code), "{arguments:?}: {}", refused.all());
    }
    std::fs::write(cluster.path("large"), "x".repeat(65_537)).expect("written");
    let large = cluster.gantry(&["job", "run", "shop/worker", "-p", &format!("@{}", cluster.path("large").display())]);
    assert!(large.all().contains("E_INVALID_JOB"), "{}", large.all());
    let unknown = cluster.gantry(&["job", "show", "7"]);
    assert!(unknown.all().contains("E_JOB_NOT_FOUND"), "{}", unknown.all());
    assert_eq!(cluster.gantry(&["job", "ls", "--json"]).good().out.trim(), "{\n  \"jobs\": []\n}");
    // A deploy token reaches the jobs of its own app only.
    let token: Value =
        serde_json::from_str(&cluster.gantry(&["token", "create", "ci", "--deploy", "shop", "--json"]).good().out)
            .expect("JSON");
    let token = token["secret"].as_str().expect("a secret");
    let _ = cluster.gantry(&["app", "create", "other"]).good();
    let own = cluster.gantry_as(token, &["job", "run", "shop/worker", "--follow", "--", "true"]);
    assert_eq!(own.status, 0, "{}", own.all());
    let other = cluster.repository("other", None);
    other.write("container/roles.json", "{ task: { command: 'true', instances: 0 } }");
    other.commit("one");
    let _ = other.push().good();
    let foreign = cluster.gantry(&["job", "run", "other/task"]).good().out;
    for arguments in
        [&["job", "show", foreign.trim()], &["job", "logs", foreign.trim()], &["job", "cancel", foreign.trim()]]
    {
        let refused = cluster.gantry_as(token, arguments);
        assert!(refused.all().contains("E_SCOPE_INSUFFICIENT"), "{arguments:?}: {}", refused.all());
    }
    for arguments in
        [&["job", "run", "other/worker"][..], &["job", "ls"], &["queue", "ls"], &["queue", "pause", "other/x"]]
    {
        let refused = cluster.gantry_as(token, arguments);
        assert!(refused.all().contains("E_SCOPE_INSUFFICIENT"), "{arguments:?}: {}", refused.all());
    }
}

/// The network namespaces of the slots that are ready for jobs. The kernel may give the number of an ended one again.
fn networks_of_slots(cluster: &TestCluster) -> BTreeSet<String> {
    let networks = cluster.slots().into_iter().map(|holder| std::fs::read_link(holder.join("ns/net")));
    networks.flatten().map(|network| network.display().to_string()).collect()
}

/// Waits until the instance and the slots are all that is on the machine.
fn only_slots_are_left(cluster: &TestCluster) {
    cluster.wait("the jobs are removed", |cluster| {
        cluster.strays(&["shop.v1.worker-1".to_owned()]).is_empty().then_some(())
    });
}

#[test]
fn jobs_start_in_slots_and_share_none() {
    let cluster = cluster();
    // The third line of the file has the job's address.
    let script = ["--follow", "--", "/bin/sh", "-c", "readlink /proc/self/ns/net; head -3 /etc/hosts | tail -1"];
    let look = |cluster: &TestCluster, flags: &[&str]| {
        let shown = cluster.gantry(&[&["job", "run", "shop/worker"], flags, &script[..]].concat()).good().out;
        shown.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let ready = |cluster: &TestCluster| {
        let networks = networks_of_slots(cluster);
        (networks.len() >= 2).then_some(networks)
    };
    let first = look(&cluster, &[]);
    let slots = cluster.wait("slots are ready", ready);
    let second = look(&cluster, &[]);
    assert!(slots.contains(&second[0]), "{second:?} is none of {slots:?}");
    let slots = cluster.wait("slots are ready", ready);
    let third = look(&cluster, &[]);
    assert!(slots.contains(&third[0]), "{third:?} is none of {slots:?}");
    assert!(first[1] != second[1] && second[1] != third[1], "an address each: {first:?}, {second:?}, {third:?}");
    let _ = look(&cluster, &["--no-network"]);
    only_slots_are_left(&cluster);
    // A slot that fails costs its job neither the start nor a retry: the slot's seed is there, and its holder is gone.
    let _ = look(&cluster, &[]);
    let _ = cluster.wait("slots are ready", ready);
    for holder in cluster.slots() {
        let pid = holder.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a pid");
        cluster.signal("KILL", pid);
    }
    let info = wait_for(&cluster, &queue(&cluster, &[], "echo without"), "succeeded");
    assert_eq!((&info["failures"], &info["attempt"]["code"]), (&0.into(), &0.into()), "{info}");
    assert!(cluster.log().contains("cannot start a job in its slot"), "{}", cluster.log());
    only_slots_are_left(&cluster);
    let slots = cluster.wait("slots are ready", |cluster| {
        let _ = look(cluster, &[]);
        ready(cluster)
    });
    // The slots of an agent end with the agent, and the next one removes the rest.
    cluster.kill_service("agent");
    cluster.wait("the slots ended", |cluster| networks_of_slots(cluster).is_disjoint(&slots).then_some(()));
    let _ = look(&cluster, &[]);
    only_slots_are_left(&cluster);
}

/// Each job appends its number to a file of the host through its output: the number of runs is in the log.
#[test]
fn jobs_survive_the_death_of_server_and_agent() {
    let cluster = cluster();
    let jobs: Vec<String> = (0..12).map(|_| queue(&cluster, &[], "sleep 3; echo done")).collect();
    wait_for(&cluster, &jobs[0], "running");
    cluster.kill_service("server");
    cluster.wait("the server is back", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    cluster.kill_service("agent");
    let late = queue(&cluster, &[], "echo late");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    cluster.kill_service("agent");
    cluster.kill_service("server");
    cluster.wait("the server is back", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    for job in jobs.iter().chain([&late]) {
        let info = wait_for(&cluster, job, "succeeded");
        assert_eq!((&info["failures"], &info["attempt"]["code"]), (&0.into(), &0.into()), "{info}");
        let output = logs(&cluster, job);
        assert!(output == "done\n" || output == "late\n", "{output}");
    }
    assert!(!cluster.log().contains("after its lease was lost"), "an extra run: {}", cluster.log());
}

#[test]
fn the_queue_moves_from_the_file_into_a_database() {
    let mut cluster = cluster();
    cluster.make_failpoints();
    let ended = queue(&cluster, &["-p", r#"{"month":11}"#], "echo ended");
    wait_for(&cluster, &ended, "succeeded");
    let failed = queue(&cluster, &[], "exit 3");
    wait_for(&cluster, &failed, "failed");
    let delayed = queue(&cluster, &["--delay", "1h"], "echo delayed");
    let _ = cluster.gantry(&["queue", "pause", "shop/worker"]).good();
    let waiting = queue(&cluster, &[], "echo waited");
    let _ = cluster.gantry(&["schedule", "create", "shop/report", "--cron", "0 6 * * *"]).good();
    let postgres = Postgres::start();
    let address = postgres.database("jobs");
    let migrate = ["store", "migrate-jobs", "--to", &address];
    let refused = cluster.offline(&migrate);
    assert!(refused.status != 0 && refused.err.contains("another `gantry up` runs"), "the server runs: {refused:?}");
    let _ = cluster.down();
    let folder = cluster.path("failpoints").display().to_string();
    for failpoint in ["transfer.marked", "transfer.slice", "transfer.copied", "transfer.renamed"] {
        std::fs::write(cluster.path("failpoints/kill"), format!("{failpoint}\n")).expect("armed");
        let output = cluster.offline_with(&[("GANTRY_FAILPOINTS", &folder)], &migrate);
        let killed = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
        assert!(output.status != 0 && killed.trim_end().ends_with(failpoint), "{killed}: {output:?}");
    }
    let moved = cluster.offline(&migrate).good();
    assert!(moved.out.contains("4 jobs, 1 schedules and 0 messages are in postgres://"), "{moved:?}");
    assert!(!cluster.path("data/server/jobs.db").exists() && cluster.path("data/server/jobs.db.moved").exists());

    cluster.up_with(&["--job-store", &address]);
    assert_eq!(logs(&cluster, &ended), "ended\n");
    assert_eq!(show(&cluster, &ended)["payload"], r#"{"month":11}"#);
    assert_eq!(show(&cluster, &failed)["attempt"]["code"], 3);
    assert_eq!(show(&cluster, &delayed)["status"], "queued");
    assert!(cluster.gantry(&["schedule", "ls"]).good().out.contains("shop/report"));
    assert!(cluster.gantry(&["queue", "dead", "shop/worker"]).good().out.contains(&failed));
    assert_eq!(show(&cluster, &waiting)["status"], "queued");
    let _ = cluster.gantry(&["queue", "resume", "shop/worker"]).good();
    wait_for(&cluster, &waiting, "succeeded");
    let new = queue(&cluster, &[], "echo new");
    wait_for(&cluster, &new, "succeeded");
    assert!(![&ended, &failed, &delayed, &waiting].contains(&&new), "a number was given twice: {new}");
    let other = cluster.offline(&["store", "migrate-jobs", "--to", &postgres.database("other")]);
    assert!(other.status != 0, "the server runs: {other:?}");
}
