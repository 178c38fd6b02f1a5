//! `/v1/apps`: apps, their settings, releases, instances and explanations.

use std::collections::BTreeMap;

use gantry_admission::{Actor, HostChange, NewApp, TrafficChange, find_app};
use gantry_api::endpoints::apps as endpoints;
use gantry_api::types::{
    AcceptedDeploy, AppInfo, CauseCode, CauseInfo, ChangeTraffic, CreateApp, DeployInfo, Explanation, InstanceInfo,
    ReleaseInfo, TrafficInfo,
};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{
    AllocationId, App, AppName, Bytes as Size, DeployState, InstancePhase, MachineState, RequestCounts,
};

use super::call::{Call, Routes};
use super::{HttpResult, logs};
use crate::core::ClusterView;
use crate::warnings::warnings;
use crate::{Server, repositories, why};

/// Builds the public API's description of an app.
pub(crate) fn app_info(view: &ClusterView, app: &App) -> AppInfo {
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
        url: speaks_http(view, app).then(|| view.records.policy.url(app.name.as_str())),
        branch: app.branch.clone(),
        base: app.base.clone(),
        hosts: app.hosts.clone(),
        current: app.current,
        scale: app.scale.clone(),
        deploy: deploy.map(|deploy| DeployInfo::from(&**deploy)),
        ready,
        wanted: all,
        traffic: TrafficInfo::from(&app.traffic),
        requests: sum_request_counts(view, &app.name).into(),
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

/// Adds the endpoints of apps.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(list)
        .endpoint(create)
        .endpoint(show)
        .endpoint(destroy)
        .endpoint(config)
        .endpoint(set_config)
        .endpoint(set_base)
        .endpoint(set_branch)
        .endpoint(set_hosts)
        .endpoint(rename)
        .endpoint(set_scale)
        .endpoint(set_traffic)
        .endpoint(releases)
        .endpoint(instances)
        .endpoint(why)
}

async fn list(Call { server, .. }: Call<endpoints::List>) -> HttpResult<Vec<AppInfo>> {
    let view = server.core.view();
    Ok(view.records.apps.values().map(|app| app_info(&view, app)).collect())
}

async fn create(Call { server, caller, body, .. }: Call<endpoints::Create>) -> HttpResult<AppInfo> {
    let app = body.name.clone();
    let CreateApp { name, base, branch, hosts } = body;
    forget_earlier_app(&server, &app).await;
    let newest_job = server.jobs.newest().await;
    let new = NewApp { name, base, branch, hosts, newest_job };
    caller.mutate(&server, move |actor| actor.create_app(new)).await?;
    // A destroyed app of the same name may have left files; the new app must not inherit them.
    crate::collect::forget_app(&server, app.clone()).await?;
    server.jobs.forget_signing_key(&app).await;
    repositories::open(&server, &app).await?;
    let view = server.core.view();
    Ok(app_info(&view, find_app(&view.records, &app)?))
}

