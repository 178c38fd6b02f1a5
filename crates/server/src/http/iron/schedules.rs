//! Scheduled tasks: Gantry's schedules. The id of a schedule is its name.

use gantry_api::jobs::{JobSource, SubmitJob};
use gantry_api::{ErrorCode, Problem};
use gantry_queue::ScheduleName;
use gantry_queue_store::{NewSchedule, ScheduleCommand, ScheduleOrigin, ScheduleReply, StoredSchedule};
use gantry_schedule::{Schedule, Timing, rfc3339};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::super::jobs::{authorize, resolve};
use super::tasks::{Task, moment};
use super::{IronCall, answer};
use crate::core;
use crate::jobs::StoredTemplate;

/// Shortest interval in seconds.
const RUN_EVERY_MIN: u64 = 60;

#[derive(Deserialize)]
struct Schedules {
    schedules: Vec<ScheduledTask>,
}

#[derive(Deserialize)]
struct ScheduledTask {
    #[serde(flatten)]
    task: Task,
    start_at: Option<String>,
    end_at: Option<String>,
    run_every: Option<u64>,
    run_times: Option<u64>,
}

impl ScheduledTask {
    /// The times. A task without an interval runs once.
    fn schedule(&self) -> HttpResult<Schedule> {
        let invalid = |message: String| Problem::new(ErrorCode::InvalidSchedule, message);
        let now = core::now();
        // A start in the past means now.
        let start = self.start_at.as_deref().map(moment).transpose()?.map_or(now, |start| start.max(now));
        let timing = match self.run_every {
            Some(every) if every < RUN_EVERY_MIN => {
                return Err(invalid(format!("run_every is {every}; choose {RUN_EVERY_MIN} or more")).into());
            }
            Some(every) => Timing::Every(every),
            None => Timing::Once,
        };
        let end = self.end_at.as_deref().map(moment).transpose()?;
        let schedule = Schedule { start: Some(start), end, count: self.run_times, ..Schedule::new(timing) };
        schedule.check(now).map_err(|error| invalid(error.to_string()))?;
        Ok(schedule)
    }
}

pub(super) async fn create(call: &IronCall) -> HttpResult {
    let Schedules { schedules } = call.parse()?;
    let mut ids = Vec::new();
    for scheduled in schedules {
        let schedule = scheduled.schedule()?;
        let job = scheduled.task.job(call)?;
        authorize(&call.caller, &job)?;
        let code = resolve(&call.server, job.clone(), call.caller.name.clone()).await?.queue.code;
        let short: String = code.as_str().chars().take(46).collect();
        let id = format!("{short}-{:016x}", rand::random::<u64>());
        let name = name(call, &id)?;
        let template = serde_json::to_vec(&StoredTemplate::from(job)).map_err(|e| Problem::internal(e.to_string()))?;
        let (origin, by) = (ScheduleOrigin::Caller, call.caller.name.clone());
        let new = NewSchedule { name, schedule, template, origin, by };
        match call.server.jobs.schedule(ScheduleCommand::Create(Box::new(new))).await? {
            ScheduleReply::Created(created) => created?,
            _ => return Err(Problem::internal("the queue gave another reply").into()),
        }
        ids.push(json!({ "id": id }));
    }
    Ok(answer(json!({ "msg": "Scheduled", "schedules": ids })))
}

fn name(call: &IronCall, id: &str) -> HttpResult<ScheduleName> {
    let name = id.parse().map_err(|_| unknown(id))?;
    Ok(ScheduleName { project: call.project.clone(), name })
}

fn unknown(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    Problem::new(ErrorCode::ScheduleNotFound, format!("there is no schedule {id:?}"))
}

pub(super) async fn list(call: &IronCall) -> HttpResult {
    call.may_read()?;
    let project = call.project.clone();
    let schedules = call.server.jobs.read(move |reader| reader.schedules(Some(&project))).await?;
    let schedules: Vec<Value> = schedules.into_iter().map(|schedule| described(&schedule)).collect();
    Ok(answer(json!({ "schedules": schedules })))
}

pub(super) async fn show(call: &IronCall, id: &str) -> HttpResult {
    call.may_read()?;
    let name = name(call, id)?;
    let schedule = call.server.jobs.read(move |reader| reader.schedule(&name)).await?;
    Ok(answer(described(&schedule.ok_or_else(|| unknown(id))?)))
}

pub(super) async fn cancel(call: &IronCall, id: &str) -> HttpResult {
    call.may_change()?;
    match call.server.jobs.schedule(ScheduleCommand::Remove(name(call, id)?)).await? {
        ScheduleReply::Changed(true) => Ok(answer(json!({ "msg": "Cancelled" }))),
        _ => Err(unknown(id).into()),
    }
}

fn described(stored: &StoredSchedule) -> Value {
    let StoredSchedule { new, progress, last_run, .. } = stored;
    let template: Option<StoredTemplate> = serde_json::from_slice(&new.template).ok();
    let code = template.map(SubmitJob::from).map(|job| match job.source {
        JobSource::Role { role, .. } => role.to_string(),
        JobSource::Image { reference } => reference,
    });
    let next = progress.next(&new.schedule);
    let every = match new.schedule.timing {
        Timing::Every(seconds) => Some(seconds),
        Timing::Cron { .. } | Timing::Once => None,
    };
    json!({
        "id": new.name.name,
        "project_id": new.name.project,
        "code_name": code,
        "status": if next.is_some() { "scheduled" } else { "complete" },
        "start_at": new.schedule.start.map(rfc3339),
        "end_at": new.schedule.end.map(rfc3339),
        "run_every": every,
        "run_times": new.schedule.count,
        "run_count": progress.runs,
        "next_start": next.map(rfc3339),
        "last_run_time": last_run.map(rfc3339),
        "created_at": rfc3339(progress.created),
    })
}
