//! Every change that a person or a build asks for, decided: pure functions of the records, each giving the changes to
//! write. None of them plans; the planner does, once they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::Problem;
use gantry_api::types::{ChangeTraffic, CreateApp, Event};
use gantry_build::EnvRequest;
use gantry_model::deploy::Order;
use gantry_model::{
    App, AppName, BaseName, Cause, Deploy, DeployNumber, DeployState, Digest, HostName, Moment, Reason, Release,
    ReleaseNumber, Role, RoleName,
};
use gantry_planner::Decision;

use crate::mirror::{BuildRecord, Change, Mirror, Record, base_key};

/// The most configuration values of an app, and the longest altogether: a record of the store holds 1 MiB.
const CONFIG_MAX: (usize, usize) = (500, 256 << 10);

/// The most roles of an app that are scaled: any may be before there is a release that has them.
const ROLES_MAX: usize = 100;

type Changes<T> = Result<(Vec<Change>, T), Problem>;

/// The app, if it is there and not going away.
pub(crate) fn app<'a>(mirror: &'a Mirror, name: &AppName) -> Result<&'a App, Problem> {
    match mirror.apps.get(name) {
        Some(app) if app.destroying => Err(Problem::conflict(format!("app {name} is being destroyed"))),
        Some(app) => Ok(app),
        None => Err(Problem::missing(format!("there is no app {name}")).hint("`gantry app ls` lists them")),
    }
}

/// A line of the audit trail.
pub(crate) fn event(mirror: &Mirror, now: Moment, by: &str, app: Option<&AppName>, what: String) -> Change {
    Record::Event(Event { number: mirror.next_event(), at: now, by: by.to_owned(), app: app.cloned(), what }).into()
}

/// The transitions of a decision, for the audit trail.
pub(crate) fn events_of(mirror: &Mirror, decision: &Decision, now: Moment) -> Vec<Change> {
    let told = |state: DeployState| {
        matches!(state, DeployState::Promoting | DeployState::Done | DeployState::Reverted | DeployState::Superseded)
    };
    let before = |deploy: &Deploy| mirror.deploys.get(&deploy.app)?.get(&deploy.number).map(|known| known.state);
    let entered = |deploy: &&Deploy| told(deploy.state) && before(deploy) != Some(deploy.state);
    let lines = decision.deploys.iter().filter(entered).map(|deploy| {
        let why = deploy.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let release = deploy.release.map(|release| format!(" ({release})")).unwrap_or_default();
        (deploy, format!("deploy {}{release} {}{why}", deploy.number, deploy.state))
    });
    (mirror.next_event()..)
        .zip(lines)
        .map(|(number, (deploy, what))| {
            let event = Event { number, at: now, by: "gantry".to_owned(), app: Some(deploy.app.clone()), what };
            Record::Event(event).into()
        })
        .collect()
}

/// Creates an app.
pub(crate) fn create_app(mirror: &Mirror, now: Moment, by: &str, request: CreateApp, domain: &HostName) -> Changes<()> {
    if mirror.apps.contains_key(&request.name) {
        return Err(Problem::conflict(format!("there is an app {} already", request.name)));
    }
    for host in &request.hosts {
        free_host(mirror, host, domain)?;
    }
    if let Some(base) = &request.base {
        known_base(mirror, base)?;
    }
    let mut app = App::new(request.name.clone(), now);
    app.base = request.base;
    app.hosts = request.hosts;
    if let Some(branch) = request.branch {
        app.branch = checked_branch(branch)?;
    }
    let what = format!("created app {}", request.name);
    Ok((vec![event(mirror, now, by, Some(&request.name), what), Record::App(app).into()], ()))
}

fn known_base(mirror: &Mirror, base: &BaseName) -> Result<(), Problem> {
    let missing = || Problem::missing(format!("there is no base {base}")).hint("`gantry base ls` lists them");
    mirror.bases.contains_key(base).then_some(()).ok_or_else(missing)
}

