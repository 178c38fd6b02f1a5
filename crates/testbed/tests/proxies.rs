//! A proxy in front of a cloud, and apps that serve no HTTP.

mod site;

use std::time::{Duration, Instant};

use gantry_testbed::TestCluster;
use site::{page, push_site, site};

/// An application that redirects to HTTPS unless a proxy reports HTTPS for the client's connection.
const REDIRECTS: &str = r#"
import http.server, os
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/up" and self.headers["X-Forwarded-Proto"] != "https":
            self.send_response(301)
            self.send_header("Location", "https://" + self.headers["Host"] + self.path)
            self.end_headers()
            return
        text = repr([self.headers[name] for name in ("X-Forwarded-For", "Forwarded")]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Site).serve_forever()
"#;

fn fetch_through_proxy(cluster: &TestCluster) -> String {
    let fields = ["X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9;proto=https"];
    let arguments: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).chain(["-w", "%{http_code}"]).collect();
    cluster.curl("shop.localhost", &arguments).out
}

#[test]
fn trusts_tls_of_a_proxy_and_explains_an_app_without_instances() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    let at_once = |expected: &str| {
        let begun = Instant::now();
        assert_eq!(page(&cluster, "shop"), expected);
        assert!(begun.elapsed() < Duration::from_secs(10), "the request waited for an instance");
    };
    cluster.wait("the router knows the app", |cluster| page(cluster, "shop").starts_with("503").then_some(()));
    at_once("503 shop has no release yet\n");

    shop.write("server.py", REDIRECTS);
    shop.commit("redirects");
    let _ = shop.push().good();
    assert_eq!(fetch_through_proxy(&cluster), "301", "a stranger says that it is HTTPS");
    let set = cluster.gantry(&["cluster", "policy", "set", "trusted-proxies=127.0.0.0/8"]).good();
    assert_eq!(set.out, "trusted-proxies=127.0.0.0/8\n");
    let believed = "['203.0.113.9, 127.0.0.1', 'for=203.0.113.9;proto=https, for=127.0.0.1']200";
    cluster.wait("the proxy is trusted", |cluster| (fetch_through_proxy(cluster) == believed).then_some(()));
    let _ = cluster.gantry(&["cluster", "policy", "set", "trusted-proxies="]).good();
    cluster.wait("the proxy is trusted no more", |cluster| (fetch_through_proxy(cluster) == "301").then_some(()));
    let own = cluster.gantry(&["app", "proxies", "shop", "127.0.0.1"]).good();
    assert_eq!(own.out, "127.0.0.1\n");
    cluster.wait("the app trusts its proxy", |cluster| (fetch_through_proxy(cluster) == believed).then_some(()));
    let refused = cluster.gantry(&["cluster", "policy", "set", "trusted-proxies=127.0.0.1/8"]);
    assert_eq!(refused.status, 2);
    assert!(refused.err.contains("write 127.0.0.0/8"), "{}", refused.err);

    let _ = cluster.gantry(&["scale", "shop", "web=0"]).good();
    cluster.wait("the app is closed", |cluster| page(cluster, "shop").starts_with("503 shop is").then_some(()));
    at_once("503 shop is scaled to 0\n");
    let _ = cluster.gantry(&["scale", "shop", "web=1"]).good();
    cluster.wait("the app serves again", |cluster| (fetch_through_proxy(cluster) == believed).then_some(()));
    push_site(&shop, "two");
    assert!(page(&cluster, "shop").starts_with("two "));
}
