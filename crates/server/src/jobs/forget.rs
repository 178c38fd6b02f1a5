//! Removal of the state of a destroyed app from the queue.
//!
//! The queue keeps everything by the name of a project. The next app of the name must not get schedules, messages, waiting
//! jobs or limits of the destroyed one: a waiting job of an uploaded code would even run with the new app's configuration.
//! Ended jobs stay for the rule `job-retention`; `http::own_jobs` hides them from the next app. The schedules of roles
//! follow the releases, and the scheduler removes them.

use gantry_model::AppName;
use gantry_queue::JobId;
use gantry_queue_store::{
    MessageCommand, MessageQueueName, QueueCommand, QueueInfo, QueueReader, QueueSetting, QueueStoreError,
    ScheduleCommand, ScheduleOrigin, StoredSchedule,
};

use super::{JobService, JobsError};

/// The state of an app in the queue, without its jobs.
struct AppQueueState {
    schedules: Vec<StoredSchedule>,
    message_queues: Vec<String>,
    queues: Vec<QueueInfo>,
}

impl AppQueueState {
    fn read(reader: &QueueReader, app: &AppName) -> Result<Self, QueueStoreError> {
        let schedules = reader.schedules(Some(app))?;
        let message_queues = reader.message_queues(app, "", "", u32::MAX)?;
        let queues = reader.queues()?.into_iter().filter(|queue| queue.name.project == *app).collect();
        Ok(Self { schedules, message_queues, queues })
    }
}

/// Returns the running jobs of an app.
fn running_jobs(reader: &QueueReader, app: &AppName) -> Result<Vec<JobId>, QueueStoreError> {
    let mut running = Vec::new();
    for (id, _) in reader.leased()? {
        if reader.job(id)?.is_some_and(|job| job.queue.project == *app) {
            running.push(id);
        }
    }
    Ok(running)
}

/// Removes the state of an app. Jobs are cancelled before a pause of their queue ends.
pub(super) async fn forget(jobs: &JobService, app: &AppName) -> Result<(), JobsError> {
    let name = app.clone();
    let state = jobs.read(move |reader| AppQueueState::read(reader, &name)).await?;
    let schedules = state.schedules.into_iter().map(|schedule| schedule.new);
    let schedules = schedules.filter(|new| new.origin == ScheduleOrigin::Caller);
    let removed_schedules = schedules.map(|new| QueueCommand::Schedule(ScheduleCommand::Remove(new.name)));
    jobs.writer.all(removed_schedules.chain(removed_messages(app, state.message_queues)).collect()).await?;
    for queue in &state.queues {
        jobs.purge(&queue.name).await?;
    }
    // After the purge no further job of the app begins.
    let name = app.clone();
    for job in jobs.read(move |reader| running_jobs(reader, &name)).await? {
        jobs.cancel(job).await?;
    }
    jobs.writer.all(reset_settings(&state.queues)).await?;
    Ok(())
}

/// Returns the commands that remove queues of messages.
fn removed_messages(app: &AppName, names: Vec<String>) -> impl Iterator<Item = QueueCommand> {
    names.into_iter().map(move |name| {
        let queue = MessageQueueName { project: app.clone(), name };
        QueueCommand::Message(queue, MessageCommand::RemoveQueue)
    })
}

/// Returns the commands that give queues the settings of a new queue.
fn reset_settings(queues: &[QueueInfo]) -> Vec<QueueCommand> {
    let resets = queues.iter().flat_map(|queue| {
        let pause = queue.paused.then_some(QueueSetting::Paused(false));
        let limit = queue.limit.map(|_| QueueSetting::Limit(None));
        pause.into_iter().chain(limit).map(move |setting| QueueCommand::Set(queue.name.clone(), setting))
    });
    resets.collect()
}

#[cfg(test)]
mod tests {
    use gantry_queue::QueueName;

    use super::*;

    fn shop() -> AppName {
        AppName::parse("shop").expect("a name")
    }

    #[test]
    fn only_changed_settings_of_a_queue_are_reset() {
        let name = QueueName { project: shop(), code: "worker".parse().expect("a name") };
        let (resume, unlimit) = (QueueSetting::Paused(false), QueueSetting::Limit(None));
        for (paused, limit, expected) in [
            (false, None, vec![]),
            (true, None, vec![resume]),
            (false, Some(2), vec![unlimit]),
            (true, Some(2), vec![resume, unlimit]),
        ] {
            let queue = QueueInfo { name: name.clone(), paused, limit, counts: [0; 5], dead: 0, extra_runs: 0 };
            let expected: Vec<QueueCommand> =
                expected.into_iter().map(|setting| QueueCommand::Set(name.clone(), setting)).collect();
            assert_eq!(reset_settings(&[queue]), expected, "paused {paused}, limit {limit:?}");
        }
    }

    #[test]
    fn every_queue_of_messages_is_removed() {
        for names in [vec![], vec!["mail"], vec!["mail", "a/b"]] {
            let commands: Vec<QueueCommand> =
                removed_messages(&shop(), names.iter().map(|name| (*name).to_owned()).collect()).collect();
            let removed = names.iter().map(|name| {
                let queue = MessageQueueName { project: shop(), name: (*name).to_owned() };
                QueueCommand::Message(queue, MessageCommand::RemoveQueue)
            });
            assert_eq!(commands, removed.collect::<Vec<_>>(), "{names:?}");
        }
    }
}
