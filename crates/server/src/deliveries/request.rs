//! The requests of deliveries: a message for a subscriber, and the result of a job.

use bytes::Bytes;
use gantry_api::jobs::JobResult;
use gantry_model::Moment;
use gantry_queue::{PushHeaders, ReceiverUrl, Reservation};
use gantry_queue_store::{DeliveryId, MessageId, MessageQueueName, SigningKey};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::reservation_id::reservation_id;
use super::signature::{HEADER, signature};
use crate::outbound::OutboundRequest;

/// A message of a push queue, and its delivery to a subscriber.
pub(super) struct PushedMessage {
    pub(super) queue: MessageQueueName,
    pub(super) message: MessageId,
    pub(super) delivery: DeliveryId,
    pub(super) reservation: Reservation,
    /// Name of the subscriber.
    pub(super) subscriber: String,
    /// Headers of the subscriber, and over them those of the message.
    pub(super) headers: PushHeaders,
    pub(super) body: String,
}

impl PushedMessage {
    /// The headers that name the message, the delivery and the subscriber, with IronMQ's names.
    fn names(&self, api: &str) -> [(&'static str, String); 5] {
        [
            ("iron-message-id", self.message.to_string()),
            ("iron-reservation-id", reservation_id(self.delivery, self.reservation)),
            ("iron-subscriber-name", self.subscriber.clone()),
            ("iron-subscriber-message-id", self.delivery.to_string()),
            ("iron-subscriber-message-url", self.url(api)),
        ]
    }

    /// The URL whose DELETE request acknowledges the message, below the URL of the API.
    fn url(&self, api: &str) -> String {
        let Ok(mut url) = reqwest::Url::parse(api) else { return String::new() };
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(["3", "projects", self.queue.project.as_str(), "queues"]);
            path.extend(self.queue.name.split('/')).extend(["messages", &self.message.to_string()]);
        }
        url.query_pairs_mut().append_pair("reservation_id", &reservation_id(self.delivery, self.reservation));
        url.into()
    }
}

/// The request that pushes a message. `api` is the URL of the API. The message's own headers and those of its subscriber
/// may replace only these two defaults.
pub(super) fn push(url: ReceiverUrl, api: &str, pushed: PushedMessage) -> OutboundRequest {
    let mut all = HeaderMap::new();
    all.insert(header::USER_AGENT, HeaderValue::from_static(concat!("gantry/", env!("CARGO_PKG_VERSION"))));
    all.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let names = pushed.names(api);
    let own = names.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in pushed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own) {
        // The names and values were checked when they were stored.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            all.insert(name, value);
        }
    }
    OutboundRequest { url, headers: all, body: Bytes::from(pushed.body) }
}

/// The request with the result of a job.
pub(super) fn callback(
    url: ReceiverUrl,
    id: DeliveryId,
    result: &JobResult,
    key: &SigningKey,
    now: Moment,
) -> Result<OutboundRequest, serde_json::Error> {
    let body = Bytes::from(serde_json::to_vec(result)?);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [(HEADER, signature(key, &body, now)), ("gantry-delivery", id.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Ok(OutboundRequest { url, headers, body })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn headers_of_a_message_replace_the_defaults_and_nothing_else() {
        let headers = BTreeMap::from([
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("X-Kind".to_owned(), "news".to_owned()),
            ("Iron-Message-Id".to_owned(), "9".to_owned()),
        ]);
        let pushed = PushedMessage {
            queue: MessageQueueName { project: "shop".parse().expect("a name"), name: "a/b c".to_owned() },
            message: MessageId(7),
            delivery: DeliveryId(3),
            reservation: Reservation(1),
            subscriber: "a".to_owned(),
            headers,
            body: "x".to_owned(),
        };
        let url = "http://a.example/".parse().expect("a URL");
        let request = push(url, "https://cloud.example:4680", pushed);
        let found = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(found("content-type"), Some("application/json"));
        assert_eq!((found("x-kind"), found("iron-message-id")), (Some("news"), Some("7")));
        assert_eq!((found("iron-reservation-id"), found("iron-subscriber-name")), (Some("3-1"), Some("a")));
        assert_eq!(found("iron-subscriber-message-id"), Some("3"));
        let expected = "https://cloud.example:4680/3/projects/shop/queues/a/b%20c/messages/7?reservation_id=3-1";
        assert_eq!(found("iron-subscriber-message-url"), Some(expected));
    }
}
