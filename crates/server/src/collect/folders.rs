//! Garbage collection of repositories and build logs whose app or deploy is gone. Agents collect build caches.

use std::path::Path;
use std::sync::Arc;

use gantry_api::Problem;
use gantry_control::builds::CacheOrder;
use gantry_model::{AppName, DeployNumber};

use crate::{Server, build_orders};

pub(super) fn collect(server: &Server) {
    let data = &server.settings.data;
    let [repositories, logs] = ["git", "builds"].map(|folder| names(&data.join(folder)));
    // Reads the records again for each name, after listing the folders. A record is written before its files, and
    // measuring and removing the preceding folders takes time.
    let is_app = |name: &str| AppName::parse(name).is_ok_and(|app| server.core.view().records.apps.contains_key(&app));
    let is_deploy = |app: &str, number: DeployNumber| {
        AppName::parse(app).is_ok_and(|app| {
            let view = server.core.view();
            view.records.deploys.get(&app).is_some_and(|deploys| deploys.contains_key(&number))
        })
    };
    for name in repositories {
        if name.strip_suffix(".git").is_some_and(|app| !is_app(app)) {
            remove(&data.join("git").join(&name));
        }
    }
    for name in logs {
        let Some((app, number)) = log_of(&name) else { continue };
        if !is_deploy(app, number) {
            remove(&data.join("builds").join(&name));
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = gantry_linux::tree::remove(path) {
        tracing::warn!(error = %gantry_error::ErrorChain(&error), "cannot remove unused files");
    }
}

/// Removes an app's files: repository, build logs, and the build cache on the machine that builds. A later app of the
/// same name inherits none of these.
///
/// # Errors
/// If a file cannot be removed.
pub(crate) async fn forget_app(server: &Arc<Server>, app: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    build_orders::change_cache(&server, CacheOrder::Forget { app: app.clone() }).await;
    gantry_failpoint::failpoint!("forget.cache");
    let forget = move || {
        server.repositories.remove(&app).map_err(std::io::Error::other)?;
        gantry_failpoint::failpoint!("forget.repository");
        let logs = server.settings.data.join("builds");
        for name in names(&logs).iter().filter(|name| log_of(name).is_some_and(|(of, _)| of == app.as_str())) {
            gantry_linux::tree::remove(&logs.join(name))?;
        }
        gantry_failpoint::failpoint!("forget.logs");
        Ok(())
    };
    let forgotten: std::io::Result<()> =
        tokio::task::spawn_blocking(forget).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    forgotten.map_err(|error| Problem::internal(error.to_string()))
}

/// Moves an app's files to another name. A second call moves what is left.
///
/// # Errors
/// If a file cannot be moved.
pub(crate) async fn rename_app(server: &Arc<Server>, from: AppName, to: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    build_orders::change_cache(&server, CacheOrder::Rename { from: from.clone(), to: to.clone() }).await;
    let rename = move || {
        server.repositories.rename(&from, &to).map_err(std::io::Error::other)?;
        let data = &server.settings.data;
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
