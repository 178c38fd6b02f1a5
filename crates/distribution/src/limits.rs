//! The limits of the decisions.

use std::time::Duration;

/// Copies of a layer that the servers send before any machine has the layer. The second copy goes on if the first
/// receiver dies.
pub const SEEDS: u32 = 2;

/// Maximum number of transfers of one layer from the servers at once, to machines whose other sources have failed.
pub const LAST_RESORT: usize = 4;

/// Maximum number of transfers at once from one machine. Two keep its link busy while the next receiver connects; with
/// more, each receiver waits longer until it is a source itself.
pub const UPLOADS_MAX: usize = 2;

/// Maximum number of sources that a machine tries before the servers send the layer.
pub const SOURCES_MAX: usize = 3;

/// Maximum number of further sources of a layer for one machine, beside its first one.
pub const FURTHER_SOURCES_MAX: usize = 2;

/// Maximum number of sources that send parts of one layer to one machine at once.
pub const SOURCES_AT_ONCE: usize = FURTHER_SOURCES_MAX + 1;

/// Longest time of a part from a source that is never slow.
pub(crate) const SLOW_PART: Duration = Duration::from_secs(2);

/// Factor of slowness: a source is slow if its part takes more than this many times as long as another source's part.
pub(crate) const SLOW_TIMES: u32 = 8;

/// Silence after which a machine counts as gone: it is no source, and its transfers have ended.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a failure after which half of a machine's failures as a source still count.
pub(crate) const FAULTS_HALVED: Duration = Duration::from_secs(600);

/// Maximum number of layers in a report that count, of each kind.
pub const LAYERS_MAX: usize = 1000;
