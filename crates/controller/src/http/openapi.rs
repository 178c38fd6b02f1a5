//! OpenAPI 3.1 description of the API: `GET /v1/openapi.json`.
//!
//! One table lists each operation. The schema of a body is derived from a sample of the type that the code reads or
//! writes, so the description cannot contradict the code.

use std::collections::BTreeMap;

use axum::response::Response;
use gantry_api::policy::{ChangePolicy, PolicyInfo, PolicyValue};
use gantry_api::types::{
    AcceptedDeploy, AppInfo, AuditEvent, BaseInfo, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeScale,
    ChangeTraffic, ClusterStatus, CreateApp, CreateToken, DeployProgress, DeploySource, Explanation, ImageProgress,
    InstanceInfo, LogLine, NewToken, PullImage, ReleaseInfo, RenameApp, Scope, StartDeploy, TokenInfo,
};
use gantry_api::volumes::{CreateSnapshot, ExportVolume, ImportVolume, SnapshotInfo, VolumeInfo, VolumeRole};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{
    AppName, AuditAction, BaseName, Bytes, ClusterPolicy, Deploy, DeployCause, DeployNumber, Digest, Generation,
    HostName, ImageSettings, InstancePhase, MachineName, Moment, NetworkFault, NetworkFlow, ReleaseNumber,
    RequestCounts, RoleName, RouterId, Slot, TrafficPolicy,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::HttpResult;

/// An operation of the API.
struct Operation {
    method: &'static str,
    path: &'static str,
    /// The scope that a token needs: `read`, `deploy` or `admin`.
    scope: &'static str,
    summary: &'static str,
    request: Value,
    response: Value,
}

fn operation(
    method: &'static str,
    path: &'static str,
    scope: &'static str,
    summary: &'static str,
    request: Value,
    response: Value,
) -> Operation {
    Operation { method, path, scope, summary, request, response }
}

/// `GET /v1/openapi.json`: needs no token.
pub(crate) async fn show() -> HttpResult<Response> {
    super::json(&document())
}

fn sample(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Parses a sample name that is known to be valid.
fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

fn digest() -> Digest {
    name(&format!("sha256:{}", "0".repeat(64)))
}

const NOW: Moment = Moment(1_790_000_000_000);

fn deploy() -> Deploy {
    let cause = DeployCause::Push { commit: "0".repeat(40), source: digest() };
    Deploy::new(name("storefront"), DeployNumber(7), cause, "ci".to_owned(), false, NOW)
}

fn app() -> AppInfo {
    AppInfo {
        name: name("storefront"),
        url: Some("http://storefront.localhost/".to_owned()),
        branch: "main".to_owned(),
        base: Some(name::<BaseName>("debian")),
        hosts: vec![name::<HostName>("shop.example")],
        current: Some(ReleaseNumber(6)),
        scale: BTreeMap::from([(name::<RoleName>("web"), 3)]),
        deploy: Some(deploy()),
        ready: 3,
        wanted: 3,
        traffic: TrafficPolicy { rate: Some(100), ..TrafficPolicy::default() },
        requests: RequestCounts::default(),
        created: NOW,
    }
}

fn release() -> ReleaseInfo {
    ReleaseInfo {
        number: ReleaseNumber(6),
        current: true,
        good: true,
        image: digest(),
        commit: Some("0".repeat(40)),
        config: vec!["COLOR".to_owned()],
        roles: BTreeMap::from([(name::<RoleName>("web"), "bin/server".to_owned())]),
        created: NOW,
        by: "ci".to_owned(),
        cause: "push of 0000000000".to_owned(),
    }
}

fn instance() -> InstanceInfo {
    InstanceInfo {
        id: Slot { app: name("storefront"), release: ReleaseNumber(6), role: name("web"), index: 1 }.numbered(1),
        machine: name("m1"),
        goal: "run".to_owned(),
        phase: Some(InstancePhase::Ready),
        since: Some(NOW),
        address: Some(std::net::Ipv4Addr::new(10, 83, 0, 2)),
        restarts: 0,
        note: None,
    }
}

fn status() -> ClusterStatus {
    let machine: MachineName = name("m1");
    ClusterStatus {
        version: "0.1.0".to_owned(),
        store: "/var/lib/gantry/store.db".to_owned(),
        machines: BTreeMap::from([(machine.clone(), 500)]),
        network: BTreeMap::from([(
            machine.clone(),
            vec![NetworkFault::Dropped {
                flow: NetworkFlow::Outside,
                chain: "FORWARD of iptables's table filter".to_owned(),
                by: "its policy".to_owned(),
                remedy: "iptables -I FORWARD -i gantry0 -j ACCEPT && iptables -I FORWARD -o gantry0 -j ACCEPT"
                    .to_owned(),
            }],
        )]),
        routers: BTreeMap::from([(RouterId { machine, number: 1 }, (Generation(12), 500))]),
        table: Generation(12),
        apps: vec![app()],
        space: BTreeMap::from([("blobs".to_owned(), 1 << 30)]),
        warnings: vec!["the clock of the machine went back by 1 h, 40 s ago".to_owned()],
    }
}

fn policy() -> PolicyInfo {
    PolicyInfo::from(&ClusterPolicy::default())
}

fn event() -> AuditEvent {
    let app: AppName = name("storefront");
    let action = AuditAction::Scaled { roles: BTreeMap::from([(name::<RoleName>("web"), 3)]) };
    AuditEvent {
        number: 1,
        at: NOW,
        by: "ci".to_owned(),
        app: Some(app),
        what: action.to_string(),
        action: Some(action),
    }
}

fn base() -> BaseInfo {
    BaseInfo { name: name("debian"), image: digest(), from: "bookworm with 8 packages".to_owned(), created: NOW }
}

fn token() -> TokenInfo {
    TokenInfo {
        name: "ci".to_owned(),
        scope: Scope::Deploy { app: name("storefront") },
        created: NOW,
        expires: Some(NOW),
    }
}

fn volume() -> VolumeInfo {
    VolumeInfo {
        app: name("storefront"),
        name: name("data"),
        machine: name("m1"),
        size: Bytes::mebi(120),
        owner: (1000, 1000),
        used: Some(NOW),
        in_use: vec!["storefront.v6.web-1".to_owned()],
        roles: vec![VolumeRole { role: name("web"), path: "/var/lib/storefront".to_owned() }],
        files: Some(1200),
        snapshots: vec![SnapshotInfo { name: name("before-upgrade"), at: NOW }],
    }
}

/// Returns the table of all operations below `/v1`.
fn operations() -> Vec<Operation> {
    let none = || Value::Null;
    let accepted = || sample(AcceptedDeploy { deploy: DeployNumber(7) });
    let create = CreateApp { name: name("storefront"), base: None, branch: None, hosts: Vec::new() };
    let config = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]);
    let changes = ChangeConfig { changes: BTreeMap::from([("COLOR".to_owned(), Some("blue".to_owned()))]) };
    let on_base = ChangeBase { base: name("debian") };
    let scale = ChangeScale { roles: BTreeMap::from([(name::<RoleName>("web"), 3)]) };
    let pull = PullImage { reference: "registry.example/shop:1.2".to_owned(), username: None, password: None };
    let making = ImageProgress::Image { reference: format!("storefront@{}", digest()) };
    let log = LogLine { at: NOW, instance: instance().id, error: false, text: "GET / 200".to_owned() };
    let volumes = BTreeMap::from([("data".to_owned(), "/var/lib/storefront".to_owned())]);
    let settings = ImageSettings { volumes, port: Some(80) };
    let start = StartDeploy {
        source: DeploySource::Image { reference: "storefront:1.2".to_owned(), origin: None, settings },
        hold: false,
    };
    let why =
        Explanation {
            subject: "app storefront".to_owned(), headline: "…".to_owned(), evidence: vec!["…".to_owned()]
        };
    let new_token = NewToken { info: token(), secret: "gantry_…".to_owned() };
    let create_token = CreateToken { name: "ci".to_owned(), scope: Scope::Read, lifetime: Some(86_400_000) };
    let exec = || json!({ "instance": "web-1", "command": ["/bin/sh"], "terminal": true });
    let line = DeployProgress::Line { text: "-----> Starting v7".to_owned() };
    vec![
        operation("get", "/v1/status", "read", "Machines, routers, apps, space", none(), sample(status())),
        operation("get", "/v1/cluster/policy", "read", "The rules of the cluster", none(), sample(policy())),
        operation(
            "patch",
            "/v1/cluster/policy",
            "admin",
            "Change rules of the cluster; null gives a rule its default again",
            sample(ChangePolicy { rules: BTreeMap::from([("drain".to_owned(), Some(PolicyValue::Number(60)))]) }),
            sample(policy()),
        ),
        operation("get", "/v1/events", "read", "The audit trail; ?app= for one app", none(), sample([event()])),
        operation("get", "/v1/tokens", "admin", "All tokens, without their secrets", none(), sample([token()])),
        operation(
            "post",
            "/v1/tokens",
            "admin",
            "Create a token; its secret is shown once",
            sample(create_token),
            sample(new_token),
        ),
        operation("delete", "/v1/tokens/{name}", "admin", "Revoke a token", none(), none()),
        operation("get", "/v1/bases", "read", "All bases", none(), sample([base()])),
        operation(
            "post",
            "/v1/bases/{name}",
            "admin",
            "Make a base; the body is base.toml, the response a stream",
            none(),
            sample(&line),
        ),
        operation(
            "post",
            "/v1/bases/{name}/import",
            "admin",
            "Take a base; the body is an OCI archive",
            none(),
            sample(base()),
        ),
        operation(
            "post",
            "/v1/bases/{name}/pull",
            "admin",
            "Take a base from another registry; the response is a stream",
            sample(&pull),
            sample(&making),
        ),
        operation("delete", "/v1/bases/{name}", "admin", "Remove a base that no app is on", none(), none()),
        operation("get", "/v1/apps", "read", "All apps", none(), sample([app()])),
        operation("post", "/v1/apps", "admin", "Create an app", sample(create), sample(app())),
        operation("get", "/v1/apps/{app}", "read", "An app", none(), sample(app())),
        operation("delete", "/v1/apps/{app}", "admin", "Destroy an app", none(), none()),
        operation("get", "/v1/apps/{app}/config", "deploy", "Its configuration", none(), sample(config)),
        operation(
            "patch",
            "/v1/apps/{app}/config",
            "deploy",
            "Change it; a deploy if something runs",
            sample(changes),
            accepted(),
        ),
        operation(
            "put",
            "/v1/apps/{app}/branch",
            "deploy",
            "Which branch deploys",
            sample(ChangeBranch { branch: "main".to_owned() }),
            none(),
        ),
        operation(
            "patch",
            "/v1/apps/{app}/hosts",
            "admin",
            "Add and remove host names",
            sample(ChangeHosts { add: vec![name("shop.example")], remove: Vec::new() }),
            sample(app()),
        ),
        operation(
            "post",
            "/v1/apps/{app}/rename",
            "admin",
            "Give it another name; a deploy under that name if something runs",
            sample(RenameApp { name: name("boutique") }),
            accepted(),
        ),
        operation("put", "/v1/apps/{app}/base", "deploy", "What its next push is built on", sample(on_base), none()),
        operation("put", "/v1/apps/{app}/scale", "deploy", "How many copies of a role run", sample(scale), none()),
        operation(
            "post",
            "/v1/apps/{app}/traffic",
            "deploy",
            "Pause and resume requests, refuse or limit them",
            sample(ChangeTraffic::Limit { rate: Some(100), concurrent: None }),
            none(),
        ),
        operation("get", "/v1/apps/{app}/releases", "read", "Its releases", none(), sample([release()])),
        operation("get", "/v1/apps/{app}/instances", "read", "Its instances", none(), sample([instance()])),
        operation(
            "get",
            "/v1/apps/{app}/why",
            "read",
            "Why it is as it is; ?instance= for one instance",
            none(),
            sample(why),
        ),
        operation("get", "/v1/apps/{app}/deploys", "read", "Its deploys", none(), sample([deploy()])),
        operation("post", "/v1/apps/{app}/deploys", "deploy", "Deploy an image, or go back", sample(start), accepted()),
        operation(
            "post",
            "/v1/apps/{app}/pull",
            "deploy",
            "Take an image from another registry; the response is a stream",
            sample(&pull),
            sample(&making),
        ),
        operation(
            "get",
            "/v1/apps/{app}/deploys/{number}/follow",
            "read",
            "A deploy as it goes, a stream; ?until=serving ends it with the promotion, ?until=setting as the server is set",
            none(),
            sample(line),
        ),
        operation(
            "post",
            "/v1/apps/{app}/promote",
            "deploy",
            "Move the traffic to the held release",
            none(),
            accepted(),
        ),
        operation("post", "/v1/apps/{app}/abort", "deploy", "Take the deploy under way back", none(), accepted()),
        operation(
            "get",
            "/v1/apps/{app}/logs",
            "read",
            "Its log, a stream; ?lines=, ?since=, ?role=, ?grep=, ?follow=",
            none(),
            sample(log),
        ),
        operation(
            "post",
            "/v1/apps/{app}/exec",
            "deploy",
            "A process in an instance; turns into a session",
            exec(),
            none(),
        ),
        operation(
            "post",
            "/v1/apps/{app}/run",
            "deploy",
            "A container of its own; turns into a session",
            json!({ "command": ["/bin/sh"], "terminal": true, "volumes": { "data": "/data" } }),
            none(),
        ),
        operation("get", "/v1/volumes", "read", "All volumes", none(), sample([volume()])),
        operation("get", "/v1/apps/{app}/volumes", "read", "Its volumes", none(), sample([volume()])),
        operation("get", "/v1/apps/{app}/volumes/{name}", "read", "A volume", none(), sample(volume())),
        operation(
            "delete",
            "/v1/apps/{app}/volumes/{name}",
            "deploy",
            "Remove a volume with its snapshots; ?force=true even if a role has it",
            none(),
            sample(volume()),
        ),
        operation(
            "post",
            "/v1/apps/{app}/volumes/{name}/export",
            "deploy",
            "A volume as a tar stream; turns into a session",
            sample(ExportVolume { zstd: true }),
            none(),
        ),
        operation(
            "post",
            "/v1/apps/{app}/volumes/{name}/import",
            "deploy",
            "Make a volume of a tar stream; turns into a session",
            sample(ImportVolume { replace: true, limit: Some(Bytes::mebi(2048)) }),
            none(),
        ),
        operation(
            "post",
            "/v1/apps/{app}/volumes/{name}/snapshots",
            "deploy",
            "Make a snapshot of a volume; turns into a session",
            sample(CreateSnapshot { name: Some(name("before-upgrade")) }),
            none(),
        ),
        operation(
            "delete",
            "/v1/apps/{app}/volumes/{name}/snapshots/{snapshot}",
            "deploy",
            "Remove a snapshot",
            none(),
            sample(volume()),
        ),
        operation(
            "post",
            "/v1/apps/{app}/volumes/{name}/snapshots/{snapshot}/restore",
            "deploy",
            "Replace the content of a volume with a copy of a snapshot; turns into a session",
            json!({}),
            none(),
        ),
    ]
}

