//! Files of an instance on disk. The agent writes each change before acting on it. After a crash of any process, the
//! next agent knows which instances exist and which actions were done.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_error::ErrorChain;
use gantry_ledger::{ContentError, FileSchema, Replacement};
use gantry_model::{AllocationId, ExitStatus, Generation, InstanceSpec, MachinePlan, Moment, StopReason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{AgentContext, AgentError, AgentSettings};

/// The file with the machine's part of the plan.
pub const PLAN_FILE: FileSchema = FileSchema { name: "plan.json", version: 1 };

/// The file with the record of an instance.
pub const INSTANCE_FILE: FileSchema = FileSchema { name: "instance.json", version: 1 };

/// The record of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    pub(crate) spec: InstanceSpec,
    /// Stays the same across restarts, so that routers keep the address they know.
    pub(crate) address: Ipv4Addr,
    /// The machine's own address at the container's last start: its gateway and name server. `None` in records of an
    /// earlier version.
    #[serde(default)]
    pub(crate) gateway: Option<Ipv4Addr>,
    /// True if the instance has passed its checks since its last start.
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    /// True if the container was started. A run-once instance is not started again.
    #[serde(default)]
    pub(crate) started: bool,
    /// The last exit; for a run-once instance, its result.
    pub(crate) exit: Option<ExitStatus>,
    /// Time of the container's last start.
    #[serde(default)]
    pub(crate) begun: Option<Moment>,
    /// Time at which the instance passed its checks, since its last start.
    #[serde(default)]
    pub(crate) ready_since: Option<Moment>,
    /// Reason for the stop of the container. Kept on disk so that a restarted agent reports the reason, too.
    #[serde(default)]
    pub(crate) stop: Option<StopReason>,
}

/// Folders and files of an instance.
#[derive(Debug, Clone)]
pub(crate) struct ContainerPaths {
    /// Folder of its record and of its container's root.
    pub(crate) folder: PathBuf,
    /// Folder of run-time state, which a reboot empties.
    pub(crate) state: PathBuf,
    /// Folder of its output, kept after the instance is removed.
    pub(crate) logs: PathBuf,
    /// Name of its control group.
    pub(crate) cgroup: String,
}

impl ContainerPaths {
    pub(crate) fn of(settings: &AgentSettings, id: &AllocationId) -> Self {
        Self::named(
            settings,
            &id.to_string(),
            settings.data.join("logs").join(id.slot.app.as_str()).join(id.to_string()),
        )
    }

    /// The folders of a workload outside the plan.
    pub(crate) fn named(settings: &AgentSettings, name: &str, logs: PathBuf) -> Self {
        Self {
            folder: settings.data.join("containers").join(name),
            state: settings.run.join("containers").join(name),
            logs,
            cgroup: format!("{}/{name}", settings.cgroup),
        }
    }

    /// Name of the container.
    pub(crate) fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The exit record, which the container's pid 1 writes.
    pub(crate) fn exit(&self) -> PathBuf {
        self.folder.join("exit")
    }

    fn record(&self) -> PathBuf {
        self.folder.join(INSTANCE_FILE.name)
    }

    pub(crate) fn read_record(&self) -> Option<InstanceRecord> {
        read_file(&self.record(), INSTANCE_FILE)
    }

    pub(crate) fn write_record(&self, record: &InstanceRecord) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        INSTANCE_FILE.write(replacement(&self.record()), record)
    }

    /// Removes everything but the logs, on a blocking thread. The files of the container are deleted later.
    pub(crate) async fn remove(&self, agent: &Arc<AgentContext>) -> io::Result<()> {
        let (paths, agent) = (self.clone(), Arc::clone(agent));
        let remove = move || {
            gantry_linux::tree::remove(&paths.state)?;
            gantry_failpoint::failpoint!("instance.forgotten");
            agent.trash.discard(&paths.folder, agent.policy.reserve())
        };
        tokio::task::spawn_blocking(remove).await.map_err(io::Error::other)?
    }
}

/// Every instance with files on disk.
pub(crate) fn instance_ids(settings: &AgentSettings) -> Vec<AllocationId> {
    let entries = std::fs::read_dir(settings.data.join("containers")).into_iter().flatten().flatten();
    entries.filter_map(|entry| AllocationId::parse(entry.file_name().to_str()?)).collect()
}

/// All other workloads with files on disk: transient ones, and leftovers of an agent that died.
pub(crate) fn transient_names(settings: &AgentSettings) -> Vec<String> {
    let entries = std::fs::read_dir(settings.data.join("containers")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| AllocationId::parse(name).is_none()).collect()
}

/// Every app that has files on this machine or is in its plan.
pub(crate) fn apps_on_machine(settings: &AgentSettings) -> BTreeSet<String> {
    let planned = read_plan(settings).into_iter().flat_map(|plan| plan.instances.into_keys());
    let once = transient_names(settings).into_iter().filter_map(|name| app_of(&name));
    planned.chain(instance_ids(settings)).map(|id| id.slot.app.to_string()).chain(once).collect()
}

/// The app of a workload, by the workload's name.
fn app_of(name: &str) -> Option<String> {
    if let Some(id) = AllocationId::parse(name) {
        return Some(id.slot.app.to_string());
    }
    let (app, _) = match name.strip_prefix("job-") {
        Some(job) => job.rsplit_once('-')?.0.rsplit_once('-')?,
        None => name.strip_prefix("run-")?.rsplit_once('-')?,
    };
    Some(app.to_owned())
}

