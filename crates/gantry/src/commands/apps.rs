//! `gantry app`, `ps`, `scale`, `why`.

use std::time::{Duration, Instant};

use gantry_api::endpoints::apps;
use gantry_api::types::{
    AppInfo, ChangeBase, ChangeBranch, ChangeHosts, ChangeScale, ChangeTraffic, CreateApp, Explanation, GoalInfo,
    InstanceInfo, PhaseInfo, RenameApp, RequestCountsInfo, TrafficInfo,
};
use gantry_api::{Client, ClientError, ErrorCode};
use gantry_model::{AllocationId, AppName, ReleaseNumber, RoleName, TrustedProxies};

use super::deploys;
use crate::args::{App, Follow};
use crate::coded::{fail, require};
use crate::exit::{DONE, Exit, TIMED_OUT};
use crate::printer::{age, fields, json as print_json, one_line, or_dash, out, status, table};

pub(crate) async fn run(client: &Client, command: App, json: bool) -> anyhow::Result<Exit> {
    match command {
        App::Create { name, base, branch, hosts } => {
            let info = client.submit(&apps::Create {}, &CreateApp { name, base, branch, hosts }).await?;
            if json {
                print_json(&info)?;
            } else {
                out!("{}/git/{}.git", client.url(), info.name);
                status!("Created {}. Push to deploy it, with a token as the password:", info.name);
                status!("  git push {}/git/{}.git HEAD:{}", client.url(), info.name, info.branch);
            }
        }
        App::Ls => {
            let apps = client.fetch(&apps::List {}).await?;
            if json { print_json(&apps)? } else { list(&apps) }
        }
        App::Show { name } => {
            let info = client.fetch(&apps::Show { app: name.clone() }).await?;
            if json { print_json(&info)? } else { show(&info) }
        }
        App::Rename { name, new } => return rename(client, &name, &new, json).await,
        App::Base { name, base } => {
            client.submit(&apps::SetBase { app: name.clone() }, &ChangeBase { base: base.clone() }).await?;
            status!(
                "The next push of {name} is built on {base}, unless its repository names another in container/base"
            );
        }
        App::Branch { name, branch } => {
            client.submit(&apps::SetBranch { app: name.clone() }, &ChangeBranch { branch: branch.clone() }).await?;
            status!("{name} is deployed from {branch} now: git push … HEAD:{branch}");
        }
        App::Host { name, hosts, remove } => {
            let info = if hosts.is_empty() {
                client.fetch(&apps::Show { app: name }).await?
            } else {
                let (add, remove) = if remove { (Vec::new(), hosts) } else { (hosts, Vec::new()) };
                client.submit(&apps::SetHosts { app: name }, &ChangeHosts { add, remove }).await?
            };
            if json { print_json(&info.hosts)? } else { info.hosts.iter().for_each(|host| out!("{host}")) }
        }
        App::Proxies { name, ranges, none } => {
            if none || !ranges.is_empty() {
                let change = ChangeTraffic::TrustedProxies { proxies: ranges };
                client.submit(&apps::SetTraffic { app: name.clone() }, &change).await?;
            }
            let info = client.fetch(&apps::Show { app: name.clone() }).await?;
            let proxies = info.traffic.trusted_proxies;
            if json { print_json(&proxies)? } else { out!("{}", TrustedProxies::new(proxies)) }
        }
        App::Destroy { name, confirm } => {
            if confirm.as_deref() != Some(name.as_str()) {
                fail!(
                    InvalidArguments,
                    "this stops {name} and removes its releases and history; say --confirm {name} to do it"
                );
            }
            return destroy(client, &name).await;
        }
    }
    Ok(DONE)
}

