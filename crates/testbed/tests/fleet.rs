//! Several machines as one cloud: real processes on machines made of network namespaces.

mod site;

use std::collections::BTreeSet;

use gantry_testbed::{Fleet, Repository};
use serde_json::Value;
use site::push_site;

/// Creates an app whose role `web` has `copies` copies.
fn app(fleet: &Fleet, name: &str, copies: usize) -> Repository {
    let _ = fleet.gantry(&["app", "create", name]).good();
    let repository = fleet.repository(name);
    let roles =
        format!("{{ web: {{ command: 'python3 server.py', instances: {copies}, health: {{ path: '/up' }} }} }}");
    repository.write("container/roles.json", &roles);
    repository
}

/// The app's instances that are ready, each with its machine.
fn ready(fleet: &Fleet, app: &str) -> Vec<(String, String)> {
    let listed = fleet.gantry(&["ps", app, "--json"]).good().out;
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let ready = listed.iter().filter(|instance| instance["phase"] == "ready" && instance["goal"] == "run");
    ready.map(|instance| (text(&instance["id"]), text(&instance["machine"]))).collect()
}

fn machines_of(instances: &[(String, String)]) -> BTreeSet<&str> {
    instances.iter().map(|(_, machine)| machine.as_str()).collect()
}

#[test]
fn commands_reach_a_workload_on_any_machine() {
    let fleet = Fleet::start(3);
    let shop = app(&fleet, "shop", 3);
    push_site(&shop, "one");
    let instances = ready(&fleet, "shop");
    assert_eq!(machines_of(&instances), BTreeSet::from(["m1", "m2", "m3"]), "one copy on each machine");

    // A process in each copy, and the lines of all copies in order of time.
    for (id, machine) in &instances {
        let short = id.split('.').next_back().expect("a name");
        let said = fleet.gantry(&["exec", "shop", "--instance", short, "--", "hostname"]).good().out;
        assert!(said.contains(short), "{machine}: {said}");
    }
    let logs = fleet.gantry(&["logs", "shop", "--json"]).good().out;
    let lines: Vec<Value> = logs.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let spoke: BTreeSet<&str> = lines.iter().filter_map(|line| line["instance"].as_str()).collect();
    assert_eq!(spoke.len(), 3, "{logs}");
    let times: Vec<u64> = lines.iter().filter_map(|line| line["at"].as_u64()).collect();
    assert!(times.is_sorted(), "{logs}");
    assert_eq!(fleet.gantry(&["logs", "shop", "-n", "2", "--json"]).good().out.lines().count(), 2);
    let one_off = fleet.gantry(&["run", "shop", "--", "sh", "-c", "echo ran; exit 7"]);
    assert!(one_off.status == 7 && one_off.out.contains("ran"), "{one_off:?}");
    let status = fleet.gantry(&["status"]).good().out;
    assert!(["m1", "m2", "m3"].iter().all(|name| status.contains(&format!("machine  {name}:"))), "{status}");

    // A second build of the app finds the first one's layers, and every machine gets the new image.
    push_site(&shop, "two");
    assert_eq!(machines_of(&ready(&fleet, "shop")).len(), 3);
    for name in fleet.names() {
        let page = fleet.curl(&name, "shop").good().out;
        assert!(page.starts_with("two"), "{name}: {page}");
    }

    a_volume_is_found_on_its_machine(&fleet);

    // A machine that cannot be asked is named, and the rest is shown.
    fleet.unplug("m3");
    let logs = fleet.wait("m3 counts as silent", |fleet| {
        let logs = fleet.gantry(&["logs", "shop"]);
        logs.err.contains("lines of machine m3 are missing").then_some(logs)
    });
    assert!(logs.status == 0 && logs.out.contains("two serves"), "{logs:?}");
    let volumes = fleet.wait("m3 counts as silent", |fleet| {
        let volumes = fleet.gantry(&["volume", "ls"]);
        volumes.err.contains("volumes of machine m3 are missing").then_some(volumes)
    });
    assert_eq!(volumes.status, 0, "{volumes:?}");
    let one_off = fleet.gantry(&["run", "shop", "--", "echo", "ran"]).good();
    assert!(one_off.out.contains("ran"), "{one_off:?}");
    fleet.plug("m3");
    fleet.wait_until_ready(&fleet.names());
    assert_eq!(fleet.gantry(&["logs", "shop"]).good().err, "");
}

