//! The making of a base image: mmdebstrap in namespaces and a control group of its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use gantry_build::bases::{self, BaseRecipe};
use gantry_build::{BuildError, Output};
use gantry_control::builds::BaseOrder;
use gantry_linux::cgroup::{Cgroup, GroupLimits};
use gantry_model::{BuildPhase, Digest, remedy};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::builder::{blocking, failed};
use super::order_blobs::OrderBlobs;
use super::{TAIL, unless_cancelled};
use crate::workload::TransientWorkload;

/// Resource limits of mmdebstrap.
const LIMITS: GroupLimits = GroupLimits { memory: 4 << 30, milli_cpu: 64_000, pids: 4096 };

/// A shell that enters a control group, whose files come first, and becomes the program after `--`. Every process of the
/// program is then in the group.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1" || exit 126; shift; done; shift; exec "$@""#;

/// Makes the base image of a recipe, and returns its digest once the server has all of its blobs.
pub(super) async fn make(
    blobs: &OrderBlobs,
    order: &BaseOrder,
    workload: &TransientWorkload,
    output: &Arc<Output>,
) -> Result<Digest, BuildError> {
    let recipe = BaseRecipe::parse(&order.recipe).map_err(|why| BuildError::new(BuildPhase::Base, why))?;
    output.step(&format!("Making a base of {}", recipe.summary()));
    let scratch = workload.scratch().map_err(|error| BuildError::new(BuildPhase::Base, error))?;
    bases::write_hooks(&recipe, &scratch).map_err(|error| BuildError::new(BuildPhase::Base, error))?;
    let archive = scratch.join("base.tar");
    bootstrap(&recipe, &workload.workload().paths().cgroup, &scratch, &archive, output).await?;
    output.step("Keeping the base");
    let repack = move || bases::repack(&archive, &scratch).map_err(|error| BuildError::new(BuildPhase::Base, error));
    let layer = blocking(BuildPhase::Base, repack).await?;
    let documents = bases::base_documents(&layer).map_err(|error| BuildError::new(BuildPhase::Base, error))?;
    blobs.upload(&layer).await.map_err(failed(BuildPhase::Base))?;
    blobs.put(&documents.config_digest, documents.config).await.map_err(failed(BuildPhase::Base))?;
    blobs.put(&documents.image, documents.manifest).await.map_err(failed(BuildPhase::Base))?;
    Ok(documents.image)
}

async fn bootstrap(
    recipe: &BaseRecipe,
    cgroup: &str,
    scratch: &Path,
    archive: &Path,
    output: &Output,
) -> Result<(), BuildError> {
    let group = Cgroup::named(cgroup);
    group.create(&LIMITS).map_err(failed(BuildPhase::Base))?;
    // mmdebstrap mounts file systems. The mounts and any leftover processes are in private namespaces and end with
    // mmdebstrap, even after a crash or a kill.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ENTER, "sh"]).args(group.limiting_entrances()).arg("--");
    command.args([
        "unshare",
        "--mount",
        "--propagation=private",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
        "mmdebstrap",
    ]);
    let has_merged_usr = Path::new(bases::MERGED_USR).is_dir();
    command.args(bases::bootstrap_arguments(recipe, scratch, archive, has_merged_usr));
    command.env("SOURCE_DATE_EPOCH", bases::base_time().to_string()).env("TMPDIR", scratch);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| BuildError::new(BuildPhase::Base, error))?;
    let ended = async {
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                output.program(&line);
            }
        }
        child.wait().await
    };
    let status = unless_cancelled(output, ended).await?.map_err(|error| BuildError::new(BuildPhase::Base, error))?;
    if status.success() {
        return Ok(());
    }
    let hint = match status.code() {
        Some(127) => Some("install it (apt-get install mmdebstrap util-linux)"),
        _ => remedy::of_unknown_authority(&output.tail(TAIL)),
    };
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    let message = format!("mmdebstrap failed ({status}){hint}");
    Err(BuildError { phase: BuildPhase::Base, message, tail: output.shown(TAIL) })
}
