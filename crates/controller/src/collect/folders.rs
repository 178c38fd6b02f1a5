//! Garbage collection of caches, repositories and build logs whose app or deploy is gone, and of oversized caches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::Problem;
use gantry_model::{AppName, DeployNumber};

use crate::{Server, ServerSettings};

/// Size limit of an app's build cache in bytes. A larger cache is removed, and the next build begins with an empty
/// cache.
const CACHE_MAX: u64 = 4 << 30;

pub(super) fn collect(server: &Server) {
    let data = &server.settings.data;
    let [caches, times, repositories, logs] =
        ["caches", "times", "git", "builds"].map(|folder| names(&data.join(folder)));
    // Reads the records anew for each name, after listing the folders. A record is written before its files, and
    // measuring and removing the preceding folders takes time.
    let records = || server.core.view().records;
    let is_app = |name: &str| AppName::parse(name).is_ok_and(|app| records().apps.contains_key(&app));
    for name in caches {
        let path = data.join("caches").join(&name);
        // The app's deploys are checked last, because measuring the cache takes time.
        let is_idle = || AppName::parse(&name).is_ok_and(|app| records().open_deploys(&app).next().is_none());
        let too_large = || gantry_linux::tree::usage(&path, CACHE_MAX).is_ok_and(|size| size > CACHE_MAX);
        if is_app(&name) && !(too_large() && is_idle()) {
            continue;
        }
        match take_cache(&server.settings, &name) {
            Ok(away) => remove(&away),
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove unused files"),
        }
    }
    // Kept when only the cache is removed: the times ensure that a changed file gets a newer time than its previous
    // version.
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
        let records = records();
        let known = AppName::parse(app).ok().and_then(|app| records.deploys.get(&app));
        let kept = known.is_some_and(|deploys| deploys.contains_key(&number));
        if !kept {
            remove(&data.join("builds").join(&name));
        }
    }
}

/// Renames a build cache into the scratch folder, so a build that begins meanwhile gets an empty cache. Returns the
/// new path.
fn take_cache(settings: &ServerSettings, name: &str) -> std::io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let away = settings.data.join("scratch").join(format!("cache-{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    match std::fs::rename(settings.data.join("caches").join(name), &away) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(away),
        renamed => renamed.map(|()| away),
    }
}

/// Removes a folder. A cancelled build may still write there; the server removes leftovers when it starts.
fn remove(path: &Path) {
    if let Err(error) = gantry_linux::tree::remove(path) {
        tracing::warn!(error = %gantry_error::ErrorChain(&error), "cannot remove unused files");
    }
}

/// Removes an app's files from the server's disk: repository, build cache, file times and build logs. A later app of
/// the same name inherits none of these.
///
/// # Errors
/// If a file cannot be removed.
pub(crate) async fn forget_app(server: &Arc<Server>, app: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    let forget = move || {
        server.repositories.remove(&app).map_err(std::io::Error::other)?;
        gantry_failpoint::failpoint!("forget.repository");
        let cache = take_cache(&server.settings, app.as_str())?;
        gantry_failpoint::failpoint!("forget.cache");
        gantry_linux::tree::remove(&server.settings.data.join("times").join(app.as_str()))?;
        let logs = server.settings.data.join("builds");
        for name in names(&logs).iter().filter(|name| log_of(name).is_some_and(|(of, _)| of == app.as_str())) {
            gantry_linux::tree::remove(&logs.join(name))?;
        }
        gantry_failpoint::failpoint!("forget.logs");
        // Removing the cache takes time, so the request does not wait for the removal.
        tokio::task::spawn_blocking(move || remove(&cache));
        Ok(())
    };
    let forgotten: std::io::Result<()> =
        tokio::task::spawn_blocking(forget).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    forgotten.map_err(|error| Problem::internal(error.to_string()))
}

/// Moves an app's files on the server's disk to another name. A second call moves what is left.
///
/// # Errors
/// If a file cannot be moved.
pub(crate) async fn rename_app(server: &Arc<Server>, from: AppName, to: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    let rename = move || {
        server.repositories.rename(&from, &to).map_err(std::io::Error::other)?;
        let data = &server.settings.data;
        for folder in ["caches", "times"].map(|folder| data.join(folder)) {
            move_over(&folder.join(from.as_str()), &folder.join(to.as_str()))?;
        }
        let logs = data.join("builds");
        for name in names(&logs) {
            if let Some((of, number)) = log_of(&name)
                && of == from.as_str()
            {
                move_over(&logs.join(&name), &logs.join(format!("{to}-{}.log", number.0)))?;
            }
        }
        Ok(())
    };
    let renamed: std::io::Result<()> =
        tokio::task::spawn_blocking(rename).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    renamed.map_err(|error| Problem::internal(format!("cannot move the files of an app: {error}")))
}

/// Moves a file or a folder to the place of another. A missing one has been moved already.
fn move_over(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    gantry_linux::tree::remove(to)?;
    std::fs::rename(from, to)
}

/// Parses the app and the deploy from the name of a build log.
fn log_of(name: &str) -> Option<(&str, DeployNumber)> {
    let (app, number) = name.strip_suffix(".log")?.rsplit_once('-')?;
    Some((app, DeployNumber(number.parse().ok()?)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
