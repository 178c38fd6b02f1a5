//! Fetches a large layer in parts, from several sources at once.
//!
//! ```text
//! list of parts (servers) ─► parts on the disk, verified ─► plan ─┬─► source: part, verify, next part … ─┐
//!                                                             ▲    └─► source: part, verify, next part … ─┤
//!                                                             └───── source failed: reported, dropped ◄───┤
//! layer, verified as a whole ◄─────────────────────────────────────────────────── plan complete ◄─────────┘
//! ```
//! The crate `distribution` decides which source sends which part, and `servers` when the servers are tried again. Verified
//! parts stay on the disk when the fetch or the agent ends; the next fetch verifies them again and goes on. Servers of
//! earlier versions list no parts.

mod partial;
mod servers;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gantry_control::layers::LayerParts;
use gantry_distribution::{LayerSource, PartPlan};
use gantry_error::ErrorChain;
use gantry_image::{Descriptor, LayersError};
use gantry_model::{MachineName, TunnelAddress};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

use self::partial::PartialLayer;
use self::servers::ServerSource;
use super::WantedGuard;
use super::cache::PartError;
use super::peer::{PeerConnection, PeerError};
use crate::AgentContext;
use crate::images::FetchCause;

/// Size from which a layer is fetched in parts.
const LARGE: u64 = 2 * gantry_blobs::PART_SIZE;

/// Sizes of parts that a server may choose.
const PART_SIZES: std::ops::RangeInclusive<u64> = (64 << 10)..=(64 << 20);

/// Asks the servers for the parts of a layer. Returns none for a small layer, and if the servers list no parts: the layer
/// is then fetched as a whole.
pub(super) async fn list(agent: &AgentContext, path: &str, descriptor: &Descriptor) -> Option<LayerParts> {
    if descriptor.size < LARGE {
        return None;
    }
    let layer = descriptor.digest.short();
    match agent.client.bytes(&format!("{path}/parts"), "application/json").await {
        Ok(text) if text.is_empty() => {
            tracing::info!(layer, "the servers still make the list of a layer's parts; fetching it as a whole");
            None
        }
        Ok(text) => {
            let list = serde_json::from_slice(&text).ok().filter(|list| is_complete(list, descriptor));
            if list.is_none() {
                tracing::warn!(layer, "the servers sent an unusable list of a layer's parts; fetching it as a whole");
            }
            list
        }
        Err(error) => {
            tracing::info!(layer, error = %ErrorChain(&error), "no list of a layer's parts; fetching it as a whole");
            None
        }
    }
}

/// Returns whether a list covers a layer.
fn is_complete(list: &LayerParts, descriptor: &Descriptor) -> bool {
    PART_SIZES.contains(&list.part_size)
        && list.size == descriptor.size
        && list.digests.len() as u64 == list.size.div_ceil(list.part_size)
}

/// Fetches a layer into the folder of shared layers.
pub(super) async fn fetch(
    agent: &AgentContext,
    tls: &Arc<ClientConfig>,
    path: &str,
    descriptor: &Descriptor,
    list: LayerParts,
    want: &mut WantedGuard<'_>,
) -> Result<(), FetchCause> {
    let exchange = &agent.exchange;
    exchange.begin_parts(&descriptor.digest);
    let counter = Arc::clone(&agent.unpacked);
    let (layer, verified) = PartialLayer::open(&exchange.cache, &descriptor.digest, list, counter).await?;
    let resumed = layer.length_of(&verified);
    let plan = Mutex::new(PartPlan::new(layer.count(), &verified));
    let (from_servers, servers) = (AtomicU64::new(0), Mutex::new(ServerSource::new(&descriptor.digest)));
    let fetch = PartsFetch { agent, tls, path, layer, plan, from_servers, servers, machines: Mutex::default() };
    fetch.run(want).await?;
    fetch.keep(resumed).await?;
    exchange.end_parts(&descriptor.digest);
    Ok(())
}

/// The fetch of one layer.
struct PartsFetch<'a> {
    agent: &'a AgentContext,
    tls: &'a Arc<ClientConfig>,
    path: &'a str,
    layer: PartialLayer,
    plan: Mutex<PartPlan>,
    /// Bytes received from the servers, dropped bytes included.
    from_servers: AtomicU64,
    servers: Mutex<ServerSource>,
    /// The machines that verified parts came from.
    machines: Mutex<BTreeSet<MachineName>>,
}

/// Waits until a time, for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Fault of a source.
#[derive(Debug)]
enum SourceFault {
    Machine(MachineName, PeerError),
    Server(FetchCause),
}

