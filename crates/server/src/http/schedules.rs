//! `/v1/schedules`: the schedules of container jobs.

use gantry_api::endpoints::schedules as endpoints;
use gantry_api::jobs::SubmitJob;
use gantry_api::schedules::{CreateSchedule, ScheduleInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_queue::{ScheduleName, masked};
use gantry_queue_store::{
    NewSchedule, ScheduleCommand, ScheduleOrigin, ScheduleRefusal, ScheduleReply, StoredSchedule,
};

use super::call::{Call, Routes};
use super::jobs::{authorize, resolve};
use super::{ErrorResponse, HttpResult};
use crate::jobs::{JobsError, StoredTemplate};
use crate::{Server, core};

/// Number of next times that a description has.
const UPCOMING: usize = 5;

impl From<ScheduleRefusal> for ErrorResponse {
    fn from(refusal: ScheduleRefusal) -> Self {
        let code = match &refusal {
            ScheduleRefusal::Exists(_) => ErrorCode::ScheduleExists,
            ScheduleRefusal::TooMany => ErrorCode::QueueFull,
        };
        Problem::new(code, refusal.to_string()).into()
    }
}

/// Adds the endpoints of schedules.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create).endpoint(list).endpoint(show).endpoint(change).endpoint(remove)
}

async fn create(Call { server, caller, body, .. }: Call<endpoints::Create>) -> HttpResult<ScheduleInfo> {
    let CreateSchedule { name, schedule, job } = body;
    schedule.check(core::now()).map_err(|error| Problem::new(ErrorCode::InvalidSchedule, error.to_string()))?;
    if job.settings.idempotency.is_some() {
        let message = "a schedule gives each of its jobs an idempotency key; leave it out";
        return Err(Problem::new(ErrorCode::InvalidJob, message.to_owned()).into());
    }
    authorize(&caller, &job)?;
    // Refuses now what would fail at each due time.
    let resolved = resolve(&server, job.clone(), caller.name.clone()).await?;
    let name = ScheduleName { project: resolved.queue.project, name: name.unwrap_or(resolved.queue.code) };
    let template = serde_json::to_vec(&StoredTemplate::from(job)).map_err(|e| Problem::internal(e.to_string()))?;
    let (origin, by) = (ScheduleOrigin::Caller, caller.name.clone());
    let new = NewSchedule { name: name.clone(), schedule, template, origin, by };
    match server.jobs.schedule(ScheduleCommand::Create(Box::new(new))).await? {
        ScheduleReply::Created(created) => created?,
        _ => return Err(JobsError::Stopping.into()),
    }
    described(&server, name).await
}

async fn list(Call { server, query, .. }: Call<endpoints::List>) -> HttpResult<Vec<ScheduleInfo>> {
    let schedules = server.jobs.read(move |reader| reader.schedules(query.project.as_ref())).await?;
    schedules.into_iter().map(schedule_info).collect()
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<ScheduleInfo> {
    described(&server, ScheduleName { project: at.project, name: at.name }).await
}

async fn change(Call { server, at, body, .. }: Call<endpoints::Change>) -> HttpResult<ScheduleInfo> {
    let name = ScheduleName { project: at.project, name: at.name };
    match server.jobs.schedule(ScheduleCommand::Pause(name.clone(), body.paused)).await? {
        ScheduleReply::Changed(true) => described(&server, name).await,
        _ => Err(unknown(&name).into()),
    }
}

async fn remove(Call { server, at, .. }: Call<endpoints::Remove>) -> HttpResult<()> {
    let name = ScheduleName { project: at.project, name: at.name };
    let schedule = find(&server, name.clone()).await?;
    if schedule.new.origin == ScheduleOrigin::Release {
        let message = format!("schedule {name} belongs to the current release of {}", name.project);
        let problem = Problem::new(ErrorCode::ScheduleOfRelease, message);
        return Err(problem.hint("deploy a release whose role has no schedule, or pause the schedule").into());
    }
    match server.jobs.schedule(ScheduleCommand::Remove(name.clone())).await? {
        ScheduleReply::Changed(true) => Ok(()),
        _ => Err(unknown(&name).into()),
    }
}

async fn find(server: &Server, name: ScheduleName) -> HttpResult<StoredSchedule> {
    let schedule_name = name.clone();
    let found = server.jobs.read(move |reader| reader.schedule(&schedule_name)).await?;
    Ok(found.ok_or_else(|| unknown(&name))?)
}

async fn described(server: &Server, name: ScheduleName) -> HttpResult<ScheduleInfo> {
    schedule_info(find(server, name).await?)
}

fn unknown(name: &ScheduleName) -> Problem {
    Problem::new(ErrorCode::ScheduleNotFound, format!("there is no schedule {name}"))
        .hint("`gantry schedule ls` lists the schedules")
}

fn schedule_info(stored: StoredSchedule) -> HttpResult<ScheduleInfo> {
    let StoredSchedule { new, paused, progress, skipped, last_run, last_job, note, .. } = stored;
    let template: StoredTemplate =
        serde_json::from_slice(&new.template).map_err(|error| Problem::internal(error.to_string()))?;
    let job = SubmitJob::from(template);
    let next = if paused { Vec::new() } else { progress.upcoming(&new.schedule, UPCOMING) };
    Ok(ScheduleInfo {
        name: new.name,
        schedule: new.schedule,
        source: job.source,
        payload: masked(job.payload.as_bytes()),
        by: new.by,
        of_release: new.origin == ScheduleOrigin::Release,
        paused,
        runs: progress.runs,
        skipped,
        last_run,
        last_job,
        note,
        next,
    })
}
