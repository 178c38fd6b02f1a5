//! Tests only: real clouds on this machine, and load on them.
//!
//! - [`World`]: a `gantry up` of its own, with its own folders, ports, network and control group; everything of it is
//!   checked to be gone when it ends.
//! - [`Etcd`]: a real one. With `GANTRY_TEST_ETCD` set a world has its store in one of its own, unless it says where.
//! - [`namespace`]: a machine made of a network namespace.
//! - [`load`]: requests without pause, each counted; what fails is kept with its reason.

mod command;
mod etcd;
mod leftovers;
pub mod load;
pub mod namespace;
mod number;
mod repository;
mod world;

pub use command::{Output, program, run};
pub use etcd::Etcd;
pub use repository::Repository;
pub use world::World;
