//! Jobs of the earlier apps of a name.
//!
//! The queue keeps jobs by the name of their project, longer than a destroyed app. A deploy token of the next app of the
//! name must not see them. Admin and read tokens may.

use std::sync::Arc;

use gantry_model::{App, AppName, Moment};
use gantry_queue::JobId;
use gantry_queue_store::JobDetails;

use super::auth::Caller;
use crate::Server;

/// The jobs of a project that a caller may see.
pub(super) struct VisibleJobs {
    /// The app whose jobs alone are visible; all jobs of the project are without an app.
    app: Option<Arc<App>>,
}

impl VisibleJobs {
    pub(super) fn of(server: &Server, caller: &Caller, project: Option<&AppName>) -> Self {
        let own = project.filter(|_| caller.is_of_app());
        Self { app: own.and_then(|project| server.core.view().records.apps.get(project).cloned()) }
    }

    /// Reports whether the caller may see a job of the project.
    pub(super) fn includes(&self, job: &JobDetails) -> bool {
        self.app.as_ref().is_none_or(|app| !is_of_earlier_app(app, job.id, job.job.submitted))
    }
}

/// Reports whether a job under the name of an app belongs to an earlier app. The numbers of jobs rise, so the number
/// decides. If the queue was away when the app was made, the moment decides.
fn is_of_earlier_app(app: &App, job: JobId, submitted: Moment) -> bool {
    match app.earlier_jobs {
        Some(last) => job.0 <= last,
        None => submitted < app.created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_belongs_to_the_app_that_had_the_name_at_its_submission() {
        for (earlier_jobs, job, submitted, expected) in [
            (Some(0), 1, 0, false),
            (Some(7), 7, 200, true),
            (Some(7), 8, 200, false),
            // The clock was set back after the app was made.
            (Some(7), 8, 50, false),
            (None, 8, 99, true),
            (None, 8, 100, false),
            (None, 1, 200, false),
        ] {
            let name = AppName::parse("shop").expect("a name");
            let app = App { earlier_jobs, ..App::new(name, Moment(100)) };
            let found = is_of_earlier_app(&app, JobId(job), Moment(submitted));
            assert_eq!(found, expected, "job {job} at {submitted}, after {earlier_jobs:?}");
        }
    }
}
