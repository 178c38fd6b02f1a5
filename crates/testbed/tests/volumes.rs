//! `gantry volume`, and volumes in `gantry run`: what people ask for, what is refused, and what a kill leaves.

mod site;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_testbed::{Output, TestCluster, program, run};
use site::{push_site, site};

/// Roles of the app with a volume. Each start appends a line to a file in the volume.
const ROLES: &str = "{
    web: { command: 'date >>/data/starts; python3 server.py', volumes: { data: '/data' }, health: { path: '/up' } },
}";

/// Runs `gantry` and gives it `input`.
fn with_input(cluster: &TestCluster, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program("gantry"))
        .args(arguments)
        .env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port()))
        .env("GANTRY_TOKEN", cluster.token())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gantry");
    // A refusal may come before the end of the input.
    let _ = child.stdin.take().expect("open").write_all(input);
    let output = child.wait_with_output().expect("ended");
    Output {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a shell command.
fn shell(line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    run(command)
}

/// Everything in a folder that a round trip must keep, as text.
fn described(folder: &Path) -> String {
    let list = "find . -printf '%p %y %m %U:%G %T@ %l\\n' | sort";
    let sums = "find . -type f -exec sha256sum {} + | sort -k2";
    let mut text = shell(&format!("cd {}; {list}; {sums}", folder.display())).good().out;
    for name in ["user.note", "user.lines"] {
        let mut value = [0; 64];
        if let Ok(length) = rustix::fs::getxattr(folder.join("data/PG_VERSION"), name, &mut value[..]) {
            text += &format!("{name}={}\n", value[..length].escape_ascii());
        }
    }
    text
}

fn volume(cluster: &TestCluster, name: &str) -> PathBuf {
    cluster.path("data/volumes/shop").join(name)
}

/// Waits until nothing unfinished or discarded is left of volumes.
fn nothing_half(cluster: &TestCluster) {
    cluster.wait("nothing half made is left", |cluster| {
        let found =
            shell(&format!("find {} -name '.half-*' 2>/dev/null || true", cluster.path("data/volumes").display()));
        found.out.is_empty().then_some(())
    });
}

#[test]
fn volumes_are_listed_exported_imported_copied_and_removed() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    shop.write("container/roles.json", ROLES);
    push_site(&shop, "one");
    listed_and_refused_while_in_use(&cluster);
    run_with_a_volume(&cluster);
    round_trip(&cluster);
    hostile_archives(&cluster);
    snapshots(&cluster);
    tokens(&cluster);
    killed_while_importing(&cluster);
    renamed(&cluster);
    removed(&cluster);
}

