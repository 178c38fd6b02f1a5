//! Encoding of the files behind a recipe: UTF-8, with or without a byte order mark.

/// Size limit of a text file.
pub(crate) const TEXT_MAX: usize = 256 << 10;

/// Reason why a file is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The file is too large.
    #[error("it has more than {} KiB", TEXT_MAX >> 10)]
    TooLarge,
    /// The file has another encoding.
    #[error("it is {0}; save it as UTF-8")]
    Encoding(&'static str),
    /// A line of the file is not UTF-8.
    #[error("it is not UTF-8 (line {line}); save it as UTF-8")]
    NotUtf8 {
        /// The line.
        line: usize,
    },
}

/// Decodes a file and drops the byte order mark.
///
/// # Errors
/// The apparent encoding of the file, and the remedy.
pub(crate) fn decode(bytes: &[u8]) -> Result<String, TextError> {
    if bytes.len() > TEXT_MAX {
        return Err(TextError::TooLarge);
    }
    if let Some(encoding) = foreign(bytes) {
        return Err(TextError::Encoding(encoding));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(TextError::NotUtf8 { line })
        }
    }
}

/// Name of the encoding, if the bytes cannot be an extension of ASCII.
pub(crate) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Some("UTF-16"),
        _ => {}
    }
    if !bytes.contains(&0) {
        return None;
    }
    // Without a byte order mark: text of mostly ASCII has its zeros in the same half of each pair.
    let zeros = |half: usize| bytes.iter().skip(half).step_by(2).filter(|byte| **byte == 0).count();
    let (first, second) = (zeros(0), zeros(1));
    let most = bytes.len() / 2 / 2;
    let is_pairs = (first == 0 && second > most) || (second == 0 && first > most);
    Some(if is_pairs { "UTF-16 without a byte order mark" } else { "not a text: it has zero bytes" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utf16(text: &str, little: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
    }

    #[test]
    fn a_byte_order_mark_is_dropped_and_other_encodings_are_named() {
        assert_eq!(decode(b"\xef\xbb\xbfweb: a\n").as_deref().ok(), Some("web: a\n"));
        assert_eq!(decode("web: gr\u{fc}n".as_bytes()).as_deref().ok(), Some("web: gr\u{fc}n"));
        assert_eq!(decode(b"").as_deref().ok(), Some(""));
        for (bytes, expected) in [
            (utf16("\u{feff}web: a\n", true), "it is UTF-16; save"),
            (utf16("\u{feff}web: a\n", false), "it is UTF-16; save"),
            (utf16("web: a\n", true), "UTF-16 without a byte order mark"),
            (utf16("{ web: 'a' }", false), "UTF-16 without a byte order mark"),
            (b"\xff\xfe\0\0w\0\0\0".to_vec(), "it is UTF-32"),
            (b"web: a\0b".to_vec(), "zero bytes"),
            (b"web: a\nworker: gr\xfcn\n".to_vec(), "it is not UTF-8 (line 2)"),
            (vec![b'a'; TEXT_MAX + 1], "more than 256 KiB"),
        ] {
            let error = decode(&bytes).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