/// The first user id of each container on disk, by app: what the container writes belongs to its own users.
pub(crate) fn first_users(data: &Path) -> Vec<(String, u32)> {
    let entries = std::fs::read_dir(data.join("containers")).into_iter().flatten().flatten();
    let owner = |entry: std::fs::DirEntry| {
        let app = app_of(entry.file_name().to_str()?)?;
        Some((app, std::fs::metadata(entry.path().join("upper")).ok()?.uid()))
    };
    entries.filter_map(owner).collect()
}

fn plan_path(settings: &AgentSettings) -> PathBuf {
    settings.data.join(PLAN_FILE.name)
}

/// Reads the last plan that the agent adopted.
pub(crate) fn read_plan(settings: &AgentSettings) -> Option<MachinePlan> {
    read_file(&plan_path(settings), PLAN_FILE)
}

/// Writes the plan to disk, so that losing the server changes nothing.
pub(crate) fn write_plan(settings: &AgentSettings, plan: &MachinePlan) -> io::Result<()> {
    PLAN_FILE.write(replacement(&plan_path(settings)), plan)
}

/// Refuses files that a newer agent wrote. This agent would not know what runs, and would start or remove containers that
/// the newer agent manages. Without an agent, all containers go on.
pub(crate) fn check_versions(settings: &AgentSettings) -> Result<(), AgentError> {
    let instances = instance_ids(settings).into_iter().map(|id| ContainerPaths::of(settings, &id).record());
    let instances = instances.map(|path| (path, INSTANCE_FILE));
    for (path, schema) in std::iter::once((plan_path(settings), PLAN_FILE)).chain(instances) {
        let Ok(content) = std::fs::read(&path) else { continue };
        if let Err(source @ ContentError::Newer { .. }) = schema.check(&content) {
            return Err(AgentError::Newer { path, source });
        }
    }
    Ok(())
}

/// The generation of the plan, if there is a plan.
pub(crate) fn plan_generation(plan: Option<&MachinePlan>) -> Option<Generation> {
    plan.map(|plan| plan.generation)
}

fn read_file<T: DeserializeOwned>(path: &Path, schema: FileSchema) -> Option<T> {
    let content = std::fs::read(path).ok()?;
    match schema.parse(&content) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(path = %path.display(), error = %ErrorChain(&error), "cannot read the record; ignoring it");
            None
        }
    }
}

/// A durable replacement of a record.
fn replacement(path: &Path) -> Replacement<'_> {
    Replacement::of(path).before_rename(|| gantry_failpoint::failpoint!("record.written"))
}

/// Replaces a record durably.
pub(crate) fn write_file(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replacement(path).write_json(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gantry_model::{Assignment, Digest, InstanceGoal, ReleaseConfig, Role, RoleCommand};
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            image: Digest::from_hex(&"ab".repeat(32)).expect("a digest"),
            commit: None,
            config: ReleaseConfig::default(),
            role: Role::new(RoleCommand::Argv(vec!["serve".to_owned()])),
            volumes_of: None,
        }
    }

    fn plan(id: &AllocationId) -> MachinePlan {
        let assignment = Assignment { spec: Arc::new(spec()), goal: InstanceGoal::Run };
        MachinePlan { generation: Generation(5), instances: BTreeMap::from([(id.clone(), assignment)]) }
    }

    fn record() -> InstanceRecord {
        InstanceRecord {
            spec: spec(),
            address: Ipv4Addr::new(10, 83, 0, 9),
            gateway: None,
            ready: true,
            restarts: 2,
            started: true,
            exit: None,
            begun: Some(Moment(7)),
            ready_since: None,
            stop: None,
        }
    }

    /// Settings with a folder, and an instance with a plan and a record on disk.
    fn machine() -> (tempfile::TempDir, AgentSettings, AllocationId) {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = AgentSettings { data: folder.path().to_owned(), ..AgentSettings::for_tests() };
        let id = AllocationId::parse("shop.v1.web-1").expect("an id");
        write_plan(&settings, &plan(&id)).expect("written");
        ContainerPaths::of(&settings, &id).write_record(&record()).expect("written");
        (folder, settings, id)
    }

    /// Changes a file as another program would write it.
    fn rewrite(path: &Path, change: impl Fn(&mut Value)) {
        let mut content: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
        assert_eq!(content["version"], 1);
        change(&mut content);
        std::fs::write(path, content.to_string()).expect("written");
    }

    #[test]
    fn reads_the_files_of_an_agent_from_before_the_versions() {
        let (_folder, settings, id) = machine();
        let paths = ContainerPaths::of(&settings, &id);
        for path in [plan_path(&settings), paths.record()] {
            rewrite(&path, |content| drop(content.as_object_mut().expect("an object").remove("version")));
        }
        check_versions(&settings).expect("known");
        assert_eq!(read_plan(&settings), Some(plan(&id)));
        assert_eq!(paths.read_record(), Some(record()));
    }

    #[test]
    fn refuses_the_files_of_a_newer_agent_before_anything_changes() {
        let (_folder, settings, id) = machine();
        check_versions(&settings).expect("its own");
        for newer in [plan_path(&settings), ContainerPaths::of(&settings, &id).record()] {
            let before = std::fs::read(&newer).expect("a file");
            rewrite(&newer, |content| content["version"] = json!(99));
            let refused = check_versions(&settings).expect_err("refused");
            assert!(matches!(&refused, AgentError::Newer { path, .. } if *path == newer), "{refused}");
            std::fs::write(&newer, before).expect("written");
        }
        // A damaged file is no newer one: the server sends the plan again, and the instance starts over.
        std::fs::write(plan_path(&settings), "\0\0{ torn").expect("written");
        check_versions(&settings).expect("damaged");
        assert_eq!(read_plan(&settings), None);
    }
}
