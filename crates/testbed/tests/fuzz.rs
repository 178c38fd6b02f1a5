//! Fuzz test of every operation that the API describes: thousands of requests outside the description must not cause
//! a server error.

mod site;

use std::time::Duration;

use bytes::Bytes;
use gantry_testbed::TestCluster;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use site::{page, push_site, site};

/// Number of requests; ten times as many in the long run.
const REQUESTS: usize = 3000;

/// Operations left out. These fetch from the network and report its faults; tests of their own cover them.
const LEFT_OUT: [(&str, &str); 3] =
    [("POST", "/v1/apps/{app}/pull"), ("POST", "/v1/bases/{name}/pull"), ("POST", "/v1/bases/{name}")];

/// Texts with a chance to break a parser.
const TEXTS: [&str; 26] = [
    "",
    "shop",
    "ghost",
    "web",
    "main",
    "v1",
    "-1",
    "0",
    "18446744073709551616",
    "1e999",
    "..",
    "../../etc/passwd",
    "%00",
    "a%2fb",
    "\u{0}",
    "\n",
    "é",
    "\u{202e}",
    "\u{1f6a2}",
    "' OR 1=1 --",
    "$(id)",
    "{{7*7}}",
    "<script>",
    "sha256:0",
    "null",
    "true",
];

fn text(rng: &mut StdRng) -> String {
    match rng.random_range(0..6) {
        0 => "x".repeat(rng.random_range(0..3000)),
        1 => (0..rng.random_range(0..30)).map(|_| rng.random::<char>()).collect(),
        _ => (*TEXTS.choose(rng).expect("some")).to_owned(),
    }
}

fn value(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..if depth > 3 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<i64>()),
        3 => json!(rng.random::<f64>() * 1e300),
        4 => json!(u64::MAX),
        5 => json!(text(rng)),
        6 => json!((0..rng.random_range(0..5)).map(|_| value(rng, depth + 1)).collect::<Vec<_>>()),
        7 => json!(
            (0..rng.random_range(0..5))
                .map(|_| (text(rng), value(rng, depth + 1)))
                .collect::<std::collections::BTreeMap<_, _>>()
        ),
        _ => (0..200).fold(json!(1), |inner, _| json!([inner])),
    }
}

/// The described body with some fields changed, left out or added.
fn changed(sample: &Value, rng: &mut StdRng) -> Value {
    if rng.random_ratio(1, 5) {
        return value(rng, 0);
    }
    match sample {
        Value::Object(fields) => {
            let mut kept = serde_json::Map::new();
            for (name, inner) in fields {
                if !rng.random_ratio(1, 6) {
                    kept.insert(name.clone(), changed(inner, rng));
                }
            }
            if rng.random_ratio(1, 6) {
                kept.insert(text(rng), value(rng, 1));
            }
            Value::Object(kept)
        }
        Value::Array(items) => items.iter().map(|item| changed(item, rng)).collect(),
        other => other.clone(),
    }
}

/// Percent-encodes a text for an address, except the unreserved characters.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_causes_an_internal_server_error() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let count = REQUESTS * if long { 10 } else { 1 };
    // The default seed is fixed, so that a failure comes from a change of the code. The long run and
    // `GANTRY_TEST_SEED` use other seeds.
    let seed = std::env::var("GANTRY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| if long { rand::random() } else { 1 });
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = TestCluster::start(&[]);
    push_site(&site(&cluster, "shop", 1), "one");
    let document = {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", &format!("http://127.0.0.1:{}/v1/openapi.json", cluster.api_port())]);
        gantry_testbed::run(curl).good().out
    };
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let operations: Vec<(String, String, Value)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().expect("methods").iter().map(move |(method, operation)| {
                let sample = operation["requestBody"]["content"]["application/json"]["example"].clone();
                (path.clone(), method.to_uppercase(), sample)
            })
        })
        .filter(|(path, method, _)| !LEFT_OUT.contains(&(method, path)))
        .collect();
    assert!(operations.len() >= 27, "{} {operations:?}", operations.len());
    let token = |arguments: &[&str]| cluster.gantry(arguments).good().out.trim().to_owned();
    let tokens = [
        cluster.token(),
        cluster.token(),
        token(&["token", "create", "ci", "--deploy", "shop"]),
        token(&["token", "create", "eyes", "--read"]),
        std::fs::read_to_string(cluster.path("data/machine-token")).expect("a token").trim().to_owned(),
        "nonsense".to_owned(),
    ];
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", cluster.api_port())).await.expect("connected");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for number in 0..count {
        let (path, method, sample) = operations.choose(&mut rng).expect("some");
        let mut address: String = path
            .split('/')
            .map(|part| match part.starts_with('{') {
                true if rng.random_ratio(1, 2) => "shop".to_owned(),
                true => encoded(&text(&mut rng)),
                false => part.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("/");
        // The last assertion needs this app, under this name.
        let loses_shop = [("DELETE", "/v1/apps/shop"), ("POST", "/v1/apps/shop/rename")];
        if loses_shop.contains(&(method.as_str(), address.as_str())) {
            continue;
        }
        if rng.random_ratio(1, 3) {
            let name = ["app", "instance", "lines", "since", "role", "grep", "follow", "hold", "after"]
                .choose(&mut rng)
                .expect("some");
            // A followed log never ends.
            let value = if *name == "follow" { "x".to_owned() } else { encoded(&text(&mut rng)) };
            address.push_str(&format!("?{name}={value}"));
        }
        let body = match rng.random_range(0..10) {
            0 => Bytes::new(),
            1 => Bytes::from((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()).collect::<Vec<_>>()),
            _ => Bytes::from(changed(sample, &mut rng).to_string()),
        };
        let request = Request::builder()
            .method(method.as_str())
            .uri(&address)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {}", tokens.choose(&mut rng).expect("some")))
            .body(Full::new(body.clone()))
            .expect("a request");
        let request_text =
            || format!("seed {seed}, request {number}: {method} {address} {:?}", String::from_utf8_lossy(&body));
        let answer = tokio::time::timeout(Duration::from_secs(30), sender.send_request(request)).await;
        let answer = answer
            .unwrap_or_else(|_| panic!("no answer: {}", request_text()))
            .unwrap_or_else(|e| panic!("{e}: {}", request_text()));
        let status = answer.status().as_u16();
        let text = answer.into_body().collect().await.unwrap_or_else(|e| panic!("{e}: {}", request_text())).to_bytes();
        assert!(status < 500, "{status} {}: {}", String::from_utf8_lossy(&text), request_text());
        *statuses.entry(status).or_default() += 1;
        sender.ready().await.unwrap_or_else(|e| panic!("{e}: {}", request_text()));
    }
    println!("seed {seed}: {statuses:?}");
    assert!(statuses.len() >= 3 && statuses[&200] > count / 50, "{statuses:?}");
    // After all requests the app serves again, once pause, maintenance and limits are lifted.
    for change in [&["resume", "shop"][..], &["maintenance", "off", "shop"], &["limit", "shop"]] {
        let _ = cluster.gantry(change).good();
    }
    cluster.wait("the app serves", |cluster| page(cluster, "shop").starts_with("one").then_some(()));
}