/// Destroys an app, and waits until its copies have stopped and its name is free.
async fn destroy(client: &Client, name: &AppName) -> anyhow::Result<Exit> {
    match client.fetch(&apps::Destroy { app: name.clone() }).await {
        // An earlier command has begun it; this one waits for the end, too.
        Err(ClientError::Problem(problem)) if problem.code == ErrorCode::AppBeingDestroyed.into() => {}
        begun => begun?,
    }
    let begun = Instant::now();
    loop {
        match client.fetch(&apps::Show { app: name.clone() }).await {
            Err(ClientError::Problem(problem)) if problem.code == ErrorCode::AppNotFound.into() => {
                status!("{name} is destroyed; its volumes stay");
                return Ok(DONE);
            }
            // A server that is away comes back, and goes on with what it has recorded.
            _ if begun.elapsed() < DESTROYING => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => {
                status!(
                    "{name} is still being destroyed; its volumes stay; `gantry why {name}` says what it waits for"
                );
                return Ok(TIMED_OUT);
            }
        }
    }
}

/// Time that an app's copies may take to stop: more than the longest stop timeout by default.
const DESTROYING: Duration = Duration::from_secs(120);

/// Time that a finished deploy may take to become a finished rename.
const MOVING: Duration = Duration::from_secs(60);

