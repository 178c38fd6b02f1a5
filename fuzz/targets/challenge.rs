//! A registry's authentication challenge, which names the token endpoint.
#![no_main]
use std::sync::LazyLock;

use gantry_image::Remote;

static REMOTE: LazyLock<Remote> =
    LazyLock::new(|| Remote::parse("registry.example/shop:1").expect("a reference").expect("with a registry"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gantry_image::fuzz::challenge(&String::from_utf8_lossy(bytes), &REMOTE);
});
