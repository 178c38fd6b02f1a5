//! The first protocol lines of a push.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_git::fuzz::opening(bytes));