/// Renames an app, and waits until its records have moved.
async fn rename(client: &Client, name: &AppName, new: &AppName, json: bool) -> anyhow::Result<Exit> {
    let former = apps::Show { app: name.clone() };
    let accepted = client.submit(&apps::Rename { app: name.clone() }, &RenameApp { name: new.clone() }).await?;
    if let Some(accepted) = accepted {
        let exit = deploys::follow(client, new, accepted.deploy, Follow { wait: true }).await?;
        if exit != DONE {
            status!("{name} keeps its name; `gantry events {name}` says why");
            return Ok(exit);
        }
    }
    let begun = Instant::now();
    // The former app is gone, or going, once its records have moved.
    while client.fetch(&former).await.is_ok() {
        require!(
            begun.elapsed() < MOVING,
            RenameUnfinished,
            "{name} is still being renamed; `gantry events {new}` says when it is done"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let info = client.fetch(&apps::Show { app: new.clone() }).await?;
    if json {
        print_json(&info)?;
        return Ok(DONE);
    }
    status!("{name} is {new} now. In each clone, set the new address:");
    status!("  git remote set-url gantry {}/git/{new}.git", client.url());
    status!("Apps that use {name}.gantry.internal must use {new}.gantry.internal");
    Ok(DONE)
}

/// Prints a table of apps.
pub(crate) fn list(apps: &[AppInfo]) {
    let rows = apps.iter().map(|app| {
        vec![
            app.name.to_string(),
            or_dash(app.current),
            format!("{}/{}{}", app.ready, app.wanted, app_mark(app)),
            app.deploy.as_ref().map_or("-".to_owned(), |deploy| deploy.state.to_string()),
            or_dash(app.url.as_ref()),
        ]
    });
    table(&["app", "release", "ready", "deploy", "url"], rows);
}

/// The reason why requests do not reach the app, shown after the number of its instances.
fn app_mark(app: &AppInfo) -> &'static str {
    match &app.traffic {
        TrafficInfo { maintenance: Some(_), .. } => " (maintenance)",
        TrafficInfo { paused: true, .. } => " (paused)",
        _ => "",
    }
}

fn show(app: &AppInfo) {
    let hosts: Vec<String> = app.hosts.iter().map(ToString::to_string).collect();
    let scale: Vec<String> = app.scale.iter().map(|(role, count)| format!("{role}={count}")).collect();
    let rows = [
        ("name", app.name.to_string()),
        ("url", or_dash(app.url.as_ref())),
        ("hosts", or_dash(Some(hosts.join(" ")).filter(|text| !text.is_empty()))),
        ("branch", app.branch.clone()),
        ("base", or_dash(app.base.as_ref())),
        ("release", or_dash(app.current)),
        ("ready", format!("{}/{}", app.ready, app.wanted)),
        ("scale", or_dash(Some(scale.join(" ")).filter(|text| !text.is_empty()))),
        ("requests", requests(app)),
        ("created", format!("{} ago", age(app.created))),
    ];
    fields(9, rows);
}

/// The app's traffic policy, and counts of the requests that were delayed or refused.
fn requests(app: &AppInfo) -> String {
    let RequestCountsInfo { waiting, held, refused, limited } = app.requests;
    format!(
        "{}; queued {waiting}, served after queueing {held}, timed out {refused}, rate-limited {limited}",
        app.traffic.text
    )
}

pub(crate) async fn ps(client: &Client, app: Option<AppName>, json: bool) -> anyhow::Result<Exit> {
    let apps = match app {
        Some(app) => vec![app],
        None => client.fetch(&apps::List {}).await?.into_iter().map(|app| app.name).collect(),
    };
    let mut instances: Vec<InstanceInfo> = Vec::new();
    for app in apps {
        instances.extend(client.fetch(&apps::Instances { app }).await?);
    }
    if json {
        print_json(&instances)?;
        return Ok(DONE);
    }
    let rows = instances.iter().map(|instance| {
        vec![
            instance.id.to_string(),
            instance.machine.to_string(),
            instance.phase.unwrap_or(PhaseInfo::Unknown).to_string(),
            instance.goal.to_string(),
            instance.since.map_or("-".to_owned(), age),
            instance.restarts.to_string(),
            or_dash(instance.address),
            instance.note.clone().unwrap_or_default(),
        ]
    });
    table(&["instance", "machine", "phase", "goal", "since", "restarts", "address", "note"], rows);
    Ok(DONE)
}

pub(crate) async fn scale(
    client: &Client,
    app: &AppName,
    counts: Vec<(RoleName, u32)>,
    wait: bool,
) -> anyhow::Result<Exit> {
    let request = ChangeScale { roles: counts.into_iter().collect() };
    client.submit(&apps::SetScale { app: app.clone() }, &request).await?;
    if client.fetch(&apps::Show { app: app.clone() }).await?.current.is_none() {
        status!("{app} has no release yet; the numbers apply from its first deploy on");
        return Ok(DONE);
    }
    if !wait {
        status!("{app} is being scaled; `gantry ps {app}` shows how it goes");
        return Ok(DONE);
    }
    let deadline = tokio::time::Instant::now() + SCALE_TIMEOUT;
    loop {
        let info = client.fetch(&apps::Show { app: app.clone() }).await?;
        let instances = client.fetch(&apps::Instances { app: app.clone() }).await?;
        let is_scaled = |(role, count): (&RoleName, &u32)| scaled(&instances, info.current, role, *count);
        if request.roles.iter().all(is_scaled) {
            return Ok(DONE);
        }
        if tokio::time::Instant::now() > deadline {
            status!(
                "{app} is still being scaled after {} minutes; `gantry why {app}` says why",
                SCALE_TIMEOUT.as_secs() / 60
            );
            return Ok(TIMED_OUT);
        }
        tokio::time::sleep(SCALE_POLL).await;
    }
}

/// Timeout and poll interval of `gantry scale --wait`.
const SCALE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const SCALE_POLL: Duration = Duration::from_millis(200);

/// Returns whether a role has `count` ready copies of the current release, and no others.
fn scaled(instances: &[InstanceInfo], current: Option<ReleaseNumber>, role: &RoleName, count: u32) -> bool {
    let is_ready = |one: &InstanceInfo| one.phase == Some(PhaseInfo::Ready) && one.goal == GoalInfo::Run;
    let mut ready = 0;
    for one in instances.iter().filter(|one| one.id.slot.role == *role) {
        match Some(one.id.slot.release) == current {
            true if is_ready(one) => ready += 1,
            // A copy on a lost machine was replaced, and ends once the machine is back.
            _ if one.phase.is_none() && one.goal != GoalInfo::Run => {}
            // The previous release stands by for its bake time.
            false if count > 0 => {}
            _ => return false,
        }
    }
    ready == count
}

pub(crate) async fn traffic(client: &Client, app: &AppName, change: &ChangeTraffic) -> anyhow::Result<Exit> {
    client.submit(&apps::SetTraffic { app: app.clone() }, change).await?;
    let info = client.fetch(&apps::Show { app: app.clone() }).await?;
    status!("requests of {app}: {}", info.traffic.text);
    Ok(DONE)
}

/// Prints one line for each app.
pub(crate) async fn why_all(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let apps = client.fetch(&apps::List {}).await?;
    let mut answers = Vec::new();
    for app in apps {
        match client.fetch_with(&apps::Why { app: app.name }, &apps::WhyQuery::default()).await {
            Ok(answer) => answers.push(answer),
            // The app was destroyed meanwhile.
            Err(ClientError::Problem(problem)) if problem.status == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    if json {
        print_json(&answers)?;
        return Ok(DONE);
    }
    if answers.is_empty() {
        status!("There are no apps; `gantry app create NAME` creates one");
    }
    for answer in &answers {
        out!("{}", one_line(&first_line(answer)));
    }
    Ok(DONE)
}

pub(crate) async fn why(
    client: &Client,
    app: &AppName,
    instance: Option<AllocationId>,
    json: bool,
) -> anyhow::Result<Exit> {
    let answer = client.fetch_with(&apps::Why { app: app.clone() }, &apps::WhyQuery { instance }).await?;
    if json {
        print_json(&answer)?;
        return Ok(DONE);
    }
    out!("{}", one_line(&first_line(&answer)));
    for line in &answer.evidence {
        out!("  {}", one_line(line));
    }
    Ok(DONE)
}

/// The first line of an answer: the subject, the cause with its remedy, and the cause's stable code.
fn first_line(answer: &Explanation) -> String {
    let code = answer.code.name().map(|name| format!(" [{name}]")).unwrap_or_default();
    format!("{}: {}{code}", answer.subject, answer.headline)
}

#[cfg(test)]
mod tests {
    use gantry_api::types::{CauseCode, CauseObject, ObjectKind};

    use super::*;

    #[test]
    fn the_first_line_of_an_answer_ends_with_the_code_of_the_cause() {
        let answer = |code| Explanation {
            code,
            object: CauseObject::new(ObjectKind::App, "shop"),
            cause: "paused, requests wait".to_owned(),
            remedy: None,
            subject: "app shop".to_owned(),
            headline: "paused, requests wait".to_owned(),
            evidence: Vec::new(),
        };
        assert_eq!(first_line(&answer(CauseCode::Paused)), "app shop: paused, requests wait [paused]");
        // A newer server may send a code that this program cannot name.
        assert_eq!(first_line(&answer(CauseCode::Unknown)), "app shop: paused, requests wait");
    }

    fn instance(id: &str, phase: Option<PhaseInfo>, goal: GoalInfo) -> InstanceInfo {
        InstanceInfo {
            id: AllocationId::parse(id).expect("an id"),
            machine: "m1".parse().expect("a name"),
            goal,
            phase,
            since: None,
            address: None,
            restarts: 0,
            note: None,
            cause: None,
        }
    }

    #[test]
    fn scale_waits_for_copies_that_start_and_for_those_that_leave() {
        use GoalInfo::{Run, Stop};
        use PhaseInfo::{Ready, Starting, Stopping};
        let (role, current) = ("db".parse().expect("a name"), Some(ReleaseNumber(2)));
        let ready = || instance("shop.v2.db-1", Some(Ready), Run);
        let others = || [instance("shop.v2.web-1", Some(Starting), Run), instance("shop.v1.web-1", Some(Ready), Run)];
        for (own, count, expected) in [
            (vec![], 0, true),
            (vec![], 1, false),
            (vec![ready()], 1, true),
            (vec![ready()], 0, false),
            (vec![instance("shop.v2.db-1", Some(Stopping), Stop)], 0, false),
            (vec![instance("shop.v2.db-1", None, Run)], 1, false),
            (vec![ready(), instance("shop.v2.db-2", Some(Stopping), Stop)], 1, false),
            (vec![ready(), instance("shop.v1.db-1", Some(Ready), Run)], 1, true),
            (vec![instance("shop.v1.db-1", Some(Stopping), Stop)], 0, false),
        ] {
            let all: Vec<InstanceInfo> = own.into_iter().chain(others()).collect();
            assert_eq!(scaled(&all, current, &role, count), expected, "{count} of {all:?}");
        }
    }
}
