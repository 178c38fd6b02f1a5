//! Reasons why an instance could not be adopted, started or removed.

use std::io;
use std::path::PathBuf;

use gantry_image::LayersError;
use gantry_model::AppName;
use gantry_sandbox::SandboxError;
use tokio::task::JoinError;

use crate::container::ExecError;
use crate::images::FetchError;

/// Failure of an operation on an instance or a one-off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("the plan no longer names the instance")]
    Unwanted,
    #[error("the instance has no record and is in no plan")]
    Unknown,
    #[error("no address is free in the machine's network; choose a larger one with --network")]
    NoAddress,
    #[error("volume {volume} of {app} is in use by {holder}, and a volume has a single writer; {remedy}")]
    VolumeInUse { volume: String, app: AppName, holder: String, remedy: String },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot pin the layers of the image")]
    Pin(#[from] LayersError),
    #[error("cannot remove the previous container")]
    Previous(#[source] SandboxError),
    #[error("cannot prepare the container's files")]
    Prepare(#[source] io::Error),
    #[error("cannot write the instance's record")]
    Record(#[source] io::Error),
    /// The sandbox names the operation itself.
    #[error(transparent)]
    Launch(SandboxError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("cannot end the container")]
    End(#[source] SandboxError),
    #[error("cannot remove the container's files")]
    Files(#[source] io::Error),
    #[error("a task of the agent ended early")]
    Task(#[from] JoinError),
    #[error("the disk of {} is read-only; the instance starts by itself once the disk is writable", data.display())]
    ReadOnly { data: PathBuf, source: Box<Self> },
}
