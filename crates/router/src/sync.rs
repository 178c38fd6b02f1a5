//! Synchronization with the server: fetches tables and sends reports. If the server is away or silent, routing goes on
//! unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_api::Client;
use gantry_api::types::{RouterReport, TableAnswer};
use gantry_model::{AppName, FailureRun, RequestFailure};
use tokio::time::Instant;

use crate::clock;
use crate::exchange::router_state::RouterState;

/// Pause before the next request to a server that does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Interval of reports while nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Poll interval for requests under way: the server sees the end of a drain at most this much late.
const COUNT: Duration = Duration::from_millis(250);

/// Longest time that the last report may take.
const LAST_REPORT: Duration = Duration::from_secs(2);

/// Follows the table, for ever.
pub(crate) async fn follow(router: Arc<RouterState>, client: Client) {
    let machine = &router.settings.machine;
    loop {
        let after = match router.routes.generation() {
            Some(generation) => format!("?after={}", generation.0),
            None => String::new(),
        };
        match client.get::<TableAnswer>(&format!("/internal/v1/routers/{machine}/table{after}")).await {
            Ok(Some(table)) => {
                let generation = table.generation;
                // A router that replaces this router owns the file from here on.
                let keep = !router.ending.load(Ordering::Relaxed);
                match router.routes.take(table, keep) {
                    Ok(true) => tracing::debug!(%generation, "routing table taken over"),
                    Ok(false) => tokio::time::sleep(RETRY).await,
                    Err(error) => {
                        tracing::error!(%error, "cannot write the routing table to disk; the previous table stays in use");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot fetch the routing table");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns the failures, with timestamps of the wall clock.
fn failures(router: &RouterState) -> BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>> {
    let mut failures = router.routes.failures(clock::now());
    if let Some(jump) = clock::jump() {
        for run in failures.values_mut().flat_map(BTreeMap::values_mut) {
            run.since = run.since.moved(jump.by);
            run.last = run.last.moved(jump.by);
        }
    }
    failures
}

fn state(router: &RouterState, gone: bool) -> RouterReport {
    RouterReport {
        number: router.settings.number,
        gone,
        generation: router.routes.generation().unwrap_or_default(),
        active: router.routes.active(),
        counts: router.routes.counts(),
        failures: failures(router),
    }
}

/// Reports that the router has ended, so the server need not wait for its requests. A server that misses this report
/// notices the silence.
pub(crate) async fn report_shutdown(router: &RouterState, client: &Client) {
    let path = format!("/internal/v1/routers/{}/observed", router.settings.machine);
    let report = state(router, true);
    let _ = tokio::time::timeout(LAST_REPORT, client.post::<()>(&path, &report)).await;
}

/// Reports the generation of the table and the requests under way, for ever.
pub(crate) async fn report(router: Arc<RouterState>, client: Client) {
    let path = format!("/internal/v1/routers/{}/observed", router.settings.machine);
    let mut changes = router.routes.changes();
    let mut reported: Option<(RouterReport, Instant)> = None;
    loop {
        let now = state(&router, false);
        router.routes.sweep(std::time::Instant::now());
        let known = reported.as_ref().is_some_and(|(last, at)| *last == now && at.elapsed() < HEARTBEAT);
        if !known && client.post::<()>(&path, &now).await.is_ok() {
            reported = Some((now, Instant::now()));
        }
        let _ = tokio::time::timeout(COUNT, changes.changed()).await;
    }
}
