//! Build executor: gives each deploy in `Building` its release, and reports the result to the core.
//!
//! The release comes from a build by an agent, from an existing image, or from an earlier release. Every action can be
//! repeated from the start: after a killed server, the next server finds the deploy still in `Building`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_admission::{
    BuiltRelease, RequestedConfig, RequestedConfigError, RequestedValue, build_failed, release_built, requested_config,
};
use gantry_build::{BuildError, BuildProgress, EnvRequest, Output, Recipe};
use gantry_control::builds::{BuildOrder, CompileLimits};
use gantry_control::sessions::SessionKind;
use gantry_model::{
    App, AppName, BaseName, BuildPhase, ClusterPolicy, Deploy, DeployCause, DeployNumber, DeployState, Digest,
    ImageSettings, Moment, Reason, Release, Role, RoleName, execve,
};
use gantry_records::{BuildRecord, RecordIndex};
use tokio::sync::{Notify, Semaphore, watch};

use crate::gc_pins::GcPin;
use crate::tasks::BUILD;
use crate::why::BuildState;
use crate::{Server, build_logs, build_orders, tokens};

/// Maximum number of releases that are made at the same time. The agents have lower limits for builds.
const BUILDS_MAX: usize = 16;

/// Pause after the store refused a build's outcome, before the build runs again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Time in which lines of output gather before a follower reads them.
const GATHERING: Duration = Duration::from_millis(50);

/// Builds under way.
#[derive(Default)]
pub(crate) struct RunningBuilds {
    /// The builds by app and deploy number.
    jobs: Mutex<BTreeMap<(AppName, DeployNumber), BuildJob>>,
    /// Number of builds that have begun.
    begun: watch::Sender<u64>,
    /// Notified when a build ends. A build whose outcome the core refused then starts again, although no deploy changes.
    ended: Notify,
}

/// News about the output of a deploy's build.
pub(crate) struct OutputNews {
    begun: watch::Receiver<u64>,
    /// None before the build begins, and after its end.
    written: Option<watch::Receiver<u64>>,
}

impl OutputNews {
    /// Resolves when the build may have further output. A dropped call loses no news.
    pub(crate) async fn next(&mut self) {
        let news = self.written.as_mut().unwrap_or(&mut self.begun);
        let _ = news.changed().await;
        tokio::time::sleep(GATHERING).await;
    }
}

/// A build under way.
struct BuildJob {
    output: Arc<Output>,
    /// Creation time of the deploy. A destroyed and recreated app reuses deploy numbers; the creation time tells the
    /// deploys apart.
    created: Moment,
    _pin: GcPin,
}