/// Gives an app another base, from its next push on.
pub(crate) fn change_base(mirror: &Mirror, now: Moment, by: &str, name: &AppName, base: BaseName) -> Changes<()> {
    known_base(mirror, &base)?;
    let mut app = app(mirror, name)?.clone();
    let what = format!("put {name} on base {base}");
    app.base = Some(base);
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// Forgets a base that no app is on. What was built on it keeps what it needs of it.
pub(crate) fn remove_base(mirror: &Mirror, now: Moment, by: &str, base: &BaseName) -> Changes<()> {
    known_base(mirror, base)?;
    let on_it = mirror.apps.values().filter(|app| app.base.as_ref() == Some(base) && !app.destroying);
    let on_it: Vec<&str> = on_it.map(|app| app.name.as_str()).collect();
    if let [first, ..] = on_it.as_slice() {
        let why = format!("base {base} is what {} is built on", on_it.join(", "));
        return Err(Problem::conflict(why).hint(format!("`gantry app base {first} OTHER` puts it on another")));
    }
    // It may be on this one, and nothing names what it is made of before it is done.
    let building = |app: &AppName| mirror.open_deploys(app).any(|deploy| deploy.state == DeployState::Building);
    if let Some(app) = mirror.apps.keys().find(|app| building(app)) {
        return Err(Problem::conflict(format!("{app} is being built")).hint("remove the base once the build is over"));
    }
    let what = format!("removed base {base}");
    Ok((vec![event(mirror, now, by, None, what), Change::Remove(base_key(base))], ()))
}

/// A branch is one of git's own names, and never an option.
fn checked_branch(branch: String) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let good = !branch.is_empty()
        && branch.len() <= 100
        && branch.chars().all(allowed)
        && !branch.starts_with(['-', '.', '/'])
        && !branch.ends_with(['.', '/'])
        && !branch.contains("..")
        && !branch.contains("//");
    if good { Ok(branch) } else { Err(Problem::invalid(format!("{branch:?} is not a branch"))) }
}

/// No other app has this host name.
fn free_host(mirror: &Mirror, host: &HostName, domain: &HostName) -> Result<(), Problem> {
    if let Some(other) = mirror.apps.values().find(|app| app.hosts.contains(host)) {
        return Err(Problem::conflict(format!("{host} belongs to app {} already", other.name)));
    }
    if host.as_str().ends_with(&format!(".{domain}")) {
        let why = format!("names below {domain} are given to apps by their own names, {host} cannot be taken");
        return Err(Problem::conflict(why));
    }
    Ok(())
}

/// Begins to destroy an app; its records go once nothing of it runs.
pub(crate) fn destroy_app(mirror: &Mirror, now: Moment, by: &str, name: &AppName) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    app.destroying = true;
    let what = format!("destroyed app {name}");
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// What a push goes on from.
pub(crate) struct Base {
    /// The newest commits of its history.
    pub(crate) history: Vec<String>,
    /// The commit that its client knew the branch to have.
    pub(crate) old: String,
    /// When the branch was compared with that, or a moment later.
    pub(crate) seen: Moment,
}

/// The commit whose push it is.
fn pushed(deploy: &Deploy) -> Option<&String> {
    match &deploy.cause {
        Cause::Push { commit, .. } => Some(commit),
        _ => None,
    }
}

/// From the verdict of a push until its hook has moved the branch, in milliseconds, with a machine that has much to do.
const MOVING: u64 = 10_000;

