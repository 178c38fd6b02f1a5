//! The archive of a pushed tree.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_build::fuzz::source(bytes));
