//! Authorization of every operation with every kind of token. The table of the server's responses is checked in as
//! `transcripts/scopes.txt`. GANTRY_TEST_BLESS=1 rewrites the table; review the difference before a commit.

mod site;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use gantry_testbed::{TestCluster, run};

/// Operations outside the documented API: git, the registry, and the internal operations of machines. A control
/// connection is an upgraded request: a machine's plain request of its own connection gets 426.
const MORE: [(&str, &str); 47] = [
    ("GET", "/3/projects/{app}/queues"),
    ("DELETE", "/3/projects/{app}/queues/none"),
    ("POST", "/3/projects/{app}/queues/none/subscribers"),
    ("GET", "/3/projects/{app}/queues/none/messages/1/subscribers"),
    ("GET", "/2/projects/{app}/tasks"),
    ("POST", "/2/projects/{app}/tasks/webhook?code_name=none"),
    ("GET", "/v1/nothing"),
    ("PUT", "/v1/apps"),
    ("GET", "/v1/apps/{app}/deploys/x/follow"),
    ("GET", "/git/{app}.git/info/refs?service=git-receive-pack"),
    ("GET", "/git/{app}.git/info/refs?service=git-upload-pack"),
    ("POST", "/git/{app}.git/git-receive-pack"),
    ("POST", "/git/{app}.git/git-upload-pack"),
    ("POST", "/git/{app}.git/info/lfs/objects/batch"),
    ("GET", "/v2"),
    ("GET", "/v2/"),
    ("GET", "/v2/{app}/tags/list"),
    ("GET", "/v2/{app}/manifests/none"),
    ("HEAD", "/v2/{app}/manifests/none"),
    ("PUT", "/v2/{app}/manifests/none"),
    ("DELETE", "/v2/{app}/manifests/none"),
    ("GET", "/v2/{app}/blobs/{digest}"),
    ("HEAD", "/v2/{app}/blobs/{digest}"),
    ("DELETE", "/v2/{app}/blobs/{digest}"),
    ("GET", "/v2/{app}/referrers/{digest}"),
    ("POST", "/v2/{app}/blobs/uploads/"),
    ("POST", "/v2/{app}/blobs/uploads/?mount={digest}&from=two"),
    ("GET", "/v2/{app}/blobs/uploads/none"),
    ("PATCH", "/v2/{app}/blobs/uploads/none"),
    ("PUT", "/v2/{app}/blobs/uploads/none?digest={digest}"),
    ("DELETE", "/v2/{app}/blobs/uploads/none"),
    ("GET", "/internal/v1/builds/none/blobs/{digest}"),
    ("GET", "/internal/v1/builds/none/blobs/{digest}/intact"),
    ("GET", "/internal/v1/machines/m/apps"),
    ("GET", "/internal/v1/machines/other/apps"),
    ("GET", "/internal/v1/machines/m/servers"),
    ("GET", "/internal/v1/machines/other/servers"),
    ("POST", "/internal/v1/join"),
    ("POST", "/internal/v1/renew"),
    ("POST", "/internal/v1/builds/none/blobs/{digest}"),
    ("POST", "/internal/v1/builds/none/room"),
    ("POST", "/internal/v1/machines/m/control"),
    ("POST", "/internal/v1/machines/other/control"),
    ("POST", "/internal/v1/routers/m/control"),
    ("POST", "/internal/v1/routers/other/control"),
    ("POST", "/internal/v1/sessions/none"),
    ("POST", "/internal/v1/servers/tokens"),
];

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn source(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).expect("the source")
}

