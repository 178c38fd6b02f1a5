//! A request on its way through the router.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::request(bytes));
