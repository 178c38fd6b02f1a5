//! The start of a container, from its image.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_model::{AllocationId, InstanceGoal, InstancePhase};
use gantry_sandbox::{Container, ContainerSpec};

use super::{Instance, InstanceError, stop_requested};
use crate::container::{self, ContainerNames};
use crate::images::LocalImage;
use crate::status::now;
use crate::workload::StartAttempts;
use crate::{images, records, volumes};

/// Poll interval while another copy still exists, or a lease is missing.
const SOLE_COPY_POLL: Duration = Duration::from_millis(100);

/// Interval between two reports while the image is being unpacked.
const UNPACK_REPORT: Duration = Duration::from_secs(2);

impl Instance {
    /// Starts the container; tries again after a failure, unless the instance is to stop.
    pub(super) async fn start_with_retry(&mut self) -> Result<Container, InstanceError> {
        let (mut attempts, name) = (StartAttempts::default(), self.id.to_string());
        loop {
            match self.start().await {
                Ok(container) => return Ok(container),
                Err(error) if self.goal() != InstanceGoal::Stop && attempts.is_another_due(&name, &error) => {}
                Err(error) => return Err(self.explain_disk(error)),
            }
        }
    }

    /// Adds the state of the disk to a start failure, if the disk is read-only.
    fn explain_disk(&self, error: InstanceError) -> InstanceError {
        let data = &self.agent.settings.data;
        if !gantry_linux::disk::is_read_only(data) {
            return error;
        }
        InstanceError::ReadOnly { data: data.clone(), source: Box::new(error) }
    }

    async fn start(&mut self) -> Result<Container, InstanceError> {
        self.status.probe = None;
        self.status.failure = None;
        self.status.warning = None;
        self.status.failed_checks = 0;
        self.status.limit_hits.clear();
        self.status.last_output = None;
        self.status.unpacked = 0;
        self.enter_phase(InstancePhase::Preparing);
        self.wait_until_sole_copy().await?;
        self.wait_for_lease().await?;
        // This pin keeps garbage collection from its layers until the container runs; from then on the record protects
        // them.
        let _pin = self.agent.layers.pin()?;
        let image = self.fetch_image().await?;
        gantry_failpoint::failpoint!("instance.fetched");
        let names = ContainerNames {
            app: self.id.slot.app.clone(),
            short: self.id.slot.short(),
            release: self.id.slot.release.to_string(),
            role: self.id.slot.role.to_string(),
        };
        // The previous container of this name must be removed completely before the new one starts.
        self.workload.clear().await.map_err(InstanceError::Previous)?;
        if self.is_on_old_network() {
            // The previous address stays reserved while this agent lives, because routers may still send requests
            // there.
            self.record.address = self.agent.allocate_address().ok_or(InstanceError::NoAddress)?;
            self.agent.addresses.own(self.record.address, &self.id.slot.app);
            self.status.address = Some(self.record.address);
        }
        self.record.gateway = Some(self.agent.settings.gateway);
        let (agent, workload, spec, address) =
            (Arc::clone(&self.agent), self.workload.clone(), self.record.spec.clone(), self.record.address);
        let spec = tokio::task::spawn_blocking(move || {
            let parts = container::container_parts(&agent, &workload.paths().name(), &names, &spec, &image)?;
            workload.prepare(&agent, parts, address)
        })
        .await?
        .map_err(InstanceError::Prepare)?;
        gantry_failpoint::failpoint!("instance.prepared");
        let _ = std::fs::remove_file(&spec.exit);
        let spec = ContainerSpec { fenced: self.record.spec.role.single, ..spec };
        if spec.fenced {
            self.agent.fence.open(&spec.exit).map_err(InstanceError::Prepare)?;
        }
        self.agent.disk.begin(&self.id);
        self.record.started = true;
        // The previous container may have ended with the machine, without an exit on record.
        self.record.ready = false;
        (self.record.begun, self.record.ready_since, self.record.stop) = (Some(now()), None, None);
        (self.status.started, self.killed_after) = (self.record.begun, None);
        self.workload.paths().write_record(&self.record).map_err(InstanceError::Record)?;
        gantry_failpoint::failpoint!("instance.marked");
        // Usage counts from the very start: the container may hit a limit before the first poll.
        self.used = Default::default();
        self.looked = Default::default();
        let container = self.workload.launch(&spec).await.map_err(InstanceError::Launch)?;
        gantry_failpoint::failpoint!("instance.launched");
        self.enter_phase(InstancePhase::Starting);
        Ok(container)
    }

