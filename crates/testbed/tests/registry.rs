//! The registry against the OCI distribution specification 1.1: pull, push, resume, mount, list, remove, and the
//! specified error responses.

mod site;

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use gantry_testbed::TestCluster;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A response.
#[derive(Debug)]
struct RegistryResponse {
    status: u16,
    head: String,
    body: String,
}

impl RegistryResponse {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Code of the first error.
    fn code(&self) -> String {
        let value: Value = serde_json::from_str(&self.body).unwrap_or_default();
        value["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

struct Registry<'a> {
    cluster: &'a TestCluster,
    token: String,
}

impl Registry<'_> {
    fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> RegistryResponse {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--path-as-is", "--max-time", "30", "--request", method]);
        curl.args(headers.iter().flat_map(|header| ["--header", header]));
        curl.args(["--header", &format!("Authorization: Bearer {}", self.token), "--header", "Expect:"]);
        match method {
            "HEAD" => drop(curl.arg("--head")),
            "GET" | "DELETE" => {}
            _ => drop(curl.args(["--data-binary", "@-", "--header", "Content-Type: application/octet-stream"])),
        }
        curl.arg(format!("http://127.0.0.1:{}/v2/{path}", self.cluster.api_port()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl");
        let _ = child.stdin.take().expect("open").write_all(body);
        let text = String::from_utf8_lossy(&child.wait_with_output().expect("ended").stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        RegistryResponse { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Uploads a blob in one request and returns its digest.
    fn put(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let path = format!("{repository}/blobs/uploads/?digest={digest}");
        let answer = self.send("POST", &path, &[], content);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    fn begin(&self, repository: &str) -> String {
        let answer = self.send("POST", &format!("{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("location").expect("a location").trim_start_matches("/v2/").to_owned()
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn manifest(config: &str, config_size: usize, layer: &str, layer_size: usize) -> String {
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size }] })
    .to_string()
}

#[test]
fn the_distribution_specification_line_by_line() {
    let cluster = TestCluster::start(&[]);
    for app in ["shop", "other"] {
        let _ = cluster.gantry(&["app", "create", app]).good();
    }
    let registry = Registry { cluster: &cluster, token: cluster.token() };
    let send = |method: &str, path: &str| registry.send(method, path, &[], b"");
    assert_eq!(send("GET", "").status, 200);
    // Without this header on every response, Docker's client makes no index.
    let nobody = Registry { cluster: &cluster, token: "nobody".to_owned() };
    let foreign = nobody.send("GET", "shop/tags/list", &[], b"");
    for answer in [
        send("GET", ""),
        send("HEAD", ""),
        send("PUT", ""),
        send("GET", "shop/manifests/none"),
        send("GET", "x"),
        foreign,
    ] {
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{answer:?}");
    }
    let bare = gantry_testbed::run({
        let mut curl = Command::new("curl");
        let header = format!("Authorization: Bearer {}", cluster.token());
        curl.args(["-sS", "-i", "-H", &header, &format!("http://127.0.0.1:{}/v2", cluster.api_port())]);
        curl
    });
    assert!(bare.out.starts_with("HTTP/1.1 200"), "{bare:?}");

    // Monolithic push, in one request and in two, with mismatched and missing digests.
    let (config, layer) = (b"{\"a\":1}".as_slice(), b"a layer's bytes, whatever they are".as_slice());
    let config_digest = registry.put("shop", config);
    let upload = registry.begin("shop");
    let layer_digest = digest(layer);
    let done = registry.send("PUT", &format!("{upload}?digest={layer_digest}"), &[], layer);
    assert_eq!((done.status, done.header("docker-content-digest")), (201, Some(layer_digest.as_str())));
    let location = done.header("location").expect("a location").trim_start_matches("/v2/").to_owned();
    assert_eq!(send("GET", &location).body.as_bytes(), layer);
    let wrong = registry.send("PUT", &format!("{}?digest={config_digest}", registry.begin("shop")), &[], layer);
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"), "{wrong:?}");
    let none = registry.send("PUT", &registry.begin("shop"), &[], layer);
    assert_eq!((none.status, none.code().as_str()), (400, "DIGEST_INVALID"), "{none:?}");
    let kind = registry.send("PUT", &format!("{}?digest=md5:00", registry.begin("shop")), &[], layer);
    assert_eq!((kind.status, kind.code().as_str()), (400, "DIGEST_INVALID"), "{kind:?}");

    // Push in chunks: order, progress, and resumption after an interruption.
    let upload = registry.begin("shop");
    let (first, rest) = layer.split_at(10);
    let part =
        |range: &str, bytes: &[u8]| registry.send("PATCH", &upload, &[&format!("Content-Range: {range}")], bytes);
    let begun = part("0-9", first);
    assert_eq!((begun.status, begun.header("range")), (202, Some("0-9")));
    assert_eq!(part("20-29", rest).status, 416, "a gap");
    assert_eq!(part("0-9", first).status, 416, "the same again");
    let far = send("GET", &upload);
    assert_eq!((far.status, far.header("range")), (204, Some("0-9")));
    let end = format!("10-{}", layer.len() - 1);
    assert_eq!(part(&end, rest).status, 202);
    let done = registry.send("PUT", &format!("{upload}?digest={layer_digest}"), &[], b"");
    assert_eq!(done.status, 201, "{done:?}");
    let gone = registry.send("PUT", &format!("{upload}?digest={layer_digest}"), &[], b"");
    assert_eq!((gone.status, gone.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    let given_up = registry.begin("shop");
    assert_eq!((send("DELETE", &given_up).status, send("GET", &given_up).status), (204, 404));

    // Mount from another repository. If that repository lacks the blob, an upload starts instead.
    let mounted = registry.send("POST", &format!("other/blobs/uploads/?mount={layer_digest}&from=shop"), &[], b"");
    assert_eq!((mounted.status, mounted.header("docker-content-digest")), (201, Some(layer_digest.as_str())));
    let absent = format!("sha256:{}", "0".repeat(64));
    let begun = registry.send("POST", &format!("other/blobs/uploads/?mount={absent}&from=shop"), &[], b"");
    assert!(begun.status == 202 && begun.header("location").is_some(), "{begun:?}");

    // Blobs: present with their size, or absent.
    let head = send("HEAD", &format!("shop/blobs/{layer_digest}"));
    assert_eq!((head.status, head.header("content-length")), (200, Some(layer.len().to_string().as_str())));
    assert_eq!(send("HEAD", &format!("shop/blobs/{absent}")).status, 404);
    let missing = send("GET", &format!("shop/blobs/{absent}"));
    assert_eq!((missing.status, missing.code().as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(send("GET", "shop/blobs/sha256:short").code(), "DIGEST_INVALID");
    let kept = send("DELETE", &format!("shop/blobs/{layer_digest}"));
    assert_eq!((kept.status, kept.code().as_str()), (405, "UNSUPPORTED"), "blobs go by themselves");

    // Manifests, by tag and by digest.
    let text = manifest(&config_digest, config.len(), &layer_digest, layer.len());
    let whole = digest(text.as_bytes());
    for reference in ["one", "two", "ten", whole.as_str()] {
        let put = registry.send("PUT", &format!("shop/manifests/{reference}"), &[], text.as_bytes());
        assert_eq!((put.status, put.header("docker-content-digest")), (201, Some(whole.as_str())), "{put:?}");
    }
    // A repository may have the name of an app that does not exist; the registry says so.
    registry.put("nosuch", config);
    let _ = registry.send("POST", &format!("nosuch/blobs/uploads/?mount={layer_digest}"), &[], b"");
    let put = registry.send("PUT", "nosuch/manifests/one", &[], text.as_bytes());
    let warning = "299 - \"there is no app nosuch; create it with: gantry app create nosuch\"";
    assert_eq!((put.status, put.header("warning")), (201, Some(warning)), "{put:?}");
    let put = registry.send("PUT", "team/tools/manifests/one", &[], text.as_bytes());
    assert_eq!((put.status, put.header("warning")), (201, None), "{put:?}");
    for reference in ["one", whole.as_str()] {
        let got = send("GET", &format!("shop/manifests/{reference}"));
        assert_eq!((got.status, got.body.as_str()), (200, text.as_str()));
        assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.manifest.v1+json"));
        let head = send("HEAD", &format!("shop/manifests/{reference}"));
        assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(whole.as_str())));
        assert_eq!(head.header("content-length"), Some(text.len().to_string().as_str()));
    }
    assert_eq!(send("HEAD", "shop/manifests/none").status, 404);
    for (what, path, body, status, code) in [
        ("unknown", "shop/manifests/none", None, 404, "MANIFEST_UNKNOWN"),
        ("no JSON", "shop/manifests/x", Some("hello".to_owned()), 400, "MANIFEST_INVALID"),
        (
            "of blobs that are not here",
            "shop/manifests/x",
            Some(manifest(&absent, 1, &layer_digest, layer.len())),
            400,
            "MANIFEST_BLOB_UNKNOWN",
        ),
        (
            "of another size",
            "shop/manifests/x",
            Some(manifest(&config_digest, 1, &layer_digest, layer.len())),
            400,
            "MANIFEST_BLOB_UNKNOWN",
        ),
        ("of another digest", &format!("shop/manifests/{absent}"), Some(text.clone()), 400, "DIGEST_INVALID"),
        ("by a tag that is none", "shop/manifests/-x", Some(text.clone()), 400, "MANIFEST_INVALID"),
        ("of 5 MB", "shop/manifests/x", Some(format!("{text}{}", " ".repeat(5 << 20))), 413, "SIZE_INVALID"),
        ("in a repository that is none", "Shop/manifests/x", Some(text.clone()), 400, "NAME_INVALID"),
        ("in five folders", "a/b/c/d/e/manifests/x", Some(text.clone()), 400, "NAME_INVALID"),
        ("in a folder above", "shop/../../manifests/x", Some(text.clone()), 404, ""),
    ] {
        let answer = match body {
            Some(body) => registry.send("PUT", path, &[], body.as_bytes()),
            None => send("GET", path),
        };
        assert!(answer.status == status || code.is_empty() && answer.status >= 400, "{what}: {answer:?}");
        assert!(code.is_empty() || answer.code() == code, "{what}: {answer:?}");
    }

    // Tags, all at once and in pages.
    let list = |path: &str| serde_json::from_str::<Value>(&send("GET", path).body).expect("JSON");
    assert_eq!(list("shop/tags/list"), json!({ "name": "shop", "tags": ["one", "ten", "two"] }));
    let page = send("GET", "shop/tags/list?n=2");
    assert_eq!(page.header("link"), Some("</v2/shop/tags/list?n=2&last=ten>; rel=\"next\""));
    assert_eq!(list("shop/tags/list?n=2&last=ten")["tags"], json!(["two"]));
    assert!(send("GET", "shop/tags/list?n=2&last=ten").header("link").is_none());
    assert_eq!(list("shop/tags/list?n=0")["tags"], json!([]));
    assert_eq!(list("other/tags/list")["tags"], json!([]));
    assert_eq!(list("base/debian/tags/list")["tags"], json!(["latest"]));
    let unknown = send("GET", "ghost/tags/list");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "NAME_UNKNOWN"));

    // Referrers of an image: pushed before or after the image, listed by type, and gone after their removal.
    let refers = |kind: &str, subject: &str| {
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        value["artifactType"] = json!(kind);
        value["annotations"] = json!({ "of": kind });
        value["subject"] =
            json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": text.len() });
        value.to_string()
    };
    let referrers =
        |path: &str| list(&format!("shop/referrers/{path}"))["manifests"].as_array().expect("a list").clone();
    assert_eq!(referrers(&whole), [] as [Value; 0]);
    let (signature, parts) = (refers("signature/x", &whole), refers("parts/x", &whole));
    for referrer in [&signature, &parts, &refers("early/x", &absent)] {
        let path = format!("shop/manifests/{}", digest(referrer.as_bytes()));
        let put = registry.send("PUT", &path, &[], referrer.as_bytes());
        assert!(put.status == 201 && put.header("oci-subject").is_some(), "{put:?}");
        assert_eq!(send("GET", &path).body, *referrer);
    }
    assert_eq!((referrers(&whole).len(), referrers(&absent).len()), (2, 1));
    let listed = send("GET", &format!("shop/referrers/{whole}?artifactType=signature%2Fx"));
    assert_eq!(listed.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(listed.header("oci-filters-applied"), Some("artifactType"));
    let only: Value = serde_json::from_str(&listed.body).expect("JSON");
    assert_eq!(
        only["manifests"],
        json!([{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(signature.as_bytes()),
            "size": signature.len(), "artifactType": "signature/x", "annotations": { "of": "signature/x" } }])
    );
    assert_eq!(send("GET", "shop/referrers/sha256:short").code(), "DIGEST_INVALID");
    assert_eq!(list(&format!("shop/referrers/{whole}?artifactType=no+such/x"))["manifests"], json!([]));
    let talks = refers(&"long/".repeat(4000), &whole);
    let refused = registry.send("PUT", "shop/manifests/long", &[], talks.as_bytes());
    assert!(refused.status == 400 && refused.body.contains("annotations"), "{refused:?}");
    assert_eq!(send("DELETE", &format!("shop/manifests/{}", digest(parts.as_bytes()))).status, 202);
    assert_eq!(referrers(&whole).len(), 1);
    let odd = text.replacen('{', r#"{"subject":{"digest":"nonsense"},"#, 1);
    let refused = registry.send("PUT", "shop/manifests/odd", &[], odd.as_bytes());
    assert_eq!((refused.status, refused.code().as_str()), (400, "MANIFEST_INVALID"));

    // Tags in the query of a push by digest, and digests of another algorithm.
    let path = format!("shop/manifests/{whole}");
    let put = registry.send("PUT", &format!("{path}?tag=v1&tag=v2"), &[], text.as_bytes());
    assert_eq!((put.status, put.header("oci-tag")), (201, Some("v1")), "{put:?}");
    assert_eq!(["v1", "v2"].map(|tag| send("GET", &format!("shop/manifests/{tag}")).status), [200, 200]);
    let put = registry.send("PUT", &format!("{path}?tag=v3&tag=-x"), &[], text.as_bytes());
    assert_eq!((put.status, put.code().as_str()), (400, "MANIFEST_INVALID"), "{put:?}");
    assert_eq!(send("GET", "shop/manifests/v3").status, 404);
    let longer = format!("sha512:{}", "0".repeat(128));
    for refused in [
        send("GET", &format!("shop/blobs/{longer}")),
        send("GET", &format!("shop/manifests/{longer}")),
        registry.send("PUT", &format!("shop/manifests/{longer}"), &[], text.as_bytes()),
    ] {
        assert_eq!((refused.status, refused.code().as_str()), (400, "DIGEST_INVALID"), "{refused:?}");
        assert!(refused.body.contains("digests of sha512 are not supported; use sha256"), "{refused:?}");
    }

    // An index whose images have no tags. A repository contains only the manifests that were pushed to the
    // repository.
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": whole, "size": text.len() }] });
    let put = registry.send("PUT", "shop/manifests/many", &[], index.to_string().as_bytes());
    assert_eq!(put.status, 201, "{put:?}");
    let got = send("GET", "shop/manifests/many");
    assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(send("GET", &format!("other/manifests/{whole}")).status, 404);

    // Ranges of a blob.
    let part = |range: &str| {
        registry.send("GET", &format!("shop/blobs/{layer_digest}"), &[&format!("Range: bytes={range}")], b"")
    };
    let content_range = |range: &str| format!("bytes {range}/{}", layer.len());
    for (range, from, to) in [("0-3", 0, 4), ("5-", 5, layer.len()), ("-6", layer.len() - 6, layer.len())] {
        let got = part(range);
        assert_eq!((got.status, got.body.as_bytes()), (206, &layer[from..to]), "{got:?}");
        assert_eq!(got.header("content-range"), Some(content_range(&format!("{from}-{}", to - 1)).as_str()));
    }
    let beyond = part("1000-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(content_range("*").as_str())));
    assert_eq!((part("0-1,3-4").status, part("x").status), (200, 200));

    // Removal of one tag, and of all tags of a digest.
    assert_eq!(send("DELETE", "shop/manifests/one").status, 202);
    assert_eq!((send("GET", "shop/manifests/one").status, send("GET", "shop/manifests/two").status), (404, 200));
    assert_eq!(send("DELETE", &format!("shop/manifests/{whole}")).status, 202);
    assert_eq!(list("shop/tags/list")["tags"], json!(["many"]));
    assert_eq!(send("GET", &format!("shop/manifests/{whole}")).status, 404);
    let gone = send("DELETE", "shop/manifests/two");
    assert_eq!((gone.status, gone.code().as_str()), (404, "MANIFEST_UNKNOWN"));

    // Scopes of tokens.
    let token = |arguments: &[&str]| cluster.gantry(arguments).good().out.trim().to_owned();
    let reader = Registry { cluster: &cluster, token: token(&["token", "create", "eyes", "--read"]) };
    let other = Registry { cluster: &cluster, token: token(&["token", "create", "ci", "--deploy", "other"]) };
    let nobody = Registry { cluster: &cluster, token: "gantry_nonsense".to_owned() };
    let tags = |who: &Registry<'_>| who.send("GET", "shop/tags/list", &[], b"").status;
    assert_eq!((tags(&reader), tags(&other), tags(&nobody)), (200, 403, 401));
    let push = |who: &Registry<'_>| who.send("POST", "shop/blobs/uploads/", &[], b"").status;
    assert_eq!((push(&reader), push(&other), push(&nobody)), (403, 403, 401));
    let remove = |who: &Registry<'_>| who.send("DELETE", "shop/manifests/many", &[], b"").status;
    assert_eq!((remove(&reader), remove(&other), remove(&nobody)), (403, 403, 401));
    assert!(nobody.send("GET", "", &[], b"").header("www-authenticate").is_some());
    assert_eq!(cluster.strays(&[]).iter().filter(|stray| !stray.contains("uploads/")).count(), 0);
}

/// A client pushes an image again after a blob was damaged on the disk. The registry does not claim to have the blob, so
/// the push replaces it.
#[test]
fn a_push_repairs_a_damaged_blob() {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let registry = Registry { cluster: &cluster, token: cluster.token() };
    let layer = b"a layer's bytes, whatever they are".as_slice();
    let name = registry.put("shop", layer);
    let hex = name.trim_start_matches("sha256:");
    let path = cluster.path(&format!("data/server/blobs/sha256/{}/{hex}", &hex[..2]));
    let blob = format!("shop/blobs/{name}");
    let mount = format!("shop/blobs/uploads/?mount={name}&from=other");
    for damage in [&b"a layer's bytes, whatever they arE"[..], b"a layer's bytes", b""] {
        assert_eq!(registry.send("HEAD", &blob, &[], b"").status, 200);
        assert_eq!(registry.send("POST", &mount, &[], b"").status, 201);
        std::fs::write(&path, damage).expect("damaged");
        let response = registry.send("HEAD", &blob, &[], b"");
        assert_eq!(response.status, 404, "{}: {response:?}", damage.escape_ascii());
        let begun = registry.send("POST", &mount, &[], b"");
        assert_eq!(begun.status, 202, "{}: {begun:?}", damage.escape_ascii());
        registry.put("shop", layer);
        assert_eq!(std::fs::read(&path).expect("there"), layer);
    }
}

/// Sends a request that stops in the middle of its body: `length` bytes announced, only `sent` transmitted.
fn half_sent(cluster: &TestCluster, path: &str, headers: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port())).expect("connected");
    let token = cluster.token();
    let head = format!(
        "PATCH /v2/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{headers}content-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), sent].concat()).expect("sent");
    stream
}

#[test]
fn resumes_an_interrupted_upload() {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let registry = Registry { cluster: &cluster, token: cluster.token() };
    // The first 8 MiB of an upload are in memory only.
    const SENT: usize = 9 << 20;
    let content = b"0123456789abcdefghijklmnopqrstuvwxyz".repeat(300_000);
    let name = digest(&content);
    let range = |upload: &str| registry.send("GET", upload, &[], b"").header("range").map(str::to_owned);

    // Uploads as Docker sends them, streamed without a range. The final request may carry the last part, at the right
    // offset only.
    let upload = registry.begin("shop");
    let streamed = registry.send("PATCH", &upload, &["Transfer-Encoding: chunked"], &content[..1000]);
    assert_eq!((streamed.status, streamed.header("range")), (202, Some("0-999")), "{streamed:?}");
    let end = |from: usize| {
        let header = format!("Content-Range: {from}-{}", content.len() - 1);
        registry.send("PUT", &format!("{upload}?digest={name}"), &[&header], &content[from..])
    };
    let gap = end(2000);
    assert_eq!((gap.status, gap.code().as_str()), (416, "BLOB_UPLOAD_INVALID"), "{gap:?}");
    assert_eq!(end(1000).status, 201);
    let upload = registry.begin("shop");
    let late = registry.send("PATCH", &upload, &["Content-Range: 10-19"], b"0123456789");
    assert_eq!((late.status, late.code().as_str()), (416, "BLOB_UPLOAD_INVALID"), "the first part is not the first");

    // A connection that breaks, and a client that vanishes silently: the next request resumes after the received
    // bytes.
    for silent in [false, true] {
        let upload = registry.begin("shop");
        let stream = half_sent(&cluster, &upload, "", content.len(), &content[..SENT]);
        cluster.wait("it has come", |cluster| {
            let came =
                std::fs::read_dir(cluster.path("data/server/blobs/uploads")).is_ok_and(|mut all| all.next().is_some());
            came.then_some(())
        });
        let kept = silent.then(|| stream.try_clone().expect("another"));
        if !silent {
            // The kernel resets the connection, because the server has not read all the data.
            drop(stream);
        }
        let begun = std::time::Instant::now();
        let from: usize = cluster.wait("the registry reports the received bytes", |_| {
            let received = range(&upload)?;
            let last: usize = received.strip_prefix("0-")?.parse().ok()?;
            (last > 0).then_some(last + 1)
        });
        assert!(begun.elapsed() < Duration::from_secs(5), "the one before was waited for");
        assert!(from <= SENT, "{from}");
        let header = format!("Content-Range: {from}-{}", content.len() - 1);
        assert_eq!(registry.send("PATCH", &upload, &[&header], &content[from..]).status, 202);
        let done = registry.send("PUT", &format!("{upload}?digest={name}"), &[], b"");
        assert_eq!(done.status, 201, "{done:?}");
        drop(kept);
    }
    assert_eq!(registry.send("GET", &format!("shop/blobs/{name}"), &[], b"").body.as_bytes(), content);

    // A repository has a limit of simultaneous uploads. Errors have the specified form, also for unauthorized
    // clients.
    let all: Vec<RegistryResponse> = (0..60).map(|_| registry.send("POST", "shop/blobs/uploads/", &[], b"")).collect();
    let too_many: Vec<&RegistryResponse> = all.iter().filter(|answer| answer.status != 202).collect();
    assert!((10..=60).contains(&too_many.len()), "{}", too_many.len());
    assert!(too_many.iter().all(|answer| (answer.status, answer.code().as_str()) == (429, "TOOMANYREQUESTS")));
    let nobody = Registry { cluster: &cluster, token: "gantry_nonsense".to_owned() };
    let reader = cluster.gantry(&["token", "create", "eyes", "--read"]).good().out.trim().to_owned();
    let reader = Registry { cluster: &cluster, token: reader };
    for (who, status, code) in [(&nobody, 401, "UNAUTHORIZED"), (&reader, 403, "DENIED")] {
        let answer = who.send("POST", "shop/blobs/uploads/", &[], b"");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    }
    // An image without layers is valid.
    let empty = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": name, "size": content.len() } });
    let put = registry.send("PUT", "shop/manifests/empty", &[], empty.to_string().as_bytes());
    assert_eq!(put.status, 201, "{put:?}");
    let after = registry.send("GET", "shop/tags/list?last=a", &[], b"");
    assert!(after.status == 200 && after.body.contains("\"empty\""), "{after:?}");
}

/// A client that pushes and pulls on its own connection.
struct Pusher {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    token: String,
    /// True if the client checks for a blob before the upload.
    checks_first: bool,
    /// Pause between an image's blobs and its manifest, as with larger images. Garbage collection runs meanwhile.
    pause: Duration,
    request_count: usize,
    /// Paths and contents of the last three images, which have a tag each and must stay available.
    kept: Vec<(String, Vec<u8>)>,
}

impl Pusher {
    async fn connect(port: u16, token: String, checks_first: bool, pause: Duration) -> Self {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self { sender, token, checks_first, pause, request_count: 0, kept: Vec::new() }
    }

    async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Bytes) {
        self.request_count += 1;
        let request = http::Request::builder().method(method).uri(format!("/v2/shop/{path}")).header("host", "x");
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
        self.sender.ready().await.expect("a connection");
        let answer = self.sender.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.expect("a body").to_bytes())
    }

    /// Pushes an image as clients do, and pulls that image and the two before. Returns the first missing part.
    async fn image(&mut self, tag: &str, config: &[u8], layer: &[u8]) -> Option<String> {
        for content in [config, layer] {
            let digest = digest(content);
            if !self.checks_first || self.send("HEAD", &format!("blobs/{digest}"), b"").await.0 == 404 {
                let (status, text) = self.send("POST", &format!("blobs/uploads/?digest={digest}"), content).await;
                assert_eq!(status, 201, "{text:?}");
            }
        }
        tokio::time::sleep(self.pause).await;
        let text = manifest(&digest(config), config.len(), &digest(layer), layer.len());
        let (status, body) = self.send("PUT", &format!("manifests/{tag}"), text.as_bytes()).await;
        if status != 201 {
            return Some(format!("{status} {body:?}"));
        }
        for (path, content) in [
            (format!("manifests/{tag}"), text.as_bytes()),
            (format!("blobs/{}", digest(config)), config),
            (format!("blobs/{}", digest(layer)), layer),
        ] {
            self.kept.push((path, content.to_vec()));
        }
        self.kept.drain(..self.kept.len().saturating_sub(9));
        for (path, content) in self.kept.clone() {
            let (status, body) = self.send("GET", &path, b"").await;
            if status != 200 || body != content {
                return Some(format!("{path}: {status}"));
            }
        }
        None
    }
}

/// Pushes, overwrites tags and pulls while garbage collection runs. Returns the lost parts, the number of requests,
/// and the number of blobs left. Ends after `turns` turns of each client, or at the first loss.
fn race(grace: &str, turns: u64, pause: Duration) -> (Vec<String>, usize, usize) {
    const CLIENTS: u64 = 4;
    let cluster = TestCluster::start(&["--collect-every", "1", "--collect-grace", grace]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut lost, mut request_count) = (Vec::new(), 0);
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    runtime.block_on(async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (port, token, over) = (cluster.api_port(), cluster.token(), std::sync::Arc::clone(&over));
                tokio::spawn(async move {
                    let mut pusher = Pusher::connect(port, token, client % 2 == 0, pause).await;
                    let mut lost = Vec::new();
                    for turn in 0..turns {
                        if over.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        // A few layers recur, and several clients share them.
                        let layer = format!("layer {}", (client * 3 + turn) % 30).repeat(1000);
                        let config = format!("{{\"client\":{client},\"turn\":{turn}}}");
                        let tag = format!("t{client}-{}", turn % 3);
                        lost.extend(pusher.image(&tag, config.as_bytes(), layer.as_bytes()).await);
                        over.fetch_or(!lost.is_empty(), std::sync::atomic::Ordering::Relaxed);
                    }
                    (lost, pusher.request_count)
                })
            })
            .collect();
        for client in clients {
            let (of_client, count) = client.await.expect("it went on");
            lost.extend(of_client);
            request_count += count;
        }
    });
    // Garbage collection removes unreferenced blobs in the end: each tag has one image, of two blobs and a manifest.
    let named = usize::try_from(CLIENTS * 3 * 3).expect("small");
    let mut left = 0;
    if lost.is_empty() {
        cluster.wait("what was overwritten is collected", |cluster| {
            let mut find = Command::new("find");
            find.arg(cluster.path("data/server/blobs/sha256")).args(["-type", "f", "-size", "-100k"]);
            left = gantry_testbed::run(find).out.lines().count();
            (left <= named + 10).then_some(())
        });
    }
    (lost, request_count, left)
}

#[test]
fn garbage_collection_keeps_blobs_of_running_pushes() {
    let (lost, request_count, _) = race("2", 120, Duration::from_millis(25));
    assert!(request_count >= 2000, "{request_count}");
    assert!(lost.is_empty(), "{} of {request_count}: {lost:?}", lost.len());
    // Mutation test: without a grace period blobs are lost. Garbage collection runs each second, and each image takes
    // longer.
    let (lost, ..) = race("0", 60, Duration::from_millis(1200));
    assert!(!lost.is_empty(), "nothing was lost without a grace");
}
