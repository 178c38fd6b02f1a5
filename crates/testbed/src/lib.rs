//! Tests only: real clouds on this machine, and load on them.
//!
//! - [`World`]: a `gantry up` of its own, with its own folders, ports, network and control group; everything of it is
//!   checked to be gone when it ends.
//! - [`Etcd`]: a real one. With `GANTRY_TEST_ETCD` set a world has its store in one of its own, unless it says where.
//! - [`load`]: requests without pause, each counted; what fails is kept with its reason.

mod etcd;
pub mod load;
mod number;
mod world;

pub use etcd::Etcd;
pub use world::{Output, Repository, World, program, run};