    /// Fetches the image, and reports the progress meanwhile: the deadline of the deploy depends on the progress.
    async fn fetch_image(&mut self) -> Result<LocalImage, InstanceError> {
        let (agent, app, image) = (Arc::clone(&self.agent), self.id.slot.app.clone(), self.record.spec.image.clone());
        let unpacked = || agent.unpacked.load(Ordering::Relaxed);
        let before = unpacked();
        let mut fetching = pin!(images::fetch(&agent, &app, &image));
        loop {
            tokio::select! {
                image = &mut fetching => return Ok(image?),
                () = stop_requested(&mut self.desired) => return Err(InstanceError::Unwanted),
                () = tokio::time::sleep(UNPACK_REPORT) => {
                    self.status.unpacked = unpacked().saturating_sub(before);
                    self.enter_phase(InstancePhase::Preparing);
                }
            }
        }
    }

    /// Waits until this machine has a lease for a copy of a role with `single: true`. Without a server, no such copy
    /// starts: another machine may run one.
    async fn wait_for_lease(&mut self) -> Result<(), InstanceError> {
        if !self.record.spec.role.single {
            return Ok(());
        }
        let agent = Arc::clone(&self.agent);
        agent.fence.enter(&self.id, self.workload.paths().exit());
        while !agent.fence.allows(agent.status.generation()) {
            if self.status.failure.is_none() {
                self.status.failure =
                    Some("waits for a lease: a single copy starts only while its machine reaches a server".to_owned());
                self.enter_phase(InstancePhase::Preparing);
            }
            if tokio::time::timeout(SOLE_COPY_POLL, stop_requested(&mut self.desired)).await.is_ok() {
                return Err(InstanceError::Unwanted);
            }
        }
        self.status.failure = None;
        // The plan that came with the lease may no longer want this copy.
        if self.goal() == InstanceGoal::Stop { Err(InstanceError::Unwanted) } else { Ok(()) }
    }

    /// Waits until every other copy of the role has left this machine, and every one-off that has its volumes for
    /// itself: a volume has one writer. The plan normally ensures that of copies. A plan from a backup may not know every
    /// running copy.
    async fn wait_until_sole_copy(&mut self) -> Result<(), InstanceError> {
        while self.record.spec.role.stop_first() {
            let (settings, id) = (&self.agent.settings, &self.id);
            let is_other = |other: &AllocationId| {
                (&other.slot.app, &other.slot.role) == (&id.slot.app, &id.slot.role) && other != id
            };
            if !records::instance_ids(settings).iter().any(is_other) {
                let mut names = self.record.spec.role.volumes.keys();
                let folder = self.record.spec.volume_folder(&id.slot.app);
                let taken = |name: &String| Some(volumes::waits(name, &volumes::taken_alone(settings, folder, name)?));
                let Some(why) = names.find_map(taken) else { break };
                if self.status.failure.as_ref() != Some(&why) {
                    self.status.failure = Some(why);
                    self.enter_phase(InstancePhase::Preparing);
                }
            }
            if tokio::time::timeout(SOLE_COPY_POLL, stop_requested(&mut self.desired)).await.is_ok() {
                return Err(InstanceError::Unwanted);
            }
        }
        self.status.failure = None;
        Ok(())
    }
}
