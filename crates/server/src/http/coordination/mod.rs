//! The API for applications: services, keys and locks for the containers of an app, as
//! `gantry_api::endpoints::applications` declares them. An agent sends each request of a container here, and names the app;
//! the server accepts an app only from a machine that has allocations of it.

mod etcd;
mod kv;
pub(super) mod locks;
mod services;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, RawPathParams};
use axum::middleware::map_response;
use axum::routing::{any, get};
use gantry_admission::find_app;
use gantry_api::endpoint::{AccessScope, Endpoint};
use gantry_api::endpoints::applications;
use gantry_api::types::OpenApiDocument;
use gantry_api::{ErrorCode, Problem, openapi};
use gantry_coordination::{Command, Refusal, Revision};
use gantry_model::{AppName, MachineName};
use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::auth::Caller;
use super::call::{Call, EndpointCaller, Routes};
use super::{ErrorResponse, HttpResult, parse_name};
use crate::Server;
use crate::coordination::{CoordinationError, ReplyAtRevision, WAIT_MAX};

/// Size limit of a request's body in bytes: a value of the largest size in base64, and room for more.
const BODY_MAX: usize = 1 << 20;

/// The path below which an agent finds the endpoints, with its machine and the app of the container.
pub(super) const PREFIX: &str = "/internal/v1/machines/{machine}/as/{as}";

/// A call of a container.
type AppCall<E> = Call<E, AppCaller>;

/// The endpoints of the API itself.
fn own_routes() -> Routes<AppCaller> {
    locks::own_routes(kv::routes(Routes::default().endpoint(describe).endpoint(services::show)))
}

/// The routes below [`PREFIX`].
pub(super) fn routes() -> Router<Arc<Server>> {
    let (own, _) = own_routes().build();
    own.layer(map_response(super::with_code))
        // Errors of etcd's API have a form of their own.
        .route(applications::EtcdVersion::PATH, get(etcd::version))
        .route(applications::Etcd::PATH, any(etcd::serve))
        .route(applications::EtcdBeta::PATH, any(etcd::serve))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

async fn describe(_: AppCall<applications::OpenApi>) -> HttpResult<OpenApiDocument> {
    Ok(openapi::document_for_applications())
}

/// A container of an app, for which a machine's agent asks.
pub(super) struct AppCaller {
    server: Arc<Server>,
    machine: MachineName,
    app: AppName,
    /// The app's keyspace.
    space: AppName,
    _slot: OwnedSemaphorePermit,
}

impl FromRequestParts<Arc<Server>> for AppCaller {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> HttpResult<Self> {
        let caller = Caller::from_request_parts(parts, server).await?;
        let read = RawPathParams::from_request_parts(parts, server).await;
        let read = read.map_err(|rejection| super::parse::invalid_request(rejection.body_text()))?;
        let of = |name: &str| read.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        let (machine, app): (MachineName, AppName) = (parse_name(of("machine"))?, parse_name(of("as"))?);
        caller.machine(&machine)?;
        let view = server.core.view();
        let part = view.records.plan.machines.get(&machine);
        if !part.is_some_and(|part| part.instances.keys().any(|id| id.slot.app == app)) {
            let message = format!("machine {machine} has no copy of {app}, and so may not ask for it");
            return Err(Problem::new(ErrorCode::ContainerUnknown, message).into());
        }
        let space = find_app(&view.records, &app)?.volume_folder().clone();
        let slot = server.coordination.admit(&space)?;
        Ok(Self { server: Arc::clone(server), machine, app, space, _slot: slot })
    }
}

impl EndpointCaller for AppCaller {
    fn permit<E: Endpoint>(&self, at: &E, _: &E::Query) -> HttpResult<()> {
        let (own, app) = (&self.app, at.app());
        if E::SCOPE == AccessScope::ContainerOfApp && app != Some(own) {
            let message = format!("a container of {own} has the locks of {own} alone");
            return Err(Problem::new(ErrorCode::ScopeInsufficient, message).into());
        }
        Ok(())
    }
}

impl AppCaller {
    async fn run(&self, command: Command) -> Result<ReplyAtRevision, CoordinationError> {
        self.server.coordination.run(&self.space, command).await
    }

    /// Begins a long poll of the app's keys, or a single look if the caller does not wait.
    fn poll(&self, waits: bool) -> KeyPoll {
        let deadline = tokio::time::Instant::now() + if waits { WAIT_MAX } else { Duration::ZERO };
        KeyPoll { changes: self.server.coordination.watch(&self.space), deadline }
    }
}

/// A long poll of an app's keys.
struct KeyPoll {
    changes: watch::Receiver<Revision>,
    deadline: tokio::time::Instant,
}

impl KeyPoll {
    /// Marks the present revision as seen. Each look begins with it, so that no change gets lost.
    fn mark_seen(&mut self) {
        self.changes.borrow_and_update();
    }

    /// Waits for a change after the last look; false once the wait is over.
    async fn changed(&mut self) -> Result<bool, CoordinationError> {
        match tokio::time::timeout_at(self.deadline, self.changes.changed()).await {
            Ok(changed) => changed.map(|()| true).map_err(|_| CoordinationError::Stopping),
            Err(_) => Ok(false),
        }
    }
}

impl From<CoordinationError> for ErrorResponse {
    fn from(error: CoordinationError) -> Self {
        Self(error.into())
    }
}

impl From<CoordinationError> for Problem {
    fn from(error: CoordinationError) -> Self {
        let code = match &error {
            CoordinationError::Refused(refusal) => match refusal {
                Refusal::KeyMissing
                | Refusal::FutureRevision { .. }
                | Refusal::TtlTooLong
                | Refusal::DuplicateKey
                | Refusal::TooManyOperations { .. }
                | Refusal::KeyTooLong { .. }
                | Refusal::ValueTooLong { .. }
                | Refusal::LeaseExists => ErrorCode::InvalidKey,
                Refusal::Compacted { .. } => ErrorCode::RevisionCompacted,
                Refusal::LeaseNotFound | Refusal::NothingToKeep => ErrorCode::KeyNotFound,
                Refusal::TooManyKeys { .. } | Refusal::NoSpace { .. } | Refusal::TooManyLeases { .. } => {
                    ErrorCode::AppQuotaExceeded
                }
                Refusal::LockLost => ErrorCode::LockLost,
            },
            CoordinationError::Busy | CoordinationError::Full { .. } => ErrorCode::AppQuotaExceeded,
            CoordinationError::ReadOnly => ErrorCode::DiskReadOnly,
            CoordinationError::Store(_) | CoordinationError::Damaged(_) => ErrorCode::StoreUnavailable,
            CoordinationError::Stopping => ErrorCode::ServerStopping,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_for_applications_is_served_and_no_other() {
        let (_, own) = own_routes().build();
        let etcd = [applications::EtcdVersion::PATH, applications::Etcd::PATH, applications::EtcdBeta::PATH];
        let declared = gantry_api::endpoints::for_applications();
        let (of_etcd, declared): (Vec<_>, Vec<_>) = declared.iter().partition(|endpoint| etcd.contains(&endpoint.path));
        assert_eq!(of_etcd.len(), etcd.len());
        let text = |method: &http::Method, path: &str| format!("{method} {path}");
        let served: BTreeSet<String> = own.iter().map(|(method, path)| text(method, path)).collect();
        assert_eq!(own.len(), served.len());
        let declared: BTreeSet<String> =
            declared.iter().map(|endpoint| text(&endpoint.method, endpoint.path)).collect();
        assert_eq!(served, declared);
    }
}
