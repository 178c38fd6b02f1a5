//! Malicious trees and objects. Each is refused or harmless: afterwards the repository, the machine's files and the
//! app are unchanged.

mod kept;
mod site;

use std::io::Write;
use std::process::{Command, Stdio};

use gantry_testbed::{Output, Repository, TestCluster, run};
use kept::state;
use site::{page, push_site, site};

/// Writes an object unchecked into the repository and returns its name.
fn object(cluster: &TestCluster, kind: &str, content: &[u8]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(cluster.path("repository-shop"));
    git.args(["hash-object", "-t", kind, "--literally", "-w", "--stdin"]);
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
    child.stdin.take().expect("open").write_all(content).expect("written");
    let output = child.wait_with_output().expect("ended");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn tree(cluster: &TestCluster, entries: &[(&str, &[u8], &str)]) -> String {
    let mut content = Vec::new();
    for (mode, name, id) in entries {
        content.extend([mode.as_bytes(), b" ", *name, b"\0"].concat());
        content.extend(hex::decode(id).expect("a name"));
    }
    object(cluster, "tree", &content)
}

/// Adds entries to the head's tree. Without the malicious entry, the commit would become a release.
fn in_app(cluster: &TestCluster, entries: &[(&str, &[u8], &str)]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(cluster.path("repository-shop")).args(["ls-tree", "HEAD"]);
    let listed = run(git).good().out;
    let own = listed.lines().filter_map(|line| {
        let (what, name) = line.split_once('\t')?;
        let mut words = what.split(' ');
        Some((words.next()?.trim_start_matches('0'), name.as_bytes(), words.nth(1)?))
    });
    let mut all: Vec<(&str, &[u8], &str)> = entries.to_vec();
    all.extend(own.filter(|(_, name, _)| !entries.iter().any(|(_, other, _)| other == name)));
    // Git's sort order: a folder's name counts as ending with a slash.
    all.sort_by_key(|(mode, name, _)| [*name, if *mode == "40000" { b"/" } else { b"" }].concat());
    tree(cluster, &all)
}

fn commit(cluster: &TestCluster, tree: &str) -> String {
    let head = run({
        let mut git = Command::new("git");
        git.arg("-C").arg(cluster.path("repository-shop")).args(["rev-parse", "HEAD"]);
        git
    });
    let who = "t <t@localhost> 1700000000 +0000";
    let parent = head.out.trim();
    object(cluster, "commit", format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\nx\n").as_bytes())
}

fn push(repository: &Repository, id: &str, reference: &str) -> Output {
    repository.attempt(&["push", "--quiet", "gantry", &format!("{id}:{reference}")])
}

#[test]
fn no_tree_and_no_object_leads_anywhere() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&cluster, "blob", b"echo bad\n");
    let good = shop.git(&["rev-parse", "HEAD^{tree}"]).out.trim().to_owned();
    let mut before = state(&cluster);
    let mut cases: Vec<(String, String)> = Vec::new();
    let long = vec![b'x'; 5000];
    let names: [&[u8]; 31] = [
        b"..",
        b".",
        b"",
        b"a/b",
        b"../../hooks/pre-receive",
        b"/etc/passwd",
        b".git",
        b".GIT",
        b".Git",
        b".gIt",
        b"git~1",
        b"GIT~1",
        b".git ",
        b".git.",
        b".git...",
        b".git . .",
        b".git\\x",
        b".git::$INDEX_ALLOCATION",
        ".g\u{200c}it".as_bytes(),
        ".gi\u{feff}t".as_bytes(),
        ".\u{200e}git".as_bytes(),
        ".git\u{200d}".as_bytes(),
        b"a/../../b",
        b"./a",
        b"a//b",
        b"/",
        b"//",
        b"../",
        b".git/hooks/pre-receive",
        b".git/config",
        &long,
    ];
    for name in names {
        let id = in_app(&cluster, &[("100644", name, &blob)]);
        cases.push((
            format!("a file {:?}", String::from_utf8_lossy(&name[..name.len().min(40)])),
            commit(&cluster, &id),
        ));
        let below = in_app(&cluster, &[("40000", name, &good)]);
        cases.push((
            format!("a folder {:?}", String::from_utf8_lossy(&name[..name.len().min(40)])),
            commit(&cluster, &below),
        ));
    }
    for (what, mode, id) in [
        ("a folder that is a file", "40000", &blob),
        ("a file that is a folder", "100644", &good),
        ("a link that is a folder", "120000", &good),
        ("plain: no mode", "0", &blob),
        ("plain: a mode of letters", "abc", &blob),
        ("plain: a device", "20666", &blob),
        ("plain: a setuid program", "104755", &blob),
        ("plain: a pipe", "10644", &blob),
        ("plain: a mode with a zero before it", "0100644", &blob),
        ("plain: a mode of many digits", "777777777777777777777", &blob),
        ("an object that is not there", "100644", &"1".repeat(40)),
        ("a folder that is not there", "40000", &"2".repeat(40)),
        ("an object of zeros", "100644", &"0".repeat(40)),
    ] {
        cases.push((what.to_owned(), commit(&cluster, &in_app(&cluster, &[(mode, b"x", id)]))));
    }
    let twice = in_app(&cluster, &[("100644", b"a", &blob), ("120000", b"a", &blob)]);
    cases.push(("a file and a link of one name".into(), commit(&cluster, &twice)));
    let unsorted = tree(&cluster, &[("100644", b"b", &blob), ("100644", b"a", &blob)]);
    cases.push(("names out of order".into(), commit(&cluster, &unsorted)));
    cases.push(("a tree that is cut".into(), commit(&cluster, &object(&cluster, "tree", b"100644 x\0short"))));
    for (what, text) in [
        ("a module by the path of an option", "[submodule \"x\"]\n\tpath = -x\n\turl = https://localhost/x\n"),
        ("a module from an option", "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n"),
        ("a module whose name leads out", "[submodule \"../../x\"]\n\tpath = x\n\turl = https://localhost/x\n"),
        (
            "a module with a command",
            "[submodule \"x\"]\n\tpath = x\n\turl = https://localhost/x\n\tupdate = !touch /tmp/x\n",
        ),
        (
            "a module from a line break",
            "[submodule \"x\"]\n\tpath = x\n\turl = \"https://localhost/%0ahost=x/y.git\"\n",
        ),
        ("plain: modules that cannot be read", "[submodule \"x\n"),
    ] {
        let modules = object(&cluster, "blob", text.as_bytes());
        cases.push((what.to_owned(), commit(&cluster, &in_app(&cluster, &[("100644", b".gitmodules", &modules)]))));
    }
    let target = object(&cluster, "blob", b"/etc/passwd");
    for (what, name) in
        [("a link .gitmodules", &b".gitmodules"[..]), ("plain: a link .gitattributes", b".gitattributes")]
    {
        cases.push((what.into(), commit(&cluster, &in_app(&cluster, &[("120000", name, &target)]))));
    }
    // The files that the build reads must be no links, and no submodule may take their place.
    for name in [&b"Procfile"[..], b"app.json", b"container"] {
        let links = in_app(&cluster, &[("120000", name, &target)]);
        cases.push((format!("a link {}", String::from_utf8_lossy(name)), commit(&cluster, &links)));
        let module = in_app(&cluster, &[("160000", name, &"3".repeat(40))]);
        cases.push((format!("a module {}", String::from_utf8_lossy(name)), commit(&cluster, &module)));
    }
    for name in [&b"roles.json"[..], b"compile", b"files"] {
        let folder = tree(&cluster, &[("120000", name, &target)]);
        cases.push((
            format!("a link container/{}", String::from_utf8_lossy(name)),
            commit(&cluster, &in_app(&cluster, &[("40000", b"container", &folder)])),
        ));
    }
    let who = "t <t@localhost> 1700000000 +0000";
    for (what, text) in [
        ("a commit without a tree", format!("author {who}\ncommitter {who}\n\nx\n")),
        ("a commit of a tree that is a file", format!("tree {blob}\nauthor {who}\ncommitter {who}\n\nx\n")),
        ("a commit without an author", format!("tree {good}\ncommitter {who}\n\nx\n")),
        ("an author without an end", format!("tree {good}\nauthor t <t@localhost 1 +0000\ncommitter {who}\n\nx\n")),
        (
            "a time of many digits",
            format!("tree {good}\nauthor t <t@localhost> 99999999999999999999 +0000\ncommitter {who}\n\nx\n"),
        ),
        (
            "a parent that is not there",
            format!("tree {good}\nparent {}\nauthor {who}\ncommitter {who}\n\nx\n", "4".repeat(40)),
        ),
        ("a NUL in a head", format!("tree {good}\nauthor t\0 <t@localhost> 1 +0000\ncommitter {who}\n\nx\n")),
        ("nothing", String::new()),
    ] {
        cases.push((what.to_owned(), object(&cluster, "commit", text.as_bytes())));
    }
    cases.push(("a branch that is a file".into(), blob.clone()));
    cases.push(("a branch that is a folder".into(), good.clone()));
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut by_server = 0;
    // The cases that the server may accept come last, because they move the branch.
    cases.sort_by_key(|(what, _)| what.starts_with("plain: "));
    for (what, id) in &cases {
        let pushed = push(&shop, &format!("+{id}"), "refs/heads/main");
        by_server += u32::from(pushed.err.contains("remote:"));
        assert!(!pushed.err.contains("root:x:0"), "{what}: {pushed:?}");
        if pushed.status == 0 && what.starts_with("plain: ") {
            // Git accepts trees from old repositories that Git itself would not write. The image made from them has
            // only plain files, folders and links.
            let find = "find /app ! -type f ! -type d ! -type l -o ! -type l -perm /7000 | wc -l";
            let made = cluster.gantry(&["exec", "shop", "--", "/bin/sh", "-c", find]).good().out;
            assert_eq!(made.trim(), "0", "{what}");
            assert!(page(&cluster, "shop").starts_with("one"));
            before = state(&cluster);
            continue;
        }
        assert_ne!(pushed.status, 0, "{what} was taken: {pushed:?}");
    }
    // In the other cases the client itself fails: the object names missing objects.
    assert!(by_server >= 80, "{by_server}");
    assert_eq!(before, state(&cluster));
    assert!(page(&cluster, "shop").starts_with("one"));
}

