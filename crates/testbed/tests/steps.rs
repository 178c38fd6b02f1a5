//! Every step that the code names is the last one of its process once. Afterwards everything is as it is wanted.
//!
//! The steps are read from the source, so that a new one cannot be forgotten; one that no scenario passes fails the test.

mod site;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_testbed::load::{Kind, Load, Target};
use gantry_testbed::{Repository, World, run};
use site::{SERVER, page, push_site, site};

/// From a kill until everything is as wanted: the restart, the rest of the deploy, two seconds of watching and the drain of
/// the old release.
const CONVERGED: Duration = Duration::from_secs(30);

/// Every name in the source.
fn steps() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut grep = Command::new("grep");
    grep.args(["-rhoE", "step!\\(\"[a-z.]+\"\\)", "--include=*.rs"]).arg(crates);
    let names = run(grep).good().out;
    names.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// What is told of the app; null while the server is away.
fn shop(world: &World) -> serde_json::Value {
    serde_json::from_str(&world.gantry(&["app", "show", "shop", "--json"]).out).unwrap_or_default()
}

struct Sweep {
    world: World,
    repository: Repository,
    number: u32,
    slowest: Duration,
}

impl Sweep {
    fn start() -> Self {
        let world = World::start(&[]);
        std::fs::create_dir(world.path("steps")).expect("made");
        let repository = site(&world, "shop", 2);
        repository.write("container/compile", "#!/bin/sh\necho $$ > /app/made\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(world.path("repository-shop/container/compile"), mode).expect("set");
        push_site(&repository, "v0");
        Self { world, repository, number: 0, slowest: Duration::ZERO }
    }

    fn arm(&self, steps: &[&str]) {
        let _ = std::fs::remove_file(self.world.path("steps/killed"));
        std::fs::write(self.world.path("steps/kill"), steps.join("\n") + "\n").expect("armed");
    }

    fn killed(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.world.path("steps/killed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn background(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(gantry_testbed::program("gantry"));
        command
            .args(arguments)
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", self.world.api_port()))
            .env("GANTRY_TOKEN", self.world.token())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("gantry")
    }

    fn change(&mut self, text: &str) -> Child {
        self.number += 1;
        self.repository.write("server.py", text);
        self.repository.commit(&format!("v{}", self.number));
        self.repository.push_in_background()
    }

    fn push(&mut self) -> Child {
        let text = SERVER.replace("VERSION", &format!("v{}", self.number + 1));
        self.change(&text)
    }

    /// Makes something happen that passes the step. More than one thing for some.
    fn provoke(&mut self, step: &str) -> Vec<Child> {
        match step {
            "deploy.reverting" | "deploy.reverted" => vec![self.change("raise SystemExit(3)")],
            "deploy.held" => {
                let address = format!("http://127.0.0.1:{}/v1/apps/shop/deploys", self.world.api_port());
                let token = format!("Authorization: Bearer {}", self.world.token());
                let body = r#"{"what":{"kind":"rollback","to":null},"hold":true}"#;
                let mut curl = Command::new("curl");
                curl.args(["-sS", "--max-time", "20", "-H", &token, "-d", body, &address]);
                vec![curl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("curl")]
            }
            "deploy.superseded" => {
                let first = self.push();
                self.world.wait("it has begun", |world| (!shop(world)["deploy"].is_null()).then_some(()));
                vec![first, self.push(), self.push()]
            }
            step if step.starts_with("destroy.") => {
                let _ = self.world.gantry(&["app", "create", "victim"]);
                vec![self.background(&["app", "destroy", "victim", "--confirm", "victim"])]
            }
            // Without a build, whose own container would be the first to pass.
            step if step.starts_with("launch.") || step.starts_with("inside.") => {
                self.number += 1;
                let change = format!("N={}", self.number);
                vec![self.background(&["config", "set", "shop", &change])]
            }
            _ => vec![self.push()],
        }
    }

    /// Kills at a step, and again at whatever comes `more` times after that.
    fn kill_at(&mut self, step: &str, more: usize) {
        let list: Vec<&str> = std::iter::once(step).chain(std::iter::repeat_n("*", more)).collect();
        self.arm(&list);
        let mut children = self.provoke(step);
        let begun = Instant::now();
        self.world.wait(&format!("{step} is passed"), |_| self.killed().contains(&step.to_owned()).then_some(()));
        let killed = Instant::now();
        let good: Vec<bool> = children.iter_mut().map(|child| child.wait().expect("waited").success()).collect();
        if step == "deploy.held" {
            self.world.wait("it is held again", |world| (shop(world)["deploy"]["state"] == "held").then_some(()));
            // The second kill may come with the answer to this.
            self.world.wait("it is called off", |world| {
                let _ = world.gantry(&["abort", "shop"]);
                let value = shop(world);
                (value["name"] == "shop" && value["deploy"]["state"] != "held").then_some(())
            });
        }
        let _ = std::fs::remove_file(self.world.path("steps/kill"));
        self.converge(step);
        self.slowest = self.slowest.max(killed.elapsed());
        assert!(killed.elapsed() < CONVERGED, "{step}: it took {:?}", killed.elapsed());
        let text = page(&self.world, "shop");
        assert!(text.starts_with('v'), "{step}: {text}");
        // What was acknowledged is there.
        if good == [true] && !step.starts_with("launch.") && !step.starts_with("inside.") && !step.starts_with("de") {
            assert!(text.starts_with(&format!("v{} ", self.number)), "{step}: acknowledged and gone: {text}");
        }
        println!("{step}: killed {:?} in, converged after {:?}", killed - begun, killed.elapsed());
    }

    /// Waits until exactly what is wanted is there.
    fn converge(&self, step: &str) {
        let mut last = String::new();
        let begun = Instant::now();
        while begun.elapsed() < CONVERGED {
            let value = shop(&self.world);
            let over = value["deploy"].is_null() && value["ready"] == 2 && value["wanted"] == 2;
            if over {
                let current = value["current"].to_string();
                let wanted: Vec<String> =
                    (1..=2).map(|n| format!("shop.v{}.web-{n}", current.trim_matches(['"', 'v']))).collect();
                let strays = self.world.strays(&wanted);
                if strays.is_empty() {
                    return;
                }
                last = format!("{strays:?}");
            } else {
                last = value.to_string();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("after a kill at {step}: {last}\n{}", self.world.log());
    }
}

#[test]
fn every_step_is_the_last_of_its_process_once() {
    let again = usize::from(std::env::var_os("GANTRY_TEST_LONG").is_some());
    let mut sweep = Sweep::start();
    let all = steps();
    assert!(all.len() > 50, "{all:?}");
    let only = std::env::var("GANTRY_TEST_STEPS").ok();
    let chosen = |step: &&String| only.as_ref().is_none_or(|only| step.contains(only.as_str()));
    // A killed router takes its connections with it, so these come before the load.
    let (routers, others): (Vec<&String>, Vec<&String>) =
        all.iter().filter(chosen).partition(|step| step.starts_with("table."));
    for step in routers {
        sweep.kill_at(step, again);
    }
    let target =
        Target::shop(sweep.world.http_port(), &[Kind::Keep, Kind::Fresh, Kind::Http2], Duration::from_millis(20));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = runtime.block_on(async { Load::begin(&target, 3, Duration::from_secs(1800)) });
    for step in others {
        sweep.kill_at(step, again);
    }
    let report = runtime.block_on(load.end());
    // A second kill comes wherever it comes, and may be a router's.
    assert!(report.failed == 0 || again > 0, "{report:?}");
    println!("{} steps, slowest {:?}, {} requests, {} failed", all.len(), sweep.slowest, report.sent, report.failed);
}
