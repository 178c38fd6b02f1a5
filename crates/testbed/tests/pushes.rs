//! Pushes of other refs beside the branch, the moment at which a push returns, and later reports about the deploy.

mod site;

use std::process::Command;
use std::time::Duration;

use gantry_testbed::{Output, Repository, TestCluster, run};
use site::{SERVER, page, site};

fn deploy(cluster: &TestCluster, app: &str) -> serde_json::Value {
    let shown = cluster.gantry(&["app", "show", app, "--json"]).good().out;
    serde_json::from_str::<serde_json::Value>(&shown).expect("JSON")["deploy"].clone()
}

/// The server's last line of output in a push.
fn last_line(output: &Output) -> &str {
    output.err.lines().rfind(|line| line.starts_with("remote: ") && line.len() > 16).unwrap_or_default().trim_end()
}

fn settled(cluster: &TestCluster, app: &str) {
    cluster.wait("its deploy is over", |cluster| deploy(cluster, app).is_null().then_some(()));
}

#[test]
fn a_push_returns_once_the_release_serves_and_reports_the_bake_later() {
    let cluster = TestCluster::start(&["--wait-for", "serving", "--bake-time", "5"]);
    let shop = site(&cluster, "shop", 1);
    let change = |version: &str| {
        shop.write("server.py", &SERVER.replace("VERSION", version));
        shop.commit(version);
    };
    change("one");
    let pushed = shop.push().good();
    assert!(last_line(&pushed).starts_with("remote: http://shop.localhost:"), "{pushed:?}");
    assert!(!pushed.err.contains("Done in") && pushed.err.contains("`gantry why shop` tells"), "{pushed:?}");
    assert!(page(&cluster, "shop").starts_with("one"));
    // During the bake time of a deploy, a forced push is permitted to a pusher that knows the deployed commit.
    change("two");
    shop.git(&["commit", "--quiet", "--amend", "--message", "two, amended"]);
    let pushed = shop.attempt(&["push", "gantry", "+HEAD:main"]).good();
    assert!(pushed.err.contains("v1 stands by for 5 s") && !pushed.err.contains("Done in"), "{pushed:?}");
    let _ = cluster.gantry(&["exec", "shop", "--", "/bin/sh", "-c", "kill -9 3"]);
    settled(&cluster, "shop");
    assert!(page(&cluster, "shop").starts_with("one"));
    let why = cluster.gantry(&["why", "shop"]).good().out;
    assert!(why.contains("#2 of shop: reverted after") && why.contains("s in service: shop.v2.web-1"), "{why}");
    let events = cluster.gantry(&["events"]).good();
    assert!(events.out.contains("deploy #2 (v2) reverted after"), "{events:?}");
    // The next push reports the revert and waits for the verdict, because of `-o wait`.
    change("three");
    let waited = shop.attempt(&["push", "-o", "wait", "gantry", "HEAD:main"]).good();
    assert!(waited.err.contains("Deploy #2 before this one (push of"), "{waited:?}");
    assert!(waited.err.contains("was reverted after") && waited.err.contains("Done in"), "{waited:?}");
    assert!(deploy(&cluster, "shop").is_null());
    // The same for other kinds of deploy.
    let set = cluster.gantry(&["config", "set", "shop", "COLOR=blue"]).good();
    assert_eq!(deploy(&cluster, "shop")["state"], "draining", "{set:?}");
    assert!(set.out.starts_with("http://shop.localhost:"), "{set:?}");
    let back = cluster.gantry(&["rollback", "shop", "--wait"]).good();
    assert!(deploy(&cluster, "shop").is_null() && !back.err.contains("was reverted"), "{back:?}");
    // The rollback waited, and said for what.
    assert!(back.err.contains("Waiting for the bake time of deploy #4 (config COLOR)"), "{back:?}");
}

