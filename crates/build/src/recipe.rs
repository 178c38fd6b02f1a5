//! Recipe of a repository. `container/` takes precedence over `Procfile` and `app.json`; notes list the files in use.

use std::collections::BTreeMap;

use gantry_image::{AccountError, Accounts, Runtime};
use gantry_model::execve::is_variable_name;
use gantry_model::role::{DEFAULT_PORT, Exposure, HealthSettings, Kind, Role, RoleCommand, ShutdownSignal};
use gantry_model::{BaseName, BuildPhase, ImageSettings, RoleName, Seconds};

use crate::app_json::{self, AppJson, AppJsonError, EnvEntry, HealthCheck, Stage};
use crate::lookalike::Lookalike;
use crate::roles::SettingError;
use crate::script::Compile;
use crate::{BuildError, foreign, procfile, roles};

/// Name of the role that receives the app's HTTP requests.
const WEB: &str = "web";

/// Input of a recipe: the text files, and the presence of other files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipeInput {
    /// Content by path.
    pub texts: BTreeMap<String, String>,
    /// Start method of `container/compile`, if the file exists.
    pub compile: Option<Compile>,
    /// True if the tree has a folder `container/files`.
    pub files: bool,
    /// Files that resemble a file of the recipe.
    pub lookalikes: Vec<Lookalike>,
    /// Notes on content that the tree does not hold (submodules, git-lfs), for the build output.
    pub notes: Vec<String>,
}

/// Paths of the text files.
pub(crate) const TEXTS: [&str; 4] = ["container/roles.json", "container/base", "Procfile", "app.json"];

pub(crate) use gantry_image::RECIPE_LABEL as LABEL;

/// Image label with the commit (OCI image specification, annotations).
pub(crate) const REVISION: &str = "org.opencontainers.image.revision";

/// Full SHA of an image's commit, as the image's label says.
#[must_use]
pub fn revision(runtime: &Runtime) -> Option<String> {
    let label = runtime.labels.as_ref()?.get(REVISION)?;
    let is_hash = [40, 64].contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| label.clone())
}

/// Recipe of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The roles, with all defaults filled in.
    pub roles: BTreeMap<RoleName, Role>,
    /// Configuration values that the app asks for.
    pub env: BTreeMap<String, EnvRequest>,
    /// Base image that the repository names.
    pub base: Option<BaseName>,
    /// Start method of the compile step, if the repository has a compile step.
    pub compile: Option<Compile>,
    /// Notes on the files in use, for the build output.
    pub notes: Vec<String>,
    /// Text files that the recipe was read from, by path.
    pub texts: BTreeMap<String, String>,
}

/// A configuration value that the app asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvRequest {
    /// A default value, used unless the variable is set.
    Default(String),
    /// A random value, generated once.
    Secret,
    /// A value that the user must set.
    Required,
}

impl Recipe {
    /// Reads the recipe of a source tree.
    ///
    /// # Errors
    /// [`BuildError`] in phase `roles`, with the file, the place and the remedy.
    pub fn read(found: &RecipeInput) -> Result<Self, BuildError> {
        let text = |name: &str| found.texts.get(name).map(String::as_str);
        let wrong =
            |name: &str, why: &dyn std::fmt::Display| BuildError::new(BuildPhase::Roles, format!("{name}: {why}"));
        let mut notes = Vec::new();
        let mut roles = match (text("container/roles.json"), text("Procfile")) {
            (Some(json), procfile) => {
                notes.push(format!(
                    "Roles from container/roles.json{}",
                    if procfile.is_some() { " (Procfile is not used)" } else { "" }
                ));
                roles::parse(json).map_err(|why| wrong("container/roles.json", &why))?
            }
            (None, Some(lines)) => {
                notes.push("Roles from Procfile".to_owned());
                procfile::parse(lines).map_err(|why| wrong("Procfile", &why))?
            }
            (None, None) => return Err(BuildError::new(BuildPhase::Roles, no_roles(found))),
        };
        let app = match text("app.json") {
            Some(json) => {
                notes.push("Settings from app.json".to_owned());
                app_json::parse(json).map_err(|why| wrong("app.json", &why))?
            }
            None => AppJson::default(),
        };
        let ignored = apply(&mut roles, &app).map_err(|why| wrong("app.json", &why))?;
        notes.extend(app.ignored.iter().chain(&ignored).map(|key| format!("app.json: {key} is ignored")));
        add_cron(&mut roles, &app).map_err(|why| wrong("app.json", &why))?;
        classify(&mut roles);
        check_schedules(&roles).map_err(|error| BuildError::new(BuildPhase::Roles, error))?;
        let base = match text("container/base").map(str::trim) {
            Some(name) => Some(BaseName::parse(name).map_err(|error| wrong("container/base", &error))?),
            None => None,
        };
        let env = env_requests(app).map_err(|why| wrong("app.json", &why))?;
        notes.extend(unread(found).map(Lookalike::remark));
        notes.extend(found.notes.iter().cloned());
        Ok(Self { roles, env, base, compile: found.compile.clone(), notes, texts: found.texts.clone() })
    }

