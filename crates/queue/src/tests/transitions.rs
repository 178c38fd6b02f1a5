use gantry_model::Moment;

use super::{claim, job, job_in, leased, machine, ready};
use crate::{
    AttemptOutcome, Fence, Jitter, Job, JobEnd, JobEvent, JobSettings, JobState, Priority, Rank, Refusal, RetryPolicy,
};

const NOW: Moment = Moment(5000);

fn complete(fence: u64, outcome: AttemptOutcome) -> JobEvent {
    JobEvent::Complete { fence: Fence(fence), outcome, jitter: Jitter(0) }
}

fn lose(fence: u64) -> JobEvent {
    JobEvent::Lose { fence: Fence(fence) }
}

fn ended(end: JobEnd) -> JobState {
    JobState::Ended { end, at: NOW }
}

fn after(job: &Job, event: JobEvent) -> JobState {
    job.after(event, NOW).expect("the event fits").state
}

#[test]
fn a_submitted_job_is_ready_held_or_delayed() {
    let settings = JobSettings { priority: Priority::High, ..JobSettings::default() };
    let rank = Rank::of(Moment(1000), Priority::High);
    assert_eq!(Job::submitted(settings.clone(), Moment(1000), true).state, JobState::Ready { rank });
    assert_eq!(Job::submitted(settings.clone(), Moment(1000), false).state, JobState::Held { rank });
    let delayed = Job::submitted(JobSettings { delay: 7, ..settings }, Moment(1000), true);
    assert_eq!(delayed.state, JobState::Delayed { due: Moment(8000) });
    assert_eq!(
        after(&delayed, JobEvent::Due { room: true }),
        JobState::Ready { rank: Rank::of(Moment(8000), Priority::High) }
    );
    assert_eq!(
        after(&delayed, JobEvent::Due { room: false }),
        JobState::Held { rank: Rank::of(Moment(8000), Priority::High) }
    );
}

#[test]
fn every_state_takes_only_its_own_events() {
    let delayed = job_in(JobState::Delayed { due: Moment(1) });
    let held = job_in(JobState::Held { rank: Rank(1) });
    let over = job_in(ended(JobEnd::Failed));
    let due = || JobEvent::Due { room: true };
    for (job, event, refusal) in [
        (&delayed, JobEvent::Admit, Refusal::WrongState),
        (&delayed, claim(), Refusal::WrongState),
        (&delayed, lose(2), Refusal::Superseded),
        (&delayed, complete(3, AttemptOutcome::Succeeded), Refusal::Repeated),
        (&held, due(), Refusal::WrongState),
        (&held, claim(), Refusal::WrongState),
        (&ready(), due(), Refusal::WrongState),
        (&ready(), JobEvent::Admit, Refusal::WrongState),
        (&leased(), claim(), Refusal::WrongState),
        (&leased(), due(), Refusal::WrongState),
        (&over, claim(), Refusal::Ended),
        (&over, JobEvent::Cancel, Refusal::Ended),
        (&over, due(), Refusal::Ended),
        (&over, lose(3), Refusal::Repeated),
    ] {
        assert_eq!(job.after(event.clone(), NOW).expect_err("refused"), refusal, "{event:?} in {:?}", job.state);
    }
}

#[test]
fn a_claim_raises_the_token() {
    let taken = ready().after(claim(), NOW).expect("taken");
    assert_eq!(taken.fence, Fence(4));
    assert_eq!(taken.state, JobState::Leased { machine: machine("m"), since: NOW, cancelling: false });
}

#[test]
fn only_the_current_token_completes_a_job() {
    for (fence, refusal) in [(2, Refusal::Superseded), (4, Refusal::Superseded)] {
        let refused = leased().after(complete(fence, AttemptOutcome::Succeeded), NOW);
        assert_eq!(refused.expect_err("another token"), refusal);
    }
    let done = leased().after(complete(3, AttemptOutcome::Succeeded), NOW).expect("completed");
    assert_eq!((&done.state, done.failures), (&ended(JobEnd::Succeeded), 0));
    let again = done.after(complete(3, AttemptOutcome::Succeeded), NOW);
    assert_eq!(again.expect_err("once is enough"), Refusal::Repeated);
}

#[test]
fn a_lost_lease_makes_its_completion_void() {
    let lost = leased().after(lose(3), NOW).expect("lost");
    assert_eq!((lost.fence, lost.lost), (Fence(4), 1));
    assert_eq!(lost.state, JobState::Ready { rank: Rank(1000) }, "it goes before younger jobs");
    let late = lost.after(complete(3, AttemptOutcome::Succeeded), NOW);
    assert_eq!(late.expect_err("too late"), Refusal::Superseded);
    let next = lost.after(claim(), NOW).expect("taken again");
    let late = next.after(complete(3, AttemptOutcome::Succeeded), NOW);
    assert_eq!(late.expect_err("too late"), Refusal::Superseded);
    assert_eq!(next.fence, Fence(5));
}

