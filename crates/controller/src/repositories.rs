//! Git repositories of the apps: created or repaired on request, and checked once after a start. Damage is reported in
//! the log, in the events, and to the next push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gantry_admission::{Actor, find_changeable_app};
use gantry_api::Problem;
use gantry_git::Mended;
use gantry_model::{AppName, AuditAction, DeployCause, DeployState};
use gantry_records::RecordIndex;

use crate::ChangeError;
use crate::Server;

/// Notes about repairs, for the next push of each app.
#[derive(Default)]
pub(crate) struct Notes(Mutex<HashMap<AppName, Vec<String>>>);

impl Notes {
    fn add(&self, app: &AppName, note: String) {
        self.lock().entry(app.clone()).or_default().push(note);
    }

    /// Takes the notes for an app, so that each note is reported once.
    pub(crate) fn take(&self, app: &AppName) -> Vec<String> {
        self.lock().remove(app).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AppName, Vec<String>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Creates an app's repository, or repairs a damaged one.
pub(crate) async fn open(server: &Server, app: &AppName) -> Result<(), Problem> {
    let view = server.core.view();
    // The files of a renamed app are on their way to the new name.
    let branch = &find_changeable_app(&view.records, app).map_err(ChangeError::from)?.branch;
    let mended = server.repositories.ensure(app, branch, &accepted_commits(&view.records, app)).await;
    let mended =
        mended.map_err(|error| Problem::internal(format!("the repository of {app}: {}", crate::causes(&error))))?;
    for mended in mended {
        report_repairs(server, app, &mended).await;
    }
    Ok(())
}

/// Reports a repair in the log, in the events, and to the next push.
async fn report_repairs(server: &Server, app: &AppName, mended: &Mended) {
    let what = format!("the repository of {app}: {mended}");
    tracing::warn!("{what}");
    server.repairs.add(app, what.clone());
    let name = app.clone();
    let change = move |records: &RecordIndex, now| {
        let action = AuditAction::RepositoryDamaged { finding: what };
        Actor::new(records, now, "gantry").record(Some(&name), action)
    };
    if let Err(problem) = server.core.mutate(change).await {
        tracing::warn!(%app, %problem, "the events do not tell of a damaged repository");
    }
}

/// Checks the repository of each app, so that damage by a power loss is known before the next push.
pub(crate) async fn look_at_all(server: Arc<Server>) {
    let records = server.core.view().records;
    let apps = records.apps.values().filter(|app| app.rename.is_none()).map(|app| app.name.clone());
    for app in apps {
        match open(&server, &app).await {
            Ok(()) => {}
            Err(problem) => tracing::warn!(%app, %problem, "a repository cannot be looked at"),
        }
    }
}

/// Returns the commits of an app's pushes that reached its branch, newest first.
fn accepted_commits(records: &RecordIndex, app: &AppName) -> Vec<String> {
    let deploys = records.deploys.get(app).into_iter().flat_map(|deploys| deploys.values().rev());
    let came =
        deploys.filter(|deploy| matches!(deploy.state, DeployState::Done | DeployState::Held | DeployState::Draining));
    let commits = came.filter_map(|deploy| match &deploy.cause {
        DeployCause::Push { commit, .. } => Some(commit.clone()),
        _ => None,
    });
    commits.collect()
}
