//! Parts of the registry's paths and headers.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_server::fuzz::registry(bytes));