#[test]
fn accepts_unusual_file_names() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    for name in [
        "-rf",
        "--help",
        "$(id)",
        "`id`",
        "a b",
        "a\nb",
        "a'b\"c",
        "*",
        "~",
        "con",
        "gitmodules",
        "..git",
        "\u{1}",
        "{x}",
    ] {
        shop.write(name, "fine");
    }
    // Attributes that `git archive` would apply, if the build used `git archive`.
    shop.write(".gitattributes", "kept export-ignore\nserver.py export-subst filter=evil\n* text eol=crlf\n");
    shop.write("kept", "$Format:%H$ $Id$\n");
    std::os::unix::fs::symlink("/etc/shadow", cluster.path("repository-shop/link")).expect("a link");
    push_site(&shop, "two");
    let said = cluster.gantry(&[
        "run",
        "shop",
        "--",
        "/bin/sh",
        "-c",
        "cd /app; ls -A | wc -l; cat kept; readlink link; cat ./-rf",
    ]);
    assert!(said.clone().good().out.contains("$Format:%H$ $Id$\n/etc/shadow\nfine"), "{said:?}");
    assert!(page(&cluster, "shop").starts_with("two"));
}
/// Git treats an annotated tag as its commit everywhere, but does not allow one on a branch.
#[test]
fn a_tag_that_is_pushed_to_the_branch_is_refused_before_it_is_deployed() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    shop.write("server.py", &site::SERVER.replace("VERSION", "one"));
    shop.commit("one");
    let _ = shop.git(&["tag", "-a", "-m", "a message", "v1"]).good();
    let refused = push(&shop, "v1", "refs/heads/main");
    assert!(refused.status != 0 && refused.err.contains("is a tag"), "{refused:?}");
    let commit = shop.git(&["rev-parse", "HEAD"]).out.trim().to_owned();
    assert!(refused.err.contains(&format!("git push gantry {commit}:refs/heads/main")), "{refused:?}");
    assert!(cluster.gantry(&["releases", "shop"]).good().out.lines().all(|line| !line.starts_with("v1")));
    let _ = push(&shop, &commit, "refs/heads/main").good();
    assert!(page(&cluster, "shop").starts_with("one"));
}

