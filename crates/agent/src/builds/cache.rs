//! The apps' build caches and records of file times on this machine.
//!
//! ```text
//! caches/<app>/       `/cache` of the app's builds
//! caches/.gone-<n>    a cache on its way out
//! times/<app>         file times of the app's last build
//! times/<app>.app     creation time of the app that the two belong to
//! ```
//! A later app of the same name never gets the cache of its predecessor: a build compares the creation time. What
//! belongs to no app is collected as garbage.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::ClientError;
use gantry_control::builds::CacheOrder;
use gantry_control::endpoints::AppNames;
use gantry_error::ErrorChain;
use gantry_ledger::Replacement;
use gantry_model::{AppName, Moment};

use crate::AgentContext;

/// Size limit of an app's build cache in bytes. A larger cache is removed, and the next build begins with an empty
/// cache.
const CACHE_MAX: u64 = 4 << 30;

/// Prefix of the name of a cache on its way out. No app's name begins with a dot.
const DISCARDED_PREFIX: &str = ".gone-";

/// The cache of an app.
pub(super) struct AppCache {
    /// The folder that the builds see as `/cache`.
    pub(super) folder: PathBuf,
    /// The record of file times. Builds have no access to this record.
    pub(super) times: PathBuf,
    /// File with the creation time of the app.
    owner: PathBuf,
}

impl AppCache {
    fn of(data: &Path, app: &str) -> Self {
        let times = data.join("times");
        Self { folder: data.join("caches").join(app), owner: times.join(format!("{app}.app")), times: times.join(app) }
    }

    /// Reports whether the folder is empty or missing.
    pub(super) fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.folder).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Removes everything. Returns the path to which the folder was moved.
    fn forget(&self) -> io::Result<PathBuf> {
        let away = self.take_folder()?;
        remove_file(&self.times)?;
        remove_file(&self.owner)?;
        Ok(away)
    }

    /// Moves the folder away, so that the next build begins with an empty cache. The removal takes time, and the caller
    /// does it later. Returns the new path.
    fn take_folder(&self) -> io::Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{DISCARDED_PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let away = self.folder.with_file_name(name);
        match std::fs::rename(&self.folder, &away) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(away),
        }
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Takes the cache of an app for a build. The cache of an earlier app of the same name is removed first.
pub(super) fn claim(agent: &AgentContext, app: &AppName, created: Moment) -> io::Result<AppCache> {
    claim_in(&agent.settings.data, app.as_str(), created)
}

fn claim_in(data: &Path, app: &str, created: Moment) -> io::Result<AppCache> {
    for name in ["caches", "times"] {
        std::fs::create_dir_all(data.join(name))?;
    }
    let cache = AppCache::of(data, app);
    let owner: Option<Moment> = std::fs::read(&cache.owner).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if owner == Some(created) {
        return Ok(cache);
    }
    // A cache without an owner is from an earlier version, or was moved to this name.
    if owner.is_some() {
        remove(&cache.forget()?);
    }
    Replacement::of(&cache.owner).write_json(&created)?;
    Ok(cache)
}

/// Carries out an order of the server.
pub(crate) async fn apply_order(agent: &Arc<AgentContext>, order: CacheOrder) -> io::Result<()> {
    let data = agent.settings.data.clone();
    let work = move || match order {
        CacheOrder::Forget { app } => AppCache::of(&data, app.as_str()).forget().map(Some),
        CacheOrder::Rename { from, to } => rename_in(&data, from.as_str(), to.as_str()).map(|()| None),
    };
    let away = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
    // The server does not wait for the removal.
    tokio::task::spawn_blocking(move || away.iter().for_each(|path| remove(path)));
    Ok(())
}

/// Moves a cache to another name. The next build under that name becomes its owner. A second call moves what is left.
fn rename_in(data: &Path, from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (AppCache::of(data, from), AppCache::of(data, to));
    for (from, to) in [(&from.folder, &to.folder), (&from.times, &to.times)] {
        if from.exists() {
            gantry_linux::tree::remove(to)?;
            std::fs::rename(from, to)?;
        }
    }
    remove_file(&from.owner)?;
    remove_file(&to.owner)
}

/// Removes caches that were on their way out when the previous agent ended.
pub(crate) fn sweep(data: &Path) {
    let caches = data.join("caches");
    names(&caches).iter().filter(|name| name.starts_with(DISCARDED_PREFIX)).for_each(|name| remove(&caches.join(name)));
}

