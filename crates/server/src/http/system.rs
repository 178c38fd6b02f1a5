//! Endpoints for the status, events and tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_api::Problem;
use gantry_api::endpoints::{cluster, tokens};
use gantry_api::frame::Frame;
use gantry_api::types::{
    AuditEvent, BlobPlaces, ClusterStatus, CreateToken, FaultInfo, MachineStatus, NewToken, RouterStatus, ServerBlobs,
    TokenInfo,
};
use gantry_control::sessions::SessionKind;
use gantry_model::{AppName, AuditAction, Digest, MachineName, ObservedMachine, ObservedRouter};
use gantry_records::{EventRecord, TokenRecord};
use hyper_util::rt::TokioIo;

use super::call::{Call, Routes};
use super::{HttpResult, apps};
use crate::core::ClusterView;
use crate::machine_choice::machines_by_report;
use crate::servers::OtherServers;
use crate::warnings::{overruled, warnings};
use crate::{Server, tokens as secrets};

/// Adds the endpoints of the status, the audit trail and tokens.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(status)
        .endpoint(find_blobs)
        .endpoint(events)
        .endpoint(list_tokens)
        .endpoint(create_token)
        .endpoint(revoke_token)
}

async fn status(Call { server, .. }: Call<cluster::Status>) -> HttpResult<ClusterStatus> {
    let space = disk_usage(&server).await;
    let view = server.core.view();
    let observed = &view.observed;
    Ok(ClusterStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: match &server.settings.store {
            gantry_store::StoreAddress::File(path) => path.display().to_string(),
            gantry_store::StoreAddress::Etcd { endpoints, .. } => endpoints.join(","),
        },
        machines: observed
            .machines
            .iter()
            .map(|(name, machine)| (name.clone(), machine_status(&server, &view, name, machine)))
            .collect(),
        routers: observed.routers.iter().map(|(name, router)| (name.clone(), router_status(&view, router))).collect(),
        routes: view.records.plan.routing.revision,
        apps: view.records.apps.values().map(|app| apps::app_info(&view, app)).collect(),
        space,
        servers: server.servers.as_ref().map(OtherServers::info).unwrap_or_default(),
        warnings: warnings(&server, &view)
            .into_iter()
            .chain(overruled(&server.settings.policy, &view.records.policy, server.settings.leads_alone()))
            .collect(),
    })
}

fn machine_status(server: &Server, view: &ClusterView, name: &MachineName, machine: &ObservedMachine) -> MachineStatus {
    let network = machine.network.iter().map(FaultInfo::from).collect();
    let clock_offset_millis = server.clock_offsets.of(name);
    MachineStatus { silent_millis: view.now.since(machine.seen), clock_offset_millis, network }
}

fn router_status(view: &ClusterView, router: &ObservedRouter) -> RouterStatus {
    RouterStatus { routes: router.generation, silent_millis: view.now.since(router.seen) }
}

/// Subfolders of the server's data folder, reported by name. Each agent measures the folders of its machine.
const DATA_FOLDERS: [&str; 4] = ["blobs", "git", "builds", "scratch"];

/// Timeout for an agent to measure its folders. Without an answer, the response leaves these folders out.
const MACHINE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of machines that are asked at once.
const CONCURRENT_REQUESTS: usize = 256;

/// Measures the bytes used by each kind of data: of the store, the server and all machines.
async fn disk_usage(server: &Server) -> BTreeMap<String, u64> {
    let data = server.settings.data.clone();
    let sizes = tokio::task::spawn_blocking(move || {
        let size = |path: std::path::PathBuf| gantry_linux::tree::usage(&path, u64::MAX).unwrap_or_default();
        let mut sizes: BTreeMap<String, u64> =
            DATA_FOLDERS.iter().map(|kind| ((*kind).to_owned(), size(data.join(kind)))).collect();
        let store = ["", "-wal", "-shm"].map(|end| std::fs::metadata(data.join(format!("store.db{end}"))));
        sizes.insert("store".to_owned(), store.into_iter().flatten().map(|is| is.len()).sum());
        sizes
    });
    let (sizes, of_machines) = tokio::join!(sizes, machine_usage(server));
    let mut sizes = sizes.unwrap_or_default();
    sizes.extend(of_machines);
    sizes
}

/// Asks all agents that report for the disk usage of their machines, and adds the answers up. A machine that does not
/// answer in time is left out; the list of machines shows which one is silent.
async fn machine_usage(server: &Server) -> BTreeMap<String, u64> {
    let machines = machines_by_report(&server.core.view()).reporting;
    let requests = machines.into_iter().map(|machine| async move {
        let usage = tokio::time::timeout(MACHINE_TIMEOUT, usage_of(server, &machine)).await;
        usage.ok().flatten().unwrap_or_default()
    });
    let add = |mut sum: BTreeMap<String, u64>, usage: BTreeMap<String, u64>| async move {
        usage.into_iter().for_each(|(kind, bytes)| *sum.entry(kind).or_default() += bytes);
        sum
    };
    futures_util::stream::iter(requests).buffer_unordered(CONCURRENT_REQUESTS).fold(BTreeMap::new(), add).await
}

