//! What is of no use any more on this machine: images and unpacked layers that no instance runs on, and the logs of
//! instances that are long gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_model::Digest;

use crate::{Agent, records};

/// Logs of instances that are gone, kept for each app: at most 16 MiB each.
const LOGS_KEPT: usize = 20;

/// Logs of an app that has nothing here any more are kept this long.
const APP_LOGS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks now and then, for ever.
pub(crate) async fn run(agent: &Arc<Agent>) {
    loop {
        tokio::time::sleep(agent.settings.collect.every).await;
        let agent = Arc::clone(agent);
        if let Err(error) = tokio::task::spawn_blocking(move || round(&agent)).await {
            tracing::error!(%error, "collection failed; it is tried again");
        }
    }
}

fn round(agent: &Agent) {
    // While a start is under way its image is in no record yet; none begins while this looks.
    match agent.layers.collect(agent.settings.collect.grace, || images(agent)) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed layers that nothing runs on"),
        Err(error) => tracing::warn!(%error, "layers that nothing runs on stay"),
    }
    logs(agent);
}

/// Removes images that nothing runs on. The layers of those that stay; none if one cannot be read, for it may stand on any.
fn images(agent: &Agent) -> Option<BTreeSet<Digest>> {
    let used = used_images(agent);
    let grace = agent.settings.collect.grace;
    let folder = agent.settings.data.join("images");
    // One that runs and whose folder is gone cannot be read either.
    let mut all_read = used.iter().all(|digest| folder.join(digest.hex()).is_dir());
    let mut layers = BTreeSet::new();
    for name in names(&folder) {
        let path = folder.join(&name);
        let is_used = Digest::from_hex(&name).is_ok_and(|digest| used.contains(&digest));
        if is_used || age(&path).is_none_or(|age| age < grace) {
            match crate::images::read(&path) {
                Some((_, config)) => layers.extend(config.rootfs.diff_ids),
                None => all_read = false,
            }
        } else if let Err(error) = gantry_linux::tree::remove(&path) {
            tracing::warn!(%error, "an image that nothing runs on stays");
        }
    }
    all_read.then_some(layers)
}

/// Of every instance that is planned or there, and of every one-off.
fn used_images(agent: &Agent) -> BTreeSet<Digest> {
    let plan = records::read_plan(&agent.settings);
    let planned =
        plan.into_iter().flat_map(|plan| plan.instances.into_values()).map(|assignment| assignment.spec.image);
    let there = records::all(&agent.settings);
    let there = there.iter().filter_map(|id| records::Places::of(&agent.settings, id).read());
    let once = records::others(&agent.settings);
    let once = once.iter().filter_map(|name| {
        let path = agent.settings.data.join("containers").join(name).join("image");
        Digest::from_hex(std::fs::read_to_string(path).ok()?.trim()).ok()
    });
    planned.chain(there.map(|record| record.spec.image)).chain(once).collect()
}

fn logs(agent: &Agent) {
    let folder = agent.settings.data.join("logs");
    let there: BTreeSet<String> = records::all(&agent.settings).iter().map(ToString::to_string).collect();
    for app in names(&folder) {
        let path = folder.join(&app);
        let mut gone: Vec<(Duration, String)> = names(&path)
            .into_iter()
            .filter(|name| !there.contains(name))
            .map(|name| (newest(&path.join(&name)).unwrap_or_default(), name))
            .collect();
        gone.sort();
        let app_is_gone = !there.iter().any(|name| name.starts_with(&format!("{app}.")));
        for (place, (age, name)) in gone.iter().enumerate() {
            if place < LOGS_KEPT && !(app_is_gone && *age > APP_LOGS_KEPT) {
                continue;
            }
            if let Err(error) = gantry_linux::tree::remove(&path.join(name)) {
                tracing::warn!(%error, "a log that is too old stays");
            }
        }
        // Only an empty one goes.
        let _ = std::fs::remove_dir(&path);
    }
}

/// How long ago something was last written in a folder.
fn newest(folder: &Path) -> Option<Duration> {
    names(folder).iter().filter_map(|name| age(&folder.join(name))).min()
}

fn age(path: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(std::fs::metadata(path).ok()?.modified().ok()?).ok()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
