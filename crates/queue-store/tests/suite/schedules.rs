//! Rules of schedules.

use gantry_model::Moment;
use gantry_queue::{AttemptOutcome, JobEnd, JobId, JobSettings, JobState, ScheduleName};
use gantry_queue_store::{
    Fire, Fired, NewJob, NewSchedule, QueueCommand, QueueReply, ScheduleCommand, ScheduleOrigin, ScheduleRefusal,
    ScheduleReply, StoredSchedule,
};
use gantry_schedule::{OverlapPolicy, Schedule, Timing};

use super::{StorageUnderTest, queue};

fn name(text: &str) -> ScheduleName {
    text.parse().expect("a name")
}

/// Every ten seconds.
fn schedule(text: &str, overlap: OverlapPolicy, origin: ScheduleOrigin) -> NewSchedule {
    let schedule = Schedule { overlap, ..Schedule::new(Timing::Every(10)) };
    NewSchedule { name: name(text), schedule, template: b"template".to_vec(), origin, by: "me".to_owned() }
}

fn order(storage: &mut StorageUnderTest, command: ScheduleCommand) -> ScheduleReply {
    match storage.one(QueueCommand::Schedule(command)) {
        QueueReply::Schedule(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn create(storage: &mut StorageUnderTest, new: NewSchedule) -> Result<(), ScheduleRefusal> {
    match order(storage, ScheduleCommand::Create(Box::new(new))) {
        ScheduleReply::Created(created) => created,
        other => panic!("{other:?}"),
    }
}

fn due(storage: &StorageUnderTest) -> Vec<StoredSchedule> {
    storage.reader.due_schedules(storage.now, 10).expect("read").0
}

/// The command for what is due now.
fn fire(storage: &StorageUnderTest, schedule: &StoredSchedule) -> Fire {
    let due_times = schedule.progress.due_times(&schedule.new.schedule, storage.now);
    let job = NewJob {
        queue: queue("shop/report"),
        settings: JobSettings::default(),
        work: b"work".to_vec(),
        payload: Vec::new(),
        by: "schedule".to_owned(),
    };
    let runs = due_times.run.into_iter().map(|at| (at, job.clone())).collect();
    Fire {
        id: schedule.id,
        after: schedule.progress,
        handled: due_times.handled,
        runs,
        skipped: due_times.skipped,
        note: None,
    }
}

fn fired(storage: &mut StorageUnderTest, fire: Fire) -> Fired {
    match order(storage, ScheduleCommand::Fire(Box::new(fire))) {
        ScheduleReply::Fired(fired) => fired,
        other => panic!("{other:?}"),
    }
}

fn jobs(fired: Fired) -> Vec<JobId> {
    match fired {
        Fired::Done { jobs, .. } => jobs,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_due_time_queues_one_job(storage: &mut StorageUnderTest) {
    let new = schedule("shop/nightly", OverlapPolicy::Allow, ScheduleOrigin::Caller);
    create(storage, new.clone()).expect("created");
    assert_eq!(create(storage, new.clone()), Err(ScheduleRefusal::Exists(name("shop/nightly"))));
    assert_eq!(due(storage), []);
    storage.pass(10_000);
    let stored = due(storage).pop().expect("due");
    assert_eq!(stored.new, new);
    let command = fire(storage, &stored);
    let queued = jobs(fired(storage, command.clone()));
    assert_eq!(queued.len(), 1);
    // The same time again: from a server that died before it knew, or from a second server.
    assert_eq!(fired(storage, command.clone()), Fired::Stale);
    storage.restart();
    assert_eq!(fired(storage, command), Fired::Stale);
    assert_eq!(due(storage), []);
    let stored = storage.reader.schedule(&name("shop/nightly")).expect("read").expect("a schedule");
    assert_eq!((stored.progress.runs, stored.last_job, stored.last_run), (1, Some(queued[0]), Some(storage.now)));
    let (_, next) = storage.reader.due_schedules(storage.now, 0).expect("read");
    assert_eq!(next, Some(Moment(storage.now.0 + 10_000)));
    assert_eq!(storage.claimed_ids(10), queued);
}

pub(crate) fn overlapping_runs_follow_the_policy(storage: &mut StorageUnderTest) {
    for (text, policy) in [("shop/a", OverlapPolicy::Forbid), ("shop/b", OverlapPolicy::Replace)] {
        create(storage, schedule(text, policy, ScheduleOrigin::Caller)).expect("created");
        storage.pass(10_000);
        let stored = due(storage).into_iter().find(|stored| stored.new.name == name(text)).expect("due");
        let command = fire(storage, &stored);
        let first = jobs(fired(storage, command))[0];
        let claimed = storage.claim("m", 10).into_iter().find(|job| job.id == first).expect("claimed");
        storage.pass(10_000);
        let stored = due(storage).into_iter().find(|stored| stored.new.name == name(text)).expect("due");
        let command = fire(storage, &stored);
        let Fired::Done { jobs: queued, stopping } = fired(storage, command) else { panic!("fired") };
        let after = storage.reader.schedule(&name(text)).expect("read").expect("a schedule");
        if policy == OverlapPolicy::Forbid {
            assert_eq!((queued.len(), stopping.len(), after.skipped), (0, 0, 1));
            assert!(after.note.is_some_and(|note| note.contains("had not ended")));
            let _ = storage.complete(first, claimed.fence, AttemptOutcome::Succeeded);
        } else {
            assert_eq!((queued.len(), stopping.first().map(|(job, ..)| *job)), (1, Some(first)));
            let _ = storage.complete(first, claimed.fence, AttemptOutcome::Failed);
            assert!(matches!(storage.state(first), JobState::Ended { end: JobEnd::Cancelled, .. }));
        }
        assert_eq!(order(storage, ScheduleCommand::Remove(name(text))), ScheduleReply::Changed(true));
    }
}

pub(crate) fn a_schedule_is_paused_and_removed(storage: &mut StorageUnderTest) {
    create(storage, schedule("shop/nightly", OverlapPolicy::Allow, ScheduleOrigin::Caller)).expect("created");
    storage.pass(10_000);
    let stale = due(storage).pop().expect("due");
    let pause =
        |storage: &mut StorageUnderTest, paused| order(storage, ScheduleCommand::Pause(name("shop/nightly"), paused));
    assert_eq!(pause(storage, true), ScheduleReply::Changed(true));
    assert_eq!(due(storage), []);
    let command = fire(storage, &stale);
    assert_eq!(fired(storage, command), Fired::Stale, "paused meanwhile");
    storage.pass(60_000);
    assert_eq!(pause(storage, false), ScheduleReply::Changed(true));
    assert_eq!(due(storage), [], "times of the pause are not missed");
    storage.pass(10_000);
    assert_eq!(due(storage).len(), 1);
    assert_eq!(storage.reader.schedules(Some(&queue("shop/x").project)).expect("read").len(), 1);
    assert_eq!(storage.reader.schedules(Some(&queue("blog/x").project)).expect("read"), []);
    let remove = |storage: &mut StorageUnderTest| order(storage, ScheduleCommand::Remove(name("shop/nightly")));
    assert_eq!((remove(storage), remove(storage)), (ScheduleReply::Changed(true), ScheduleReply::Changed(false)));
    assert_eq!(pause(storage, false), ScheduleReply::Changed(false));
}

pub(crate) fn the_schedule_of_a_release_follows_the_release(storage: &mut StorageUnderTest) {
    let mut new = schedule("shop/report", OverlapPolicy::Allow, ScheduleOrigin::Release);
    create(storage, new.clone()).expect("created");
    storage.pass(25_000);
    new.schedule = Schedule::new(Timing::Every(60));
    create(storage, new.clone()).expect("replaced");
    assert_eq!(due(storage), [], "the new times count from now");
    let stored = storage.reader.schedule(&new.name).expect("read").expect("a schedule");
    assert_eq!(stored.new, new);
    // A caller's schedule is not replaced.
    create(storage, schedule("shop/own", OverlapPolicy::Allow, ScheduleOrigin::Caller)).expect("created");
    let taken = create(storage, schedule("shop/own", OverlapPolicy::Allow, ScheduleOrigin::Release));
    assert_eq!(taken, Err(ScheduleRefusal::Exists(name("shop/own"))));
}