    /// Reads the recipe of an image.
    ///
    /// An image that Gantry built carries its recipe in a label. Any other image becomes a single web role with the
    /// image's entry point and command, and with these settings.
    ///
    /// # Errors
    /// [`BuildError`] in phase `roles` when the label is no valid recipe; in phase `image` when the image has no
    /// command or an impossible user number.
    pub fn of_image(runtime: &Runtime, settings: &ImageSettings) -> Result<Self, BuildError> {
        // A user name can only be resolved with the image's files. A user number out of range needs no files.
        let user = runtime.user.as_deref().unwrap_or_default();
        if let Err(error @ AccountError::Beyond { .. }) = Accounts::default().find(user) {
            return Err(BuildError::new(BuildPhase::Image, error));
        }
        if let Some(label) = runtime.labels.as_ref().and_then(|labels| labels.get(LABEL)) {
            let wrong = |error| BuildError::new(BuildPhase::Roles, format!("the image's label {LABEL}: {error}"));
            let texts = serde_json::from_str(label).map_err(wrong)?;
            return Self::read(&RecipeInput { texts, ..RecipeInput::default() });
        }
        let parts = [&runtime.entrypoint, &runtime.cmd];
        let words: Vec<String> = parts.into_iter().flatten().flatten().cloned().collect();
        if words.is_empty() {
            return Err(BuildError::new(BuildPhase::Image, "the image names no command (neither Entrypoint nor Cmd)"));
        }
        let mut role = Role::new(RoleCommand::Argv(words));
        let (port, port_note) = foreign::port(runtime, settings.port);
        role.port = Some(port);
        role.volumes = settings.volumes.clone();
        if let Some(signal) = runtime.stop_signal.as_deref().and_then(ShutdownSignal::parse) {
            role.stop_signal = signal;
        }
        let web = RoleName::parse(WEB).map_err(|error| BuildError::new(BuildPhase::Image, error))?;
        let mut notes = vec![format!("One role, web, from the image's own command; its port is {port}, {port_note}")];
        let mounted =
            role.volumes.iter().map(|(name, path)| format!("Volume {name} at {path}: one copy, replaced stop-first"));
        notes.extend(mounted);
        let mut roles = BTreeMap::from([(web, role)]);
        classify(&mut roles);
        Ok(Self { roles, env: BTreeMap::new(), base: None, compile: None, notes, texts: BTreeMap::new() })
    }
}

/// Refusal of a repository without roles. Names the file that the author may have meant.
fn no_roles(found: &RecipeInput) -> String {
    let for_roles = |meant| matches!(meant, Some("container/roles.json" | "Procfile"));
    let meant = found.lookalikes.iter().find(|one| for_roles(one.meant));
    let other = || found.lookalikes.iter().find(|one| one.meant.is_none());
    let remark = meant.or_else(other).map(|one| format!("; {}", one.remark())).unwrap_or_default();
    format!(
        "the repository names no roles; add container/roles.json such as {{ \"web\": \"bin/server\" }}, \
         or a Procfile such as `web: bin/server`{remark}"
    )
}

