//! A wall clock that jumps: no deploy hangs, no push is cut, no server ends, and the jump is named. The clock of server, agent and router is
//! shifted by a preloaded library (`clock.c`); the machine's own is never touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_testbed::{World, run};

const HOUR: i64 = 3_600_000;

/// The library, compiled into `folder`.
fn library(folder: &Path) -> PathBuf {
    let path = folder.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source);
    let _ = run(gcc).good();
    path
}

struct Shifted {
    world: World,
    shift: PathBuf,
    _folder: tempfile::TempDir,
}

impl Shifted {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (library, shift) = (library(folder.path()), folder.path().join("shift"));
        std::fs::write(&shift, 0i64.to_le_bytes()).expect("written");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let environment = [("LD_PRELOAD", text(&library)), ("GANTRY_TEST_CLOCK", text(&shift))];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let world = World::start_alone(&environment, &["--watch", "3"]);
        Self { world, shift, _folder: folder }
    }

    /// Sets the clock, in milliseconds from the machine's.
    fn set(&self, millis: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&self.shift).expect("opened");
        file.write_all_at(&millis.to_le_bytes(), 0).expect("written");
    }

    fn text(&self, arguments: &[&str]) -> String {
        self.world.gantry(arguments).all()
    }

    /// Waits until `status` names a jump.
    fn named(&self, text: &str) {
        self.world.wait(text, |_| self.text(&["status"]).contains(text).then_some(()));
    }

    /// Waits for the end of deploy `number`, for no longer than it may take.
    fn ends_well(&self, number: u32) {
        let begun = Instant::now();
        self.world.wait("the deploy is done", |_| {
            let why = self.text(&["why", "shop"]);
            let done = why.contains(&format!("deploy #{number} of shop")) && why.contains("done");
            assert!(begun.elapsed() < Duration::from_secs(30), "it hangs: {why}");
            done.then_some(())
        });
    }
}

#[test]
fn a_jump_of_the_wall_clock_holds_up_and_ends_nothing() {
    let shifted = Shifted::start();
    let world = &shifted.world;
    let _ = world.gantry(&["app", "create", "shop"]).good();
    let shop = world.repository("shop", None);
    shop.write("container/roles.json", "{ worker: { command: 'echo begun; exec sleep 100000', memory: '16M' } }");
    shop.commit("one");
    let _ = shop.push().good();
    let token = world.gantry(&["token", "create", "short", "--read", "--expires", "1h"]).good().out;
    let token = token.trim();
    assert_eq!(world.gantry_as(token, &["status"]).status, 0);
    let server = world.service_pid("server");

    // Back while idle, then a push; and once more while the old release stands by.
    shifted.set(-HOUR);
    shifted.named("the clock of the machine went back by 1 h");
    shop.write("two", "2");
    shop.commit("two");
    let _ = shop.push().good();
    shifted.set(-2 * HOUR);
    shifted.ends_well(2);
    assert!(shifted.text(&["why", "shop"]).contains("went back by 1 h"), "{}", shifted.text(&["why", "shop"]));

    // Forward, in the middle of a push.
    shop.write("three", "3");
    shop.compile_with("echo compiles; sleep 2");
    shop.commit("three");
    let mut push = shop.push_in_background();
    world.wait("it compiles", |_| shifted.text(&["why", "shop"]).contains("building").then_some(()));
    shifted.set(2 * HOUR);
    shifted.named("the clock of the machine went forward by 4 h");
    let pushed = push.wait().expect("ended");
    assert!(pushed.success(), "the push was cut: {}", world.log());
    shifted.ends_well(3);
    assert_eq!(world.service_pid("server"), server, "the server was ended: {}", world.log());

    // What was printed moments ago was printed moments ago; a token ends at its date.
    let recent = shifted.text(&["logs", "shop", "--since", "10m"]);
    assert!(recent.contains("begun"), "{recent}");
    assert_ne!(world.gantry_as(token, &["status"]).status, 0, "a token that ended an hour ago");
    let events: serde_json::Value =
        serde_json::from_str(&world.gantry(&["events", "--json"]).good().out).expect("JSON");
    let numbers: Vec<u64> = events.as_array().expect("events").iter().filter_map(|e| e["number"].as_u64()).collect();
    assert!(numbers.is_sorted() && numbers.len() > 5, "{numbers:?}");
    let told = |text: &str| events.to_string().matches(text).count();
    assert_eq!((told("went back by 1 h"), told("went forward by 4 h")), (2, 1), "{events}");

    // A server that is killed while the clock is wrong finds stamps of the future.
    shop.write("four", "4");
    shop.commit("four");
    let _ = shop.push().good();
    shifted.set(0);
    world.kill_service("server");
    shifted.ends_well(4);
}
