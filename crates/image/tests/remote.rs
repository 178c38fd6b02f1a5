//! Tests of hostile registries: their responses are refused soon and with a message. Only blobs with correct digests
//! stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use gantry_blobs::{BlobError, BlobStore};
use gantry_image::{NoRoom, PullIdentity, PullTarget, Remote, pull};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The response for a path: head, body, and whether the body repeats without end.
#[derive(Clone)]
struct Reply {
    head: String,
    body: Vec<u8>,
    endless: bool,
}

fn reply(status: &str, fields: &str, body: impl Into<Vec<u8>>) -> Reply {
    let body = body.into();
    let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    Reply { head, body, endless: false }
}

fn ok(body: impl Into<Vec<u8>>) -> Reply {
    reply("200 OK", "", body)
}

fn endless(byte: u8) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
    Reply { head, body: vec![byte; 1 << 16], endless: true }
}

fn raw(bytes: &str) -> Reply {
    Reply { head: bytes.to_owned(), body: Vec::new(), endless: false }
}

type Pages = BTreeMap<String, Reply>;

/// Starts a registry on its own port. `ADDRESS` in its responses stands for its address. A path outside `pages` returns
/// 404.
async fn registry(pages: Pages) -> String {
    serve(move |path, _| pages.get(path).cloned()).await
}

/// Starts a registry with a function from path and request head to a response; none means 404.
async fn serve(answer: impl Fn(&str, &str) -> Option<Reply> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (answer, own) = (Arc::new(answer), address.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, own) = (Arc::clone(&answer), own.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
                let answer = answer(path, &head).unwrap_or_else(|| reply("404 Not Found", "", ""));
                stream.write_all(answer.head.replace("ADDRESS", &own).as_bytes()).await?;
                loop {
                    stream.write_all(&answer.body).await?;
                    if !answer.endless {
                        return Ok::<_, std::io::Error>(());
                    }
                }
            });
        }
    });
    address
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() })
}

/// Builds a valid image of one layer: its parts, and the pages that serve the image.
fn image() -> (Vec<u8>, Vec<u8>, Value, Pages) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    tar.append_data(&mut header, "a", &b"x"[..]).expect("added");
    let layer = tar.into_inner().expect("a tar file");
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] } });
    let config = config.to_string().into_bytes();
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)] });
    let pages = BTreeMap::from([
        ("/v2/shop/manifests/1".to_owned(), ok(manifest.to_string())),
        (format!("/v2/shop/blobs/{}", digest(&config)), ok(config.clone())),
        (format!("/v2/shop/blobs/{}", digest(&layer)), ok(layer.clone())),
    ]);
    (config, layer, manifest, pages)
}

/// Pulls `shop:1` from these pages and returns the result.
async fn pull_result(pages: Pages) -> Result<String, String> {
    pull_result_of(&registry(pages).await).await
}

/// A folder of blobs with room for 1 GiB.
struct Target(BlobStore);

impl PullTarget for Target {
    type Error = BlobError;

    async fn is_intact(&self, digest: &gantry_model::Digest) -> Result<bool, BlobError> {
        self.0.is_intact(digest).await
    }

    async fn check_room(&self, bytes: u64) -> Result<(), NoRoom> {
        if bytes < 1 << 30 { Ok(()) } else { Err(NoRoom(format!("there is no room for {bytes} bytes").into())) }
    }

    async fn put_stream(
        &self,
        digest: &gantry_model::Digest,
        pieces: BoxStream<'_, std::io::Result<Bytes>>,
    ) -> Result<(), BlobError> {
        self.0.put_stream(pieces, Some(digest)).await.map(drop)
    }

    async fn put(&self, _: &gantry_model::Digest, document: Bytes) -> Result<(), BlobError> {
        self.0.put(document).await.map(drop)
    }

    async fn read(&self, digest: &gantry_model::Digest) -> Result<Bytes, BlobError> {
        self.0.read(digest).await
    }
}