/// Derives a JSON schema from a sample.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => json!({ "type": "array", "items": items.first().map_or(json!({}), shape) }),
        Value::Object(fields) => {
            let properties: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect();
            json!({ "type": "object", "properties": properties })
        }
    }
}

fn content(sample: &Value) -> Value {
    json!({ "application/json": { "schema": shape(sample), "example": sample } })
}

/// Builds the complete OpenAPI document.
fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations() {
        let parameters: Vec<Value> = operation
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let problem = Problem::new(ErrorCode::InvalidRequest, "what is wrong").hint("what would be right");
        let mut entry = json!({
            "summary": operation.summary,
            "description": format!("Needs a token with the scope `{}`.", operation.scope),
            "parameters": parameters,
            "responses": {
                "200": { "description": "Done", "content": content(&operation.response) },
                "default": { "description": "A problem", "content": content(&sample(problem)) },
            },
        });
        if !operation.request.is_null() {
            entry["requestBody"] = json!({ "required": true, "content": content(&operation.request) });
        }
        paths.entry(operation.path).or_default().insert(operation.method.to_owned(), entry);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gantry",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Streams are newline-delimited JSON, or server-sent events with `Accept: text/event-stream`.",
        },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "token": [] }],
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let count: usize = paths.values().map(|path| path.as_object().map_or(0, Map::len)).sum();
        assert_eq!(count, operations().len(), "an operation stands twice");
        let response = &paths["/v1/apps/{app}"]["get"]["responses"]["200"]["content"]["application/json"];
        assert_eq!(response["schema"]["properties"]["ready"]["type"], "integer");
        assert_eq!(
            paths["/v1/apps/{app}/deploys/{number}/follow"]["get"]["parameters"].as_array().map(Vec::len),
            Some(2)
        );
    }
}