fn listed_and_refused_while_in_use(cluster: &TestCluster) {
    let listed = cluster.gantry(&["volume", "ls"]).good().out;
    let line = listed.lines().find(|line| line.starts_with("shop")).expect("a volume");
    assert!(line.contains("data") && line.contains(" now ") && line.ends_with("shop.v1.web-1"), "{listed}");
    let shown = cluster.gantry(&["volume", "show", "shop", "data"]).good().out;
    for expected in ["web at /data", "1000:1000 inside", "files:     1", "in use by: shop.v1.web-1"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let missing = cluster.gantry(&["volume", "show", "shop", "nosuch"]);
    assert!(missing.status == 1 && missing.err.contains("shop has no volume nosuch"), "{missing:?}");
    let unknown = cluster.gantry(&["volume", "ls", "nosuch"]);
    assert!(unknown.status == 1 && unknown.err.contains("no app nosuch"), "{unknown:?}");

    let named = cluster.gantry(&["volume", "rm", "shop", "data"]);
    assert!(named.status == 1 && named.err.contains("in its role web") && named.err.contains("--force"), "{named:?}");
    for arguments in [
        &["volume", "rm", "shop", "data", "--force"][..],
        &["volume", "import", "shop", "data", "--replace", "/dev/null"],
        &["run", "shop", "--volume", "data", "--", "true"],
    ] {
        let refused = cluster.gantry(arguments);
        let is_refused =
            refused.err.contains("in use by shop.v1.web-1") && refused.err.contains("gantry scale shop web=0");
        assert!(refused.status == 1 && is_refused, "{arguments:?}: {refused:?}");
    }
    // Without a container, the copy of a running program's files is made, with a word.
    let exported =
        cluster.gantry(&["volume", "export", "shop", "data", "-o", &cluster.path("live.tar").display().to_string()]);
    assert!(exported.status == 0 && exported.err.contains("shop.v1.web-1 may write"), "{exported:?}");
    assert!(shell(&format!("tar -tf {}", cluster.path("live.tar").display())).good().out.contains("starts"));
}

fn run_with_a_volume(cluster: &TestCluster) {
    let without = cluster.gantry(&["run", "shop", "--", "ls", "/data"]);
    assert!(without.status != 0, "{without:?}");
    let _ = cluster.gantry(&["scale", "shop", "web=0"]).good();
    cluster.wait("it is free", |cluster| {
        let listed = cluster.gantry(&["volume", "ls", "shop", "--json"]).good().out;
        listed.contains("\"in_use\": []").then_some(())
    });
    let seen = cluster.gantry(&[
        "run",
        "shop",
        "--volume",
        "data",
        "--",
        "sh",
        "-c",
        "cat /data/starts && echo run >>/data/starts",
    ]);
    assert_eq!(seen.good().out.lines().count(), 1);
    let elsewhere =
        cluster.gantry(&["run", "shop", "--volume", "data:/mnt/x", "--", "tail", "-n", "1", "/mnt/x/starts"]);
    assert_eq!(elsewhere.good().out.trim(), "run");
    let unknown = cluster.gantry(&["run", "shop", "--volume", "more", "--", "true"]);
    assert!(unknown.status == 2 && unknown.err.contains("--volume more:/path"), "{unknown:?}");

    // While a one-off has the volume for itself, the instance waits, and says for what.
    let mut run = cluster
        .gantry_into("one-off", &["run", "shop", "--volume", "data", "--", "sh", "-c", "touch /data/here; sleep 600"]);
    cluster.wait("it runs", |cluster| volume(cluster, "data").join("here").exists().then_some(()));
    let second = cluster.gantry(&["run", "shop", "--volume", "data", "--", "true"]);
    assert!(second.status == 1 && second.err.contains("in use by run-shop-"), "{second:?}");
    let _ = cluster.gantry(&["scale", "shop", "web=1"]).good();
    cluster.wait("the instance says that it waits", |cluster| {
        cluster.gantry(&["why", "shop"]).out.contains("its volume data is in use by run-shop-").then_some(())
    });
    let _ = run.kill();
    let _ = run.wait();
    cluster
        .wait("it serves again", |cluster| cluster.gantry(&["app", "show", "shop"]).out.contains("1/1").then_some(()));
    let _ = cluster.gantry(&["scale", "shop", "web=0"]).good();
    cluster.wait("it is free", |cluster| {
        cluster.gantry(&["volume", "ls", "shop", "--json"]).good().out.contains("\"in_use\": []").then_some(())
    });
}

/// Fills a folder as a database does: owners, modes, times, attributes, links, holes.
fn database(folder: &Path) {
    let _ = shell(&format!(
        "mkdir -p {0}/data/base/5; cd {0}
         echo 15 >data/PG_VERSION; echo long >data/$(printf 'n%.0s' $(seq 200)); echo x >data/.wh.plain
         truncate -s 64M data/base/5/1259; echo page | dd of=data/base/5/1259 bs=1M seek=30 conv=notrunc status=none
         ln data/base/5/1259 data/linked; ln -s /etc/passwd data/absolute; ln -s ../../data data/base/up; mkfifo data/pipe
         chown -R 70:71 data; chown -h 1000:1000 data/absolute data/base/5; chmod 700 data; chmod 2770 data/base
         touch -d '2001-09-09 01:46:40.123456789' data/PG_VERSION data/base; chown 1000:1000 .; chmod 1750 .",
        folder.display()
    ))
    .good();
    for (name, value) in [("user.note", &b"plain"[..]), ("user.lines", b"a\nb\n")] {
        let set = rustix::fs::setxattr(folder.join("data/PG_VERSION"), name, value, rustix::fs::XattrFlags::empty());
        set.expect("set");
    }
}

fn round_trip(cluster: &TestCluster) {
    let from = cluster.path("database");
    database(&from);
    let expected = described(&from);
    let made = cluster.path("made.tar");
    let _ = shell(&format!("tar --sparse --format=pax -C {} -cf {} .", from.display(), made.display())).good();
    let refused = cluster.gantry(&["volume", "import", "shop", "data", &made.display().to_string()]);
    assert!(
        refused.status == 1 && refused.err.contains("is not empty") && refused.err.contains("--replace"),
        "{refused:?}"
    );
    let before = described(&volume(cluster, "data"));
    let large = cluster.gantry(&["volume", "import", "shop", "base", "--limit", "1M", &made.display().to_string()]);
    assert!(large.status == 2 && large.err.contains("--limit SIZE") && !volume(cluster, "base").exists(), "{large:?}");
    assert_eq!(described(&volume(cluster, "data")), before);
    let _ = shell(&format!(
        "mkdir -p {0}; cp -a {1} {0}/base",
        cluster.path("data/volumes/shop").display(),
        from.display()
    ))
    .good();
    for name in ["pg.tar", "pg.tar.zst"] {
        let file = cluster.path(name).display().to_string();
        let _ = cluster.gantry(&["volume", "export", "shop", "base", "-o", &file]).good();
        assert_eq!(std::fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        let again = cluster.gantry(&["volume", "import", "shop", "again", "--replace", &file]).good();
        assert!(again.err.contains("volume again of shop has 11 files"), "{again:?}");
        assert_eq!(described(&volume(cluster, "again")), expected, "{name}");
        let holes = std::fs::metadata(volume(cluster, "again").join("data/base/5/1259")).expect("there").blocks() * 512;
        assert!(holes < 1 << 20, "{holes}");
    }
    assert!(std::fs::read(cluster.path("pg.tar.zst")).expect("read").starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    // GNU tar reads what is exported, and what GNU tar writes is taken.
    let listed = shell(&format!("tar -tvf {}", cluster.path("pg.tar").display())).good().out;
    assert!(listed.contains("link to data/base/5/1259") && listed.contains(" 67108864 "), "{listed}");
    let _ = cluster.gantry(&["volume", "import", "shop", "data", "--replace", &made.display().to_string()]).good();
    let without = |text: String| text.lines().filter(|line| !line.starts_with("user.")).collect::<Vec<_>>().join("\n");
    assert_eq!(without(described(&volume(cluster, "data"))), without(expected));
    // Through pipes, without a file.
    let pipe = format!("{0} volume export shop base | {0} volume import shop piped", program("gantry").display());
    let mut piped = Command::new("sh");
    piped.args(["-ec", &pipe]);
    piped.env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port())).env("GANTRY_TOKEN", cluster.token());
    let _ = run(piped).good();
    assert_eq!(described(&volume(cluster, "piped")), described(&volume(cluster, "base")));
    nothing_half(cluster);
}

fn hostile_archives(cluster: &TestCluster) {
    let outside = cluster.path("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("victim"), "untouched").expect("written");
    let entry = |kind: u8, path: &str, link: &str, content: &[u8]| {
        let mut header = vec![0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000777\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar  \0");
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(content);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    };
    let out = outside.display().to_string();
    let end = vec![0; 1024];
    let cases: [(&str, Vec<Vec<u8>>, &str); 8] = [
        ("dots", vec![entry(b'0', "../victim", "", b"bad")], "leads out of its folder"),
        (
            "a link, and a file behind it",
            vec![entry(b'2', "way", &out, b""), entry(b'0', "way/victim", "", b"bad")],
            "way/victim",
        ),
        ("a hard link out", vec![entry(b'1', "made", "../outside/victim", b"")], "leads out of its folder"),
        ("a device", vec![entry(b'3', "kmsg", "", b"")], "it is a device"),
        ("a long name", vec![entry(b'L', "x", "", &[b'n'; 300]), entry(b'0', "x", "", b"")], "nnnn"),
        (
            "an endless name",
            vec![entry(b'L', "x", "", &vec![b'n'; 2 << 20]), entry(b'0', "x", "", b"")],
            "bytes of headers",
        ),
        ("noise", vec![b"no archive at all ".repeat(100)], "cannot be read"),
        ("a cut archive", vec![entry(b'0', "one", "", b"whole")], "the archive was cut"),
    ];
    for (what, entries, expected) in cases {
        let mut bytes = entries.concat();
        if what != "a cut archive" {
            bytes.extend(&end);
        }
        let refused = with_input(cluster, &["volume", "import", "shop", "hostile"], &bytes);
        assert!(refused.status != 0 && refused.err.contains(expected), "{what}: {refused:?}");
        assert!(!volume(cluster, "hostile").exists(), "{what}");
        assert_eq!(std::fs::read_to_string(outside.join("victim")).expect("there"), "untouched", "{what}");
    }
    // A bomb: 8 GiB of zeros in some kilobytes.
    let file = cluster.path("bomb");
    std::fs::File::create(&file).and_then(|file| file.set_len(8 << 30)).expect("made");
    let _ = shell(&format!("tar --sparse -C {} -cf {}.tar bomb", cluster.path("").display(), file.display())).good();
    std::fs::remove_file(&file).expect("removed");
    let refused = cluster.gantry(&["volume", "import", "shop", "hostile", &format!("{}.tar", file.display())]);
    assert!(refused.status == 2 && refused.err.contains("the limit is 2G"), "{refused:?}");
    // An absolute path is a path below the volume.
    let inside = [entry(b'0', "/absolute", "", b"inside"), end].concat();
    let _ = with_input(cluster, &["volume", "import", "shop", "absolute"], &inside).good();
    assert_eq!(std::fs::read_to_string(volume(cluster, "absolute").join("absolute")).expect("there"), "inside");
    nothing_half(cluster);
    // A container's link leads nowhere for the machine's root.
    symlink("/etc", volume(cluster, "absolute").join("etc")).expect("linked");
    let _ = cluster
        .gantry(&["volume", "export", "shop", "absolute", "-o", &cluster.path("link.tar").display().to_string()])
        .good();
    let listed = shell(&format!("tar -tf {}", cluster.path("link.tar").display())).good().out;
    assert!(listed.contains("etc") && !listed.contains("passwd"), "{listed}");
}

fn snapshots(cluster: &TestCluster) {
    let folder = volume(cluster, "base");
    let expected = described(&folder);
    let made = cluster.gantry(&["volume", "snapshot", "shop", "base"]).good();
    assert!(made.out.starts_with("at-20") && made.err.contains("11 files"), "{made:?}");
    let _ = cluster.gantry(&["volume", "snapshot", "shop", "base", "create", "before"]).good();
    let twice = cluster.gantry(&["volume", "snapshot", "shop", "base", "create", "before"]);
    assert!(twice.status == 1 && twice.err.contains("has a snapshot before already"), "{twice:?}");
    std::fs::write(folder.join("data/PG_VERSION"), "16\n").expect("written");
    std::fs::remove_file(folder.join("data/linked")).expect("removed");
    let restored = cluster.gantry(&["volume", "snapshot", "shop", "base", "restore", "before"]).good();
    assert!(restored.err.contains("has the content of snapshot before"), "{restored:?}");
    assert_eq!(described(&folder), expected);
    let _ = cluster.gantry(&["volume", "snapshot", "shop", "base", "rm", "before"]).good();
    let listed = cluster.gantry(&["volume", "snapshot", "shop", "base", "ls"]).good().out;
    assert!(listed.contains("at-20") && !listed.contains("before"), "{listed}");
    let gone = cluster.gantry(&["volume", "snapshot", "shop", "base", "restore", "before"]);
    assert!(gone.status == 1 && gone.err.contains("no snapshot before") && gone.err.contains("ls` lists"), "{gone:?}");
    for number in 1..20 {
        let _ = cluster.gantry(&["volume", "snapshot", "shop", "absolute", "create", &format!("s{number}")]).good();
    }
    let _ = cluster.gantry(&["volume", "snapshot", "shop", "absolute", "create", "s20"]).good();
    let full = cluster.gantry(&["volume", "snapshot", "shop", "absolute", "create", "s21"]);
    assert!(full.status == 1 && full.err.contains("20 snapshots") && full.err.contains("rm s"), "{full:?}");
    nothing_half(cluster);
}

/// A token of an app works on the volumes of this app, and of no other.
fn tokens(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "other"]).good();
    let token = |arguments: &[&str]| cluster.gantry(arguments).good().out.trim().to_owned();
    let own = token(&["token", "create", "own", "--deploy", "shop"]);
    let other = token(&["token", "create", "other", "--deploy", "other"]);
    let eyes = token(&["token", "create", "eyes", "--read"]);
    let file = cluster.path("token.tar").display().to_string();
    let export = ["volume", "export", "shop", "absolute", "-o", &file];
    let _ = cluster.gantry_as(&own, &export).good();
    let _ = cluster.gantry_as(&own, &["volume", "ls", "shop"]).good();
    let _ = cluster.gantry_as(&eyes, &["volume", "show", "shop", "absolute"]).good();
    for (token, arguments) in [
        (&own, &["volume", "ls"][..]),
        (&other, &["volume", "ls", "shop"]),
        (&other, &export),
        (&other, &["volume", "rm", "shop", "absolute"]),
        (&other, &["volume", "import", "shop", "absolute", "--replace", &file]),
        (&eyes, &export),
        (&eyes, &["volume", "snapshot", "shop", "absolute"]),
    ] {
        let refused = cluster.gantry_as(token, arguments);
        assert!(refused.status == 1 && refused.err.contains("may not do this"), "{arguments:?}: {refused:?}");
    }
    let events = cluster.gantry(&["events", "shop"]).good().out;
    assert!(events.contains("own") && events.contains("exported volume absolute"), "{events}");
}

/// Agent and server are killed in the middle of an import that replaces a volume. The volume keeps its content.
fn killed_while_importing(cluster: &TestCluster) {
    let expected = described(&volume(cluster, "base"));
    let archive = std::fs::read(cluster.path("pg.tar")).expect("read");
    for service in ["agent", "server"] {
        let mut import = Command::new(program("gantry"))
            .args(["volume", "import", "shop", "base", "--replace"])
            .env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port()))
            .env("GANTRY_TOKEN", cluster.token())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gantry");
        let mut input = import.stdin.take().expect("open");
        input.write_all(&archive[..archive.len() / 2]).expect("sent");
        input.flush().expect("sent");
        cluster.wait("it is under way", |cluster| {
            let found = shell(&format!("find {} -path '*/.half-*/data' | head -n 1", volume(cluster, "").display()));
            (!found.out.is_empty()).then_some(())
        });
        let pid = cluster.service_pid(service);
        cluster.kill_service(service);
        drop(input);
        let output = import.wait_with_output().expect("ended");
        assert!(!output.status.success(), "{output:?}");
        cluster.wait("it is back", |cluster| cluster.service_pid(service).filter(|now| Some(*now) != pid).map(drop));
        nothing_half(cluster);
        cluster.wait("it answers", |cluster| (cluster.gantry(&["volume", "ls", "shop"]).status == 0).then_some(()));
        assert_eq!(described(&volume(cluster, "base")), expected, "after the {service} was killed");
    }
}

