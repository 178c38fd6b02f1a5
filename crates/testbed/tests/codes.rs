//! Code on stacks from end to end: upload, revisions, stacks, and uploads that are refused.

use std::path::Path;
use std::process::Command;

use gantry_testbed::{TestCluster, run};
use serde_json::Value;

/// A cluster with the app `shop`, which has no release.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start(&["--jobs", "4"]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    cluster
}

fn write(cluster: &TestCluster, path: &str, text: &str) {
    let path = cluster.path(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, text).expect("written");
}

fn upload(cluster: &TestCluster, code: &str, folder: &str, more: &[&str]) -> Value {
    let path = cluster.path(folder);
    let path = path.to_str().expect("text");
    let command = ["code", "upload", code, path, "--stack", "debian", "--json"];
    serde_json::from_str(&cluster.gantry(&[&command, more].concat()).good().out).expect("JSON")
}

/// Runs a job to its end; returns its output.
fn follow(cluster: &TestCluster, code: &str) -> String {
    cluster.gantry(&["job", "run", code, "--follow", "-p", "{\"month\":11}"]).good().out
}

fn json(cluster: &TestCluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&cluster.gantry(&[arguments, &["--json"]].concat()).good().out).expect("JSON")
}

#[test]
fn uploaded_code_runs_without_a_build_and_each_job_keeps_its_revision() {
    let cluster = cluster();
    let _ = cluster.gantry(&["config", "set", "shop", "REGION=north"]).good();
    write(
        &cluster,
        "report/report.py",
        "import os, lib.words\nprint('one', lib.words.said(), os.environ['REGION'], os.getcwd(), os.getuid())\nprint(open(os.environ['PAYLOAD_FILE']).read())\n",
    );
    write(&cluster, "report/lib/words.py", "def said():\n    return 'hello'\n");
    write(&cluster, "report/.git/config", "secret");
    let first = upload(&cluster, "shop/report", "report", &[]);
    assert_eq!((&first["current"]["number"], &first["current"]["files"]), (&1.into(), &2.into()), "{first}");
    assert_eq!(follow(&cluster, "shop/report"), "one hello north /app 1000\n{\"month\":11}\n");
    // The same files are the same revision, whatever archive has them.
    let zipped = cluster.path("report.zip");
    let mut zip = Command::new("python3");
    zip.args(["-c", "import shutil; shutil.make_archive('report', 'zip', 'report')"]).current_dir(cluster.path(""));
    std::fs::remove_dir_all(cluster.path("report/.git")).expect("removed");
    let _ = run(zip).good();
    assert!(zipped.exists());
    let same = upload(&cluster, "shop/report", "report.zip", &[]);
    assert_eq!(same["current"], first["current"]);
    // A queued job runs the revision that was current when it was queued.
    let _ = cluster.gantry(&["queue", "pause", "shop/report"]).good();
    let queued = cluster.gantry(&["job", "run", "shop/report"]).good().out;
    write(&cluster, "report/report.py", "print('two')\n");
    let second = upload(&cluster, "shop/report", "report", &[]);
    assert_eq!(second["current"]["number"], 2, "{second}");
    let newer = cluster.gantry(&["job", "run", "shop/report"]).good().out;
    let _ = cluster.gantry(&["queue", "resume", "shop/report"]).good();
    for (job, revision, said) in [(queued.trim(), 1, "one hello"), (newer.trim(), 2, "two\n")] {
        let output = cluster.wait("the job has succeeded", |cluster| {
            let output = json(cluster, &["job", "show", job]);
            (output["status"] == "succeeded").then_some(output)
        });
        assert_eq!(output["revision"], revision, "{output}");
        assert!(cluster.gantry(&["job", "logs", job]).good().out.starts_with(said));
    }
    let shown = json(&cluster, &["code", "show", "shop/report"]);
    assert_eq!(shown["revisions"].as_array().map(Vec::len), Some(2), "{shown}");
    assert!(cluster.gantry(&["code", "ls"]).good().out.contains("shop/report"));
    // The image of the code is one small layer over that of the base.
    let image = format!("shop@{}", shown["current"]["image"].as_str().expect("an image"));
    let (report, base) =
        (json(&cluster, &["image", "report", &image]), json(&cluster, &["image", "report", "base/debian"]));
    let layers = |report: &Value| report["layers"].as_array().cloned().expect("layers");
    assert_eq!(layers(&report)[..layers(&base).len()], layers(&base)[..]);
    assert_eq!(layers(&report).last().expect("a layer")["files"], 2, "{report}");
    assert!(base["largest"][0]["size"].as_u64().is_some_and(|size| size > 1 << 20), "{base}");
    assert!(cluster.gantry(&["image", "report", &image]).good().out.contains("to transfer"));
    // A command in the image opens its program, and few of the other files.
    let opens = |command: &[&str]| {
        let report =
            cluster.gantry(&[&["image", "report", &image, "--json", "--run", "--"], command].concat()).good().out;
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["opens"]["is_whole"], true, "{report}");
        let count = |kind: &str| report["opens"][kind]["files"].as_u64().expect("a number");
        let folders = report["opens"]["folders"].as_array().expect("folders");
        assert!(folders.iter().any(|folder| folder["path"] == "/usr/bin"), "{report}");
        (count("opened"), count("unopened"))
    };
    let (little, more) = (opens(&["true"]), opens(&["cat", "/usr/bin/env"]));
    assert!(
        little.0 > 0 && little.0 < more.0 && little.1 > more.1 && more.0 < 100 && more.1 > 100,
        "{little:?} {more:?}"
    );
    let output = cluster.gantry(&["image", "report", &image, "--run", "--", "sh", "-c", "echo said; exit 3"]);
    assert_eq!(output.status, 3, "{}", output.all());
    assert!(output.out.contains("no process opened") && !output.out.contains("said"), "{}", output.all());
    // Processes that the command leaves behind, and that open files without end, do not keep the report waiting.
    let busy = "(while :; do for file in /usr/bin/*; do : < $file; done; done) & exit 4";
    let output = cluster.gantry(&["image", "report", &image, "--run", "--", "sh", "-c", busy]);
    assert_eq!(output.status, 4, "{}", output.all());
    let events = cluster.gantry(&["events", "shop"]).good().out;
    let named = format!("run in image {} without a release", shown["current"]["image"].as_str().expect("an image"));
    assert!(events.contains(&named), "{events}");
    let none = cluster.gantry(&["image", "report", "shop:none"]);
    assert!(none.all().contains("E_IMAGE_NOT_FOUND"), "{}", none.all());
    assert!(cluster.gantry(&["events", "shop"]).good().out.contains("uploaded code report, revision 2"));
    // A schedule runs it as well, and a removed code takes no more jobs.
    let _ = cluster.gantry(&["schedule", "create", "shop/report", "--every", "1h"]).good();
    let _ = cluster.gantry(&["queue", "pause", "shop/report"]).good();
    write(&cluster, "report/report.py", "print('three')\n");
    let _ = upload(&cluster, "shop/report", "report", &[]);
    let queued = cluster.gantry(&["job", "run", "shop/report"]).good().out;
    let _ = cluster.gantry(&["code", "rm", "shop/report"]).good();
    let _ = cluster.gantry(&["queue", "resume", "shop/report"]).good();
    cluster.wait("the queued job of the removed code has succeeded", |cluster| {
        (json(cluster, &["job", "show", queued.trim()])["status"] == "succeeded").then_some(())
    });
    let gone = cluster.gantry(&["job", "run", "shop/report"]);
    assert!(gone.status == 1 && gone.all().contains("no uploaded code has this name"), "{}", gone.all());
}

