//! Smart HTTP: turns a push into a source tree at a commit. The system's git implements the protocol.
//!
//! ```text
//! client ─► git receive-pack --stateless-rpc ─► pre-receive: `gantry git-hook`
//!                                                  │ unix socket: the pushed refs; the answer which commits are ancestors;
//!                                                  │ the archive; lines to show; the verdict
//!                                                  ▼
//!                                               the server
//!                                                  ▲ the same socket: the branch has moved
//!                                                  │
//!                                               proc-receive: `gantry git-hook`
//! ```
//! - [`Repositories`]: bare repositories, one per app, and the git processes that serve them.
//! - `layout`: the files of a repository that Gantry writes itself; `health`: the repair of a damaged repository.
//! - [`hook`]: the hooks, and their messages. The branch moves only after the verdict, so a push is refused when its
//!   build or deploy fails.

#[cfg(fuzzing)]
pub mod fuzz;
mod health;
pub mod hook;
mod layout;
mod opening;
mod repository;

pub use health::Repair;
pub use repository::{Conversation, GitError, Repositories, Service};
