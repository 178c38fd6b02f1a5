//! The server: serves the API, the git endpoint and the registry; runs the planner and the executors.
//!
//! ```text
//! API ─► mutation (pure) ─┐                         ┌─► agents, routers (control connections)
//! reports ────────────────┼─► core: one task, one ──┼─► builds: order the image of a deploy from an agent
//! clock ──────────────────┘   owner of all records  └─► followers: lines for push and `deploy`
//!                              │ plans until nothing changes; each round is one guarded write
//!                              ▼
//!                             store
//! ```
//! - [`run()`]: opens the store, takes leadership, serves until told to shut down. Begin there.
//! - `servers`: several servers on etcd. One leads, and the others forward requests to it.
//! - `assembly`: the parts that request handlers share.
//! - `core`: owns the records and is their only writer; all other modules read its [`ClusterView`].
//! - `records`: the store's records in memory.
//! - `repositories`: the apps' git repositories, and the repair of damaged ones.
//! - `build_orders`: what the server lets agents do: builds, base images. The server itself starts no container.
//! - `image_requests`: limits on bases, stacks and pulls that clients request.
//! - `control_links`: connections of agents and routers: parts of the plan, reports.
//! - `layer_sources`: from where each machine fetches a layer.
//! - `builds`, `git_endpoint`, `follow`, `session_broker`: tasks and conversations beside the core.
//! - `deploy_plans`: previews of deploys.
//! - `machine_choice`: which machines the server asks for builds, one-offs, logs and volumes; pure.
//! - `jobs`: container jobs: the queue, leases, orders to agents. `scheduler`: jobs at fixed times.
//! - `deliveries`: messages of push queues and results of jobs, for receivers of others. `outbound`: their requests.
//! - `coordination`: keys, leases and locks of the apps.
//! - `collect`: garbage collection. `gc_pins`: pins, which protect unfinished data from it.
//! - `membership`: the authority, and the TLS listener for machines and people.
//! - `why`: derives one causal answer from a view; pure.
//! - `http`: HTTP routes to all of these.

mod assembly;
mod build_logs;
mod build_orders;
mod builds;
mod clock;
mod clock_offsets;
mod collect;
mod connections;
mod control_links;
mod coordination;
mod core;
mod deliveries;
mod deploy_plans;
mod disk_reserve;
mod errors;
mod follow;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc_pins;
mod git_endpoint;
mod http;
mod image_requests;
mod images;
mod jobs;
mod layer_sources;
mod leadership;
mod machine_choice;
mod membership;
mod outbound;
mod rename;
mod repositories;
mod run;
mod scheduler;
mod servers;
mod session_broker;
mod settings;
mod tasks;
mod tokens;
mod warnings;
mod why;

pub use core::ClusterView;
pub use errors::{ChangeError, ServerError};
pub use membership::{FOUNDING_FILE, FoundingFile};
pub use run::run;
pub use settings::ServerSettings;
pub use tokens::{TOKEN_FILES, new_secret, new_token_file};

pub(crate) use assembly::Server;
pub(crate) use errors::causes;
