//! One POST request to a foreign URL.

use std::time::Duration;

use bytes::Bytes;
use gantry_queue::ReceiverUrl;
use http::HeaderMap;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

use super::addresses::{AllowedRanges, RefusedAddress, literal};

/// Deadline of a request, from the resolution of the name to the head of the response.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes and time of a response's body that are read, so that its connection can be used again. The content counts for
/// nothing.
const BODY_MAX: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(1);

/// Idle connections to a host, and the time that they are kept.
const IDLE_MAX: usize = 4;
const IDLE_TIME: Duration = Duration::from_secs(15);

/// A client for foreign URLs.
#[derive(Debug, Default)]
pub(crate) struct OutboundClient {
    allowed: AllowedRanges,
    /// Made with the first request: the system's certificates may be missing until then.
    client: OnceCell<reqwest::Client>,
}

/// A request.
pub(crate) struct OutboundRequest {
    pub(crate) url: ReceiverUrl,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Names the headers without their values, which may be secret.
impl std::fmt::Debug for OutboundRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundRequest")
            .field("url", &self.url)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// Reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// The client cannot be made.
    #[error("cannot prepare TLS")]
    Client(#[source] reqwest::Error),
    /// The URL names a private address.
    #[error(transparent)]
    Private(#[from] RefusedAddress),
    /// The deadline is over.
    #[error("no response within {} s", DEADLINE.as_secs())]
    Timeout,
    /// The host cannot be reached, or broke the connection.
    #[error("cannot reach the host")]
    Unreachable(#[source] reqwest::Error),
}

/// Resolves names, and leaves out the addresses that no request may reach.
struct CheckedResolver(AllowedRanges);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Addrs = Box::new(allowed.filter(found)?.into_iter());
            Ok(addresses)
        })
    }
}

impl OutboundClient {
    /// The private ranges that requests may reach.
    pub(crate) fn allowed(&self) -> &AllowedRanges {
        &self.allowed
    }

    /// Sends a request; returns the status of the response. Redirects are responses as any other.
    pub(crate) async fn post(&self, request: OutboundRequest) -> Result<u16, OutboundError> {
        // The client resolves no address that is written as a number.
        if let Some(address) = literal(request.url.as_str()) {
            self.allowed.check(address)?;
        }
        let client = self.client.get_or_try_init(async || self.make()).await.map_err(OutboundError::Client)?;
        let sending = client.post(request.url.as_str()).headers(request.headers).body(request.body).send();
        let mut response = match tokio::time::timeout(DEADLINE, sending).await {
            Err(_) => return Err(OutboundError::Timeout),
            Ok(Err(error)) if error.is_timeout() => return Err(OutboundError::Timeout),
            // The URL may contain a secret.
            Ok(Err(error)) => return Err(OutboundError::Unreachable(error.without_url())),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        let body = async {
            let mut size = 0;
            while let Ok(Some(chunk)) = response.chunk().await
                && size <= BODY_MAX
            {
                size += chunk.len();
            }
        };
        let _ = tokio::time::timeout(BODY_TIME, body).await;
        Ok(status)
    }

    fn make(&self) -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder()
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            // `Iron-Message-Id`, as it is documented: not every receiver compares names without regard to case.
            .http1_title_case_headers()
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIME)
            .dns_resolver(CheckedResolver(self.allowed.clone()))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn request(url: &str) -> OutboundRequest {
        OutboundRequest { url: url.parse().expect("a URL"), headers: HeaderMap::new(), body: Bytes::from("hello") }
    }

    #[test]
    fn debug_leaves_out_secrets_of_the_receiver() {
        let mut request = request("https://receiver.example/hook?token=url-secret");
        let value = http::HeaderValue::from_static("header-secret");
        request.headers.insert(http::header::AUTHORIZATION, value);
        let shown = format!("{request:?}");
        assert!(shown.contains("receiver.example") && shown.contains("authorization"), "{shown}");
        assert!(!shown.contains("url-secret") && !shown.contains("header-secret"), "{shown}");
    }

    fn open() -> OutboundClient {
        let client = OutboundClient::default();
        let ranges = ["127.0.0.0/8".parse().expect("a range"), "::1".parse().expect("an address")];
        client.allowed().set(gantry_model::TrustedProxies::new(ranges.to_vec()));
        client
    }

    /// A receiver that gives each connection the same response, and returns what it read.
    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn receiver(response: &'static str) -> (u16, tokio::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let (sender, received) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let length = stream.read(&mut buffer).await.unwrap_or_default();
                let _ = sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        (port, received)
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused_before_a_connection() {
        let (port, mut received) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let closed = OutboundClient::default();
        for host in ["localhost", "127.0.0.1", "127.1", "[::ffff:127.0.0.1]"] {
            let error = closed.post(request(&format!("http://{host}:{port}/"))).await.expect_err(host);
            assert!(crate::causes(&error).contains("private address"), "{host}: {}", crate::causes(&error));
        }
        assert!(received.try_recv().is_err(), "a connection was made");
        assert_eq!(open().post(request(&format!("http://localhost:{port}/"))).await.expect("a response"), 200);
        assert!(received.recv().await.expect("a request").starts_with("POST / HTTP/1.1"));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (target, mut reached) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let response =
            format!("HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{target}/\r\ncontent-length: 0\r\n\r\n");
        let (port, _received) = receiver(Box::leak(response.into_boxed_str())).await;
        assert_eq!(open().post(request(&format!("http://127.0.0.1:{port}/"))).await.expect("a response"), 307);
        assert!(reached.try_recv().is_err(), "the redirect was followed");
    }

    #[tokio::test]
    async fn a_body_without_end_costs_a_bounded_time() {
        let (port, _received) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx").await;
        let began = std::time::Instant::now();
        assert_eq!(open().post(request(&format!("http://127.0.0.1:{port}/"))).await.expect("a response"), 200);
        assert!(began.elapsed() < DEADLINE / 2);
    }

    #[tokio::test]
    async fn an_error_does_not_show_the_query_of_the_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let error = open().post(request(&format!("http://127.0.0.1:{port}/?token=secret"))).await.expect_err("closed");
        assert!(!crate::causes(&error).contains("secret"), "{}", crate::causes(&error));
    }
}