fn a_volume_is_found_on_its_machine(fleet: &Fleet) {
    let books = app(fleet, "books", 1);
    let role = "{ web: { command: 'sh -c \"echo kept > /data/file; exec python3 server.py\"', health: { path: '/up' }, \
                volumes: { data: '/data' } } }";
    books.write("container/roles.json", role);
    push_site(&books, "one");
    let (_, machine) = ready(fleet, "books").pop().expect("an instance");
    let shown = fleet.gantry(&["volume", "show", "books", "data"]).good().out;
    assert!(shown.contains(&machine), "{shown}");
    // Without an instance, the machine with the folder has the volume.
    let _ = fleet.gantry(&["scale", "books", "web=0", "--wait"]).good();
    let said = fleet.wait("the volume is free", |fleet| {
        let said = fleet.gantry(&["run", "books", "--volume", "data", "--", "cat", "/data/file"]);
        (said.status == 0).then_some(said)
    });
    assert!(said.out.contains("kept"), "{said:?}");
    let archive = fleet.path("m1", "books.tar");
    let archive = archive.to_str().expect("text");
    let _ = fleet.gantry(&["volume", "export", "books", "data", "-o", archive]).good();
    let _ = fleet.gantry(&["volume", "rm", "books", "data", "--force"]).good();
    let listed = fleet.gantry(&["volume", "ls"]).good();
    assert!(!listed.out.contains("books"), "{listed:?}");
    let _ = fleet.gantry(&["volume", "import", "books", "data", archive]).good();
    let said = fleet.gantry(&["run", "books", "--volume", "data", "--", "cat", "/data/file"]).good();
    assert!(said.out.contains("kept"), "{said:?}");
}

#[test]
fn every_machine_answers_for_every_app() {
    let fleet = Fleet::start(3);
    let one = app(&fleet, "one", 1);
    push_site(&one, "single");
    let three = app(&fleet, "three", 3);
    push_site(&three, "triple");
    for name in fleet.names() {
        let page = fleet.curl(&name, "one").good().out;
        assert!(page.starts_with("single"), "{name}: {page}");
    }
    // A container of each machine reaches the role by its name.
    let ask = "import urllib.request as r; print(r.urlopen('http://one.gantry.internal:8080/').read().decode())";
    for (id, machine) in ready(&fleet, "three") {
        let short = id.split('.').next_back().expect("a name");
        let said = fleet.gantry(&["exec", "three", "--instance", short, "--", "python3", "-c", ask]);
        assert!(said.out.contains("single"), "{machine}: {said:?}");
    }
    // A machine that vanishes takes only the requests that were under way.
    let (entry, gone) = ("m1", "m3");
    fleet.unplug(gone);
    fleet.wait("the router passes over the machine", |fleet| {
        let begun = std::time::Instant::now();
        let well = (0..20).all(|_| fleet.curl(entry, "three").good().out.starts_with("triple"));
        (well && begun.elapsed() < std::time::Duration::from_secs(2)).then_some(())
    });
    fleet.plug(gone);
    fleet.wait_until_ready(&fleet.names());
    assert!(fleet.curl(gone, "one").good().out.starts_with("single"));
}

