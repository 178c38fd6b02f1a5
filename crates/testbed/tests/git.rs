//! Pushes that mean harm: trees, objects, packs, words of the protocol and addresses. Each is refused or harmless: afterwards the
//! repository, the machine's files and the app are as they were.

mod site;

use std::io::Write;
use std::process::{Command, Stdio};

use gantry_testbed::{Output, Repository, World, run};
use site::{page, push_site, site};

/// What no push may change.
fn state(world: &World) -> String {
    let sums = |folder: &str, which: &[&str]| {
        let mut find = Command::new("find");
        find.arg(world.path(folder)).args(which).args(["-type", "f", "-exec", "sha1sum", "{}", "+"]);
        let mut lines: Vec<String> = run(find).out.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let mut refs = Command::new("git");
    refs.arg("--git-dir").arg(world.path("data/git/shop.git")).arg("for-each-ref");
    let mut folders = Command::new("ls");
    folders.arg("-a").arg(world.path("data/git")).arg(world.path("data/git/shop.git"));
    format!(
        "{}\n{}\n{}\n{}",
        run(refs).out,
        run(folders).out,
        sums("data/git/hooks", &[]),
        sums("data/git/shop.git", &["-maxdepth", "1"])
    )
}

/// Writes an object as it is, however wrong, into the repository; its name.
fn object(world: &World, kind: &str, content: &[u8]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(world.path("repository-shop"));
    git.args(["hash-object", "-t", kind, "--literally", "-w", "--stdin"]);
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
    child.stdin.take().expect("open").write_all(content).expect("written");
    let output = child.wait_with_output().expect("ended");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn tree(world: &World, entries: &[(&str, &[u8], &str)]) -> String {
    let mut content = Vec::new();
    for (mode, name, id) in entries {
        content.extend([mode.as_bytes(), b" ", *name, b"\0"].concat());
        content.extend(hex::decode(id).expect("a name"));
    }
    object(world, "tree", &content)
}

/// The same beside what the head has: without the harm in it, it would be a release.
fn in_app(world: &World, entries: &[(&str, &[u8], &str)]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(world.path("repository-shop")).args(["ls-tree", "HEAD"]);
    let listed = run(git).good().out;
    let own = listed.lines().filter_map(|line| {
        let (what, name) = line.split_once('\t')?;
        let mut words = what.split(' ');
        Some((words.next()?.trim_start_matches('0'), name.as_bytes(), words.nth(1)?))
    });
    let mut all: Vec<(&str, &[u8], &str)> = entries.to_vec();
    all.extend(own.filter(|(_, name, _)| !entries.iter().any(|(_, other, _)| other == name)));
    // As git sorts them: a folder's name ends with a slash.
    all.sort_by_key(|(mode, name, _)| [*name, if *mode == "40000" { b"/" } else { b"" }].concat());
    tree(world, &all)
}

fn commit(world: &World, tree: &str) -> String {
    let head = run({
        let mut git = Command::new("git");
        git.arg("-C").arg(world.path("repository-shop")).args(["rev-parse", "HEAD"]);
        git
    });
    let who = "t <t@localhost> 1700000000 +0000";
    let parent = head.out.trim();
    object(world, "commit", format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\nx\n").as_bytes())
}

fn push(repository: &Repository, id: &str, reference: &str) -> Output {
    repository.attempt(&["push", "--quiet", "gantry", &format!("{id}:{reference}")])
}

#[test]
fn no_tree_and_no_object_leads_anywhere() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&world, "blob", b"echo bad\n");
    let good = shop.git(&["rev-parse", "HEAD^{tree}"]).out.trim().to_owned();
    let mut before = state(&world);
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
        let id = in_app(&world, &[("100644", name, &blob)]);
        cases.push((format!("a file {:?}", String::from_utf8_lossy(&name[..name.len().min(40)])), commit(&world, &id)));
        let below = in_app(&world, &[("40000", name, &good)]);
        cases.push((
            format!("a folder {:?}", String::from_utf8_lossy(&name[..name.len().min(40)])),
            commit(&world, &below),
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
        cases.push((what.to_owned(), commit(&world, &in_app(&world, &[(mode, b"x", id)]))));
    }
    let twice = in_app(&world, &[("100644", b"a", &blob), ("120000", b"a", &blob)]);
    cases.push(("a file and a link of one name".into(), commit(&world, &twice)));
    let unsorted = tree(&world, &[("100644", b"b", &blob), ("100644", b"a", &blob)]);
    cases.push(("names out of order".into(), commit(&world, &unsorted)));
    cases.push(("a tree that is cut".into(), commit(&world, &object(&world, "tree", b"100644 x\0short"))));
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
        let modules = object(&world, "blob", text.as_bytes());
        cases.push((what.to_owned(), commit(&world, &in_app(&world, &[("100644", b".gitmodules", &modules)]))));
    }
    let target = object(&world, "blob", b"/etc/passwd");
    for (what, name) in
        [("a link .gitmodules", &b".gitmodules"[..]), ("plain: a link .gitattributes", b".gitattributes")]
    {
        cases.push((what.into(), commit(&world, &in_app(&world, &[("120000", name, &target)]))));
    }
    // What the build reads is no link, and has no module in its place.
    for name in [&b"Procfile"[..], b"app.json", b"container"] {
        let links = in_app(&world, &[("120000", name, &target)]);
        cases.push((format!("a link {}", String::from_utf8_lossy(name)), commit(&world, &links)));
        let module = in_app(&world, &[("160000", name, &"3".repeat(40))]);
        cases.push((format!("a module {}", String::from_utf8_lossy(name)), commit(&world, &module)));
    }
    for name in [&b"roles.json"[..], b"compile", b"files"] {
        let folder = tree(&world, &[("120000", name, &target)]);
        cases.push((
            format!("a link container/{}", String::from_utf8_lossy(name)),
            commit(&world, &in_app(&world, &[("40000", b"container", &folder)])),
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
        cases.push((what.to_owned(), object(&world, "commit", text.as_bytes())));
    }
    cases.push(("a branch that is a file".into(), blob.clone()));
    cases.push(("a branch that is a folder".into(), good.clone()));
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut by_server = 0;
    // Those that may be taken come last: they move the branch.
    cases.sort_by_key(|(what, _)| what.starts_with("plain: "));
    for (what, id) in &cases {
        let pushed = push(&shop, &format!("+{id}"), "refs/heads/main");
        by_server += u32::from(pushed.err.contains("remote:"));
        assert!(!pushed.err.contains("root:x:0"), "{what}: {pushed:?}");
        if pushed.status == 0 && what.starts_with("plain: ") {
            // Git takes what old repositories have and it would not write itself. What is made of it is plain.
            let find = "find /app ! -type f ! -type d ! -type l -o ! -type l -perm /7000 | wc -l";
            let made = world.gantry(&["exec", "shop", "--", "/bin/sh", "-c", find]).good().out;
            assert_eq!(made.trim(), "0", "{what}");
            assert!(page(&world, "shop").starts_with("one"));
            before = state(&world);
            continue;
        }
        assert_ne!(pushed.status, 0, "{what} was taken: {pushed:?}");
    }
    // The others were too much for the client itself: what it names is not there.
    assert!(by_server >= 80, "{by_server}");
    assert_eq!(before, state(&world));
    assert!(page(&world, "shop").starts_with("one"));
}

#[test]
fn names_that_are_only_odd_are_files_like_any_other() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
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
    // Rewritten or left out by an archive, if it were asked.
    shop.write(".gitattributes", "kept export-ignore\nserver.py export-subst filter=evil\n* text eol=crlf\n");
    shop.write("kept", "$Format:%H$ $Id$\n");
    std::os::unix::fs::symlink("/etc/shadow", world.path("repository-shop/link")).expect("a link");
    push_site(&shop, "two");
    let said = world.gantry(&[
        "run",
        "shop",
        "--",
        "/bin/sh",
        "-c",
        "cd /app; ls -A | wc -l; cat kept; readlink link; cat ./-rf",
    ]);
    assert!(said.clone().good().out.contains("$Format:%H$ $Id$\n/etc/shadow\nfine"), "{said:?}");
    assert!(page(&world, "shop").starts_with("two"));
}

/// Posts what a client would, and gives the status and the answer's text.
fn post(world: &World, path: &str, headers: &[&str], body: &[u8]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--path-as-is", "--max-time", "30", "--data-binary", "@-", "--write-out", "\n%{http_code}"]);
    curl.args(headers.iter().flat_map(|header| ["--header", header]));
    curl.args(["--header", &format!("Authorization: Bearer {}", world.token())]);
    curl.arg(format!("http://127.0.0.1:{}{path}", world.api_port()));
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("curl");
    let _ = child.stdin.take().expect("open").write_all(body);
    let text = String::from_utf8_lossy(&child.wait_with_output().expect("ended").stdout).into_owned();
    let (answer, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.to_owned(), answer.to_owned())
}

fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha1sum");
    child.stdin.take().expect("open").write_all(bytes).expect("written");
    let text = child.wait_with_output().expect("ended").stdout;
    hex::decode(&text[..40]).expect("a sum")
}

/// A pack of raw entries, with a right sum.
fn pack(count: u32, entries: &[u8]) -> Vec<u8> {
    let mut bytes = [b"PACK", &2u32.to_be_bytes()[..], &count.to_be_bytes(), entries].concat();
    bytes.extend(sha1(&bytes));
    bytes
}

/// An entry: its kind, the size that it claims, and what is packed.
fn packed(kind: u8, size: u64, before: &[u8], content: &[u8]) -> Vec<u8> {
    packed_at(flate2::Compression::fast(), kind, size, before, content)
}

fn packed_at(level: flate2::Compression, kind: u8, size: u64, before: &[u8], content: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    let mut rest = size >> 4;
    let mut byte = kind << 4 | u8::try_from(size & 15).expect("small");
    while rest > 0 {
        head.push(byte | 0x80);
        byte = u8::try_from(rest & 0x7f).expect("small");
        rest >>= 7;
    }
    head.push(byte);
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
    encoder.write_all(content).expect("packed");
    [head, before.to_vec(), encoder.finish().expect("packed")].concat()
}

#[test]
fn no_pack_and_no_word_of_the_protocol_leads_anywhere() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
    let head = push_site(&shop, "one");
    let before = state(&world);
    let (new, zero) = ("5".repeat(40), "0".repeat(40));
    let ask = |words: &str, pack: &[u8]| {
        [line(&format!("{words}\0 report-status agent=x")), b"0000".to_vec(), pack.to_vec()].concat()
    };
    let update = format!("{head} {new} refs/heads/main");
    let empty = pack(0, b"");
    let zeros = vec![0; 64 << 20];
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("an end alone", b"0000".to_vec()),
        ("a line that is too short", b"0001".to_vec()),
        ("a line of 3", b"0003".to_vec()),
        ("a line that is longer than what comes", b"ffffx".to_vec()),
        ("a line whose length is no number", b"zzzzhello".to_vec()),
        ("text", b"hello, this is no push\n".repeat(100)),
        ("an update without a pack", ask(&update, b"")),
        ("an update with text for a pack", ask(&update, b"hello")),
        ("an empty pack", ask(&update, &empty)),
        ("a pack that is cut", ask(&update, &empty[..20])),
        ("a pack with a wrong sum", ask(&update, &[&empty[..31], b"x"].concat())),
        (
            "a pack of another version",
            ask(&update, &[b"PACK", &9u32.to_be_bytes()[..], &0u32.to_be_bytes(), &[0; 20]].concat()),
        ),
        ("a pack of 4 billion objects", ask(&update, &pack(u32::MAX, b""))),
        ("a pack with fewer objects than it has", ask(&update, &pack(0, &packed(3, 5, b"", b"hello")))),
        ("a pack with more objects than it has", ask(&update, &pack(2, &packed(3, 5, b"", b"hello")))),
        ("an object of no kind", ask(&update, &pack(1, &packed(0, 5, b"", b"hello")))),
        ("an object of a reserved kind", ask(&update, &pack(1, &packed(5, 5, b"", b"hello")))),
        ("an object that is larger than it says", ask(&update, &pack(1, &packed(3, 1, b"", b"hello")))),
        ("an object that is smaller than it says", ask(&update, &pack(1, &packed(3, 50, b"", b"hello")))),
        ("an object of 2^60 bytes", ask(&update, &pack(1, &packed(3, 1 << 60, b"", b"hello")))),
        ("a difference to nothing", ask(&update, &pack(1, &packed(7, 5, &[6; 20], b"\x05\x05\x90\x05\x00")))),
        ("a difference to itself", ask(&update, &pack(1, &packed(6, 5, &[0], b"\x05\x05\x90\x05\x00")))),
        (
            "a difference to what comes before the pack",
            ask(&update, &pack(1, &packed(6, 5, &[0xff, 0xff, 0xff, 0x7f], b"\x05\x05\x90\x05\x00"))),
        ),
        (
            "a difference of 2^63 bytes",
            ask(
                &update,
                &pack(
                    2,
                    &[
                        packed(3, 5, b"", b"hello"),
                        packed(6, 20, &[14], b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x90\x05"),
                    ]
                    .concat(),
                ),
            ),
        ),
        ("what is not packed", ask(&update, &pack(1, &[0x35, b'h', b'e', b'l', b'l', b'o']))),
        ("64 MB of zeros that nothing names", ask(&update, &pack(1, &packed(3, zeros.len() as u64, b"", &zeros)))),
        (
            "an option that is none",
            [
                line(&format!("{update}\0 report-status push-options")),
                b"0000".to_vec(),
                line("--upload-pack=touch /tmp/x"),
                b"0000".to_vec(),
                empty.clone(),
            ]
            .concat(),
        ),
        (
            "a certificate that was not asked for",
            [
                line("push-cert\0 report-status"),
                line("certificate version 0.1"),
                line("push-cert-end"),
                b"0000".to_vec(),
            ]
            .concat(),
        ),
        (
            "another kind of names",
            [line(&format!("{update}\0 report-status object-format=sha256")), b"0000".to_vec(), empty.clone()].concat(),
        ),
        (
            "an agent with control characters",
            [line(&format!("{update}\0 agent=\x1b[2J\r\n report-status")), b"0000".to_vec(), empty.clone()].concat(),
        ),
        ("names of objects that are none", ask("x y refs/heads/main", &empty)),
        ("names of objects that are short", ask("0000 1111 refs/heads/main", &empty)),
        ("no name of a branch", ask(&format!("{head} {new} "), &empty)),
        ("a removal of the branch", ask(&format!("{head} {zero} refs/heads/main"), b"")),
        ("a branch out of nothing", ask(&format!("{zero} {zero} refs/heads/main"), &empty)),
        (
            "a shallow line",
            [
                line(&format!("shallow {new}")),
                line(&format!("{update}\0 report-status")),
                b"0000".to_vec(),
                empty.clone(),
            ]
            .concat(),
        ),
    ];
    let names = [
        "refs/heads/other",
        "refs/tags/v1",
        "refs/heads/../../config",
        "refs/heads/../../hooks/pre-receive",
        "HEAD",
        "FETCH_HEAD",
        "config",
        "../config",
        "-o",
        "--upload-pack=x",
        "refs/heads/-x",
        "refs/heads/main.lock",
        "refs/heads/a b",
        "refs/heads/~x",
        "refs/heads/@{1}",
        "refs/heads/main/below",
        "refs/heads/",
        "refs//heads//main",
        "/refs/heads/main",
        "refs/notes/x",
        "refs/replace/x",
        "refs/hidden/x",
        "objects/info/alternates",
        "refs/heads/\u{1b}[2J",
        "refs/heads/main\nrefs/heads/x",
    ];
    let of_names: Vec<Vec<u8>> = names.iter().map(|name| ask(&format!("{zero} {head} {name}"), &empty)).collect();
    cases.extend(names.iter().copied().zip(of_names));
    let long = ask(&format!("{zero} {head} refs/heads/{}", "x".repeat(60_000)), &empty);
    cases.push(("a name of 60,000 bytes", long));
    let mut many = line(&format!("{zero} {head} refs/heads/x0\0 report-status"));
    (1..5000).for_each(|n| many.extend(line(&format!("{zero} {head} refs/heads/x{n}"))));
    cases.push(("5,000 branches at once", [many, b"0000".to_vec(), empty].concat()));
    assert!(cases.len() >= 60, "{}", cases.len());
    let kind = "Content-Type: application/x-git-receive-pack-request";
    for (what, body) in &cases {
        let (status, answer) = post(&world, "/git/shop.git/git-receive-pack", &[kind], body);
        assert!(status.starts_with('2') || status.starts_with('4'), "{what}: {status} {answer}");
        assert!(!answer.contains("000eunpack ok\n") || answer.contains("ng "), "{what} was taken: {answer}");
        assert_eq!(before, state(&world), "{what}: {answer}");
        let releases = world.gantry(&["releases", "shop"]).good().out;
        assert!(!releases.contains("v2"), "{what} was deployed: {answer}");
    }
    let addresses = [
        "/git/shop.git/../../store.db",
        "/git/../git/shop.git/config",
        "/git/shop.git/HEAD",
        "/git/shop.git/config",
        "/git/shop.git/objects/info/packs",
        "/git/shop.git/%2e%2e/hooks",
        "/git/..%2fshop.git/info/refs?service=git-upload-pack",
        "/git/shop.git/info/refs",
        "/git/shop.git/info/refs?service=",
        "/git/shop.git/info/refs?service=git-upload-archive",
        "/git/shop.git/info/refs?service=../../bin/sh",
        "/git/shop.git/info/refs?service=git-upload-pack%0a",
        "/git/-x.git/info/refs?service=git-upload-pack",
        "/git/ghost.git/info/refs?service=git-upload-pack",
        "/git/hooks/info/refs?service=git-upload-pack",
        "/git/shop.git.git/info/refs?service=git-upload-pack",
        "/git/shop/git-upload-archive",
        "/git/shop/sh",
    ];
    for address in addresses {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--path-as-is", "--max-time", "30", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.args(["--header", &format!("Authorization: Bearer {}", world.token())]);
        curl.arg(format!("http://127.0.0.1:{}{address}", world.api_port()));
        let status = run(curl).out;
        assert!(status.starts_with('4'), "{address}: {status}");
    }
    for (what, headers, body) in [
        ("a packing nobody knows", vec![kind, "Content-Encoding: br"], vec![0; 10]),
        ("gzip that is none", vec![kind, "Content-Encoding: gzip"], b"hello".to_vec()),
        ("gzip of 64 MB of zeros", vec![kind, "Content-Encoding: gzip"], {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&zeros).expect("packed");
            encoder.finish().expect("packed")
        }),
        ("another protocol", vec![kind, "Git-Protocol: version=2:x=$(touch /tmp/x)"], b"0000".to_vec()),
    ] {
        let (status, answer) = post(&world, "/git/shop.git/git-receive-pack", &headers, &body);
        assert!(status.starts_with('4') || (status == "200" && answer.is_empty()), "{what}: {status} {answer}");
    }
    assert_eq!(before, state(&world));
    assert!(page(&world, "shop").starts_with("one"));
    assert_eq!(world.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
    push_site(&shop, "two");
}

