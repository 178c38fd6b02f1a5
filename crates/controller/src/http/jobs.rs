//! `/v1/jobs`: container jobs.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use gantry_admission::find_app;
use gantry_api::endpoint::AccessScope;
use gantry_api::jobs::{JobPage, JobSource, PAGE_MAX, RetryJob, SUBMIT_MAX, SubmitJob, SubmitJobs, SubmittedJobs};
use gantry_api::{ErrorCode, Problem};
use gantry_model::AppName;
use gantry_queue::{CodeName, JobId, PAYLOAD_MAX, QueueName};
use gantry_queue_store::{CancelEffect, JobDetails, JobFilter, NewJob, SubmitRefusal};
use http::header;
use serde::Deserialize;

use super::auth::Caller;
use super::job_info::job_info;
use super::{ErrorResponse, HttpResult, Params, json, parse_body, parse_name, registry};
use crate::Server;
use crate::jobs::{JobsError, StoredWork, WorkSource};

/// Size limit of a submission in bytes.
const SUBMISSION_MAX: usize = 16 << 20;

/// Limit of a job's command and environment together, in bytes.
const COMMAND_MAX: usize = 64 << 10;

/// Jobs of a page, unless the request names another number.
const PAGE: usize = 100;

/// Code of the jobs that run an image.
const IMAGE_CODE: &str = "image";

impl From<JobsError> for ErrorResponse {
    fn from(error: JobsError) -> Self {
        let code = match &error {
            JobsError::Store(_) | JobsError::ReadOnly => ErrorCode::StoreUnavailable,
            JobsError::Stopping => ErrorCode::ServerStopping,
        };
        Problem::new(code, crate::causes(&error)).into()
    }
}

impl From<SubmitRefusal> for ErrorResponse {
    fn from(refusal: SubmitRefusal) -> Self {
        let code = match &refusal {
            SubmitRefusal::Full | SubmitRefusal::TooManyQueues => ErrorCode::QueueFull,
            SubmitRefusal::Unknown(_) => ErrorCode::JobNotFound,
            SubmitRefusal::NotEnded(_) => ErrorCode::JobNotEnded,
        };
        Problem::new(code, refusal.to_string()).into()
    }
}

/// Routes below `/v1`. What a token may do follows from the project of the job, not from the path.
pub(super) fn routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/jobs", get(list).post(submit).layer(DefaultBodyLimit::max(SUBMISSION_MAX)))
        .route("/jobs/{id}", get(show))
        .route("/jobs/{id}/logs", get(logs))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/jobs/{id}/retry", post(retry))
}

/// `POST /v1/jobs`: queues all jobs of the request, or none.
async fn submit(State(server): State<Arc<Server>>, caller: Caller, text: Bytes) -> HttpResult {
    let SubmitJobs { jobs } = parse_body(&text)?;
    if jobs.is_empty() || jobs.len() > SUBMIT_MAX {
        let message = format!("a submission has 1 to {SUBMIT_MAX} jobs, this one {}", jobs.len());
        return Err(Problem::new(ErrorCode::InvalidJob, message).into());
    }
    // Until the jobs are queued, garbage collection keeps their images.
    let _pin = server.gc_pins.take();
    let mut new = Vec::new();
    for job in jobs {
        new.push(checked(&server, &caller, job).await?);
    }
    let ids = server.jobs.submit(new).await??;
    json(&SubmittedJobs { ids })
}

/// Checks a job, and finds what it runs.
async fn checked(server: &Server, caller: &Caller, job: SubmitJob) -> HttpResult<NewJob> {
    let invalid = |message: String| ErrorResponse(Problem::new(ErrorCode::InvalidJob, message));
    job.settings.check().map_err(|error| invalid(error.to_string()))?;
    if job.payload.len() > PAYLOAD_MAX {
        let size = job.payload.len();
        return Err(invalid(format!("the payload has {size} bytes; the limit is {PAYLOAD_MAX}")));
    }
    let words = job.command.iter().chain(job.env.keys()).chain(job.env.values());
    if words.clone().any(|word| word.contains('\0')) || words.map(String::len).sum::<usize>() > COMMAND_MAX {
        return Err(invalid(format!(
            "command and environment contain a NUL byte, or have together more than {COMMAND_MAX} bytes"
        )));
    }
    if let Some(name) = job.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid(format!("{name:?} cannot be the name of a variable")));
    }
    let (queue, source, image) = match job.source {
        JobSource::Role { app, role } => {
            let app = caller.deploy(app.as_str())?;
            let view = server.core.view();
            let number = find_app(&view.records, &app)?.current;
            let release = number.and_then(|number| view.records.release(&app, number));
            let release = release
                .ok_or_else(|| Problem::new(ErrorCode::NoRelease, format!("{app} has no release to run a job of")))?;
            if !release.roles.contains_key(&role) {
                let message = format!("release {} of {app} has no role {role}", release.number);
                return Err(Problem::new(ErrorCode::RoleNotFound, message).into());
            }
            let code = role.as_str().parse().map_err(|_| invalid(format!("{role} cannot be the code of a job")))?;
            let image = release.image.clone();
            (QueueName { project: app, code }, WorkSource::Role { release: release.number, role }, image)
        }
        JobSource::Image { reference } => {
            let repository = reference.split(['@', ':']).next().unwrap_or_default();
            let project = caller.deploy(repository)?;
            let image = registry::resolve(server, caller, &reference).await?;
            (QueueName { project, code: parse_name(IMAGE_CODE)? }, WorkSource::Image, image)
        }
    };
    let work =
        StoredWork { source, image, command: job.command, env: job.env, memory: job.memory, network: job.network };
    let work = serde_json::to_vec(&work).map_err(|error| Problem::internal(error.to_string()))?;
    let (settings, payload, by) = (job.settings, job.payload.into_bytes(), caller.name.clone());
    Ok(NewJob { queue, settings, work, payload, by })
}

