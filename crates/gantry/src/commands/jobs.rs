//! `gantry job` and `gantry queue`.

use std::io::Read;
use std::str::FromStr;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_api::endpoints::jobs::{self, JobLogsQuery, JobsQuery};
use gantry_api::jobs::{
    CallbackInfo, CallbackState, ChangeQueue, JobInfo, JobLine, JobPage, JobSource, JobStatus, QueueInfo, RetryJob,
    SubmitJob, SubmitJobs, SubmittedJobs,
};
use gantry_api::{Client, ClientError, ErrorCode};
use gantry_model::AppName;
use gantry_queue::{CodeName, InvalidQueueName, JobId, JobSettings, QueueName, RetryPolicy};

use crate::args::{CODES_APP, Job, JobRun, JobSpec, Queue};
use crate::coded::{WithCode, coded, require};
use crate::exit::{DONE, Exit, FAILED, TIMED_OUT};
use crate::printer::{age, duration, fields, json as print_json, or_dash, out, span, status, table};

/// Shortest and longest pause between two looks at a followed job.
const POLL: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Time that the server may be away while a job is followed.
const OUTAGE_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(client: &Client, command: Job, json: bool) -> anyhow::Result<Exit> {
    match command {
        Job::Run(job) => submit(client, *job, json).await,
        Job::Ls { queue, dead, before, limit } => list(client, queue, dead, before, limit, json).await,
        Job::Show { job } => show(&client.fetch(&jobs::Show { id: job.to_string() }).await?, json),
        Job::Logs { job } => logs(client, job, json).await,
        Job::Cancel { job } => show(&client.fetch(&jobs::Cancel { id: job.to_string() }).await?, json),
        Job::Retry { job, delay } => {
            let request = RetryJob { delay: delay.unwrap_or_default() / 1000 };
            queued(&client.submit(&jobs::Retry { id: job.to_string() }, &request).await?, json)
        }
        Job::Key { app, rotate } => callback_key(client, app, rotate, json).await,
    }
}

async fn submit(client: &Client, run: JobRun, json: bool) -> anyhow::Result<Exit> {
    let JobRun { job, follow: follows, delay, idempotency } = run;
    let mut request = submit_job(job)?;
    request.settings.delay = delay.unwrap_or_default() / 1000;
    request.settings.idempotency = idempotency;
    let source = request.source.clone();
    let submitted = client.submit(&jobs::Submit {}, &SubmitJobs { jobs: vec![request] }).await;
    let submitted = submitted.map_err(|error| of_missing_code(error, &source))?;
    match submitted.ids.first() {
        Some(id) if follows => follow(client, *id).await,
        _ => queued(&submitted, json),
    }
}

/// Turns the refusal of a code of the app [`CODES_APP`] into an error that names the other form, `APP/ROLE`: a user who
/// names an app or a role alone does not mean this app.
pub(super) fn of_missing_code(error: ClientError, source: &JobSource) -> anyhow::Error {
    let refusal = match &error {
        ClientError::Problem(problem) => problem.code.known(),
        _ => None,
    };
    match (refusal, source) {
        (Some(ErrorCode::AppNotFound | ErrorCode::NoRelease), JobSource::Role { app, role })
            if app.as_str() == CODES_APP =>
        {
            let missing = format!("there is no code {role} of the app {app}; `gantry code ls` lists the codes");
            coded(ErrorCode::CodeNotFound, format!("{missing}. For a role, write APP/ROLE, such as shop/{role}"))
        }
        _ => error.into(),
    }
}

/// The request for a job.
pub(super) fn submit_job(job: JobSpec) -> anyhow::Result<SubmitJob> {
    let source = match (&job.code, &job.image) {
        (Some(code), None) => JobSource::Role {
            app: code.project.clone(),
            role: code.code.as_str().parse().map_err(anyhow::Error::from).with_code(ErrorCode::InvalidArguments)?,
        },
        (None, Some(reference)) => JobSource::Image { reference: reference.clone() },
        _ => return Err(coded(ErrorCode::InvalidArguments, "name a code, or an image with --image")),
    };
    let payload = payload(job.payload.as_deref().unwrap_or_default())?;
    let settings = settings(&job);
    Ok(SubmitJob {
        source,
        command: job.command,
        env: job.env.into_iter().map(|variable| (variable.name, variable.value)).collect(),
        memory: job.memory,
        network: !job.no_network,
        payload,
        settings,
    })
}

