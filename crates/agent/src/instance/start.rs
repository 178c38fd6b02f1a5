//! The start of a container, from its image.

use std::sync::Arc;
use std::time::Duration;

use gantry_model::{InstanceGoal, InstanceId, InstancePhase};
use gantry_sandbox::{Container, kill_rest, launch};

use super::{Instance, NO_ADDRESS, stop_wanted};
use crate::container::{self, ContainerNames};
use crate::status::now;
use crate::{images, records};

/// Poll interval while another copy still exists.
const SOLE_COPY_POLL: Duration = Duration::from_millis(100);

/// An error with its chain of causes; the actual reason is often the last one.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Instance {
    /// Starts the container, with one retry. A passing failure, such as a link that the kernel is still removing, then
    /// fails no deploy.
    pub(super) async fn start_with_retry(&mut self) -> Result<Container, String> {
        match self.start().await {
            Err(message) if self.goal() != InstanceGoal::Stop => {
                tracing::warn!(instance = %self.id, message, "cannot start the instance; retrying once");
                self.start().await.map_err(|message| self.explain_disk(message))
            }
            result => result,
        }
    }

    /// Adds the state of the disk to a start failure, if the disk is read-only.
    fn explain_disk(&self, message: String) -> String {
        let data = &self.agent.settings.data;
        if !gantry_linux::disk::is_read_only(data) {
            return message;
        }
        let data = data.display();
        format!("the disk of {data} is read-only ({message}); the instance starts by itself once the disk is writable")
    }

    async fn start(&mut self) -> Result<Container, String> {
        self.status.probe = None;
        self.status.failure = None;
        self.status.warning = None;
        self.status.failed_checks = 0;
        self.status.limit_hits.clear();
        self.status.said = None;
        self.enter_phase(InstancePhase::Preparing);
        self.wait_until_sole_copy().await?;
        // This pin keeps garbage collection from its layers until the container runs; from then on the record protects
        // them.
        let _held = self.agent.layers.hold().map_err(|error| causes(&error))?;
        let agent = Arc::clone(&self.agent);
        let image = tokio::select! {
            image = images::fetch(&agent, &self.id.app, &self.record.spec.image) => image?,
            () = stop_wanted(&mut self.wanted) => return Err("the plan no longer names the instance".to_owned()),
        };
        gantry_failpoint::failpoint!("instance.fetched");
        let names = ContainerNames {
            app: self.id.app.clone(),
            short: self.id.short(),
            release: self.id.release.to_string(),
            role: self.id.role.to_string(),
        };
        // The previous container of this name must be removed completely before the new one starts.
        match self.find_container() {
            Some(old) => old.destroy().await.map_err(|error| error.to_string())?,
            None => kill_rest(&self.paths.cgroup).await.map_err(|error| error.to_string())?,
        }
        if self.is_on_old_network() {
            // The previous address stays reserved while this agent lives, because routers may still send requests
            // there.
            self.record.address = self.agent.addresses.allocate().ok_or(NO_ADDRESS)?;
            self.status.address = Some(self.record.address);
        }
        self.record.gateway = Some(self.agent.settings.gateway);
        let (agent, paths, spec, address) =
            (Arc::clone(&self.agent), self.paths.clone(), self.record.spec.clone(), self.record.address);
        let spec = tokio::task::spawn_blocking(move || {
            container::prepare_container(&agent, &paths, &names, &spec, &image, address)
        })
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
        gantry_failpoint::failpoint!("instance.prepared");
        let _ = std::fs::remove_file(&spec.exit);
        self.agent.disk.begin(&self.id);
        self.record.started = true;
        // The previous container may have ended with the machine, without an exit on record.
        self.record.ready = false;
        (self.record.begun, self.record.ready_since, self.record.stop) = (Some(now()), None, None);
        (self.status.started, self.killed_after) = (self.record.begun, None);
        self.paths
            .write_record(&self.record)
            .map_err(|error| format!("cannot write the instance's record: {error}"))?;
        gantry_failpoint::failpoint!("instance.marked");
        // Usage counts from the very start: the container may hit a limit before the first poll.
        self.used = Default::default();
        self.looked = Default::default();
        let container = launch(&spec).await.map_err(|error| error.to_string())?;
        gantry_failpoint::failpoint!("instance.launched");
        self.enter_phase(InstancePhase::Starting);
        Ok(container)
    }

    /// Waits until every other copy of the role has left this machine: a volume has one writer. The plan normally
    /// ensures that. A plan from a backup may not know every running copy.
    async fn wait_until_sole_copy(&mut self) -> Result<(), String> {
        let (settings, id) = (&self.agent.settings, &self.id);
        let is_other = |other: &InstanceId| (&other.app, &other.role) == (&id.app, &id.role) && other != id;
        while self.record.spec.role.stop_first() && records::instance_ids(settings).iter().any(is_other) {
            if tokio::time::timeout(SOLE_COPY_POLL, stop_wanted(&mut self.wanted)).await.is_ok() {
                return Err("the plan no longer names the instance".to_owned());
            }
        }
        Ok(())
    }
}
