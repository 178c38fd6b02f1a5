//! Caches, repositories and logs of builds whose app or deploy is gone, and caches that are too large.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::Problem;
use gantry_model::{AppName, DeployNumber};

use crate::{Server, Settings};

/// The largest cache of an app's builds; a larger one is begun anew.
const CACHE_MAX: u64 = 4 << 30;

pub(super) fn collect(server: &Server) {
    let data = &server.settings.data;
    let [caches, times, repositories, logs] =
        ["caches", "times", "git", "builds"].map(|folder| names(&data.join(folder)));
    // Asked for each, after the names are read: what they belong to is in the records before it is on the disk, and to count
    // and remove what is before it takes its time.
    let mirror = || server.core.view().mirror;
    let is_app = |name: &str| AppName::parse(name).is_ok_and(|app| mirror().apps.contains_key(&app));
    for name in caches {
        let path = data.join("caches").join(&name);
        // Asked last: counting takes its time.
        let is_idle = || AppName::parse(&name).is_ok_and(|app| mirror().open_deploys(&app).next().is_none());
        let too_large = || gantry_linux::tree::usage(&path, CACHE_MAX).is_ok_and(|size| size > CACHE_MAX);
        if is_app(&name) && !(too_large() && is_idle()) {
            continue;
        }
        match take_cache(&server.settings, &name) {
            Ok(away) => remove(&away),
            Err(error) => tracing::warn!(%error, path = %path.display(), "what is of no use stays"),
        }
    }
    // An app whose cache was begun anew keeps them: by them a file that changes is still newer than the one before.
    for name in times.iter().filter(|name| !is_app(name)) {
        remove(&data.join("times").join(name));
    }
    for name in repositories {
        if name.strip_suffix(".git").is_some_and(|app| !is_app(app)) {
            remove(&data.join("git").join(&name));
        }
    }
    for name in logs {
        let Some((app, number)) = log_of(&name) else { continue };
        let mirror = mirror();
        let known = AppName::parse(app).ok().and_then(|app| mirror.deploys.get(&app));
        let kept = known.is_some_and(|deploys| deploys.contains_key(&number));
        if !kept {
            remove(&data.join("builds").join(&name));
        }
    }
}

/// Takes a build cache away at once, by another name: a build that begins meanwhile begins with an empty one. Gives that name.
fn take_cache(settings: &Settings, name: &str) -> std::io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let away = settings.data.join("scratch").join(format!("cache-{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    match std::fs::rename(settings.data.join("caches").join(name), &away) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(away),
        renamed => renamed.map(|()| away),
    }
}

/// What stays of it, for a build that is called off may write there still, goes when the server starts.
fn remove(path: &Path) {
    if let Err(error) = gantry_linux::tree::remove(path) {
        tracing::warn!(%error, "what is of no use stays");
    }
}

/// Removes what an app has on the server's disk besides its records: repository, build cache, and what its builds said. Another
/// app of its name has nothing of it.
///
/// # Errors
/// When something of it cannot be removed.
pub(crate) async fn forget_app(server: &Arc<Server>, app: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    let forget = move || {
        server.repositories.remove(&app).map_err(std::io::Error::other)?;
        gantry_linux::step!("forget.repository");
        let cache = take_cache(&server.settings, app.as_str())?;
        gantry_linux::step!("forget.cache");
        gantry_linux::tree::remove(&server.settings.data.join("times").join(app.as_str()))?;
        let logs = server.settings.data.join("builds");
        for name in names(&logs).iter().filter(|name| log_of(name).is_some_and(|(of, _)| of == app.as_str())) {
            gantry_linux::tree::remove(&logs.join(name))?;
        }
        gantry_linux::step!("forget.logs");
        // It takes its time, which nobody waits for.
        tokio::task::spawn_blocking(move || remove(&cache));
        Ok(())
    };
    let forgotten: std::io::Result<()> =
        tokio::task::spawn_blocking(forget).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    forgotten.map_err(|error| Problem::internal(error.to_string()))
}

/// Which app's and which deploy's a log of a build is, by its name.
fn log_of(name: &str) -> Option<(&str, DeployNumber)> {
    let (app, number) = name.strip_suffix(".log")?.rsplit_once('-')?;
    Some((app, DeployNumber(number.parse().ok()?)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