/// Removes from the queue the state of a destroyed app with this name, if the next app has not been made yet. Containers of
/// the destroyed app may have made state until they ended.
async fn forget_earlier_app(server: &Server, app: &AppName) {
    let is_free = server.core.view().records.destroyed.contains_key(app);
    if is_free {
        let remedy = "the new app of the name gets them: cancel and remove them by hand once the queue is back";
        server.jobs.forget_app(app, remedy).await;
    }
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<AppInfo> {
    let view = server.core.view();
    Ok(app_info(&view, find_app(&view.records, &at.app)?))
}

async fn destroy(Call { server, caller, at, .. }: Call<endpoints::Destroy>) -> HttpResult<()> {
    let app = at.app;
    let target = app.clone();
    caller.mutate(&server, move |actor| actor.destroy_app(&target)).await?;
    gantry_failpoint::failpoint!("destroy.asked");
    server.jobs.forget_app(&app, "a new app of the name removes them").await;
    server.jobs.forget_signing_key(&app).await;
    crate::collect::forget_app(&server, app).await?;
    gantry_failpoint::failpoint!("destroy.cleared");
    Ok(())
}

/// Begins to rename an app. Needs the admin scope, because the new name may be another team's.
async fn rename(Call { server, caller, at, body, .. }: Call<endpoints::Rename>) -> HttpResult<Option<AcceptedDeploy>> {
    let (from, to) = (at.app, body.name);
    forget_earlier_app(&server, &to).await;
    let newest_job = server.jobs.newest().await;
    let deploy = caller.mutate(&server, move |actor| actor.begin_rename(&from, &to, newest_job)).await?;
    gantry_failpoint::failpoint!("rename.asked");
    Ok(deploy.map(|deploy| AcceptedDeploy { deploy }))
}

async fn config(Call { server, at, .. }: Call<endpoints::Config>) -> HttpResult<BTreeMap<String, String>> {
    let view = server.core.view();
    Ok(find_app(&view.records, &at.app)?.config.clone())
}

async fn set_config(
    Call { server, caller, at, body, .. }: Call<endpoints::SetConfig>,
) -> HttpResult<Option<AcceptedDeploy>> {
    let image = image_environment(&server, &at.app).await;
    let change = move |actor: Actor<'_>| actor.change_config(&at.app, body.changes, &image);
    let deploy = caller.mutate(&server, change).await?;
    Ok(deploy.map(|deploy| AcceptedDeploy { deploy }))
}

/// Returns the environment variables set by the current release's image. Returns none if the app has no release or
/// the image cannot be read; in the latter case the next deploy reports the error.
async fn image_environment(server: &Server, app: &AppName) -> Vec<String> {
    let release = {
        let view = server.core.view();
        let current = view.records.apps.get(app).and_then(|app| app.current);
        current.and_then(|number| view.records.release(app, number)).cloned()
    };
    let Some(release) = release else { return Vec::new() };
    let image = server.images.image(&release.image).await.ok();
    image.and_then(|(_, image)| image.config.env).unwrap_or_default()
}

async fn set_base(Call { server, caller, at, body, .. }: Call<endpoints::SetBase>) -> HttpResult<()> {
    caller.mutate(&server, move |actor| actor.change_base(&at.app, body.base)).await
}

/// Changes the app's host names. Needs the admin scope, because a host name may belong to another team.
async fn set_hosts(Call { server, caller, at, body, .. }: Call<endpoints::SetHosts>) -> HttpResult<AppInfo> {
    let target = at.app.clone();
    let change = HostChange { add: body.add, remove: body.remove };
    caller.mutate(&server, move |actor| actor.change_hosts(&target, &change)).await?;
    let view = server.core.view();
    Ok(app_info(&view, find_app(&view.records, &at.app)?))
}

async fn set_branch(Call { server, caller, at, body, .. }: Call<endpoints::SetBranch>) -> HttpResult<()> {
    let target = at.app.clone();
    caller.mutate(&server, move |actor| actor.change_branch(&target, body.branch)).await?;
    let branch = find_app(&server.core.view().records, &at.app)?.branch.clone();
    // Points the repository's HEAD at the new branch. The repository was not damaged, so its list of repairs is
    // ignored.
    let opened = server.repositories.ensure(&at.app, &branch, &[]).await;
    opened.map_err(|error| Problem::internal(crate::causes(&error)))?;
    Ok(())
}

async fn set_scale(Call { server, caller, at, body, .. }: Call<endpoints::SetScale>) -> HttpResult<()> {
    caller.mutate(&server, move |actor| actor.change_scale(&at.app, body.roles)).await
}

async fn set_traffic(Call { server, caller, at, body, .. }: Call<endpoints::SetTraffic>) -> HttpResult<()> {
    caller.mutate(&server, move |actor| actor.change_traffic(&at.app, traffic_change(body))).await
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

async fn releases(Call { server, at, .. }: Call<endpoints::Releases>) -> HttpResult<Vec<ReleaseInfo>> {
    let app = at.app;
    let view = server.core.view();
    let current = find_app(&view.records, &app)?.current;
    let releases = view.records.releases.get(&app).into_iter().flat_map(|releases| releases.values());
    let infos = releases
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
            cause: CauseInfo::from(&release.cause),
        })
        .collect();
    Ok(infos)
}

