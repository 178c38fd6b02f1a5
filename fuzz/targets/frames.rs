//! The frames of a session. A frame that was read survives a round trip of writing and reading.
#![no_main]
use gantry_api::frame::Frame;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut rest = bytes;
        while let Ok(Some(frame)) = Frame::read(&mut rest).await {
            let mut written = Vec::new();
            frame.write(&mut written).await.expect("written");
            assert_eq!(Frame::read(&mut &written[..]).await.expect("read").expect("one"), frame);
        }
    });
});
