//! Every endpoint of the public API and of the API for applications, declared once.

pub mod applications;
pub mod apps;
pub mod bases;
pub mod cluster;
pub mod codes;
pub mod deploys;
pub mod images;
pub mod jobs;
pub mod locks;
pub mod machines;
pub mod schedules;
pub mod sessions;
pub mod stacks;
pub mod tokens;
pub mod volumes;

use crate::endpoint::EndpointDescription;

/// Describes every endpoint of the API for applications.
#[must_use]
pub fn for_applications() -> Vec<EndpointDescription> {
    applications::describe()
}

/// Describes every endpoint of the public API.
#[must_use]
pub fn all() -> Vec<EndpointDescription> {
    [
        cluster::describe(),
        tokens::describe(),
        machines::describe(),
        bases::describe(),
        stacks::describe(),
        apps::describe(),
        deploys::describe(),
        sessions::describe(),
        images::describe(),
        codes::describe(),
        jobs::describe(),
        schedules::describe(),
        locks::describe(),
        volumes::describe(),
    ]
    .concat()
}
