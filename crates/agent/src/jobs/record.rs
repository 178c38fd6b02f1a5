//! The file of a job: `jobs/<name>.json` in the data folder.
//!
//! The file is not synced. A power loss ends the containers, too, and the server then runs the job again.

use std::io;
use std::path::PathBuf;

use gantry_control::jobs::{EndedJob, JobOrder};
use gantry_linux::process::boot_id;
use gantry_model::Moment;
use serde::{Deserialize, Serialize};

use crate::AgentSettings;

/// A job that this machine has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) order: JobOrder,
    /// Id of the boot in which the record was made.
    pub(super) boot: String,
    /// Time of the launch, written before the launch.
    #[serde(default)]
    pub(super) launched: Option<Moment>,
    #[serde(default)]
    pub(super) ended: Option<EndedJob>,
}

impl JobRecord {
    pub(super) fn new(order: JobOrder) -> Self {
        Self { order, boot: boot_id(), launched: None, ended: None }
    }

    /// Name of the job's container.
    pub(super) fn name(&self) -> String {
        let lease = self.order.lease;
        format!("job-{}-{}-{}", self.order.queue.project, lease.job, lease.fence.0)
    }

    /// Reports whether the job may have run in another boot: its end is unknown.
    pub(super) fn is_lost(&self) -> bool {
        self.ended.is_none() && self.launched.is_some() && self.boot != boot_id()
    }

    /// Replaces the file.
    pub(super) fn write(&self, settings: &AgentSettings) -> io::Result<()> {
        let path = path(settings, &self.name());
        let fresh = path.with_extension("new");
        std::fs::create_dir_all(folder(settings))?;
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        gantry_failpoint::failpoint!("job.written");
        std::fs::rename(fresh, path)
    }
}

fn folder(settings: &AgentSettings) -> PathBuf {
    settings.data.join("jobs")
}

fn path(settings: &AgentSettings, name: &str) -> PathBuf {
    folder(settings).join(format!("{name}.json"))
}

/// Removes the file of a job.
pub(super) fn remove(settings: &AgentSettings, name: &str) {
    if let Err(error) = std::fs::remove_file(path(settings, name))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(name, %error, "cannot remove the file of an ended job");
    }
}

/// All jobs with a file. Removes files that a killed agent left unfinished.
pub(super) fn all(settings: &AgentSettings) -> Vec<JobRecord> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder(settings)).into_iter().flatten().flatten() {
        let read = std::fs::read(entry.path()).map_err(|error| error.to_string());
        let record = read.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        match record {
            Ok(record) if entry.path().extension().is_some_and(|kind| kind == "json") => records.push(record),
            Ok(JobRecord { .. }) => drop(std::fs::remove_file(entry.path())),
            Err(why) => {
                tracing::warn!(path = %entry.path().display(), why, "cannot read the file of a job; removing it");
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    records
}