/// Pulls `shop:1` from the registry at the address and returns the result.
async fn pull_result_of(address: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target(BlobStore::in_folder(folder.path()).expect("blobs"));
    let blobs = &target.0;
    let remote = Remote::parse(&format!("{address}/shop:1")).expect("a reference").expect("with a registry");
    let begun = Instant::now();
    let identity = PullIdentity { credentials: None, own: Some("mine") };
    let pulled = tokio::time::timeout(Duration::from_secs(20), pull(&remote, identity, &target, |_| ())).await;
    let pulled = pulled.unwrap_or_else(|_| panic!("no answer after {:?}", begun.elapsed()));
    for (digest, _) in blobs.list().await.expect("listed") {
        blobs.read(&digest).await.expect("it is what its name says");
    }
    match pulled {
        Ok(digest) => {
            blobs.read(&digest).await.expect("it is there");
            Ok(digest.to_string())
        }
        Err(error) => {
            let behind = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            Err(std::iter::once(error.to_string())
                .chain(behind.map(ToString::to_string))
                .collect::<Vec<_>>()
                .join(": "))
        }
    }
}

#[tokio::test]
async fn refuses_a_hostile_registry_with_the_reason() {
    let (config, layer, manifest, pages) = image();
    // Sanity check: a pull of the same image from an honest registry succeeds.
    assert_eq!(pull_result(pages.clone()).await, Ok(digest(manifest.to_string().as_bytes())));

    let page = "/v2/shop/manifests/1";
    let layer_page = format!("/v2/shop/blobs/{}", digest(&layer));
    let with = |path: &str, answer: Reply| {
        let mut pages = pages.clone();
        pages.insert(path.to_owned(), answer);
        pages
    };
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        with(page, ok(manifest.to_string()))
    };
    let index_of = |digest: &str, size: usize| {
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "platform": { "architecture": "amd64", "os": "linux" } }] })
        .to_string()
    };
    let mut nested = pages.clone();
    let mut top = index_of(&digest(b"nothing"), 7);
    for _ in 0..9 {
        nested.insert(format!("/v2/shop/manifests/{}", digest(top.as_bytes())), ok(top.clone()));
        top = index_of(&digest(top.as_bytes()), top.len());
    }
    nested.insert(page.to_owned(), ok(top));
    let mut other = with(page, ok(index_of(&digest(b"nothing"), 7)));
    other.insert(format!("/v2/shop/manifests/{}", digest(b"nothing")), ok(manifest.to_string()));
    let challenge = |realm: &str| {
        let field = format!("www-authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n");
        with(page, reply("401 Unauthorized", &field, ""))
    };
    let token = |answer: Reply| {
        let mut pages = challenge("http://ADDRESS/token");
        pages.insert("/token".to_owned(), answer);
        pages
    };
    let cases: Vec<(&str, Pages, &str)> = vec![
        ("a manifest without end", with(page, endless(b' ')), "longer than 4194304 bytes"),
        ("a manifest of 100 MB", with(page, ok(vec![b' '; 100 << 20])), "longer than 4194304 bytes"),
        ("a manifest that is text", with(page, ok("hello")), "manifest"),
        ("a manifest that is nested too deeply", with(page, ok("[".repeat(100_000))), "manifest"),
        ("ten indexes, one in the other", nested, "nested more than 5 deep"),
        (
            "an artifact",
            changed(&|m| {
                m["artifactType"] = json!("application/x-sbom");
                m["config"] = descriptor("empty.v1+json", b"{}");
            })
            .into_iter()
            .chain([(format!("/v2/shop/blobs/{}", digest(b"{}")), ok("{}"))])
            .collect(),
            "an artifact of type application/x-sbom",
        ),
        ("another manifest than the index names", other, "was asked for"),
        (
            "no image for this machine",
            with(page, ok(r#"{"schemaVersion":2,"manifests":[]}"#)),
            "no image for this machine",
        ),
        (
            "sizes whose sum is larger than any number",
            changed(&|m| {
                m["layers"] = json!([m["layers"][0], m["layers"][0]]);
                m["layers"][0]["size"] = json!(u64::MAX);
                m["layers"][1]["size"] = json!(u64::MAX);
                m["layers"][1]["digest"] = json!(digest(b"other"));
            }),
            "",
        ),
        (
            "more than there is room for",
            changed(&|m| m["layers"][0]["size"] = json!(1_u64 << 30)),
            "there is no room for",
        ),
        ("a negative size", changed(&|m| m["layers"][0]["size"] = json!(-1)), "manifest"),
        ("20,000 layers", changed(&|m| m["layers"] = json!(vec![m["layers"][0].clone(); 20_000])), ""),
        (
            "a digest that leads out",
            changed(&|m| m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")),
            "manifest",
        ),
        (
            "a blob that is longer than it should be",
            with(&layer_page, ok([&layer[..], b"x"].concat())),
            "longer than its manifest says",
        ),
        ("a blob without end", with(&layer_page, endless(0)), "longer than its manifest says"),
        ("a blob that is cut", with(&layer_page, ok(&layer[..layer.len() - 1])), "sha256"),
        ("a blob with another content", with(&layer_page, ok(vec![7; layer.len()])), "sha256"),
        ("a blob that is not there", with(&layer_page, reply("404 Not Found", "", "")), "404"),
        (
            "a connection that ends in a blob",
            with(&layer_page, raw("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\nx")),
            "",
        ),
        (
            "a configuration of more layers than there are",
            {
                let twice = format!("\"{0}\",\"{0}\"", digest(&layer));
                let config = String::from_utf8(config.clone())
                    .expect("text")
                    .replace(&format!("\"{}\"", digest(&layer)), &twice);
                let mut pages = changed(&|m| m["config"] = descriptor("config.v1+json", config.as_bytes()));
                pages.insert(format!("/v2/shop/blobs/{}", digest(config.as_bytes())), ok(config.clone()));
                pages
            },
            "layers",
        ),
        (
            "a redirection in a circle",
            with(page, reply("302 Found", "location: /v2/shop/manifests/1\r\n", "")),
            "cannot be reached",
        ),
        ("a redirection to a file", with(page, reply("302 Found", "location: file:///etc/passwd\r\n", "")), ""),
        ("a token without end", token(endless(b' ')), "longer than 65536 bytes"),
        ("no token", token(ok("{}")), "sent no token"),
        ("a token that does not help", token(ok(r#"{"token":"x"}"#)), "401"),
        ("a token that is no header", token(ok(r#"{"token":"x\r\ny: z"}"#)), ""),
        ("a challenge that leads to a file", challenge("file:///etc/passwd"), ""),
        (
            "a challenge without a realm",
            with(page, reply("401 Unauthorized", "www-authenticate: Bearer x\r\n", "")),
            "realm",
        ),
        ("another protocol", with(page, raw("SSH-2.0-OpenSSH_9.2\r\n")), "cannot be reached"),
        ("nothing", with(page, raw("")), "cannot be reached"),
        ("a fault of its own", with(page, reply("500 Internal Server Error", "", "")), "500"),
        ("an answer without content", with(page, raw("HTTP/1.1 204 No Content\r\n\r\n")), "manifest"),
        (
            "a thousand header fields",
            with(page, raw(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1000)))),
            "",
        ),
    ];
    assert!(cases.len() >= 30, "{}", cases.len());
    for (name, pages, expected) in cases {
        let why = pull_result(pages).await.expect_err(name);
        assert!(why.contains(expected), "{name}: {why}");
    }
}

#[tokio::test]
async fn an_image_behind_nested_indexes_is_pulled() {
    let (_, _, manifest, mut pages) = image();
    let manifest = manifest.to_string();
    let mut top = manifest.clone();
    for platform in [None, Some("linux"), Some("linux")] {
        pages.insert(format!("/v2/shop/manifests/{}", digest(top.as_bytes())), ok(top.clone()));
        let mut entry = json!({ "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest(top.as_bytes()), "size": top.len() });
        if let Some(os) = platform {
            let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        let attestation = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(b"x"),
            "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } });
        top = json!({ "schemaVersion": 2, "manifests": [attestation, entry] }).to_string();
    }
    pages.insert("/v2/shop/manifests/1".to_owned(), ok(top));
    assert_eq!(pull_result(pages).await, Ok(digest(manifest.as_bytes())));
}

#[tokio::test]
async fn a_token_that_expires_during_a_pull_is_asked_for_anew() {
    let (_, _, manifest, pages) = image();
    let manifest = manifest.to_string();
    let tokens = Arc::new(AtomicUsize::new(0));
    let (count, text) = (Arc::clone(&tokens), manifest.clone());
    let address = serve(move |path, head| {
        if path == "/token" {
            // The first token is valid only for the manifest.
            return Some(ok(format!(r#"{{"token":"t{}"}}"#, count.fetch_add(1, Ordering::SeqCst))));
        }
        let expected = if path.contains("/blobs/") { "bearer t1" } else { "bearer t" };
        if !head.contains(expected) {
            return Some(reply("401 Unauthorized", "www-authenticate: Bearer realm=\"http://ADDRESS/token\"\r\n", ""));
        }
        pages.get(path).cloned()
    })
    .await;
    assert_eq!(pull_result_of(&address).await, Ok(digest(text.as_bytes())));
    assert_eq!(tokens.load(Ordering::SeqCst), 2, "transfers at once share a token");

    // A token that never helps is requested once per request, and not without end.
    let (_, _, _, pages) = image();
    let address = serve(move |path, head| match path {
        "/token" => Some(ok(r#"{"token":"t"}"#)),
        _ if path.contains("/blobs/") || !head.contains("bearer t") => {
            Some(reply("401 Unauthorized", "www-authenticate: Bearer realm=\"http://ADDRESS/token\"\r\n", ""))
        }
        _ => pages.get(path).cloned(),
    })
    .await;
    let why = pull_result_of(&address).await.expect_err("refused");
    assert!(why.contains("blob sha256:") && why.contains("401"), "{why}");
}

#[tokio::test]
async fn resumes_an_interrupted_transfer() {
    for ranges in [true, false] {
        let (_, layer, manifest, pages) = image();
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (heard, page) = (Arc::clone(&asked), format!("/v2/shop/blobs/{}", digest(&layer)));
        let address = serve(move |path, head| {
            if path != page {
                return pages.get(path).cloned();
            }
            let begin = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
            let begin: usize = begin.map_or(0, |begin| begin.parse().expect("a number"));
            heard.lock().expect("not poisoned").push(begin);
            let from = if ranges { begin } else { 0 };
            // Each response sends a thousand bytes more.
            let end = layer.len().min(begin + 1000);
            let status = if ranges && begin > 0 { "206 Partial Content" } else { "200 OK" };
            let told = if ranges {
                format!("content-range: bytes {begin}-{}/{}\r\n", layer.len() - 1, layer.len())
            } else {
                String::new()
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{told}content-length: {}\r\nconnection: close\r\n\r\n",
                layer.len() - from
            );
            Some(Reply { head, body: layer[from..end].to_vec(), endless: false })
        })
        .await;
        assert_eq!(pull_result_of(&address).await, Ok(digest(manifest.to_string().as_bytes())), "{ranges}");
        assert_eq!(*asked.lock().expect("not poisoned"), [0, 1000, 2000], "{ranges}");
    }
}

#[tokio::test]
async fn retries_a_busy_registry() {
    let (_, _, manifest, pages) = image();
    let asked = AtomicUsize::new(0);
    let address = serve(move |path, _| {
        let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Some(reply("429 Too Many Requests", "", "")) } else { pages.get(path).cloned() }
    })
    .await;
    assert_eq!(pull_result_of(&address).await, Ok(digest(manifest.to_string().as_bytes())));
}

#[tokio::test]
async fn the_clouds_own_registry_is_known_by_its_answer() {
    let own = serve(|_, _| Some(reply("401 Unauthorized", "gantry-registry: mine\r\n", ""))).await;
    assert_eq!(pull_result_of(&own).await, Err(format!("{own}/shop:1 is in this cloud's own registry")));
    let other = serve(|_, _| Some(reply("401 Unauthorized", "gantry-registry: other\r\n", ""))).await;
    assert!(pull_result_of(&other).await.expect_err("refused").contains("the registry answered 401"));
}
