//! `/v1/jobs`: container jobs.

use gantry_admission::find_app;
use gantry_api::endpoints::jobs as endpoints;
use gantry_api::jobs::{
    CallbackKey, JobInfo, JobLine, JobPage, JobSource, PAGE_MAX, SUBMIT_MAX, SubmitJob, SubmitJobs, SubmittedJobs,
};
use gantry_api::{ErrorCode, Problem};
use gantry_control::sessions::SessionKind;
use gantry_model::{AppName, Digest, RoleName};
use gantry_queue::{JobId, JobState, PAYLOAD_MAX, QueueName};
use gantry_queue_store::{CancelEffect, JobDetails, JobFilter, JobProgress, NewJob, QueueStoreError, SubmitRefusal};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::call::{Call, Routes};
use super::job_info::job_info;
use super::own_jobs::VisibleJobs;
use super::{ErrorResponse, HttpResult, job_output, parse_name, registry};
use crate::Server;
use crate::jobs::{JobsError, StoredWork, WorkSource};
use crate::outbound::check_literal;
use crate::servers::OtherServers;
use crate::tasks::STREAM;

/// Lines of a job's output that wait for the client.
const LINES_QUEUED: usize = 256;

/// Limit of a job's command and environment together, in bytes.
const COMMAND_MAX: usize = 64 << 10;

/// Jobs of a page, unless the request names another number.
const PAGE: usize = 100;

/// Longest message of a job's progress, in bytes.
const PROGRESS_MAX: usize = 1000;

/// Code of the jobs that run an image.
const IMAGE_CODE: &str = "image";

impl From<JobsError> for ErrorResponse {
    fn from(error: JobsError) -> Self {
        let code = match &error {
            JobsError::Store(error) => match **error {
                QueueStoreError::OtherCluster { .. } => ErrorCode::QueueOfOtherCloud,
                _ => ErrorCode::StoreUnavailable,
            },
            JobsError::ReadOnly => ErrorCode::StoreUnavailable,
            JobsError::Stopping => ErrorCode::ServerStopping,
        };
        Problem::new(code, crate::causes(&error)).into()
    }
}

impl From<SubmitRefusal> for ErrorResponse {
    fn from(refusal: SubmitRefusal) -> Self {
        let code = match &refusal {
            SubmitRefusal::Full { .. } | SubmitRefusal::TooManyQueues => ErrorCode::QueueFull,
            SubmitRefusal::Unknown(_) => ErrorCode::JobNotFound,
            SubmitRefusal::NotEnded(_) => ErrorCode::JobNotEnded,
        };
        Problem::new(code, refusal.to_string()).into()
    }
}

/// Adds the endpoints of jobs.
pub(super) fn routes(routes: Routes) -> Routes {
    let routes = routes.endpoint(submit).endpoint(list).endpoint(show).endpoint(logs);
    let routes = routes.endpoint(cancel).endpoint(retry).endpoint(progress);
    routes.endpoint(callback_key).endpoint(rotate_callback_key)
}

/// Queues all jobs of the request, or none.
async fn submit(Call { server, caller, body, .. }: Call<endpoints::Submit>) -> HttpResult<SubmittedJobs> {
    let SubmitJobs { jobs } = body;
    if jobs.is_empty() || jobs.len() > SUBMIT_MAX {
        let message = format!("a submission has 1 to {SUBMIT_MAX} jobs, this one {}", jobs.len());
        return Err(Problem::new(ErrorCode::InvalidJob, message).into());
    }
    // Until the jobs are queued, garbage collection keeps their images.
    let _pin = server.gc_pins.take();
    let mut new = Vec::new();
    for job in jobs {
        authorize(&caller, &job)?;
        new.push(resolve(&server, job, caller.name.clone()).await?);
    }
    let ids = server.jobs.submit(new).await??;
    Ok(SubmittedJobs { ids })
}

/// Refuses jobs where several servers lead in turn and the queue is a file of one server: the next leader would not
/// know the jobs, and no user would learn that the jobs never ran.
pub(super) fn require_shared_queue(server: &Server) -> HttpResult<()> {
    let names = server.servers.as_ref().map(OtherServers::names).unwrap_or_default();
    if names.len() < 2 || server.settings.job_store.is_some() {
        return Ok(());
    }
    let message = format!(
        "the queue of container jobs is a file of one server, and this cluster has {}: {}",
        names.len(),
        names.join(", ")
    );
    Err(Problem::new(ErrorCode::JobsNeedOneServer, message)
        .hint(
            "start every server with --job-store postgres://USER@HOST/DATABASE?password=FILE (see `gantry docs jobs`), or \
             run the jobs in a cluster with one server",
        )
        .into())
}

