//! Builds as workloads: the agent builds images and makes base images for the server.
//!
//! ```text
//! server ── order (session) ─► slot, turn ─► builder ─► compile step (workload engine)
//!    ▲                                          │ layers, documents
//!    ├── events: steps, notes, lines, verdict ◄─┤
//!    └── blobs: POST, each verified by digest ◄─┘
//! ```
//! - [`run_build`], [`run_base`]: carry out an order, and send its events on the session. Begin there.
//! - `builder`: the steps of a build. `compile`: the compile step. `base`: mmdebstrap.
//! - [`run_pull`], `pull`: an image of another registry.
//! - `cache`: the apps' build caches and records of file times.
//! - `order_blobs`: the blobs at the server, as far as an order needs them.
//! - `slots`, `turns`: the number of concurrent builds, and one build per app. Making a base takes a build slot, too.
//!   Pulls have slots of their own: a pull waits for a registry, and a build must not wait for that registry.
//!
//! A build leaves nothing that another build needs, except the cache. When the session ends early, the agent kills the
//! build. The server then orders the build again or gives up.

mod base;
mod builder;
mod cache;
mod compile;
mod order_blobs;
mod pull;
mod session;
mod slots;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use gantry_api::Session;
use gantry_build::{BuildError, Output};
use gantry_control::builds::{BaseOrder, BuildEvent, BuildOrder, PullOrder};
use gantry_model::{BuildPhase, Digest};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use self::cache::{apply_order as apply_cache_order, collect as collect_caches, sweep as sweep_caches};
use self::order_blobs::OrderBlobs;
use self::slots::{BuildSlot, BuildSlots};
use self::turns::Turns;
use crate::AgentContext;
use crate::workload::{TransientWorkload, WorkloadKind};

/// Time of a build besides its compile step.
const OVERHEAD: Duration = Duration::from_secs(30 * 60);

/// Lines of output in a build error.
const TAIL: usize = 20;

/// Maximum number of concurrent pulls. Each pull fetches up to three blobs at once.
const PULLS_MAX: usize = 4;

/// State that the builds of this machine share.
pub(crate) struct Builds {
    slots: Arc<BuildSlots>,
    turns: Turns,
    pulls: Semaphore,
}

impl Builds {
    /// Creates slots for at most `most` builds at a time.
    pub(crate) fn new(most: u16) -> Self {
        let slots = Arc::new(BuildSlots::new(most));
        Self { slots, turns: Turns::default(), pulls: Semaphore::new(PULLS_MAX) }
    }

    /// Changes the number of builds at a time.
    pub(crate) fn resize(&self, most: u16) {
        self.slots.resize(most);
    }

    /// Waits for a free build slot. The output says so if there is none now.
    async fn build_slot(&self, output: &Output) -> Result<BuildSlot, BuildError> {
        let note =
            "Waiting until another build or base of this machine ends; the rule `builds` sets how many run at once";
        let taken = output.wait_for(note, Arc::clone(&self.slots).take());
        taken.await.ok_or_else(cancelled)
    }

    /// Waits for a free slot of a pull. The output says so if there is none now. Returns none if the pull is cancelled.
    async fn pull_slot(&self, output: &Output) -> Option<SemaphorePermit<'_>> {
        let taken = output.wait_for("Waiting until another pull of this machine ends", self.pulls.acquire());
        taken.await?.ok()
    }
}

/// Builds an image, and sends the events on the session. Ends early when the session ends.
pub(crate) async fn run_build(
    agent: Arc<AgentContext>,
    id: String,
    order: BuildOrder,
    reader: ReadHalf<Session>,
    writer: WriteHalf<Session>,
) {
    let build = |output: Arc<Output>| async move {
        let deadline = Duration::from_secs(order.limits.seconds).saturating_add(OVERHEAD);
        // An app has one build at a time, because its builds share a cache. The turn comes first, so that a build that
        // waits for its app takes no slot.
        let turn = agent.builds.turns.take(&order.app);
        let _turn = unless_cancelled(&output, turn).await?;
        let slot = agent.builds.build_slot(&output).await?;
        let blobs = OrderBlobs::new(&agent.client, &id);
        let name = format!("build-{}-{}-{:08x}", order.app, order.number.0, rand::random::<u32>());
        let workload = TransientWorkload::begin(&agent, WorkloadKind::Build, &name).map_err(builder::on_machine)?;
        let build = builder::Build { agent: &agent, blobs: &blobs, order: &order, workload: &workload, slot: &slot };
        let result = within(deadline, &output, build.run(&output)).await;
        workload.end().await;
        result
    };
    session::run_session(reader, writer, |output| async move { verdict(build(output).await) }).await;
}

