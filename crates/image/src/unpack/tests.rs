use super::header::{seconds, xattr};

#[test]
fn seconds_of_extended_headers_are_read_to_the_nanosecond() {
    for (text, expected) in [
        ("1790000000.25", Some((1_790_000_000, 250_000_000))),
        ("1", Some((1, 0))),
        ("1.", Some((1, 0))),
        ("0.0000000019", Some((0, 1))),
        ("-1.5", Some((-2, 500_000_000))),
        ("-1", Some((-1, 0))),
        ("", None),
        ("-", None),
        ("1.x", None),
        ("1.-5", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(seconds(text).map(|time| (time.tv_sec, time.tv_nsec)), expected, "{text}");
    }
}

#[test]
fn attributes_of_both_dialects_are_read() {
    let read = |key: &str, value: &[u8]| xattr(key.as_bytes(), value);
    let expected = Some(("user.a".to_owned(), b"a\nb".to_vec()));
    assert_eq!(read("SCHILY.xattr.user.a", b"a\nb").expect("read"), expected);
    assert_eq!(read("LIBARCHIVE.xattr.user.a", b"YQpi").expect("read"), expected);
    assert_eq!(
        read("LIBARCHIVE.xattr.user.a", b"YQ==").expect("read"),
        read("LIBARCHIVE.xattr.user.a", b"YQ").expect("read")
    );
    assert_eq!(read("mtime", b"1").expect("read"), None);
    assert!(read("LIBARCHIVE.xattr.user.a", b"!").is_err());
}