#[test]
fn deploys_the_branch_beside_other_pushed_refs() {
    let cluster = TestCluster::start(&["--bake-time", "1"]);
    let shop = site(&cluster, "shop", 1);
    shop.write("server.py", &SERVER.replace("VERSION", "one"));
    shop.commit("one");
    shop.git(&["tag", "--annotate", "--message", "1", "v1"]);
    shop.git(&["config", "push.followTags", "true"]);
    // A push of tags alone deploys nothing and does not fail.
    let tags = shop.attempt(&["push", "gantry", "--tags"]).good();
    assert!(tags.err.contains("Passed over: tag v1;") && tags.err.contains("Nothing is deployed"), "{tags:?}");
    let pushed = shop.push().good();
    assert!(pushed.err.contains("Passed over: tag v1; shop is deployed from main alone"), "{pushed:?}");
    assert!(page(&cluster, "shop").starts_with("one"));
    // A repeated push: the branch is up to date, and the server ignores the tag again.
    let _ = shop.push().good();
    for branch in ["feature", "other"] {
        shop.git(&["branch", branch]);
    }
    shop.write("server.py", &SERVER.replace("VERSION", "two"));
    let two = shop.commit("two");
    let all = shop.attempt(&["push", "gantry", "--all"]).good();
    assert!(all.err.contains("branch feature, branch other, tag v1; shop is deployed"), "{all:?}");
    assert_eq!(shop.remote_head(), two);
    let again = shop.attempt(&["push", "gantry", "--all"]).good();
    assert!(again.err.contains("Nothing is deployed"), "{again:?}");
    shop.write("server.py", &SERVER.replace("VERSION", "three"));
    let three = shop.commit("three");
    let _ = shop.attempt(&["push", "--mirror", "gantry"]).good();
    let _ = shop.attempt(&["push", "--mirror", "gantry"]).good();
    shop.write("server.py", &SERVER.replace("VERSION", "four"));
    let four = shop.commit("four");
    let _ = shop.attempt(&["push", "--atomic", "gantry", "v1", "HEAD:main", "HEAD:refs/heads/new"]).good();
    assert!(page(&cluster, "shop").starts_with("four"));
    let listed = shop.git(&["ls-remote", "gantry"]).out;
    assert_eq!(listed, format!("{four}\tHEAD\n{four}\trefs/heads/main\n"), "after {three}");
    // A push of another branch alone is refused as a mistake. Removing the deployed branch is refused too, even
    // beside other refs.
    let other = shop.attempt(&["push", "gantry", "feature"]);
    assert!(other.status != 0 && other.err.contains("push that: git push … HEAD:main"), "{other:?}");
    let removed = shop.attempt(&["push", "gantry", ":main", "other"]);
    assert!(removed.status != 0 && removed.err.contains("cannot be removed"), "{removed:?}");
    // When the deploy fails, the push of the other refs fails too.
    shop.write("server.py", "raise SystemExit(3)");
    shop.commit("bad");
    let bad = shop.attempt(&["push", "gantry", "HEAD:main", "v1"]);
    assert!(bad.status != 0 && page(&cluster, "shop").starts_with("four"), "{bad:?}");
    says_that_lfs_is_not_served(&cluster, &shop);
    without_http(&cluster);
    unbuffered(&cluster);
    another_branch(&cluster);
    silent_during_the_upload(&cluster);
    bounded(&cluster);
}

fn says_that_lfs_is_not_served(cluster: &TestCluster, shop: &Repository) {
    shop.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    shop.git(&["lfs", "install", "--local"]);
    shop.git(&["lfs", "track", "*.bin"]);
    shop.write("a.bin", &"x".repeat(1 << 20));
    shop.commit("large");
    let pushed = shop.push();
    assert!(pushed.status != 0 && pushed.err.contains("Gantry does not serve Git LFS"), "{pushed:?}");
    assert!(pushed.err.contains("git lfs migrate export"), "{pushed:?}");
    let address = format!("http://127.0.0.1:{}/git/shop.git/info/lfs/objects/batch", cluster.api_port());
    for method in ["POST", "GET"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-X", method, "-w", "%{http_code} %{content_type}", &address]);
        let answer = run(curl).good().out;
        assert!(answer.starts_with("{\"message\":\"Gantry does not serve Git LFS"), "{answer}");
        assert!(answer.ends_with("501 application/vnd.git-lfs+json"), "{answer}");
    }
}

/// An app without an HTTP role has no URL.
fn without_http(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "worker"]).good();
    let worker = cluster.repository("worker", None);
    worker.write("Procfile", "worker: exec sleep 100000\n");
    let commit = worker.commit("one");
    let pushed = worker.push().good();
    assert!(!pushed.err.contains("http://worker."), "{pushed:?}");
    assert!(pushed.err.contains("v1 runs, and none of its roles serves HTTP"), "{pushed:?}");
    let image = format!("worker:{commit}");
    let held = cluster.gantry(&["deploy", "worker", "--image", &image, "--hold"]).good();
    assert!(!held.all().contains("http://") && held.err.contains("held: it runs, and none of its roles"), "{held:?}");
    let shown = cluster.gantry(&["app", "show", "worker"]).good().out;
    assert!(shown.contains("url       -\n"), "{shown}");
    let listed = cluster.gantry(&["app", "ls"]).good().out;
    assert!(!listed.contains("http://worker") && listed.contains("http://shop"), "{listed}");
}

