//! Manifests, indexes and configurations of images. A manifest that was read survives a round trip of writing and
//! reading.
#![no_main]
use gantry_image::{Config, Manifest, Referrer, Selection, subject};
use gantry_model::ImageSettings;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Selection::default().next(&gantry_blobs::DigestHasher::of(bytes), bytes);
    let refers = subject(bytes).ok().flatten().is_some();
    assert_eq!(Referrer::parse(gantry_blobs::DigestHasher::of(bytes), bytes).is_some(), refers);
    // The input is a manifest, a line break, and the image's configuration.
    let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (manifest, config) = bytes.split_at(cut);
    if let Ok(manifest) = Manifest::parse(manifest) {
        let text = serde_json::to_vec(&manifest).expect("written");
        assert_eq!(Manifest::parse(&text).expect("read again"), manifest);
        if let Ok(config) = Config::parse(config, &manifest) {
            assert_eq!(config.rootfs.diff_ids.len(), manifest.layers.len());
            let _ = gantry_build::Recipe::of_image(&config.config, &ImageSettings::default());
        }
    }
});
