//! Default times of a deploy. The flags of `gantry up`, the planner and the router use these values. The help in
//! `gantry/src/args/machine.rs`, `docs/operating.md` and `docs/apps.md` name them, too. `docs/cli.md` is made from the
//! help: `GANTRY_TEST_BLESS=1 cargo test -p gantry reference`.

use crate::Seconds;

/// Drain time: how long a retired instance may finish its requests.
pub const DRAIN_TIME: Seconds = Seconds(30);

/// Bake time: how long the old release stands by after promotion.
pub const BAKE_TIME: Seconds = Seconds(15);

/// Deadline of a deploy without progress.
pub const DEPLOY_DEADLINE: Seconds = Seconds(120);
