//! The start of a container, from its image.

use std::sync::Arc;
use std::time::Duration;

use gantry_model::{Goal, InstanceId, Phase};
use gantry_sandbox::{Container, end_rest, launch};

use super::{Instance, NO_ADDRESS, told_to_stop};
use crate::container::{self, Names};
use crate::status::now;
use crate::{images, records};

/// Poll interval while another copy still exists.
const ALONE: Duration = Duration::from_millis(100);

/// An error with its chain of causes; the actual reason is often the last one.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Instance {
    /// Starts the container, with one retry. A passing failure, such as a link that the kernel is still removing, then
    /// fails no deploy.
    pub(super) async fn start_or_again(&mut self) -> Result<Container, String> {
        match self.start().await {
            Err(message) if self.goal() != Goal::Stop => {
                tracing::warn!(instance = %self.id, message, "not started; once more");
                self.start().await.map_err(|message| self.with_disk(message))
            }
            result => result,
        }
    }

    /// Adds the state of the disk to a start failure, if the disk is read-only.
    fn with_disk(&self, message: String) -> String {
        let data = &self.agent.settings.data;
        if !gantry_linux::disk::is_read_only(data) {
            return message;
        }
        let data = data.display();
        format!("the disk of {data} is read-only ({message}); it starts by itself once the disk can be written to")
    }

    async fn start(&mut self) -> Result<Container, String> {
        self.status.probe = None;
        self.status.failure = None;
        self.status.warning = None;
        self.status.failed_checks = 0;
        self.status.limit_hits.clear();
        self.status.said = None;
        self.enter(Phase::Preparing);
        self.alone().await?;
        // This pin keeps garbage collection from its layers until the container runs; from then on the record protects
        // them.
        let _held = self.agent.layers.hold().map_err(|error| causes(&error))?;
        let agent = Arc::clone(&self.agent);
        let image = tokio::select! {
            image = images::fetch(&agent, &self.id.app, &self.record.spec.image) => image?,
            () = told_to_stop(&mut self.wanted) => return Err("it is not wanted any more".to_owned()),
        };
        gantry_linux::step!("instance.fetched");
        let names = Names {
            app: self.id.app.clone(),
            short: self.id.short(),
            release: self.id.release.to_string(),
            role: self.id.role.to_string(),
        };
        // The previous container of this name must be removed completely before the new one starts.
        match self.adopt() {
            Some(old) => old.destroy().await.map_err(|error| error.to_string())?,
            None => end_rest(&self.places.cgroup).await.map_err(|error| error.to_string())?,
        }
        if self.is_elsewhere() {
            // The previous address stays reserved while this agent lives, because routers may still send requests
            // there.
            self.record.address = self.agent.addresses.give().ok_or(NO_ADDRESS)?;
            self.status.address = Some(self.record.address);
        }
        self.record.gateway = Some(self.agent.settings.gateway);
        let (agent, places, spec, address) =
            (Arc::clone(&self.agent), self.places.clone(), self.record.spec.clone(), self.record.address);
        let spec =
            tokio::task::spawn_blocking(move || container::prepare(&agent, &places, &names, &spec, &image, address))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
        gantry_linux::step!("instance.prepared");
        let _ = std::fs::remove_file(&spec.exit);
        self.agent.disk.begin(&self.id);
        self.record.started = true;
        // The previous container may have ended with the machine, without an exit on record.
        self.record.ready = false;
        (self.record.begun, self.record.ready_since, self.record.stop) = (Some(now()), None, None);
        (self.status.started, self.killed_after) = (self.record.begun, None);
        self.places.write(&self.record).map_err(|error| format!("its record cannot be written: {error}"))?;
        gantry_linux::step!("instance.marked");
        // Usage counts from the very start: the container may hit a limit before the first poll.
        self.used = Default::default();
        self.looked = Default::default();
        let container = launch(&spec).await.map_err(|error| error.to_string())?;
        gantry_linux::step!("instance.launched");
        self.enter(Phase::Starting);
        Ok(container)
    }

    /// Waits until every other copy of the role has left this machine: a volume has one writer. The plan normally
    /// ensures that. A plan from a backup may not know every running copy.
    async fn alone(&mut self) -> Result<(), String> {
        let (settings, id) = (&self.agent.settings, &self.id);
        let is_other = |other: &InstanceId| (&other.app, &other.role) == (&id.app, &id.role) && other != id;
        while self.record.spec.role.stop_first() && records::all(settings).iter().any(is_other) {
            if tokio::time::timeout(ALONE, told_to_stop(&mut self.wanted)).await.is_ok() {
                return Err("it is not wanted any more".to_owned());
            }
        }
        Ok(())
    }
}