/// A clone of the newest commit alone, as on build machines. The server knows the rest of the history.
#[test]
fn accepts_a_shallow_push_only_with_known_history() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    shop.write("server.py", "never pushed");
    shop.commit("zero");
    shop.write("server.py", &site::SERVER.replace("VERSION", "one"));
    shop.commit("one");
    let source = format!("file://{}", cluster.path("repository-shop").display());
    let remote = shop.git(&["remote", "get-url", "gantry"]).out.trim().to_owned();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("timeout");
        git.args(["60", "git", "-c", "user.name=t", "-c", "user.email=t@localhost"]).args(arguments);
        run(git)
    };
    let shallow = cluster.path("shallow").display().to_string();
    let _ = git(&["clone", "--quiet", "--depth", "1", &source, &shallow]).good();
    let refused = git(&["-C", &shallow, "push", "--quiet", &remote, "HEAD:main"]);
    assert!(refused.status != 0 && refused.err.contains("did not receive expected object"), "{refused:?}");
    assert_eq!(
        (shop.remote_head(), cluster.gantry(&["ps", "shop"]).good().out.contains("web-1")),
        (String::new(), false)
    );
    // Now the history is on the server, from another clone: a shallow clone pushes the newest commit, and another
    // adds a commit to that.
    push_site(&shop, "two");
    shop.write("server.py", &site::SERVER.replace("VERSION", "newest"));
    shop.commit("newest");
    let newest = cluster.path("newest").display().to_string();
    let _ = git(&["clone", "--quiet", "--depth", "1", &source, &newest]).good();
    // From this clone, the git client cannot tell that the push is a fast-forward, so the push is forced.
    let _ = git(&["-C", &newest, "push", "--quiet", &remote, "+HEAD:main"]).good();
    assert!(page(&cluster, "shop").starts_with("newest"));
    let known = cluster.path("known").display().to_string();
    let _ = git(&["clone", "--quiet", "--depth", "1", &source, &known]).good();
    std::fs::write(cluster.path("known/server.py"), site::SERVER.replace("VERSION", "three")).expect("written");
    let _ = git(&["-C", &known, "commit", "--quiet", "--all", "--message", "three"]).good();
    let _ = git(&["-C", &known, "push", "--quiet", &remote, "HEAD:main"]).good();
    assert!(page(&cluster, "shop").starts_with("three"));
}

