//! A health check over HTTP, in the protocol of the role.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::HealthSettings;
use gantry_model::role::AppProtocol;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{BODY_SHOWN, CheckFailure};

/// Maximum number of bytes read of a good response.
const BODY_READ: usize = 1 << 20;

/// A `GET` of the declared path.
pub(super) struct HttpCheck<'a> {
    pub(super) health: &'a HealthSettings,
    pub(super) protocol: AppProtocol,
    pub(super) path: &'a str,
    pub(super) address: SocketAddr,
}

impl HttpCheck<'_> {
    /// Sends the request on a new connection. After a redirect to HTTPS, sends the request again as a TLS-terminating
    /// proxy would. An application that redirects every plain request has not shown that it works.
    pub(super) async fn attempt(&self, stream: TcpStream) -> Result<(), CheckFailure> {
        let response = self.send(stream, false).await?;
        let Some(location) = to_https(&response) else {
            return self.evaluate(response).await;
        };
        let stream =
            TcpStream::connect(self.address).await.map_err(|error| CheckFailure::because(error.to_string()))?;
        let response = self.send(stream, true).await?;
        if to_https(&response).is_some() {
            let status = response.status();
            return Err(CheckFailure {
                remedy: Some(format!("let {} answer without a redirect", self.path)),
                ..CheckFailure::because(format!("status {status} to {location}, also with X-Forwarded-Proto: https"))
            });
        }
        self.evaluate(response).await
    }

    async fn send(&self, stream: TcpStream, as_https: bool) -> Result<Response<Incoming>, CheckFailure> {
        let host = self.health.host.clone().unwrap_or_else(|| self.address.to_string());
        let mut request = Request::get(self.path).header(USER_AGENT, "gantry-health");
        request = match self.protocol {
            AppProtocol::Http1 => request.header(HOST, &host).header(CONNECTION, "close"),
            AppProtocol::H2c => request.uri(format!("http://{host}{}", self.path)).version(Version::HTTP_2),
        };
        for (name, value) in &self.health.headers {
            request = request.header(name, value);
        }
        if as_https {
            request = request.header("x-forwarded-proto", "https");
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| CheckFailure::because(error.to_string()))?;
        let broken = |error: hyper::Error| self.broken("no HTTP response", &error);
        let stream = TokioIo::new(stream);
        match self.protocol {
            AppProtocol::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
                drive(connection);
                sender.send_request(request).await.map_err(broken)
            }
            AppProtocol::H2c => {
                let executor = TokioExecutor::new();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(executor, stream).await.map_err(broken)?;
                drive(connection);
                sender.send_request(request).await.map_err(broken)
            }
        }
    }

    async fn evaluate(&self, response: Response<Incoming>) -> Result<(), CheckFailure> {
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            let path = self.path;
            return Err(CheckFailure {
                outcome: format!("status {status}"),
                status: Some(status.as_u16()),
                remedy: Some(self.remedy(status).unwrap_or_else(|| {
                    format!("let {path} respond with 2xx or 3xx, or name another path (`health.path` of the role)")
                })),
                body: read_start(response.into_body()).await,
            });
        }
        let timeout = Duration::from_secs(u64::from(self.health.timeout.0)) / 2;
        // A stream that stays open and silent is a valid response, too.
        let body = tokio::time::timeout(timeout, read_body(response.into_body())).await.unwrap_or(Ok(Vec::new()));
        let body = body.map_err(|error| self.broken("the response was cut short", &error))?;
        match &self.health.content {
            Some(content) if !contains(&body, content.as_bytes()) => Err(CheckFailure {
                remedy: Some(format!("let {} respond with this text, or change `content` in app.json", self.path)),
                body: shorten(body),
                ..CheckFailure::because(format!("status {status}, but the body does not contain {content:?}"))
            }),
            _ => Ok(()),
        }
    }

    /// The remedy for a status that often has one cause.
    fn remedy(&self, status: http::StatusCode) -> Option<String> {
        let host = self.health.host.as_deref()?;
        (status == http::StatusCode::BAD_REQUEST || status == http::StatusCode::MISDIRECTED_REQUEST).then(|| {
            format!("let the application accept the host name {host}, or name another one (`health.host` of the role)")
        })
    }

    fn broken(&self, what: &str, error: &hyper::Error) -> CheckFailure {
        // The source is more precise: which end closed which body.
        let cause = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
        let remedy = format!("let {} send a complete response", self.path);
        CheckFailure { remedy: Some(remedy), ..CheckFailure::because(format!("{what}: {cause}")) }
    }
}

/// Drives the connection of one check. The task ends with the connection, which the check drops at its timeout.
#[expect(clippy::disallowed_methods, reason = "the task lives no longer than the check")]
fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
    tokio::spawn(connection);
}

