//! A request of etcd's JSON gateway: the path up to the first line end, then the body.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, body) = bytes.split_at(end);
    let _ = gantry_etcd_gateway::parse(&String::from_utf8_lossy(path), body.get(1..).unwrap_or_default());
});
