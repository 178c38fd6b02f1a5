//! The PROXY protocol header of a trusted proxy.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::preamble(bytes));