/// The target of a redirect to HTTPS.
fn to_https<B>(response: &Response<B>) -> Option<String> {
    let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?.to_str().ok()?;
    let is_https = location.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    is_https.then(|| location.chars().take(200).collect())
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len().max(1)).any(|part| part == text)
}

/// Reads a body to its end, or up to [`BODY_READ`].
async fn read_body(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await.transpose()? {
        read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if read.len() > BODY_READ {
            break;
        }
    }
    Ok(read)
}

async fn read_start(mut body: Incoming) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() >= BODY_SHOWN {
            break;
        }
    }
    shorten(text)
}

fn shorten(mut text: Vec<u8>) -> String {
    text.truncate(BODY_SHOWN);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "servers of the tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// An application that responds with `answer`, in HTTP/1.1 or HTTP/2.
    async fn app(protocol: AppProtocol, answer: fn(&Request<Incoming>) -> Response<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request)) });
                let stream = TokioIo::new(stream);
                match protocol {
                    AppProtocol::Http1 => {
                        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
                    }
                    AppProtocol::H2c => {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(builder.serve_connection(stream, service));
                    }
                }
            }
        });
        address
    }

    async fn check(
        health: &HealthSettings,
        protocol: AppProtocol,
        answer: fn(&Request<Incoming>) -> Response<String>,
    ) -> Result<(), CheckFailure> {
        let address = app(protocol, answer).await;
        let stream = TcpStream::connect(address).await.expect("connected");
        HttpCheck { health, protocol, path: "/up", address }.attempt(stream).await
    }

    fn health() -> HealthSettings {
        HealthSettings {
            path: Some("/up".to_owned()),
            host: Some("shop.localhost".to_owned()),
            ..HealthSettings::default()
        }
    }

    fn status(status: u16) -> Response<String> {
        Response::builder().status(status).body("sick: no database".to_owned()).expect("a response")
    }

    fn redirect(code: u16, location: &str) -> Response<String> {
        let mut response = status(code);
        response.headers_mut().insert(LOCATION, location.parse().expect("a value"));
        response
    }

    #[tokio::test]
    async fn sends_host_and_headers_in_both_protocols() {
        let health =
            HealthSettings { headers: BTreeMap::from([("X-Key".to_owned(), "secret".to_owned())]), ..health() };
        for protocol in [AppProtocol::Http1, AppProtocol::H2c] {
            let answer = |request: &Request<Incoming>| {
                let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
                let host = host.or(request.uri().host());
                let key = request.headers().get("x-key").is_some_and(|key| key == "secret");
                status(if host == Some("shop.localhost") && key { 200 } else { 400 })
            };
            check(&health, protocol, answer).await.unwrap_or_else(|failed| panic!("{protocol:?}: {failed:?}"));
        }
        let failed = check(&health, AppProtocol::Http1, |_| status(400)).await.expect_err("refused");
        assert_eq!((failed.outcome.as_str(), failed.body.as_str()), ("status 400 Bad Request", "sick: no database"));
        assert!(failed.remedy.is_some_and(|remedy| remedy.contains("accept the host name shop.localhost")));
        let failed = check(&health, AppProtocol::H2c, |_| status(503)).await.expect_err("refused");
        assert_eq!(failed.outcome, "status 503 Service Unavailable");
    }

    #[tokio::test]
    async fn repeats_a_check_behind_tls_after_a_redirect_to_https() {
        let always = |_: &Request<Incoming>| redirect(301, "https://shop.localhost/up");
        let failed = check(&health(), AppProtocol::Http1, always).await.expect_err("a redirect");
        assert!(failed.outcome.contains("also with X-Forwarded-Proto"), "{failed:?}");
        let behind_tls = |request: &Request<Incoming>| {
            if request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https") {
                return status(204);
            }
            redirect(308, "HTTPS://shop.localhost/up")
        };
        check(&health(), AppProtocol::Http1, behind_tls).await.expect("healthy behind TLS");
        let broken_behind_tls = |request: &Request<Incoming>| {
            let is_proxied = request.headers().contains_key("x-forwarded-proto");
            if is_proxied { status(500) } else { redirect(302, "https://shop.localhost/up") }
        };
        let failed = check(&health(), AppProtocol::Http1, broken_behind_tls).await.expect_err("an error behind TLS");
        assert_eq!(failed.outcome, "status 500 Internal Server Error");
        let elsewhere = |_: &Request<Incoming>| redirect(302, "/login");
        check(&health(), AppProtocol::Http1, elsewhere).await.expect("a redirect within the application");
    }

    #[tokio::test]
    async fn requires_the_content_in_the_body() {
        let wanted = |content: &str| HealthSettings { content: Some(content.to_owned()), ..health() };
        check(&wanted("no database"), AppProtocol::Http1, |_| status(200)).await.expect("it is there");
        let failed = check(&wanted("never there"), AppProtocol::Http1, |_| status(200)).await.expect_err("it is not");
        assert!(failed.outcome.contains("the body does not contain \"never there\""), "{failed:?}");
    }
}
