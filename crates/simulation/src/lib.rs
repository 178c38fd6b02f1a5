//! Servers, agents, routers and users under virtual time, with seeded faults. Tests only.
//!
//! The deciders, the server's pure core and the replication of the control protocol are the product's own code. Everything
//! around them is simulated: store, network, processes, containers, users. A run is a pure function of its
//! [`SimulationSettings`]: one thread, one queue of events in virtual time, and one generator of pseudo-random numbers.
//!
//! A run has two parts. In the first part users work and faults happen:
//! - processes crash and come back; servers stand still and lose their leadership; machines reboot; containers crash;
//! - a new router takes the place of a router, which finishes its requests beside it; apps get other names;
//! - the wall clocks of the servers' machines jump by up to an hour, together or apart;
//! - machines are cut off; connections break with the messages in flight; messages come late, twice, and in another order
//!   than they were sent;
//! - the store refuses writes, or does not tell the outcome of a write; a server dies between two transactions.
//!
//! In the second part no more faults happen. The cluster must come to rest in the requested state within a bounded time.
//!
//! The core audits every plan before its write (`gantry-plan-audit`). The module `checks` judges by the true state of all
//! processes, which no decider sees, and asserts more: see there.
//!
//! | module | contains |
//! |---|---|
//! | `simulation` | the run: all state, and the loop over the events |
//! | `timeline`, `random`, `events` | the queue of events, pseudo-random numbers, the kinds of events |
//! | `store`, `servers`, `writes` | the store with its leadership; the servers around the product's core |
//! | `links` | connections between peers and servers, and their faults |
//! | `agents`, `containers`, `routers` | the machines |
//! | `users`, `shapes` | commands, builds, and the apps |
//! | `faults` | faults of processes and machines |
//! | `checks`, `convergence`, `room` | safety during the run, the state at its end, and copies that no machine takes |

mod agents;
mod checks;
mod containers;
mod convergence;
mod events;
mod faults;
mod links;
mod operators;
mod room;
mod routers;
mod servers;
mod settings;
mod shapes;
mod simulation;
mod store;
mod timeline;
mod users;
mod writes;

pub use settings::SimulationSettings;
pub use simulation::{SimulationOutcome, simulate};
