//! Exchange of layers with the other machines of the cluster.
//!
//! ```text
//! image ─► obtain ─► want (control connection) ─► source of the server ─┬─► servers ───────────────┐
//!             ▲                                                         └─► router of a machine ───┤
//!             └──── source failed: named in the log, reported, the next source ◄───────────────────┤
//! unpack ◄── verified layer in DATA/shared-layers ◄────────────────────────────────────────────────┘
//!                        └─► this machine's router ─► agents of other machines
//! ```
//! - [`LayerExchange`]: the layers that this machine has and wants. The control connection takes reports from here, and
//!   brings the servers' orders.
//! - [`obtain`]: fetches one layer. `fetch`: a whole layer, from one source after the other. `parts`: a large layer in parts,
//!   from several sources at once.
//! - `peer`: a transfer from another machine. `cache`: the folder of verified layers. `receiver`: bytes on their way there.
//!
//! The servers choose the sources. A machine that hears nothing from the servers fetches from them directly, as does every
//! machine under servers of an earlier version.

mod cache;
mod fetch;
mod parts;
mod peer;
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use gantry_control::ProtocolVersion;
use gantry_control::layers::{LayerOrders, LayerSource, LayersReport, WantedLayer};
use gantry_control::version::SHARES_LAYERS;
use gantry_distribution::LayerSource as PartSource;
use gantry_model::{Digest, MachineName, TunnelAddress};
use gantry_supervision::{Backoff, Nudge, ReconcileLoop};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

use self::cache::LayerCache;
pub(crate) use self::cache::PartError;
pub(crate) use self::fetch::obtain;
use crate::AgentContext;

/// Name of the folder of verified layers in the data folder.
pub const SHARED_LAYERS: &str = "shared-layers";

/// Time for which a layer stays for other machines.
const RETENTION: Duration = Duration::from_secs(30 * 60);

/// Maximum number of bytes of all layers that stay for other machines, and of parts that stay for the next fetch.
const KEPT_MAX: u64 = 4 << 30;

/// Poll interval for expired layers.
const EXPIRY: Duration = Duration::from_secs(60);

/// Silence of the servers after which a machine fetches a layer from them directly.
const ORDER_TIMEOUT: Duration = Duration::from_secs(15);

/// Exchange of layers: the layers that this machine sends to others, and the layers that this machine fetches.
pub(crate) struct LayerExchange {
    /// Configuration of connections to other machines; none in a cloud of one machine.
    tls: Option<Arc<ClientConfig>>,
    cache: LayerCache,
    state: Mutex<ExchangeState>,
    changed: Nudge,
}

#[derive(Default)]
struct ExchangeState {
    /// False if the servers of the last connection choose no sources; none before the first connection.
    decides: Option<bool>,
    wants: BTreeMap<Digest, PendingLayer>,
    has: BTreeMap<Digest, KeptLayer>,
    /// Layers of which some parts may be on the disk, each with the time of its last fetch.
    in_parts: BTreeMap<Digest, Instant>,
    /// Locks of layers that are being fetched.
    locks: BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>,
}

struct PendingLayer {
    failed: BTreeSet<MachineName>,
    from: Option<LayerSource>,
    word: watch::Sender<ChosenSource>,
}

/// The servers' last word about a wanted layer.
#[derive(Clone)]
struct ChosenSource {
    at: Instant,
    source: Option<LayerSource>,
    /// Further sources, for a layer that arrives in parts.
    more: Vec<LayerSource>,
}

impl ChosenSource {
    fn now(source: Option<LayerSource>) -> Self {
        Self { at: Instant::now(), source, more: Vec::new() }
    }
}

struct KeptLayer {
    size: u64,
    since: Instant,
}

impl LayerExchange {
    /// Opens the exchange. The folder keeps the parts of layers that an earlier agent fetched.
    pub(crate) fn open(data: &Path, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let (cache, in_parts) = LayerCache::in_folder(data.join(SHARED_LAYERS))?;
        let now = Instant::now();
        let since = |age| now.checked_sub(age).unwrap_or(now);
        let in_parts = in_parts.into_iter().map(|(digest, age)| (digest, since(age))).collect();
        let state = Mutex::new(ExchangeState { in_parts, ..ExchangeState::default() });
        Ok(Self { tls, cache, state, changed: Nudge::default() })
    }