/// Refuses a push that another one, which is on its way to the branch, is no part of: the branch would lose a commit that
/// was taken.
pub(crate) fn is_built_on_others(mirror: &Mirror, name: &AppName, base: &Base) -> Result<(), Problem> {
    use DeployState::{Done, Held, Reverting};
    let is_missing = |deploy: &&Arc<Deploy>| pushed(deploy).is_some_and(|commit| !base.history.contains(commit));
    let refuse = |deploy: &Deploy, what: &str, hint: &str| {
        let short: String = pushed(deploy).into_iter().flat_map(|commit| commit.chars().take(12)).collect();
        let why = format!("deploy {} of {} {what} {short}, which this is not built on", deploy.number, deploy.by);
        Err(Problem::conflict(why).hint(hint))
    };
    // Where it is held it is on the branch already; one that is taken back does not come there.
    let comes = |deploy: &&Arc<Deploy>| !matches!(deploy.state, Held | Reverting) && deploy.order != Some(Order::Abort);
    if let Some(deploy) = mirror.open_deploys(name).filter(comes).find(is_missing) {
        return refuse(deploy, "is under way with", "fetch and push again once it is done, or `gantry abort` it first");
    }
    // The last that was taken may have come to the branch after it was looked at.
    let taken = |deploy: &&Arc<Deploy>| matches!(deploy.state, Held | Done) && pushed(deploy).is_some();
    let last = mirror.deploys.get(name).and_then(|deploys| deploys.values().rev().find(taken));
    match last.filter(is_missing) {
        Some(deploy) if pushed(deploy) != Some(&base.old) && deploy.entered.0 + MOVING > base.seen.0 => refuse(
            deploy,
            "has just brought",
            "fetch it, and push again; if the branch does not have it, in ten seconds",
        ),
        _ => Ok(()),
    }
}

/// Asks for a deploy.
pub(crate) fn start_deploy(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    name: &AppName,
    cause: Cause,
    hold: bool,
) -> Changes<DeployNumber> {
    let mut app = app(mirror, name)?.clone();
    app.last_deploy += 1;
    let number = DeployNumber(app.last_deploy);
    let what = format!("deploy {number} asked for: {cause}");
    let deploy = Deploy::new(name.clone(), number, cause, by.to_owned(), hold, now);
    let event = event(mirror, now, by, Some(name), what);
    Ok((vec![event, Record::App(app).into(), Record::Deploy(deploy).into()], number))
}

/// The release to go back to: the last good one before the current.
pub(crate) fn rollback_target(
    mirror: &Mirror,
    name: &AppName,
    to: Option<ReleaseNumber>,
) -> Result<ReleaseNumber, Problem> {
    let app = app(mirror, name)?;
    let releases = mirror.releases.get(name);
    if let Some(number) = to {
        return match releases.and_then(|releases| releases.get(&number)) {
            Some(_) => Ok(number),
            None => {
                Err(Problem::missing(format!("{name} has no release {number}")).hint("`gantry releases` lists them"))
            }
        };
    }
    let current = app.current.ok_or_else(|| Problem::conflict(format!("{name} has no release yet")))?;
    let serves = mirror.release(name, current).map_or(current, |release| origin(mirror, release));
    releases
        .into_iter()
        .flat_map(|releases| releases.range(..serves).rev())
        .find(|(_, release)| mirror.is_good(release) && origin(mirror, release) != serves)
        .map(|(number, _)| *number)
        .ok_or_else(|| Problem::conflict(format!("{name} has no good release before {current}")))
}

/// The release that a chain of rollbacks leads to: going back twice goes back two, not to and fro.
fn origin(mirror: &Mirror, release: &Release) -> ReleaseNumber {
    match &release.cause {
        Cause::Rollback { to } => mirror.release(&release.app, *to).map_or(*to, |release| origin(mirror, release)),
        _ => release.number,
    }
}

/// Changes the configuration; the release that carries it is a deploy's.
pub(crate) fn change_config(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    name: &AppName,
    wanted: BTreeMap<String, Option<String>>,
) -> Changes<Option<DeployNumber>> {
    let mut app = app(mirror, name)?.clone();
    if mirror.open_deploys(name).any(|deploy| matches!(deploy.cause, Cause::Rollback { .. })) {
        let why = format!("a rollback of {name} is under way, and brings the configuration of then");
        return Err(Problem::conflict(why).hint("set it again once the rollback is over"));
    }
    for (key, value) in &wanted {
        check_config(key, value.as_deref())?;
    }
    let keys: Vec<String> = wanted.keys().cloned().collect();
    let before = app.config.clone();
    for (key, value) in wanted {
        match value {
            Some(value) => drop(app.config.insert(key, value)),
            None => drop(app.config.remove(&key)),
        }
    }
    check_size(app.config.iter()).map_err(Problem::invalid)?;
    if app.config == before && !is_due(mirror, &app, &keys) {
        return Ok((Vec::new(), None));
    }
    if app.current.is_none() && mirror.open_deploys(name).next().is_none() {
        // Nothing runs that could be released again: the first push takes it.
        let what = format!("config {}", keys.join(", "));
        return Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], None));
    }
    app.last_deploy += 1;
    let number = DeployNumber(app.last_deploy);
    let cause = Cause::Config { keys };
    let what = format!("deploy {number} asked for: {cause}");
    let deploy = Deploy::new(name.clone(), number, cause, by.to_owned(), false, now);
    let changes =
        vec![event(mirror, now, by, Some(name), what), Record::App(app).into(), Record::Deploy(deploy).into()];
    Ok((changes, Some(number)))
}

