//! Tasks: Gantry's jobs.

use axum::response::{IntoResponse, Response};
use gantry_api::jobs::{JobInfo, JobLine, JobSource, JobStatus, SubmitJob};
use gantry_api::{ErrorCode, Problem};
use gantry_model::Moment;
use gantry_queue::{JobId, JobSettings, Priority};
use gantry_queue_store::{CancelEffect, JobDetails, JobFilter, NewJob};
use gantry_schedule::rfc3339;
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::super::job_info::job_info;
use super::super::jobs::{authorize, find, resolve};
use super::super::own_jobs::VisibleJobs;
use super::{IronCall, answer, unknown_code};

/// Maximum number of tasks of one submission.
const SUBMIT_MAX: usize = gantry_api::jobs::SUBMIT_MAX;

/// Tasks of a page, and the most.
const PAGE: usize = 30;
const PAGE_MAX: usize = 100;

/// Maximum number of rows that a list looks at.
const ROWS_SCANNED_MAX: usize = 100_000;

#[derive(Deserialize)]
struct Tasks {
    tasks: Vec<Task>,
}

/// A task, as clients send it: unused settings are null.
#[derive(Deserialize)]
pub(super) struct Task {
    code_name: Option<String>,
    payload: Option<Value>,
    priority: Option<u8>,
    timeout: Option<u32>,
    delay: Option<u64>,
}

/// The payload: a text, or a JSON value that is passed on as text.
fn text(payload: Option<Value>) -> String {
    match payload {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    }
}

impl Task {
    /// The job of the task.
    pub(super) fn job(self, call: &IronCall) -> HttpResult<SubmitJob> {
        let missing = || Problem::new(ErrorCode::InvalidJob, "a task needs a code_name");
        let code = self.code_name.ok_or_else(missing)?;
        let defaults = JobSettings::default();
        let priority = self.priority.map_or(Ok(Priority::default()), Priority::try_from);
        let settings = JobSettings {
            priority: priority.map_err(|error| Problem::new(ErrorCode::InvalidJob, error.to_string()))?,
            delay: self.delay.unwrap_or_default(),
            timeout: self.timeout.unwrap_or(defaults.timeout),
            ..defaults
        };
        let role = code.parse().map_err(|_| unknown_code(&code))?;
        Ok(SubmitJob {
            source: JobSource::Role { app: call.project.clone(), role },
            command: Vec::new(),
            env: std::collections::BTreeMap::new(),
            memory: None,
            network: true,
            payload: text(self.payload),
            settings,
        })
    }
}

async fn queue(call: &IronCall, tasks: Vec<Task>) -> HttpResult<Vec<JobId>> {
    if tasks.is_empty() || tasks.len() > SUBMIT_MAX {
        let message = format!("a submission has 1 to {SUBMIT_MAX} tasks, this one {}", tasks.len());
        return Err(Problem::new(ErrorCode::InvalidJob, message).into());
    }
    let _pin = call.server.gc_pins.take();
    let mut jobs: Vec<NewJob> = Vec::new();
    for task in tasks {
        let job = task.job(call)?;
        authorize(&call.caller, &job)?;
        jobs.push(resolve(&call.server, job, call.caller.name.clone()).await?);
    }
    Ok(call.server.jobs.submit(jobs).await??)
}

pub(super) async fn submit(call: &IronCall) -> HttpResult {
    let Tasks { tasks } = call.parse()?;
    Ok(queued(&queue(call, tasks).await?))
}

fn queued(ids: &[JobId]) -> Response {
    let tasks: Vec<Value> = ids.iter().map(|id| json!({ "id": id.to_string() })).collect();
    answer(json!({ "msg": "Queued up", "tasks": tasks }))
}

/// Queues a task whose payload is the body.
pub(super) async fn webhook(call: &IronCall) -> HttpResult {
    #[derive(Deserialize)]
    struct Parameters {
        code_name: Option<String>,
        priority: Option<u8>,
        timeout: Option<u32>,
        delay: Option<u64>,
    }
    let Parameters { code_name, priority, timeout, delay } = call.query()?;
    let payload = std::str::from_utf8(&call.body);
    let payload = payload.map_err(|_| Problem::new(ErrorCode::InvalidJob, "the payload is not UTF-8"))?;
    let payload = Some(Value::String(payload.to_owned()));
    let ids = queue(call, vec![Task { code_name, payload, priority, timeout, delay }]).await?;
    let id = ids.first().map(ToString::to_string);
    Ok(answer(json!({ "id": id, "msg": "Queued up" })))
}

/// Finds a job of the project.
async fn job(call: &IronCall, id: &str) -> HttpResult<JobDetails> {
    let job = find(&call.server, &call.caller, id).await?;
    if job.queue.project != call.project {
        return Err(Problem::new(ErrorCode::JobNotFound, format!("there is no task {id} in {}", call.project)).into());
    }
    Ok(job)
}

pub(super) async fn show(call: &IronCall, id: &str) -> HttpResult {
    let job = job(call, id).await?;
    Ok(answer(task(&job_info(&call.server.jobs, job))))
}

/// The word for a state.
fn word(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "queued",
        JobStatus::Preparing => "preparing",
        JobStatus::Running => "running",
        JobStatus::Succeeded => "complete",
        JobStatus::Failed | JobStatus::Expired | JobStatus::Lost => "error",
        JobStatus::Cancelling | JobStatus::Cancelled => "cancelled",
        JobStatus::TimedOut => "timeout",
    }
}