/// Query parameters of a list of jobs.
#[derive(Deserialize)]
struct ListQuery {
    project: Option<AppName>,
    code: Option<CodeName>,
    #[serde(default)]
    dead: bool,
    before: Option<JobId>,
    limit: Option<usize>,
}

/// `GET /v1/jobs`: a page of jobs, newest first.
async fn list(State(server): State<Arc<Server>>, caller: Caller, Params(query): Params<ListQuery>) -> HttpResult {
    let project = match &query.project {
        Some(project) => Some(caller.read_app(project.as_str())?),
        None => {
            caller.check(AccessScope::Read, None)?;
            None
        }
    };
    let queue = project.clone().zip(query.code).map(|(project, code)| QueueName { project, code });
    let filter = JobFilter { project, queue, dead: query.dead, before: query.before };
    let most = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let page = server.jobs.read(move |reader| reader.page(&filter, most)).await?;
    let jobs = page.jobs.into_iter().map(|job| job_info(&server.jobs, job)).collect();
    json(&JobPage { jobs, next: page.next })
}

/// Finds a job that the caller may read.
async fn find(server: &Server, caller: &Caller, id: &str) -> HttpResult<JobDetails> {
    let unknown = || Problem::new(ErrorCode::JobNotFound, format!("there is no job {id}"));
    let number: JobId = id.parse().map_err(|_| unknown())?;
    let job = server.jobs.read(move |reader| reader.job(number)).await?.ok_or_else(unknown)?;
    caller.read_app(job.queue.project.as_str())?;
    Ok(job)
}

/// `GET /v1/jobs/{id}`.
async fn show(State(server): State<Arc<Server>>, caller: Caller, Path(id): Path<String>) -> HttpResult {
    let job = find(&server, &caller, &id).await?;
    json(&job_info(&server.jobs, job))
}

/// `GET /v1/jobs/{id}/logs`: the output of the last attempt that ended, as lines of JSON.
async fn logs(State(server): State<Arc<Server>>, caller: Caller, Path(id): Path<String>) -> HttpResult {
    let job = find(&server, &caller, &id).await?;
    let output = server.jobs.read(move |reader| reader.output(job.id)).await?.unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from(output)).into_response())
}

/// `POST /v1/jobs/{id}/cancel`.
async fn cancel(State(server): State<Arc<Server>>, caller: Caller, Path(id): Path<String>) -> HttpResult {
    let job = find(&server, &caller, &id).await?;
    caller.deploy(job.queue.project.as_str())?;
    match server.jobs.cancel(job.id).await? {
        CancelEffect::Ended | CancelEffect::Stopping(..) => show(State(server), caller, Path(id)).await,
        CancelEffect::Over => {
            Err(Problem::new(ErrorCode::JobEnded, format!("job {id} has ended and cannot be cancelled")).into())
        }
        CancelEffect::Unknown => Err(Problem::new(ErrorCode::JobNotFound, format!("there is no job {id}")).into()),
    }
}

/// `POST /v1/jobs/{id}/retry`: queues an ended job again, as a new job.
async fn retry(State(server): State<Arc<Server>>, caller: Caller, Path(id): Path<String>, text: Bytes) -> HttpResult {
    let RetryJob { delay } = if text.is_empty() { RetryJob::default() } else { parse_body(&text)? };
    let job = find(&server, &caller, &id).await?;
    caller.deploy(job.queue.project.as_str())?;
    let settings = gantry_queue::JobSettings { delay, ..job.job.settings };
    settings.check().map_err(|error| Problem::new(ErrorCode::InvalidJob, error.to_string()))?;
    let ids = server.jobs.replay(job.id, delay, caller.name.clone()).await??;
    json(&SubmittedJobs { ids })
}
