//! Signed results of jobs, and pushed messages, across the death of the server: receivers get each at least once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use gantry_testbed::{TestCluster, run};
use serde_json::Value;

/// A request as the receiver got it.
#[derive(Debug, Clone)]
struct Received {
    headers: BTreeMap<String, String>,
    body: String,
}

/// A receiver on loopback. `status` gives the status of each request, by its number from 0.
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    fn start(status: fn(usize) -> u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let url = format!("http://{}/in?token=secret", listener.local_addr().expect("an address"));
        let received = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                // A connection that breaks is a killed server's.
                std::thread::spawn(move || serve(stream, &all, status));
            }
        });
        Self { url, received }
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().expect("unlocked").clone()
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<Received>>, status: fn(usize) -> u16) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let number = {
            let mut all = all.lock().expect("unlocked");
            all.push(Received { headers, body: String::from_utf8(body).ok()? });
            all.len() - 1
        };
        write!(writer, "HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", status(number)).ok()?;
    }
}

/// A cluster with an app whose jobs run shell scripts, which may reach receivers on loopback.
fn cluster() -> TestCluster {
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let shop = cluster.repository("shop", None);
    shop.write("container/roles.json", "{ worker: { command: 'sleep 100000', instances: 0 } }");
    shop.commit("one");
    let _ = shop.push().good();
    let _ = cluster.gantry(&["cluster", "policy", "set", "callback-private-addresses=127.0.0.1"]).good();
    cluster
}

/// Queues a job with a callback; returns its number.
fn queue(cluster: &TestCluster, receiver: &Receiver, script: &str) -> String {
    let command = ["job", "run", "shop/worker", "--callback", &receiver.url, "--", "/bin/sh", "-c", script];
    cluster.gantry(&command).good().out.trim().to_owned()
}

fn show(cluster: &TestCluster, job: &str) -> Value {
    serde_json::from_str(&cluster.gantry(&["job", "show", job, "--json"]).out).unwrap_or_default()
}

/// The HMAC-SHA256 of a text, by OpenSSL.
fn hmac(key: &str, text: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-hmac", key]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("openssl");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    String::from_utf8(output.stdout).expect("text").split_whitespace().last().expect("a digest").to_owned()
}

/// The time and the signatures of a request.
fn signatures(received: &Received) -> (String, Vec<String>) {
    let mut parts = received.headers["gantry-signature"].split(',');
    let time = parts.next().and_then(|part| part.strip_prefix("t=")).expect("a time").to_owned();
    (time, parts.map(|part| part.strip_prefix("v1=").expect("a signature").to_owned()).collect())
}

fn is_signed_by(received: &Received, key: &str) -> bool {
    let (time, all) = signatures(received);
    all.contains(&hmac(key, &format!("{time}.{}", received.body)))
}

#[test]
fn a_result_is_signed_retried_and_shown() {
    let cluster = cluster();
    let receiver = Receiver::start(|number| if number == 0 { 503 } else { 204 });
    let job = queue(&cluster, &receiver, "exit 3");
    let shown = cluster.wait("the result is delivered", |cluster| {
        Some(show(cluster, &job)).filter(|shown| shown["callback"]["state"] == "delivered")
    });
    assert_eq!((&shown["callback"]["attempts"], &shown["callback"]["status"]), (&Value::from(2), &Value::from(204)));
    assert!(!shown.to_string().contains("secret"), "{shown}");
    let text = cluster.gantry(&["job", "show", &job]).good().out;
    assert!(text.contains("delivered, 2 attempts") && !text.contains("secret"), "{text}");
    let received = receiver.all();
    assert_eq!(received.len(), 2, "{received:?}");
    let result: Value = serde_json::from_str(&received[1].body).expect("JSON");
    assert_eq!(result["id"].to_string(), job);
    assert_eq!((&result["queue"], &result["state"]), (&Value::from("shop/worker"), &Value::from("failed")));
    assert_eq!((&result["exit_status"], &result["note"]), (&Value::from(3), &Value::from("exited with 3")));
    assert!(result["duration_millis"].as_u64().is_some() && result["ended"].as_u64() > Some(0), "{result}");
    let key = cluster.gantry(&["job", "key", "shop"]).good().out.trim().to_owned();
    assert!(received.iter().all(|received| is_signed_by(received, &key)), "{received:?}");
    assert_eq!(received[0].headers["gantry-delivery"], received[1].headers["gantry-delivery"]);
    assert!(!cluster.log().contains("token=secret") && !cluster.log().contains(&key));
    // After a rotation, both keys sign. A cancelled job has a result as well.
    let new = cluster.gantry(&["job", "key", "shop", "--rotate"]).good().out.trim().to_owned();
    assert_ne!(new, key);
    let job = queue(&cluster, &receiver, "sleep 100");
    let _ = cluster.gantry(&["job", "cancel", &job]).good();
    let cancelled = cluster.wait("the second result", |_| receiver.all().get(2).cloned());
    assert!(is_signed_by(&cancelled, &new) && is_signed_by(&cancelled, &key), "{cancelled:?}");
    assert!(cancelled.body.contains("\"state\":\"cancelled\""), "{cancelled:?}");
    // An invalid receiver URL queues no job.
    for (url, why) in [("http://10.0.0.1/", "callback-private-addresses"), ("file:///etc/passwd", "http://")] {
        let refused = cluster.gantry(&["job", "run", "shop/worker", "--callback", url]);
        assert!(refused.status != 0 && refused.all().contains(why), "{url}: {}", refused.all());
    }
}

