//! Jobs as the API describes them.

use gantry_api::jobs::{CallbackInfo, CallbackState, JobAttempt, JobInfo, JobProgress, JobResult, JobStatus};
use gantry_control::jobs::AttemptDetails;
use gantry_model::{Moment, TimeSpan};
use gantry_queue::{DeliveryState, JobSettings, JobState, ReceiverUrl, masked};
use gantry_queue_store::{JobDetails, StoredDelivery};

use crate::core;
use crate::jobs::{JobService, StoredWork, WorkSource};

/// Longest payload that a description contains, in characters.
const PAYLOAD_SHOWN_MAX: usize = 2000;

/// Describes a job.
pub(super) fn job_info(jobs: &JobService, details: JobDetails) -> JobInfo {
    let JobDetails { id, queue, job, by, work, payload, details, progress, callback } = details;
    let attempt: Option<AttemptDetails> = details.and_then(|text| serde_json::from_slice(&text).ok());
    let running = jobs.started(id);
    let status = status(&job.state, running);
    let (machine, ended) = match &job.state {
        JobState::Leased { machine, .. } => (Some(machine.clone()), None),
        JobState::Ended { at, .. } => (None, Some(*at)),
        _ => (None, None),
    };
    JobInfo {
        id,
        queue,
        revision: revision_of(&work),
        status,
        note: note(&job.state, attempt.as_ref(), core::now()),
        settings: JobSettings { callback: job.settings.callback.as_ref().map(ReceiverUrl::masked), ..job.settings },
        payload: masked(&payload).map(|text| text.chars().take(PAYLOAD_SHOWN_MAX).collect()),
        payload_size: payload.len() as u64,
        by,
        submitted: job.submitted,
        started: running.or_else(|| attempt.as_ref().and_then(|attempt| attempt.started)),
        ended,
        machine,
        progress: progress.map(|progress| JobProgress { percent: progress.percent, message: progress.message }),
        failures: job.failures,
        lost: job.lost,
        attempt: attempt.as_ref().map(job_attempt),
        callback: callback.map(callback_info),
    }
}

fn callback_info(stored: StoredDelivery) -> CallbackInfo {
    let state = match stored.delivery.state {
        DeliveryState::Delivered => CallbackState::Delivered,
        DeliveryState::Failed => CallbackState::Failed,
        _ => CallbackState::Waiting,
    };
    CallbackInfo {
        state,
        attempts: stored.delivery.attempts,
        status: stored.status,
        error: stored.note,
        tried: stored.tried,
        next: stored.delivery.due(),
    }
}

/// The result of a job, for its callback.
pub(crate) fn job_result(jobs: &JobService, details: JobDetails) -> JobResult {
    let info = job_info(jobs, details);
    let attempt = info.attempt.as_ref();
    JobResult {
        id: info.id,
        queue: info.queue.to_string(),
        state: info.status,
        exit_status: attempt.and_then(|attempt| attempt.code),
        signal: attempt.and_then(|attempt| attempt.signal),
        out_of_memory: attempt.is_some_and(|attempt| attempt.out_of_memory),
        duration_millis: attempt.map_or(0, |attempt| attempt.duration_millis),
        peak_memory: attempt.map_or(0, |attempt| attempt.peak_memory),
        cpu_micros: attempt.map_or(0, |attempt| attempt.cpu_micros),
        failures: info.failures,
        submitted: info.submitted,
        started: info.started,
        ended: info.ended,
        note: info.note,
    }
}

/// Revision of the uploaded code that a job runs.
fn revision_of(work: &[u8]) -> Option<u64> {
    match serde_json::from_slice(work) {
        Ok(StoredWork { source: WorkSource::Code { revision }, .. }) => Some(revision),
        _ => None,
    }
}

fn status(state: &JobState, started: Option<Moment>) -> JobStatus {
    match state {
        JobState::Delayed { .. } | JobState::Held { .. } | JobState::Ready { .. } => JobStatus::Queued,
        JobState::Leased { cancelling: true, .. } => JobStatus::Cancelling,
        JobState::Leased { .. } if started.is_some() => JobStatus::Running,
        JobState::Leased { .. } => JobStatus::Preparing,
        JobState::Ended { end, .. } => (*end).into(),
    }
}

fn job_attempt(details: &AttemptDetails) -> JobAttempt {
    JobAttempt {
        code: details.code,
        signal: details.signal,
        out_of_memory: details.out_of_memory.is_some(),
        duration_millis: details.started.map_or(0, |started| details.ended.since(started)),
        peak_memory: details.peak_memory,
        cpu_micros: details.cpu_micros,
        output_cut: details.output_cut,
    }
}

/// Reason why a job waits, or the failure of its last attempt.
fn note(state: &JobState, attempt: Option<&AttemptDetails>, now: Moment) -> Option<String> {
    let failure = attempt.and_then(failure);
    let waits = match state {
        JobState::Delayed { due } => format!("waits for {}", TimeSpan(due.since(now))),
        JobState::Held { .. } => "waits until another job with its key has ended".to_owned(),
        _ => return failure,
    };
    Some(failure.map_or(waits.clone(), |failure| format!("{waits}; {failure}")))
}

/// Failure of an attempt; none for a success.
fn failure(attempt: &AttemptDetails) -> Option<String> {
    let mebi = |bytes: u64| bytes >> 20;
    if let Some(failure) = &attempt.failure {
        return Some(failure.clone());
    }
    if let Some(limit) = attempt.out_of_memory {
        return Some(format!("killed: exceeded its memory limit of {} MiB", mebi(limit)));
    }
    if let Some(limit) = attempt.out_of_disk {
        return Some(format!("killed: exceeded its disk limit of {} MiB", mebi(limit)));
    }
    match (attempt.code, attempt.signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exited with {code}")),
        (None, Some(signal)) => Some(format!("ended by signal {signal}")),
        (None, None) => Some("ended without an exit status".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::MachineName;

    use super::*;

    #[test]
    fn a_job_runs_only_once_its_machine_reports_the_start() {
        let machine = MachineName::parse("m").expect("a name");
        let leased = JobState::Leased { machine, since: Moment(1), cancelling: false };
        assert_eq!(status(&leased, None), JobStatus::Preparing);
        assert_eq!(status(&leased, Some(Moment(2))), JobStatus::Running);
    }

    #[test]
    fn notes_the_cause_of_a_failure_and_of_a_wait() {
        let attempt = |code, out_of_memory| AttemptDetails { code, out_of_memory, ..AttemptDetails::default() };
        let delayed = JobState::Delayed { due: Moment(11_000) };
        for (state, attempt, expected) in [
            (&delayed, None, Some("waits for 10 s")),
            (&delayed, Some(attempt(Some(3), None)), Some("waits for 10 s; exited with 3")),
            (
                &JobState::Held { rank: gantry_queue::Rank(1) },
                None,
                Some("waits until another job with its key has ended"),
            ),
            (&JobState::Ready { rank: gantry_queue::Rank(1) }, Some(attempt(Some(0), None)), None),
            (
                &JobState::Ready { rank: gantry_queue::Rank(1) },
                Some(attempt(None, Some(64 << 20))),
                Some("killed: exceeded its memory limit of 64 MiB"),
            ),
        ] {
            assert_eq!(note(state, attempt.as_ref(), Moment(1000)).as_deref(), expected);
        }
    }
}
