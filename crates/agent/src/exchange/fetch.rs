//! Fetches a whole layer from one source after the other, until it is verified.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;
use gantry_control::layers::LayerSource;
use gantry_error::ErrorChain;
use gantry_image::{Descriptor, LayersError};
use gantry_model::{MachineName, TunnelAddress};
use tokio_rustls::rustls::ClientConfig;

use super::cache::{LayerPart, PartError};
use super::peer::{PeerConnection, PeerError};
use super::{WantedGuard, parts};
use crate::AgentContext;
use crate::images::{FetchCause, until_reachable};

/// Broken transfers of the servers in a row, without a byte, after which the fetch fails.
const SERVER_TRIES: u32 = 3;

/// Fetches a layer into the folder of shared layers, and opens it. `path` is the layer's path at the servers. Returns none
/// if the layer has to be streamed from the servers: in a cloud of one machine, under servers of an earlier version, and
/// without room on the disk for a second copy.
pub(crate) async fn obtain(
    agent: &AgentContext,
    path: &str,
    descriptor: &Descriptor,
) -> Result<Option<tokio::fs::File>, FetchCause> {
    let exchange = &agent.exchange;
    let Some(tls) = exchange.tls.as_ref().filter(|_| exchange.is_shared()) else { return Ok(None) };
    let lock = exchange.lock_of(&descriptor.digest);
    let _fetching = lock.lock().await;
    if exchange.state().has.contains_key(&descriptor.digest)
        && let Ok(file) = exchange.cache.open(&descriptor.digest).await
    {
        return Ok(Some(file));
    }
    let free = gantry_linux::disk::free(exchange.cache.folder()).saturating_sub(agent.policy.reserve());
    if !has_room(free, exchange.cache.size_in_parts(&descriptor.digest), descriptor.size) {
        exchange.drop_parts(&descriptor.digest);
        return Ok(None);
    }
    let mut want = exchange.want(&descriptor.digest);
    match parts::list(agent, path, descriptor).await {
        Some(list) => parts::fetch(agent, tls, path, descriptor, list, &mut want).await?,
        None => {
            // The layer arrives in another file.
            if !has_room(free, 0, descriptor.size) {
                exchange.drop_parts(&descriptor.digest);
            }
            let part = exchange.cache.begin(&descriptor.digest, descriptor.size, &agent.unpacked).await?;
            let mut fetch = LayerFetch { agent, path, part, from_servers: 0, sources: BTreeSet::new() };
            fetch.run(&mut want).await?;
            exchange.drop_parts(&descriptor.digest);
        }
    }
    // Opened before the layer may expire: a file that is removed later can still be read.
    let file = exchange.cache.open(&descriptor.digest).await?;
    // The layer is reported as this machine's before the want ends. In between, the servers would know of no machine that
    // has the layer or is about to have it, and would send a further copy.
    exchange.keep(&descriptor.digest, descriptor.size);
    drop(want);
    exchange.expire(false);
    Ok(Some(file))
}

/// Returns whether the disk has room for a layer and its unpacked copy. Parts of the layer occupy some bytes already.
fn has_room(free: u64, in_parts: u64, size: u64) -> bool {
    free.saturating_add(in_parts.min(size)) >= size.saturating_mul(2)
}

/// The fetch of one layer.
struct LayerFetch<'a> {
    agent: &'a AgentContext,
    path: &'a str,
    part: LayerPart,
    /// Bytes received from the servers, dropped bytes included.
    from_servers: u64,
    /// The machines that bytes of the part came from.
    sources: BTreeSet<MachineName>,
}

impl LayerFetch<'_> {
    async fn run(&mut self, want: &mut WantedGuard<'_>) -> Result<(), FetchCause> {
        loop {
            match want.source().await {
                LayerSource::Machine { machine, addresses } => {
                    let Some(tls) = &self.agent.exchange.tls else { continue };
                    let before = self.part.received();
                    let fetched = self.fetch_from_machine(tls, &machine, &addresses).await;
                    if self.part.received() > before {
                        self.sources.insert(machine.clone());
                    }
                    if let Err(error) = fetched {
                        self.next_source(want, machine, error)?;
                        continue;
                    }
                }
                LayerSource::Server | LayerSource::Unknown => self.fetch_from_servers().await?,
            }
            if self.verify(want).await? {
                return Ok(());
            }
        }
    }

    async fn fetch_from_machine(
        &mut self,
        tls: &Arc<ClientConfig>,
        machine: &MachineName,
        addresses: &[TunnelAddress],
    ) -> Result<(), PeerError> {
        PeerConnection::open(tls, machine, addresses).await?.fetch(self.part.bytes()).await
    }

    /// Verifies the complete layer. Returns false if a machine sent wrong bytes: the fetch begins again.
    async fn verify(&mut self, want: &WantedGuard<'_>) -> Result<bool, FetchCause> {
        let digest = self.part.digest().clone();
        let machines: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        match self.part.keep().await {
            Ok(()) => {
                let (layer, bytes) = (digest.short(), self.part.received());
                let from_servers = self.from_servers;
                tracing::info!(layer, bytes, from_servers, machines = machines.join(","), "layer fetched");
                Ok(true)
            }
            Err(PartError::WrongDigest { found }) if self.sources.is_empty() => {
                Err(LayersError::WrongDigest { expected: digest, found }.into())
            }
            Err(PartError::WrongDigest { found }) => {
                let (layer, machines) = (digest.short(), machines.join(","));
                tracing::warn!(layer, machines, %found, "a machine sent wrong bytes of a layer; trying the next source");
                self.part.restart().await?;
                want.fail(std::mem::take(&mut self.sources));
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes note of a failed machine. A fault of this machine's disk is not the source's.
    fn next_source(&self, want: &WantedGuard<'_>, machine: MachineName, error: PeerError) -> Result<(), FetchCause> {
        if let PeerError::Part(error @ PartError::Disk(_)) = error {
            return Err(error.into());
        }
        let layer = self.part.digest().short();
        tracing::warn!(layer, %machine, error = %ErrorChain(&error), "cannot fetch a layer from a machine; trying the next source");
        want.fail([machine]);
        Ok(())
    }

    /// Fetches the rest from the servers. A transfer that breaks off goes on where it stopped. The client ends a transfer
    /// that falls silent.
    async fn fetch_from_servers(&mut self) -> Result<(), FetchCause> {
        let mut tries = 0;
        while !self.part.is_whole() {
            let before = self.part.received();
            let client = &self.agent.client;
            let mut pieces = until_reachable(|| client.stream_from(self.path, before)).await?;
            let mut broken = None;
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => self.part.write(&piece).await?,
                    Err(error) => broken = Some(error),
                }
            }
            self.from_servers += self.part.received() - before;
            if self.part.received() > before {
                tries = 0;
                continue;
            }
            tries += 1;
            if tries >= SERVER_TRIES {
                let short = self.part.check_length().err().map(FetchCause::from);
                return broken.map(FetchCause::Broken).or(short).map_or(Ok(()), Err);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_on_the_disk_need_no_further_room() {
        for (free, in_parts, expected) in
            [(200, 0, true), (199, 0, false), (110, 90, true), (109, 90, false), (100, 104, true), (99, 104, false)]
        {
            assert_eq!(has_room(free, in_parts, 100), expected, "{free} bytes free, {in_parts} in parts");
        }
        assert!(!has_room(u64::MAX - 1, 0, u64::MAX));
    }
}
