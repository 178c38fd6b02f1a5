//! Parsers of untrusted bytes, exposed to the fuzz targets (`fuzz/`).

use std::path::PathBuf;

use gantry_image::Accounts;

/// Resolves the user of an image. Asserts that no id is `u32::MAX`, which the kernel reads as "unchanged".
pub fn user(user: &str, layers: &[PathBuf]) {
    if let Ok(found) = Accounts::read(layers).find(user) {
        assert!(found.uid != u32::MAX && found.gid != u32::MAX);
    }
}
