//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

use std::path::PathBuf;

use gantry_image::Accounts;

/// The user of an image: none that means "unchanged" to the kernel.
pub fn user(user: &str, layers: &[PathBuf]) {
    if let Ok(found) = Accounts::read(layers).find(user) {
        assert!(found.uid != u32::MAX && found.gid != u32::MAX);
    }
}