impl PartsFetch<'_> {
    fn plan(&self) -> MutexGuard<'_, PartPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, ServerSource> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self) -> MutexGuard<'_, BTreeSet<MachineName>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the sources send, until all parts are there.
    async fn run(&self, want: &mut WantedGuard<'_>) -> Result<(), FetchCause> {
        let mut sending = FuturesUnordered::new();
        loop {
            let sources = want.sources();
            self.plan().offer(sources.keys().cloned());
            let started = self.plan().start();
            for source in started {
                let addresses = sources.get(&source).cloned().unwrap_or_default();
                sending.push(self.send(source, addresses));
            }
            if self.plan().is_complete() {
                return Ok(());
            }
            if !self.plan().has_source()
                && let Some(cause) = self.servers().take_error()
            {
                return Err(cause);
            }
            let paused = self.servers().paused_until();
            let is_idle = sending.is_empty() && paused.is_none();
            tokio::select! {
                Some(ended) = sending.next() => self.ended(want, ended)?,
                () = until(paused) => {
                    self.servers().resume();
                    self.plan().allow(&LayerSource::Server);
                }
                () = want.sources_changed(is_idle) => {}
            }
        }
    }

    /// Lets a source send one part after the other, until the plan has none for it.
    async fn send(&self, source: LayerSource, addresses: Vec<TunnelAddress>) -> Result<(), SourceFault> {
        match source {
            LayerSource::Server => self.send_from_servers().await.map_err(SourceFault::Server),
            LayerSource::Machine(machine) => {
                let sent = self.send_from_machine(&machine, &addresses).await;
                sent.map_err(|error| SourceFault::Machine(machine, error))
            }
        }
    }

    async fn send_from_machine(&self, machine: &MachineName, addresses: &[TunnelAddress]) -> Result<(), PeerError> {
        let source = LayerSource::Machine(machine.clone());
        let mut connection = PeerConnection::open(self.tls, machine, addresses).await?;
        while let Some(part) = self.next(&source) {
            let begun = Instant::now();
            let mut receiver = self.layer.begin(part).await?;
            connection.fetch(&mut receiver).await?;
            self.layer.verify(part, &mut receiver).await?;
            self.machines().insert(machine.clone());
            self.plan().verified(&source, begun.elapsed());
        }
        Ok(())
    }

    async fn send_from_servers(&self) -> Result<(), FetchCause> {
        while let Some(part) = self.next(&LayerSource::Server) {
            let begun = Instant::now();
            let mut receiver = self.layer.begin(part).await?;
            let ask = |range| self.agent.client.stream_range(self.path, range);
            let received = servers::receive(&mut receiver, ask).await;
            self.from_servers.fetch_add(receiver.received(), Ordering::Relaxed);
            received?;
            self.layer.verify(part, &mut receiver).await?;
            self.servers().succeeded();
            self.plan().verified(&LayerSource::Server, begun.elapsed());
        }
        Ok(())
    }

    fn next(&self, source: &LayerSource) -> Option<usize> {
        self.plan().next(source)
    }

    /// Takes note of a source that has ended. A fault of this machine's disk is not the source's.
    fn ended(&self, want: &WantedGuard<'_>, ended: Result<(), SourceFault>) -> Result<(), FetchCause> {
        match ended {
            Ok(()) => Ok(()),
            Err(SourceFault::Machine(_, PeerError::Part(error @ PartError::Disk(_)))) => Err(error.into()),
            Err(SourceFault::Machine(machine, error)) => {
                self.plan().failed(&LayerSource::Machine(machine.clone()));
                self.warn(&machine, &error);
                want.fail([machine]);
                Ok(())
            }
            Err(SourceFault::Server(cause @ FetchCause::Part(PartError::Disk(_)))) => Err(cause),
            Err(SourceFault::Server(cause)) => {
                self.plan().failed(&LayerSource::Server);
                self.servers().failed(cause);
                Ok(())
            }
        }
    }

    fn warn(&self, machine: &MachineName, error: &PeerError) {
        let is_wrong = matches!(error, PeerError::Part(PartError::WrongPart { .. }));
        let (layer, error) = (self.layer.digest().short(), ErrorChain(error));
        if is_wrong {
            tracing::warn!(layer, machines = %machine, %error, "a machine sent wrong bytes of a layer; trying the next source");
        } else {
            tracing::warn!(layer, %machine, %error, "cannot fetch a layer from a machine; trying the next source");
        }
    }

    /// Verifies the layer as a whole, and gives it its name.
    async fn keep(&self, resumed: u64) -> Result<(), FetchCause> {
        match self.layer.keep(&self.agent.exchange.cache).await {
            Ok(()) => {}
            Err(PartError::WrongDigest { found }) => {
                let expected = self.layer.digest().clone();
                return Err(LayersError::WrongDigest { expected, found }.into());
            }
            Err(error) => return Err(error.into()),
        }
        let machines: Vec<String> = self.machines().iter().map(ToString::to_string).collect();
        let (layer, bytes, parts) = (self.layer.digest().short(), self.layer.size(), self.layer.count());
        let (from_servers, machines) = (self.from_servers.load(Ordering::Relaxed), machines.join(","));
        tracing::info!(layer, bytes, from_servers, machines, parts, resumed, "layer fetched");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
