//! Git repositories of the apps: created or repaired on request, and checked once after a start. Damage is reported in
//! the log, in the events, and to the next push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gantry_admission::{Actor, find_changeable_app};
use gantry_api::Problem;
use gantry_blobs::BlobError;
use gantry_git::{GitError, Repair};
use gantry_model::{App, AppName, AuditAction, DeployCause, DeployState};
use gantry_records::{GitPack, GitPacks, RecordIndex};

use crate::ChangeError;
use crate::Server;

/// Notes about repairs, for the next push of each app.
#[derive(Default)]
pub(crate) struct RepairNotes(Mutex<HashMap<AppName, Vec<String>>>);

impl RepairNotes {
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

/// The repositories that have the pushes that other servers, or the servers before a restore, accepted. Each is restored
/// once in a term, by one task at a time.
#[derive(Default)]
pub(crate) struct RestoredRepositories(Mutex<HashMap<AppName, Arc<tokio::sync::Mutex<bool>>>>);

impl RestoredRepositories {
    fn of(&self, app: &AppName) -> Arc<tokio::sync::Mutex<bool>> {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(all.entry(app.clone()).or_default())
    }
}

/// Failure of a restoration.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("cannot read a stored pack of the repository")]
    Blobs(#[from] BlobError),
}

/// Brings the pushes that other servers accepted into an app's repository, from their packs in the blobs.
async fn restore(server: &Server, app: &AppName, branch: &str) -> Result<(), RestoreError> {
    let (packs, accepted) = {
        let view = server.core.view();
        (view.records.packs.get(app).cloned(), accepted_commits(&view.records, app))
    };
    // A cloud of one server has packs, too, if its records come from the backup of several servers.
    let Some(GitPacks { packs }) = packs else { return Ok(()) };
    let restored = server.restored.of(app);
    let mut restored = restored.lock().await;
    if *restored {
        return Ok(());
    }
    let mut missing = false;
    for GitPack { pack, commit } in &packs {
        if server.repositories.has_commit(app, commit).await? {
            continue;
        }
        let added = match server.blobs.get(pack).await {
            Ok(blob) => server.repositories.add_pack(app, blob.stream).await,
            Err(BlobError::Missing(_)) => {
                missing = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // Git cannot use a pack of a history that lacks an earlier pack.
        if let Err(error) = added {
            tracing::warn!(%app, %pack, error = crate::causes(&error), "cannot take a pack into a repository");
            missing = true;
        }
        gantry_failpoint::failpoint!("repository.packed");
    }
    if missing {
        tracing::warn!(%app, "some pushes of the repository are on no live server; the next push brings them again");
    }
    for commit in accepted {
        if server.repositories.has_commit(app, &commit).await? {
            server.repositories.point(app, branch, &commit).await?;
            break;
        }
    }
    *restored = !missing;
    Ok(())
}

/// Creates an app's repository, or repairs a damaged one.
pub(crate) async fn open(server: &Server, app: &AppName) -> Result<(), Problem> {
    let (branch, created, accepted) = {
        let view = server.core.view();
        // The files of a renamed app are on their way to the new name.
        let App { branch, created, .. } = find_changeable_app(&view.records, app).map_err(ChangeError::from)?;
        (branch.clone(), *created, accepted_commits(&view.records, app))
    };
    let failed = |error: GitError| Problem::internal(format!("the repository of {app}: {}", crate::causes(&error)));
    // While another server led, the app may have been destroyed and created again.
    let mark = server.servers.as_ref().map(|_| created.0.to_string());
    if let Some(mark) = &mark {
        server.repositories.remove_unless_marked(app, mark).map_err(failed)?;
    }
    let mended = server.repositories.ensure(app, &branch, &accepted).await;
    for mended in mended.map_err(failed)? {
        report_repairs(server, app, &mended).await;
    }
    if let Some(mark) = &mark {
        server.repositories.mark(app, mark).map_err(failed)?;
    }
    let restored = restore(server, app, &branch).await;
    restored.map_err(|error| Problem::internal(format!("the repository of {app}: {}", crate::causes(&error))))
}

/// Reports a repair in the log, in the events, and to the next push.
async fn report_repairs(server: &Server, app: &AppName, mended: &Repair) {
    let what = format!("the repository of {app}: {mended}");
    tracing::warn!("{what}");
    server.repairs.add(app, what.clone());
    let name = app.clone();
    let change = move |records: &RecordIndex, now| {
        let action = AuditAction::RepositoryDamaged { finding: what };
        Actor::new(records, now, "gantry").record(Some(&name), action)
    };
    if let Err(problem) = server.core.mutate(change).await {
        tracing::warn!(%app, %problem, "cannot record the damage of a repository as an event");
    }
}

/// Checks the repository of each app, so that damage by a power loss is known before the next push.
pub(crate) async fn inspect_all(server: Arc<Server>) {
    let apps: Vec<AppName> = {
        let view = server.core.view();
        view.records.apps.values().filter(|app| app.rename.is_none()).map(|app| app.name.clone()).collect()
    };
    for app in apps {
        match open(&server, &app).await {
            Ok(()) => {}
            Err(problem) => tracing::warn!(%app, %problem, "cannot inspect a repository"),
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