/// Requires the rights to run a job.
pub(super) fn authorize(caller: &Caller, job: &SubmitJob) -> HttpResult<()> {
    match &job.source {
        JobSource::Role { app, .. } => caller.deploy(app.as_str()).map(drop),
        JobSource::Image { reference } => {
            let repository = repository(reference);
            caller.deploy(repository)?;
            caller.pull(repository)
        }
    }
}

/// The repository of an image's reference.
fn repository(reference: &str) -> &str {
    reference.split(['@', ':']).next().unwrap_or_default()
}

/// Checks a job, and finds what it runs.
pub(crate) async fn resolve(server: &Server, job: SubmitJob, by: String) -> HttpResult<NewJob> {
    require_shared_queue(server)?;
    let invalid = |message: String| ErrorResponse(Problem::new(ErrorCode::InvalidJob, message));
    job.settings.check().map_err(|error| invalid(error.to_string()))?;
    if let Some(url) = &job.settings.callback {
        let allowed = server.core.view().records.policy.callback_private_addresses();
        check_literal(&allowed, url).map_err(|error| invalid(format!("callback: {error}")))?;
    }
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
            let code = role.as_str().parse().map_err(|_| invalid(format!("{role} cannot be the code of a job")))?;
            let (source, image) = work_of(server, &app, &role)?;
            (QueueName { project: app, code }, source, image)
        }
        JobSource::Image { reference } => {
            let project = parse_name(repository(&reference))?;
            let image = registry::find_image(server, &reference).await?;
            (QueueName { project, code: parse_name(IMAGE_CODE)? }, WorkSource::Image, image)
        }
    };
    let work =
        StoredWork { source, image, command: job.command, env: job.env, memory: job.memory, network: job.network };
    let work = serde_json::to_vec(&work).map_err(|error| Problem::internal(error.to_string()))?;
    let (settings, payload) = (job.settings, job.payload.into_bytes());
    Ok(NewJob { queue, settings, work, payload, by })
}

/// Returns the work of a job with this name: the role in the app's current release, or else the current revision of the
/// uploaded code.
fn work_of(server: &Server, app: &AppName, name: &RoleName) -> HttpResult<(WorkSource, Digest)> {
    let view = server.core.view();
    let number = find_app(&view.records, app)?.current;
    let release = number.and_then(|number| view.records.release(app, number));
    if let Some(release) = release.filter(|release| release.roles.contains_key(name)) {
        return Ok((WorkSource::Role { release: release.number, role: name.clone() }, release.image.clone()));
    }
    if let Some(revision) = view.records.code(app, name).and_then(|code| code.current()) {
        return Ok((WorkSource::Code { revision: revision.number }, revision.image.clone()));
    }
    let none = match release {
        Some(release) => {
            let message = format!("release {} of {app} has no role {name}, and {app} no code {name}", release.number);
            let roles: Vec<&str> = release.roles.keys().map(RoleName::as_str).collect();
            Problem::new(ErrorCode::RoleNotFound, message).hint(format!(
                "run one of the roles ({}), or upload code with `gantry code upload {app}/{name} PATH --stack STACK`",
                roles.join(", ")
            ))
        }
        None => {
            let message = format!("cannot run {app}/{name}: {app} has no release, and no uploaded code has this name");
            Problem::new(ErrorCode::NoRelease, message)
                .hint(format!("push the app, or upload code with `gantry code upload {app}/{name} PATH --stack STACK`"))
        }
    };
    Err(none.into())
}

/// A page of jobs, newest first. The page with the oldest visible job is the last one.
async fn list(Call { server, caller, query, .. }: Call<endpoints::List>) -> HttpResult<JobPage> {
    let project = query.project;
    let visible = VisibleJobs::of(&server, &caller, project.as_ref());
    let queue = project.clone().zip(query.code).map(|(project, code)| QueueName { project, code });
    let filter = JobFilter { project, queue, dead: query.dead, before: query.before };
    let most = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let page = server.jobs.read(move |reader| reader.page(&filter, most)).await?;
    let next = page.next.filter(|_| page.jobs.iter().all(|job| visible.includes(job)));
    let jobs = page.jobs.into_iter().filter(|job| visible.includes(job));
    Ok(JobPage { jobs: jobs.map(|job| job_info(&server.jobs, job)).collect(), next })
}

/// Finds a job that the caller may read.
pub(super) async fn find(server: &Server, caller: &Caller, id: &str) -> HttpResult<JobDetails> {
    let unknown = || {
        Problem::new(ErrorCode::JobNotFound, format!("there is no job {id}")).hint("`gantry job ls APP` lists the jobs")
    };
    let number: JobId = id.parse().map_err(|_| unknown())?;
    let job = server.jobs.read(move |reader| reader.job(number)).await?.ok_or_else(unknown)?;
    caller.read_app(job.queue.project.as_str())?;
    if !VisibleJobs::of(server, caller, Some(&job.queue.project)).includes(&job) {
        return Err(unknown().into());
    }
    Ok(job)
}