#[test]
fn a_stack_and_the_app_of_codes_are_made_at_first_need() {
    let cluster = cluster();
    let listed = cluster.gantry(&["stack", "ls"]).good().out;
    for stack in ["node", "python", "ruby", "tiny"] {
        assert!(listed.lines().any(|line| line.starts_with(stack) && line.contains("not yet")), "{listed}");
    }
    let unknown = cluster.gantry(&["stack", "create", "perl"]);
    assert!(unknown.all().contains("E_STACK_NOT_FOUND"), "{}", unknown.all());
    std::fs::create_dir(cluster.path("hello")).expect("made");
    std::fs::copy("/bin/busybox", cluster.path("hello/busybox")).expect("busybox-static");
    let path = cluster.path("hello");
    let path = path.to_str().expect("text");
    let command =
        ["code", "upload", "hello", path, "--stack", "tiny", "--command", "/app/busybox echo from a tiny stack"];
    let token = cluster.gantry(&["token", "create", "ci", "--deploy", "shop", "--json"]).good().out;
    let token: Value = serde_json::from_str(&token).expect("JSON");
    // Only an administrator makes a stack.
    let refused = cluster.gantry_with(
        &[("GANTRY_TOKEN", token["secret"].as_str().expect("a secret"))],
        &["code", "upload", "shop/hello", path, "--stack", "tiny"],
    );
    assert!(refused.status == 1 && refused.all().contains("E_STACK_NOT_MADE"), "{}", refused.all());
    let _ = cluster.gantry(&command).good();
    assert_eq!(follow(&cluster, "hello"), "from a tiny stack\n");
    let stacks = json(&cluster, &["stack", "ls"]);
    assert!(stacks[3]["base"]["image"].is_string(), "{stacks}");
    // A stack does not make the base of the next push ambiguous.
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", "{ web: { command: 'sleep 1000', instances: 0 } }");
    shop.commit("one");
    let _ = shop.push().good();
    // A base of an operator is not replaced by a stack of its name.
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let _ = cluster.gantry(&["base", "import", "ruby", &archive]).good();
    let taken = cluster.gantry(&["stack", "create", "ruby"]);
    assert!(taken.all().contains("E_STACK_NAME_TAKEN"), "{}", taken.all());
    let listed = cluster.gantry(&["stack", "ls"]).good().out;
    let ruby = listed.lines().find(|line| line.starts_with("ruby")).unwrap_or_default();
    assert!(ruby.ends_with("ago, as a base of your own"), "{listed}");
    let tiny = listed.lines().find(|line| line.starts_with("tiny")).unwrap_or_default();
    assert!(tiny.ends_with("ago"), "{listed}");
}