/// Collects the caches of apps that no longer exist, and oversized caches of apps without a build in progress.
///
/// # Errors
/// When the server cannot say which apps exist.
pub(crate) async fn collect(agent: &Arc<AgentContext>) -> Result<(), ClientError> {
    let data = agent.settings.data.clone();
    // The folders are listed before the server is asked: an app exists before its cache.
    let found: BTreeSet<String> = ["caches", "times"]
        .iter()
        .flat_map(|folder| names(&data.join(folder)))
        .map(|name| name.strip_suffix(".app").map_or_else(|| name.clone(), ToOwned::to_owned))
        .filter(|name| !name.starts_with('.'))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let apps = agent.client.fetch(&AppNames { machine: agent.settings.machine.clone() }).await?;
    let apps: BTreeSet<AppName> = apps.into_iter().collect();
    for name in found {
        let cache = AppCache::of(&data, &name);
        let Ok(app) = AppName::parse(&name) else { continue };
        if !apps.contains(&app) {
            remove_logged(cache.forget());
            continue;
        }
        let folder = cache.folder.clone();
        let usage = move || gantry_linux::tree::usage(&folder, CACHE_MAX).is_ok_and(|size| size > CACHE_MAX);
        // No build begins while the turn is taken. The times stay: they ensure that a changed file gets a newer time
        // than its previous version.
        if tokio::task::spawn_blocking(usage).await.unwrap_or_default()
            && let Some(_turn) = agent.builds.turns.try_take(&app)
        {
            remove_logged(cache.take_folder());
        }
    }
    Ok(())
}

fn remove_logged(away: io::Result<PathBuf>) {
    match away {
        Ok(path) => drop(tokio::task::spawn_blocking(move || remove(&path))),
        Err(error) => tracing::warn!(%error, "cannot remove a build cache"),
    }
}

fn remove(path: &Path) {
    if let Err(error) = gantry_linux::tree::remove(path) {
        tracing::warn!(error = %ErrorChain(&error), "cannot remove a build cache");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(data: &Path, app: &str, created: u64) -> AppCache {
        let cache = claim_in(data, app, Moment(created)).expect("claimed");
        std::fs::create_dir_all(&cache.folder).expect("made");
        std::fs::write(cache.folder.join("made"), "x").expect("written");
        std::fs::write(&cache.times, "times").expect("written");
        cache
    }

    #[test]
    fn a_later_app_of_the_same_name_gets_an_empty_cache() {
        let data = tempfile::tempdir().expect("a folder");
        filled(data.path(), "shop", 7);
        assert!(!claim_in(data.path(), "shop", Moment(7)).expect("claimed").is_empty(), "its own");
        let cache = claim_in(data.path(), "shop", Moment(8)).expect("claimed");
        assert!(cache.is_empty() && !cache.times.exists(), "another app's");
    }

    #[test]
    fn a_cache_of_an_earlier_version_is_kept() {
        let data = tempfile::tempdir().expect("a folder");
        let cache = filled(data.path(), "shop", 7);
        std::fs::remove_file(&cache.owner).expect("removed");
        assert!(!claim_in(data.path(), "shop", Moment(9)).expect("claimed").is_empty());
        assert!(claim_in(data.path(), "shop", Moment(10)).expect("claimed").is_empty());
    }

    #[test]
    fn a_cache_follows_its_app_to_a_new_name() {
        let data = tempfile::tempdir().expect("a folder");
        filled(data.path(), "shop", 7);
        filled(data.path(), "heir", 8);
        for _ in 0..2 {
            rename_in(data.path(), "shop", "heir").expect("moved");
        }
        assert!(!AppCache::of(data.path(), "shop").folder.exists());
        assert!(claim_in(data.path(), "heir", Moment(9)).expect("claimed").folder.join("made").exists());
    }

    #[test]
    fn forgets_everything_of_an_app() {
        let data = tempfile::tempdir().expect("a folder");
        let cache = filled(data.path(), "shop", 7);
        let away = cache.forget().expect("forgotten");
        assert!(names(&data.path().join("times")).is_empty() && !cache.folder.exists() && away.exists());
        sweep(data.path());
        assert!(!away.exists());
        assert!(cache.forget().is_ok(), "again");
    }
}
