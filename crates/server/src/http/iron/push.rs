//! Push queues in the API of IronMQ: settings, subscribers, and the states of a message's deliveries.

use gantry_queue::{
    DeliveryState, MessageQueueKind, PushHeaders, PushSettings, Subscriber, SubscriberChange, SubscriberUrl,
};
use gantry_queue_store::{MessageCommand, MessageFault, MessageQueueName, StoredDelivery};
use gantry_schedule::rfc3339;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::messages::{id_of, invalid, order, refused};
use super::{IronCall, answer};
use crate::outbound::check_literal;

/// Settings of a push queue, as far as a request names them.
#[derive(Deserialize)]
pub(super) struct PushFields {
    subscribers: Option<Vec<SubscriberFields>>,
    retries: Option<u32>,
    retries_delay: Option<u64>,
    error_queue: Option<String>,
}

impl PushFields {
    /// Reports whether the request replaces the subscribers.
    pub(super) fn names_subscribers(&self) -> bool {
        self.subscribers.is_some()
    }
}

#[derive(Deserialize)]
struct SubscriberFields {
    name: String,
    url: String,
    headers: Option<PushHeaders>,
}

/// The settings after a request. A field that the request does not name stays.
pub(super) fn merged(
    call: &IronCall,
    queue: &MessageQueueName,
    known: Option<PushSettings>,
    fields: PushFields,
) -> HttpResult<PushSettings> {
    let mut settings = known.unwrap_or_default();
    if let Some(fields) = fields.subscribers {
        settings.subscribers = subscribers(call, fields)?;
    }
    settings.retries = fields.retries.unwrap_or(settings.retries);
    settings.retries_delay = fields.retries_delay.unwrap_or(settings.retries_delay);
    match fields.error_queue {
        Some(name) if name == queue.name => {
            return Err(invalid("a queue cannot be its own queue of errors").into());
        }
        // An empty name turns the reports off.
        Some(name) => settings.error_queue = Some(name).filter(|name| !name.is_empty()),
        None => {}
    }
    Ok(settings)
}

/// Reads subscribers. A private address is refused at once; names are checked when a message is sent.
fn subscribers(call: &IronCall, fields: Vec<SubscriberFields>) -> HttpResult<Vec<Subscriber>> {
    let allowed = call.server.core.view().records.policy.callback_private_addresses();
    let read = |SubscriberFields { name, url, headers }| {
        let wrong = |error: &dyn std::fmt::Display| {
            let name: String = name.chars().take(100).collect();
            invalid(format!("subscriber {name:?}: {error}"))
        };
        let url: SubscriberUrl = url.parse().map_err(|error| wrong(&error))?;
        if let SubscriberUrl::Http(url) = &url {
            check_literal(&allowed, url).map_err(|error| wrong(&error))?;
        }
        Ok(Subscriber { name, url, headers: headers.unwrap_or_default() })
    };
    fields.into_iter().map(read).collect()
}

/// The settings in a response. A caller who may not change the queue sees no headers and no queries of URLs: they may be
/// secrets.
pub(super) fn described(call: &IronCall, push: &PushSettings) -> Value {
    let subscribers = push.subscribers.iter().cloned().map(|subscriber| match call.may_change() {
        Ok(()) => subscriber,
        Err(_) => Subscriber { url: subscriber.url.masked(), headers: PushHeaders::new(), ..subscriber },
    });
    json!({
        "subscribers": subscribers.collect::<Vec<_>>(),
        "retries": push.retries,
        "retries_delay": push.retries_delay,
        "error_queue": push.error_queue,
    })
}

/// Adds, replaces or removes subscribers.
pub(super) async fn subscribe(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    #[derive(Deserialize)]
    struct Subscribers {
        subscribers: Vec<SubscriberFields>,
    }
    #[derive(Deserialize)]
    struct Names {
        subscribers: Vec<Name>,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    let change = if call.parts.method == Method::DELETE {
        let Names { subscribers } = call.parse()?;
        SubscriberChange::Remove(subscribers.into_iter().map(|named| named.name).collect())
    } else {
        let Subscribers { subscribers: fields } = call.parse()?;
        let subscribers = subscribers(call, fields)?;
        match call.parts.method {
            Method::PUT => SubscriberChange::Replace(subscribers),
            _ => SubscriberChange::Add(subscribers),
        }
    };
    order(call, &queue, MessageCommand::Subscribe(change)).await?;
    Ok(answer(json!({ "msg": "Updated" })))
}

/// The deliveries of a message, one for each subscriber that it goes to.
pub(super) async fn statuses(call: &IronCall, queue: MessageQueueName, id: &str) -> HttpResult {
    let id = id_of(id)?;
    let read = queue.clone();
    let info = call.server.jobs.read(move |reader| reader.message_queue(&read)).await?;
    let settings = info.ok_or_else(|| refused(&MessageFault::UnknownQueue))?.settings;
    let found = call.server.jobs.read(move |reader| reader.message_deliveries(&queue, id)).await?;
    let found = found.ok_or_else(|| refused(&MessageFault::UnknownMessage(id)))?;
    let push = settings.push.unwrap_or_default();
    let statuses: Vec<Value> = found.iter().map(|delivery| status(&push, settings.kind, delivery)).collect();
    Ok(answer(json!({ "subscribers": statuses })))
}

fn status(push: &PushSettings, kind: MessageQueueKind, stored: &StoredDelivery) -> Value {
    let attempts = stored.delivery.attempts;
    let rules = push.rules(kind);
    let most = rules.receivers.saturating_mul(rules.retries.saturating_add(1));
    let state = match stored.delivery.state {
        DeliveryState::Waiting { .. } => "waiting",
        DeliveryState::Sent { .. } => "sent",
        DeliveryState::Accepted { .. } => "accepted",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Failed => "failed",
    };
    json!({
        "subscriber_name": stored.subscriber,
        "url": stored.url.as_ref().map(SubscriberUrl::masked),
        "state": state,
        "tries": attempts,
        "retries_remaining": if stored.delivery.due().is_some() { most.saturating_sub(attempts) } else { 0 },
        "status_code": stored.status,
        "msg": stored.note,
        "last_try_at": stored.tried.map(rfc3339),
    })
}