/// What serves has these values otherwise than the app, for the deploy that had them failed, and none that goes on has them.
fn is_due(mirror: &Mirror, app: &App, keys: &[String]) -> bool {
    use DeployState::Reverting;
    let same = |release: &Arc<Release>| keys.iter().all(|key| release.config.get(key) == app.config.get(key));
    let has_it = |number| mirror.release(&app.name, number).is_some_and(same);
    let goes_on = |deploy: &&Arc<Deploy>| deploy.state != Reverting && deploy.order != Some(Order::Abort);
    app.current.is_some_and(|current| !has_it(current))
        && !mirror.open_deploys(&app.name).filter(goes_on).any(|deploy| deploy.release.is_none_or(has_it))
}

/// Refuses a configuration that no record could hold.
fn check_size<'a>(config: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), String> {
    let (count, size) = config.fold((0, 0), |(count, size), (key, value)| (count + 1, size + key.len() + value.len()));
    if count <= CONFIG_MAX.0 && size <= CONFIG_MAX.1 {
        return Ok(());
    }
    let (most, bytes) = CONFIG_MAX;
    Err(format!("the configuration is too large: {count} values, {size} bytes; at most {most} values, {bytes} bytes"))
}

fn check_config(key: &str, value: Option<&str>) -> Result<(), Problem> {
    let first = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || key.len() > 200 {
        return Err(Problem::invalid(format!("{key:?} cannot be the name of an environment variable")));
    }
    if ["PORT", "REVISION"].contains(&key) || key.starts_with("GANTRY_") {
        return Err(Problem::invalid(format!("{key} is set by Gantry itself")));
    }
    if value.is_some_and(|value| value.contains('\0')) {
        return Err(Problem::invalid(format!("the value of {key} holds a NUL character")));
    }
    Ok(())
}

/// Changes how many copies run.
pub(crate) fn change_scale(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    name: &AppName,
    wanted: BTreeMap<RoleName, u32>,
) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    let release = app.current.and_then(|number| mirror.release(name, number));
    for (role, count) in &wanted {
        if let Some(release) = release {
            let known: Vec<&str> =
                release.roles.keys().filter(|role| role.is_service()).map(RoleName::as_str).collect();
            let settings = release.roles.get(role).filter(|_| role.is_service()).ok_or_else(|| {
                Problem::missing(format!("{name} has no role {role} to scale"))
                    .hint(format!("it has {}", known.join(", ")))
            })?;
            if settings.stop_first() && *count > 1 {
                return Err(Problem::conflict(format!("{role} has a volume, and a volume has a single writer")));
            }
        }
        if *count > 1000 {
            return Err(Problem::invalid(format!("{role}={count}: at most 1000 copies of a role")));
        }
    }
    let text: Vec<String> = wanted.iter().map(|(role, count)| format!("{role}={count}")).collect();
    app.scale.extend(wanted);
    if app.scale.len() > ROLES_MAX {
        return Err(Problem::invalid(format!("{} roles are scaled: at most {ROLES_MAX}", app.scale.len())));
    }
    let what = format!("scaled {}", text.join(" "));
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// The longest message of a maintenance.
const MESSAGE_MAX: usize = 500;

