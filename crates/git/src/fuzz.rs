//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

/// What git hands to the hooks of a push: pkt-lines, and in each a ref.
pub fn push(bytes: &[u8]) {
    if let Ok(lines) = crate::hook::read_lines(&mut &bytes[..]) {
        lines.iter().for_each(|line| drop(crate::hook::update(line)));
    }
}
