//! Synchronization with the server: fetches tables and sends reports. If the server is away or silent, routing goes on
//! unchanged.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gantry_api::Client;
use gantry_api::types::{RouterReport, TableAnswer};
use gantry_model::clock::{ClockReading, SteadyClock};
use gantry_model::{AppName, FailureRun, Moment, RequestFailure};
use tokio::time::Instant;

use crate::Router;

/// Pause before the next request to a server that does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Interval of reports while nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Poll interval for requests under way: the server sees the end of a drain at most this much late.
const COUNT: Duration = Duration::from_millis(250);

/// Longest time that the last report may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Follows the table, for ever.
pub(crate) async fn follow(router: Arc<Router>, client: Client) {
    let machine = &router.settings.machine;
    loop {
        let after = match router.routing.generation() {
            Some(generation) => format!("?after={}", generation.0),
            None => String::new(),
        };
        match client.get::<TableAnswer>(&format!("/internal/v1/routers/{machine}/table{after}")).await {
            Ok(Some(table)) => {
                let generation = table.generation;
                // A router that replaces this router owns the file from here on.
                let keep = !router.ending.load(Ordering::Relaxed);
                match router.routing.take(table, keep) {
                    Ok(true) => tracing::debug!(%generation, "table taken"),
                    Ok(false) => tokio::time::sleep(RETRY).await,
                    Err(error) => {
                        tracing::error!(%error, "the table cannot be kept on disk and is not taken");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "no table");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns the router's own time: the wall clock at its start, plus the time elapsed since. A report shifts the
/// timestamps to the current wall clock.
pub(crate) fn now() -> Moment {
    clock().now(reading())
}

fn clock() -> &'static SteadyClock {
    static CLOCK: OnceLock<SteadyClock> = OnceLock::new();
    CLOCK.get_or_init(|| SteadyClock::new(reading()))
}

fn reading() -> ClockReading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ClockReading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// Returns the failures, with timestamps of the wall clock.
fn failures(router: &Router) -> BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>> {
    let mut failures = router.routing.failures(now());
    if let Some(jump) = clock().jump(reading()) {
        for run in failures.values_mut().flat_map(BTreeMap::values_mut) {
            run.since = run.since.moved(jump.by);
            run.last = run.last.moved(jump.by);
        }
    }
    failures
}

fn state(router: &Router, gone: bool) -> RouterReport {
    RouterReport {
        number: router.settings.number,
        gone,
        generation: router.routing.generation().unwrap_or_default(),
        active: router.routing.active(),
        counts: router.routing.counts(),
        failures: failures(router),
    }
}

/// Reports that the router has ended, so the server need not wait for its requests. A server that misses this report
/// notices the silence.
pub(crate) async fn say_goodbye(router: &Router, client: &Client) {
    let path = format!("/internal/v1/routers/{}/observed", router.settings.machine);
    let report = state(router, true);
    let _ = tokio::time::timeout(GOODBYE, client.post::<()>(&path, &report)).await;
}

/// Reports the generation of the table and the requests under way, for ever.
pub(crate) async fn report(router: Arc<Router>, client: Client) {
    let path = format!("/internal/v1/routers/{}/observed", router.settings.machine);
    let mut changes = router.routing.changes();
    let mut told: Option<(RouterReport, Instant)> = None;
    loop {
        let now = state(&router, false);
        router.routing.sweep(std::time::Instant::now());
        let known = told.as_ref().is_some_and(|(last, at)| *last == now && at.elapsed() < HEARTBEAT);
        if !known && client.post::<()>(&path, &now).await.is_ok() {
            told = Some((now, Instant::now()));
        }
        let _ = tokio::time::timeout(COUNT, changes.changed()).await;
    }
}
