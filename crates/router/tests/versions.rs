//! The router's connection to servers of other versions.
//!
//! A server that lacks a field, a value or a message never sends it. A server that adds one sends one that this router
//! does not know. Either way the router takes the table over, acknowledges it, and keeps its connection.

mod harness;

use std::time::Duration;

use gantry_control::{LinkStream, ServerMessage, Update, UpdateSender, link, version_one};
use gantry_model::role::AppProtocol;
use gantry_model::{Generation, HostName, MachineName, RoutingTable, Seconds};
use harness::{app, ask, control_server, endpoint, full, get, router, table};
use http::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longest time until the router has done what a server waits for.
const DEADLINE: Duration = Duration::from_secs(60);

/// Host whose route differs between the versions.
const STRANGE: &str = "strange.localhost";

/// Revisions of the routes. The router begins with the first.
const REVISIONS: [u64; 3] = [1, 2, 3];

/// An observation of the server.
#[derive(Debug)]
enum Heard {
    /// The router has opened its control connection.
    Connected,
    /// A message of the router.
    Message(Value),
}

async fn talk(mut stream: LinkStream, lines: Vec<Value>, teller: mpsc::UnboundedSender<Heard>) {
    link::greet(&mut stream).await.expect("a greeting");
    let _ = teller.send(Heard::Connected);
    for line in lines {
        stream.sender.send(&line).await.expect("sent");
    }
    while let Ok(Some(message)) = stream.receiver.next().await {
        let _ = teller.send(Heard::Message(message));
    }
}

fn strange() -> HostName {
    HostName::parse(STRANGE).expect("a host")
}

/// The table of the last revision, with the strange route. An instance serves the other route at `address`.
fn last_table(address: std::net::SocketAddr) -> RoutingTable {
    let mut last = table(REVISIONS[2], vec![endpoint(1, address, AppProtocol::Http1)]);
    let mut route = last.routes.values().next().expect("a route").clone();
    route.endpoints = vec![endpoint(2, address, AppProtocol::H2c)];
    last.routes.insert(strange(), route);
    last
}

/// The tables that a server of this version sends, as two updates.
fn updates(last: &RoutingTable) -> [Update; 2] {
    let mut sender = UpdateSender::new(None);
    let [_, first, _] = REVISIONS;
    let tables = [table(first, last.routes[&host()].endpoints.clone()), last.clone()];
    tables.map(|table| sender.next(table.generation.0, &table).expect("an update"))
}

fn host() -> HostName {
    HostName::parse("shop.localhost").expect("a host")
}

fn update(update: &Update) -> Value {
    serde_json::to_value(ServerMessage::Update(update.clone())).expect("JSON")
}

/// The messages of a server of this version.
fn lines(last: &RoutingTable) -> Vec<Value> {
    let [first, second] = updates(last);
    vec![
        json!({"type": "welcome", "version": 3, "lease_millis": 10_000}),
        json!({"type": "policy", "domain": "cloud.example"}),
        update(&first),
        json!({"type": "resend"}),
        update(&second),
    ]
}

/// Changes the routes of an update.
fn change_routes(lines: &mut [Value], host: &str, change: impl Fn(&mut Value)) {
    let updates = lines.iter_mut().filter_map(|line| line.get_mut("set")?.as_object_mut());
    let routes = updates.flatten().filter(|(key, _)| key.starts_with("route/") && key.ends_with(host));
    routes.for_each(|(_, route)| change(route));
}

fn lack_fields(mut lines: Vec<Value>) -> Vec<Value> {
    change_routes(&mut lines, "", |route| {
        route.as_object_mut().expect("fields").remove("patience").expect("written");
        for endpoint in route["endpoints"].as_array_mut().expect("endpoints") {
            endpoint.as_object_mut().expect("fields").remove("protocol").expect("written");
        }
    });
    lines
}

fn add_fields(mut lines: Vec<Value>) -> Vec<Value> {
    change_routes(&mut lines, "", |route| {
        route["zone"] = json!({"name": "b"});
        route["endpoints"][0]["zone"] = json!(["b"]);
        route["patience"]["zone"] = json!(7);
    });
    for line in &mut lines {
        line["zone"] = json!("b");
    }
    lines
}

/// A server before HTTP/2 to instances.
fn lack_values(mut lines: Vec<Value>) -> Vec<Value> {
    change_routes(&mut lines, STRANGE, |route| route["endpoints"][0]["protocol"] = json!("http1"));
    lines
}

fn add_values(mut lines: Vec<Value>) -> Vec<Value> {
    change_routes(&mut lines, STRANGE, |route| route["endpoints"][0]["protocol"] = json!("http9"));
    lines
}

fn lack_messages(mut lines: Vec<Value>) -> Vec<Value> {
    lines.retain(|line| line["type"] == "welcome" || line["type"] == "update");
    lines
}