fn settings(job: &JobSpec) -> JobSettings {
    let defaults = JobSettings::default();
    let seconds = |millis: u64| millis / 1000;
    let short = |millis: u64| u32::try_from(seconds(millis)).unwrap_or(u32::MAX);
    JobSettings {
        priority: job.priority,
        timeout: job.timeout.map_or(defaults.timeout, short),
        retries: RetryPolicy { most: job.retries, delay: job.retry_delay.map_or(defaults.retries.delay, short) },
        expires: job.expires.map(seconds),
        key: job.key.clone(),
        callback: job.callback.clone(),
        ..defaults
    }
}

/// Reads a payload: a text, `@FILE`, or `-` for standard input.
fn payload(text: &str) -> anyhow::Result<String> {
    let read = |mut from: Box<dyn Read>| {
        let mut text = String::new();
        from.read_to_string(&mut text).map(|_| text)
    };
    let text = match text.strip_prefix('@') {
        _ if text == "-" => read(Box::new(std::io::stdin())),
        Some(path) => std::fs::File::open(path).and_then(|file| read(Box::new(file))),
        None => Ok(text.to_owned()),
    };
    text.map_err(|error| anyhow::anyhow!("cannot read the payload: {error}")).with_code(ErrorCode::FileUnreadable)
}

/// Prints the key alone, so that a script can take it.
async fn callback_key(client: &Client, app: AppName, rotate: bool, json: bool) -> anyhow::Result<Exit> {
    let key = match rotate {
        true => client.fetch(&jobs::RotateCallbackKey { app }).await?,
        false => client.fetch(&jobs::ShowCallbackKey { app }).await?,
    };
    if json {
        print_json(&key)?;
    } else {
        out!("{}", key.key);
    }
    Ok(DONE)
}

fn queued(submitted: &SubmittedJobs, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(submitted)?;
        return Ok(DONE);
    }
    submitted.ids.iter().for_each(|id| out!("{id}"));
    Ok(DONE)
}

/// Follows a job to its end, and prints its output while it runs. Returns the job's own exit code.
async fn follow(client: &Client, id: JobId) -> anyhow::Result<Exit> {
    let mut shown = None;
    let mut pause = POLL[0];
    let mut away = Duration::ZERO;
    let mut printed = None;
    loop {
        match client.fetch(&jobs::Show { id: id.to_string() }).await {
            Ok(job) => {
                away = Duration::ZERO;
                if shown != Some(job.status) {
                    pause = POLL[0];
                    status!("job {id}: {}{}", job.status, note(&job));
                }
                shown = Some(job.status);
                if job.status.is_over() {
                    output(client, id, JobLogsQuery::default(), &mut printed).await?;
                    return Ok(exit_of(&job));
                }
                if job.status == JobStatus::Running {
                    // A connection that breaks costs nothing: the rest is printed at the end.
                    let _ = output(client, id, JobLogsQuery { follow: true }, &mut printed).await;
                }
            }
            // A restarted server continues the job.
            Err(ClientError::Unreachable { .. }) if away < OUTAGE_MAX => away += pause,
            Err(ClientError::Problem(problem)) if problem.status == 503 && away < OUTAGE_MAX => away += pause,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL[1]);
    }
}

fn note(job: &JobInfo) -> String {
    job.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default()
}

/// The job's own exit code, as a shell reports it.
fn exit_of(job: &JobInfo) -> Exit {
    let signal = |signal: i32| u8::try_from(128 + signal).unwrap_or(1);
    match (job.status, job.attempt.as_ref().map(|attempt| (attempt.code, attempt.signal))) {
        (JobStatus::Succeeded, _) => DONE,
        (JobStatus::TimedOut, _) => TIMED_OUT,
        (JobStatus::Failed, Some((Some(code), _))) => Exit(u8::try_from(code).unwrap_or(1)),
        (JobStatus::Failed, Some((None, Some(number)))) => Exit(signal(number)),
        _ => FAILED,
    }
}

/// Prints the output of a job after the line `printed`: standard output and standard error to their own.
async fn output(client: &Client, id: JobId, query: JobLogsQuery, printed: &mut Option<JobLine>) -> anyhow::Result<()> {
    let mut lines = client.follow(&jobs::Logs { id: id.to_string() }, &query).await?;
    let before = printed.clone();
    let mut skipped = Vec::new();
    while let Some(line) = lines.next().await {
        let line = line?;
        // Lines of the same moment as the last printed one may be new. They are, unless that line comes again.
        match &before {
            Some(before) if line == *before => skipped.clear(),
            Some(before) if line.at < before.at => {}
            Some(before) if line.at == before.at => skipped.push(line),
            _ => {
                skipped.drain(..).for_each(|line| print(line, printed));
                print(line, printed);
            }
        }
    }
    skipped.into_iter().for_each(|line| print(line, printed));
    Ok(())
}

