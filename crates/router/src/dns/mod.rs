//! Name resolver. Answers `<app>.gantry.internal` and `<role>.<app>.gantry.internal` with the ready instances
//! of this machine, or with the virtual address of a role that has instances elsewhere. `_<role>._tcp.<app>.gantry.internal`
//! has the port of the role as well. Forwards every other question to the machine's own name servers, and their answer back, byte for byte.
//!
//! `zone` answers from the routing table alone; `forward` asks the other name servers.

mod forward;
mod serve;
pub(crate) mod zone;

pub(crate) use serve::run;
