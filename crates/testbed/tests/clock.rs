//! Jumps of the wall clock: no deploy hangs, no push is interrupted, no server exits, and `gantry status` names the
//! jump.

use std::process::Command;
use std::time::{Duration, Instant};

use gantry_testbed::{ShiftedClock, TestCluster, run};

const HOUR: i64 = 3_600_000;

struct Shifted {
    cluster: TestCluster,
    clock: ShiftedClock,
}

impl Shifted {
    fn start() -> Self {
        let clock = ShiftedClock::new();
        let environment = clock.environment().map(|(name, path)| (name, path.to_str().expect("text")));
        let cluster = TestCluster::start_alone(&environment, &["--bake-time", "3"]);
        Self { cluster, clock }
    }

    fn text(&self, arguments: &[&str]) -> String {
        self.cluster.gantry(arguments).all()
    }

    /// Waits until `gantry status` contains `text`, the name of a jump.
    fn named(&self, text: &str) {
        self.cluster.wait(text, |_| self.text(&["status"]).contains(text).then_some(()));
    }

    /// Waits for the successful end of deploy `number`, with a time limit.
    fn ends_well(&self, number: u32) {
        let begun = Instant::now();
        self.cluster.wait("the deploy is done", |_| {
            let why = self.text(&["why", "shop"]);
            let done = why.contains(&format!("deploy #{number} of shop")) && why.contains("done");
            assert!(begun.elapsed() < Duration::from_secs(30), "it hangs: {why}");
            done.then_some(())
        });
    }
}

#[test]
fn clock_jumps_and_unusable_programs_end_no_workload() {
    let mut shifted = Shifted::start();
    a_jump_holds_up_and_ends_nothing(&shifted);
    a_program_that_cannot_take_over_leaves_the_old_one(&shifted);
    a_restart_keeps_the_arguments_of_up(&mut shifted.cluster);
}

fn a_jump_holds_up_and_ends_nothing(shifted: &Shifted) {
    let cluster = &shifted.cluster;
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", "{ worker: { command: 'echo begun; exec sleep 100000', memory: '16M' } }");
    shop.commit("one");
    let _ = shop.push().good();
    let token = cluster.gantry(&["token", "create", "short", "--read", "--expires", "1h"]).good().out;
    let token = token.trim();
    assert_eq!(cluster.gantry_as(token, &["status"]).status, 0);
    let server = cluster.service_pid("server");

    // The clock goes back while the cloud is idle, before a push, and again while the old release stands by.
    shifted.clock.set(-HOUR);
    shifted.named("the clock of the machine went back by 1 h");
    shop.write("two", "2");
    shop.commit("two");
    let _ = shop.push().good();
    shifted.clock.set(-2 * HOUR);
    shifted.ends_well(2);
    assert!(shifted.text(&["why", "shop"]).contains("went back by 1 h"), "{}", shifted.text(&["why", "shop"]));

    // The clock goes forward in the middle of a push.
    shop.write("three", "3");
    shop.compile_with("echo compiles; sleep 2");
    shop.commit("three");
    let mut push = shop.push_in_background();
    cluster.wait("it compiles", |_| shifted.text(&["why", "shop"]).contains("building").then_some(()));
    shifted.clock.set(2 * HOUR);
    shifted.named("the clock of the machine went forward by 4 h");
    let pushed = push.wait().expect("ended");
    assert!(pushed.success(), "the push was cut: {}", cluster.log());
    shifted.ends_well(3);
    assert_eq!(cluster.service_pid("server"), server, "the server was ended: {}", cluster.log());

    // Log lines keep their age across the jump, and a token ends at its date.
    let recent = shifted.text(&["logs", "shop", "--since", "10m"]);
    assert!(recent.contains("begun"), "{recent}");
    assert_ne!(cluster.gantry_as(token, &["status"]).status, 0, "a token that ended an hour ago");
    let events: serde_json::Value =
        serde_json::from_str(&cluster.gantry(&["events", "--json"]).good().out).expect("JSON");
    let numbers: Vec<u64> = events.as_array().expect("events").iter().filter_map(|e| e["number"].as_u64()).collect();
    assert!(numbers.is_sorted() && numbers.len() > 5, "{numbers:?}");
    let lines: Vec<&str> = events.as_array().expect("events").iter().filter_map(|e| e["text"].as_str()).collect();
    let matching_lines = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((matching_lines("went back by 1 h"), matching_lines("went forward by 4 h")), (2, 1), "{events}");

    // A server that is killed while the clock is wrong finds timestamps in the future.
    shop.write("four", "4");
    shop.commit("four");
    let _ = shop.push().good();
    shifted.clock.set(0);
    cluster.kill_service("server");
    shifted.ends_well(4);
}

