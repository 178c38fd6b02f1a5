//! `/v1/apps`: apps, their settings, releases, instances and explanations.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use gantry_api::Problem;
use gantry_api::types::{
    Accepted, AppInfo, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeScale, ChangeTraffic, CreateApp,
    Explanation, InstanceInfo, ReleaseInfo, RenameApp,
};
use gantry_model::{App, AppName, Bytes as Size, DeployState, InstanceGoal, InstanceId, InstancePhase, RequestCounts};
use serde::Deserialize;

use super::auth::Caller;
use super::{Answer, Params, body, json, name};
use crate::core::ClusterView;
use crate::warnings::warnings;
use crate::{Server, mutations, repositories, why};

/// Builds the public API's description of an app.
pub(crate) fn info(server: &Server, view: &ClusterView, app: &App) -> AppInfo {
    let deploy = view.records.open_deploys(&app.name).find(|deploy| deploy.state != DeployState::Queued);
    let of_current = |id: &InstanceId| id.app == app.name && Some(id.release) == app.current && id.role.is_service();
    let wanted = view.records.plan.assignments().filter(|(_, id, _)| of_current(id));
    let (mut ready, mut all) = (0, 0);
    for (machine, id, _) in wanted {
        all += 1;
        let phase = view.observed.machines.get(machine).and_then(|m| m.instances.get(id)).map(|i| i.phase);
        ready += u32::from(phase == Some(InstancePhase::Ready));
    }
    AppInfo {
        name: app.name.clone(),
        url: speaks_http(view, app).then(|| server.settings.url(app.name.as_str())),
        branch: app.branch.clone(),
        base: app.base.clone(),
        hosts: app.hosts.clone(),
        current: app.current,
        scale: app.scale.clone(),
        deploy: deploy.map(|deploy| (**deploy).clone()),
        ready,
        wanted: all,
        traffic: app.traffic.clone(),
        requests: requests(view, &app.name),
        created: app.created,
    }
}

/// Returns whether a role of the current release speaks HTTP. An app without a release counts as speaking HTTP,
/// because its first release may.
fn speaks_http(view: &ClusterView, app: &App) -> bool {
    let current = app.current.and_then(|number| view.records.release(&app.name, number));
    current.is_none_or(|release| release.speaks_http())
}

/// Sums the request counts of an app over all routers.
pub(crate) fn requests(view: &ClusterView, app: &AppName) -> RequestCounts {
    let mut all = RequestCounts::default();
    view.observed.routers.values().filter_map(|router| router.counts.get(app)).for_each(|counts| all += *counts);
    all
}

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller) -> Answer {
    caller.read()?;
    let view = server.core.view();
    let apps: Vec<AppInfo> = view.records.apps.values().map(|app| info(&server, &view, app)).collect();
    json(&apps)
}

pub(crate) async fn create(State(server): State<Arc<Server>>, caller: Caller, text: Bytes) -> Answer {
    caller.admin()?;
    let request: CreateApp = body(&text)?;
    let (app, domain) = (request.name.clone(), server.settings.policy.domain.clone());
    let by = caller.name;
    server.core.mutate(move |records, now| mutations::create_app(records, now, &by, request, &domain)).await?;
    let view = server.core.view();
    let app = mutations::app(&view.records, &app)?;
    // A destroyed app of the same name may have left files; the new app must not inherit them.
    crate::collect::forget_app(&server, app.name.clone()).await?;
    repositories::open(&server, &app.name).await?;
    json(&info(&server, &view, app))
}

pub(crate) async fn show(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    json(&info(&server, &view, mutations::app(&view.records, &app)?))
}

pub(crate) async fn destroy(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    caller.admin()?;
    let app: AppName = name(&app)?;
    let (target, by) = (app.clone(), caller.name);
    server.core.mutate(move |records, now| mutations::destroy_app(records, now, &by, &target)).await?;
    gantry_failpoint::failpoint!("destroy.asked");
    crate::collect::forget_app(&server, app).await?;
    gantry_failpoint::failpoint!("destroy.cleared");
    json(&())
}

/// Begins to rename an app. Needs the admin scope, because the new name may be another team's.
pub(crate) async fn rename(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    caller.admin()?;
    let from: AppName = name(&app)?;
    let RenameApp { name: to } = body(&text)?;
    let (by, domain) = (caller.name, server.settings.policy.domain.clone());
    let begin = move |records: &_, now| mutations::begin_rename(records, now, &by, &from, &to, &domain);
    let deploy = server.core.mutate(begin).await?;
    gantry_failpoint::failpoint!("rename.asked");
    json(&deploy.map(|deploy| Accepted { deploy }))
}

pub(crate) async fn config(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.deploy(&app)?;
    let view = server.core.view();
    json(&mutations::app(&view.records, &app)?.config)
}

pub(crate) async fn change_config(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: ChangeConfig = body(&text)?;
    let image = image_environment(&server, &app).await;
    let by = caller.name;
    let change = move |records: &_, now| mutations::change_config(records, now, &by, &app, request.changes, &image);
    let deploy = server.core.mutate(change).await?;
    json(&deploy.map(|deploy| Accepted { deploy }))
}

/// Returns the environment variables set by the current release's image. Returns none if the app has no release or
/// the image cannot be read; in the latter case the next deploy reports the error.
async fn image_environment(server: &Server, app: &AppName) -> Vec<String> {
    let view = server.core.view();
    let current = view.records.apps.get(app).and_then(|app| app.current);
    let Some(release) = current.and_then(|number| view.records.release(app, number)) else {
        return Vec::new();
    };
    let image = server.builder.image(&release.image).await.ok();
    image.and_then(|(_, image)| image.config.env).unwrap_or_default()
}

