//! The control protocol between the server and its agents and routers.
//!
//! ```text
//! agent, router ──Hello─────────────────────────────► server
//!               ◄─Welcome: version, lease ──────────
//!               ◄─Update: its part of the plan ─────
//!               ◄─Policy: the rules of the cluster ─
//!               ──Update: its report ───────────────►
//!               ──Alive, while nothing changes ─────►
//! ```
//! - [`message`]: the messages. Unknown fields and unknown messages are ignored, so that both sides may be one version
//!   older or newer.
//! - [`version`]: how both sides agree on a version.
//! - [`version_one`]: translation for peers of an earlier version.
//! - [`update`]: replication of a part by differences from a revision; pure.
//! - [`shared_routes`]: the routes of all apps as a server sends them to many routers. [`encoded_updates`]: updates for
//!   many receivers, each encoded once.
//! - [`part`]: the replicated parts, and their items on the wire. An item that a receiver cannot read costs only that
//!   item.
//! - [`endpoints`]: the endpoints of the server for agents, routers and joining machines.
//! - [`join`]: joining a cluster, and renewing a certificate.
//! - [`sessions`]: sessions that the server asks an agent to open. [`builds`]: orders and events of those that build.
//! - [`jobs`]: container jobs: reports of agents, orders of the server.
//! - [`layers`]: layers of images: what machines have and want, and their sources.
//! - [`policy`]: the rules of the cluster that agents and routers obey.
//! - [`lines`]: messages as lines of JSON in the bodies of an HTTP/2 stream.
//! - [`link`]: the connection: one HTTP/2 connection for each agent and each router, inside an upgraded request of the
//!   HTTP API, which has authenticated the peer.
//!
//! Losing a connection loses nothing: each side keeps its part, and the next connection continues from the revision
//! that the peer names.

pub mod builds;
pub mod encoded_updates;
pub mod endpoints;
pub mod jobs;
pub mod join;
pub mod layers;
pub mod lines;
pub mod link;
pub mod message;
pub mod part;
pub mod policy;
pub mod sessions;
pub mod shared_routes;
pub mod update;
pub mod version;
pub mod version_one;

pub use encoded_updates::EncodedUpdates;
pub use lines::EncodedLine;
pub use link::{Connection, LinkError, LinkStream};
pub use message::{Hello, MachineFacts, PeerMessage, ServerMessage, Welcome};
pub use part::{MachineReport, RouterReport};
pub use policy::PeerPolicy;
pub use shared_routes::SharedRoutes;
pub use update::{PartStep, Receipt, Replicated, ReportSender, SentPart, Update, UpdateReceiver, UpdateSender};
pub use version::{ProtocolRange, ProtocolVersion, VersionMismatch};
