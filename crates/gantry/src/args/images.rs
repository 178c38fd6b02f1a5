//! Arguments of the commands for images.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Show the size of an image by layer, and how to shrink it
    Report {
        /// Image of Gantry's registry, such as `shop:1.2` or `base/debian`
        #[arg(value_name = "REF")]
        reference: String,
    },
}