/// A renamed app keeps its volumes, and no other app gets them: not an app that takes the old name, nor its token.
fn renamed(cluster: &TestCluster) {
    let notes = site(cluster, "notes", 1);
    notes.write("container/roles.json", ROLES);
    push_site(&notes, "one");
    let _ = cluster.gantry(&["app", "rename", "notes", "memos"]).good();
    cluster.wait("it has the new name", |cluster| {
        cluster.gantry(&["app", "show", "notes"]).err.contains("no app").then_some(())
    });
    let listed = cluster.gantry(&["volume", "ls", "memos"]).good().out;
    assert!(listed.lines().any(|line| line.starts_with("memos") && line.contains("data")), "{listed}");
    for arguments in [
        &["volume", "rm", "memos", "data", "--force"][..],
        &["volume", "import", "memos", "data", "--replace", "/dev/null"],
        &["run", "memos", "--volume", "data", "--", "true"],
    ] {
        let refused = cluster.gantry(arguments);
        let is_refused = refused.err.contains("in use by memos.") && refused.err.contains("gantry scale memos web=0");
        assert!(refused.status == 1 && is_refused, "{arguments:?}: {refused:?}");
    }
    let old = cluster.gantry(&["volume", "rm", "notes", "data", "--force"]);
    assert!(old.status == 1 && old.err.contains("belong to memos"), "{old:?}");

    // The old name is free once its host name is.
    let _ = cluster.gantry(&["app", "host", "memos", "--rm", "notes.localhost"]).good();
    let _ = cluster.gantry(&["app", "create", "notes"]).good();
    let token = cluster.gantry(&["token", "create", "new", "--deploy", "notes"]).good().out.trim().to_owned();
    let shown = cluster.gantry_as(&token, &["volume", "show", "notes", "data"]);
    assert!(shown.status == 1 && shown.err.contains("no volume data"), "{shown:?}");
    let refused = cluster.gantry_as(&token, &["volume", "rm", "memos", "data", "--force"]);
    assert!(refused.status == 1 && refused.err.contains("may not do this"), "{refused:?}");

    let _ = cluster.gantry(&["scale", "memos", "web=0"]).good();
    cluster.wait("it is stopped", |cluster| (!cluster.gantry(&["ps", "memos"]).out.contains("memos.v")).then_some(()));
    let starts = cluster.gantry(&["run", "memos", "--volume", "data", "--", "wc", "-l", "/data/starts"]).good().out;
    assert!(starts.trim() == "2 /data/starts" || starts.starts_with("2 "), "one start under each name: {starts}");
    let _ = cluster.gantry(&["volume", "rm", "memos", "data", "--force"]).good();
}

fn removed(cluster: &TestCluster) {
    let _ = cluster.gantry(&["volume", "rm", "shop", "data", "--force"]).good();
    let removed = cluster.gantry(&["volume", "rm", "shop", "base"]).good();
    assert!(removed.err.contains("removed volume base of shop and its snapshot"), "{removed:?}");
    let gone = cluster.gantry(&["volume", "rm", "shop", "base"]);
    assert!(gone.status == 1 && gone.err.contains("has no volume base"), "{gone:?}");
    nothing_half(cluster);
    assert!(!volume(cluster, ".snapshots/base").exists());
    // Volumes outlive their app.
    let _ = cluster.gantry(&["app", "destroy", "shop", "--confirm", "shop"]).good();
    cluster.wait("the app is gone", |cluster| (cluster.gantry(&["app", "show", "shop"]).status != 0).then_some(()));
    let listed = cluster.gantry(&["volume", "ls", "shop"]).good().out;
    assert!(listed.contains("again") && listed.contains("piped"), "{listed}");
    for name in ["again", "piped", "absolute"] {
        let _ = cluster.gantry(&["volume", "rm", "shop", name]).good();
    }
    cluster.wait("nothing is left", |cluster| (!volume(cluster, "").exists()).then_some(()));
}
