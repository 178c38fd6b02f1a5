//! Arguments of the commands for schedules of container jobs.

use clap::Subcommand;
use gantry_model::{AppName, Moment};
use gantry_queue::{CodeName, ScheduleName};
use gantry_schedule::{Cron, MissedPolicy, OverlapPolicy, Zone};

use super::jobs::JobSpec;
use super::values::{age, moment, number, schedule_name};

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Create a schedule: a job at fixed times
    ///
    /// `gantry schedule create shop/report --cron "30 6 * * MON-FRI" --timezone Europe/Paris`. Without --cron and
    /// --every, the job runs once, at --start.
    Create(Box<ScheduleCreate>),
    /// List schedules
    Ls {
        /// Only schedules of this app
        app: Option<AppName>,
    },
    /// Show a schedule with its next five times
    Show {
        /// Schedule, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]NAME", value_parser = schedule_name)]
        schedule: ScheduleName,
    },
    /// Remove a schedule; jobs that it queued stay
    Rm {
        /// Schedule, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]NAME", value_parser = schedule_name)]
        schedule: ScheduleName,
    },
    /// Queue no more jobs of a schedule; times during a pause are not made up for
    Pause {
        /// Schedule, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]NAME", value_parser = schedule_name)]
        schedule: ScheduleName,
    },
    /// Let a paused schedule continue
    Resume {
        /// Schedule, such as `shop/report`; `report` alone belongs to the app `jobs`
        #[arg(value_name = "[APP/]NAME", value_parser = schedule_name)]
        schedule: ScheduleName,
    },
}

/// A schedule to create.
#[derive(Debug, clap::Args)]
pub(crate) struct ScheduleCreate {
    #[command(flatten)]
    pub(crate) job: JobSpec,
    /// Name of the schedule; by default that of the role
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<CodeName>,
    /// Times, as minute, hour, day of the month, month and day of the week; with six fields, seconds come first
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
    pub(crate) cron: Option<Cron>,
    /// Time zone of --cron; UTC by default
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) timezone: Option<Zone>,
    /// Interval: `90s`, `15m`, `1h`
    #[arg(long, value_parser = age, value_name = "DURATION")]
    pub(crate) every: Option<u64>,
    /// No job before this time, such as 2026-12-01T06:00:00+01:00
    #[arg(long, value_parser = moment, value_name = "TIME")]
    pub(crate) start: Option<Moment>,
    /// No job after this time
    #[arg(long, value_parser = moment, value_name = "TIME")]
    pub(crate) end: Option<Moment>,
    /// Maximum number of runs
    #[arg(long, value_name = "COUNT", value_parser = number::<u64>)]
    pub(crate) count: Option<u64>,
    /// Policy for times at which the server was away: `skip`, `once` or `all`
    #[arg(long, default_value = "once", value_name = "POLICY")]
    pub(crate) missed: MissedPolicy,
    /// Policy while the last job still waits or runs: `allow`, `forbid` or `replace`
    #[arg(long, default_value = "allow", value_name = "POLICY")]
    pub(crate) overlap: OverlapPolicy,
}
