//! What is of no use any more on this machine: images and unpacked layers that no instance runs on, and the logs of
//! instances that are long gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_model::Digest;
use gantry_model::clock::{Clock, Jumps};

use crate::status::reading;
use crate::{Agent, records};

/// Logs of instances that are gone, kept for each app: at most 16 MiB each.
const LOGS_KEPT: usize = 20;

/// Logs of an app that has nothing here any more are kept this long.
const APP_LOGS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks now and then, for ever.
pub(crate) async fn run(agent: &Arc<Agent>) {
    let mut ages = Ages { clock: Clock::new(reading()), jumps: Jumps::default() };
    loop {
        tokio::time::sleep(agent.settings.collect.every).await;
        ages.look();
        let (agent, ages) = (Arc::clone(agent), ages.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || round(&agent, &ages)).await {
            tracing::error!(%error, "collection failed; it is tried again");
        }
    }
}

/// How old files are: their stamps are the wall clock's, which may have jumped since.
#[derive(Clone)]
struct Ages {
    clock: Clock,
    jumps: Jumps,
}

impl Ages {
    /// Notes a jump.
    fn look(&mut self) {
        let reading = reading();
        if let Some(jump) = self.clock.jump(reading) {
            self.jumps.push(reading.awake, jump);
            self.clock.follow(reading);
        }
    }

    /// How old a file must seem to be at least as old as `age`.
    fn at_least(&self, age: Duration) -> Duration {
        age.saturating_add(self.jumps.forward_within(reading().awake, age))
    }
}

fn round(agent: &Agent, ages: &Ages) {
    let grace = ages.at_least(agent.settings.collect.grace);
    // While a start is under way its image is in no record yet; none begins while this looks.
    match agent.layers.collect(grace, || images(agent, grace)) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed layers that nothing runs on"),
        Err(error) => tracing::warn!(%error, "layers that nothing runs on stay"),
    }
    logs(agent, ages.at_least(APP_LOGS_KEPT));
}

/// Removes images that nothing runs on. The layers of those that stay; none if one cannot be read, for it may stand on any.
fn images(agent: &Agent, grace: Duration) -> Option<BTreeSet<Digest>> {
    let used = used_images(agent);
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

fn logs(agent: &Agent, kept: Duration) {
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
            if place < LOGS_KEPT && !(app_is_gone && *age > kept) {
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

/// How long ago it was written. A time in the future, of a clock that went back since, becomes now.
fn age(path: &Path) -> Option<Duration> {
    let now = SystemTime::now();
    let age = now.duration_since(std::fs::metadata(path).ok()?.modified().ok()?);
    if age.is_err() {
        let _ = std::fs::File::open(path).and_then(|file| file.set_modified(now));
    }
    age.ok()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
