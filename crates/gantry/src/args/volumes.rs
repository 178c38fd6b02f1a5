//! Arguments of the commands for volumes.

use std::path::PathBuf;

use clap::Subcommand;
use gantry_model::{AppName, Bytes, VolumeName};

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// List the volumes of an app, or of all apps
    Ls { app: Option<AppName> },
    /// Show a volume: where roles have it, its owner, size, files and snapshots, and who has it now
    Show { app: AppName, name: VolumeName },
    /// Remove a volume and its snapshots; refused while a container has it
    Rm {
        app: AppName,
        name: VolumeName,
        /// Remove the volume even if a role of the current release names it
        #[arg(long)]
        force: bool,
    },
    /// Write a volume as a tar archive: owners as in the container, modes, times, attributes, links, sparse files
    ///
    /// The archive of a volume in use has the files of a running program, from different moments. Stop the program
    /// first, or use its own dump.
    Export {
        app: AppName,
        name: VolumeName,
        /// File; compressed with zstd if its name ends in .zst. By default standard output, not compressed
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a volume of a tar archive (plain, gzip or zstd); refused while a container has the volume
    ///
    /// The volume gets the archive's content in one step, or stays as it is.
    Import {
        app: AppName,
        name: VolumeName,
        /// Put the archive in the place of the volume's content
        #[arg(long)]
        replace: bool,
        /// Limit on the unpacked archive; by default the disk limit of the role
        #[arg(long, value_name = "SIZE", value_parser = Bytes::parse)]
        limit: Option<Bytes>,
        /// Archive; standard input by default
        file: Option<PathBuf>,
    },
    /// Make, list, remove and restore copies of a volume beside the volume; makes one by default
    ///
    /// A snapshot stops nothing. Its files are copied one after the other: the snapshot of a volume in use has files of
    /// different moments. For files of one moment, stop the program first with `gantry scale APP ROLE=0`.
    Snapshot {
        app: AppName,
        name: VolumeName,
        #[command(subcommand)]
        what: Option<Snapshot>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Make a snapshot, at most 20 of a volume
    Create {
        /// Name of the snapshot; by default made from the time
        snapshot: Option<VolumeName>,
    },
    /// List the snapshots
    Ls,
    /// Remove a snapshot
    Rm {
        /// Name of the snapshot
        snapshot: VolumeName,
    },
    /// Replace the volume's content with a copy of a snapshot; refused while a container has the volume
    Restore {
        /// Name of the snapshot
        snapshot: VolumeName,
    },
}
