//! Deliveries: sends messages of push queues to their subscribers, and results of jobs to their callbacks.
//!
//! ```text
//!  post, end of a job ─► deliveries in the queue's storage ─ take ─► request (`outbound`) ─► answer, recorded
//!                              ▲                                                                  │
//!                              └──────────────── retry after a pause ◄────────────────────────────┘
//! ```
//! - A delivery is taken under a reservation of 30 s. A server that dies with a request under way loses none: the next
//!   server takes the delivery again. Receivers get each delivery at least once.
//! - A message for another queue or for a job is queued in the transaction that records its delivery (`forward`): exactly
//!   once, also across the death of the server.
//! - The rules are in the crate `queue`. `request` makes the requests, `signature` signs those of callbacks.

mod forward;
mod request;
mod reservation_id;
mod signature;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_queue::{Jitter, ReceiverAnswer, Reservation, SubscriberUrl};
use gantry_queue_store::{
    DeliveryCommand, DeliveryId, DeliveryReply, DeliveryWork, Forwarded, TakenDeliveries, TakenDelivery,
};
use tokio::task::{Id, JoinError, JoinSet};

use self::request::PushedMessage;
pub(crate) use self::reservation_id::parse_reservation_id;
use crate::gc_pins::GcPin;
use crate::jobs::JobsError;
use crate::outbound::{HostSlots, OutboundClient, OutboundError, OutboundRequest, PER_HOST};
use crate::{Server, core, http};

/// Longest pause between two passes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Shortest pause between two passes: jobs may end thousands of times a second.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Pauses before an answer is recorded again, if the storage is away. Then the delivery is sent again instead.
const RECORD_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(5)];

/// Runs until the queue's storage breaks.
pub(crate) async fn run(server: Arc<Server>) {
    let mut sender = Sender::default();
    loop {
        let nudged = server.jobs.deliverable.notified();
        let pause = match sender.pass(&server).await {
            Ok(pause) => pause,
            Err(JobsError::Stopping) => return,
            // The server starts again once the disk is writable.
            Err(JobsError::ReadOnly) => PAUSE_MAX,
            Err(error) => {
                tracing::error!(error = crate::causes(&error), "cannot read the deliveries; retrying");
                PAUSE_MAX
            }
        };
        tokio::select! {
            Some(ended) = sender.requests.join_next_with_id() => sender.ended(ended),
            () = nudged => tokio::time::sleep(PAUSE_MIN).await,
            () = tokio::time::sleep(pause.clamp(PAUSE_MIN, PAUSE_MAX)) => {}
        }
    }
}

/// The requests under way.
#[derive(Default)]
struct Sender {
    client: Arc<OutboundClient>,
    slots: HostSlots,
    /// Each request returns true if there was no response in time.
    requests: JoinSet<bool>,
    /// The host of each request.
    hosts: HashMap<Id, String>,
    round: HostRound,
}

/// The place in a round over all hosts. A round is one take after another, each after the last host of the one before.
#[derive(Debug, Default)]
struct HostRound {
    /// The host after which the next take begins; empty at the begin of a round.
    after: String,
    /// A take of this round found deliveries.
    has_taken: bool,
}

impl HostRound {
    /// Takes note of a take. Returns whether a further take may find deliveries at once: hosts are left in this round, or
    /// the hosts before the last take may have more.
    fn took(&mut self, last: String, count: usize) -> bool {
        self.has_taken |= count > 0;
        self.after = last;
        !self.after.is_empty() || std::mem::take(&mut self.has_taken)
    }
}