/// Lookalikes of files that the repository lacks. A `Procfile.dev` beside roles is common and no mistake.
fn unread(found: &RecipeInput) -> impl Iterator<Item = &Lookalike> {
    let has = |name: &str| match name {
        "container/compile" => found.compile.is_some(),
        "Procfile" => true,
        _ => found.texts.contains_key(name),
    };
    found.lookalikes.iter().filter(move |one| one.meant.is_some_and(|meant| !has(meant)))
}

/// Applies the settings of `app.json` to the roles. Returns the keys that cannot be applied.
fn apply(roles: &mut BTreeMap<RoleName, Role>, app: &AppJson) -> Result<Vec<String>, AppJsonError> {
    let mut ignored = Vec::new();
    for (name, formation) in &app.formation {
        match role_named(roles, name) {
            Some(role) => role.instances = formation.quantity.map_or(role.instances, |quantity| quantity.min(1000)),
            None => ignored.push(format!("formation.{name} (there is no such role)")),
        }
    }
    for (name, checks) in &app.healthchecks {
        let place = format!("healthchecks.{name}");
        let Some(role) = role_named(roles, name) else {
            ignored.push(format!("{place} (there is no such role)"));
            continue;
        };
        let of = |stage: Stage| checks.iter().find(|check| check.stage == stage);
        let (startup, liveness) = (of(Stage::Startup), of(Stage::Liveness));
        if let Some(check) = startup.or(liveness) {
            apply_target(role, check).map_err(|error| AppJsonError::Setting { place: place.clone(), error })?;
        }
        if let Some(check) = startup {
            apply_startup(&mut role.health, check);
        }
        if let Some(check) = liveness {
            apply_liveness(&mut role.health, check);
            if startup.is_some_and(|startup| startup.target() != check.target()) {
                ignored.push(format!(
                    "{place}: the request of the liveness check (a role has one check, the startup check's)"
                ));
            }
        }
    }
    Ok(ignored)
}

/// Adds a role for each entry of `cron`: `cron-1`, `cron-2`, …
fn add_cron(roles: &mut BTreeMap<RoleName, Role>, app: &AppJson) -> Result<(), AppJsonError> {
    for (index, entry) in app.cron.iter().enumerate() {
        let name = RoleName::parse(&format!("cron-{}", index + 1)).map_err(SettingError::from)?;
        let schedule = Some(entry.schedule.clone());
        let role = Role { instances: 0, schedule, ..Role::new(RoleCommand::Shell(entry.command.clone())) };
        if roles.insert(name.clone(), role).is_some() {
            return Err(AppJsonError::CronNameTaken { index, name });
        }
    }
    Ok(())
}

/// A role that serves or is a step of a deploy has a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "role {0} has a schedule, and only a role without a duty of its own runs as a job; give the schedule to another role"
)]
struct MisplacedSchedule(RoleName);

fn check_schedules(roles: &BTreeMap<RoleName, Role>) -> Result<(), MisplacedSchedule> {
    let misplaced =
        |role: &Role| role.schedule.is_some() && (role.kind != Kind::Service || role.exposure != Exposure::None);
    match roles.iter().find(|(_, role)| misplaced(role)) {
        Some((name, _)) => Err(MisplacedSchedule(name.clone())),
        None => Ok(()),
    }
}

fn role_named<'a>(roles: &'a mut BTreeMap<RoleName, Role>, name: &str) -> Option<&'a mut Role> {
    roles.get_mut(&RoleName::parse(name).ok()?)
}

/// Applies the target of a check to a role.
fn apply_target(role: &mut Role, check: &HealthCheck) -> Result<(), SettingError> {
    let mut health = role.health.clone();
    if let Some(command) = &check.command {
        let line = command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        roles::check_command(&line)?;
        (health.command, health.path) = (Some(line), None);
    }
    if let Some(path) = &check.path {
        health.path = Some(roles::health_path(path.clone())?);
    }
    health.host = check.host.clone().map(roles::health_host).transpose()?.or(health.host);
    if !check.headers.is_empty() {
        health.headers = roles::health_headers(check.headers.clone())?;
    }
    health.content = check.content.clone().or(health.content);
    health.settle = check.uptime.unwrap_or(health.settle);
    roles::check_health(&health)?;
    role.health = health;
    Ok(())
}

