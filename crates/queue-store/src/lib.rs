//! Durable storage of container jobs and their schedules, behind a trait.
//!
//! - [`QueueStore`]: commands in, replies out; one transaction for any number of commands. Begin there.
//! - [`SqliteQueue`]: the embedded storage, a file of its own. [`PostgresQueue`]: the storage that several servers reach.
//! - [`QueueWriter`]: the thread that writes, which commits waiting requests together.
//! - [`move_queue`]: the move of a queue from a file into a database.
//! - [`QueueReader`]: pages and details, beside the writer.
//!
//! The storage decides nothing: each command loads jobs, applies the rules of the crate `queue`, and writes the result.
//! `sql` has the statements of both storages. Every command is short. Work on many jobs (delays that end, expiry, purges, removal of old jobs) goes in slices.

mod command;
mod delivery;
mod message;
mod postgres;
mod schedule;
mod sql;
mod sqlite;
mod transfer;
mod writer;

pub use command::{
    CODES_MAX, CancelEffect, ClaimedJob, Completed, JobProgress, JobReport, NewJob, QueueCommand, QueueReply,
    QueueSetting, QueueStore, QueueStoreError, SubmitRefusal, Upkeep, WAITING_MAX,
};
pub use delivery::{
    DELIVERIES_MAX, DeliveryCommand, DeliveryId, DeliveryReply, DeliveryWork, Forwarded, SIGNING_KEYS_MAX, SigningKey,
    StoredDelivery, TakenDeliveries, TakenDelivery,
};
pub use message::{
    ConsumerToken, MESSAGE_QUEUES_MAX, MESSAGES_MAX, MessageCommand, MessageFault, MessageId, MessageQueueInfo,
    MessageQueueName, MessageReply, NewMessage, StoredMessage,
};
pub use postgres::{PostgresAddress, PostgresAddressError, PostgresQueue};
pub use schedule::{
    Fire, Fired, NewSchedule, SCHEDULES_MAX, ScheduleCommand, ScheduleId, ScheduleOrigin, ScheduleRefusal,
    ScheduleReply, StoredSchedule,
};
pub use sql::read::{JobDetails, JobFilter, JobPage, OpenWork, QueueInfo, QueueReader};
pub use sqlite::{SqliteQueue, check_queue, copy_queue};
pub use transfer::{MoveError, MoveStep, MovedQueue, move_queue};
pub use writer::{QueueWriter, QueueWriterError};
