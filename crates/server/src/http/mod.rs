//! HTTP routes. Each handler authorizes the caller, runs the operation, and returns JSON.

mod apps;
pub(crate) mod auth;
mod bases;
mod builds;
mod call;
mod codes;
mod coordination;
mod deploys;
mod git;
mod images;
mod iron;
mod job_info;
mod job_output;
mod jobs;
mod logs;
mod machines;
mod members;
mod own_jobs;
mod parse;
mod policy;
mod pulls;
mod queues;
pub(crate) mod range;
mod referrers;
pub(crate) mod registry;
mod response;
mod schedules;
pub(crate) mod sessions;
mod stacks;
mod stream;
pub(crate) mod system;
pub(crate) mod uploads;
mod volume_machines;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{map_response, map_response_with_state};
use axum::routing::{any, get, post};
use gantry_api::endpoints::cluster;
use gantry_api::{ErrorCode, Problem, openapi};

use call::Routes;
pub(crate) use job_info::job_result;
pub(crate) use jobs::resolve as resolve_job;
use members::KeyCaller;
pub(crate) use parse::{Params, parse_body, parse_name};
use response::with_code;
pub(crate) use response::{ErrorResponse, HttpResult, UNBUFFERED, json};

use crate::Server;

/// Size limit of other JSON bodies in bytes.
const BODY_MAX: usize = 1 << 20;

/// The endpoints of the public API, each as it is declared.
fn public_routes() -> Routes {
    let families: [fn(Routes) -> Routes; 16] = [
        policy::routes,
        system::routes,
        machines::routes,
        members::routes,
        bases::routes,
        stacks::routes,
        apps::routes,
        deploys::routes,
        sessions::routes,
        images::routes,
        codes::routes,
        jobs::routes,
        queues::routes,
        schedules::routes,
        volumes::routes,
        coordination::locks::public_routes,
    ];
    let documents = Routes::default()
        .open::<cluster::OpenApi>(openapi::document)
        .open::<cluster::ApplicationApi>(openapi::document_for_applications);
    families.into_iter().fold(documents, |routes, family| family(routes))
}

/// The endpoints of agents, routers and joining machines, each as it is declared: those of a machine with a token or a
/// certificate, and those of a machine that proves a key.
fn internal_routes() -> (Routes, Routes<KeyCaller>) {
    let families: [fn(Routes) -> Routes; 4] =
        [machines::internal_routes, members::internal_routes, sessions::internal_routes, builds::internal_routes];
    let of_machines = families.into_iter().fold(Routes::default(), |routes, family| family(routes));
    (of_machines, members::key_routes(Routes::default()))
}

/// Builds the router with all routes of the server.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let (public, _) = public_routes().build();
    let (of_machines, of_keys) = internal_routes();
    let internal = of_machines.build().0.merge(of_keys.build().0);
    let internal = internal.route(crate::servers::INTRODUCTION, post(crate::servers::introduced));
    let plain_text = map_response(git::in_plain_text);
    let versioned = map_response_with_state(Arc::clone(&server), registry::versioned);
    Router::new()
        .merge(public.layer(DefaultBodyLimit::max(BODY_MAX)).layer(map_response(with_code)))
        .merge(internal.layer(map_response(with_code)))
        .nest(coordination::PREFIX, coordination::routes())
        .route("/git/{app}/info/refs", get(git::advertise).layer(plain_text.clone()))
        .route("/git/{app}/{service}", post(git::serve).layer(plain_text))
        .route("/git/{app}/info/lfs/{*path}", any(git::lfs))
        .route("/v2", get(registry::version).layer(versioned.clone()))
        .route("/v2/", get(registry::version).layer(versioned.clone()))
        .route("/v2/{*path}", any(registry::route).layer(DefaultBodyLimit::disable()).layer(versioned))
        .route("/2/projects/{project}/{*path}", any(iron::worker).layer(DefaultBodyLimit::disable()))
        .route("/3/projects/{project}/{*path}", any(iron::messages).layer(DefaultBodyLimit::disable()))
        .fallback(endpoint_not_found)
        .with_state(server)
}

async fn endpoint_not_found(request: Request) -> ErrorResponse {
    let path = request.uri().path().chars().take(200).collect::<String>();
    Problem::new(ErrorCode::EndpointNotFound, format!("there is no endpoint at {path}")).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_declared_endpoint_is_served_and_no_other() {
        let (_, served) = public_routes().build();
        let text = |method: &http::Method, path: &str| format!("{method} {path}");
        let declared: BTreeSet<String> =
            gantry_api::endpoints::all().iter().map(|endpoint| text(&endpoint.method, endpoint.path)).collect();
        assert_eq!(served.len(), declared.len());
        assert_eq!(served.iter().map(|(method, path)| text(method, path)).collect::<BTreeSet<_>>(), declared);
    }

    #[test]
    fn every_internal_endpoint_is_served_and_no_other() {
        let (of_machines, of_keys) = internal_routes();
        let served = [of_machines.build().1, of_keys.build().1].concat();
        let text = |method: &http::Method, path: &str| format!("{method} {path}");
        let declared = gantry_control::endpoints::all();
        assert_eq!(served.len(), declared.len());
        let declared: BTreeSet<String> =
            declared.iter().map(|endpoint| text(&endpoint.method, endpoint.path)).collect();
        assert_eq!(served.iter().map(|(method, path)| text(method, path)).collect::<BTreeSet<_>>(), declared);
    }
}
