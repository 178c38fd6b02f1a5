use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};
use proptest::prelude::*;

use super::*;

/// A member of a test archive: name, mode, content. A name that ends with `/` is a folder.
type Member<'a> = (&'a str, u32, &'a [u8]);

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

fn read(bytes: &[u8]) -> Result<CodeLayer, CodeError> {
    let scratch = tempfile::tempdir().expect("a folder");
    layer(file_of(bytes), scratch.path(), &mut |_| Ok(()))
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).err().expect("refused").to_string()
}

fn tar_header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

/// A tar archive. The names are written as they are.
fn tar_of(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode, content) in members {
        let kind = if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        let mut header = tar_header(kind, name, content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        archive.append(&header, *content).expect("appended");
    }
    archive.into_inner().expect("an archive")
}

/// A tar archive of one member of another kind.
fn tar_with(kind: tar::EntryType, name: &str, target: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = tar_header(tar::EntryType::Regular, "first.py", 1);
    file.set_cksum();
    archive.append(&file, &b"x"[..]).expect("appended");
    let mut header = tar_header(kind, name, 0);
    header.as_gnu_mut().expect("gnu").linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    archive.append(&header, &b""[..]).expect("appended");
    archive.into_inner().expect("an archive")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("packed");
    packed.finish().expect("packed")
}