/// Every path outside the documented API with each of its methods, to compare with the table: a new route must be added to
/// the table. These are the undeclared routes in the server's source, and the declared endpoints of agents and routers.
/// The server's own tests compare the declared endpoints with what is served. A route for any method has None as its
/// method.
fn routes() -> Vec<(String, Option<String>)> {
    let mut routes = Vec::new();
    for line in source("control/src/endpoints.rs").lines() {
        for method in METHODS.map(str::to_uppercase) {
            let declared = line.split_once(&format!(": {method} \"")).and_then(|(_, rest)| rest.split_once('"'));
            routes.extend(declared.map(|(path, _)| (path.to_owned(), Some(method))));
        }
    }
    assert!(routes.len() >= 10, "{routes:?}");
    for line in source("server/src/http/mod.rs").lines() {
        if let Some((path, _)) = line.split_once(".route(\"").and_then(|(_, rest)| rest.split_once('"')) {
            let path = path.to_owned();
            let methods: Vec<String> = METHODS
                .iter()
                .filter(|method| [" ", "."].iter().any(|before| line.contains(&format!("{before}{method}("))))
                .map(|method| method.to_uppercase())
                .collect();
            if methods.is_empty() {
                assert!(line.contains(" any("), "{line}");
                routes.push((path.clone(), None));
            }
            routes.extend(methods.into_iter().map(|method| (path.clone(), Some(method))));
        }
    }
    routes
}

/// Returns whether a path of the table belongs to this route.
fn is_of(path: &str, route: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (parts, route): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), route.split('/').collect());
    let same = |(part, route): (&&str, &&str)| part == route || route.starts_with('{');
    let open = route.last().is_some_and(|last| last.starts_with("{*"));
    (parts.len() == route.len() || open && parts.len() > route.len()) && parts.iter().zip(&route).all(same)
}

struct Column {
    name: &'static str,
    token: Option<String>,
    app: &'static str,
}