    fn state(&self) -> MutexGuard<'_, ExchangeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a connection to a server.
    pub(crate) fn connected(&self, version: ProtocolVersion) {
        let mut state = self.state();
        let decides = version >= SHARES_LAYERS;
        state.decides = Some(decides);
        if !decides {
            let words = state.wants.values().map(|want| &want.word);
            words.for_each(|word| drop(word.send_replace(ChosenSource::now(Some(LayerSource::Server)))));
        }
    }

    /// Reports whether the servers choose sources. Before the first connection of this agent they may: an agent that was
    /// restarted then goes on with the parts of its predecessor.
    pub(crate) fn is_shared(&self) -> bool {
        self.tls.is_some() && self.state().decides != Some(false)
    }

    /// Waits for news to report.
    pub(crate) async fn changed(&self) {
        self.changed.nudged().await;
    }

    /// The report of all layers.
    pub(crate) fn report(&self) -> LayersReport {
        let state = self.state();
        let want = |(digest, want): (&Digest, &PendingLayer)| {
            let (digest, failed, from) = (digest.clone(), want.failed.clone(), want.from.clone());
            WantedLayer { digest, failed, from }
        };
        LayersReport { has: state.has.keys().cloned().collect(), wants: state.wants.iter().map(want).collect() }
    }

    /// Takes the servers' orders.
    pub(crate) fn apply_orders(&self, orders: LayerOrders) {
        let state = self.state();
        for order in orders.sources {
            if let Some(want) = state.wants.get(&order.digest) {
                let word = ChosenSource { more: order.more, ..ChosenSource::now(order.source) };
                want.word.send_replace(word);
            }
        }
    }

    /// The lock of a layer: one task at a time fetches it.
    fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let locks = &mut self.state().locks;
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Enters a wanted layer, until the returned value is dropped.
    fn want(&self, digest: &Digest) -> WantedGuard<'_> {
        let word = watch::Sender::new(ChosenSource::now(None));
        let words = word.subscribe();
        let want = PendingLayer { failed: BTreeSet::new(), from: None, word };
        self.state().wants.insert(digest.clone(), want);
        self.changed.nudge();
        WantedGuard { exchange: self, digest: digest.clone(), words }
    }

    /// Takes note of a layer whose parts are on the disk.
    fn begin_parts(&self, digest: &Digest) {
        self.state().in_parts.insert(digest.clone(), Instant::now());
    }

    /// Notes that a layer in parts is complete.
    fn end_parts(&self, digest: &Digest) {
        self.state().in_parts.remove(digest);
    }

    /// Removes the parts of a layer.
    fn drop_parts(&self, digest: &Digest) {
        let mut state = self.state();
        if state.in_parts.remove(digest).is_some() {
            self.cache.remove_in_parts(digest);
        }
    }

    /// Enters a verified layer.
    fn keep(&self, digest: &Digest, size: u64) {
        self.state().has.insert(digest.clone(), KeptLayer { size, since: Instant::now() });
        self.changed.nudge();
    }

    /// Removes a layer whose file is damaged. The next fetch asks the sources again.
    pub(crate) fn discard(&self, digest: &Digest) {
        let mut state = self.state();
        if state.has.remove(digest).is_some() {
            self.cache.remove(digest);
            self.changed.nudge();
        }
    }

    /// Removes layers and parts of layers that have stayed long enough, and the oldest beyond [`KEPT_MAX`]. `is_full`
    /// removes all of them. The parts of a layer that is being fetched stay.
    ///
    /// Files are removed under the lock: a task that finds no layer may fetch the layer again, under the same name.
    fn expire(&self, is_full: bool) {
        let mut state = self.state();
        let ExchangeState { in_parts, wants, has, .. } = &mut *state;
        // A fetch enters its want before it opens the file, so no open file is removed.
        let parts = in_parts.iter().filter(|(digest, _)| !wants.contains_key(*digest));
        let parts = parts.map(|(digest, since)| (*since, digest.clone(), self.cache.size_in_parts(digest), true));
        let layers = has.iter().map(|(digest, kept)| (kept.since, digest.clone(), kept.size, false));
        let mut oldest: Vec<(Instant, Digest, u64, bool)> = parts.chain(layers).collect();
        oldest.sort();
        let mut total: u64 = oldest.iter().map(|(_, _, size, _)| size).sum();
        let mut is_changed = false;
        for (since, digest, size, is_in_parts) in oldest {
            if !is_full && total <= KEPT_MAX && since.elapsed() < RETENTION {
                break;
            }
            total -= size;
            if is_in_parts {
                in_parts.remove(&digest);
                self.cache.remove_in_parts(&digest);
            } else {
                has.remove(&digest);
                self.cache.remove(&digest);
                is_changed = true;
            }
        }
        if is_changed {
            self.changed.nudge();
        }
    }
}