/// Makes a stack of Debian packages: a minute, and a mirror of Debian.
#[test]
fn a_stack_of_packages_runs_its_language() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    let cluster = cluster();
    for (stack, file, text) in [
        ("python", "main.py", "print('runs')"),
        ("node", "main.js", "console.log('runs')"),
        ("ruby", "main.rb", "puts 'runs'"),
    ] {
        write(&cluster, &format!("{stack}/{file}"), text);
        let path = cluster.path(stack);
        let _ = cluster.gantry(&["code", "upload", stack, path.to_str().expect("text"), "--stack", stack]).good();
        assert_eq!(follow(&cluster, stack), "runs\n");
    }
}

#[test]
fn hostile_uploads_are_refused_and_leave_nothing() {
    let cluster = cluster();
    let make = |name: &str, script: &str| {
        let mut python = Command::new("python3");
        python.args(["-c", script, name]).current_dir(cluster.path(""));
        let _ = run(python).good();
        cluster.path(name)
    };
    let zip = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n";
    let tar = "import sys, tarfile\nt = tarfile.open(sys.argv[1], 'w')\nm = tarfile.TarInfo('main.py')\nt.addfile(m)\n";
    let refused = |path: &Path, code: &str| {
        let path = path.to_str().expect("text");
        let said = cluster.gantry(&["code", "upload", "shop/bad", path, "--stack", "debian"]);
        assert!(said.status != 0 && said.all().contains(code), "{path}: {}", said.all());
        // The message itself says what to do.
        let remedies = ["leave out", "leave the", "rename it", "pack the folder", "--command"];
        assert!(remedies.iter().any(|remedy| said.all().contains(remedy)), "{path}: {}", said.all());
    };
    refused(&make("up.zip", &format!("{zip}z.writestr('../../etc/cron.d/x', 'x')")), "E_INVALID_CODE");
    refused(&make("absolute.zip", &format!("{zip}z.writestr('/etc/x', 'x')")), "E_INVALID_CODE");
    refused(&make("bomb.zip", &format!("{zip}z.writestr('main.py', b'\\0' * (1100 << 20))")), "E_INVALID_CODE");
    let device = "m = tarfile.TarInfo('d')\nm.type = tarfile.CHRTYPE\nt.addfile(m)\nt.close()";
    refused(&make("device.tar", &format!("{tar}{device}")), "E_INVALID_CODE");
    let through = "m = tarfile.TarInfo('d')\nm.type = tarfile.SYMTYPE\nm.linkname = '/etc'\nt.addfile(m)\nm = tarfile.TarInfo('d/x')\nt.addfile(m)\nt.close()";
    refused(&make("through.tar", &format!("{tar}{through}")), "E_INVALID_CODE");
    refused(&make("text.py", "open('text.py', 'w').write('print(1)')"), "E_INVALID_CODE");
    refused(&make("two.zip", &format!("{zip}z.writestr('a.py', '')\nz.writestr('b.py', '')")), "E_NO_CODE_COMMAND");
    let elsewhere = cluster.gantry(&["code", "upload", "none/x", "/nonexistent", "--stack", "debian"]);
    assert!(elsewhere.all().contains("E_FILE_UNREADABLE"), "{}", elsewhere.all());
    let fine = make("fine.zip", &format!("{zip}z.writestr('bad.py', 'print(1)')"));
    let fine = fine.to_str().expect("text");
    let missing = cluster.gantry(&["code", "upload", "none/x", fine, "--stack", "debian"]);
    assert!(missing.all().contains("E_APP_NOT_FOUND"), "{}", missing.all());
    let stack = cluster.gantry(&["code", "upload", "shop/x", fine, "--stack", "perl"]);
    assert!(stack.all().contains("E_BASE_NOT_FOUND"), "{}", stack.all());
    assert_eq!(json(&cluster, &["code", "ls"]).as_array().map(Vec::len), Some(0));
    // A server that dies before the record leaves no code, and the next upload makes it.
    cluster.make_failpoints();
    std::fs::write(cluster.path("failpoints/kill"), "code.stored\n").expect("written");
    let killed = cluster.gantry(&["code", "upload", "shop/bad", fine, "--stack", "debian"]);
    assert_ne!(killed.status, 0, "{}", killed.all());
    cluster.wait("the server is back", |cluster| (cluster.gantry(&["code", "ls"]).status == 0).then_some(()));
    assert_eq!(json(&cluster, &["code", "ls"]).as_array().map(Vec::len), Some(0));
    let _ = cluster.gantry(&["code", "upload", "shop/bad", fine, "--stack", "debian"]).good();
    assert_eq!(follow(&cluster, "shop/bad"), "1\n");
}