/// A pack of a kilobyte whose tree has 10^15 files.
#[test]
fn a_tree_that_never_ends_is_refused_at_its_bound() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&world, "blob", &vec![b'x'; 1 << 20]);
    let names: Vec<Vec<u8>> = (0..10).map(|n| format!("{n}").into_bytes()).collect();
    let level = |mode: &'static str, id: &str| {
        let entries: Vec<(&str, &[u8], &str)> = names.iter().map(|name| (mode, name.as_slice(), id)).collect();
        tree(&world, &entries)
    };
    let bomb = (0..14).fold(level("100644", &blob), |below, _| level("40000", &below));
    let pushed = push(&shop, &commit(&world, &bomb), "refs/heads/main");
    assert!(pushed.status != 0 && pushed.err.contains("the files of the tree have more than 2 GiB"), "{pushed:?}");
    let empty = object(&world, "blob", b"");
    let bomb = (0..14).fold(level("100644", &empty), |below, _| level("40000", &below));
    let pushed = push(&shop, &commit(&world, &bomb), "refs/heads/main");
    assert!(pushed.status != 0 && pushed.err.contains("the tree has more than 500000 files"), "{pushed:?}");
    assert!(page(&world, "shop").starts_with("one"));
    assert_eq!(world.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
}

#[test]
fn a_hundred_thousand_files_are_a_release_like_any_other() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
    push_site(&shop, "one");
    let blob = object(&world, "blob", b"one of many\n");
    let names: Vec<Vec<u8>> = (0..1000).map(|n| format!("{n:03}").into_bytes()).collect();
    let files: Vec<(&str, &[u8], &str)> = names.iter().map(|name| ("100644", name.as_slice(), blob.as_str())).collect();
    let folder = tree(&world, &files);
    let folders: Vec<(&str, &[u8], &str)> =
        names.iter().take(100).map(|name| ("40000", name.as_slice(), folder.as_str())).collect();
    let many = tree(&world, &folders);
    shop.git(&["read-tree", "--prefix=many/", &many]);
    shop.write("server.py", &site::SERVER.replace("VERSION", "two"));
    shop.git(&["add", "server.py"]);
    shop.git(&["commit", "--quiet", "--message", "two"]);
    let _ = shop.push().good();
    assert!(page(&world, "shop").starts_with("two"));
    let count = world.gantry(&["exec", "shop", "--", "/bin/sh", "-c", "find /app/many -type f | wc -l"]).good().out;
    assert_eq!(count.trim(), "100000");
}

