//! Garbage collection on this machine. Removes images and unpacked layers that no instance runs on, and old logs of
//! removed instances.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry_control::PeerPolicy;
use gantry_error::ErrorChain;
use gantry_model::Digest;
use gantry_model::clock::{ClockJumps, SteadyClock};
use gantry_supervision::{Backoff, ReconcileLoop};

use crate::file_age::file_age;
use crate::status::reading;
use crate::{AgentContext, builds, records};

/// Collects garbage periodically, for ever.
pub(crate) async fn run(agent: &Arc<AgentContext>) {
    let mut ages = FileAges { clock: SteadyClock::new(reading()), jumps: ClockJumps::default() };
    let pass = async || {
        agent.policy.gc_interval().await;
        ages.record_clock_jump();
        if let Err(error) = builds::collect_caches(agent).await {
            tracing::warn!(error = %ErrorChain(&error), "cannot collect build caches; retrying after the usual interval");
        }
        let (agent, ages) = (Arc::clone(agent), ages.clone());
        tokio::task::spawn_blocking(move || collect_once(&agent, &ages)).await
    };
    ReconcileLoop::new("garbage collection", Duration::ZERO, Backoff::constant(Duration::ZERO)).run(pass).await;
}

/// Ages of files. Their modification times come from the wall clock, which may have jumped since.
#[derive(Clone)]
struct FileAges {
    clock: SteadyClock,
    jumps: ClockJumps,
}

impl FileAges {
    /// Records a jump of the wall clock.
    fn record_clock_jump(&mut self) {
        let reading = reading();
        if let Some(jump) = self.clock.jump(reading) {
            self.jumps.push(reading.awake, jump);
            self.clock.follow(reading);
        }
    }

    /// The apparent age from which a file is certain to be at least `age` old.
    fn at_least(&self, age: Duration) -> Duration {
        age.saturating_add(self.jumps.forward_within(reading().awake, age))
    }
}

fn collect_once(agent: &AgentContext, ages: &FileAges) {
    let grace = ages.at_least(agent.policy.grace());
    // The image of an instance that is just starting is in no record yet. The lock of the layers keeps any start from
    // beginning while `images` runs.
    match agent.layers.collect(grace, || collect_images(agent, grace)) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed unused layers"),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "cannot remove unused layers; retrying after the usual interval")
        }
    }
    let PeerPolicy { log_retention, logs_kept, .. } = agent.policy.now();
    collect_logs(agent, ages.at_least(Duration::from_millis(log_retention.millis())), logs_kept as usize);
}

/// Removes images that nothing runs on and that no snapshot brought, and returns the layers of the remaining ones. Returns
/// `None` if an image cannot be read, because that image may use any layer.
fn collect_images(agent: &AgentContext, grace: Duration) -> Option<BTreeSet<Digest>> {
    let used = used_images(agent);
    let folder = agent.settings.data.join("images");
    // A used image without a folder cannot be read either.
    let mut all_read = used.iter().all(|digest| folder.join(digest.hex()).is_dir());
    let mut layers = BTreeSet::new();
    for name in file_names(&folder) {
        let path = folder.join(&name);
        let is_used = Digest::from_hex(&name).is_ok_and(|digest| used.contains(&digest));
        let is_of_snapshot = path.join(crate::offline_images::MARK_FILE).exists();
        if is_used || is_of_snapshot || file_age(&path).is_none_or(|age| age < grace) {
            match crate::images::read(&path) {
                Some((_, config)) => layers.extend(config.rootfs.diff_ids),
                None => all_read = false,
            }
        } else if let Err(error) = gantry_linux::tree::remove(&path) {
            tracing::warn!(error = %ErrorChain(&error), "cannot remove an unused image");
        }
    }
    all_read.then_some(layers)
}

/// The images of all planned and existing instances, and of all transient workloads.
fn used_images(agent: &AgentContext) -> BTreeSet<Digest> {
    let plan = records::read_plan(&agent.settings);
    let planned =
        plan.into_iter().flat_map(|plan| plan.instances.into_values()).map(|assignment| assignment.spec.image.clone());
    let there = records::instance_ids(&agent.settings);
    let there = there.iter().filter_map(|id| records::ContainerPaths::of(&agent.settings, id).read_record());
    let transient = records::transient_names(&agent.settings);
    let transient = transient.iter().filter_map(|name| {
        let path = agent.settings.data.join("containers").join(name).join("image");
        Digest::from_hex(std::fs::read_to_string(path).ok()?.trim()).ok()
    });
    planned.chain(there.map(|record| record.spec.image)).chain(transient).collect()
}

/// Removes the logs of removed instances beyond the newest `most` of each app, and all logs of an app whose last instance
/// left longer than `kept` ago. A log has at most 16 MiB.
fn collect_logs(agent: &AgentContext, kept: Duration, most: usize) {
    let folder = agent.settings.data.join("logs");
    let there: BTreeSet<String> = records::instance_ids(&agent.settings).iter().map(ToString::to_string).collect();
    for app in file_names(&folder) {
        let path = folder.join(&app);
        let mut gone: Vec<(Duration, String)> = file_names(&path)
            .into_iter()
            .filter(|name| !there.contains(name))
            .map(|name| (age_of_newest(&path.join(&name)).unwrap_or_default(), name))
            .collect();
        gone.sort();
        let app_is_gone = !there.iter().any(|name| name.starts_with(&format!("{app}.")));
        for (place, (age, name)) in gone.iter().enumerate() {
            if place < most && !(app_is_gone && *age > kept) {
                continue;
            }
            if let Err(error) = gantry_linux::tree::remove(&path.join(name)) {
                tracing::warn!(error = %ErrorChain(&error), "cannot remove an expired log");
            }
        }
        // Fails unless the folder is empty.
        let _ = std::fs::remove_dir(&path);
    }
}

/// Time since the last write to any file in a folder.
fn age_of_newest(folder: &Path) -> Option<Duration> {
    file_names(folder).iter().filter_map(|name| file_age(&folder.join(name))).min()
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
