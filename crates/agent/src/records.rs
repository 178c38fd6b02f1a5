//! What is kept on disk of an instance. Written before it matters: whatever process dies, the next one knows what there
//! is and what was done already.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use gantry_model::{Exit, Generation, InstanceId, InstanceSpec, MachinePlan, Moment, Stop};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Settings;

/// One instance's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: InstanceSpec,
    /// Kept across restarts, so that routers need not be told of them.
    pub(crate) address: Ipv4Addr,
    /// The machine's own address then: the way out, and who answers names. None in records of an earlier version.
    #[serde(default)]
    pub(crate) gateway: Option<Ipv4Addr>,
    /// It has passed its checks since it was last started.
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    /// It was begun: one that runs once is not begun again.
    #[serde(default)]
    pub(crate) started: bool,
    /// How it ended; of one that runs once this is its result.
    pub(crate) exit: Option<Exit>,
    /// When its container was last started.
    #[serde(default)]
    pub(crate) begun: Option<Moment>,
    /// When it passed its checks, since it was last started.
    #[serde(default)]
    pub(crate) ready_since: Option<Moment>,
    /// Why its container is being stopped; kept so that the next agent tells it, too.
    #[serde(default)]
    pub(crate) stop: Option<Stop>,
}

/// An instance's folders and files.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Its record and its container's root.
    pub(crate) folder: PathBuf,
    /// What a reboot takes with it.
    pub(crate) state: PathBuf,
    /// Its output, kept after it is gone.
    pub(crate) logs: PathBuf,
    /// Its control group.
    pub(crate) cgroup: String,
}

impl Places {
    pub(crate) fn of(settings: &Settings, id: &InstanceId) -> Self {
        Self::named(settings, &id.to_string(), settings.data.join("logs").join(id.app.as_str()).join(id.to_string()))
    }

    /// Of a container that is no instance: a one-off.
    pub(crate) fn named(settings: &Settings, name: &str, logs: PathBuf) -> Self {
        Self {
            folder: settings.data.join("containers").join(name),
            state: settings.run.join("containers").join(name),
            logs,
            cgroup: format!("{}/{name}", settings.cgroup),
        }
    }

    fn record(&self) -> PathBuf {
        self.folder.join("instance.json")
    }

    pub(crate) fn read(&self) -> Option<Record> {
        read(&self.record())
    }

    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        write(&self.record(), record)
    }

    /// Everything but the logs. A container may have filled its folder with anything.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let places = self.clone();
        tokio::task::spawn_blocking(move || places.remove_now()).await.map_err(io::Error::other)?
    }

    /// As [`Self::remove`], for a thread that may wait.
    pub(crate) fn remove_now(&self) -> io::Result<()> {
        gantry_linux::tree::remove(&self.state)?;
        gantry_linux::step!("instance.forgotten");
        Ok(gantry_linux::tree::remove(&self.folder)?)
    }
}

/// Every instance of which there is something on disk.
pub(crate) fn all(settings: &Settings) -> Vec<InstanceId> {
    let entries = std::fs::read_dir(settings.data.join("containers")).into_iter().flatten().flatten();
    entries.filter_map(|entry| InstanceId::parse(entry.file_name().to_str()?)).collect()
}

/// Everything in the folder of containers that is no instance: one-offs whose agent died.
pub(crate) fn others(settings: &Settings) -> Vec<String> {
    let entries = std::fs::read_dir(settings.data.join("containers")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| InstanceId::parse(name).is_none()).collect()
}

/// Every app of which there is something here or in the plan.
pub(crate) fn apps(settings: &Settings) -> BTreeSet<String> {
    let planned = read_plan(settings).into_iter().flat_map(|plan| plan.instances.into_keys());
    let once = others(settings).into_iter().filter_map(|name| {
        let (app, _) = name.strip_prefix("run-")?.rsplit_once('-')?;
        Some(app.to_owned())
    });
    planned.chain(all(settings)).map(|id| id.app.to_string()).chain(once).collect()
}

fn plan_path(settings: &Settings) -> PathBuf {
    settings.data.join("plan.json")
}

/// The last plan that was taken on.
pub(crate) fn read_plan(settings: &Settings) -> Option<MachinePlan> {
    read(&plan_path(settings))
}

/// Keeps a plan, so that losing the server changes nothing.
pub(crate) fn write_plan(settings: &Settings, plan: &MachinePlan) -> io::Result<()> {
    write(&plan_path(settings), plan)
}

/// The generation of a plan that may not be there.
pub(crate) fn generation(plan: Option<&MachinePlan>) -> Option<Generation> {
    plan.map(|plan| plan.generation)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = std::fs::read(path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a record cannot be read and is passed over");
            None
        }
    }
}

/// Whole or not at all, and durable.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()?;
    gantry_linux::step!("record.written");
    std::fs::rename(fresh, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}
