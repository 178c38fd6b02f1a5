//! Queues the jobs of schedules at their times, and keeps the schedules of roles like the current releases.
//!
//! ```text
//! current releases ─► schedules of roles ─► queue's file ◄─ schedules of callers
//!                                               │
//!                      due rows ─► Progress::due_times ─► Fire: jobs and progress in one transaction
//! ```
//! A `Fire` names the progress that it follows on. After a restart, or beside another server, it changes nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::Problem;
use gantry_api::jobs::SubmitJob;
use gantry_model::role::RoleSchedule;
use gantry_model::{App, Moment};
use gantry_queue::ScheduleName;
use gantry_queue_store::{
    Fire, Fired, NewJob, NewSchedule, ScheduleCommand, ScheduleOrigin, ScheduleReply, StoredSchedule,
};
use gantry_records::RecordIndex;
use gantry_schedule::{Schedule, Zone};
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::sync::Mutex;

use crate::core::AppValues;
use crate::jobs::{JobsError, PAUSE_MAX, StoredTemplate, pause_after};
use crate::{Server, core, http};

/// Maximum number of schedules of one pass.
const SLICE: u32 = 200;

/// Variable with the due time, for the job.
const DUE_TIME: &str = "GANTRY_SCHEDULED_AT";

/// Name of the creator of a role's schedule.
const RELEASE: &str = "release";

type RoleSchedules = BTreeMap<ScheduleName, (Schedule, StoredTemplate)>;

/// The schedules of the roles of all current releases.
type DesiredSchedules<'a> = BTreeMap<&'a ScheduleName, &'a (Schedule, StoredTemplate)>;

/// The schedules of the roles of each app.
struct FollowedSchedules {
    apps: AppValues<RoleSchedules>,
    /// The queue has these schedules.
    is_stored: bool,
}

/// Runs passes for ever. A new release or schedule is seen within [`PAUSE_MAX`].
pub(crate) async fn run(server: Arc<Server>) {
    let followed = FollowedSchedules { apps: server.core.app_values(of_release), is_stored: false };
    let followed = Arc::new(Mutex::new(followed));
    let pass = move || {
        let (server, followed) = (Arc::clone(&server), Arc::clone(&followed));
        async move { pause_after(pass(&server, &mut *followed.lock().await).await) }
    };
    ReconcileLoop::new("schedules", PAUSE_MAX, Backoff::constant(PAUSE_MAX)).run(pass).await;
}

/// One pass; returns the time until the next schedule is due.
async fn pass(server: &Server, followed: &mut FollowedSchedules) -> Result<Duration, JobsError> {
    if followed.apps.update() {
        followed.is_stored = false;
    }
    if !followed.is_stored {
        follow(server, &followed.apps.by_app().values().flatten().collect()).await?;
        followed.is_stored = true;
    }
    let now = core::now();
    let (due, _) = server.jobs.read(move |reader| reader.due_schedules(now, SLICE)).await?;
    for schedule in due {
        if !fire(server, schedule, now).await? {
            return Ok(PAUSE_MAX);
        }
    }
    let (_, next) = server.jobs.read(move |reader| reader.due_schedules(now, 0)).await?;
    Ok(next.map_or(PAUSE_MAX, |next| Duration::from_millis(next.since(core::now()))))
}

/// The schedules of the roles of an app's current release; none without a schedule.
fn of_release(records: &RecordIndex, app: &App) -> Option<RoleSchedules> {
    let number = app.current.filter(|_| !app.destroying)?;
    let mut schedules = RoleSchedules::new();
    for (role, settings) in &records.release(&app.name, number)?.roles {
        let Some(schedule) = settings.schedule.as_ref().and_then(readable) else { continue };
        let Ok(code) = role.as_str().parse() else { continue };
        let name = ScheduleName { project: app.name.clone(), name: code };
        let template = StoredTemplate::of_role(name.project.clone(), role.clone());
        schedules.insert(name, (schedule, template));
    }
    (!schedules.is_empty()).then_some(schedules)
}

