//! Durable storage of container jobs and their schedules, behind a trait.
//!
//! - [`QueueStore`]: commands in, replies out; one transaction for any number of commands. Begin there.
//! - [`SqliteQueue`]: the embedded storage, a file of its own. [`PostgresQueue`]: the storage that several servers reach.
//! - [`QueueReader`]: pages and details, beside the writer.
//!
//! The storage decides nothing: each command loads jobs, applies the rules of the crate `queue`, and writes the result.
//! `sql` has the statements of both storages. Every command is short. Work on many jobs (delays that end, expiry, purges, removal of old jobs) goes in slices.

mod command;
mod message;
mod postgres;
mod schedule;
mod sql;
mod sqlite;

pub use command::{
    CODES_MAX, CancelEffect, ClaimedJob, Completed, JobProgress, JobReport, NewJob, QueueCommand, QueueReply,
    QueueSetting, QueueStore, QueueStoreError, SubmitRefusal, Upkeep, WAITING_MAX,
};
pub use message::{
    MESSAGE_QUEUES_MAX, MESSAGES_MAX, MessageCommand, MessageFault, MessageId, MessageQueueInfo, MessageQueueName,
    MessageReply, StoredMessage,
};
pub use postgres::{PostgresAddress, PostgresAddressError, PostgresQueue};
pub use schedule::{
    Fire, Fired, NewSchedule, SCHEDULES_MAX, ScheduleCommand, ScheduleId, ScheduleOrigin, ScheduleRefusal,
    ScheduleReply, StoredSchedule,
};
pub use sql::read::{JobDetails, JobFilter, JobPage, OpenWork, QueueInfo, QueueReader};
pub use sqlite::{SqliteQueue, check_queue, copy_queue};
