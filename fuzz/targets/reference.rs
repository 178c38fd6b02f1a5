//! References that a person or a file writes: of images, names, sizes and stores.
#![no_main]
use gantry_model::{AppName, BaseName, Bytes, Digest, HostName, MilliCpu, RoleName};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = gantry_image::Remote::parse(&text);
    let _ = text.parse::<gantry_store::StoreAddress>();
    let _ = (serde_json::from_slice::<Bytes>(bytes), serde_json::from_slice::<MilliCpu>(bytes));
    // An accepted name appears in paths, host names and arguments.
    let plain =
        |name: &str| !["", ".", ".."].contains(&name) && !name.starts_with('-') && !name.contains(['/', '\0', ' ']);
    assert!(AppName::parse(&text).is_err() || plain(&text));
    assert!(RoleName::parse(&text).is_err() || plain(&text));
    assert!(BaseName::parse(&text).is_err() || plain(&text));
    assert!(HostName::parse(&text).is_err() || plain(&text));
    assert!(text.parse::<Digest>().is_err() || plain(&text));
});
