//! `/v1/apps`: apps, their settings, releases, instances and explanations.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use gantry_admission::{Actor, Admitted, HostChange, NewApp, TrafficChange, find_app};
use gantry_api::types::{
    AcceptedDeploy, AppInfo, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeScale, ChangeTraffic,
    CreateApp, Explanation, InstanceInfo, ReleaseInfo, RenameApp,
};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{
    AllocationId, App, AppName, Bytes as Size, DeployState, InstanceGoal, InstancePhase, RequestCounts,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::auth::Caller;
use super::{HttpResult, Params, json, parse_body, parse_name};
use crate::core::ClusterView;
use crate::warnings::warnings;
use crate::{Server, repositories, why};

/// Builds the public API's description of an app.
pub(crate) fn app_info(server: &Server, view: &ClusterView, app: &App) -> AppInfo {
    let deploy = view.records.open_deploys(&app.name).find(|deploy| deploy.state != DeployState::Queued);
    let wanted = view
        .records
        .plan
        .assignments_of(&app.name)
        .filter(|(_, id, assignment)| Some(id.slot.release) == app.current && assignment.spec.role.is_service());
    let (mut ready, mut all) = (0, 0);
    for (machine, id, _) in wanted {
        all += 1;
        let phase = view.observed.machines.get(machine).and_then(|m| m.instances.get(id)).map(|i| i.phase);
        ready += u32::from(phase == Some(InstancePhase::Ready));
    }
    AppInfo {
        name: app.name.clone(),
        url: speaks_http(view, app).then(|| server.settings.url(&view.records.policy, app.name.as_str())),
        branch: app.branch.clone(),
        base: app.base.clone(),
        hosts: app.hosts.clone(),
        current: app.current,
        scale: app.scale.clone(),
        deploy: deploy.map(|deploy| (**deploy).clone()),
        ready,
        wanted: all,
        traffic: app.traffic.clone(),
        requests: sum_request_counts(view, &app.name),
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
pub(crate) fn sum_request_counts(view: &ClusterView, app: &AppName) -> RequestCounts {
    let mut all = RequestCounts::default();
    view.observed.routers.values().filter_map(|router| router.counts.get(app)).for_each(|counts| all += *counts);
    all
}

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller) -> HttpResult {
    caller.read()?;
    let view = server.core.view();
    let apps: Vec<AppInfo> = view.records.apps.values().map(|app| app_info(&server, &view, app)).collect();
    json(&apps)
}

pub(crate) async fn create(State(server): State<Arc<Server>>, caller: Caller, text: Bytes) -> HttpResult {
    caller.admin()?;
    let request: CreateApp = parse_body(&text)?;
    let app = request.name.clone();
    let CreateApp { name, base, branch, hosts } = request;
    let new = NewApp { name, base, branch, hosts };
    caller.mutate(&server, move |actor| actor.create_app(new)).await?;
    let view = server.core.view();
    let app = find_app(&view.records, &app)?;
    // A destroyed app of the same name may have left files; the new app must not inherit them.
    crate::collect::forget_app(&server, app.name.clone()).await?;
    repositories::open(&server, &app.name).await?;
    json(&app_info(&server, &view, app))
}

pub(crate) async fn show(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    json(&app_info(&server, &view, find_app(&view.records, &app)?))
}

pub(crate) async fn destroy(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> HttpResult {
    caller.admin()?;
    let app: AppName = parse_name(&app)?;
    let target = app.clone();
    caller.mutate(&server, move |actor| actor.destroy_app(&target)).await?;
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
) -> HttpResult {
    caller.admin()?;
    let from: AppName = parse_name(&app)?;
    let RenameApp { name: to } = parse_body(&text)?;
    let deploy = caller.mutate(&server, move |actor| actor.begin_rename(&from, &to)).await?;
    gantry_failpoint::failpoint!("rename.asked");
    json(&deploy.map(|deploy| AcceptedDeploy { deploy }))
}

pub(crate) async fn config(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> HttpResult {
    let app = caller.deploy(&app)?;
    let view = server.core.view();
    json(&find_app(&view.records, &app)?.config)
}

pub(crate) async fn change_config(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> HttpResult {
    let app = caller.deploy(&app)?;
    let request: ChangeConfig = parse_body(&text)?;
    let image = image_environment(&server, &app).await;
    let change = move |actor: Actor<'_>| actor.change_config(&app, request.changes, &image);
    let deploy = caller.mutate(&server, change).await?;
    json(&deploy.map(|deploy| AcceptedDeploy { deploy }))
}

/// Returns the environment variables set by the current release's image. Returns none if the app has no release or
/// the image cannot be read; in the latter case the next deploy reports the error.
async fn image_environment(server: &Server, app: &AppName) -> Vec<String> {
    let view = server.core.view();
    let current = view.records.apps.get(app).and_then(|app| app.current);
    let Some(release) = current.and_then(|number| view.records.release(app, number)) else {
        return Vec::new();
    };
    let image = server.images.image(&release.image).await.ok();
    image.and_then(|(_, image)| image.config.env).unwrap_or_default()
}

/// Parses a request to change an app, requires the right to deploy the app, and makes the change.
async fn change_app<R, T>(
    server: &Server,
    caller: &Caller,
    app: &str,
    text: &Bytes,
    change: impl FnOnce(Actor<'_>, &AppName, R) -> Admitted<T> + Send + 'static,
) -> HttpResult<T>
where
    R: DeserializeOwned + Send + 'static,
    T: Send + 'static,
{
    let app = caller.deploy(app)?;
    let request: R = parse_body(text)?;
    caller.mutate(server, move |actor| change(actor, &app, request)).await
}

pub(crate) async fn change_base(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> HttpResult {
    let change = |actor: Actor<'_>, app: &AppName, request: ChangeBase| actor.change_base(app, request.base);
    json(&change_app(&server, &caller, &app, &text, change).await?)
}

/// Changes the app's host names. Needs the admin scope, because a host name may belong to another team.
pub(crate) async fn change_hosts(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> HttpResult {
    caller.admin()?;
    let app: AppName = parse_name(&app)?;
    let request: ChangeHosts = parse_body(&text)?;
    let target = app.clone();
    let change = HostChange { add: request.add, remove: request.remove };
    caller.mutate(&server, move |actor| actor.change_hosts(&target, &change)).await?;
    let view = server.core.view();
    json(&app_info(&server, &view, find_app(&view.records, &app)?))
}

pub(crate) async fn change_branch(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> HttpResult {
    let app = caller.deploy(&app)?;
    let request: ChangeBranch = parse_body(&text)?;
    let target = app.clone();
    caller.mutate(&server, move |actor| actor.change_branch(&target, request.branch)).await?;
    let view = server.core.view();
    let branch = &find_app(&view.records, &app)?.branch;
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
) -> HttpResult {
    let change = |actor: Actor<'_>, app: &AppName, request: ChangeScale| actor.change_scale(app, request.roles);
    json(&change_app(&server, &caller, &app, &text, change).await?)
}

pub(crate) async fn change_traffic(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> HttpResult {
    let change = |actor: Actor<'_>, app: &AppName, request| actor.change_traffic(app, traffic_change(request));
    json(&change_app(&server, &caller, &app, &text, change).await?)
}

/// Converts the API's form of a traffic change into admission's form.
fn traffic_change(request: ChangeTraffic) -> TrafficChange {
    match request {
        ChangeTraffic::Pause => TrafficChange::Pause,
        ChangeTraffic::Resume => TrafficChange::Resume,
        ChangeTraffic::Maintenance { message } => TrafficChange::Maintenance(message),
        ChangeTraffic::Limit { rate, concurrent } => TrafficChange::Limit { rate, concurrent },
        ChangeTraffic::TrustedProxies { proxies } => TrafficChange::TrustedProxies(proxies),
    }
}

pub(crate) async fn releases(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    let current = find_app(&view.records, &app)?.current;
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

pub(crate) async fn instances(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    find_app(&view.records, &app)?;
    let infos: Vec<InstanceInfo> = view
        .records
        .plan
        .assignments_of(&app)
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
                note: seen.and_then(|seen| why::instance_note(&view, id, assignment, seen)),
            }
        })
        .collect();
    json(&infos)
}

/// Query parameters of `why`: `?instance=`.
#[derive(Deserialize)]
pub(crate) struct WhyQuery {
    instance: Option<AllocationId>,
}

/// Free space and reserve of the disk that holds the data folder.
fn disk_space(server: &Server) -> Option<why::DiskSpace> {
    let (free, _) = gantry_linux::disk::space(&server.settings.data).ok()?;
    Some(why::DiskSpace { free: Size(free), reserve: server.core.view().records.policy.reserve() })
}

/// Adds the machine's warnings to an explanation, because they may be the cause.
fn with_warnings(server: &Server, view: &ClusterView, mut explanation: Explanation) -> Explanation {
    explanation.evidence.extend(warnings(server, view));
    explanation
}

pub(crate) async fn why(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    Params(query): Params<WhyQuery>,
) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    let destroying = view.records.apps.get(&app).is_some_and(|app| app.destroying);
    if !destroying {
        find_app(&view.records, &app)?;
    }
    let facts = why::WhyInput { view: &view, build: server.builds.state(&app), disk: disk_space(&server) };
    match query.instance {
        None => json(&with_warnings(&server, &view, why::app(&facts, &app))),
        Some(id) if id.slot.app == app => match why::instance(&facts, &id) {
            Some(explanation) => json(&with_warnings(&server, &view, explanation)),
            None => Err(Problem::new(ErrorCode::InstanceNotFound, format!("there is no instance {id}"))
                .hint("`gantry ps` lists them")
                .into()),
        },
        Some(id) => Err(Problem::new(ErrorCode::InvalidName, format!("{id} is not of {app}")).into()),
    }
}