/// Streamed responses ask a reverse proxy not to buffer.
fn unbuffered(cluster: &TestCluster) {
    let get = |path: &str| {
        let mut curl = Command::new("curl");
        let address = format!("http://127.0.0.1:{}{path}", cluster.api_port());
        curl.args([
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-D",
            "-",
            "-u",
            &format!("x:{}", cluster.token()),
            &address,
        ]);
        run(curl).out.to_lowercase()
    };
    for path in [
        "/git/shop.git/info/refs?service=git-receive-pack",
        "/v1/apps/shop/deploys/1/follow",
        "/v1/apps/shop/logs?lines=1",
    ] {
        assert!(get(path).contains("x-accel-buffering: no"), "{path}: {}", get(path));
    }
}

/// The response to a push begins after the upload: a proxy cuts a response that begins early and is then silent.
fn silent_during_the_upload(cluster: &TestCluster) {
    use std::io::{ErrorKind, Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", cluster.api_port())).expect("connected");
    let token = cluster.token();
    let head = format!(
        "POST /git/shop.git/git-receive-pack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         connection: close\r\ncontent-length: 4\r\n\r\n00"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
    let mut answer = [0; 12];
    let early = stream.read(&mut answer).expect_err("no response yet");
    assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
    stream.write_all(b"00").expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.read_exact(&mut answer).expect("a response");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// An app may deploy from another branch than `main`.
fn another_branch(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "team", "--branch", "team/live"]).good();
    let team = cluster.repository("team", None);
    team.write("Procfile", "worker: exec sleep 100000\n");
    let one = team.commit("one");
    let wrong = team.push();
    assert!(wrong.status != 0 && wrong.err.contains("HEAD:team/live"), "{wrong:?}");
    let pushed = team.attempt(&["push", "gantry", "HEAD:team/live", "HEAD:main"]).good();
    assert!(pushed.err.contains("Passed over: branch main;"), "{pushed:?}");
    let listed = team.git(&["ls-remote", "gantry"]).out;
    assert_eq!(listed, format!("{one}\tHEAD\n{one}\trefs/heads/team/live\n"));
}

/// `config set` refuses a value that the kernel would not pass to a process. The longest permitted value reaches the
/// process.
fn bounded(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "ca"]).good();
    let ca = cluster.repository("ca", None);
    ca.write("Procfile", "worker: exec sleep 100000\n");
    ca.commit("one");
    let _ = ca.push().good();
    let set = |length: usize| {
        let file = cluster.path("value");
        std::fs::write(&file, "a".repeat(length)).expect("written");
        let input = std::fs::File::open(&file).expect("open");
        let mut gantry = Command::new(gantry_testbed::program("gantry"));
        gantry.args(["config", "set", "ca", "CA=-"]).stdin(input);
        gantry
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port()))
            .env("GANTRY_TOKEN", cluster.token());
        run(gantry)
    };
    let refused = set(140_000);
    assert!(refused.status == 2 && refused.err.contains("CA is too long: 140003 bytes"), "{refused:?}");
    let _ = set(131_068).good();
    let command = ["exec", "ca", "--instance", "worker-1", "--", "/bin/sh", "-c", "echo ${#CA}"];
    assert_eq!(cluster.gantry(&command).good().out, "131068\n");
    // The same from the repository: the server deploys nothing, and the configuration does not change.
    let config = || cluster.gantry(&["config", "ls", "ca"]).good().out.lines().count();
    ca.write("app.json", &format!("{{\"env\": {{\"LONG\": \"{}\"}}}}", "b".repeat(140_000)));
    ca.commit("long");
    let refused = ca.push();
    let expected = "in app.json, LONG is too long: 140005 bytes";
    assert!(refused.status != 0 && refused.err.contains(expected), "{refused:?}");
    assert_eq!(config(), 1);
    ca.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    // A deploy that fails for another reason takes its new values back, except generated secrets.
    ca.write("app.json", "{\"env\": {\"COLOR\": \"blue\", \"KEY\": {\"generator\": \"secret\"}}}");
    ca.write("Procfile", "worker: exit 3\n");
    ca.commit("bad");
    let failed = ca.push();
    assert_ne!(failed.status, 0, "{failed:?}");
    let kept = cluster.gantry(&["config", "ls", "ca"]).good().out;
    assert!(!kept.contains("COLOR=") && kept.contains("KEY="), "a secret that something may know stays");
}