pub(crate) async fn change_base(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: ChangeBase = body(&text)?;
    let by = caller.name;
    server.core.mutate(move |records, now| mutations::change_base(records, now, &by, &app, request.base)).await?;
    json(&())
}

/// Changes the app's host names. Needs the admin scope, because a host name may belong to another team.
pub(crate) async fn change_hosts(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    caller.admin()?;
    let app: AppName = name(&app)?;
    let request: ChangeHosts = body(&text)?;
    if request.add.is_empty() && request.remove.is_empty() {
        return Err(Problem::invalid("the request names no host to add or to remove").into());
    }
    let (by, target, domain) = (caller.name, app.clone(), server.settings.policy.domain.clone());
    let change = move |records: &_, now| mutations::change_hosts(records, now, &by, &target, request, &domain);
    server.core.mutate(change).await?;
    let view = server.core.view();
    json(&info(&server, &view, mutations::app(&view.records, &app)?))
}

pub(crate) async fn change_branch(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: ChangeBranch = body(&text)?;
    let (by, target, branch) = (caller.name, app.clone(), request.branch);
    let change = move |records: &_, now| mutations::change_branch(records, now, &by, &target, branch);
    server.core.mutate(change).await?;
    let view = server.core.view();
    let branch = &mutations::app(&view.records, &app)?.branch;
    // Points the repository's HEAD at the new branch. The repository was not damaged, so its list of repairs is
    // ignored.
    let opened = server.repositories.ensure(&app, branch, &[]).await;
    opened.map_err(|error| Problem::internal(crate::causes(&error)))?;
    json(&())
}

pub(crate) async fn change_scale(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: ChangeScale = body(&text)?;
    let by = caller.name;
    server.core.mutate(move |records, now| mutations::change_scale(records, now, &by, &app, request.roles)).await?;
    json(&())
}

pub(crate) async fn change_traffic(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let change: ChangeTraffic = body(&text)?;
    let by = caller.name;
    server.core.mutate(move |records, now| mutations::change_traffic(records, now, &by, &app, change)).await?;
    json(&())
}

pub(crate) async fn releases(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    let current = mutations::app(&view.records, &app)?.current;
    let releases = view.records.releases.get(&app).into_iter().flat_map(|releases| releases.values());
    let infos: Vec<ReleaseInfo> = releases
        .map(|release| ReleaseInfo {
            number: release.number,
            current: Some(release.number) == current,
            good: view.records.is_good(release),
            image: release.image.clone(),
            commit: release.commit.clone(),
            config: release.config.keys().cloned().collect(),
            roles: release.roles.iter().map(|(role, settings)| (role.clone(), settings.command.to_string())).collect(),
            created: release.created,
            by: release.by.clone(),
            cause: release.cause.to_string(),
        })
        .collect();
    json(&infos)
}

pub(crate) async fn instances(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    mutations::app(&view.records, &app)?;
    let infos: Vec<InstanceInfo> = view
        .records
        .plan
        .assignments()
        .filter(|(_, id, _)| id.app == app)
        .map(|(machine, id, assignment)| {
            let seen = view.observed.machines.get(machine).and_then(|report| report.instances.get(id));
            let goal = match assignment.goal {
                InstanceGoal::Run => "run",
                InstanceGoal::Retire { .. } => "retire",
                InstanceGoal::Stop => "stop",
            };
            InstanceInfo {
                id: id.clone(),
                machine: machine.clone(),
                goal: goal.to_owned(),
                phase: seen.map(|seen| seen.phase),
                since: seen.map(|seen| seen.started.unwrap_or(seen.since)),
                address: seen.and_then(|seen| seen.address),
                restarts: seen.map_or(0, |seen| seen.restarts),
                note: seen.and_then(|seen| why::note(&view, id, assignment, seen)),
            }
        })
        .collect();
    json(&infos)
}

/// Query parameters of `why`: `?instance=`.
#[derive(Deserialize)]
pub(crate) struct WhyQuery {
    instance: Option<InstanceId>,
}

/// Free space and reserve of the disk that holds the data folder.
fn disk(server: &Server) -> Option<why::DiskSpace> {
    let (free, _) = gantry_linux::disk::space(&server.settings.data).ok()?;
    Some(why::DiskSpace { free: Size(free), reserve: Size(server.settings.collect.reserve) })
}

/// Adds the machine's warnings to an explanation, because they may be the cause.
fn beside(server: &Server, view: &ClusterView, mut explanation: Explanation) -> Explanation {
    explanation.evidence.extend(warnings(server, view));
    explanation
}

pub(crate) async fn why(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    Params(query): Params<WhyQuery>,
) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    let destroying = view.records.apps.get(&app).is_some_and(|app| app.destroying);
    if !destroying {
        mutations::app(&view.records, &app)?;
    }
    let facts = why::WhyInput { view: &view, build: server.builds.state(&app), disk: disk(&server) };
    match query.instance {
        None => json(&beside(&server, &view, why::app(&facts, &app))),
        Some(id) if id.app == app => match why::instance(&facts, &id) {
            Some(explanation) => json(&beside(&server, &view, explanation)),
            None => Err(Problem::missing(format!("there is no instance {id}")).hint("`gantry ps` lists them").into()),
        },
        Some(id) => Err(Problem::invalid(format!("{id} is not of {app}")).into()),
    }
}
