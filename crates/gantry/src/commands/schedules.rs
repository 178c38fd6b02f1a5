//! `gantry schedule`.

use gantry_api::Client;
use gantry_api::endpoints::schedules::{self, SchedulesQuery};
use gantry_api::jobs::{JobSource, SubmitJob};
use gantry_api::schedules::{ChangeSchedule, CreateSchedule, ScheduleInfo};
use gantry_queue::ScheduleName;
use gantry_schedule::{Schedule, Timing, Zone};

use super::jobs::{of_missing_code, submit_job};
use crate::args;
use crate::args::ScheduleCreate;
use crate::coded::coded;
use crate::exit::{DONE, Exit};
use crate::printer::{duration, fields, json as print_json, or_dash, status, table};
use gantry_api::ErrorCode;

pub(crate) async fn run(client: &Client, command: args::Schedule, json: bool) -> anyhow::Result<Exit> {
    match command {
        args::Schedule::Create(new) => {
            let request = request(*new)?;
            let created = client.submit(&schedules::Create {}, &request).await;
            show(&created.map_err(|error| of_missing_code(error, &request.job.source))?, json)
        }
        args::Schedule::Ls { app } => {
            let query = SchedulesQuery { project: app };
            list(&client.fetch_with(&schedules::List {}, &query).await?, json)
        }
        args::Schedule::Show { schedule: ScheduleName { project, name } } => {
            show(&client.fetch(&schedules::Show { project, name }).await?, json)
        }
        args::Schedule::Rm { schedule } => {
            let ScheduleName { project, name } = schedule.clone();
            client.fetch(&schedules::Remove { project, name }).await?;
            status!("schedule {schedule} removed");
            Ok(DONE)
        }
        args::Schedule::Pause { schedule } => pause(client, schedule, true, json).await,
        args::Schedule::Resume { schedule } => pause(client, schedule, false, json).await,
    }
}

async fn pause(client: &Client, schedule: ScheduleName, paused: bool, json: bool) -> anyhow::Result<Exit> {
    let ScheduleName { project, name } = schedule;
    show(&client.submit(&schedules::Change { project, name }, &ChangeSchedule { paused }).await?, json)
}

fn request(new: ScheduleCreate) -> anyhow::Result<CreateSchedule> {
    let ScheduleCreate { job, name, cron, timezone, every, start, end, count, missed, overlap } = new;
    let timing = match (cron, every) {
        (Some(cron), _) => Timing::Cron { cron, zone: timezone.unwrap_or_else(Zone::utc) },
        (None, Some(millis)) => Timing::Every(millis / 1000),
        (None, None) if start.is_some() => Timing::Once,
        (None, None) => {
            return Err(coded(ErrorCode::InvalidArguments, "name the times with --cron, --every or --start"));
        }
    };
    let schedule = Schedule { timing, start, end, count, missed, overlap };
    let job: SubmitJob = submit_job(job)?;
    Ok(CreateSchedule { name, schedule, job })
}

/// The times of a schedule, for people.
fn times(schedule: &Schedule) -> String {
    match &schedule.timing {
        Timing::Cron { cron, zone } => format!("{cron} {zone}"),
        Timing::Every(seconds) => format!("every {}", duration(*seconds)),
        Timing::Once => "once".to_owned(),
    }
}

fn list(schedules: &[ScheduleInfo], json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(&schedules)?;
        return Ok(DONE);
    }
    let rows = schedules.iter().map(|schedule| {
        let zone = schedule.schedule.zone();
        let state = if schedule.paused {
            "paused".to_owned()
        } else {
            or_dash(schedule.next.first().map(|next| zone.wall_time(*next)))
        };
        vec![
            schedule.name.to_string(),
            times(&schedule.schedule),
            state,
            schedule.runs.to_string(),
            or_dash(schedule.last_job),
            or_dash(schedule.note.as_ref()),
        ]
    });
    table(&["schedule", "times", "next", "runs", "last job", "note"], rows);
    Ok(DONE)
}

fn show(schedule: &ScheduleInfo, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(schedule)?;
        return Ok(DONE);
    }
    let zone = schedule.schedule.zone();
    let source = match &schedule.source {
        JobSource::Role { app, role } => format!("{app}/{role}"),
        JobSource::Image { reference } => format!("image {reference}"),
    };
    let by = if schedule.of_release { "the current release" } else { &schedule.by };
    let mut rows = vec![
        ("schedule", schedule.name.to_string()),
        ("times", times(&schedule.schedule)),
        ("runs", source),
        ("made by", by.to_owned()),
        ("missed times", schedule.schedule.missed.to_string()),
        ("overlap", schedule.schedule.overlap.to_string()),
        ("times run", schedule.runs.to_string()),
        ("times skipped", schedule.skipped.to_string()),
    ];
    rows.extend(schedule.payload.as_ref().map(|payload| ("payload", payload.clone())));
    rows.extend(schedule.last_run.map(|last| ("last run", zone.wall_time(last))));
    rows.extend(schedule.last_job.map(|job| ("last job", job.to_string())));
    rows.extend(schedule.note.as_ref().map(|note| ("note", note.clone())));
    if schedule.paused {
        rows.push(("next", "paused".to_owned()));
    } else if schedule.next.is_empty() {
        rows.push(("next", "never: the schedule is over".to_owned()));
    }
    rows.extend(schedule.next.iter().map(|next| ("next", zone.wall_time(*next))));
    fields(16, rows);
    Ok(DONE)
}
