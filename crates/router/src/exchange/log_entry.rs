//! Access log entry: one line of JSON for each request. `docs/operating.md` describes the fields.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gantry_model::RequestFailure;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response};

use crate::client::peer::ClientPeer;
use crate::exchange::access_log::AccessLog;
use crate::exchange::forward::copied_path;
use crate::routes::route::AppRoute;
use crate::routes::target::RouteTarget;

/// Age of a request from which a disconnect of the client counts as a failure. An earlier disconnect says nothing about
/// the application.
const GIVEN_UP: Duration = Duration::from_secs(3);

/// Longest logged path in bytes.
const PATH_MAX: usize = 1000;

/// Log entry of a request. Dropping the entry writes its line, so every request is logged, whatever its outcome.
pub(crate) struct AccessLogEntry {
    log: AccessLog,
    begun: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    peer: Arc<ClientPeer>,
    pub(crate) id: HeaderValue,
    /// Address of the client, as a trusted proxy named it.
    pub(crate) client: Option<HeaderValue>,
    /// Requested host name, if no app has this name.
    pub(crate) host: String,
    pub(crate) route: Option<Arc<AppRoute>>,
    pub(crate) target: Option<Arc<RouteTarget>>,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// Reason why the router answered instead of an instance.
    pub(crate) error: Option<String>,
    /// Kind of failure, counted for the app and shown by `gantry why`.
    pub(crate) failure: Option<RequestFailure>,
}

impl AccessLogEntry {
    /// Begins the entry of a request that arrived at `begun`.
    pub(crate) fn begin(
        log: &AccessLog,
        begun: Instant,
        method: Method,
        path: Option<PathAndQuery>,
        peer: Arc<ClientPeer>,
        id: HeaderValue,
    ) -> Self {
        Self {
            log: log.clone(),
            begun,
            method,
            path,
            peer,
            id,
            client: None,
            host: String::new(),
            route: None,
            target: None,
            status: 0,
            bytes: 0,
            error: None,
            failure: None,
        }
    }

    /// Records the status of the response.
    pub(crate) fn answered<B>(mut self, response: Response<B>) -> Response<B> {
        self.status = response.status().as_u16();
        response
    }

    /// Counts the request for its app, unless the client left early and without a response.
    fn count(&self) {
        let Some(gate) = self.route.as_ref().map(|route| &route.gate) else { return };
        let unanswered = self.status == 0 && self.target.is_some() && self.begun.elapsed() > GIVEN_UP;
        let failure = if unanswered { Some(RequestFailure::GivenUp) } else { self.failure };
        if self.status == 0 && failure.is_none() {
            return;
        }
        gate.ended();
        if let Some(kind) = failure {
            let instance = self.target.as_ref().map(|target| &target.endpoint.allocation);
            gate.failed(kind, self.status, instance, crate::clock::now());
        }
    }

    /// Copies the fields that refer to the request's read buffer.
    pub(crate) fn detach(&mut self) {
        self.path = self.path.as_ref().and_then(copied_path);
        if let Ok(copy) = HeaderValue::from_bytes(self.id.as_bytes()) {
            self.id = copy;
        }
    }

    /// Appends the line, field by field. A general serializer would also search each byte of each field name for
    /// characters to escape.
    fn write(&self, line: &mut Vec<u8>) {
        // Without the query, which may hold secrets.
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        number(line, "{\"at\":", millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
        text(line, ",\"host\":", self.route.as_ref().map_or(&self.host, |route| &route.host));
        text(line, ",\"app\":", self.route.as_ref().map_or("", |route| route.app.as_str()));
        text(line, ",\"instance\":", self.target.as_ref().map_or("", |target| &target.label));
        text(line, ",\"method\":", self.method.as_str());
        text(line, ",\"path\":", path.get(..path.floor_char_boundary(PATH_MAX)).unwrap_or_default());
        number(line, ",\"status\":", self.status.into());
        number(line, ",\"bytes\":", self.bytes);
        number(line, ",\"ms\":", millis(self.begun.elapsed()));
        text(line, ",\"peer\":", self.client.as_ref().unwrap_or(&self.peer.text).to_str().unwrap_or_default());
        text(line, ",\"id\":", self.id.to_str().unwrap_or_default());
        if let Some(error) = &self.error {
            text(line, ",\"error\":", error);
        }
        line.extend_from_slice(b"}\n");
    }
}

/// Appends a text field; `key` includes all punctuation before the value.
fn text(line: &mut Vec<u8>, key: &str, value: &str) {
    line.extend_from_slice(key.as_bytes());
    let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    // Without an early exit, the loop can check many bytes at once.
    if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        line.push(b'"');
        line.extend_from_slice(value.as_bytes());
        line.push(b'"');
    } else {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(line, value);
    }
}

fn number(line: &mut Vec<u8>, key: &str, value: u64) {
    line.extend_from_slice(key.as_bytes());
    let _ = serde_json::to_writer(line, &value);
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or_default()
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        self.count();
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write(line);
            self.log.push(line);
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::exchange::access_log::tests::{log, wait};

    #[test]
    fn writes_the_documented_fields() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = log(&folder);
        let asked = PathAndQuery::from_static("/orders?secret=1");
        let id = HeaderValue::from_static("an-id");
        let peer = Arc::new(ClientPeer::new("192.0.2.7".parse().expect("an address"), false));
        let mut entry = AccessLogEntry::begin(&log, Instant::now(), Method::POST, Some(asked), peer, id);
        entry.error = Some("it closed the connection".to_owned());
        drop(entry);
        let line: Value = wait(|| serde_json::from_slice(&std::fs::read(&path).ok()?).ok());
        let documented =
            include_str!("../../../../docs/operating.md").split("**The access log**").nth(1).expect("a section");
        let rows = documented.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|'));
        let mut names: Vec<&str> =
            rows.flat_map(|row| row.split('|').nth(1).expect("a cell").split('`').skip(1).step_by(2)).collect();
        let mut found: Vec<&String> = line.as_object().expect("an object").keys().collect();
        names.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, names);
        assert_eq!((line["path"].as_str(), line["method"].as_str()), (Some("/orders"), Some("POST")));
        assert_eq!((line["peer"].as_str(), line["id"].as_str()), (Some("192.0.2.7"), Some("an-id")));
    }

    #[test]
    fn writes_fields_as_valid_json() {
        let all: String = (0..=0x7f_u8).map(char::from).chain("é€😀".chars()).collect();
        for value in ["", "/orders", "a \"quoted\" \\ one", "\u{7f}", &all] {
            let mut line = Vec::new();
            number(&mut line, "{\"at\":", u64::MAX);
            text(&mut line, ",\"path\":", value);
            line.push(b'}');
            let read: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((read["at"].as_u64(), read["path"].as_str()), (Some(u64::MAX), Some(value)));
        }
    }
}