/// Replaces the running program on disk by unsuitable ones. `up` checks a new program before it starts the program's
/// services.
fn a_program_that_cannot_take_over_leaves_the_old_one(shifted: &Shifted) {
    let cluster = &shifted.cluster;
    let (place, good) = (cluster.path("gantry"), cluster.path("gantry-good"));
    std::fs::rename(&place, &good).expect("moved");
    let hangs = cluster.path("hangs");
    let mut gcc = Command::new("gcc");
    let source = cluster.path("hangs.c");
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n").expect("written");
    let _ = run({
        gcc.arg("-o").arg(&hangs).arg(&source);
        gcc
    })
    .good();
    let pids = || ["server", "agent", "router"].map(|service| cluster.service_pid(service));
    let before = pids();
    let refused = |times: usize| {
        cluster.replace_services();
        cluster.wait("it is refused", |cluster| {
            (cluster.log().matches("the new program is refused").count() == times).then_some(())
        });
        assert_eq!(pids(), before, "the old ones serve on: {}", cluster.log());
        let _ = cluster.gantry(&["status"]).good();
    };
    refused(1);
    for (times, bad) in [(2, "/bin/false"), (3, "/bin/true"), (4, "/usr/bin/yes"), (5, hangs.to_str().expect("text"))] {
        std::fs::copy(bad, &place).expect("copied");
        refused(times);
        std::fs::remove_file(&place).expect("removed");
    }
    // `up` restarts a crashed service from the accepted program. The git hooks use the accepted program too.
    std::fs::copy("/bin/false", &place).expect("copied");
    cluster.kill_service("server");
    cluster.wait("it is back", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
    let five = cluster.repository("shop", None);
    five.write("five", "5");
    five.commit("five");
    let _ = five.push().good();
    // A suitable program takes over.
    std::fs::remove_file(&place).expect("removed");
    std::fs::rename(&good, &place).expect("moved");
    let before = pids();
    cluster.replace_services();
    cluster.wait("they are replaced", |_| {
        let now = pids();
        (0..3).all(|n| now[n].is_some() && now[n] != before[n]).then_some(())
    });
    cluster.wait("it serves", |cluster| (cluster.gantry(&["status"]).status == 0).then_some(()));
}

/// A settings file and the record that `up` keeps make the flags unnecessary at the next start.
fn a_restart_keeps_the_arguments_of_up(cluster: &mut TestCluster) {
    let data = cluster.path("data").display().to_string();
    let plain = |arguments: &[&str]| {
        let mut command = Command::new(cluster.path("gantry"));
        command.args(arguments);
        for name in ["GANTRY_URL", "GANTRY_TOKEN", "GANTRY_TOKEN_FILE"] {
            command.env_remove(name);
        }
        run(command)
    };
    let file = cluster.path("gantry.toml");
    std::fs::write(&file, format!("listen = \"127.0.0.1:{}\"\ndata = \"{data}\"\n", cluster.api_port()))
        .expect("written");
    let config = file.to_str().expect("text");
    assert!(plain(&["--config", config, "status"]).good().out.contains("shop"));
    assert!(plain(&["store", "check", "--config", config]).good().out.starts_with("sound"));
    std::fs::write(&file, "dataa = \"/x\"\n").expect("written");
    let refused = plain(&["--config", config, "down"]);
    assert_eq!(refused.status, 2);
    assert!(refused.err.contains("line 1, column 1: there is no setting dataa; did you mean data?"), "{}", refused.err);
    let backup = cluster.path("backup.tar").display().to_string();
    let _ = plain(&["backup", "--data", &data, &backup]).good();
    let down = plain(&["down", "--data", &data]).good();
    assert!(down.err.contains(&format!("The cloud of {data} is stopped")), "{}", down.err);
    let mut link = Command::new("ip");
    link.args(["link", "show", cluster.name()]);
    assert_ne!(run(link).status, 0, "its bridge is gone");
    cluster.up();
    let _ = cluster.down().good();
}