/// Removes old layers, for ever.
pub(crate) async fn run(agent: &AgentContext) {
    let pass = || async {
        let free = gantry_linux::disk::free(agent.exchange.cache.folder());
        agent.exchange.expire(free < agent.policy.reserve());
        Ok::<(), Infallible>(())
    };
    ReconcileLoop::new("expiry of shared layers", EXPIRY, Backoff::constant(EXPIRY)).delayed().run(pass).await;
}

/// A wanted layer. Dropping it takes the want back.
struct WantedGuard<'a> {
    exchange: &'a LayerExchange,
    digest: Digest,
    words: watch::Receiver<ChosenSource>,
}

impl Drop for WantedGuard<'_> {
    fn drop(&mut self) {
        self.exchange.state().wants.remove(&self.digest);
        self.exchange.changed.nudge();
    }
}

impl WantedGuard<'_> {
    /// Waits for a source. Without a word of the servers for [`ORDER_TIMEOUT`], the servers are the source.
    async fn source(&mut self) -> LayerSource {
        loop {
            let word = self.words.borrow_and_update().clone();
            if let Some(source) = word.source.filter(|source| self.is_usable(source)) {
                self.set_source(Some(source.clone()));
                return source;
            }
            if !matches!(tokio::time::timeout_at(word.at + ORDER_TIMEOUT, self.words.changed()).await, Ok(Ok(()))) {
                self.set_source(Some(LayerSource::Server));
                return LayerSource::Server;
            }
        }
    }

    /// The sources that may send parts now, each with its addresses.
    fn sources(&mut self) -> BTreeMap<PartSource, Vec<TunnelAddress>> {
        let word = self.words.borrow_and_update().clone();
        let first = word.source.filter(|source| self.is_usable(source));
        if first.is_some() {
            self.set_source(first.clone());
        }
        let all = first.into_iter().chain(word.more.into_iter().filter(|source| self.is_usable(source)));
        let part_source = |source| match source {
            LayerSource::Server => Some((PartSource::Server, Vec::new())),
            LayerSource::Machine { machine, addresses } => Some((PartSource::Machine(machine), addresses)),
            LayerSource::Unknown => None,
        };
        all.filter_map(part_source).collect()
    }

    /// Waits until the sources may have changed. Without a transfer and without a word of the servers for
    /// [`ORDER_TIMEOUT`], the servers are the source.
    async fn sources_changed(&mut self, is_idle: bool) {
        let at = self.words.borrow().at;
        let changed = async {
            if self.words.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if !is_idle {
            return changed.await;
        }
        if tokio::time::timeout_at(at + ORDER_TIMEOUT, changed).await.is_err() {
            self.fall_back();
        }
    }

    /// Makes the servers the source.
    fn fall_back(&self) {
        if let Some(want) = self.exchange.state().wants.get(&self.digest) {
            want.word.send_replace(ChosenSource::now(Some(LayerSource::Server)));
        }
    }

    fn is_usable(&self, source: &LayerSource) -> bool {
        match source {
            LayerSource::Server => true,
            LayerSource::Machine { machine, .. } => {
                !self.exchange.state().wants.get(&self.digest).is_some_and(|want| want.failed.contains(machine))
            }
            LayerSource::Unknown => false,
        }
    }

    fn set_source(&self, source: Option<LayerSource>) {
        if let Some(want) = self.exchange.state().wants.get_mut(&self.digest) {
            want.from = source;
        }
    }

    /// Reports machines that failed as sources.
    fn fail(&self, machines: impl IntoIterator<Item = MachineName>) {
        if let Some(PendingLayer { failed, from, word }) = self.exchange.state().wants.get_mut(&self.digest) {
            failed.extend(machines);
            let has_failed = |source: &LayerSource| match source {
                LayerSource::Machine { machine, .. } => failed.contains(machine),
                LayerSource::Server | LayerSource::Unknown => false,
            };
            *from = from.take().filter(|source| !has_failed(source));
            // The other sources go on.
            word.send_modify(|word| {
                word.at = Instant::now();
                word.source = word.source.take().filter(|source| !has_failed(source));
                word.more.retain(|source| !has_failed(source));
            });
        }
        self.exchange.changed.nudge();
    }
}

#[cfg(test)]
mod tests;
