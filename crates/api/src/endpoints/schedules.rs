//! Schedules of container jobs.

use gantry_model::AppName;
use gantry_queue::CodeName;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, LargeJson, NoBody, QueryParameters, endpoints};
use crate::schedules::{ChangeSchedule, CreateSchedule, ScheduleInfo};

/// Query of a list of schedules.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SchedulesQuery {
    /// Only schedules of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<AppName>,
}

impl QueryParameters for SchedulesQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("project", "only schedules of this app")];

    fn app(&self) -> Option<&AppName> {
        self.project.as_ref()
    }
}

endpoints! {
    /// Create a schedule
    Create: POST "/v1/schedules", DeployOfObject, LargeJson<CreateSchedule> => Json<ScheduleInfo>,
        [InvalidSchedule, InvalidJob, ScheduleExists, AppNotFound, AppBeingDestroyed, NoRelease, RoleNotFound,
         ImageNotFound, ImageUnusable, PlatformMissing, QueueFull, JobsNeedOneServer, QueueOfOtherCloud];
    /// All schedules
    List: GET "/v1/schedules" ? SchedulesQuery, Read, NoBody => Json<Vec<ScheduleInfo>>, [QueueOfOtherCloud];
    /// A schedule with its next times
    Show { project: AppName, name: CodeName }: GET "/v1/schedules/{project}/{name}", Read,
        NoBody => Json<ScheduleInfo>, [ScheduleNotFound, QueueOfOtherCloud];
    /// Pause or resume a schedule
    Change { project: AppName, name: CodeName }: PATCH "/v1/schedules/{project}/{name}", Deploy,
        Json<ChangeSchedule> => Json<ScheduleInfo>, [ScheduleNotFound, QueueOfOtherCloud];
    /// Remove a schedule; its jobs stay
    Remove { project: AppName, name: CodeName }: DELETE "/v1/schedules/{project}/{name}", Deploy,
        NoBody => NoBody, [ScheduleNotFound, ScheduleOfRelease, QueueOfOtherCloud];
}
