//! A small site to push: ready at once, and each release names its version in its page.
#![allow(dead_code)]

use gantry_testbed::{Repository, TestCluster};

/// Source of the site. `VERSION` is replaced by the version of a release.
pub(crate) const SERVER: &str = r#"
import http.server, os, signal, sys, time
class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is one write: an instance that is killed has sent all of it, or nothing.
    wbufsize = -1
    def do_GET(self):
        if self.path == "/events":
            return self.events()
        if self.path == "/socket":
            return self.socket()
        text = b"VERSION " + os.uname().nodename.encode() + b"\n"
        self.answer(text)
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))
    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in ["one", "two", "three", "end"]:
            self.wfile.write(b"data: " + event.encode() + b"\n\n")
            self.wfile.flush()
            time.sleep(0.1)
    def socket(self):
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        # Frames of four bytes under a mask of zeros, sent back unmasked.
        while len(frame := self.rfile.read(10)) == 10:
            self.wfile.write(bytes([0x81, 4]) + frame[6:])
            self.wfile.flush()
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    # As servers for production have it: of more connections at once than the 5 of this one, the kernel resets some.
    request_queue_size = 512
server = Server(("0.0.0.0", int(os.environ["PORT"])), Site)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("VERSION serves", flush=True)
server.serve_forever()
"#;

/// Creates an app with its repository.
pub(crate) fn site(cluster: &TestCluster, app: &str, copies: u32) -> Repository {
    let _ = cluster.gantry(&["app", "create", app]).good();
    let repository = cluster.repository(app, None);
    let roles =
        format!("{{ web: {{ command: 'python3 server.py', instances: {copies}, health: {{ path: '/up' }} }} }}");
    repository.write("container/roles.json", &roles);
    repository
}

/// Pushes a release that shows `version`, and returns the commit.
pub(crate) fn push_site(repository: &Repository, version: &str) -> String {
    repository.write("server.py", &SERVER.replace("VERSION", version));
    let commit = repository.commit(version);
    let _ = repository.push().good();
    commit
}

/// Body of the app's response.
pub(crate) fn page(cluster: &TestCluster, app: &str) -> String {
    cluster.curl(&format!("{app}.localhost"), &[]).out
}
