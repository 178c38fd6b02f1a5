//! Container jobs and their queues.

use gantry_model::AppName;
use gantry_queue::{CodeName, JobId};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, LargeJson, Lines, NoBody, QueryParameters, endpoints};
use crate::jobs::{
    CallbackKey, ChangeQueue, JobInfo, JobLine, JobPage, JobProgress, PurgedQueue, QueueInfo, RetryJob, SubmitJobs,
    SubmittedJobs,
};

/// Query of a list of jobs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobsQuery {
    /// Only jobs of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<AppName>,
    /// Only jobs of this queue of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeName>,
    /// True for dead letters only.
    #[serde(default)]
    pub dead: bool,
    /// Only jobs older than this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<JobId>,
    /// Maximum number of jobs of the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl QueryParameters for JobsQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("project", "only jobs of this app"),
        ("code", "only jobs of this queue of the app"),
        ("dead", "`true` for dead letters only"),
        ("before", "only jobs older than this job"),
        ("limit", "most jobs of the page"),
    ];

    fn app(&self) -> Option<&AppName> {
        self.project.as_ref()
    }
}

/// Query of the output of a job.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct JobLogsQuery {
    /// True to follow an attempt that runs.
    #[serde(default)]
    pub follow: bool,
}

impl QueryParameters for JobLogsQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("follow", "`true` to follow an attempt that runs")];
}

endpoints! {
    /// Queue jobs, all or none
    Submit: POST "/v1/jobs", DeployOfObject, LargeJson<SubmitJobs> => Json<SubmittedJobs>,
        [InvalidJob, AppNotFound, AppBeingDestroyed, NoRelease, RoleNotFound, ImageNotFound, ImageUnusable, QueueFull,
         JobsNeedOneServer, QueueOfOtherCloud];
    /// Jobs, newest first
    List: GET "/v1/jobs" ? JobsQuery, Read, NoBody => Json<JobPage>, [QueueOfOtherCloud];
    /// A job
    Show { id: String }: GET "/v1/jobs/{id}", ReadOfObject, NoBody => Json<JobInfo>, [JobNotFound, QueueOfOtherCloud];
    /// The output of its last attempt; with `follow`, that of the running attempt until its end
    Logs { id: String }: GET "/v1/jobs/{id}/logs" ? JobLogsQuery, ReadOfObject, NoBody => Lines<JobLine>,
        [JobNotFound, QueueOfOtherCloud];
    /// Cancel a job
    Cancel { id: String }: POST "/v1/jobs/{id}/cancel", DeployOfObject, NoBody => Json<JobInfo>,
        [JobNotFound, JobEnded, QueueOfOtherCloud];
    /// Queue an ended job again
    Retry { id: String }: POST "/v1/jobs/{id}/retry", DeployOfObject, Json<RetryJob> => Json<SubmittedJobs>,
        [JobNotFound, JobNotEnded, InvalidJob, QueueFull, JobsNeedOneServer, QueueOfOtherCloud];
    /// Note how far a running job is
    Progress { id: String }: POST "/v1/jobs/{id}/progress", DeployOfObject, Json<JobProgress> => Json<JobInfo>,
        [JobNotFound, JobEnded, InvalidJob, QueueOfOtherCloud];
    /// The key that signs the callbacks of an app's jobs; made at first need
    ShowCallbackKey { app: AppName }: GET "/v1/apps/{app}/callback-key", Deploy, NoBody => Json<CallbackKey>,
        [AppNotFound, QueueFull, JobsNeedOneServer, QueueOfOtherCloud];
    /// Replace that key; the old key also signs for one more day
    RotateCallbackKey { app: AppName }: POST "/v1/apps/{app}/callback-key", Deploy, NoBody => Json<CallbackKey>,
        [AppNotFound, QueueFull, JobsNeedOneServer, QueueOfOtherCloud];
    /// All queues
    ListQueues: GET "/v1/queues", Read, NoBody => Json<Vec<QueueInfo>>, [QueueOfOtherCloud];
    /// A queue
    ShowQueue { project: AppName, code: CodeName }: GET "/v1/queues/{project}/{code}", Read,
        NoBody => Json<QueueInfo>, [QueueNotFound, QueueOfOtherCloud];
    /// Pause, resume or limit a queue
    SetQueue { project: AppName, code: CodeName }: PATCH "/v1/queues/{project}/{code}", Deploy,
        Json<ChangeQueue> => Json<QueueInfo>, [QueueNotFound, QueueOfOtherCloud];
    /// Cancel all jobs that wait
    Purge { project: AppName, code: CodeName }: POST "/v1/queues/{project}/{code}/purge", Deploy,
        NoBody => Json<PurgedQueue>, [QueueOfOtherCloud];
}