async fn show(Call { server, caller, at, .. }: Call<endpoints::Show>) -> HttpResult<JobInfo> {
    let job = find(&server, &caller, &at.id).await?;
    Ok(job_info(&server.jobs, job))
}

/// The output of the last attempt that ended, or of the running one.
async fn logs(Call { server, caller, at, query, .. }: Call<endpoints::Logs>) -> HttpResult<mpsc::Receiver<JobLine>> {
    let job = find(&server, &caller, &at.id).await?;
    let (sender, receiver) = mpsc::channel(LINES_QUEUED);
    if query.follow
        && let JobState::Leased { machine, .. } = job.job.state
    {
        let opened = server.sessions.open(&machine, SessionKind::JobOutput { job: job.id }).await;
        let agent = opened.map_err(|why| Problem::new(ErrorCode::AgentUnreachable, why.to_string()))?;
        server.tasks.spawn(STREAM, job_output::relay(TokioIo::new(agent), sender));
        return Ok(receiver);
    }
    let output = server.jobs.read(move |reader| reader.output(job.id)).await?.unwrap_or_default();
    server.tasks.spawn(STREAM, async move {
        for line in output.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice(line) else { continue };
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

async fn cancel(Call { server, caller, at, .. }: Call<endpoints::Cancel>) -> HttpResult<JobInfo> {
    let id = at.id;
    let job = find(&server, &caller, &id).await?;
    caller.deploy(job.queue.project.as_str())?;
    match server.jobs.cancel(job.id).await? {
        CancelEffect::Ended | CancelEffect::Stopping(..) => {
            Ok(job_info(&server.jobs, find(&server, &caller, &id).await?))
        }
        CancelEffect::Over => {
            Err(Problem::new(ErrorCode::JobEnded, format!("job {id} has ended and cannot be cancelled")).into())
        }
        CancelEffect::Unknown => Err(Problem::new(ErrorCode::JobNotFound, format!("there is no job {id}")).into()),
    }
}

/// Queues an ended job again, as a new job.
async fn retry(Call { server, caller, at, body, .. }: Call<endpoints::Retry>) -> HttpResult<SubmittedJobs> {
    let job = find(&server, &caller, &at.id).await?;
    caller.deploy(job.queue.project.as_str())?;
    let settings = gantry_queue::JobSettings { delay: body.delay, ..job.job.settings };
    settings.check().map_err(|error| Problem::new(ErrorCode::InvalidJob, error.to_string()))?;
    require_shared_queue(&server)?;
    let ids = server.jobs.replay(job.id, body.delay, caller.name.clone()).await??;
    Ok(SubmittedJobs { ids })
}

async fn callback_key(Call { server, at, .. }: Call<endpoints::ShowCallbackKey>) -> HttpResult<CallbackKey> {
    signing_key(&server, at.app, false).await
}

async fn rotate_callback_key(Call { server, at, .. }: Call<endpoints::RotateCallbackKey>) -> HttpResult<CallbackKey> {
    signing_key(&server, at.app, true).await
}

async fn signing_key(server: &Server, project: AppName, rotate: bool) -> HttpResult<CallbackKey> {
    require_shared_queue(server)?;
    {
        let view = server.core.view();
        // Jobs of an image belong to its repository, which may have no app.
        if !view.records.tags.contains_key(project.as_str()) {
            find_app(&view.records, &project)?;
        }
    }
    let full = || Problem::new(ErrorCode::QueueFull, "too many apps have a key that signs callbacks");
    let key = server.jobs.signing_key(project, rotate).await?.ok_or_else(full)?;
    Ok(CallbackKey { key: key.current, rotated: key.previous.map(|(_, at)| at) })
}

/// Notes how far a job is.
async fn progress(Call { server, caller, at, body, .. }: Call<endpoints::Progress>) -> HttpResult<JobInfo> {
    let job = find(&server, &caller, &at.id).await?;
    caller.deploy(job.queue.project.as_str())?;
    note_progress(&server, job.id, body.percent, body.message).await?;
    Ok(job_info(&server.jobs, find(&server, &caller, &at.id).await?))
}

/// Notes how far a job is. Only a job that a machine has makes progress.
pub(super) async fn note_progress(server: &Server, job: JobId, percent: u8, message: String) -> HttpResult<()> {
    if percent > 100 || message.len() > PROGRESS_MAX {
        let message = format!(
            "percent is {percent}, and the message has {} bytes; at most 100, and {PROGRESS_MAX}",
            message.len()
        );
        return Err(Problem::new(ErrorCode::InvalidJob, message).into());
    }
    let noted = server.jobs.note_progress(job, JobProgress { percent, message }).await?;
    let not_running = || Problem::new(ErrorCode::JobEnded, format!("job {job} does not run"));
    Ok(noted.then_some(()).ok_or_else(not_running)?)
}
