//! Random histories of one job: whatever happens, and however often messages arrive, the invariants hold.

use gantry_model::Moment;
use proptest::prelude::*;

use super::machine;
use crate::{
    AttemptOutcome, Fence, Jitter, Job, JobEnd, JobEvent, JobSettings, JobState, Priority, Refusal, RetryPolicy,
};

/// Next operation of a test, without knowledge of the job's state. Tokens are named by their distance from the current
/// one.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Due(bool),
    Admit,
    Claim(bool),
    Complete { back: u64, outcome: AttemptOutcome, jitter: u16 },
    Lose { back: u64 },
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        1 => Just(AttemptOutcome::Succeeded),
        3 => Just(AttemptOutcome::Failed),
        1 => Just(AttemptOutcome::TimedOut)
    ];
    let step = prop_oneof![
        1 => (0_u64..20_000).prop_map(Step::Wait),
        4 => any::<bool>().prop_map(Step::Due),
        3 => Just(Step::Admit),
        6 => any::<bool>().prop_map(Step::Claim),
        4 => (0_u64..3, outcome, any::<u16>()).prop_map(|(back, outcome, jitter)| Step::Complete { back, outcome, jitter }),
        2 => (0_u64..3).prop_map(|back| Step::Lose { back }),
        1 => Just(Step::Cancel),
    ];
    prop::collection::vec(step, 0..60)
}

fn settings() -> impl Strategy<Value = JobSettings> {
    (0_u64..5, 0_u32..4, 0_u32..4, prop::option::of(1_u64..60)).prop_map(|(delay, most, pause, expires)| JobSettings {
        priority: Priority::Normal,
        delay,
        retries: RetryPolicy { most, delay: pause },
        expires,
        ..JobSettings::default()
    })
}

/// A history: all jobs from the first on, and the number of completions that counted.
struct History {
    job: Job,
    now: Moment,
    recorded: u32,
    ends: u32,
    claims: u32,
}

impl History {
    fn event(&self, step: Step) -> Option<JobEvent> {
        let fence = |back: u64| Fence(self.job.fence.0.saturating_sub(back));
        Some(match step {
            Step::Wait(_) => return None,
            Step::Due(room) => JobEvent::Due { room },
            Step::Admit => JobEvent::Admit,
            Step::Claim(first) => JobEvent::Claim { machine: machine(if first { "one" } else { "two" }) },
            Step::Complete { back, outcome, jitter } => {
                JobEvent::Complete { fence: fence(back), outcome, jitter: Jitter(jitter) }
            }
            Step::Lose { back } => JobEvent::Lose { fence: fence(back) },
            Step::Cancel => JobEvent::Cancel,
        })
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        if let Step::Wait(millis) = step {
            self.now = Moment(self.now.0 + millis);
        }
        let Some(event) = self.event(step) else { return Ok(()) };
        let before = self.job.clone();
        match before.after(event.clone(), self.now) {
            Ok(job) => {
                prop_assert!(!before.is_over(), "an ended job changed by {event:?}");
                prop_assert!(job.fence >= before.fence, "the token went back");
                self.count(&before, &job, &event)?;
                self.job = job;
            }
            Err(refusal) => self.check_refusal(&before, &event, refusal)?,
        }
        Ok(())
    }

    fn count(&mut self, before: &Job, job: &Job, event: &JobEvent) -> Result<(), TestCaseError> {
        let was_leased = matches!(before.state, JobState::Leased { .. });
        match event {
            JobEvent::Complete { fence, .. } => {
                prop_assert!(was_leased && *fence == before.fence, "a completion without its lease counted");
                self.recorded += 1;
            }
            JobEvent::Claim { .. } if !job.is_over() => {
                prop_assert!(job.fence > before.fence, "two leases have one token");
                self.claims += 1;
            }
            _ => {}
        }
        self.ends += u32::from(job.is_over());
        Ok(())
    }

    fn check_refusal(&self, before: &Job, event: &JobEvent, refusal: Refusal) -> Result<(), TestCaseError> {
        if let JobEvent::Cancel = event {
            prop_assert!(before.is_over(), "a job that has not ended could not be cancelled");
        }
        if refusal == Refusal::Repeated {
            prop_assert!(!matches!(before.state, JobState::Leased { .. }), "the current lease was refused");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn invariants_hold_in_every_history(settings in settings(), room: bool, steps in steps()) {
        let now = Moment(1_000_000);
        let job = Job::submitted(settings.clone(), now, room);
        let mut history = History { job, now, recorded: 0, ends: 0, claims: 0 };
        for step in steps {
            history.take(step)?;
            let job = &history.job;
            prop_assert!(history.ends <= 1, "the job ended twice");
            prop_assert!(job.failures <= settings.retries.most + 1, "more attempts than allowed");
            prop_assert!(job.lost <= 6, "more lost leases than allowed");
            prop_assert!(history.recorded <= history.claims, "more completions than leases");
            if let JobState::Ended { end: JobEnd::Succeeded, .. } = job.state {
                prop_assert!(history.recorded >= 1);
            }
            if let JobState::Ended { end: JobEnd::Expired, .. } = job.state {
                prop_assert!(settings.expires.is_some() && job.failures == 0);
            }
        }
    }

    #[test]
    fn every_job_ends_once_machines_answer(settings in settings(), steps in steps(), outcomes in prop::collection::vec(any::<bool>(), 20)) {
        let mut history = {
            let now = Moment(1_000_000);
            History { job: Job::submitted(settings, now, true), now, recorded: 0, ends: 0, claims: 0 }
        };
        for step in steps {
            history.take(step)?;
        }
        // From here on all delays end, keys have room, and each attempt is reported.
        for succeeded in outcomes {
            let outcome = if succeeded { AttemptOutcome::Succeeded } else { AttemptOutcome::Failed };
            let next = match history.job.state {
                JobState::Delayed { .. } => Step::Due(true),
                JobState::Held { .. } => Step::Admit,
                JobState::Ready { .. } => Step::Claim(true),
                JobState::Leased { .. } => Step::Complete { back: 0, outcome, jitter: 0 },
                JobState::Ended { .. } => break,
            };
            history.take(next)?;
        }
        prop_assert!(history.job.is_over(), "{:?}", history.job);
    }
}