#[test]
fn each_machine_joins_with_a_token_of_its_own() {
    let mut fleet = Fleet::start(2);
    let third = fleet.add();
    let refused = |fleet: &Fleet, machine: &str, token: &str, code: &str| {
        let output = fleet.join(machine, token);
        assert!(output.status != 0 && output.err.contains(code), "expected {code}: {output:?}");
        assert!(!output.all().contains(token), "an error shows a secret: {output:?}");
    };
    let token = fleet.join_token(&["--role", "agent"]);
    let last = if token.ends_with('a') { 'b' } else { 'a' };
    let wrong = format!("{}{last}", &token[..token.len() - 1]);
    let output = fleet.join(&third, &wrong);
    assert!(output.status != 0, "{output:?}");
    refused(&fleet, &third, "gantry-join-nonsense", "E_INVALID_JOIN_TOKEN");
    let short = fleet.join_token(&["--role", "agent", "--ttl", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    refused(&fleet, &third, &short, "E_JOIN_TOKEN_EXPIRED");
    let _ = fleet.join(&third, &token).good();
    // The same machine may repeat its command, and no other machine may use the token.
    let _ = fleet.join(&third, &token).good();
    let twin = fleet.add_twin("m2");
    refused(&fleet, &twin, &token, "E_JOIN_TOKEN_USED");

    // Two machines with one name: the first keeps it.
    let fresh = fleet.join_token(&["--role", "agent"]);
    refused(&fleet, &twin, &fresh, "E_MACHINE_NAME_TAKEN");
    fleet.up(&third);
    fleet.wait_until_ready(&["m1".to_owned(), "m2".to_owned(), third]);
    let listed: Vec<Value> =
        serde_json::from_str(&fleet.gantry(&["machine", "ls", "--json"]).good().out).expect("JSON");
    assert_eq!(listed.len(), 3, "{listed:?}");
}

#[test]
fn restores_every_workload_after_a_power_loss() {
    let mut fleet = Fleet::start(3);
    let shop = app(&fleet, "shop", 3);
    push_site(&shop, "one");
    let before = ready(&fleet, "shop");
    assert_eq!(machines_of(&before).len(), 3);

    // An agent that is killed finds its containers again.
    let machine = "m2";
    let starts = |fleet: &Fleet| fleet.gantry(&["logs", "shop"]).good().out.matches("one serves").count();
    let started = starts(&fleet);
    fleet.signal(machine, "agent", "KILL");
    fleet.wait("the agent is back", |fleet| fleet.service(machine, "agent"));
    fleet.wait_until_ready(&fleet.names());
    assert_eq!((ready(&fleet, "shop"), starts(&fleet)), (before.clone(), started));

    // Everything that was acknowledged before all machines lost their power is there, and every copy serves again.
    let _ = fleet.gantry(&["app", "create", "acknowledged"]).good();
    let names = fleet.names();
    names.iter().rev().for_each(|name| fleet.power_off(name));
    names.iter().for_each(|name| fleet.power_on(name));
    fleet.wait("all machines report", |fleet| (fleet.gantry(&["app", "ls"]).status == 0).then_some(()));
    fleet.wait_until_ready(&names);
    fleet.wait("all copies are ready", |fleet| (ready(fleet, "shop").len() == 3).then_some(()));
    assert!(fleet.gantry(&["app", "ls"]).good().out.contains("acknowledged"));
    for (_, machine) in ready(&fleet, "shop") {
        let page = fleet.curl(&machine, "shop").good().out;
        assert!(page.starts_with("one"), "{machine}: {page}");
    }
}

/// The times, in milliseconds, at which an instance wrote the lines in its log on a machine's disk.
fn ticks(fleet: &Fleet, machine: &str, app: &str, id: &str) -> Vec<u64> {
    let folder = fleet.path(machine, "data").join("logs").join(app).join(id);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let text: String = texts.collect();
    let lines = text.lines().filter(|line| line.ends_with(" tick"));
    let mut times: Vec<u64> = lines.filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    times.sort_unstable();
    times
}

#[test]
fn a_single_copy_ends_on_a_machine_that_is_cut_off_before_another_one_starts() {
    let fleet = Fleet::start(3);
    // The server stays reachable, so no copy is on its machine.
    let _ = fleet.gantry(&["machine", "cordon", "m1"]).good();
    let clock = app(&fleet, "clock", 1);
    let roles = "{ web: { command: 'python3 server.py', health: { path: '/up' } }, \
                 worker: { command: 'while :; do echo tick; sleep 0.05; done', single: true } }";
    clock.write("container/roles.json", roles);
    push_site(&clock, "one");
    let worker = |fleet: &Fleet| {
        let mut workers = ready(fleet, "clock").into_iter().filter(|(id, _)| id.contains("worker"));
        workers.next().filter(|_| workers.next().is_none())
    };
    let (old, machine) = fleet.wait("the worker runs", worker);
    let refused = fleet.gantry(&["scale", "clock", "worker=2"]);
    assert!(refused.status != 0 && refused.err.contains("E_SINGLE_WRITER"), "{refused:?}");

    // The agent stands still, too: the copy ends without it.
    fleet.signal(&machine, "agent", "STOP");
    fleet.unplug(&machine);
    let (new, elsewhere) = fleet.wait("the worker runs elsewhere", |fleet| {
        worker(fleet).filter(|(id, machine)| *id != old && !ticks(fleet, machine, "clock", id).is_empty())
    });
    assert_ne!(elsewhere, machine);
    let old_ticks = ticks(&fleet, &machine, "clock", &old);
    let last = old_ticks.last().copied().expect("the old copy ran");
    let first = ticks(&fleet, &elsewhere, "clock", &new)[0];
    assert!(last < first, "the old copy ran {} ms beside the new one", last - first);

    // The machine comes back, and learns that its copy has moved.
    fleet.signal(&machine, "agent", "CONT");
    fleet.plug(&machine);
    fleet.wait_until_ready(&fleet.names());
    fleet.wait("the old copy is gone", |fleet| {
        let listed = fleet.gantry(&["ps", "clock", "--json"]).good().out;
        (!listed.contains(&format!("{old}\""))).then_some(())
    });
    let again = ticks(&fleet, &machine, "clock", &old);
    assert!(again.is_empty() || again.len() == old_ticks.len(), "the old copy ran again");
    assert_eq!(worker(&fleet).map(|(id, _)| id), Some(new));
}

#[test]
fn a_plan_says_what_a_deploy_would_do_and_is_refused_once_it_is_stale() {
    let fleet = Fleet::start(2);
    let _ = fleet.gantry(&["cluster", "policy", "set", "bake-time=1s"]).good();
    let shop = app(&fleet, "shop", 2);
    push_site(&shop, "one");
    push_site(&shop, "two");
    let plan = |fleet: &Fleet| -> Value {
        let planned = fleet.gantry(&["rollback", "shop", "v1", "--plan", "--json"]).good().out;
        serde_json::from_str(&planned).expect("JSON")
    };
    fleet.wait("the copies before are gone", |fleet| {
        let copies: Value = serde_json::from_str(&fleet.gantry(&["ps", "shop", "--json"]).good().out).ok()?;
        (copies.as_array()?.len() == 2).then_some(())
    });
    let first = fleet.wait("the deploy before is over", |fleet| {
        Some(plan(fleet)).filter(|plan| plan["waits"].as_array().is_some_and(Vec::is_empty))
    });
    let starts: Vec<&Value> = first["roles"][0]["starts"].as_array().expect("copies").iter().collect();
    let planned: BTreeSet<&str> = starts.iter().filter_map(|copy| copy["machine"].as_str()).collect();
    assert_eq!((starts.len(), planned.clone()), (2, BTreeSet::from(["m1", "m2"])), "{first}");
    assert_eq!(plan(&fleet), first, "nothing has changed");
    let text = fleet.gantry(&["rollback", "shop", "v1", "--plan"]).good().out;
    assert!(text.contains("~ web: 2 to start, 2 to end"), "{text}");
    assert!(fleet.gantry(&["deploy", "shop", "--plan"]).good().out.contains("v2 -> v3"));
    assert_eq!(ready(&fleet, "shop").len(), 2, "a plan changes nothing");

    let _ = fleet.gantry(&["machine", "cordon", "m2"]).good();
    let id = first["id"].as_str().expect("an id");
    let stale = fleet.gantry(&["rollback", "shop", "v1", "--plan-id", id]);
    assert!(stale.status != 0 && stale.err.contains("E_PLAN_STALE"), "{stale:?}");
    let second = plan(&fleet);
    let id = second["id"].as_str().expect("an id");
    let _ = fleet.gantry(&["rollback", "shop", "v1", "--plan-id", id]).good();
    let instances = ready(&fleet, "shop");
    let released: Vec<_> = instances.into_iter().filter(|(id, _)| id.contains(".v3.")).collect();
    assert_eq!(machines_of(&released), BTreeSet::from(["m1"]), "{released:?}");
}
