//! The server's news, and news for it. A server that is away, or says nothing, changes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_api::Client;
use gantry_api::types::{RouterReport, TableAnswer};
use gantry_model::Moment;
use tokio::time::Instant;

use crate::Router;

/// Between two questions to a server that does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// How often it speaks when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How often requests under way are counted: a drain ends at most this much late.
const COUNT: Duration = Duration::from_millis(250);

/// The longest that a goodbye may take.
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
                // The one that takes this one's place keeps the file from here on.
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

/// The router's wall clock.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn state(router: &Router, gone: bool) -> RouterReport {
    RouterReport {
        number: router.settings.number,
        gone,
        generation: router.routing.generation().unwrap_or_default(),
        active: router.routing.active(),
        counts: router.routing.counts(),
        failures: router.routing.failures(now()),
    }
}

/// Tells that nothing is to be waited for any more. A server that does not hear it finds out by the silence.
pub(crate) async fn say_goodbye(router: &Router, client: &Client) {
    let path = format!("/internal/v1/routers/{}/observed", router.settings.machine);
    let report = state(router, true);
    let _ = tokio::time::timeout(GOODBYE, client.post::<()>(&path, &report)).await;
}

/// Tells what is routed and what is under way, for ever.
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