fn add_messages(lines: Vec<Value>) -> Vec<Value> {
    let news = json!({"type": "weather", "rain": {"tomorrow": true}});
    lines.into_iter().flat_map(|line| [line, news.clone()]).collect()
}

/// A server of version 1: its endpoints name instances, and no machines.
fn speak_version_one(lines: Vec<Value>) -> Vec<Value> {
    let here = MachineName::parse("m").expect("a name");
    let mut lines = lack_messages(lines);
    lines[0]["version"] = json!(1);
    for line in &mut lines[1..] {
        let ServerMessage::Update(mut change) = serde_json::from_value(line.take()).expect("a message") else {
            panic!("no update")
        };
        version_one::downgrade(&mut change, &here);
        *line = update(&change);
    }
    lines
}

/// Changes the strange route in the table that the router is to have.
type Expected = fn(&mut RoutingTable);

fn with_protocol_http1(table: &mut RoutingTable) {
    for route in table.routes.values_mut() {
        route.endpoints.iter_mut().for_each(|endpoint| endpoint.protocol = AppProtocol::Http1);
    }
}

fn without_strange_route(table: &mut RoutingTable) {
    table.routes.remove(&strange()).expect("a route");
}

/// A server that differs from this version: its name, its messages, and the table that the router is to have.
type OtherServer = (&'static str, fn(Vec<Value>) -> Vec<Value>, Expected);

const SERVERS: [OtherServer; 8] = [
    ("this version", |lines| lines, |_| ()),
    ("lacks a field", lack_fields, with_protocol_http1),
    ("adds a field", add_fields, |_| ()),
    ("lacks a value", lack_values, with_protocol_http1),
    ("adds a value", add_values, without_strange_route),
    ("lacks a message", lack_messages, |_| ()),
    ("adds a message", add_messages, |_| ()),
    ("version 1", speak_version_one, |_| ()),
];

/// Runs a router until it has acknowledged the last table of a server.
async fn follow_server((name, change, expect): OtherServer) {
    let instance = app(false, async |_| Response::new(full("served"))).await;
    let mut last = last_table(instance);
    let lines = change(lines(&last));
    expect(&mut last);
    let (teller, mut heard) = mpsc::unbounded_channel();
    let url = control_server(move |stream| talk(stream, lines.clone(), teller.clone())).await;
    let running = router(table(REVISIONS[0], Vec::new()), &url, None).await;
    let mut connections = 0;
    let acknowledged = async {
        loop {
            match heard.recv().await.expect("the server runs") {
                Heard::Connected => connections += 1,
                Heard::Message(message) if message["set"]["table"] == REVISIONS[2] => return,
                Heard::Message(_) => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, acknowledged).await.unwrap_or_else(|_| panic!("{name}: no acknowledgement"));

    assert_eq!(connections, 1, "{name}: the connection stays");
    let kept = std::fs::read(running.folder.path().join("table.json")).expect("a table");
    assert_eq!(serde_json::from_slice::<RoutingTable>(&kept).expect("a table"), last, "{name}");
    assert_eq!(harness::text(ask(running.address, get("/")).await).await, "served", "{name}");
}

#[tokio::test]
async fn follows_servers_of_other_versions() {
    for other in SERVERS {
        follow_server(other).await;
    }
}

/// A router that a server of another version has given a route keeps the route if an update of it cannot be read.
#[tokio::test]
async fn keeps_a_route_whose_update_it_cannot_read() {
    let instance = app(false, async |_| Response::new(full("served"))).await;
    let mut newer = table(REVISIONS[1], vec![endpoint(1, instance, AppProtocol::Http1)]);
    newer.routes.get_mut(&host()).expect("a route").timeouts.drain = Seconds(77);
    let complete = UpdateSender::new(None).next(newer.generation.0, &newer).expect("an update");
    let mut lines =
        vec![json!({"type": "welcome", "version": 3, "lease_millis": 10_000, "zone": "b"}), update(&complete)];
    change_routes(&mut lines, "", |route| route["endpoints"][0]["protocol"] = json!("http9"));
    let (teller, mut heard) = mpsc::unbounded_channel();
    let url = control_server(move |stream| talk(stream, lines.clone(), teller.clone())).await;
    let known = table(REVISIONS[0], vec![endpoint(1, instance, AppProtocol::Http1)]);
    let running = router(known.clone(), &url, None).await;
    while let Some(message) = tokio::time::timeout(DEADLINE, heard.recv()).await.expect("an acknowledgement") {
        if matches!(message, Heard::Message(message) if message["set"]["table"] == REVISIONS[1]) {
            break;
        }
    }
    let kept = std::fs::read(running.folder.path().join("table.json")).expect("a table");
    let kept: RoutingTable = serde_json::from_slice(&kept).expect("a table");
    assert_eq!(kept, RoutingTable { generation: Generation(REVISIONS[1]), ..known });
    assert_eq!(harness::text(ask(running.address, get("/")).await).await, "served");
}