/// Makes a base image, and sends the events on the session. Ends early when the session ends.
pub(crate) async fn run_base(
    agent: Arc<AgentContext>,
    id: String,
    order: BaseOrder,
    reader: ReadHalf<Session>,
    writer: WriteHalf<Session>,
) {
    let make = |output: Arc<Output>| async move {
        let _slot = agent.builds.build_slot(&output).await?;
        let blobs = OrderBlobs::new(&agent.client, &id);
        let name = format!("base-{:08x}", rand::random::<u32>());
        let workload = TransientWorkload::begin(&agent, WorkloadKind::Base, &name).map_err(builder::on_machine)?;
        let result = within(OVERHEAD, &output, base::make(&blobs, &order, &workload, &output)).await;
        workload.end().await;
        result
    };
    session::run_session(reader, writer, |output| async move { verdict(make(output).await) }).await;
}

/// Fetches an image from another registry, and sends the events on the session. Ends early when the session ends.
pub(crate) async fn run_pull(
    agent: Arc<AgentContext>,
    id: String,
    order: PullOrder,
    reader: ReadHalf<Session>,
    writer: WriteHalf<Session>,
) {
    let pull = |output: Arc<Output>| async move {
        let Some(_slot) = agent.builds.pull_slot(&output).await else { return pull::cancelled(&order) };
        pull::pull(&OrderBlobs::new(&agent.client, &id), &order, &output).await
    };
    session::run_session(reader, writer, pull).await;
}

/// The last event of a build.
fn verdict(result: Result<Digest, BuildError>) -> BuildEvent {
    match result {
        Ok(image) => BuildEvent::Done { image },
        Err(BuildError { phase, message, tail }) => BuildEvent::Failed { phase, message, tail },
    }
}

/// Runs a build, and cancels the build at its deadline. The build itself observes the cancellation, at points where it
/// leaves nothing behind that the workload's end does not remove.
async fn within(
    deadline: Duration,
    output: &Arc<Output>,
    build: impl Future<Output = Result<Digest, BuildError>>,
) -> Result<Digest, BuildError> {
    let mut build = std::pin::pin!(build);
    if let Ok(result) = tokio::time::timeout(deadline, &mut build).await {
        return result;
    }
    output.cancel();
    let _ = build.await;
    let message = format!("the build did not end in {} s and was stopped", deadline.as_secs());
    Err(BuildError::new(BuildPhase::Machine, message))
}

/// Runs `work` unless the build is cancelled first.
async fn unless_cancelled<T>(output: &Output, work: impl Future<Output = T>) -> Result<T, BuildError> {
    tokio::select! {
        result = work => Ok(result),
        () = output.cancelled() => Err(cancelled()),
    }
}

fn cancelled() -> BuildError {
    BuildError::new(BuildPhase::Compile, "the build was cancelled")
}

#[cfg(test)]
mod tests {
    use gantry_build::OutputEvent;

    use super::*;

    #[tokio::test]
    async fn a_pull_beyond_the_limit_waits_and_says_so() {
        let builds = Builds::new(1);
        let (output, mut events) = Output::forwarded();
        let mut running = Vec::new();
        for _ in 0..PULLS_MAX {
            running.push(builds.pull_slot(&output).await.expect("a free slot"));
        }
        assert!(events.try_recv().is_err());
        let mut waiting = Box::pin(builds.pull_slot(&output));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let note = OutputEvent::Note("Waiting until another pull of this machine ends".to_owned());
        assert_eq!(events.try_recv(), Ok(note));
        builds.build_slot(&output).await.expect("pulls take no build slot");
        drop(running.pop());
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn a_build_beyond_the_limit_waits_and_names_the_rule() {
        let builds = Builds::new(1);
        let (output, mut events) = Output::forwarded();
        let running = builds.build_slot(&output).await.expect("a free slot");
        let mut waiting = Box::pin(builds.build_slot(&output));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let Ok(OutputEvent::Note(note)) = events.try_recv() else { panic!("a note") };
        assert!(note.contains("another build or base") && note.contains("rule `builds`"), "{note}");
        drop(running);
        waiting.await.expect("a slot");
    }

    #[tokio::test]
    async fn a_cancelled_pull_leaves_the_queue() {
        let builds = Builds::new(1);
        let (output, _events) = Output::forwarded();
        let _all = builds.pulls.acquire_many(PULLS_MAX as u32).await.expect("open");
        output.cancel();
        assert!(builds.pull_slot(&output).await.is_none());
    }
}