impl Sender {
    /// Takes what is due, and begins its requests; returns the time until the next look.
    async fn pass(&mut self, server: &Arc<Server>) -> Result<Duration, JobsError> {
        while let Some(ended) = self.requests.try_join_next_with_id() {
            self.ended(ended);
        }
        let free = self.slots.free();
        let next = server.jobs.read(|reader| reader.next_delivery()).await?;
        let now = core::now();
        let Some(next) = next.filter(|_| free > 0) else { return Ok(PAUSE_MAX) };
        if next > now {
            self.round = HostRound::default();
            return Ok(Duration::from_millis(next.since(now)));
        }
        self.client.allowed().set(server.core.view().records.policy.callback_private_addresses());
        let command = DeliveryCommand::Take {
            most: free,
            most_per_host: PER_HOST,
            rooms: self.slots.free_requests(),
            after: self.round.after.clone(),
        };
        let DeliveryReply::Taken(TakenDeliveries { deliveries, last }) = server.jobs.delivery(command).await? else {
            return Ok(PAUSE_MAX);
        };
        gantry_failpoint::failpoint!("delivery.taken");
        // Everything that is due and not taken waits for a slot, unless a further take may find it.
        let pause = if self.round.took(last, deliveries.len()) { PAUSE_MIN } else { PAUSE_MAX };
        for delivery in deliveries {
            let host = delivery.host.clone();
            self.begin(host, deliver(Arc::clone(server), Arc::clone(&self.client), delivery));
        }
        Ok(pause)
    }

    fn begin(&mut self, host: String, request: impl Future<Output = bool> + Send + 'static) {
        self.slots.begin(&host);
        let task = self.requests.spawn(request);
        self.hosts.insert(task.id(), host);
    }

    fn ended(&mut self, ended: Result<(Id, bool), JoinError>) {
        let (request, slow) = ended.unwrap_or_else(|error| {
            // The delivery is taken again once its reservation is over.
            tracing::error!(%error, "the task of a delivery failed; the delivery is repeated later");
            (error.id(), false)
        });
        if let Some(host) = self.hosts.remove(&request) {
            self.slots.end(&host, slow);
        }
    }
}

/// Carries out a delivery, and records the answer. Returns true if there was no response in time.
async fn deliver(server: Arc<Server>, client: Arc<OutboundClient>, taken: TakenDelivery) -> bool {
    let TakenDelivery { id, reservation, work, .. } = taken;
    let is_callback = matches!(work, DeliveryWork::Callback(_));
    let jitter = Jitter(rand::random());
    let (answer, status, note, slow) = match prepare(&server, id, reservation, work).await {
        Ok(Prepared::Request(request)) => {
            let sent = client.post(request).await;
            gantry_failpoint::failpoint!("delivery.sent");
            let (answer, status, note) = judged(&sent, is_callback);
            (answer, status, note, matches!(&sent, Err(OutboundError::Timeout)))
        }
        Ok(Prepared::Forward(forwarded, _pin)) => {
            record(&server, DeliveryCommand::Forward { id, reservation, forwarded, jitter }).await;
            gantry_failpoint::failpoint!("delivery.forwarded");
            return false;
        }
        Ok(Prepared::Impossible(why)) => (ReceiverAnswer::Failed, None, Some(why), false),
        Ok(Prepared::Gone) => return false,
        Err(error) => {
            tracing::error!(error = crate::causes(&error), "cannot prepare a delivery; retrying");
            return false;
        }
    };
    record(&server, DeliveryCommand::Answer { id, reservation, answer, status, note, jitter }).await;
    slow
}

/// The meaning of a response: a push is acknowledged by 200, a callback by any status of success.
fn judged(sent: &Result<u16, OutboundError>, is_callback: bool) -> (ReceiverAnswer, Option<u16>, Option<String>) {
    match sent {
        Ok(200) => (ReceiverAnswer::Acknowledged, Some(200), None),
        Ok(status @ 200..=299) if is_callback => (ReceiverAnswer::Acknowledged, Some(*status), None),
        Ok(202) => (ReceiverAnswer::Accepted, Some(202), None),
        Ok(status) => (ReceiverAnswer::Failed, Some(*status), Some(format!("the receiver answered {status}"))),
        Err(error) => (ReceiverAnswer::Failed, None, Some(crate::causes(error))),
    }
}

async fn record(server: &Server, command: DeliveryCommand) {
    for pause in RECORD_PAUSES {
        match server.jobs.delivery(command.clone()).await {
            Err(error @ JobsError::Store(_)) => {
                tracing::warn!(error = crate::causes(&error), "cannot record the answer to a delivery; retrying");
            }
            _ => return,
        }
        tokio::time::sleep(pause).await;
    }
}

