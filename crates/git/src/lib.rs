//! Smart HTTP: a push to a source tree at a commit. The system's git does the protocol.
//!
//! ```text
//! client ─► git receive-pack --stateless-rpc ─► pre-receive: `gantry git-hook`
//!                                                  │ unix socket: what is pushed; the archive; lines to show; the verdict
//!                                                  ▼
//!                                               the server
//! ```
//! - [`Repositories`]: bare repositories, one per app, and git running in them.
//! - `layout`: the files of a repository that Gantry writes itself; `health`: what becomes of a damaged one.
//! - [`hook`]: both ends of the hook's conversation. The ref moves only after the verdict, so a push is refused when its
//!   build or deploy fails.

#[cfg(fuzzing)]
pub mod fuzz;
mod health;
pub mod hook;
mod layout;
mod opening;
mod repository;

pub use health::Mended;
pub use repository::{Conversation, GitError, Repositories, Service};
