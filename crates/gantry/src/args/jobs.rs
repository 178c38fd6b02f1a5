//! Arguments of the commands for container jobs and their queues.

use clap::Subcommand;
use gantry_model::{AppName, Bytes};
use gantry_queue::{ConcurrencyKey, JobId, Priority, QueueName, ReceiverUrl};

use super::values::{Variable, age, code_name, concurrency_key, number, variable};
use crate::commands::jobs::QueueFilter;

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Queue a job: a role or an uploaded code of an app, or any image of the registry
    ///
    /// The job runs once in a container of its own, on any machine. It reads its payload from the file that
    /// PAYLOAD_FILE names.
    Run(Box<JobRun>),
    /// List jobs, newest first
    Ls {
        /// Only jobs of this app, or of this queue: `shop`, `shop/report`
        #[arg(value_name = "QUEUE")]
        queue: Option<QueueFilter>,
        /// Only dead letters: jobs that ended without success and were not cancelled
        #[arg(long)]
        dead: bool,
        /// Only jobs before this one
        #[arg(long, value_name = "JOB")]
        before: Option<JobId>,
        /// Maximum number of jobs to list
        #[arg(short = 'n', long, default_value_t = 30, value_parser = number::<usize>, value_name = "COUNT")]
        limit: usize,
    },
    /// Show a job
    Show {
        /// Number of the job
        job: JobId,
    },
    /// Show the output of a job's last attempt
    Logs {
        /// Number of the job
        job: JobId,
    },
    /// Cancel a job in any state
    Cancel {
        /// Number of the job
        job: JobId,
    },
    /// Queue an ended job again, as a new job
    Retry {
        /// Number of the job
        job: JobId,
        /// Delay before the job may start
        #[arg(long, value_parser = age, value_name = "DURATION")]
        delay: Option<u64>,
    },
    /// Show the key that signs the callbacks of an app's jobs
    Key {
        /// App
        app: AppName,
        /// Replace the key; the old key also signs for one more day
        #[arg(long)]
        rotate: bool,
    },
}

/// A job to queue.
#[derive(Debug, clap::Args)]
pub(crate) struct JobRun {
    #[command(flatten)]
    pub(crate) job: JobSpec,
    /// Wait for the end, print the output, and return the job's exit status
    #[arg(long)]
    pub(crate) follow: bool,
    /// Delay before the job may start: `90s`, `15m`, `1h`
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) delay: Option<u64>,
    /// Queue only the first of all jobs with this idempotency key
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency: Option<String>,
}

/// Workload of a job, and its limits.
#[derive(Debug, clap::Args)]
pub(crate) struct JobSpec {
    /// App and role, such as `shop/report`: the role's command, configuration and limits in the current release. Or an
    /// uploaded code: `shop/report`, or `report` of the app `jobs`
    #[arg(value_name = "APP/ROLE", value_parser = code_name, conflicts_with = "image", required_unless_present = "image")]
    pub(crate) code: Option<QueueName>,
    /// Image of Gantry's registry, such as `shop:1.2`
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Payload: a text, `@FILE`, or `-` for standard input
    #[arg(short = 'p', long, value_name = "PAYLOAD")]
    pub(crate) payload: Option<String>,
    /// Priority: 0, 1 or 2; 2 goes first
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    pub(crate) priority: Priority,
    /// Timeout of each attempt; one hour by default
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) timeout: Option<u64>,
    /// Retries after failed attempts
    #[arg(long, default_value_t = 0, value_parser = number::<u32>, value_name = "COUNT")]
    pub(crate) retries: u32,
    /// Pause before the first retry, doubled for each further one; 10 s by default
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) retry_delay: Option<u64>,
    /// End the job if it has not started after this time
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) expires: Option<u64>,
    /// Run at most LIMIT jobs with this key at the same time; 1 by default
    #[arg(long, value_parser = concurrency_key, value_name = "KEY[=LIMIT]")]
    pub(crate) key: Option<ConcurrencyKey>,
    /// Send the result to this URL once the job has ended: a signed POST request, repeated until it succeeds
    #[arg(long, value_name = "URL")]
    pub(crate) callback: Option<ReceiverUrl>,
    /// Variable of the job's environment; may be given several times
    #[arg(short = 'e', long, value_parser = variable, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Variable>,
    /// Memory limit; by default that of the role, or 512M
    #[arg(long, value_name = "SIZE", value_parser = Bytes::parse)]
    pub(crate) memory: Option<Bytes>,
    /// Run without a network
    #[arg(long)]
    pub(crate) no_network: bool,
    /// Program with its arguments; by default the command of the role or of the image
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List queues
    Ls,
    /// Show a queue
    Show {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: QueueName,
    },
    /// Start no more jobs of a queue; running jobs go on
    Pause {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: QueueName,
    },
    /// Start jobs of a paused queue again
    Resume {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: QueueName,
    },
    /// Limit the jobs of a queue that run at the same time; 0 removes the limit
    Limit {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: QueueName,
        /// Maximum number of jobs at the same time
        #[arg(value_name = "COUNT", value_parser = number::<u32>)]
        count: u32,
    },
    /// Cancel all waiting jobs of a queue
    Purge {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: QueueName,
        /// Name of the queue, as a confirmation
        #[arg(long, value_name = "QUEUE")]
        confirm: Option<String>,
    },
    /// List dead letters, newest first; `gantry job retry` queues one again
    Dead {
        /// Queue, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        queue: Option<QueueName>,
        /// Maximum number of jobs to list
        #[arg(short = 'n', long, default_value_t = 30, value_parser = number::<usize>, value_name = "COUNT")]
        limit: usize,
    },
}