fn apply_startup(health: &mut HealthSettings, check: &HealthCheck) {
    health.timeout = given(check.timeout).unwrap_or(health.timeout);
    health.interval = given(check.wait).unwrap_or(health.interval);
    health.initial_delay = given(check.initial_delay).or(health.initial_delay);
    if let Some(attempts) = check.attempts.filter(|attempts| *attempts > 0) {
        let pause = health.interval.0.saturating_add(health.timeout.0);
        let start = attempts.saturating_mul(pause).saturating_add(health.initial_delay.map_or(0, |delay| delay.0));
        health.start = Some(Seconds(start.min(roles::START_MAX)));
    }
}

fn apply_liveness(health: &mut HealthSettings, check: &HealthCheck) {
    health.timeout = given(check.timeout).unwrap_or(health.timeout);
    health.watch = given(check.wait).unwrap_or(health.watch);
    health.attempts = check.attempts.filter(|attempts| *attempts > 0).unwrap_or(health.attempts);
    health.initial_delay = health.initial_delay.or(given(check.initial_delay));
}

/// Passes on a number of seconds unless the number is 0.
fn given(seconds: Option<Seconds>) -> Option<Seconds> {
    seconds.filter(|seconds| seconds.0 > 0)
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Gives each role the kind and the exposure that its name means. Nothing reads a meaning from a name after this. The
/// role `web` gets the default port unless it has a port: Gantry passes the port to the app.
fn classify(roles: &mut BTreeMap<RoleName, Role>) {
    for (name, role) in roles.iter_mut() {
        role.kind = match name.as_str() {
            "release" => Kind::Job,
            name if name.starts_with('.') => Kind::OneOff,
            _ => Kind::Service,
        };
        if name.as_str() == WEB {
            role.port.get_or_insert(DEFAULT_PORT);
        }
        role.exposure = match (role.kind, role.port) {
            (Kind::Service, _) if name.as_str() == WEB => Exposure::Http,
            (Kind::Service, Some(_)) => Exposure::Tcp,
            _ => Exposure::None,
        };
    }
}

fn env_requests(app: AppJson) -> Result<BTreeMap<String, EnvRequest>, AppJsonError> {
    let mut requests = BTreeMap::new();
    for (name, entry) in app.env {
        if !is_variable_name(&name) {
            return Err(SettingError::VariableName(name).into());
        }
        let request = match entry {
            EnvEntry::Value(value) => Some(EnvRequest::Default(value)),
            EnvEntry::Request(object) => match (object.generator.as_deref(), object.value, object.required) {
                (Some("secret"), _, _) => Some(EnvRequest::Secret),
                (Some(other), _, _) => {
                    return Err(AppJsonError::Generator { generator: other.to_owned(), name });
                }
                (None, Some(value), _) => Some(EnvRequest::Default(value)),
                // Heroku's default: a variable is required unless the entry says otherwise.
                (None, None, required) => (required != Some(false)).then_some(EnvRequest::Required),
            },
        };
        requests.extend(request.map(|request| (name, request)));
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> RecipeInput {
        let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        RecipeInput { texts, ..RecipeInput::default() }
    }

    fn name(text: &str) -> RoleName {
        RoleName::parse(text).expect("a name")
    }

    #[test]
    fn cron_of_app_json_adds_roles_that_run_as_jobs() {
        let cron = |more: &str| {
            let json = format!(r#"{{ "cron": [{{ "command": "bin/clean", "schedule": "5 * * * *" }}{more}] }}"#);
            Recipe::read(&found(&[("Procfile", "web: a"), ("app.json", &json)]))
        };
        let roles = cron("").expect("read").roles;
        let role = &roles[&name("cron-1")];
        assert_eq!((role.instances, role.kind, role.exposure), (0, Kind::Service, Exposure::None));
        assert_eq!(role.schedule.as_ref().map(|schedule| schedule.cron.as_str()), Some("5 * * * *"));
        let wrong = cron(r#", { "command": "x", "schedule": "never" }"#).expect_err("no schedule").to_string();
        assert!(wrong.contains("app.json: cron[1].schedule"), "{wrong}");
        let taken = found(&[("container/roles.json", "{ web: { command: 'a', schedule: '@daily' } }")]);
        assert!(Recipe::read(&taken).expect_err("web serves").to_string().contains("role web has a schedule"));
    }

    #[test]
    fn container_comes_before_procfile() {
        let both = found(&[("container/roles.json", "{ web: 'a' }"), ("Procfile", "web: b\nworker: c")]);
        let recipe = Recipe::read(&both).expect("a recipe");
        assert_eq!(recipe.roles.len(), 1);
        let web = &recipe.roles[&name("web")];
        assert_eq!((web.port, web.kind, web.exposure), (Some(DEFAULT_PORT), Kind::Service, Exposure::Http));
        assert_eq!(recipe.notes, ["Roles from container/roles.json (Procfile is not used)"]);
    }

    #[test]
    fn a_file_under_a_wrong_name_is_named() {
        let with = |texts: &[(&str, &str)], path: &str| {
            let lookalikes = Lookalike::of(std::path::Path::new(path)).into_iter().collect();
            Recipe::read(&RecipeInput { lookalikes, ..found(texts) })
        };
        for (path, expected) in [
            ("procfile", "; procfile is not read; rename it to Procfile"),
            ("roles.json", "; roles.json is not read; rename it to container/roles.json"),
            ("Dockerfile", "; Dockerfile is not read; build the image elsewhere"),
            ("container/compile.sh", "or a Procfile such as `web: bin/server`"),
        ] {
            let refused = with(&[], path).expect_err(path);
            assert!(refused.message.contains(expected), "{}", refused.message);
        }
        let web = [("Procfile", "web: a")];
        for (path, note) in [
            ("container/compile.sh", Some("container/compile.sh is not read; rename it to container/compile")),
            ("container/roles.yaml", Some("container/roles.yaml is not read; rename it to container/roles.json")),
            ("Procfile.dev", None),
            ("Dockerfile", None),
        ] {
            let notes = with(&web, path).expect("a recipe").notes;
            assert_eq!(notes.get(1).map(String::as_str), note, "{path}");
        }
    }

    #[test]
    fn app_json_adds_to_a_procfile() {
        let json = r#"{ "name": "x", "formation": { "web": { "quantity": 2 }, "ghost": { "quantity": 9 } },
            "healthchecks": { "web": [{ "type": "startup", "path": "/up", "timeout": 3, "wait": 2 }] },
            "env": { "A": "1", "B": { "generator": "secret" }, "C": { "description": "x" }, "D": { "required": false } } }"#;
        let recipe = Recipe::read(&found(&[("Procfile", "web: a\nworker: b"), ("app.json", json)])).expect("a recipe");
        let web = &recipe.roles[&name("web")];
        assert_eq!((web.instances, web.health.path.as_deref(), web.health.interval), (2, Some("/up"), Seconds(2)));
        let worker = &recipe.roles[&name("worker")];
        assert_eq!((worker.port, worker.kind, worker.exposure), (None, Kind::Service, Exposure::None));
        let env = [
            ("A".to_owned(), EnvRequest::Default("1".into())),
            ("B".to_owned(), EnvRequest::Secret),
            ("C".to_owned(), EnvRequest::Required),
        ];
        assert_eq!(recipe.env, BTreeMap::from(env));
    }

    #[test]
    fn checks_of_app_json_are_laid_over_a_role() {
        let json = r#"{ "healthchecks": { "web": [
            { "type": "startup", "path": "/up", "attempts": 60, "wait": 10, "timeout": 2, "initialDelay": 5, "content": "fine",
              "httpHeaders": [{ "name": "host", "value": "x.example" }] },
            { "type": "liveness", "path": "/alive", "attempts": 7, "wait": 30 } ],
            "db": [{ "type": "startup", "command": ["pg_isready", "-h", "it's"] }], "ghost": [] } }"#;
        let recipe = Recipe::read(&found(&[("Procfile", "web: a\ndb: b"), ("app.json", json)])).expect("a recipe");
        let health = &recipe.roles[&name("web")].health;
        assert_eq!((health.path.as_deref(), health.host.as_deref()), (Some("/up"), Some("x.example")));
        assert_eq!((health.start, health.initial_delay), (Some(Seconds(725)), Some(Seconds(5))));
        assert_eq!((health.attempts, health.watch, health.interval), (7, Seconds(30), Seconds(10)));
        assert_eq!(health.content.as_deref(), Some("fine"));
        let command = recipe.roles[&name("db")].health.command.as_deref();
        assert_eq!(command, Some(r"'pg_isready' '-h' 'it'\''s'"));
        let notes = [
            "Roles from Procfile",
            "Settings from app.json",
            "app.json: healthchecks.ghost (there is no such role) is ignored",
            "app.json: healthchecks.web: the request of the liveness check (a role has one check, the startup check's) is ignored",
        ];
        assert_eq!(recipe.notes, notes);
    }

    #[test]
    fn derives_roles_from_an_image() {
        let none = ImageSettings::default();
        let label = |name: &str, text: &str| Some(BTreeMap::from([(name.to_owned(), text.to_owned())]));
        let built = Runtime { labels: label(LABEL, r#"{"Procfile": "web: a\nworker: b"}"#), ..Runtime::default() };
        assert_eq!(Recipe::of_image(&built, &none).expect("a recipe").roles.len(), 2);
        let words = |text: &str| Some(vec![text.to_owned()]);
        let plain = Runtime { entrypoint: words("/run"), cmd: words("--all"), ..Runtime::default() };
        let roles = Recipe::of_image(&plain, &none).expect("a role").roles;
        let argv = RoleCommand::Argv(vec!["/run".to_owned(), "--all".to_owned()]);
        assert_eq!((&roles[&name("web")].command, roles[&name("web")].port), (&argv, Some(DEFAULT_PORT)));
        let settings = ImageSettings { volumes: [("data".to_owned(), "/data".to_owned())].into(), port: Some(81) };
        let recipe = Recipe::of_image(&plain, &settings).expect("a role");
        let web = &recipe.roles[&name("web")];
        assert_eq!((web.port, web.volumes["data"].as_str(), web.stop_first()), (Some(81), "/data", true));
        assert!(recipe.notes.iter().any(|note| note.contains("Volume data at /data")), "{:?}", recipe.notes);
        assert_eq!(Recipe::of_image(&Runtime::default(), &none).expect_err("nothing").phase, BuildPhase::Image);
        for (user, refused) in
            [("100000", true), ("1000680000:0", true), ("7:65536", true), ("65535", false), ("web", false)]
        {
            let image = Runtime { user: Some(user.to_owned()), ..plain.clone() };
            let refusal = Recipe::of_image(&image, &none).err().map(|error| error.to_string());
            assert_eq!(refusal.is_some_and(|why| why.contains("beyond the 65,536")), refused, "{user}");
        }
        for hostile in
            ["", "[]", "{", "{}", r#"{"Procfile": 1}"#, r#"{"container/roles.json": "{ web: { command: '' } }"}"#]
        {
            let image = Runtime { labels: label(LABEL, hostile), ..plain.clone() };
            assert_eq!(Recipe::of_image(&image, &none).expect_err(hostile).phase, BuildPhase::Roles);
        }
        for (text, is_one) in [(&*"c5".repeat(20), true), ("c59bd5abee", false), (&*"../".repeat(20), false)] {
            let image = Runtime { labels: label(REVISION, text), ..Runtime::default() };
            assert_eq!(revision(&image).is_some(), is_one, "{text}");
        }
    }

    #[test]
    fn an_invalid_recipe_names_the_file_to_add_or_correct() {
        let error = Recipe::read(&RecipeInput::default()).expect_err("nothing");
        assert!(error.phase == BuildPhase::Roles && error.message.contains("add container/roles.json"));
        let error = Recipe::read(&found(&[("Procfile", "web: a"), ("app.json", "{")])).expect_err("broken");
        assert!(error.message.starts_with("app.json: "), "{error}");
        let error =
            Recipe::read(&found(&[("Procfile", "web: a"), ("container/base", "../x")])).expect_err("a bad base");
        assert!(error.message.contains("container/base"), "{error}");
    }
}
