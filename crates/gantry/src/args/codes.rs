//! Arguments of the commands for stacks and uploaded code.

use std::path::PathBuf;

use clap::Subcommand;
use gantry_model::{AppName, BaseName};
use gantry_queue::QueueName;

use super::values::code_name;

#[derive(Debug, Subcommand)]
pub(crate) enum Stack {
    /// List stacks, made or not
    Ls,
    /// Build a stack, or rebuild it with the newest packages
    Create {
        /// Stack; `gantry stack ls` lists them
        #[arg(value_name = "STACK")]
        name: BaseName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Code {
    /// Upload a folder or an archive as a new revision of a code
    ///
    /// The files become one layer over the image of the stack, without a build. Jobs queued from now on run this
    /// revision.
    Upload {
        /// Code, such as `shop/report`; `report` alone belongs to the app `jobs`, which is made at first need
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        code: QueueName,
        /// Folder, or a zip, tar or tar.gz archive of one
        path: PathBuf,
        /// Stack that the code runs on, or any other base; `gantry stack ls` lists the stacks
        #[arg(long, value_name = "STACK")]
        stack: BaseName,
        /// Command; by default the file with the name of the code, or the main file
        #[arg(long, value_name = "COMMAND")]
        command: Option<String>,
    },
    /// List uploaded codes
    Ls {
        /// Only codes of this app
        app: Option<AppName>,
    },
    /// Show a code and its revisions
    Show {
        /// Code
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        code: QueueName,
    },
    /// Remove a code with all its revisions; queued jobs still run
    Rm {
        /// Code
        #[arg(value_name = "[APP/]CODE", value_parser = code_name)]
        code: QueueName,
    },
}