/// Changes what is to become of the app's requests.
pub(crate) fn change_traffic(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    name: &AppName,
    change: ChangeTraffic,
) -> Changes<()> {
    let mut app = app(mirror, name)?.clone();
    match change {
        ChangeTraffic::Pause => app.traffic.paused = true,
        ChangeTraffic::Resume => app.traffic.paused = false,
        ChangeTraffic::Maintenance { message } => {
            if let Some(text) =
                message.as_ref().filter(|text| text.len() > MESSAGE_MAX || text.contains(char::is_control))
            {
                let why = format!("a message of {} bytes: at most {MESSAGE_MAX}, on one line", text.len());
                return Err(Problem::invalid(why));
            }
            app.traffic.maintenance = message;
        }
        ChangeTraffic::Limit { rate: Some(0), .. } | ChangeTraffic::Limit { concurrent: Some(0), .. } => {
            let hint = "`gantry pause` lets requests wait, `gantry maintenance on` refuses them";
            return Err(Problem::invalid("a limit of 0 lets nothing through").hint(hint));
        }
        ChangeTraffic::Limit { rate, concurrent } => {
            app.traffic.rate = rate;
            app.traffic.concurrent = concurrent;
        }
    }
    let what = format!("requests of {name}: {}", app.traffic);
    Ok((vec![event(mirror, now, by, Some(name), what), Record::App(app).into()], ()))
}

/// Gives an order to the deploy under way.
pub(crate) fn order(mirror: &Mirror, now: Moment, by: &str, name: &AppName, order: Order) -> Changes<DeployNumber> {
    app(mirror, name)?;
    let wanted = |deploy: &&std::sync::Arc<Deploy>| match order {
        Order::Promote => deploy.hold && deploy.state != DeployState::Queued,
        Order::Abort => !matches!(deploy.state, DeployState::Reverting),
    };
    let Some(deploy) = mirror.open_deploys(name).find(wanted) else {
        return Err(Problem::conflict(match order {
            Order::Promote => format!("{name} has no held deploy to promote"),
            Order::Abort => format!("{name} has no deploy under way to abort"),
        }));
    };
    let mut deploy = (**deploy).clone();
    deploy.order = Some(order);
    let word = if order == Order::Promote { "promote" } else { "abort" };
    let number = deploy.number;
    let what = format!("asked to {word} deploy {number}");
    Ok((vec![event(mirror, now, by, Some(name), what), Record::Deploy(deploy).into()], number))
}

/// The deploy as it is now, if it waits for its release still. One that was asked for at another time is of an app that
/// was destroyed and created anew.
fn building<'a>(mirror: &'a Mirror, begun: &Deploy) -> Option<&'a Deploy> {
    let deploy = mirror.deploys.get(&begun.app)?.get(&begun.number)?;
    let waits = deploy.state == DeployState::Building && deploy.release.is_none();
    (waits && deploy.created == begun.created).then_some(deploy)
}

/// What a release is made of.
pub(crate) struct Made {
    pub(crate) image: Digest,
    pub(crate) commit: Option<String>,
    pub(crate) roles: BTreeMap<RoleName, Role>,
    /// The release's own configuration, when an old one is taken again; the app's becomes it once that is done.
    pub(crate) config: Option<BTreeMap<String, String>>,
    /// Configuration that the app asks for and does not have yet.
    pub(crate) defaults: BTreeMap<String, String>,
    /// What it was built on, where nobody had named a base: the app stays with it when there are more.
    pub(crate) base: Option<BaseName>,
    pub(crate) build: Option<BuildRecord>,
}

/// Appends a release and lets its deploy go on. Nothing, when the deploy was called off meanwhile.
pub(crate) fn release_made(mirror: &Mirror, now: Moment, begun: &Deploy, made: Made) -> Changes<()> {
    let (Some(deploy), Ok(app)) = (building(mirror, begun), app(mirror, &begun.app)) else {
        return Ok((Vec::new(), ()));
    };
    let (mut deploy, mut app) = (deploy.clone(), app.clone());
    for (key, value) in made.defaults {
        app.config.entry(key).or_insert(value);
    }
    app.base = app.base.or(made.base.filter(|base| mirror.bases.contains_key(base)));
    app.last_release += 1;
    let release = Release {
        app: app.name.clone(),
        number: ReleaseNumber(app.last_release),
        image: made.image,
        commit: made.commit,
        config: made.config.unwrap_or_else(|| app.config.clone()),
        roles: made.roles,
        deploy: deploy.number,
        created: now,
        by: deploy.by.clone(),
        cause: deploy.cause.clone(),
    };
    deploy.release = Some(release.number);
    deploy.enter(DeployState::Placing, now);
    let mut changes = Vec::new();
    if let Some(commit) = &release.commit {
        let (repository, tag) = (app.name.to_string(), commit.clone());
        changes.push(Record::Tag { repository, tag, digest: release.image.clone() }.into());
    }
    changes.extend(made.build.map(|build| Record::Build(build).into()));
    changes.extend([Record::Release(release).into(), Record::App(app).into(), Record::Deploy(deploy).into()]);
    Ok((changes, ()))
}

