//! Placement: which machine runs a copy of a role, and why none does. Pure: values in, a decision out; no I/O, no clock, no
//! randomness. The same calls in the same order give the same decisions.
//!
//! - [`PlacementIndex`] holds the machines with their loads. The caller takes over every copy ([`PlacementIndex::occupy`]
//!   and [`PlacementIndex::vacate`]), and asks for machines ([`PlacementIndex::place`]).
//! - Nothing is over-committed: the demands of a machine's copies never exceed the machine's capacity less what the system
//!   keeps, unless the caller takes over copies that already do.
//! - Constraints: the agent's version, architecture, labels (AND between keys, OR within), affinity (`with`), conflict (`apart_from`,
//!   symmetric), one copy per machine, pinned. All must hold.
//! - Preference: copies of a role go to different machines (or values of a label). Otherwise copies with a reservation go
//!   to the fullest machine, and copies without one to the machine with the fewest copies.
//! - A refusal names a reason for each machine, counted.
//!
//! Cost: for each shape of demand an index of the machines that take it, and for all machines classes of fullness. A
//! decision looks at the fullest class that has a fitting machine, and at few machines there. Demands with relations to
//! other roles, or with a spread over a label, look at all fitting machines.
//!
//! Rejected: a score for every machine and decision, which costs a look at all machines; and an exact solver, which gains
//! less than a percent (see `benches/placement`) and explains nothing.

mod bits;
mod choose;
mod demand;
mod explain;
mod index;
mod machine;
mod resources;
mod roles;

pub use demand::{CopySpread, DemandShape, PinnedMachine, PlacedRole, PlacementDemand};
pub use index::PlacementIndex;
pub use machine::{MachineReadiness, PlacementMachine};
pub use resources::Resources;
