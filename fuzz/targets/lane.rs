//! The frames of a lane between two routers, and the requests in them.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::lane(bytes));
