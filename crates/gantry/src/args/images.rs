//! Arguments of the commands for images.

use std::path::PathBuf;

use clap::Subcommand;

use super::Machine;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Show the size of an image by layer, and how to shrink it
    Report {
        /// Image of Gantry's registry, such as `shop:1.2` or `base/debian`
        #[arg(value_name = "REF")]
        reference: String,
        /// Run a command in the image, and show which files no process opened. Its output goes to standard error
        #[arg(long = "run", requires = "command")]
        trace: bool,
        /// Program with its arguments
        #[arg(last = true, requires = "trace")]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageSnapshot {
    /// Write all bases and stacks, and the images that this machine holds, into one file
    ///
    /// The file contains the layers. The server must be reachable. On a machine without an agent, the file has the bases
    /// and stacks alone.
    Save {
        #[command(flatten)]
        machine: Box<Machine>,
        /// File to write
        file: PathBuf,
    },
    /// Unpack the images of a snapshot on this machine; needs no server
    ///
    /// Every digest is verified before anything is written. The images stay until another snapshot is loaded.
    Load {
        #[command(flatten)]
        machine: Box<Machine>,
        /// Snapshot
        file: PathBuf,
    },
}