#[test]
fn gives_up_a_job_that_kills_its_machines() {
    let mut job = ready();
    for lost in 1..=6 {
        job = job.after(claim(), NOW).expect("taken");
        let fence = job.fence.0;
        job = job.after(lose(fence), NOW).expect("lost");
        assert_eq!(job.is_over(), lost == 6, "{lost}");
    }
    assert_eq!(job.state, ended(JobEnd::Lost));
}

#[test]
fn failed_attempts_are_retried_after_growing_pauses() {
    let settings = JobSettings { retries: RetryPolicy { most: 2, delay: 3 }, ..JobSettings::default() };
    for (outcome, end) in [(AttemptOutcome::Failed, JobEnd::Failed), (AttemptOutcome::TimedOut, JobEnd::TimedOut)] {
        let mut job = job(settings.clone());
        for pause in [3000, 6000] {
            job = job.after(claim(), NOW).expect("taken");
            let fence = job.fence.0;
            job = job.after(complete(fence, outcome), NOW).expect("failed");
            assert_eq!(job.state, JobState::Delayed { due: Moment(NOW.0 + pause) });
            job = job.after(JobEvent::Due { room: true }, NOW).expect("due");
        }
        job = job.after(claim(), NOW).expect("taken");
        let fence = job.fence.0;
        job = job.after(complete(fence, outcome), NOW).expect("failed");
        assert_eq!((&job.state, job.failures), (&ended(end), 3));
    }
}

#[test]
fn a_job_is_cancelled_in_every_state() {
    for state in
        [JobState::Delayed { due: Moment(1) }, JobState::Held { rank: Rank(1) }, JobState::Ready { rank: Rank(1) }]
    {
        assert_eq!(after(&job_in(state), JobEvent::Cancel), ended(JobEnd::Cancelled));
    }
    let cancelled = leased().after(JobEvent::Cancel, NOW).expect("cancelled");
    let expected = JobState::Leased { machine: machine("m"), since: Moment(2000), cancelling: true };
    assert_eq!(cancelled.state, expected);
    assert_eq!(after(&cancelled, JobEvent::Cancel), expected, "a second time");
    // The caller was told that the job is cancelled: no outcome changes that, and no retry follows.
    for outcome in [AttemptOutcome::Succeeded, AttemptOutcome::Failed, AttemptOutcome::TimedOut] {
        assert_eq!(after(&cancelled, complete(3, outcome)), ended(JobEnd::Cancelled));
    }
    assert_eq!(after(&cancelled, lose(3)), ended(JobEnd::Cancelled));
}

#[test]
fn a_job_that_starts_too_late_expires() {
    let settings = JobSettings { expires: Some(4), ..JobSettings::default() };
    let waiting = job(settings.clone());
    assert_eq!(waiting.expiry(), Some(NOW));
    assert_eq!(after(&waiting, claim()), ended(JobEnd::Expired));
    let before = waiting.after(claim(), Moment(4999)).expect("in time");
    assert!(!before.is_over());
    let delayed = job(JobSettings { delay: 10, ..settings.clone() });
    assert_eq!(after(&delayed, JobEvent::Due { room: true }), ended(JobEnd::Expired));
    assert_eq!(after(&delayed, JobEvent::Admit), ended(JobEnd::Expired));
    // A job that has started does not expire between its attempts.
    let retried = Job { failures: 1, ..job(settings) };
    assert!(!retried.after(claim(), Moment(1_000_000)).expect("taken").is_over());
}

#[test]
fn ready_and_leased_jobs_take_room_of_their_key() {
    for (job, takes) in [
        (ready(), true),
        (leased(), true),
        (job_in(JobState::Held { rank: Rank(1) }), false),
        (job_in(JobState::Delayed { due: Moment(1) }), false),
        (job_in(ended(JobEnd::Lost)), false),
    ] {
        assert_eq!(job.takes_room(), takes, "{:?}", job.state);
    }
}

#[test]
fn dead_letters_are_jobs_that_failed_timed_out_expired_or_were_lost() {
    let dead: Vec<JobEnd> = JobEnd::ALL.into_iter().filter(|end| end.is_dead()).collect();
    assert_eq!(dead, [JobEnd::Failed, JobEnd::TimedOut, JobEnd::Expired, JobEnd::Lost]);
}