/// Returns the status and the body of the server's response.
fn send_request(cluster: &TestCluster, method: &str, path: &str, column: &Column) -> (String, String) {
    let path = path
        .replace("{app}", column.app)
        .replace("{name}", "ghost")
        .replace("{number}", "1")
        .replace("{snapshot}", "ghost");
    let path = path.replace("{digest}", &format!("sha256:{}", "5".repeat(64)));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    curl.args(if method == "HEAD" { vec!["--head"] } else { vec!["--request", method] });
    if let Some(token) = &column.token {
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    if !["GET", "HEAD"].contains(&method) {
        curl.args(["--header", "Content-Type: application/json", "--data", "{}"]);
    }
    curl.arg(format!("http://127.0.0.1:{}{path}", cluster.api_port()));
    let answer = run(curl);
    assert_eq!(answer.status, 0, "{method} {path}: {answer:?}");
    let (body, status) = answer.out.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

/// Returns the stable code in the body of an error response: of the API, of the registry, or of git and Git LFS.
fn error_code(body: &str) -> Option<String> {
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(body)
        && let Some(code) = json["code"].as_str().or_else(|| json["errors"][0]["detail"]["code"].as_str())
    {
        return Some(code.to_owned());
    }
    let (_, code) = body.split_once("[E_")?;
    Some(code.split_once(']')?.0.to_lowercase())
}

/// Returns all codes of errors that `gantry explain` knows.
fn known_codes(cluster: &TestCluster) -> Vec<String> {
    let all = cluster.gantry(&["explain", "--json"]).good().out;
    let all: Vec<serde_json::Value> = serde_json::from_str(&all).expect("JSON");
    all.iter()
        .filter(|row| row["kind"] == "error")
        .map(|row| row["code"].as_str().expect("a code").to_owned())
        .collect()
}

#[test]
fn every_operation_authorizes_each_token_as_in_the_table() {
    let cluster = TestCluster::start(&[]);
    for app in ["one", "two"] {
        let _ = cluster.gantry(&["app", "create", app]).good();
    }
    let made = |arguments: &[&str]| Some(cluster.gantry(arguments).good().out.trim().to_owned());
    let revoked = made(&["token", "create", "gone", "--deploy", "one"]);
    let _ = cluster.gantry(&["token", "revoke", "gone"]).good();
    let expired = made(&["token", "create", "late", "--admin", "--expires", "1s"]);
    let late = Column { name: "late", token: expired.clone(), app: "one" };
    cluster
        .wait("it has expired", |cluster| (send_request(cluster, "GET", "/v1/apps", &late).0 == "401").then_some(()));
    let deploy = made(&["token", "create", "ci", "--deploy", "one"]);
    let machine = std::fs::read_to_string(cluster.path("data/machine-token")).expect("a token").trim().to_owned();
    let columns = [
        Column { name: "none", token: None, app: "one" },
        Column { name: "wrong", token: Some("gantry_nonsense".to_owned()), app: "one" },
        Column { name: "expired", token: expired, app: "one" },
        Column { name: "revoked", token: revoked, app: "one" },
        Column { name: "read", token: made(&["token", "create", "eyes", "--read"]), app: "one" },
        Column { name: "deploy", token: deploy.clone(), app: "one" },
        Column { name: "other's", token: deploy, app: "two" },
        Column { name: "machine", token: Some(machine), app: "one" },
        // An administrator may do everything, so this column names an app that does not exist.
        Column { name: "admin", token: Some(cluster.token()), app: "ghost" },
    ];
    let mut curl = Command::new("curl");
    curl.args(["-sS", &format!("http://127.0.0.1:{}/v1/openapi.json", cluster.api_port())]);
    let document: serde_json::Value = serde_json::from_str(&run(curl).good().out).expect("JSON");
    let mut operations: Vec<(String, String)> = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let methods = methods.as_object().expect("operations").keys();
        operations.extend(methods.map(|method| (path.clone(), method.to_uppercase())));
    }
    operations.sort();
    operations.extend(MORE.map(|(method, path)| (path.to_owned(), method.to_owned())));

    let known = |route: &str, expected: Option<&str>| {
        operations.iter().any(|(path, method)| is_of(path, route) && expected.is_none_or(|expected| expected == method))
    };
    let missing: Vec<(String, Option<String>)> =
        routes().into_iter().filter(|(route, method)| !known(route, method.as_deref())).collect();
    assert!(routes().len() >= 10 && operations.len() >= 80 && missing.is_empty(), "not in the table: {missing:?}");

    let codes = known_codes(&cluster);
    let mut table = format!("{:<58}", "");
    for column in &columns {
        let _ = write!(table, "{:>9}", column.name);
    }
    table.push('\n');
    for (path, method) in &operations {
        let _ = write!(table, "{:<58}", format!("{method} {path}"));
        for column in &columns {
            let (status, body) = send_request(&cluster, method, path, column);
            if status.starts_with(['4', '5']) && method != "HEAD" {
                let code = error_code(&body);
                let is_known = code.as_ref().is_some_and(|code| codes.contains(code));
                assert!(is_known, "{method} {path} with {}: {status} {body}", column.name);
            }
            // Git LFS is not implemented: every caller receives 501.
            let fails = status.starts_with('5') && status != "501";
            assert!(!fails, "{method} {path} with {}: {status}", column.name);
            let _ = write!(table, "{status:>9}");
        }
        table.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/scopes.txt");
    if std::env::var_os("GANTRY_TEST_BLESS").is_some() {
        std::fs::write(&path, &table).expect("written");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), table);
}

/// A revoked token ends the connections that are open with it, and what runs goes on.
#[test]
fn a_machine_whose_token_is_revoked_is_cut_off_at_once() {
    let cluster = TestCluster::start(&[]);
    let shop = site::site(&cluster, "shop", 1);
    site::push_site(&shop, "one");
    let _ = cluster.gantry(&["token", "revoke", "machine m"]).good();
    cluster.wait("both connections have ended", |cluster| {
        let log = cluster.log();
        let ended = log.lines().filter(|line| line.contains("control connection closed") && line.contains("token"));
        (ended.count() >= 2).then_some(())
    });
    assert!(site::page(&cluster, "shop").starts_with("one"), "what runs goes on");
    // The next server records the token of its machine again.
    cluster.replace_services();
    cluster.wait("both report again", |cluster| {
        let status: serde_json::Value = serde_json::from_str(&cluster.gantry(&["status", "--json"]).out).ok()?;
        (status["routers"].as_object().is_some_and(|routers| routers.len() == 1)).then_some(())
    });
    site::push_site(&shop, "two");
    assert!(site::page(&cluster, "shop").starts_with("two"));
}