impl RunningBuilds {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(AppName, DeployNumber), BuildJob>> {
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl RunningBuilds {
    /// Subscribes to the output of a deploy's build. Output before this call is no news.
    pub(crate) fn follow_output(&self, app: &AppName, number: DeployNumber) -> OutputNews {
        // Subscribed first: a build that begins meanwhile is news.
        let begun = self.begun.subscribe();
        let written = self.lock().get(&(app.clone(), number)).map(|job| job.output.written());
        OutputNews { begun, written }
    }

    /// Returns the progress of the app's newest build under way.
    pub(crate) fn state(&self, app: &AppName) -> Option<BuildState> {
        let running = self.lock();
        let (_, job) = running.iter().filter(|((of, _), _)| of == app).max_by_key(|((_, number), _)| *number)?;
        let BuildProgress { step, running, last_output } = job.output.progress();
        Some(BuildState { step, running, last_output })
    }
}

/// An image with the roles and the requested configuration of its recipe.
struct BuiltImage {
    image: Digest,
    roles: BTreeMap<RoleName, Role>,
    env: BTreeMap<String, EnvRequest>,
}

/// Registration of a build in [`RunningBuilds`]. Dropping the registration removes the build, however the build ended.
struct BuildRegistration {
    server: Arc<Server>,
    key: (AppName, DeployNumber),
}

impl Drop for BuildRegistration {
    fn drop(&mut self) {
        self.server.builds.lock().remove(&self.key);
        self.server.builds.ended.notify_one();
    }
}

/// At each change of an app or its deploys, starts the builds of deploys in `Building` and cancels builds that lost their
/// purpose.
pub(crate) async fn run(server: Arc<Server>) {
    let mut waiting = server.core.app_values(waiting_for_release);
    let slots = Arc::new(Semaphore::new(BUILDS_MAX));
    loop {
        waiting.update();
        begin(&server, &slots, waiting.by_app());
        tokio::select! {
            () = waiting.changed() => {}
            () = server.builds.ended.notified() => {}
        }
    }
}

/// Starts each wanted build that is not under way, and cancels each build that is no longer wanted.
fn begin(server: &Arc<Server>, slots: &Arc<Semaphore>, to_build: &BTreeMap<AppName, Vec<Arc<Deploy>>>) {
    let mut running = server.builds.lock();
    for ((app, number), job) in running.iter() {
        let is_its = |deploy: &Arc<Deploy>| (deploy.number, deploy.created) == (*number, job.created);
        if !to_build.get(app).is_some_and(|deploys| deploys.iter().any(is_its)) {
            job.output.cancel();
        }
    }
    for deploy in to_build.values().flatten() {
        let key = (deploy.app.clone(), deploy.number);
        if running.contains_key(&key) {
            // Either the wanted build is under way, or a cancelled build of the same number must end first.
            continue;
        }
        let output = Output::to(&build_logs::path(&server.settings, &deploy.app, deploy.number));
        let job = BuildJob { output: Arc::clone(&output), created: deploy.created, _pin: server.gc_pins.take() };
        running.insert(key.clone(), job);
        server.builds.begun.send_modify(|count| *count += 1);
        let registration = BuildRegistration { server: Arc::clone(server), key };
        server.tasks.spawn(BUILD, run_build(registration, (**deploy).clone(), output, Arc::clone(slots)));
    }
}

/// Returns the deploys of an app in `Building` that have no release yet; none if there are none. An app that is being
/// destroyed gets no release.
fn waiting_for_release(records: &RecordIndex, app: &App) -> Option<Vec<Arc<Deploy>>> {
    if app.destroying {
        return None;
    }
    let building = |deploy: &&Arc<Deploy>| deploy.state == DeployState::Building && deploy.release.is_none();
    let waiting: Vec<Arc<Deploy>> = records.open_deploys(&app.name).filter(building).cloned().collect();
    (!waiting.is_empty()).then_some(waiting)
}

/// Runs one build in a free slot and reports the outcome.
async fn run_build(registration: BuildRegistration, deploy: Deploy, output: Arc<Output>, slots: Arc<Semaphore>) {
    let server = &registration.server;
    let waiting = format!("Waiting until one of the {BUILDS_MAX} releases that are being made is done");
    let Some(Ok(slot)) = output.wait_for(&waiting, slots.acquire()).await else { return };
    if output.is_cancelled() {
        return;
    }
    let outcome = match make_release(server, &deploy, &output).await {
        Ok(made) => check_start(server, &deploy.app, &made).await.map(|()| made),
        Err(error) => Err(error),
    };
    drop(slot);
    gantry_failpoint::failpoint!("build.made");
    let log = build_logs::store_as_blob(server, &deploy.app, deploy.number).await;
    report_outcome(server, Deploy { log, ..deploy }, outcome).await;
    gantry_failpoint::failpoint!("build.reported");
}

/// Reports the outcome of a build to the core.
async fn report_outcome(server: &Server, deploy: Deploy, outcome: Result<BuiltRelease, BuildError>) {
    let (app, number) = (deploy.app.clone(), deploy.number);
    let recorded = match outcome {
        Ok(made) => server.core.mutate(move |records, now| Ok((release_built(records, now, &deploy, made), ()))).await,
        Err(error) => {
            let reason = Reason::BuildFailed {
                phase: error.phase.as_str().to_owned(),
                message: error.message,
                tail: error.tail,
            };
            server.core.mutate(move |records, now| Ok((build_failed(records, now, &deploy, reason), ()))).await
        }
    };
    if let Err(problem) = recorded {
        tracing::error!(%app, %number, %problem, "cannot record the outcome of a build; the build runs again");
        // A store on a full disk refuses every write. The pause keeps retries rare until space is free.
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Produces the contents of a deploy's release, according to the cause of the deploy.
async fn make_release(server: &Arc<Server>, deploy: &Deploy, output: &Arc<Output>) -> Result<BuiltRelease, BuildError> {
    match &deploy.cause {
        DeployCause::Push { commit, source } => build_release(server, deploy, commit, source, output).await,
        DeployCause::Image { reference, image: digest, change } => {
            image_release(server, deploy, reference, digest, change, output).await
        }
        DeployCause::Config { .. } => repeat_release(server, deploy, None, output).await,
        DeployCause::Rollback { to } => repeat_release(server, deploy, Some(*to), output).await,
        DeployCause::Rename { from } => renamed_release(server, deploy, from, output),
    }
}

/// Refuses a release whose processes could not be started with the environment of its image, its roles and its
/// configuration.
async fn check_start(server: &Server, app: &AppName, made: &BuiltRelease) -> Result<(), BuildError> {
    let (_, image) =
        server.images.image(&made.image).await.map_err(|error| fail(BuildPhase::Image, &crate::causes(&error)))?;
    let image = image.config.env.unwrap_or_default();
    check_roles(server, app, &made.roles, &image, made.config.as_ref(), &made.defaults)
}

/// Refuses roles that `execve` could not start. `image` is the environment of the image, empty before the image exists.
fn check_roles(
    server: &Server,
    app: &AppName,
    roles: &BTreeMap<RoleName, Role>,
    image: &[String],
    config: Option<&BTreeMap<String, String>>,
    defaults: &RequestedConfig,
) -> Result<(), BuildError> {
    let view = server.core.view();
    let record = view.records.apps.get(app).ok_or_else(|| fail(BuildPhase::Source, "the app was destroyed"))?;
    let mut all = defaults.values.clone();
    all.extend(config.unwrap_or(&record.config).clone());
    roles.iter().try_for_each(|(role, settings)| {
        execve::check_role(role.as_str(), settings, image, &all)
            .map_err(|error| fail(BuildPhase::Environment, &error.to_string()))
    })
}

/// Makes a release of an existing image, with the roles that the image itself names. An image that brings no roles gets
/// its roles from the app's image settings.
async fn image_release(
    server: &Server,
    deploy: &Deploy,
    reference: &str,
    image: &Digest,
    change: &ImageSettings,
    output: &Output,
) -> Result<BuiltRelease, BuildError> {
    output.step(&format!("Deploying image {reference}"));
    let (config, recipe) = image_recipe(server, &deploy.app, image, change).await?;
    let foreign = gantry_build::is_foreign(&config.config);
    let reference = foreign.then_some(reference);
    let lost = gantry_build::lost(&config.config, &recipe.roles, &deploy.app, reference);
    recipe.notes.iter().chain(&lost).for_each(|note| output.note(note));
    let defaults = defaults(server, &deploy.app, &recipe.env)?;
    let commit = gantry_build::revision(&config.config);
    Ok(BuiltRelease {
        image: image.clone(),
        commit,
        roles: recipe.roles,
        config: None,
        defaults,
        base: None,
        build: None,
    })
}

/// The configuration of an image, and its recipe with the app's image settings.
async fn image_recipe(
    server: &Server,
    app: &AppName,
    image: &Digest,
    change: &ImageSettings,
) -> Result<(gantry_image::Config, Recipe), BuildError> {
    let (_, config) =
        server.images.image(image).await.map_err(|error| fail(BuildPhase::Image, &crate::causes(&error)))?;
    if !gantry_build::is_foreign(&config.config) && !change.is_empty() {
        let why =
            "the image was built by Gantry and brings its roles: set `volumes` and `port` in its container/roles.json";
        return Err(fail(BuildPhase::Roles, why));
    }
    let mut settings = image_settings(server, app)?;
    settings.apply(change);
    let recipe = Recipe::of_image(&config.config, &settings)?;
    Ok((config, recipe))
}

/// Returns the image and the roles that a deploy of an image, or a rollback, would release.
pub(crate) async fn contents(
    server: &Server,
    app: &AppName,
    cause: &DeployCause,
) -> Result<(Digest, BTreeMap<RoleName, Role>), BuildError> {
    match cause {
        DeployCause::Image { image, change, .. } => {
            let (_, recipe) = image_recipe(server, app, image, change).await?;
            Ok((image.clone(), recipe.roles))
        }
        DeployCause::Rollback { to } => {
            let release = server.core.view().records.release(app, *to).cloned();
            let release = release.ok_or_else(|| fail(BuildPhase::Image, &format!("release {to} no longer exists")))?;
            let (roles, _) = repeated_roles(server, app, &release).await?;
            Ok((release.image.clone(), roles))
        }
        _ => Err(fail(BuildPhase::Source, "a plan needs an image or a release")),
    }
}

/// Returns the app's settings for images that bring no roles.
fn image_settings(server: &Server, name: &AppName) -> Result<ImageSettings, BuildError> {
    let view = server.core.view();
    view.records
        .apps
        .get(name)
        .map(|app| app.image.clone())
        .ok_or_else(|| fail(BuildPhase::Source, "the app was destroyed"))
}

/// Returns the configuration that a recipe requests and the app does not have.
fn defaults(
    server: &Server,
    name: &AppName,
    requests: &BTreeMap<String, EnvRequest>,
) -> Result<RequestedConfig, BuildError> {
    let view = server.core.view();
    let app = view.records.apps.get(name).ok_or_else(|| fail(BuildPhase::Source, "the app was destroyed"))?;
    let requests = requests.iter().map(|(key, request)| {
        let value = match request {
            EnvRequest::Default(value) => RequestedValue::Default(value.clone()),
            EnvRequest::Secret => RequestedValue::Secret,
            EnvRequest::Required => RequestedValue::Required,
        };
        (key.clone(), value)
    });
    requested_config(app, &requests.collect(), tokens::new_secret).map_err(|error| {
        let phase = match error {
            RequestedConfigError::Missing { .. } => BuildPhase::Configuration,
            RequestedConfigError::TooLong(_) | RequestedConfigError::TooLarge(_) => BuildPhase::Environment,
        };
        fail(phase, &error.to_string())
    })
}

/// Makes a release from an earlier one: for a rollback from release `to`, with that release's configuration; otherwise
/// from the previous release, with the configuration of now. If the image brings no roles, the app's present volumes
/// replace older ones, because the volumes hold the app's data.
async fn repeat_release(
    server: &Server,
    deploy: &Deploy,
    to: Option<gantry_model::ReleaseNumber>,
    output: &Output,
) -> Result<BuiltRelease, BuildError> {
    let number = to.or(deploy.previous);
    let release = number.and_then(|number| server.core.view().records.release(&deploy.app, number).cloned());
    let release = release.ok_or_else(|| BuildError {
        phase: BuildPhase::Image,
        message: match number {
            Some(number) => format!("release {number} no longer exists"),
            None => "no release serves yet; the next push gets the configuration".to_owned(),
        },
        tail: Vec::new(),
    })?;
    match to {
        Some(number) => output.step(&format!("Taking {number} again: {}", release.cause)),
        None => output.step(&format!("Releasing the image of {} with the new configuration", release.number)),
    }
    let (roles, volumes) = repeated_roles(server, &deploy.app, &release).await?;
    if let Some(names) = volumes {
        output
            .note(&format!("Volumes of web: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }));
    }
    Ok(BuiltRelease {
        image: release.image.clone(),
        commit: release.commit.clone(),
        roles,
        config: to.map(|_| (*release.config).clone()),
        defaults: RequestedConfig::default(),
        base: None,
        build: None,
    })
}

/// The roles of an earlier release. If the image brings no roles, the app's present volumes replace older ones; then also
/// their names.
async fn repeated_roles(
    server: &Server,
    app: &AppName,
    release: &Release,
) -> Result<(BTreeMap<RoleName, Role>, Option<Vec<String>>), BuildError> {
    let mut roles = release.roles.clone();
    let settings = image_settings(server, app)?;
    let web = roles.values_mut().find(|role| role.serves_http() && role.volumes != settings.volumes);
    let Some(web) = web else { return Ok((roles, None)) };
    let image = server.images.image(&release.image).await;
    let (_, config) = image.map_err(|error| fail(BuildPhase::Image, &crate::causes(&error)))?;
    if !gantry_build::is_foreign(&config.config) {
        return Ok((roles, None));
    }
    web.volumes = settings.volumes;
    let names = web.volumes.keys().cloned().collect();
    Ok((roles, Some(names)))
}

/// Makes a release under an app's new name: a copy of the current release.
fn renamed_release(
    server: &Server,
    deploy: &Deploy,
    from: &AppName,
    output: &Output,
) -> Result<BuiltRelease, BuildError> {
    let view = server.core.view();
    let current = view.records.apps.get(from).and_then(|app| app.current);
    let release = current.and_then(|number| view.records.release(from, number));
    let release = release.ok_or_else(|| fail(BuildPhase::Image, &format!("{from} has no release")))?;
    output.step(&format!("Taking {} of {from} as {}", release.number, deploy.app));
    Ok(BuiltRelease {
        image: release.image.clone(),
        commit: release.commit.clone(),
        roles: release.roles.clone(),
        config: Some((*release.config).clone()),
        defaults: RequestedConfig::default(),
        base: None,
        build: None,
    })
}

/// The limits of a compile step by the policy.
fn compile_limits(policy: &ClusterPolicy) -> CompileLimits {
    CompileLimits {
        seconds: policy.compile_time().millis() / 1000,
        memory: policy.compile_memory().0,
        disk: policy.compile_disk().0,
    }
}

/// The records that a build begins with.
struct BuildInput {
    /// Creation time of the app.
    created: Moment,
    /// Name of the base, if the source or the app names one.
    named: Option<BaseName>,
    base_name: BaseName,
    base: Digest,
    /// An earlier build of the commit on this base.
    known: Option<Arc<BuildRecord>>,
}

/// Reads the records that the build of a commit begins with. `base` is the name in the source.
fn build_input(
    server: &Server,
    name: &AppName,
    commit: &str,
    base: Option<BaseName>,
) -> Result<BuildInput, BuildError> {
    let view = server.core.view();
    let app = view.records.apps.get(name).ok_or_else(|| fail(BuildPhase::Source, "the app was destroyed"))?;
    let named = base.or_else(|| app.base.clone());
    let (base_name, base) = find_base(&view.records, name, named.clone())?;
    let known = view.records.builds.get(&(name.clone(), commit.to_owned())).filter(|known| known.base == base).cloned();
    Ok(BuildInput { created: app.created, named, base_name, base, known })
}

/// Builds a release from the source of a push. A commit that was built before on the same base is not built again.
async fn build_release(
    server: &Arc<Server>,
    deploy: &Deploy,
    commit: &str,
    source: &Digest,
    output: &Arc<Output>,
) -> Result<BuiltRelease, BuildError> {
    let short = commit.get(..10).unwrap_or(commit);
    output.step(&format!("Reading {} at {short}", deploy.app));
    crate::disk_reserve::check_reserve(server, "a build", 0).map_err(|full| {
        let hint = full.hint.unwrap_or_default();
        fail(BuildPhase::Space, &format!("{}; {hint}", full.message))
    })?;
    let recipe = server.images.recipe(source).await?;
    gantry_failpoint::failpoint!("build.opened");
    for note in &recipe.notes {
        output.note(note);
    }
    // Checked before the compile step, which may take long.
    let early = defaults(server, &deploy.app, &recipe.env)?;
    check_roles(server, &deploy.app, &recipe.roles, &[], None, &early)?;
    let BuildInput { created, named, base_name, base, known } = build_input(server, &deploy.app, commit, recipe.base)?;
    let known = match known {
        Some(known)
            if server
                .images
                .is_whole(&known.image)
                .await
                .map_err(|error| fail(BuildPhase::Image, &error.to_string()))? =>
        {
            Some(known)
        }
        Some(known) => {
            output.note(&format!("Image {} was built before and is damaged: building again", known.image.short()));
            None
        }
        None => None,
    };
    let built = if let Some(known) = known {
        output.step(&format!("Built before: image {}", known.image.short()));
        BuiltImage { image: known.image.clone(), roles: known.roles.clone(), env: recipe.env }
    } else {
        output.step(&format!("Building on base {base_name}"));
        let order = BuildOrder {
            app: deploy.app.clone(),
            created,
            number: deploy.number,
            commit: commit.to_owned(),
            source: source.clone(),
            base: base.clone(),
            limits: compile_limits(&server.core.view().records.policy),
        };
        let image = build_orders::carry_out(server, SessionKind::Build(order), output).await?;
        BuiltImage { image, roles: recipe.roles, env: recipe.env }
    };
    let (_, config) =
        server.images.image(&built.image).await.map_err(|error| fail(BuildPhase::Image, &crate::causes(&error)))?;
    let lost = gantry_build::lost(&config.config, &built.roles, &deploy.app, None);
    lost.iter().for_each(|note| output.note(note));
    let defaults = defaults(server, &deploy.app, &built.env)?;
    output.note(&format!("Image {}", built.image.short()));
    let record = BuildRecord {
        app: deploy.app.clone(),
        commit: commit.to_owned(),
        base,
        image: built.image.clone(),
        roles: built.roles.clone(),
    };
    Ok(BuiltRelease {
        image: built.image,
        commit: Some(commit.to_owned()),
        roles: built.roles,
        config: None,
        defaults,
        base: named.is_none().then_some(base_name),
        build: Some(record),
    })
}

fn fail(phase: BuildPhase, message: &str) -> BuildError {
    BuildError::new(phase, message)
}

/// Returns the item of an iterator that has exactly one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// Returns the named base, or the only base when none is named. A stack counts only if there is no other base: making a
/// stack must not make the next push ambiguous.
fn find_base(records: &RecordIndex, app: &AppName, name: Option<BaseName>) -> Result<(BaseName, Digest), BuildError> {
    let bases = &records.bases;
    let names: Vec<&str> = bases.keys().map(BaseName::as_str).collect();
    let found = match &name {
        Some(name) => bases.get(name),
        None => only(bases.values().filter(|base| !base.stack)).or_else(|| only(bases.values())),
    };
    if let Some(base) = found {
        return Ok((base.name.clone(), base.image.clone()));
    }
    let message = match (name, names.as_slice()) {
        (_, []) => "no base exists yet; make a base with `gantry base create NAME --from base.toml`".to_owned(),
        (Some(name), _) => format!("there is no base {name}; existing bases: {}", names.join(", ")),
        (None, _) => {
            format!(
                "{app} names no base, and several exist ({}); choose one with `gantry app base {app} BASE`, or write its name into container/base",
                names.join(", ")
            )
        }
    };
    Err(fail(BuildPhase::Base, &message))
}

#[cfg(test)]
mod tests {
    use gantry_records::StoreRecord;

    use super::*;
    use crate::gc_pins::GcPins;

    fn app() -> App {
        App::new(AppName::parse("shop").expect("a name"), Moment(0))
    }

    fn deploy(number: u64, state: DeployState, release: Option<u64>) -> Deploy {
        let cause = DeployCause::Config { keys: Vec::new() };
        let mut deploy = Deploy::new(app().name, DeployNumber(number), cause, "test".into(), false, Moment(0));
        (deploy.state, deploy.release) = (state, release.map(gantry_model::ReleaseNumber));
        deploy
    }

    #[test]
    fn a_deploy_waits_for_its_release_while_it_is_built() {
        let mut records = RecordIndex::default();
        let waiting = |records: &RecordIndex| {
            let waiting = waiting_for_release(records, &app());
            waiting.map(|deploys| deploys.iter().map(|deploy| deploy.number.0).collect::<Vec<_>>())
        };
        assert_eq!(waiting(&records), None);
        for deploy in [
            deploy(1, DeployState::Done, Some(1)),
            deploy(2, DeployState::Building, None),
            deploy(3, DeployState::Queued, None),
        ] {
            records.apply(StoreRecord::Deploy(deploy).into());
        }
        assert_eq!(waiting(&records), Some(vec![2]));
        assert!(waiting_for_release(&records, &App { destroying: true, ..app() }).is_none());
        records.apply(StoreRecord::Deploy(deploy(2, DeployState::Building, Some(2))).into());
        assert_eq!(waiting(&records), None);
    }

    #[test]
    fn the_begin_of_a_build_and_each_of_its_lines_are_news_for_a_follower() {
        let (builds, pins) = (RunningBuilds::default(), GcPins::default());
        let key = || (app().name, DeployNumber(1));
        let early = builds.follow_output(&key().0, key().1);
        assert!(early.written.is_none() && !early.begun.has_changed().expect("open"));
        let (output, _events) = Output::forwarded();
        let job = BuildJob { output: Arc::clone(&output), created: Moment(0), _pin: pins.take() };
        builds.lock().insert(key(), job);
        builds.begun.send_modify(|count| *count += 1);
        assert!(early.begun.has_changed().expect("open"));
        let late = builds.follow_output(&key().0, key().1).written.expect("a build");
        assert!(!late.has_changed().expect("open"));
        output.note("a line");
        assert!(late.has_changed().expect("open"));
        let other = builds.follow_output(&key().0, DeployNumber(2));
        assert!(other.written.is_none(), "the output of another deploy");
    }
}
