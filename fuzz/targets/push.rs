//! The input that git gives to the hooks of a push.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_git::fuzz::push(bytes));
