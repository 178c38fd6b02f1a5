//! The router's connection to servers of other versions.
//!
//! An older server never sends a field, a value or a message that it lacks. A newer server sends fields, values and
//! messages that this router does not know. In both cases the router uses the table, acknowledges the table, and keeps
//! the connection.

mod harness;

use gantry_control::{ServerMessage, Update, UpdateSender};
use gantry_fixtures::{
    ContentChanges, DEADLINE, OtherServer, Script, ServerObservation, other_servers, scripted_server,
};
use gantry_model::role::AppProtocol;
use gantry_model::{Generation, HostName, RoutingTable, Seconds};
use harness::{app, endpoint, fetch, full, get, router, table};
use http::Response;
use serde_json::{Value, json};

/// Host whose route differs between the versions.
const STRANGE: &str = "strange.localhost";

/// Revisions of the routes. The router begins with the first.
const REVISIONS: [u64; 3] = [1, 2, 3];

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
fn lines(last: &RoutingTable) -> Script {
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

fn lack_fields(mut lines: Script) -> Script {
    change_routes(&mut lines, "", |route| {
        route.as_object_mut().expect("fields").remove("patience").expect("written");
        for endpoint in route["endpoints"].as_array_mut().expect("endpoints") {
            endpoint.as_object_mut().expect("fields").remove("protocol").expect("written");
        }
    });
    lines
}

fn add_fields(mut lines: Script) -> Script {
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
fn lack_values(mut lines: Script) -> Script {
    change_routes(&mut lines, STRANGE, |route| route["endpoints"][0]["protocol"] = json!("http1"));
    lines
}

fn add_values(mut lines: Script) -> Script {
    change_routes(&mut lines, STRANGE, |route| route["endpoints"][0]["protocol"] = json!("http9"));
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

fn servers() -> [OtherServer<Expected>; 8] {
    let usual: Expected = |_| ();
    let content = ContentChanges::<Expected> {
        lack_fields: (lack_fields, with_protocol_http1),
        add_fields: (add_fields, usual),
        lack_values: (lack_values, with_protocol_http1),
        add_values: (add_values, without_strange_route),
    };
    other_servers(usual, content, usual)
}

/// Runs a router until it has acknowledged the last table of a server.
async fn follow_server(OtherServer { name, change, expected }: OtherServer<Expected>) {
    let instance = app(false, async |_| Response::new(full("served"))).await;
    let mut last = last_table(instance);
    let lines = change(lines(&last));
    expected(&mut last);
    let (url, mut observed) = scripted_server(lines).await;
    let running = router(table(REVISIONS[0], Vec::new()), &url, None).await;
    let mut connections = 0;
    let acknowledged = async {
        loop {
            match observed.recv().await.expect("the server runs") {
                ServerObservation::Connected => connections += 1,
                ServerObservation::Message(message) if message["set"]["table"] == REVISIONS[2] => return,
                ServerObservation::Message(_) | ServerObservation::Frame(..) => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, acknowledged).await.unwrap_or_else(|_| panic!("{name}: no acknowledgement"));

    assert_eq!(connections, 1, "{name}: the connection stays");
    let kept = std::fs::read(running.folder.path().join("table.json")).expect("a table");
    assert_eq!(serde_json::from_slice::<RoutingTable>(&kept).expect("a table"), last, "{name}");
    assert_eq!(harness::text(fetch(running.address, get("/")).await).await, "served", "{name}");
}

#[tokio::test]
async fn follows_servers_of_other_versions() {
    for other in servers() {
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
    let (url, mut observed) = scripted_server(lines).await;
    let known = table(REVISIONS[0], vec![endpoint(1, instance, AppProtocol::Http1)]);
    let running = router(known.clone(), &url, None).await;
    while let Some(message) = tokio::time::timeout(DEADLINE, observed.recv()).await.expect("an acknowledgement") {
        if matches!(message, ServerObservation::Message(message) if message["set"]["table"] == REVISIONS[1]) {
            break;
        }
    }
    let kept = std::fs::read(running.folder.path().join("table.json")).expect("a table");
    let kept: RoutingTable = serde_json::from_slice(&kept).expect("a table");
    assert_eq!(kept, RoutingTable { generation: Generation(REVISIONS[1]), ..known });
    assert_eq!(harness::text(fetch(running.address, get("/")).await).await, "served");
}
