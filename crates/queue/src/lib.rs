//! The rules of container jobs. Pure: values in, a result out; `now`, randomness and elapsed time are arguments.
//!
//! - [`Job`], [`JobEvent`], [`Job::after`]: the states of a job, and one transition function. Begin there.
//! - [`JobSettings`]: settings of a job, with their limits.
//! - [`Rank`]: the order of the jobs of a queue. Priorities 0 to 2, without starvation.
//! - [`FairShare`]: the choice of the queue for the next job. Projects share evenly, and limits and pauses are respected.
//! - [`LeaseTable`]: leases of running jobs, without a clock.
//! - [`Message`], [`MessageEvent`]: messages of queues for applications.
//! - [`PushSettings`], [`Subscriber`]: queues whose messages are pushed.
//! - [`copies_of_each`]: the limit of a message's copies in queues behind its own.
//! - [`Delivery`], [`DeliveryEvent`]: requests to receivers of others, for push queues and for callbacks of jobs.
//! - [`masked`]: payloads without secrets, for people.
//!
//! The rules know no storage, container or image. The work of a job is bytes to them. The crate `queue-store` stores jobs
//! and applies these rules in its transactions.

mod copies;
mod delivery;
mod job;
mod lease;
mod mask;
mod message;
mod name;
mod order;
mod push;
mod receiver;
mod retry;
mod settings;
mod share;
mod subscriber_url;
#[cfg(test)]
mod tests;

pub use copies::{COPIES_MAX, copies_of_each, set_copies_left, take_copies_left};
pub use delivery::{
    CALLBACK_RULES, Delivery, DeliveryEvent, DeliveryRefusal, DeliveryRules, DeliveryState, ReceiverAnswer, RetryPause,
    SEND_LEASE,
};
pub use job::{AttemptOutcome, Job, JobEnd, JobEvent, JobState, Refusal};
pub use lease::{LEASE_MILLIS, LeaseTable};
pub use mask::masked;
pub use message::{
    DeadLetterPolicy, MESSAGE_MAX, Message, MessageEvent, MessageQueueSettings, MessageRefusal, Reservation,
    check_delay, check_reservation,
};
pub use name::{
    CodeName, Fence, InvalidCodeName, InvalidJobId, InvalidQueueName, InvalidScheduleName, JobId, QueueName,
    ScheduleName,
};
pub use order::{Priority, Rank, UnknownPriority};
pub use push::{
    InvalidPush, MessageQueueKind, PushFailure, PushHeaders, PushSettings, SUBSCRIBERS_MAX, Subscriber,
    SubscriberChange, check_headers, error_report,
};
pub use receiver::{InvalidReceiver, ReceiverUrl};
pub use retry::{BACKOFF_MAX, Jitter, backoff};
pub use settings::{ConcurrencyKey, InvalidSettings, JobSettings, PAYLOAD_MAX, RetryPolicy};
pub use share::{FairShare, QueueLoad};
pub use subscriber_url::{InvalidSubscriberUrl, MESSAGE_QUEUE_NAME_MAX, SubscriberUrl};
