//! From an image to a running container.

use std::sync::Arc;
use std::time::Duration;

use gantry_model::{Goal, InstanceId, Phase};
use gantry_sandbox::{Container, end_rest, launch};

use super::{Instance, NO_ADDRESS, told_to_stop};
use crate::container::{self, Names};
use crate::status::now;
use crate::{images, records};

/// Between two looks at whether another copy is gone.
const ALONE: Duration = Duration::from_millis(100);

/// An error with everything behind it: the reason is often the last.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Instance {
    /// What fails for a moment, such as a link that the kernel is just taking away, fails no deploy.
    pub(super) async fn start_or_again(&mut self) -> Result<Container, String> {
        match self.start().await {
            Err(message) if self.goal() != Goal::Stop => {
                tracing::warn!(instance = %self.id, message, "not started; once more");
                self.start().await.map_err(|message| self.with_disk(message))
            }
            result => result,
        }
    }

    /// Names the state of the disk, if that is what keeps an instance from starting.
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
        // Until it runs, its layers are not collected; from then on its record speaks for them.
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
        // What ran before under this name is gone for good, or this one does not begin.
        match self.adopt() {
            Some(old) => old.destroy().await.map_err(|error| error.to_string())?,
            None => end_rest(&self.places.cgroup).await.map_err(|error| error.to_string())?,
        }
        if self.is_elsewhere() {
            // The one it had stays taken while this agent lives: routers may look for it there still.
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
        // The one before may have gone with the machine, which noted nothing.
        self.record.ready = false;
        (self.record.begun, self.record.ready_since, self.record.stop) = (Some(now()), None, None);
        (self.status.started, self.killed_after) = (self.record.begun, None);
        self.places.write(&self.record).map_err(|error| format!("its record cannot be written: {error}"))?;
        gantry_linux::step!("instance.marked");
        // Counted from its first moment: it may run into a limit before anybody looks.
        self.used = Default::default();
        self.looked = Default::default();
        let container = launch(&spec).await.map_err(|error| error.to_string())?;
        gantry_linux::step!("instance.launched");
        self.enter(Phase::Starting);
        Ok(container)
    }

    /// A volume has one writer: until every other copy of the role is gone from this machine, this one waits. The plan sees to
    /// that; one out of a backup does not know of all that runs.
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