async fn instances(Call { server, at, .. }: Call<endpoints::Instances>) -> HttpResult<Vec<InstanceInfo>> {
    let app = at.app;
    let view = server.core.view();
    find_app(&view.records, &app)?;
    let infos = view
        .records
        .plan
        .assignments_of(&app)
        .map(|(machine, id, assignment)| {
            let seen = view.observed.machines.get(machine).and_then(|report| report.instances.get(id));
            let is_lost = view.machine_state(machine) == MachineState::Lost;
            let problem = match is_lost {
                true => Some((CauseCode::MachineSilent, format!("machine {machine} is lost"))),
                false => seen.and_then(|seen| why::instance_problem(&view, id, assignment, seen)),
            };
            let (cause, note) = problem.unzip();
            InstanceInfo {
                id: id.clone(),
                machine: machine.clone(),
                goal: assignment.goal.into(),
                // The last report of a lost machine says nothing of the present.
                phase: seen.filter(|_| !is_lost).map(|seen| seen.phase.into()),
                since: seen.map(|seen| seen.started.unwrap_or(seen.since)),
                address: seen.and_then(|seen| seen.address).map(Into::into),
                restarts: seen.map_or(0, |seen| seen.restarts),
                note,
                cause,
            }
        })
        .collect();
    Ok(infos)
}

/// Free space and reserve of the disk that holds the data folder.
fn disk_space(server: &Server) -> Option<why::DiskSpace> {
    let (free, _) = gantry_linux::disk::space(&server.settings.data).ok()?;
    Some(why::DiskSpace { free: Size(free), reserve: server.core.view().records.policy.reserve() })
}

/// Adds the machine's warnings to an explanation, because they may be the cause.
fn with_warnings(server: &Server, view: &ClusterView, mut explanation: Explanation) -> Explanation {
    explanation.evidence.extend(warnings(server, view).into_iter().map(|warning| warning.text));
    explanation
}

async fn why(Call { server, at, query, .. }: Call<endpoints::Why>) -> HttpResult<Explanation> {
    let app = at.app;
    let (mut explanation, output) = {
        let view = server.core.view();
        let explanation = explain(&server, &view, &app, query.instance)?;
        let output = why::needed_output(&view, &app, &explanation);
        (explanation, output)
    };
    if let Some(output) = output {
        let lines = logs::newest_lines(&server, output.machine.clone(), output.of_log()).await;
        explanation.evidence.extend(output.evidence(&lines));
    }
    Ok(explanation)
}

/// Explains an app, or one of its instances.
fn explain(
    server: &Server,
    view: &ClusterView,
    app: &AppName,
    instance: Option<AllocationId>,
) -> HttpResult<Explanation> {
    let destroying = view.records.apps.get(app).is_some_and(|app| app.destroying);
    if !destroying {
        find_app(&view.records, app)?;
    }
    let facts = why::WhyInput { view, build: server.builds.state(app), disk: disk_space(server) };
    match instance {
        None => Ok(with_warnings(server, view, why::app(&facts, app))),
        Some(id) if id.slot.app == *app => match why::instance(&facts, &id) {
            Some(explanation) => Ok(with_warnings(server, view, explanation)),
            None => Err(Problem::new(ErrorCode::InstanceNotFound, format!("there is no instance {id}"))
                .hint(format!("`gantry ps {app}` lists the instances"))
                .into()),
        },
        Some(id) => Err(Problem::new(ErrorCode::InvalidName, format!("{id} is not of {app}")).into()),
    }
}