async fn usage_of(server: &Server, machine: &MachineName) -> Option<BTreeMap<String, u64>> {
    let mut session = TokioIo::new(server.sessions.open(machine, SessionKind::Space).await.ok()?);
    match Frame::read(&mut session).await {
        Ok(Some(Frame::Output(text))) => serde_json::from_slice(&text).ok(),
        _ => None,
    }
}

async fn find_blobs(Call { server, body, .. }: Call<cluster::FindBlobs>) -> HttpResult<BlobPlaces> {
    let wanted: BTreeSet<Digest> = body.digests.into_iter().collect();
    let mut servers = match &server.servers {
        Some(others) => others.find_blobs(&wanted).await,
        None => BTreeMap::new(),
    };
    let own = server.blobs.list().await.map_err(|error| Problem::internal(crate::causes(&error)))?;
    let has = own.into_iter().map(|(digest, _)| digest).filter(|digest| wanted.contains(digest)).collect();
    servers.insert(server.settings.name.clone(), ServerBlobs::of(has));
    Ok(BlobPlaces { servers })
}

/// The audit trail. A caller whose scope is the app sees no event of the earlier apps of the name.
async fn events(Call { server, caller, query, .. }: Call<cluster::Events>) -> HttpResult<Vec<AuditEvent>> {
    let view = server.core.view();
    let own = query.app.as_ref().filter(|_| caller.is_of_app());
    let first = own.map_or(0, |app| first_event_of(view.records.kept_events().map(|event| &**event), app));
    let wanted = |event: &&Arc<EventRecord>| event.number >= first && (query.app.is_none() || event.app == query.app);
    Ok(view.records.kept_events().filter(wanted).map(|event| event_info(event)).collect())
}

async fn list_tokens(Call { server, .. }: Call<tokens::List>) -> HttpResult<Vec<TokenInfo>> {
    Ok(server.core.view().records.tokens.values().cloned().map(token_info).collect())
}

async fn create_token(Call { server, caller, body, .. }: Call<tokens::Create>) -> HttpResult<NewToken> {
    let CreateToken { name, scope, lifetime } = body;
    let secret = secrets::new_secret();
    let new = gantry_admission::NewToken { name, scope: scope.into(), lifetime, hash: secrets::hash(&secret) };
    let token = caller.mutate(&server, move |actor| actor.create_token(new)).await?;
    Ok(NewToken { info: token_info(token), secret })
}

async fn revoke_token(Call { server, caller, at, .. }: Call<tokens::Revoke>) -> HttpResult<()> {
    caller.mutate(&server, move |actor| actor.revoke_token(&at.name)).await
}

fn token_info(token: TokenRecord) -> TokenInfo {
    let TokenRecord { name, scope, created, expires, server: _ } = token;
    TokenInfo { name, scope: scope.into(), created, expires }
}

/// Returns the number of the event that made the newest app of a name. Returns 0 if the trail has no such event any more:
/// then every event that is left is newer.
fn first_event_of<'a>(mut events: impl DoubleEndedIterator<Item = &'a EventRecord>, app: &AppName) -> u64 {
    let made = events.rfind(|event| match &event.action {
        Some(AuditAction::AppCreated { app: made }) => made == app,
        Some(AuditAction::RenameRequested { to, .. }) => to == app,
        _ => false,
    });
    made.map_or(0, |event| event.number)
}

fn event_info(event: &EventRecord) -> AuditEvent {
    let EventRecord { number, at, by, app, what, action } = event;
    AuditEvent::new(*number, *at, by.clone(), app.as_ref(), action.as_ref(), what.clone())
}

#[cfg(test)]
mod tests {
    use gantry_model::Moment;

    use super::*;

    #[test]
    fn the_events_of_an_app_begin_with_the_newest_one_that_made_the_app() {
        let name = |text: &str| AppName::parse(text).expect("a name");
        let created = |app: &str| AuditAction::AppCreated { app: name(app) };
        let destroyed = |app: &str| AuditAction::AppDestroyed { app: name(app) };
        let renamed = |from: &str, to: &str| AuditAction::RenameRequested { from: name(from), to: name(to) };
        let cases = [
            (vec![], 0),
            (vec![created("shop")], 1),
            (vec![created("shop"), destroyed("shop"), created("shop"), created("blog")], 3),
            (vec![created("shop"), destroyed("shop"), created("blog"), renamed("blog", "shop")], 4),
            (vec![created("shop"), renamed("shop", "blog")], 1),
            (vec![destroyed("shop"), created("blog")], 0),
        ];
        for (actions, expected) in cases {
            let numbered = (1..).zip(actions);
            let events: Vec<EventRecord> = numbered
                .map(|(number, action)| EventRecord::new(number, Moment(0), "alice", Some(name("shop")), action))
                .collect();
            assert_eq!(first_event_of(events.iter(), &name("shop")), expected, "{events:?}");
        }
    }
}