#[test]
fn a_name_that_leads_to_a_private_address_gets_no_request() {
    let cluster = cluster();
    let receiver = Receiver::start(|_| 200);
    let _ = cluster.gantry(&["cluster", "policy", "unset", "callback-private-addresses"]).good();
    let named =
        Receiver { url: receiver.url.replace("127.0.0.1", "localhost"), received: Arc::clone(&receiver.received) };
    let job = queue(&cluster, &named, "true");
    let shown = cluster.wait("the address is refused", |cluster| {
        Some(show(cluster, &job)).filter(|shown| shown["callback"]["error"].is_string())
    });
    let error = shown["callback"]["error"].as_str().expect("an error");
    assert!(error.contains("private address") && error.contains("callback-private-addresses"), "{error}");
    assert!(receiver.all().is_empty());
    // Once the policy allows the address, the next try succeeds.
    let _ = cluster.gantry(&["cluster", "policy", "set", "callback-private-addresses=127.0.0.0/8,::1"]).good();
    cluster.wait("the result is delivered", |_| (!receiver.all().is_empty()).then_some(()));
}

#[test]
fn the_death_of_the_server_loses_no_result_and_no_message() {
    let cluster = cluster();
    cluster.make_failpoints();
    let receiver = Receiver::start(|_| 200);
    // Taken and not sent; sent and not recorded; recorded as ended and not taken.
    for failpoint in ["delivery.taken", "delivery.sent", "job.recorded"] {
        let before = receiver.all().len();
        std::fs::write(cluster.path("failpoints/kill"), format!("{failpoint}\n")).expect("written");
        let job = queue(&cluster, &receiver, "true");
        cluster.wait(&format!("the server was killed at {failpoint}"), |cluster| {
            let killed = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
            killed.contains(failpoint).then_some(())
        });
        cluster.wait(&format!("the result after {failpoint}"), |cluster| {
            (show(cluster, &job)["callback"]["state"] == "delivered").then_some(())
        });
        let after: Vec<Received> = receiver.all().split_off(before);
        let of_job = |received: &&Received| received.body.contains(&format!("\"id\":{job},"));
        assert_eq!(after.iter().filter(of_job).count(), after.len(), "{after:?}");
        assert!((1..=2).contains(&after.len()), "{failpoint}: {after:?}");
    }
    // The same for messages, with kills at any time.
    let queues = format!("http://127.0.0.1:{}/3/projects/shop/queues", cluster.api_port());
    let curl = |method: &str, path: &str, body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", "-X", method]);
        curl.args(["-H", &format!("Authorization: OAuth {}", cluster.token()), "-H", "Content-Type: application/json"]);
        curl.args(["-d", body, &format!("{queues}{path}")]);
        let said = run(curl).good().out;
        serde_json::from_str::<Value>(&said).unwrap_or_else(|_| panic!("{said}"))
    };
    let set = serde_json::json!({ "queue": { "type": "multicast", "push": {
        "subscribers": [{ "name": "a", "url": receiver.url }, { "name": "b", "url": receiver.url }] } } });
    assert_eq!(curl("PUT", "/news", &set.to_string())["queue"]["type"], "multicast");
    let before = receiver.all().len();
    for round in 0..3 {
        for number in 0..10 {
            let body = format!(r#"{{"messages":[{{"body":"message {round}-{number}"}}]}}"#);
            assert!(curl("POST", "/news/messages", &body)["ids"].is_array());
        }
        cluster.kill_service("server");
    }
    cluster.wait("no message is left", |_| (curl("GET", "/news", "")["queue"]["size"] == 0).then_some(()));
    let after: Vec<Received> = receiver.all().split_off(before);
    for round in 0..3 {
        for number in 0..10 {
            for subscriber in ["a", "b"] {
                let is = |received: &&Received| {
                    received.body == format!("message {round}-{number}")
                        && received.headers["iron-subscriber-name"] == subscriber
                };
                assert!(after.iter().any(|received| is(&received)), "message {round}-{number} for {subscriber}");
            }
        }
    }
    // A message is in the other queue once if the server dies right after it was forwarded. The delay lets the POST
    // request end before.
    let set = serde_json::json!({ "queue": { "type": "unicast", "push": {
        "subscribers": [{ "name": "inbox", "url": "ironmq:///inbox" }] } } });
    assert_eq!(curl("PUT", "/sent", &set.to_string())["queue"]["type"], "unicast");
    std::fs::write(cluster.path("failpoints/kill"), "delivery.forwarded\n").expect("written");
    assert!(curl("POST", "/sent/messages", r#"{"messages":[{"body":"once","delay":1}]}"#)["ids"].is_array());
    cluster.wait("the server was killed at delivery.forwarded", |cluster| {
        let killed = std::fs::read_to_string(cluster.path("failpoints/killed")).unwrap_or_default();
        killed.contains("delivery.forwarded").then_some(())
    });
    cluster.wait("the message has left the queue", |_| (curl("GET", "/sent", "")["queue"]["size"] == 0).then_some(()));
    assert_eq!(curl("GET", "/inbox", "")["queue"]["total_messages"], 1);
}