fn print(line: JobLine, printed: &mut Option<JobLine>) {
    if line.error {
        status!("{}", line.text);
    } else {
        out!("{}", line.text);
    }
    *printed = Some(line);
}

async fn logs(client: &Client, id: JobId, json: bool) -> anyhow::Result<Exit> {
    if !json {
        output(client, id, JobLogsQuery::default(), &mut None).await?;
        return Ok(DONE);
    }
    let mut lines = client.follow(&jobs::Logs { id: id.to_string() }, &JobLogsQuery::default()).await?;
    while let Some(line) = lines.next().await {
        crate::printer::json_line(&line?)?;
    }
    Ok(DONE)
}

/// Prints jobs, newest first.
async fn list(
    client: &Client,
    queue: Option<QueueFilter>,
    dead: bool,
    before: Option<JobId>,
    limit: usize,
    json: bool,
) -> anyhow::Result<Exit> {
    let mut query = JobsQuery { dead, ..JobsQuery::default() };
    if let Some(filter) = queue {
        (query.project, query.code) = (Some(filter.project), filter.code);
    }
    let (mut found, mut next) = (Vec::new(), before);
    // A page may be short and have a successor.
    loop {
        (query.before, query.limit) = (next, Some(limit - found.len()));
        let page = client.fetch_with(&jobs::List {}, &query).await?;
        found.extend(page.jobs);
        next = page.next;
        if next.is_none() || found.len() >= limit {
            break;
        }
    }
    if json {
        print_json(&JobPage { jobs: found, next })?;
        return Ok(DONE);
    }
    let rows = found.iter().map(|job| {
        vec![
            job.id.to_string(),
            job.queue.to_string(),
            job.status.to_string(),
            format!("{} ago", age(job.submitted)),
            or_dash(job.attempt.as_ref().map(|attempt| span_short(attempt.duration_millis))),
            or_dash(job.note.as_ref()),
        ]
    });
    table(&["job", "queue", "state", "submitted", "took", "note"], rows);
    if let Some(next) = next {
        status!("more: --before {next}");
    }
    Ok(DONE)
}

/// A span with milliseconds, if it is short.
fn span_short(millis: u64) -> String {
    if millis < 10_000 { format!("{}.{:03}s", millis / 1000, millis % 1000) } else { span(millis) }
}

fn show(job: &JobInfo, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(job)?;
        return Ok(DONE);
    }
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("queue", job.queue.to_string()),
        ("state", format!("{}{}", job.status, note(job))),
        ("submitted", format!("{} ago, by {}", age(job.submitted), job.by)),
        ("priority", u8::from(job.settings.priority).to_string()),
        ("timeout", duration(job.settings.timeout.into())),
        ("failed attempts", format!("{} of {}", job.failures, job.settings.retries.most + 1)),
    ];
    rows.extend(job.machine.as_ref().map(|machine| ("machine", machine.to_string())));
    if let Some(progress) = &job.progress {
        rows.push(("progress", format!("{} % {}", progress.percent, progress.message)));
    }
    rows.extend(job.payload.as_ref().map(|payload| ("payload", payload.clone())));
    if let Some(attempt) = &job.attempt {
        rows.extend(attempt.code.map(|code| ("exit status", code.to_string())));
        rows.extend(attempt.signal.map(|signal| ("signal", signal.to_string())));
        rows.push(("took", span_short(attempt.duration_millis)));
        rows.push(("peak memory", format!("{} KiB", attempt.peak_memory >> 10)));
        rows.push(("processor time", span_short(attempt.cpu_micros / 1000)));
    }
    rows.extend(job.settings.callback.as_ref().map(|url| ("callback", url.to_string())));
    rows.extend(job.callback.as_ref().map(|callback| ("", callback_state(callback))));
    fields(16, rows);
    Ok(DONE)
}

/// State of a callback in words.
fn callback_state(callback: &CallbackInfo) -> String {
    let CallbackInfo { attempts, error, .. } = callback;
    let error = error.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
    match callback.state {
        CallbackState::Delivered => format!("delivered, {attempts} attempts"),
        CallbackState::Failed => format!("given up, {attempts} attempts{error}"),
        CallbackState::Waiting => format!("waiting, {attempts} attempts{error}"),
    }
}

