//! Smart HTTP: a push to a source tree at a commit. The system's git does the protocol.
//!
//! ```text
//! client ─► git receive-pack --stateless-rpc ─► pre-receive: `gantry git-hook`
//!                                                  │ unix socket: what is pushed; the archive; lines to show; the verdict
//!                                                  ▼
//!                                               the server
//! ```
//! - [`Repositories`]: bare repositories, one per app, and git running in them.
//! - [`hook`]: both ends of the hook's conversation. The ref moves only after the verdict, so a push is refused when its
//!   build or deploy fails.

#[cfg(fuzzing)]
pub mod fuzz;
pub mod hook;
mod opening;
mod repository;

pub use repository::{GitError, Repositories, Service};
