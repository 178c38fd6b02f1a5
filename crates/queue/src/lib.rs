//! The rules of container jobs. Pure: values in, a result out; `now`, randomness and elapsed time are arguments.
//!
//! - [`Job`], [`JobEvent`], [`Job::after`]: the states of a job, and one transition function. Begin there.
//! - [`JobSettings`]: settings of a job, with their limits.
//! - [`Rank`]: the order of the jobs of a queue. Priorities 0 to 2, without starvation.
//! - [`FairShare`]: the choice of the queue for the next job. Projects share evenly, and limits and pauses are respected.
//! - [`LeaseTable`]: leases of running jobs, without a clock.
//! - [`Message`], [`MessageEvent`]: messages of queues for applications.
//! - [`masked`]: payloads without secrets, for people.
//!
//! The rules know no storage, container or image. The work of a job is bytes to them. The crate `queue-store` stores jobs
//! and applies these rules in its transactions.

mod job;
mod lease;
mod mask;
mod message;
mod name;
mod order;
mod retry;
mod settings;
mod share;
#[cfg(test)]
mod tests;

pub use job::{AttemptOutcome, Job, JobEnd, JobEvent, JobState, Refusal};
pub use lease::{LEASE_MILLIS, LeaseTable};
pub use mask::masked;
pub use message::{
    DeadLetterPolicy, MESSAGE_MAX, Message, MessageEvent, MessageQueueSettings, MessageRefusal, Reservation,
    check_delay, check_reservation,
};
pub use name::{
    CodeName, Fence, InvalidCodeName, InvalidQueueName, InvalidScheduleName, JobId, QueueName, ScheduleName,
};
pub use order::{Priority, Rank, UnknownPriority};
pub use retry::{BACKOFF_MAX, Jitter, backoff};
pub use settings::{ConcurrencyKey, InvalidSettings, JobSettings, PAYLOAD_MAX, RetryPolicy};
pub use share::{FairShare, QueueLoad};
