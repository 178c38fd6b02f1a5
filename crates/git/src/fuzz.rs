//! Entry points of the fuzz targets (`fuzz/`): the parsers that read untrusted bytes.

/// Parses the first lines of a push in pieces of any size. The output must not depend on the size, and must be a suffix
/// of the input.
///
/// # Panics
/// When the output is wrong.
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

/// Parses what git gives the hooks of a push: pkt-lines with a ref in each.
pub fn push(bytes: &[u8]) {
    if let Ok(lines) = crate::hook::pkt_line::read_lines(&mut &bytes[..]) {
        lines.iter().for_each(|line| drop(crate::hook::refs::parse_update(line)));
    }
}