/// A zip archive made on Unix. `change` alters each entry of the directory before it is written.
fn zip_with(members: &[Member<'_>], deflate: bool, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, mode, content) in members {
        let mut crc = Crc::new();
        crc.update(content);
        let mut packed = content.to_vec();
        if deflate {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(content).expect("packed");
            packed = encoder.finish().expect("packed");
        }
        let header = archive.len() as u32;
        let mut common = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(&packed);
        let mut entry = b"PK\x01\x02\x14\x03".to_vec();
        entry.extend(&common);
        entry.extend([0; 6]);
        entry.extend((mode << 16).to_le_bytes());
        entry.extend(header.to_le_bytes());
        entry.extend(name.as_bytes());
        change(&mut entry);
        directory.extend(entry);
    }
    let begin = archive.len() as u32;
    archive.extend(&directory);
    let count = members.len() as u16;
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend(count.to_le_bytes());
    archive.extend(count.to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(begin.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

fn zip_of(members: &[Member<'_>], deflate: bool) -> Vec<u8> {
    zip_with(members, deflate, |_| {})
}

const CODE: [Member<'static>; 4] = [
    ("report.py", 0o100_644, b"print('report')\n"),
    ("lib/", 0o040_755, b""),
    ("lib/sums.py", 0o100_644, b"def add(a, b):\n    return a + b\n"),
    ("tool", 0o100_755, b"\x7fELF"),
];

#[test]
fn the_same_files_give_the_same_layer_from_any_archive() {
    let expected = read(&tar_of(&CODE)).expect("a layer");
    assert_eq!((expected.files, expected.size), (3, 16 + 32 + 4));
    let names: Vec<&str> = expected.top.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["report.py", "tool"]);
    let mut other = CODE.to_vec();
    other.rotate_left(2);
    other.retain(|(name, ..)| !name.ends_with('/'));
    let archives =
        [gzip(&tar_of(&CODE)), tar_of(&other), zip_of(&CODE, true), zip_of(&other, false), gzip(&tar_of(&other))];
    for archive in archives {
        let layer = read(&archive).expect("a layer").layer;
        assert_eq!((&layer.digest, &layer.diff_id), (&expected.layer.digest, &expected.layer.diff_id));
    }
    let changed = [("report.py", 0o100_755, CODE[0].2), CODE[1], CODE[2], CODE[3]];
    assert_ne!(read(&tar_of(&changed)).expect("a layer").layer.digest, expected.layer.digest, "the mode counts");
}

#[test]
fn refuses_names_outside_the_folder() {
    for name in ["../x", "a/../../x", "a/..", "/etc/passwd", ".wh.etc", "a/.wh..wh..opq"] {
        for archive in [tar_of(&[(name, 0o644, b"x")]), zip_of(&[(name, 0o100_644, b"x")], true)] {
            let error = refused(&archive);
            assert!(error.contains("cannot be the name of a file"), "{name}: {error}");
        }
    }
    assert!(refused(&zip_of(&[("..\\x", 0o100_644, b"x")], true)).contains("separated by /"));
    assert!(refused(&zip_of(&[("a\0b", 0o100_644, b"x")], true)).contains("NUL"));
}

#[test]
fn nothing_is_written_through_a_link_or_a_file() {
    let through = |archive: Vec<u8>| {
        let error = refused(&archive);
        assert!(error.contains("which is not a folder"), "{error}");
    };
    through(zip_of(&[("a", 0o120_777, b"/etc"), ("a/passwd", 0o100_644, b"x")], false));
    through(zip_of(&[("a", 0o100_644, b"y"), ("a/b", 0o100_644, b"x")], false));
    // The link itself is only a link: only the program in the container follows it.
    let linked = read(&zip_of(&[("main.py", 0o100_644, b"x"), ("venv", 0o120_777, b"/usr/bin/python3")], false));
    assert_eq!(linked.expect("a layer").files, 1);
    assert!(refused(&zip_of(&[("x", 0o100_644, b"1"), ("x", 0o100_644, b"2")], true)).contains("twice"));
    assert!(refused(&zip_of(&[("x", 0o100_644, b"1"), ("./x/", 0o040_755, b"")], true)).contains("twice"));
}

#[test]
fn devices_pipes_and_links_to_nothing_are_refused() {
    use tar::EntryType;
    for (kind, word) in [(EntryType::Char, "device"), (EntryType::Block, "device"), (EntryType::Fifo, "pipe")] {
        let error = refused(&tar_with(kind, "x", ""));
        assert!(error.contains(word), "{error}");
    }
    assert!(refused(&tar_with(EntryType::Link, "x", "/etc/shadow")).contains("it is absolute"));
    assert!(refused(&tar_with(EntryType::Link, "x", "none")).contains("no earlier file"));
    assert!(refused(&tar_with(EntryType::Symlink, "x", "")).contains("without a usable target"));
    assert_eq!(read(&tar_with(EntryType::Link, "x", "first.py")).expect("a layer").files, 2);
    assert!(refused(&zip_of(&[("x", 0o020_666, b"")], false)).contains("kind"));
}

#[test]
fn bounds_sizes_against_a_false_archive_header() {
    // A second name for the same content counts, although it takes no more room in the archive.
    let bomb = gzip(&{
        let mut archive = tar_of(&[("x", 0o644, &vec![0; 6 << 20])]);
        archive.truncate(archive.len() - 1024);
        let mut header = tar_header(tar::EntryType::Link, "y", 0);
        header.as_gnu_mut().expect("gnu").linkname[0] = b'x';
        header.set_cksum();
        archive.extend(header.as_bytes());
        archive.extend([0; 1024]);
        archive
    });
    assert_eq!(read(&bomb).expect("within the limit").size, 12 << 20);
    let scratch = tempfile::tempdir().expect("a folder");
    let error = layer_within(file_of(&bomb), scratch.path(), &mut |_| Ok(()), 10 << 20).err().expect("refused");
    assert!(matches!(error, CodeError::TooLarge), "{error}");
    let smaller =
        zip_with(&[("x", 0o100_644, &[0; 100_000])], true, |entry| entry[24..28].copy_from_slice(&[9, 0, 0, 0]));
    assert!(refused(&smaller).contains("larger than the directory says"));
    let larger = zip_with(&[("x", 0o100_644, &[0; 10])], true, |entry| entry[24..28].copy_from_slice(&[99, 0, 0, 0]));
    assert!(refused(&larger).contains("smaller than the directory says"));
    let full = layer(file_of(&tar_of(&CODE)), scratch.path(), &mut |_| Err(io::Error::other("the disk is full")));
    assert!(full.err().expect("refused").to_string().contains("the disk is full"));
}

#[test]
fn damaged_and_unsupported_archives_are_refused_with_words() {
    for (bytes, word) in [
        (&b""[..], "not a zip, tar or tar.gz"),
        (b"#!/bin/sh\n", "not a zip, tar or tar.gz"),
        (b"PK\x03\x04", "cut off"),
        (&tar_of(&[]), "not a zip, tar or tar.gz"),
        (&tar_of(&[("a/", 0o755, b"")]), "no file"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(word), "{error}");
    }
    let whole = zip_of(&CODE, true);
    for (change, word) in [
        ((8, 1), "encrypted"),
        ((10, 14), "another method"),
        ((16, 0xff), "wrong checksum"),
        ((42, 200), "directory says"),
        ((46, b'z'), "another name"),
    ] {
        let (at, value) = change;
        let error = refused(&zip_with(&CODE[..1], true, |entry| entry[at] = value));
        assert!(error.contains(word), "{at}: {error}");
    }
    let error = refused(&zip_with(&[CODE[0], ("report.py2", 0o100_644, &[1; 200])], false, |entry| {
        entry[20..24].copy_from_slice(&[250, 0, 0, 0]);
    }));
    assert!(error.contains("overlap") || error.contains("cut off"), "{error}");
    for cut in 4..whole.len() {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn derives_the_command_from_the_files() {
    let top = |names: &[(&str, bool)]| -> Vec<TopFile> {
        names.iter().map(|(name, executable)| TopFile { name: (*name).to_owned(), executable: *executable }).collect()
    };
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    for (files, expected) in [
        (&[("report.py", false), ("main.py", false)][..], words(&["python3", "report.py"])),
        (&[("index.js", false), ("package.json", false)], words(&["node", "index.js"])),
        (&[("README", false), ("work.rb", false)], words(&["ruby", "work.rb"])),
        (&[("report", true)], words(&["/app/report"])),
        (&[("run.sh", false)], words(&["/bin/sh", "run.sh"])),
        (&[("a.py", false), ("b.py", false)], None),
        (&[("data.csv", false)], None),
    ] {
        assert_eq!(default_command("report", &top(files)), expected, "{files:?}");
    }
    assert_eq!(words_of("python3 -m report  --all"), ["python3", "-m", "report", "--all"]);
    assert_eq!(words_of("cat $PAYLOAD_FILE | wc"), ["/bin/sh", "-c", "cat $PAYLOAD_FILE | wc"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = read(&[b"PK", &bytes[..]].concat());
    }

    #[test]
    fn any_changed_byte_of_a_zip_is_read_or_refused(at in 0_usize..1000, value in any::<u8>()) {
        let mut archive = zip_of(&CODE, true);
        let at = at % archive.len();
        archive[at] = value;
        let _ = read(&archive);
    }
}