/// Objects without end, each a good one: what bounds them is the size of the push.
#[test]
fn a_pack_that_never_ends_is_cut_at_its_bound() {
    let world = World::start(&[]);
    let shop = site(&world, "shop", 1);
    push_site(&shop, "one");
    let before = state(&world);
    let command = format!("{} {} refs/heads/main\0 report-status\n", "0".repeat(40), "1".repeat(40));
    let mut begin = line(&command);
    begin.extend_from_slice(b"0000PACK\0\0\0\x02\xff\xff\xff\xff");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "80", "-T", "-", "-X", "POST", "-w", "\n%{http_code}"]);
    curl.args(["-H", "content-type: application/x-git-receive-pack-request", "-u", &format!("x:{}", world.token())]);
    curl.arg(format!("http://127.0.0.1:{}/git/shop.git/git-receive-pack", world.api_port()));
    curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().expect("curl");
    let mut input = child.stdin.take().expect("open");
    let sending = std::thread::spawn(move || {
        input.write_all(&begin).expect("begun");
        let mut content = vec![0; 1 << 20];
        // Half as much again as may come.
        for number in 0..1536_u32 {
            content[..4].copy_from_slice(&number.to_be_bytes());
            if input.write_all(&packed_at(flate2::Compression::none(), 3, 1 << 20, &[], &content)).is_err() {
                return number;
            }
        }
        1536
    });
    // While it comes, nothing that is kept for ever grows, and others are served.
    while !sending.is_finished() {
        assert!(page(&world, "shop").starts_with("one"));
    }
    let sent = sending.join().expect("it sent");
    let output = child.wait_with_output().expect("ended");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!((1000..1300).contains(&sent), "{sent} MiB were taken: {told}");
    assert!(!told.contains("unpack ok"), "{told}");
    assert_eq!(state(&world), before);
    assert_eq!(world.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
    assert!(page(&world, "shop").starts_with("one"));
}