/// A task without any field of schedules.
fn task(job: &JobInfo) -> Value {
    let changed = job.ended.or(job.started).unwrap_or(job.submitted);
    let progress = job.progress.as_ref();
    json!({
        "id": job.id.to_string(),
        "project_id": job.queue.project,
        "code_id": job.queue.code,
        "code_name": job.queue.code,
        "status": word(job.status),
        "msg": progress.map(|progress| progress.message.clone()).or_else(|| job.note.clone()),
        "percent": progress.map(|progress| progress.percent),
        "priority": job.settings.priority,
        "timeout": job.settings.timeout,
        "delay": job.settings.delay,
        "payload": job.payload,
        "retry_count": job.failures,
        "created_at": rfc3339(job.submitted),
        "updated_at": rfc3339(changed),
        "start_time": job.started.map(rfc3339),
        "end_time": job.ended.map(rfc3339),
        "duration": job.attempt.as_ref().map(|attempt| attempt.duration_millis),
    })
}

/// Filters of a list. Those of states are set if they are present; several of them mean any of them.
#[derive(Deserialize)]
struct Filters {
    code_name: Option<String>,
    page: Option<usize>,
    per_page: Option<usize>,
    from_time: Option<u64>,
    to_time: Option<u64>,
    #[serde(flatten)]
    others: std::collections::BTreeMap<String, String>,
}

const STATES: [&str; 7] = ["queued", "preparing", "running", "complete", "error", "cancelled", "timeout"];

impl Filters {
    fn matches(&self, job: &JobInfo) -> bool {
        let states: Vec<&str> = STATES.into_iter().filter(|state| self.others.contains_key(*state)).collect();
        let at = job.submitted.0 / 1000;
        (states.is_empty() || states.contains(&word(job.status)))
            && self.from_time.is_none_or(|from| at >= from)
            && self.to_time.is_none_or(|to| at <= to)
    }
}

pub(super) async fn list(call: &IronCall) -> HttpResult {
    call.may_read()?;
    let filters: Filters = call.query()?;
    let most = filters.per_page.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let skip = filters.page.unwrap_or_default().min(PAGE_MAX) * most;
    let queue = filters.code_name.as_deref().map(|code| call.queue(code)).transpose()?;
    let visible = VisibleJobs::of(&call.server, &call.caller, Some(&call.project));
    let (mut before, mut scanned, mut found) = (None, 0, Vec::new());
    while found.len() < skip + most && scanned < ROWS_SCANNED_MAX {
        let filter = JobFilter { project: Some(call.project.clone()), queue: queue.clone(), dead: false, before };
        let page = call.server.jobs.read(move |reader| reader.page(&filter, PAGE_MAX)).await?;
        // A page may be short, because most rows that it looked at are of other projects.
        scanned += if page.jobs.len() == PAGE_MAX { PAGE_MAX } else { ROWS_SCANNED_MAX / 5 };
        let jobs = page.jobs.into_iter().filter(|job| visible.includes(job));
        let jobs = jobs.map(|job| job_info(&call.server.jobs, job));
        found.extend(jobs.filter(|job| filters.matches(job)));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let tasks: Vec<Value> = found.iter().skip(skip).take(most).map(task).collect();
    Ok(answer(json!({ "tasks": tasks })))
}

/// The output of the last attempt that ended. A task that has none yet is not found; clients ask again.
pub(super) async fn log(call: &IronCall, id: &str, only_output: bool) -> HttpResult {
    let job = job(call, id).await?;
    let output = call.server.jobs.read(move |reader| reader.output(job.id)).await?;
    let none = || Problem::new(ErrorCode::JobNotFound, format!("task {id} has no log yet"));
    let mut text = String::new();
    for line in output.ok_or_else(none)?.split(|byte| *byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<JobLine>(line) else { continue };
        if !(only_output && line.error) {
            text.push_str(&line.text);
            text.push('\n');
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

pub(super) async fn cancel(call: &IronCall, id: &str) -> HttpResult {
    call.may_change()?;
    let job = job(call, id).await?;
    match call.server.jobs.cancel(job.id).await? {
        CancelEffect::Ended | CancelEffect::Stopping(..) => Ok(answer(json!({ "msg": "Cancelled" }))),
        CancelEffect::Over | CancelEffect::Unknown => {
            Err(Problem::new(ErrorCode::JobEnded, format!("task {id} has ended and cannot be cancelled")).into())
        }
    }
}

pub(super) async fn retry(call: &IronCall, id: &str) -> HttpResult {
    #[derive(Deserialize)]
    struct Retry {
        delay: Option<u64>,
    }
    call.may_change()?;
    let job = job(call, id).await?;
    let Retry { delay } = call.parse()?;
    let settings = JobSettings { delay: delay.unwrap_or_default(), ..job.job.settings };
    settings.check().map_err(|error| Problem::new(ErrorCode::InvalidJob, error.to_string()))?;
    Ok(queued(&call.server.jobs.replay(job.id, settings.delay, call.caller.name.clone()).await??))
}

pub(super) async fn progress(call: &IronCall, id: &str) -> HttpResult {
    #[derive(Deserialize)]
    struct Progress {
        percent: Option<u8>,
        msg: Option<String>,
    }
    call.may_change()?;
    let job = job(call, id).await?;
    let Progress { percent, msg } = call.parse()?;
    super::super::jobs::note_progress(&call.server, job.id, percent.unwrap_or_default(), msg.unwrap_or_default())
        .await?;
    Ok(answer(json!({ "msg": "Progress set" })))
}

/// A moment of a request.
pub(super) fn moment(text: &str) -> HttpResult<Moment> {
    let wrong = || Problem::new(ErrorCode::InvalidSchedule, format!("{text:?} is not a time in RFC 3339"));
    Ok(gantry_schedule::parse_rfc3339(text).ok_or_else(wrong)?)
}