/// The times of a role. The build checked the texts; a program with another database of zones may not know one.
fn readable(role: &RoleSchedule) -> Option<Schedule> {
    let cron = role.cron.parse().ok()?;
    let zone = role.timezone.as_ref().map_or(Ok(Zone::utc()), |zone| zone.parse()).ok()?;
    Some(Schedule { missed: role.missed, overlap: role.overlap, ..Schedule::cron(cron, zone) })
}

/// Makes the stored schedules of roles like the wanted ones. An unchanged schedule keeps its progress.
async fn follow(server: &Server, desired: &DesiredSchedules<'_>) -> Result<(), JobsError> {
    let stored = server.jobs.read(|reader| reader.schedules(None)).await?;
    let stored: BTreeMap<_, _> = stored
        .into_iter()
        .filter(|schedule| schedule.new.origin == ScheduleOrigin::Release)
        .map(|schedule| (schedule.new.name.clone(), schedule.new))
        .collect();
    for name in stored.keys().filter(|name| !desired.contains_key(*name)) {
        server.jobs.schedule(ScheduleCommand::Remove(name.clone())).await?;
    }
    for (name, (schedule, template)) in desired {
        let name: &ScheduleName = name;
        let new = NewSchedule {
            name: name.clone(),
            schedule: schedule.clone(),
            template: serde_json::to_vec(template).unwrap_or_default(),
            origin: ScheduleOrigin::Release,
            by: RELEASE.to_owned(),
        };
        if stored.get(name) == Some(&new) {
            continue;
        }
        let reply = server.jobs.schedule(ScheduleCommand::Create(Box::new(new))).await?;
        if let ScheduleReply::Created(Err(refusal)) = reply {
            tracing::warn!(schedule = %name, %refusal, "the role's schedule is not in effect");
        }
    }
    Ok(())
}

/// Queues the jobs of the times that are due. Returns false if the queue is full; the times are then due again.
async fn fire(server: &Server, schedule: StoredSchedule, now: Moment) -> Result<bool, JobsError> {
    let due_times = schedule.progress.due_times(&schedule.new.schedule, now);
    // Until the jobs are queued, garbage collection keeps their images.
    let _pin = server.gc_pins.take();
    let (mut runs, mut skipped, mut note) = (Vec::new(), due_times.skipped, None);
    for at in due_times.run {
        match job(server, &schedule, at).await {
            Ok(job) => runs.push((at, job)),
            Err(problem) => {
                tracing::warn!(schedule = %schedule.new.name, error = problem.message, "cannot queue the job of a schedule");
                skipped += 1;
                note = Some(problem.message);
            }
        }
    }
    let name = schedule.new.name;
    let fire = Fire { id: schedule.id, after: schedule.progress, handled: due_times.handled, runs, skipped, note };
    let reply = server.jobs.schedule(ScheduleCommand::Fire(Box::new(fire))).await?;
    gantry_failpoint::failpoint!("schedule.fired");
    match reply {
        ScheduleReply::Fired(Fired::Done { jobs, .. }) => {
            jobs.iter().for_each(|job| tracing::info!(schedule = %name, %job, "queued the job of a schedule"));
        }
        ScheduleReply::Fired(Fired::Full) => {
            tracing::warn!(schedule = %name, "the queue is full; retrying");
            return Ok(false);
        }
        _ => {}
    }
    Ok(true)
}

/// The job of a due time.
async fn job(server: &Server, schedule: &StoredSchedule, at: Moment) -> Result<NewJob, Problem> {
    let template: StoredTemplate =
        serde_json::from_slice(&schedule.new.template).map_err(|error| Problem::internal(error.to_string()))?;
    let mut job = SubmitJob::from(template);
    job.settings.idempotency = Some(format!("schedule/{}/{}", schedule.id.0, at.0));
    job.env.insert(DUE_TIME.to_owned(), schedule.new.schedule.zone().wall_time(at));
    let by = format!("schedule {}", schedule.new.name);
    http::resolve_job(server, job, by).await.map_err(|error| error.0)
}
