//! Tests of the rules: by table, and properties over random histories.

mod delivery;
mod lease;
mod mask;
mod message;
mod order;
mod properties;
mod push;
mod settings;
mod share;
mod transitions;

use gantry_model::{AppName, MachineName, Moment};

use crate::{Fence, Job, JobEvent, JobSettings, JobState, Rank};

/// A name of a machine.
fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

/// A name of a project.
fn project(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

/// A job submitted at second 1.
fn job(settings: JobSettings) -> Job {
    Job::submitted(settings, Moment(1000), true)
}

/// A job in a state.
fn job_in(state: JobState) -> Job {
    Job { state, fence: Fence(3), ..job(JobSettings::default()) }
}

/// A job that machine `m` has under token 3.
fn leased() -> Job {
    job_in(JobState::Leased { machine: machine("m"), since: Moment(2000), cancelling: false })
}

/// A job that waits for a machine.
fn ready() -> Job {
    job_in(JobState::Ready { rank: Rank(1000) })
}

/// The event of machine `m` taking a job.
fn claim() -> JobEvent {
    JobEvent::Claim { machine: machine("m") }
}
