//! Tests only: test clusters of real daemons on this machine, and load on them.
//!
//! - [`TestCluster`]: a `gantry up` with its own folders, ports, network and control group. When the cluster is dropped,
//!   the testbed checks that nothing of the cluster is left on the machine.
//! - [`Fleet`]: several machines of one cloud, each made of a network namespace, and their faults.
//! - [`ShiftedClock`]: a wall clock that a test shifts.
//! - [`SpareServer`]: one more server of a cluster on etcd.
//! - [`Etcd`]: a real etcd, of one member or several. With `GANTRY_TEST_ETCD` set, each [`TestCluster`] without its own
//!   `--store` gets its own etcd.
//! - [`Postgres`]: a real PostgreSQL, for container jobs.
//! - [`namespace`]: a machine made of a network namespace.
//! - [`kills`], [`percentiles`]: a series of kills, and its times.
//! - [`load`]: continuous requests, all counted; the first failures are kept with their reasons.

mod clock;
mod command;
mod etcd;
mod fleet;
mod groups;
mod leftovers;
pub mod load;
pub mod namespace;
mod number;
mod postgres;
mod repository;
mod series;
mod spare_server;
mod test_cluster;

pub use clock::ShiftedClock;
pub use command::{Output, program, run};
pub use etcd::Etcd;
pub use fleet::{Fleet, FleetLoad};
pub use postgres::Postgres;
pub use repository::Repository;
pub use series::{kills, percentiles};
pub use spare_server::SpareServer;
pub use test_cluster::TestCluster;
