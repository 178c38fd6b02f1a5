//! Health checks as applications need them: host names, headers, HTTP/2, commands, slow starts.

use gantry_testbed::TestCluster;

/// Server that answers 400 unless the request has its host name and key. Redirects plain requests, as behind TLS.
const STRICT: &str = r#"
import http.server, os
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.headers["Host"].split(":")[0]
        if host != "strict.localhost":
            self.send_response(400)
        elif self.headers["X-Forwarded-Proto"] != "https":
            self.send_response(301)
            self.send_header("Location", "https://strict.localhost" + self.path)
        elif self.path == "/up" and self.headers["X-Key"] != "k 1":
            self.send_response(403)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Site).serve_forever()
"#;

/// Server that speaks only HTTP/2.
const H2: &str = "require('http2').createServer((q,r)=>r.end('ok')).listen(process.env.PORT,'0.0.0.0')";

#[test]
fn health_checks_use_the_protocol_and_timeout_of_the_role() {
    let cluster = TestCluster::start(&[]);
    cluster.import_examples_base();
    let app = |cluster: &TestCluster, name: &str| {
        let _ = cluster.gantry(&["app", "create", name]).good();
        cluster.repository(name, None)
    };

    let strict = app(&cluster, "strict");
    strict.write("server.py", STRICT);
    let strict_role = "{ web: { command: 'python3 server.py', health: { path: '/up', headers: { 'X-Key': 'k 1' } } } }";
    strict.write("container/roles.json", strict_role);
    strict.commit("host, redirect and headers");
    let _ = strict.push().good();

    let h2 = app(&cluster, "h2");
    h2.write("s.js", H2);
    h2.write("container/roles.json", "{ web: { command: 'node s.js', protocol: 'h2c', health: { path: '/up' } } }");
    h2.commit("HTTP/2");
    let _ = h2.push().good();

    let named = app(&cluster, "named");
    named.write("Procfile", "web: python3 -m http.server $PORT");
    let settings = r#"{ "scripts": { "postdeploy": "true" }, "env": { "N": 5 }, "healthchecks": { "web": [
        { "type": "startup", "path": "/", "content": "Directory listing", "onFailure": {} } ] } }"#;
    named.write("app.json", settings);
    named.commit("app.json");
    let push = named.push().good();
    for key in ["scripts", "healthchecks.web[0].onFailure"] {
        assert!(push.err.contains(&format!("app.json: {key} is ignored")), "{}", push.err);
    }
    assert_eq!(cluster.gantry(&["config", "get", "named", "N"]).good().out, "5\n");

    // The layers are on the machine already, so the short deadline limits only the start.
    let _ = cluster.gantry(&["cluster", "policy", "set", "deadline=8s"]).good();
    strict.write("container/roles.json", &strict_role.replace("headers", "host: 'other.example', headers"));
    strict.commit("another host");
    let push = strict.push();
    assert_ne!(push.status, 0);
    assert!(push.err.contains("accept the host name other.example"), "{}", push.err);
    named.write("app.json", &settings.replace("Directory listing", "never there"));
    named.commit("content");
    let push = named.push();
    assert_ne!(push.status, 0);
    assert!(push.err.contains("the body does not contain \"never there\""), "{}", push.err);
    // Without a port, only the check's command reports readiness: later than the deadline, but within the start-up
    // time.
    let db = app(&cluster, "db");
    let role = "{ db: { command: 'sleep 12; touch /tmp/ready; exec sleep 1000', health: { command: 'echo not yet; test -e /tmp/ready', start: 120 } } }";
    db.write("container/roles.json", role);
    db.commit("a command");
    let push = db.push().good();
    assert!(push.err.contains("not yet"), "the check's output is told: {}", push.err);
    let ps = cluster.gantry(&["ps", "db"]).good();
    assert!(ps.out.contains("ready"), "{}", ps.out);
    let _ = cluster.gantry(&["exec", "db", "--instance", "db-1", "--", "rm", "/tmp/ready"]).good();
    cluster.wait("the failed command replaces the instance", |cluster| {
        cluster.gantry(&["why", "db"]).out.contains("test -e /tmp/ready").then_some(())
    });
}
