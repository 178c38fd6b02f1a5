//! The recipe of a base.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = gantry_build::bases::BaseRecipe::parse(&String::from_utf8_lossy(bytes));
});
