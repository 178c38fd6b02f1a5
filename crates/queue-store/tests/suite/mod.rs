//! The suite, for any storage.

use std::path::{Path, PathBuf};

use gantry_model::{AppName, MachineName, Moment};
use gantry_queue::{
    AttemptOutcome, ConcurrencyKey, Fence, Jitter, JobEnd, JobId, JobSettings, JobState, Priority, QueueName, Refusal,
    RetryPolicy,
};
use gantry_queue_store::{
    CancelEffect, ClaimedJob, Completed, JobFilter, JobReport, NewJob, QueueCommand, QueueReader, QueueReply,
    QueueSetting, QueueStore, SubmitRefusal, Upkeep, WAITING_MAX,
};

mod deliveries;
mod history;
mod messages;
mod schedules;
pub(crate) use deliveries::{
    a_busy_host_does_not_hold_up_others, a_callback_follows_every_end_of_a_job, a_failed_push_is_reported,
    a_forwarded_message_is_queued_once, a_loop_through_dead_letters_ends,
    a_message_above_the_payload_of_a_job_is_refused, a_message_becomes_a_job_once,
    a_message_has_a_limited_number_of_copies, a_multicast_message_ends_with_its_last_subscriber,
    a_queue_may_have_many_queues_behind_it, a_signing_key_is_made_once_and_rotated,
    a_taken_delivery_comes_back_after_a_restart, a_unicast_message_goes_to_the_next_subscriber, hosts_take_turns,
    projects_with_one_name_of_a_queue_take_turns, queues_form_no_loop, settings_of_push_queues_are_kept_apart,
};
pub(crate) use history::{a_batch_does_what_its_commands_do_one_by_one, a_random_history_keeps_the_counts};
pub(crate) use messages::{messages_go_in_order_and_come_back_to_the_front, messages_survive_a_restart_and_expire};
pub(crate) use schedules::{
    a_due_time_queues_one_job, a_schedule_is_paused_and_removed, overlapping_runs_follow_the_policy,
    the_schedule_of_a_release_follows_the_release,
};

/// A storage and its reader.
pub(crate) type Opened = (Box<dyn QueueStore>, QueueReader);

/// A storage under test, with its own clock.
pub(crate) struct StorageUnderTest {
    folder: PathBuf,
    open: fn(&Path) -> Opened,
    store: Box<dyn QueueStore>,
    pub(crate) reader: QueueReader,
    pub(crate) now: Moment,
}

pub(crate) fn queue(text: &str) -> QueueName {
    text.parse().expect("a queue")
}

pub(crate) fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

/// A job to submit.
pub(crate) fn new_job(to: &str, settings: JobSettings) -> NewJob {
    NewJob { queue: queue(to), settings, work: b"work".to_vec(), payload: b"payload".to_vec(), by: "me".to_owned() }
}

impl StorageUnderTest {
    pub(crate) fn new(folder: &Path, open: fn(&Path) -> Opened) -> Self {
        let (store, reader) = open(folder);
        Self { folder: folder.to_owned(), open, store, reader, now: Moment(1_000_000) }
    }

    /// Opens the storage again, as after a kill.
    fn restart(&mut self) {
        (self.store, self.reader) = (self.open)(&self.folder);
    }

    pub(crate) fn all(&mut self, commands: Vec<QueueCommand>) -> Vec<QueueReply> {
        self.store.commit(commands, self.now).expect("committed")
    }

    pub(crate) fn one(&mut self, command: QueueCommand) -> QueueReply {
        self.all(vec![command]).pop().expect("a reply")
    }

