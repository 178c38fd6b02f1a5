//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

/// The first lines of a push: the same however they are cut, and nothing that is not dropped is changed.
///
/// # Panics
/// When they are not.
pub fn opening(bytes: &[u8]) {
    let passed = |size: usize| {
        let mut opening = crate::opening::Opening::default();
        let pieces = bytes.chunks(size).map(|piece| opening.pass(bytes::Bytes::copy_from_slice(piece)));
        let mut all = pieces.collect::<Vec<_>>().concat();
        all.extend_from_slice(&opening.rest());
        all
    };
    let whole = passed(bytes.len().max(1));
    assert!(bytes.ends_with(&whole));
    assert_eq!(whole, passed(1));
}

/// What git hands to the hooks of a push: pkt-lines, and in each a ref.
pub fn push(bytes: &[u8]) {
    if let Ok(lines) = crate::hook::read_lines(&mut &bytes[..]) {
        lines.iter().for_each(|line| drop(crate::hook::update(line)));
    }
}
