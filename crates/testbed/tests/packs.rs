//! Malicious packs, git protocol lines and addresses. Each would be a valid push except for one fault.

mod kept;
mod site;

use std::io::Write;
use std::process::{Command, Stdio};

use gantry_testbed::{Repository, TestCluster, run};
use kept::state;
use site::{page, push_site, site};

/// Sends a POST request as a client would. Returns the status and the response's text.
fn post(cluster: &TestCluster, path: &str, headers: &[&str], body: &[u8]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--path-as-is", "--max-time", "90", "--data-binary", "@-", "--write-out", "\n%{http_code}"]);
    curl.args(headers.iter().flat_map(|header| ["--header", header]));
    curl.args(["--header", &format!("Authorization: Bearer {}", cluster.token())]);
    curl.arg(format!("http://127.0.0.1:{}{path}", cluster.api_port()));
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

/// A pack of raw entries, with a correct checksum.
fn pack(count: u32, entries: &[u8]) -> Vec<u8> {
    let mut bytes = [b"PACK", &2u32.to_be_bytes()[..], &count.to_be_bytes(), entries].concat();
    bytes.extend(sha1(&bytes));
    bytes
}

/// A pack entry: its kind, the size that the entry claims, and its compressed content.
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

/// A valid push, as the starting point of the malicious ones.
struct Good {
    /// The current commit of the branch; `next` is the commit that the push brings.
    head: String,
    next: String,
    pack: Vec<u8>,
}

impl Good {
    fn new(cluster: &TestCluster, shop: &Repository, text: &str) -> Self {
        let head = shop.git(&["rev-parse", "HEAD"]).out.trim().to_owned();
        shop.write("server.py", &site::SERVER.replace("VERSION", text));
        let next = shop.commit(text);
        let mut git = Command::new("git");
        git.arg("-C").arg(cluster.path("repository-shop")).args(["pack-objects", "--quiet", "--revs", "--stdout"]);
        let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
        child.stdin.take().expect("open").write_all(format!("{next}\n^{head}\n").as_bytes()).expect("written");
        Self { head, next, pack: child.wait_with_output().expect("ended").stdout }
    }

    fn count(&self) -> u32 {
        u32::from_be_bytes(self.pack[8..12].try_into().expect("four bytes"))
    }

    /// The push's own pack with another object count and more entries.
    fn with(&self, count: u32, entries: &[u8]) -> Vec<u8> {
        pack(count, &[&self.pack[12..self.pack.len() - 20], entries].concat())
    }

    /// The push's own pack with `more` additional entries.
    fn and(&self, more: u32, entries: &[u8]) -> Vec<u8> {
        self.with(self.count() + more, entries)
    }

    fn update(&self) -> String {
        format!("{} {} refs/heads/main", self.head, self.next)
    }

    /// A request for this push with another pack.
    fn request(&self, pack: &[u8]) -> Vec<u8> {
        request(&self.update(), pack)
    }
}

/// A request that pushes one ref.
fn request(words: &str, pack: &[u8]) -> Vec<u8> {
    [line(&format!("{words}\0 report-status agent=x")), b"0000".to_vec(), pack.to_vec()].concat()
}

const KIND: &str = "Content-Type: application/x-git-receive-pack-request";

/// The server accepts the push, and the new release serves.
fn is_taken(cluster: &TestCluster, body: &[u8], text: &str) {
    let (status, answer) = post(cluster, "/git/shop.git/git-receive-pack", &[KIND], body);
    assert!(status == "200" && answer.contains("unpack ok") && answer.contains("ok refs/heads/main"), "{answer}");
    assert!(page(cluster, "shop").starts_with(text));
}

#[test]
fn no_pack_and_no_word_of_the_protocol_leads_anywhere() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let before = state(&cluster);
    let good = Good::new(&cluster, &shop, "two");
    let Good { head, next: new, .. } = &good;
    let zero = "0".repeat(40);
    let ask = |pack: &[u8]| good.request(pack);
    let update = good.update();
    let sound = good.pack.clone();
    let versioned = |version: u32| {
        let mut bytes = [b"PACK", &version.to_be_bytes()[..], &sound[8..sound.len() - 20]].concat();
        bytes.extend(sha1(&bytes));
        bytes
    };
    let option = |option: &str| {
        let words = line(&format!("{update}\0 report-status push-options"));
        [words, b"0000".to_vec(), line(option), b"0000".to_vec(), sound.clone()].concat()
    };
    let zeros = vec![0; 64 << 20];
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("an end alone", b"0000".to_vec()),
        ("a line that is too short", [b"0001", &ask(&sound)[..]].concat()),
        ("a line of 3", [b"0003", &ask(&sound)[..]].concat()),
        ("a line that is longer than what comes", b"ffffx".to_vec()),
        ("a line whose length is no number", [b"zzzz", &ask(&sound)[..]].concat()),
        ("text", b"hello, this is no push\n".repeat(100)),
        ("an update without a pack", ask(b"")),
        ("an update with text for a pack", ask(b"hello")),
        ("an empty pack", ask(&pack(0, b""))),
        ("a pack that is cut", ask(&sound[..sound.len() - 21])),
        ("a pack without its sum", ask(&sound[..sound.len() - 20])),
        ("a pack with a wrong sum", ask(&[&sound[..sound.len() - 1], &[sound[sound.len() - 1] ^ 1]].concat())),
        ("a pack of another version", ask(&versioned(9))),
        ("a pack of version 0", ask(&versioned(0))),
        ("a pack of 4 billion objects", ask(&good.with(u32::MAX, b""))),
        ("a pack with fewer objects than it has", ask(&good.with(good.count() - 1, b""))),
        ("a pack with more objects than it has", ask(&good.and(1, b""))),
        ("an object of no kind", ask(&good.and(1, &packed(0, 5, b"", b"hello")))),
        ("an object of a reserved kind", ask(&good.and(1, &packed(5, 5, b"", b"hello")))),
        ("an object that is larger than it says", ask(&good.and(1, &packed(3, 1, b"", b"hello")))),
        ("an object that is smaller than it says", ask(&good.and(1, &packed(3, 50, b"", b"hello")))),
        ("an object of 2^60 bytes", ask(&good.and(1, &packed(3, 1 << 60, b"", b"hello")))),
        ("a tree of 2^60 bytes", ask(&good.and(1, &packed(2, 1 << 60, b"", b"hello")))),
        ("a commit of 64 MB of zeros", ask(&good.and(1, &packed(1, zeros.len() as u64, b"", &zeros)))),
        ("a tree of 64 MB of zeros", ask(&good.and(1, &packed(2, zeros.len() as u64, b"", &zeros)))),
        ("a tag of 64 MB of zeros", ask(&good.and(1, &packed(4, zeros.len() as u64, b"", &zeros)))),
        ("a difference to nothing", ask(&good.and(1, &packed(7, 5, &[6; 20], b"\x05\x05\x90\x05\x00")))),
        ("a difference to itself", ask(&good.and(1, &packed(6, 5, &[0], b"\x05\x05\x90\x05\x00")))),
        (
            "a difference to what comes before the pack",
            ask(&good.and(1, &packed(6, 5, &[0xff, 0xff, 0xff, 0x7f], b"\x05\x05\x90\x05\x00"))),
        ),
        (
            "a difference of 2^63 bytes",
            ask(&good.and(
                2,
                &[
                    packed(3, 5, b"", b"hello"),
                    packed(6, 20, &[14], b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x90\x05"),
                ]
                .concat(),
            )),
        ),
        ("what is not packed", ask(&good.and(1, &[0x35, b'h', b'e', b'l', b'l', b'o']))),
        ("differences that double to 4 GiB", ask(&good.and(13, &doubling(12)))),
        ("an option that is none", option("--upload-pack=touch /tmp/x")),
        ("an option of 60,000 bytes", option(&"x".repeat(60_000))),
        ("an option with control characters", option("\x1b[2J\r\nhold")),
        (
            "a certificate that was not asked for",
            [
                line("push-cert\0 report-status"),
                line("certificate version 0.1"),
                line("push-cert-end"),
                b"0000".to_vec(),
                sound.clone(),
            ]
            .concat(),
        ),
        (
            "another kind of names",
            [line(&format!("{update}\0 report-status object-format=sha256")), b"0000".to_vec(), sound.clone()].concat(),
        ),
        ("names of objects that are none", request("x y refs/heads/main", &sound)),
        ("names of objects that are short", request("0000 1111 refs/heads/main", &sound)),
        ("no name of a branch", request(&format!("{head} {new} "), &sound)),
        ("a removal of the branch", request(&format!("{head} {zero} refs/heads/main"), b"")),
        ("a branch out of nothing", request(&format!("{zero} {zero} refs/heads/main"), &sound)),
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
    let of_names: Vec<Vec<u8>> = names.iter().map(|name| request(&format!("{zero} {new} {name}"), &sound)).collect();
    cases.extend(names.iter().copied().zip(of_names));
    let long = request(&format!("{zero} {new} refs/heads/{}", "x".repeat(60_000)), &sound);
    cases.push(("a name of 60,000 bytes", long));
    let mut many = line(&format!("{zero} {new} refs/heads/x0\0 report-status"));
    (1..5000).for_each(|n| many.extend(line(&format!("{zero} {new} refs/heads/x{n}"))));
    cases.push(("5,000 branches at once", [many, b"0000".to_vec(), sound.clone()].concat()));
    assert!(cases.len() >= 60, "{}", cases.len());
    // Extra refs beside the branch, as a mirror push sends them: the server ignores these refs.
    let passed = ["refs/tags/v1", "refs/notes/x", "refs/replace/x", "refs/hidden/x", "5,000 branches at once"];
    for (what, body) in &cases {
        let (status, answer) = post(&cluster, "/git/shop.git/git-receive-pack", &[KIND], body);
        assert!(status.starts_with('2') || status.starts_with('4'), "{what}: {status} {answer}");
        let taken = answer.contains("000eunpack ok\n") && !answer.contains("ng ");
        assert_eq!(taken, passed.contains(what), "{what}: {answer}");
        assert_eq!(before, state(&cluster), "{what}: {answer}");
        let releases = cluster.gantry(&["releases", "shop"]).good().out;
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
        curl.args(["--header", &format!("Authorization: Bearer {}", cluster.token())]);
        curl.arg(format!("http://127.0.0.1:{}{address}", cluster.api_port()));
        let status = run(curl).out;
        assert!(status.starts_with('4'), "{address}: {status}");
    }
    for (what, headers, body) in [
        ("a packing nobody knows", vec![KIND, "Content-Encoding: br"], vec![0; 10]),
        ("gzip that is none", vec![KIND, "Content-Encoding: gzip"], b"hello".to_vec()),
        ("gzip of 64 MB of zeros", vec![KIND, "Content-Encoding: gzip"], {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&zeros).expect("packed");
            encoder.finish().expect("packed")
        }),
        ("another protocol", vec![KIND, "Git-Protocol: version=2:x=$(touch /tmp/x)"], b"0000".to_vec()),
    ] {
        let (status, answer) = post(&cluster, "/git/shop.git/git-receive-pack", &headers, &body);
        assert!(status.starts_with('4') || (status == "200" && answer.is_empty()), "{what}: {status} {answer}");
    }
    assert_eq!(before, state(&cluster));
    assert!(page(&cluster, "shop").starts_with("one"));
    assert_eq!(cluster.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
    // The faults alone caused the refusals: a valid push with a harmless extra object becomes a release. A push that
    // claims as missing a part of the history that the server has becomes a release too.
    let body = [line(&format!("shallow {new}")), ask(&good.and(1, &packed(3, 5, b"", b"hello")))].concat();
    is_taken(&cluster, &body, "two");
}

/// A blob of 1 MiB and objects that each double the one before: kilobytes that expand to `2^times` MiB.
fn doubling(times: u32) -> Vec<u8> {
    let base = vec![0; 1 << 20];
    let mut entries = packed(3, base.len() as u64, b"", &base);
    let mut distance = entries.len();
    for turn in 0..times {
        let (from, to) = (1_u64 << (20 + turn), 1_u64 << (21 + turn));
        let mut difference = [number(from), number(to)].concat();
        for _ in 0..2 {
            let mut place = 0;
            while place < from {
                // A copy instruction (gitformat-pack(5)) with four bytes of offset and three of size.
                let size = (from - place).min(0xff_ffff);
                difference.push(0xff);
                difference.extend_from_slice(&u32::try_from(place).expect("small").to_le_bytes());
                difference.extend_from_slice(&u32::try_from(size).expect("small").to_le_bytes()[..3]);
                place += size;
            }
        }
        let entry = packed(6, difference.len() as u64, &back(distance), &difference);
        distance = entry.len();
        entries.extend(entry);
    }
    entries
}

/// Encodes a size in a delta: seven bits a byte, lowest first.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(0x80 | u8::try_from(value & 0x7f).expect("small"));
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("small"));
    bytes
}