/// A pack of a kilobyte whose tree has 10^15 files.
#[test]
fn refuses_an_endless_tree_at_its_bound() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&cluster, "blob", &vec![b'x'; 1 << 20]);
    let names: Vec<Vec<u8>> = (0..10).map(|n| format!("{n}").into_bytes()).collect();
    let level = |mode: &'static str, id: &str| {
        let entries: Vec<(&str, &[u8], &str)> = names.iter().map(|name| (mode, name.as_slice(), id)).collect();
        tree(&cluster, &entries)
    };
    let bomb = (0..14).fold(level("100644", &blob), |below, _| level("40000", &below));
    let pushed = push(&shop, &commit(&cluster, &bomb), "refs/heads/main");
    assert!(pushed.status != 0 && pushed.err.contains("the files of the tree have more than 2 GiB"), "{pushed:?}");
    let empty = object(&cluster, "blob", b"");
    let bomb = (0..14).fold(level("100644", &empty), |below, _| level("40000", &below));
    let pushed = push(&shop, &commit(&cluster, &bomb), "refs/heads/main");
    assert!(pushed.status != 0 && pushed.err.contains("the tree has more than 500000 files"), "{pushed:?}");
    assert!(page(&cluster, "shop").starts_with("one"));
    assert_eq!(cluster.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
}

#[test]
fn a_hundred_thousand_files_are_a_release_like_any_other() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&cluster, "blob", b"one of many\n");
    let names: Vec<Vec<u8>> = (0..1000).map(|n| format!("{n:03}").into_bytes()).collect();
    let files: Vec<(&str, &[u8], &str)> = names.iter().map(|name| ("100644", name.as_slice(), blob.as_str())).collect();
    let folder = tree(&cluster, &files);
    let folders: Vec<(&str, &[u8], &str)> =
        names.iter().take(100).map(|name| ("40000", name.as_slice(), folder.as_str())).collect();
    let many = tree(&cluster, &folders);
    shop.git(&["read-tree", "--prefix=many/", &many]);
    shop.write("server.py", &site::SERVER.replace("VERSION", "two"));
    shop.git(&["add", "server.py"]);
    shop.git(&["commit", "--quiet", "--message", "two"]);
    let _ = shop.push().good();
    assert!(page(&cluster, "shop").starts_with("two"));
    let count = cluster.gantry(&["exec", "shop", "--", "/bin/sh", "-c", "find /app/many -type f | wc -l"]).good().out;
    assert_eq!(count.trim(), "100000");
}