/// A build failed: its deploy goes back.
pub(crate) fn build_failed(mirror: &Mirror, now: Moment, begun: &Deploy, reason: Reason) -> Changes<()> {
    let Some(mut deploy) = building(mirror, begun).cloned() else {
        return Ok((Vec::new(), ()));
    };
    deploy.enter(DeployState::Reverting, now);
    deploy.reason = Some(reason);
    Ok((vec![Record::Deploy(deploy).into()], ()))
}

/// The configuration that an app asked for in `app.json` and does not have, with `secret` for a new secret.
pub(crate) fn requested_config(
    app: &App,
    requests: &BTreeMap<String, EnvRequest>,
    mut secret: impl FnMut() -> String,
) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for (name, request) in requests.iter().filter(|(name, _)| !app.config.contains_key(*name)) {
        let value = match request {
            EnvRequest::Default(value) => value.clone(),
            EnvRequest::Secret => secret(),
            EnvRequest::Required => {
                return Err(format!("app.json requires {name}; set it with `gantry config set {} {name}=…`", app.name));
            }
        };
        values.insert(name.clone(), value);
    }
    check_size(app.config.iter().chain(&values)).map_err(|why| format!("with what app.json asks for, {why}"))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> AppName {
        AppName::parse("shop").expect("a name")
    }

    fn digest() -> Digest {
        Digest::from_hex(&"ab".repeat(32)).expect("a digest")
    }

    /// An app whose releases came about by these causes and all served, the last one does.
    fn released(causes: &[Cause]) -> Mirror {
        let mut mirror = Mirror::default();
        let mut app = App::new(shop(), Moment(0));
        for (number, cause) in (1..).zip(causes) {
            let release = Release {
                app: shop(),
                number: ReleaseNumber(number),
                image: digest(),
                commit: None,
                config: BTreeMap::new(),
                roles: BTreeMap::new(),
                deploy: DeployNumber(number),
                created: Moment(0),
                by: "test".into(),
                cause: cause.clone(),
            };
            let mut deploy = Deploy::new(shop(), release.deploy, cause.clone(), "test".into(), false, Moment(0));
            (deploy.release, deploy.state) = (Some(release.number), DeployState::Done);
            mirror.apply(Record::Deploy(deploy).into());
            mirror.apply(Record::Release(release).into());
            (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(number)), number, number);
        }
        mirror.apply(Record::App(app).into());
        mirror
    }

    fn push(commit: &str) -> Cause {
        Cause::Push { commit: commit.to_owned(), source: digest() }
    }

    fn apply<T>(mirror: &mut Mirror, changes: Changes<T>) -> T {
        let (changes, answer) = changes.unwrap_or_else(|problem| panic!("{}", problem.message));
        changes.into_iter().for_each(|change| mirror.apply(change));
        answer
    }

    #[test]
    fn going_back_again_goes_further_back() {
        let back = |to| Cause::Rollback { to: ReleaseNumber(to) };
        let pushes = [push("a"), push("b"), push("c")];
        let target = |more: &[Cause]| {
            let mirror = released(&[&pushes[..], more].concat());
            rollback_target(&mirror, &shop(), None).map(|number| number.0).map_err(|problem| problem.message)
        };
        assert_eq!(target(&[]), Ok(2));
        assert_eq!(target(&[back(2)]), Ok(1));
        assert_eq!(target(&[back(2), back(1)]), Err("shop has no good release before v5".to_owned()));
        // What was pushed since then begins anew.
        assert_eq!(target(&[back(1), push("d")]), Ok(4));
    }

    #[test]
    fn configuration_that_failed_is_deployed_when_it_is_set_again() {
        let mut mirror = released(&[push("a")]);
        let set = |mirror: &mut Mirror| {
            let wanted = BTreeMap::from([("COLOR".to_owned(), Some("blue".to_owned()))]);
            let changes = change_config(mirror, Moment(1), "test", &shop(), wanted);
            apply(mirror, changes)
        };
        let first = set(&mut mirror).expect("a deploy");
        assert_eq!(set(&mut mirror), None, "the deploy under way has it");
        let mut deploy = (*mirror.deploys[&shop()][&first]).clone();
        deploy.state = DeployState::Reverted;
        mirror.apply(Record::Deploy(deploy).into());
        assert!(set(&mut mirror).is_some(), "nothing that serves has it");
    }

    #[test]
    fn a_push_that_would_take_another_one_off_the_branch_is_refused() {
        let mut mirror = released(&[push("a")]);
        let asked = start_deploy(&mirror, Moment(1), "alice", &shop(), push("b"), false);
        let number = apply(&mut mirror, asked);
        let history = |commits: &[&str]| commits.iter().map(|commit| (*commit).to_owned()).collect::<Vec<_>>();
        let judged_at = |mirror: &Mirror, commits: &[&str], old: &str, seen| {
            let base = Base { history: history(commits), old: old.to_owned(), seen: Moment(seen) };
            is_built_on_others(mirror, &shop(), &base).map_err(|problem| problem.message)
        };
        let judged = |mirror: &Mirror, commits: &[&str]| judged_at(mirror, commits, "a", 60_000);
        assert_eq!(judged(&mirror, &["c", "b", "a"]), Ok(()));
        assert_eq!(judged(&mirror, &["b", "a"]), Ok(()), "the same once more");
        let refused = judged(&mirror, &["c", "a"]).expect_err("b is lost");
        assert_eq!(refused, "deploy #2 of alice is under way with b, which this is not built on");
        let ended = |state, order| {
            let mut deploy = (*mirror.deploys[&shop()][&number]).clone();
            (deploy.state, deploy.order) = (state, order);
            let mut mirror = mirror.clone();
            mirror.apply(Record::Deploy(deploy).into());
            mirror
        };
        for (state, order) in [
            (DeployState::Held, None),
            (DeployState::Done, None),
            (DeployState::Reverting, None),
            (DeployState::Verifying, Some(Order::Abort)),
        ] {
            assert_eq!(judged(&ended(state, order), &["c", "a"]), Ok(()), "{state}");
        }
        // It came to the branch after the branch was looked at.
        for state in [DeployState::Held, DeployState::Done] {
            let mirror = ended(state, None);
            let refused = judged_at(&mirror, &["c", "a"], "a", 0).expect_err("b is lost");
            assert_eq!(refused, "deploy #2 of alice has just brought b, which this is not built on");
            assert_eq!(judged_at(&mirror, &["c", "a"], "b", 0), Ok(()), "who knows of it may take it away");
            assert_eq!(judged_at(&mirror, &["c", "b", "a"], "a", 0), Ok(()));
        }
    }

    #[test]
    fn a_build_of_an_app_that_was_destroyed_is_not_the_new_one_s() {
        let mut mirror = released(&[]);
        let asked = start_deploy(&mirror, Moment(1), "test", &shop(), push("a"), false);
        let number = apply(&mut mirror, asked);
        let mut deploy = (*mirror.deploys[&shop()][&number]).clone();
        deploy.state = DeployState::Building;
        mirror.apply(Record::Deploy(deploy.clone()).into());
        let old = Deploy { created: Moment(0), ..deploy.clone() };
        let failed =
            |begun: &Deploy| build_failed(&mirror, Moment(2), begun, Reason::Aborted).map(|(changes, ())| changes);
        assert_eq!(failed(&old).map(|changes| changes.len()).ok(), Some(0));
        assert_eq!(failed(&deploy).map(|changes| changes.len()).ok(), Some(1));
    }
}