/// Encodes the distance to an object's base: seven bits a byte, highest first, with one added for each further byte.
fn back(mut distance: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(distance & 0x7f).expect("small")];
    distance >>= 7;
    while distance > 0 {
        distance -= 1;
        bytes.insert(0, 0x80 | u8::try_from(distance & 0x7f).expect("small"));
        distance >>= 7;
    }
    bytes
}

/// The chain itself is valid: the server accepts a push with two doublings.
#[test]
fn accepts_small_chains_of_doubling_deltas() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let good = Good::new(&cluster, &shop, "two");
    is_taken(&cluster, &good.request(&good.and(3, &doubling(2))), "two");
}
/// An endless pack of valid objects: only the size limit of a push bounds the pack.
#[test]
fn stops_an_endless_pack_at_its_bound() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "one");
    let before = state(&cluster);
    let command = format!("{} {} refs/heads/main\0 report-status\n", "0".repeat(40), "1".repeat(40));
    let mut begin = line(&command);
    begin.extend_from_slice(b"0000PACK\0\0\0\x02\xff\xff\xff\xff");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "80", "-T", "-", "-X", "POST", "-w", "\n%{http_code}"]);
    curl.args(["-H", "content-type: application/x-git-receive-pack-request", "-u", &format!("x:{}", cluster.token())]);
    curl.arg(format!("http://127.0.0.1:{}/git/shop.git/git-receive-pack", cluster.api_port()));
    curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().expect("curl");
    let mut input = child.stdin.take().expect("open");
    let sending = std::thread::spawn(move || {
        input.write_all(&begin).expect("begun");
        let mut content = vec![0; 1 << 20];
        // One and a half times the size limit of a push.
        for number in 0..1536_u32 {
            content[..4].copy_from_slice(&number.to_be_bytes());
            if input.write_all(&packed_at(flate2::Compression::none(), 3, 1 << 20, &[], &content)).is_err() {
                return number;
            }
        }
        1536
    });
    // During the transfer no permanent state grows, and other clients are served.
    while !sending.is_finished() {
        assert!(page(&cluster, "shop").starts_with("one"));
    }
    let sent = sending.join().expect("it sent");
    let output = child.wait_with_output().expect("ended");
    let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!((1000..1300).contains(&sent), "{sent} MiB were taken: {shown}");
    assert!(!shown.contains("unpack ok"), "{shown}");
    assert_eq!(state(&cluster), before);
    assert_eq!(cluster.strays(&["shop.v1.web-1".to_owned()]), Vec::<String>::new());
    assert!(page(&cluster, "shop").starts_with("one"));
}