/// A project, or one of its queues.
#[derive(Debug, Clone)]
pub(crate) struct QueueFilter {
    pub(crate) project: AppName,
    pub(crate) code: Option<CodeName>,
}

impl FromStr for QueueFilter {
    type Err = InvalidQueueName;

    fn from_str(text: &str) -> Result<Self, InvalidQueueName> {
        let is_queue = text.contains('/');
        let name: QueueName = if is_queue { text.parse()? } else { format!("{text}/x").parse()? };
        Ok(Self { project: name.project, code: is_queue.then_some(name.code) })
    }
}

pub(crate) async fn queue(client: &Client, command: Queue, json: bool) -> anyhow::Result<Exit> {
    match command {
        Queue::Ls => {
            let queues = client.fetch(&jobs::ListQueues {}).await?;
            show_queues(&queues, json)
        }
        Queue::Show { queue: QueueName { project, code } } => {
            show_queues(&[client.fetch(&jobs::ShowQueue { project, code }).await?], json)
        }
        Queue::Pause { queue } => {
            change(client, &queue, ChangeQueue { paused: Some(true), ..ChangeQueue::default() }, json).await
        }
        Queue::Resume { queue } => {
            change(client, &queue, ChangeQueue { paused: Some(false), ..ChangeQueue::default() }, json).await
        }
        Queue::Limit { queue, count } => {
            change(client, &queue, ChangeQueue { limit: Some(count), ..ChangeQueue::default() }, json).await
        }
        Queue::Purge { queue, confirm } => {
            let named = confirm.as_deref() == Some(queue.to_string().as_str());
            require!(named, InvalidArguments, "this cancels every waiting job; confirm with --confirm {queue}");
            let QueueName { project, code } = queue;
            let purged = client.fetch(&jobs::Purge { project, code }).await?;
            status!("{} jobs cancelled", purged.cancelled);
            Ok(DONE)
        }
        Queue::Dead { queue, limit } => {
            let filter = queue.map(|QueueName { project, code }| QueueFilter { project, code: Some(code) });
            list(client, filter, true, None, limit, json).await
        }
    }
}

async fn change(client: &Client, queue: &QueueName, change: ChangeQueue, json: bool) -> anyhow::Result<Exit> {
    let QueueName { project, code } = queue.clone();
    show_queues(&[client.submit(&jobs::SetQueue { project, code }, &change).await?], json)
}

fn show_queues(queues: &[QueueInfo], json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(&queues)?;
        return Ok(DONE);
    }
    let rows = queues.iter().map(|queue| {
        vec![
            queue.name.to_string(),
            if queue.paused { "paused" } else { "open" }.to_owned(),
            queue.ready.to_string(),
            queue.waiting.to_string(),
            queue.running.to_string(),
            or_dash(queue.limit),
            queue.ended.to_string(),
            queue.dead.to_string(),
            queue.extra_runs.to_string(),
        ]
    });
    table(&["queue", "state", "ready", "waiting", "running", "limit", "ended", "dead", "extra runs"], rows);
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use gantry_api::Problem;

    use super::*;

    #[test]
    fn a_code_that_is_missing_names_the_form_of_a_role() {
        let refused = |code, name: &str| {
            let QueueName { project, code: role } = name.parse().expect("a name");
            let role = role.as_str().parse().expect("a role");
            of_missing_code(Problem::new(code, "refused").into(), &JobSource::Role { app: project, role })
        };
        for code in [ErrorCode::AppNotFound, ErrorCode::NoRelease] {
            let error = refused(code, "jobs/report");
            assert_eq!(crate::coded::code_of(&error), Some(ErrorCode::CodeNotFound));
            assert!(error.to_string().contains("write APP/ROLE, such as shop/report"), "{error}");
        }
        assert_eq!(refused(ErrorCode::AppNotFound, "shop/report").to_string(), "refused [E_APP_NOT_FOUND]");
        assert_eq!(refused(ErrorCode::InvalidJob, "jobs/report").to_string(), "refused [E_INVALID_JOB]");
    }

    #[test]
    fn a_payload_is_a_text_or_a_file() {
        assert_eq!(payload("{}").expect("a text"), "{}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "from a file\n").expect("written");
        assert_eq!(payload(&format!("@{}", file.path().display())).expect("read"), "from a file\n");
        let error = payload("@/nonexistent").expect_err("no file");
        assert_eq!(crate::coded::code_of(&error), Some(ErrorCode::FileUnreadable));
    }
}