/// The request of a delivery, or why there is none.
enum Prepared {
    Request(OutboundRequest),
    /// The message goes into a queue. Until its job is queued, the pin keeps the job's image.
    Forward(Forwarded, Option<GcPin>),
    /// The job was removed, and its delivery with it.
    Gone,
    Impossible(String),
}

async fn prepare(
    server: &Server,
    delivery: DeliveryId,
    reservation: Reservation,
    work: DeliveryWork,
) -> Result<Prepared, JobsError> {
    match work {
        DeliveryWork::Push { queue, message, subscriber, url, headers, body } => Ok(match url {
            SubscriberUrl::Http(url) => {
                let pushed = PushedMessage { queue, message, delivery, reservation, subscriber, headers, body };
                Prepared::Request(request::push(url, &server.settings.api_url(), pushed))
            }
            SubscriberUrl::Queue(target) => Prepared::Forward(forward::message(queue, target, headers, body), None),
            SubscriberUrl::Code(code) => {
                let pin = server.gc_pins.take();
                match forward::job(server, queue, code, body).await {
                    Ok(forwarded) => Prepared::Forward(forwarded, Some(pin)),
                    Err(problem) => Prepared::Impossible(problem.message),
                }
            }
        }),
        DeliveryWork::Callback(job) => {
            let found = server.jobs.read(move |reader| reader.job(job)).await?;
            let found = found.and_then(|details| Some((details.job.settings.callback.clone()?, details)));
            let Some((url, details)) = found else { return Ok(Prepared::Gone) };
            let project = details.queue.project.clone();
            let result = http::job_result(&server.jobs, details);
            let Some(key) = server.jobs.signing_key(project, false).await? else {
                return Ok(Prepared::Impossible("too many projects have a key that signs callbacks".to_owned()));
            };
            let request = request::callback(url, delivery, &result, &key, core::now());
            let unwritten =
                |error: serde_json::Error| Prepared::Impossible(format!("cannot write the result as JSON: {error}"));
            Ok(request.map_or_else(unwritten, Prepared::Request))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_acknowledged_by_200_alone_and_a_callback_by_any_success() {
        for (status, push, callback) in [
            (200, ReceiverAnswer::Acknowledged, ReceiverAnswer::Acknowledged),
            (202, ReceiverAnswer::Accepted, ReceiverAnswer::Acknowledged),
            (204, ReceiverAnswer::Failed, ReceiverAnswer::Acknowledged),
            (302, ReceiverAnswer::Failed, ReceiverAnswer::Failed),
            (404, ReceiverAnswer::Failed, ReceiverAnswer::Failed),
            (500, ReceiverAnswer::Failed, ReceiverAnswer::Failed),
        ] {
            assert_eq!(judged(&Ok(status), false).0, push, "{status}");
            assert_eq!(judged(&Ok(status), true).0, callback, "{status}");
        }
        let (answer, status, note) = judged(&Err(OutboundError::Timeout), true);
        assert_eq!((answer, status, note.as_deref()), (ReceiverAnswer::Failed, None, Some("no response within 10 s")));
    }

    #[tokio::test]
    async fn a_delivery_that_broke_gives_its_slot_back() {
        async fn broken() -> bool {
            panic!("the request broke");
        }
        let mut sender = Sender::default();
        let free = sender.slots.free();
        sender.begin("a".to_owned(), broken());
        sender.begin("a".to_owned(), async { false });
        assert_eq!(sender.slots.free(), free - 2);
        while let Some(ended) = sender.requests.join_next_with_id().await {
            sender.ended(ended);
        }
        assert_eq!((sender.slots.free(), sender.hosts.len()), (free, 0));
    }

    #[test]
    fn a_round_without_deliveries_is_the_last_one_for_now() {
        let mut round = HostRound::default();
        assert!(!round.took(String::new(), 0), "nothing is due");
        // The slots were full at the host "m". The rest of the hosts have nothing, and those up to "m" may have more.
        assert!(round.took("m".to_owned(), 128));
        assert_eq!(round.after, "m");
        assert!(round.took(String::new(), 0));
        assert_eq!(round.after, "");
        // All hosts were looked at.
        assert!(round.took("m".to_owned(), 0));
        assert!(!round.took(String::new(), 0));
        assert!(round.took(String::new(), 1));
        assert!(!round.took(String::new(), 0));
    }
}