    pub(crate) fn submit(&mut self, to: &str, settings: JobSettings) -> JobId {
        match self.one(QueueCommand::Submit(vec![new_job(to, settings)])) {
            QueueReply::Submitted(Ok(ids)) => ids[0],
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn claim(&mut self, by: &str, most: usize) -> Vec<ClaimedJob> {
        match self.one(QueueCommand::Claim { machine: machine(by), most, limit: None }) {
            QueueReply::Claimed(claimed) => claimed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn claimed_ids(&mut self, most: usize) -> Vec<JobId> {
        self.claim("m", most).iter().map(|job| job.id).collect()
    }

    pub(crate) fn complete(&mut self, job: JobId, fence: Fence, outcome: AttemptOutcome) -> Completed {
        let report = JobReport { outcome, details: b"{}".to_vec(), output: b"out".to_vec() };
        match self.one(QueueCommand::Complete { job, fence, report, jitter: Jitter(0) }) {
            QueueReply::Completed(completed) => completed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn upkeep(&mut self) -> Upkeep {
        match self.one(QueueCommand::Upkeep { keep_since: Moment(0), most_open: WAITING_MAX }) {
            QueueReply::Upkept(upkeep) => upkeep,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn cancel(&mut self, job: JobId) -> CancelEffect {
        match self.one(QueueCommand::Cancel(job)) {
            QueueReply::Cancelled(effect) => effect,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn state(&self, job: JobId) -> JobState {
        self.reader.job(job).expect("read").expect("a job").job.state
    }

    fn end(&self, job: JobId) -> Option<JobEnd> {
        match self.state(job) {
            JobState::Ended { end, .. } => Some(end),
            _ => None,
        }
    }

    /// Counts of a queue by state: delayed, held, ready, leased, ended.
    fn counts(&self, of: &str) -> [u64; 5] {
        let queues = self.reader.queues().expect("read");
        queues.into_iter().find(|info| info.name == queue(of)).expect("a queue").counts
    }

    fn counts_if_there(&self, of: &str) -> Option<[u64; 5]> {
        let queues = self.reader.queues().expect("read");
        queues.into_iter().find(|info| info.name == queue(of)).map(|info| info.counts)
    }

    fn pass(&mut self, millis: u64) {
        self.now = Moment(self.now.0 + millis);
    }
}

fn settings() -> JobSettings {
    JobSettings::default()
}

fn with_key(name: &str, limit: u32) -> JobSettings {
    JobSettings { key: Some(ConcurrencyKey { name: name.to_owned(), limit }), ..settings() }
}

pub(crate) fn a_job_is_claimed_once_and_completed_once(storage: &mut StorageUnderTest) {
    let id = storage.submit("shop/report", settings());
    let claimed = storage.claim("m", 10);
    assert_eq!(claimed.len(), 1);
    let job = &claimed[0];
    assert_eq!((job.id, job.fence, &job.queue, job.timeout), (id, Fence(1), &queue("shop/report"), 3600));
    assert_eq!((job.work.as_slice(), job.payload.as_slice()), (&b"work"[..], &b"payload"[..]));
    assert_eq!(storage.claim("other", 10), []);
    let wrong = storage.complete(id, Fence(2), AttemptOutcome::Succeeded);
    assert_eq!(wrong, Completed::Refused(Refusal::Superseded));
    let done = JobState::Ended { end: JobEnd::Succeeded, at: storage.now };
    assert_eq!(storage.complete(id, Fence(1), AttemptOutcome::Succeeded), Completed::Recorded(done.clone()));
    let again = storage.complete(id, Fence(1), AttemptOutcome::Failed);
    assert_eq!(again, Completed::Refused(Refusal::Repeated));
    assert_eq!(storage.state(id), done);
    assert_eq!(storage.reader.output(id).expect("read"), Some(b"out".to_vec()));
    let unknown = storage.complete(JobId(99), Fence(1), AttemptOutcome::Succeeded);
    assert_eq!(unknown, Completed::Refused(Refusal::Superseded));
    assert_eq!(storage.counts("shop/report"), [0, 0, 0, 0, 1]);
}

pub(crate) fn jobs_go_by_priority_and_age(storage: &mut StorageUnderTest) {
    let of = |priority| JobSettings { priority, ..settings() };
    let low = storage.submit("shop/report", of(Priority::Low));
    storage.pass(1000);
    let high = [(); 2].map(|()| storage.submit("shop/report", of(Priority::High)));
    let normal = storage.submit("shop/report", of(Priority::Normal));
    assert_eq!(storage.claimed_ids(3), [high[0], high[1], normal]);
    // A job that has waited for long goes before urgent ones.
    storage.pass(3_600_000);
    let _late = storage.submit("shop/report", of(Priority::High));
    assert_eq!(storage.claimed_ids(1), [low]);
}

pub(crate) fn projects_share_evenly(storage: &mut StorageUnderTest) {
    let big: Vec<JobId> = (0..20).map(|_| storage.submit("big/a", settings())).collect();
    storage.pass(1000);
    let small = [storage.submit("small/a", settings()), storage.submit("small/b", settings())];
    assert_eq!(storage.claimed_ids(5), [big[0], small[0], big[1], small[1], big[2]]);
    assert_eq!(storage.claimed_ids(2), big[3..5]);
}

pub(crate) fn limits_and_pauses_hold(storage: &mut StorageUnderTest) {
    for _ in 0..5 {
        storage.submit("shop/report", settings());
    }
    let set = |storage: &mut StorageUnderTest, setting| storage.one(QueueCommand::Set(queue("shop/report"), setting));
    assert_eq!(set(storage, QueueSetting::Limit(Some(2))), QueueReply::Set(true));
    let first = storage.claim("m", 10);
    assert_eq!(first.len(), 2);
    let _ = storage.complete(first[0].id, first[0].fence, AttemptOutcome::Succeeded);
    assert_eq!(storage.claim("m", 10).len(), 1);
    set(storage, QueueSetting::Limit(None));
    set(storage, QueueSetting::Paused(true));
    assert_eq!(storage.claim("m", 10), []);
    storage.restart();
    assert_eq!(storage.claim("m", 10), [], "a pause is durable");
    set(storage, QueueSetting::Paused(false));
    let claim = QueueCommand::Claim { machine: machine("m"), most: 10, limit: Some(3) };
    assert!(matches!(storage.one(claim), QueueReply::Claimed(claimed) if claimed.len() == 1), "two run already");
    let unknown = storage.one(QueueCommand::Set(queue("shop/none"), QueueSetting::Paused(true)));
    assert_eq!(unknown, QueueReply::Set(false));
}

pub(crate) fn a_key_admits_its_jobs_one_after_the_other(storage: &mut StorageUnderTest) {
    let first = [(); 3].map(|()| storage.submit("shop/report", with_key("customer 7", 1)));
    let other = storage.submit("shop/report", with_key("customer 8", 1));
    assert_eq!(storage.counts("shop/report"), [0, 2, 2, 0, 0]);
    let claimed = storage.claim("m", 10);
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [first[0], other]);
    assert_eq!(storage.claim("m", 10), []);
    let _ = storage.complete(first[0], claimed[0].fence, AttemptOutcome::Succeeded);
    assert_eq!(storage.claimed_ids(10), [first[1]]);
    // A cancelled job keeps its room until its machine has stopped it.
    assert!(matches!(storage.cancel(first[1]), CancelEffect::Stopping(..)));
    assert_eq!(storage.claim("m", 10), []);
    let _ = storage.complete(first[1], Fence(1), AttemptOutcome::Failed);
    assert_eq!(storage.claimed_ids(10), [first[2]]);
    // Keys of different queues are different keys.
    let elsewhere = storage.submit("shop/other", with_key("customer 7", 1));
    assert_eq!(storage.claimed_ids(10), [elsewhere]);
}

pub(crate) fn a_delay_ends_with_upkeep(storage: &mut StorageUnderTest) {
    let id = storage.submit("shop/report", JobSettings { delay: 10, ..settings() });
    assert_eq!(storage.claim("m", 10), []);
    assert_eq!(storage.upkeep().next, Some(Moment(storage.now.0 + 10_000)));
    storage.pass(9_999);
    assert!(!storage.upkeep().changed);
    storage.pass(1);
    let upkeep = storage.upkeep();
    assert!(upkeep.changed && upkeep.next.is_none(), "{upkeep:?}");
    assert_eq!(storage.claimed_ids(10), [id]);
}

pub(crate) fn failed_jobs_come_back_and_end_as_dead_letters(storage: &mut StorageUnderTest) {
    let retries = RetryPolicy { most: 1, delay: 5 };
    let id = storage.submit("shop/report", JobSettings { retries, ..settings() });
    let first = storage.claim("m", 1);
    let failed = storage.complete(id, first[0].fence, AttemptOutcome::Failed);
    let due = Moment(storage.now.0 + 5000);
    assert_eq!(failed, Completed::Recorded(JobState::Delayed { due }));
    storage.pass(5000);
    let _ = storage.upkeep();
    let second = storage.claim("m", 1);
    assert_eq!(second[0].fence, Fence(2));
    let _ = storage.complete(id, Fence(2), AttemptOutcome::TimedOut);
    assert_eq!(storage.end(id), Some(JobEnd::TimedOut));
    let alive = storage.submit("shop/report", settings());
    let dead = storage.reader.page(&JobFilter { dead: true, ..JobFilter::default() }, 10).expect("read");
    assert_eq!(dead.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    assert_ne!(alive, id);
    assert_eq!(storage.reader.queues().expect("read")[0].dead, 1);
}

pub(crate) fn a_lost_lease_gives_the_job_to_another_machine(storage: &mut StorageUnderTest) {
    let id = storage.submit("shop/report", settings());
    let first = storage.claim("one", 1);
    assert_eq!(storage.one(QueueCommand::Lose { job: id, fence: Fence(9) }), QueueReply::Lost(false));
    assert_eq!(storage.one(QueueCommand::Lose { job: id, fence: first[0].fence }), QueueReply::Lost(true));
    let second = storage.claim("two", 1);
    assert_eq!((second[0].id, second[0].fence > first[0].fence), (id, true));
    let late = storage.complete(id, first[0].fence, AttemptOutcome::Succeeded);
    assert_eq!(late, Completed::Refused(Refusal::Superseded));
    assert!(matches!(storage.complete(id, second[0].fence, AttemptOutcome::Succeeded), Completed::Recorded(_)));
}

pub(crate) fn cancel_works_in_every_state(storage: &mut StorageUnderTest) {
    let delayed = storage.submit("shop/report", JobSettings { delay: 10, ..settings() });
    let ready = storage.submit("shop/report", settings());
    for id in [delayed, ready] {
        assert_eq!(storage.cancel(id), CancelEffect::Ended);
        assert_eq!(storage.end(id), Some(JobEnd::Cancelled));
        assert_eq!(storage.cancel(id), CancelEffect::Over);
    }
    let running = storage.submit("shop/report", settings());
    let lease = storage.claim("m", 1)[0].fence;
    assert_eq!(storage.cancel(running), CancelEffect::Stopping(machine("m"), lease));
    assert_eq!(storage.end(running), None);
    let _ = storage.complete(running, lease, AttemptOutcome::Succeeded);
    assert_eq!(storage.end(running), Some(JobEnd::Cancelled));
    assert_eq!(storage.cancel(JobId(999)), CancelEffect::Unknown);
}

pub(crate) fn an_idempotency_key_queues_one_job(storage: &mut StorageUnderTest) {
    let once = || JobSettings { idempotency: Some("order 7".to_owned()), ..settings() };
    let first = storage.submit("shop/report", once());
    assert_eq!(storage.submit("shop/report", once()), first);
    assert_ne!(storage.submit("shop/other", once()), first, "keys belong to a queue");
    assert_ne!(storage.submit("shop/report", settings()), first);
    storage.restart();
    assert_eq!(storage.submit("shop/report", once()), first);
    assert_eq!(storage.counts("shop/report"), [0, 0, 2, 0, 0]);
}

pub(crate) fn waiting_jobs_expire(storage: &mut StorageUnderTest) {
    let soon = || JobSettings { expires: Some(5), ..settings() };
    let [by_upkeep, claimed] = [(); 2].map(|()| storage.submit("shop/report", soon()));
    storage.pass(5000);
    assert!(storage.upkeep().changed);
    assert_eq!([storage.end(by_upkeep), storage.end(claimed)], [Some(JobEnd::Expired); 2]);
    // A claim passes over a job that expired since the last upkeep.
    let late = storage.submit("shop/report", soon());
    let lasting = storage.submit("shop/report", settings());
    storage.pass(5000);
    assert_eq!(storage.claimed_ids(1), [lasting]);
    assert_eq!(storage.end(late), Some(JobEnd::Expired));
}

pub(crate) fn a_purge_cancels_what_waits(storage: &mut StorageUnderTest) {
    let running = storage.submit("shop/report", settings());
    let lease = storage.claim("m", 1)[0].fence;
    for _ in 0..700 {
        storage.submit("shop/report", settings());
    }
    storage.submit("shop/report", JobSettings { delay: 10, ..settings() });
    storage.submit("shop/report", with_key("a", 1));
    storage.submit("shop/report", with_key("a", 1));
    let other = storage.submit("shop/other", settings());
    let mut purged = 0;
    while let QueueReply::Purged(count @ 1..) = storage.one(QueueCommand::Purge(queue("shop/report"))) {
        purged += count;
    }
    assert_eq!(purged, 703);
    assert_eq!(storage.counts("shop/report"), [0, 0, 0, 1, 703]);
    assert_eq!(storage.claimed_ids(10), [other]);
    assert!(matches!(storage.complete(running, lease, AttemptOutcome::Succeeded), Completed::Recorded(_)));
    assert_eq!(storage.one(QueueCommand::Purge(queue("shop/none"))), QueueReply::Purged(0));
}

pub(crate) fn an_ended_job_is_queued_again_as_another_job(storage: &mut StorageUnderTest) {
    let once = JobSettings { idempotency: Some("a".to_owned()), delay: 3, ..settings() };
    let id = storage.submit("shop/report", once);
    let replay = |job| QueueCommand::Replay { job, delay: 0, by: "you".to_owned() };
    assert_eq!(storage.one(replay(id)), QueueReply::Submitted(Err(SubmitRefusal::NotEnded(id))));
    assert_eq!(storage.one(replay(JobId(99))), QueueReply::Submitted(Err(SubmitRefusal::Unknown(JobId(99)))));
    let _ = storage.cancel(id);
    let QueueReply::Submitted(Ok(ids)) = storage.one(replay(id)) else { panic!("queued again") };
    let again = storage.claim("m", 10);
    assert_eq!((again[0].id, again[0].payload.as_slice()), (ids[0], &b"payload"[..]));
    assert_eq!(storage.end(id), Some(JobEnd::Cancelled));
    assert_eq!(storage.reader.job(ids[0]).expect("read").expect("a job").by, "you");
}

pub(crate) fn the_limit_of_waiting_jobs_can_change(storage: &mut StorageUnderTest) {
    let limit = |storage: &mut StorageUnderTest, most_open| {
        storage.one(QueueCommand::Upkeep { keep_since: Moment(0), most_open })
    };
    let first = storage.submit("shop/report", settings());
    let _ = storage.submit("shop/report", settings());
    limit(storage, 2);
    let third = || NewJob {
        queue: queue("shop/report"),
        settings: settings(),
        work: Vec::new(),
        payload: Vec::new(),
        by: "me".to_owned(),
    };
    let refused = storage.one(QueueCommand::Submit(vec![third()]));
    assert_eq!(refused, QueueReply::Submitted(Err(SubmitRefusal::Full { most: 2 })));
    let _ = storage.cancel(first);
    assert!(matches!(storage.one(QueueCommand::Submit(vec![third()])), QueueReply::Submitted(Ok(_))));
    limit(storage, 3);
    assert!(matches!(storage.one(QueueCommand::Submit(vec![third()])), QueueReply::Submitted(Ok(_))));
}

pub(crate) fn old_jobs_are_removed(storage: &mut StorageUnderTest) {
    let old: Vec<JobId> = (0..3).map(|_| storage.submit("shop/report", settings())).collect();
    let claimed = storage.claim("m", 2);
    for job in &claimed {
        let _ = storage.complete(job.id, job.fence, AttemptOutcome::Succeeded);
    }
    storage.pass(1000);
    let keep_since = storage.now;
    assert!(matches!(storage.one(QueueCommand::Upkeep { keep_since, most_open: WAITING_MAX }), QueueReply::Upkept(_)));
    assert_eq!(storage.counts("shop/report"), [0, 0, 1, 0, 0]);
    assert!(storage.reader.job(old[0]).expect("read").is_none());
    assert_eq!(storage.reader.output(old[0]).expect("read"), None);
    let newer = storage.submit("shop/report", settings());
    assert!(newer > old[2], "a number is never used again");
}

pub(crate) fn a_clock_that_went_back_keeps_no_old_jobs(storage: &mut StorageUnderTest) {
    let now = storage.now;
    storage.pass(1_000_000);
    let future = storage.submit("shop/report", settings());
    storage.now = now;
    let old = storage.submit("shop/report", settings());
    for id in [future, old] {
        assert_eq!(storage.cancel(id), CancelEffect::Ended);
    }
    storage.pass(1000);
    let keep_since = storage.now;
    let upkept = storage.one(QueueCommand::Upkeep { keep_since, most_open: WAITING_MAX });
    assert!(matches!(upkept, QueueReply::Upkept(_)));
    assert!(storage.reader.job(old).expect("read").is_none());
}

pub(crate) fn pages_go_through_all_jobs(storage: &mut StorageUnderTest) {
    let ids: Vec<JobId> = (0..7).map(|n| storage.submit(["a/x", "b/x"][n % 2], settings())).collect();
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = storage.reader.page(&JobFilter { before, ..JobFilter::default() }, 3).expect("read");
        found.extend(page.jobs.iter().map(|job| job.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let newest_first: Vec<JobId> = ids.iter().rev().copied().collect();
    assert_eq!(found, newest_first);
    let project = JobFilter { project: Some(AppName::parse("b").expect("a name")), ..JobFilter::default() };
    let page = storage.reader.page(&project, 10).expect("read");
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [ids[5], ids[3], ids[1]]);
    let of_queue = JobFilter { queue: Some(queue("a/x")), ..JobFilter::default() };
    assert_eq!(storage.reader.page(&of_queue, 10).expect("read").jobs.len(), 4);
}

pub(crate) fn everything_survives_a_restart(storage: &mut StorageUnderTest) {
    let delayed = storage.submit("shop/report", JobSettings { delay: 10, ..settings() });
    let ready = storage.submit("shop/report", with_key("a", 1));
    let held = storage.submit("shop/report", with_key("a", 1));
    let running = storage.submit("shop/other", settings());
    let lease = storage.claim("m", 1);
    assert_eq!(lease[0].id, ready);
    storage.restart();
    assert_eq!(storage.counts("shop/report"), [1, 1, 0, 1, 0]);
    let leased = storage.reader.leased().expect("read");
    assert_eq!(leased.iter().map(|(id, job)| (*id, job.fence)).collect::<Vec<_>>(), [(ready, lease[0].fence)]);
    assert_eq!(storage.claimed_ids(10), [running]);
    let _ = storage.complete(ready, lease[0].fence, AttemptOutcome::Succeeded);
    assert_eq!(storage.claimed_ids(10), [held]);
    storage.pass(10_000);
    let _ = storage.upkeep();
    assert_eq!(storage.claimed_ids(10), [delayed]);
    assert_eq!(storage.reader.open_works().expect("read").len(), 1);
}
