//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

use std::path::PathBuf;

use gantry_image::Runtime;

/// The user of an image: none that means "unchanged" to the kernel.
pub fn user(user: &str, layers: &[PathBuf]) {
    let runtime = Runtime { user: Some(user.to_owned()), ..Runtime::default() };
    if let Ok(found) = crate::container::user_of(&runtime, layers) {
        assert!(found.uid != u32::MAX && found.gid != u32::MAX);
    }
}
