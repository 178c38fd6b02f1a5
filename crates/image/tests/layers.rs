//! Tests of layers: written, unpacked, changed and written again; and hostile layers.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use gantry_image::{Bounds, LayerWriter, Meta, UnpackError, diff, unpack};
use tar::{Builder, EntryType, Header};

const META: Meta = Meta { mode: 0o644, uid: 7, gid: 8, mtime: 1_000_000 };

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn sample(folder: &Path) -> gantry_image::Layer {
    let mut writer = LayerWriter::new(folder).expect("begun");
    let long = "x".repeat(150);
    let script: Vec<(String, Vec<u8>)> = vec![("user.note".into(), b"v".to_vec())];
    let wrote = (|| -> std::io::Result<()> {
        writer.folder(Path::new("a"), Meta { mode: 0o750, ..META })?;
        writer.xattrs(&script)?;
        writer.file(Path::new("a/file"), META, 5, &b"hello"[..])?;
        writer.hard_link(Path::new("a/other"), META, Path::new("a/file"))?;
        writer.symlink(Path::new("a/link"), META, Path::new("/etc/passwd"))?;
        writer.file(Path::new(&format!("a/{long}")), Meta { mode: 0o4755, ..META }, 0, &b""[..])?;
        writer.fifo(Path::new("a/pipe"), META)
    })();
    wrote.expect("written");
    writer.finish().expect("finished")
}

#[test]
fn an_unpacked_layer_equals_its_source() {
    let folder = scratch();
    let into = folder.path().join("into");
    std::fs::create_dir(&into).expect("made");
    let layer = sample(folder.path());
    let (digest, diff_id) = (layer.digest.clone(), layer.diff_id.clone());
    let unpacked = unpack(layer.file, &into, Bounds::default()).expect("unpacked");
    assert_eq!((unpacked.digest, unpacked.diff_id, unpacked.bytes), (digest, diff_id, 5));
    let file = std::fs::metadata(into.join("a/file")).expect("there");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime(), file.nlink()), (0o644, 7, 8, 1_000_000, 2));
    assert_eq!(std::fs::metadata(into.join("a")).expect("there").mtime(), 1_000_000);
    assert_eq!(std::fs::metadata(into.join("a")).expect("there").permissions().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(into.join("a/link")).expect("a link"), Path::new("/etc/passwd"));
    let suid = std::fs::metadata(into.join(format!("a/{}", "x".repeat(150)))).expect("there");
    assert_eq!(suid.mode() & 0o7777, 0o4755);
    assert!(std::fs::metadata(into.join("a/pipe")).expect("there").file_type().is_fifo());
    let mut note = [0; 1];
    rustix::fs::getxattr(into.join("a/file"), "user.note", &mut note[..]).expect("an attribute");
    assert_eq!(&note, b"v");
}

#[test]
fn an_owner_beyond_a_container_s_users_is_nobody() {
    let folder = scratch();
    let into = folder.path().join("into");
    std::fs::create_dir(&into).expect("made");
    let mut writer = LayerWriter::new(folder.path()).expect("begun");
    let owners = [(65_535, 65_535), (65_536, 8), (7, 100_000), (1_000_680_000, 1_000_680_000)];
    for (number, (uid, gid)) in owners.into_iter().enumerate() {
        let meta = Meta { uid, gid, ..META };
        writer.file(Path::new(&format!("file-{number}")), meta, 0, &b""[..]).expect("written");
        writer.symlink(Path::new(&format!("link-{number}")), meta, Path::new("x")).expect("written");
        writer.folder(Path::new(&format!("folder-{number}")), meta).expect("written");
    }
    let layer = writer.finish().expect("finished");
    unpack(layer.file, &into, Bounds::default()).expect("unpacked");
    for (number, expected) in [(65_535, 65_535), (65_534, 8), (7, 65_534), (65_534, 65_534)].into_iter().enumerate() {
        for kind in ["file", "link", "folder"] {
            let found = std::fs::symlink_metadata(into.join(format!("{kind}-{number}"))).expect("there");
            assert_eq!((found.uid(), found.gid()), expected, "{kind} of {:?}", owners[number]);
        }
    }
}

/// `cap_net_bind_service=ep`, as `setcap` writes the attribute (revision 2), and as root of a user namespace does
/// (revision 3).
#[test]
fn a_file_s_capabilities_are_kept_and_not_effective() {
    for (revision, rest) in [(2, 0), (3, 4)] {
        let mut capabilities = vec![1, 0, 0, revision, 0, 4, 0, 0];
        capabilities.resize(20 + rest, 0);
        let folder = scratch();
        let into = folder.path().join("into");
        std::fs::create_dir(&into).expect("made");
        let mut writer = LayerWriter::new(folder.path()).expect("begun");
        let name = "security.capability";
        writer.xattrs(&[(name.into(), capabilities.clone())]).expect("written");
        writer.file(Path::new("low"), META, 0, &b""[..]).expect("written");
        let layer = writer.finish().expect("finished");
        let (file, diff_id) = (layer.file, layer.diff_id);
        assert_eq!(unpack(file, &into, Bounds::default()).expect("unpacked").diff_id, diff_id, "the layer is the same");
        let mut found = [0; 64];
        let length = rustix::fs::getxattr(into.join("low"), name, &mut found[..]).expect("an attribute");
        capabilities[0] = 0;
        // The kernel shows root of the initial namespace revision 2.
        assert_eq!((found[0], &found[4..length.min(20)]), (0, &capabilities[4..20]), "revision {revision}");
    }
}

#[test]
fn the_same_input_gives_the_same_digest() {
    let folder = scratch();
    assert_eq!(sample(folder.path()).digest, sample(folder.path()).digest);
}

#[test]
fn changes_become_a_layer_that_unpacks_to_the_same_files() {
    let folder = scratch();
    let upper = folder.path().join("upper");
    for path in ["etc", "kept/deep", "opaque", "proc"] {
        std::fs::create_dir_all(upper.join(path)).expect("made");
    }
    std::fs::write(upper.join("etc/hosts"), "a mount's place").expect("written");
    std::fs::write(upper.join("kept/deep/new"), "new").expect("written");
    std::fs::hard_link(upper.join("kept/deep/new"), upper.join("kept/same")).expect("linked");
    symlink("/outside", upper.join("kept/link")).expect("linked");
    let character = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("kept/gone"), character, mode, 0).expect("a whiteout");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(upper.join("opaque"), "trusted.overlay.opaque", b"y", flags).expect("opaque");
    let make =
        || diff(&upper, &["etc/hosts", "proc"], None, u64::MAX, folder.path()).expect("a diff").expect("something");
    let layer = make();
    assert_eq!(layer.digest, make().digest);
    let mut names = Vec::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.file));
    for entry in archive.entries().expect("entries") {
        names.push(entry.expect("an entry").path().expect("a path").display().to_string());
    }
    let expected = [
        "kept",
        "kept/deep",
        "kept/deep/new",
        "kept/.wh.gone",
        "kept/link",
        "kept/same",
        "opaque",
        "opaque/.wh..wh..opq",
    ];
    assert_eq!(names, expected);
    let into = folder.path().join("into");
    std::fs::create_dir(&into).expect("made");
    unpack(make().file, &into, Bounds::default()).expect("unpacked");
    let gone = std::fs::symlink_metadata(into.join("kept/gone")).expect("a whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let again = diff(&into, &[], None, u64::MAX, folder.path()).expect("a diff").expect("something");
    assert_eq!(again.diff_id, make().diff_id);
    let empty = folder.path().join("empty");
    std::fs::create_dir_all(empty.join("proc")).expect("made");
    assert!(diff(&empty, &["proc"], None, u64::MAX, folder.path()).expect("a diff").is_none());
}

/// Appends an entry of a hostile archive. The path is written raw, since `tar` refuses such paths.
fn raw(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    builder.append(&header, content).expect("appended");
}

type HostileEntry = (EntryType, &'static str, &'static str);

#[test]
fn no_archive_reaches_outside_its_folder() {
    use EntryType::{Block, Char, Directory, Link, Regular, Symlink};
    let out = "OUT"; // replaced by the path of a folder outside
    let cases: Vec<Vec<HostileEntry>> = vec![
        vec![(Regular, "../escaped", "")],
        vec![(Regular, "/../escaped", "")],
        vec![(Regular, "a/../../escaped", "")],
        vec![(Symlink, "s", out), (Regular, "s/escaped", "")],
        vec![(Symlink, "s", ".."), (Regular, "s/escaped", "")],
        vec![(Symlink, "a", "b"), (Symlink, "b", out), (Regular, "a/escaped", "")],
        vec![(Symlink, "s", out), (Directory, "s", ""), (Regular, "s/escaped", "")],
        vec![(Symlink, "s", "OUT/victim"), (Regular, "s", "")],
        vec![(Link, "l", "OUT/victim"), (Regular, "l", "")],
        vec![(Link, "l", "../victim")],
        vec![(Symlink, "s", "OUT/victim"), (Link, "l", "s"), (Regular, "l", "")],
        vec![(Symlink, "s", out), (Regular, "s/.wh.victim", "")],
        vec![(Symlink, "s", out), (Regular, "s/.wh..wh..opq", "")],
        vec![(Regular, ".wh...", "")],
        vec![(Regular, ".wh.", "")],
        vec![(Symlink, "s", "loop"), (Symlink, "loop", "s"), (Regular, "s/escaped", "")],
        vec![(Char, "null", "")],
        vec![(Block, "disk", "")],
        vec![(Symlink, "s", "/proc/self/root/OUT"), (Regular, "s/escaped", "")],
        vec![(Directory, "d", ""), (Symlink, "d", out), (Regular, "d/escaped", "")],
        vec![(Link, "l", "l")],
        vec![(Regular, "f", ""), (Regular, "f/below", "")],
    ];
    for case in cases {
        let folder = scratch();
        let (outside, into) = (folder.path().join("outside"), folder.path().join("into"));
        std::fs::create_dir(&outside).expect("made");
        std::fs::create_dir(&into).expect("made");
        std::fs::write(outside.join("victim"), "untouched").expect("written");
        let mut builder = Builder::new(Vec::new());
        for (kind, path, link) in &case {
            let link = link.replace("OUT", outside.to_str().expect("text"));
            raw(&mut builder, *kind, path, &link, if *kind == Regular { b"bad" } else { b"" });
        }
        let archive = builder.into_inner().expect("an archive");
        let outcome = unpack(archive.as_slice(), &into, Bounds::default());
        let names: Vec<_> =
            std::fs::read_dir(&outside).expect("read").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names, ["victim"], "{case:?}: {outcome:?}");
        assert_eq!(std::fs::read_to_string(outside.join("victim")).expect("read"), "untouched", "{case:?}");
        assert!(!folder.path().join("escaped").exists() && !Path::new("/escaped").exists(), "{case:?}");
        for name in ["null", "disk"] {
            assert!(!into.join(name).exists(), "a device was made");
        }
    }
}

#[test]
fn enforces_bounds_against_false_headers() {
    let into = scratch();
    let zeros = flate2::read::GzEncoder::new(std::io::repeat(0).take(64 << 20), flate2::Compression::fast());
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(64 << 20);
    header.set_mode(0o644);
    builder.append_data(&mut header, "bomb", std::io::repeat(0).take(64 << 20)).expect("appended");
    let tar = builder.into_inner().expect("an archive");
    let bounds = Bounds { bytes: 1 << 20, entries: 10 };
    assert!(matches!(unpack(tar.as_slice(), into.path(), bounds), Err(UnpackError::TooLarge(_))));
    assert!(unpack(zeros, scratch().path(), Bounds::default()).is_ok(), "an empty archive with a long tail");
    let mut many = Builder::new(Vec::new());
    (0..20).for_each(|n| raw(&mut many, EntryType::Directory, &format!("d{n}"), "", b""));
    let many = many.into_inner().expect("an archive");
    assert!(matches!(unpack(many.as_slice(), scratch().path(), bounds), Err(UnpackError::TooLarge(_))));
    let cut = &tar[..tar.len() / 2];
    assert!(matches!(unpack(cut, scratch().path(), Bounds::default()), Err(UnpackError::Stream(_))));
}

#[test]
fn owners_in_a_range_of_their_own_are_the_images_in_a_layer() {
    let folder = scratch();
    let upper = folder.path().join("upper");
    std::fs::create_dir(&upper).expect("made");
    for (name, owner) in [("mine", 0x7000_0000 + 1000), ("roots", 0x7000_0000), ("the-machines", 0)] {
        std::fs::write(upper.join(name), "").expect("written");
        std::os::unix::fs::chown(upper.join(name), Some(owner), Some(owner)).expect("given");
    }
    let layer = diff(&upper, &[], Some(0x7000_0000), u64::MAX, folder.path()).expect("a diff").expect("something");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.file));
    let owners: Vec<u64> = archive
        .entries()
        .expect("entries")
        .map(|entry| entry.expect("one").header().uid().expect("an owner"))
        .collect();
    assert_eq!(owners, [1000, 0, 0]);
}

/// A layer of a megabyte unpacks to a gibibyte. The disk has 64 MB above the reserve in one case, and nothing in the
/// other.
#[tokio::test]
async fn a_layer_that_would_fill_the_disk_is_refused_with_the_numbers() {
    let folder = scratch();
    let mut writer = LayerWriter::new(folder.path()).expect("begun");
    writer.file(Path::new("zeros"), META, 1 << 30, std::io::repeat(0).take(1 << 30)).expect("written");
    let mut layer = writer.finish().expect("finished");
    let mut bytes = Vec::new();
    layer.file.read_to_end(&mut bytes).expect("read");
    let descriptor = layer.descriptor();
    let bytes = bytes::Bytes::from(bytes);
    let free = gantry_linux::disk::free(folder.path());
    for reserve in [u64::MAX, free - (64 << 20)] {
        let layers = gantry_image::Layers::in_folder(&folder.path().join("layers"), reserve).expect("a folder");
        let pieces = vec![Ok(bytes.clone())];
        let stream = Box::pin(futures_util::stream::iter(pieces));
        let error = layers.unpack(&descriptor, &layer.diff_id, stream).await.expect_err("refused").to_string();
        assert!(error.contains(" free of ") && error.contains("`gantry status`"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("layers")).expect("there").count(), 0);
    }
}

#[tokio::test]
async fn a_layer_is_unpacked_to_its_end_after_its_caller_left() {
    let folder = scratch();
    let mut writer = LayerWriter::new(folder.path()).expect("begun");
    writer.file(Path::new("hello"), META, 5, &b"hello"[..]).expect("written");
    let mut layer = writer.finish().expect("finished");
    let mut bytes = Vec::new();
    layer.file.read_to_end(&mut bytes).expect("read");
    let descriptor = layer.descriptor();
    let layers = gantry_image::Layers::in_folder(&folder.path().join("layers"), 0).expect("a folder");
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // The stream sends its bytes only after the caller has stopped waiting.
    let stream = futures_util::stream::once(async move {
        let _ = receiver.await;
        Ok(bytes::Bytes::from(bytes))
    });
    let waiting = layers.unpack(&descriptor, &layer.diff_id, Box::pin(stream));
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err(), "it waits");
    sender.send(()).expect("it goes on");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !layers.has(&layer.diff_id) {
        assert!(std::time::Instant::now() < deadline, "it is lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let there = || std::fs::read_dir(folder.path().join("layers")).expect("there").count();
    assert_eq!(there(), 1, "nothing half made stays");
}

/// Creates a file from pieces, given as offset and content, with holes between.
fn holed(path: &Path, size: u64, pieces: &[(u64, &[u8])]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).expect("made");
    file.set_len(size).expect("sized");
    for (offset, content) in pieces {
        file.write_all_at(content, *offset).expect("written");
    }
}

#[test]
fn sparse_files_of_every_dialect_are_read() {
    use std::os::unix::fs::MetadataExt;
    let from = scratch();
    let many: Vec<(u64, &[u8])> = (0..200).map(|n| (n * 65_536, &b"piece"[..])).collect();
    holed(&from.path().join("hole-first"), 2 << 20, &[(1 << 20, b"x")]);
    holed(&from.path().join("hole-last"), 3 << 20, &[(0, b"begin"), (1 << 20, b"middle")]);
    holed(&from.path().join("hole-alone"), 1 << 20, &[]);
    holed(&from.path().join("many-holes"), 20 << 20, &many);
    holed(&from.path().join(format!("name-{}", "n".repeat(150))), 1 << 20, &[(4096, b"y")]);
    std::fs::write(from.path().join("plain"), "plain").expect("written");
    for dialect in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let mut command = std::process::Command::new("tar");
        command.args(["-cS"]).args(dialect).arg("-C").arg(from.path()).arg(".");
        let archive = command.output().expect("tar runs").stdout;
        assert!(archive.len() < 4 << 20, "{dialect:?}: it is not sparse: {}", archive.len());
        let into = scratch();
        unpack(&archive[..], into.path(), Bounds::default()).unwrap_or_else(|error| panic!("{dialect:?}: {error}"));
        for entry in std::fs::read_dir(from.path()).expect("read") {
            let entry = entry.expect("an entry");
            let found = into.path().join(entry.file_name());
            let same = std::fs::read(&found).expect("there") == std::fs::read(entry.path()).expect("read");
            assert!(same, "{dialect:?}: {:?}", entry.file_name());
        }
        assert_eq!(std::fs::read_dir(into.path()).expect("read").count(), 6, "{dialect:?}");
        let taken = std::fs::metadata(into.path().join("many-holes")).expect("there").blocks() * 512;
        assert!(taken < 18 << 20, "{dialect:?}: its holes take {taken} bytes");
        // `members` reads other archives than layers, and refuses sparse files by name.
        let error = gantry_image::members(&archive[..], |error| error.to_string(), |_| Ok(())).expect_err("refused");
        assert!(error.contains("is a sparse file; make the archive without --sparse"), "{dialect:?}: {error}");
    }
}

/// A folder as a database leaves it: owners, modes, times, attributes, links, holes, and names that mean something in a
/// layer.
fn database(top: &Path) {
    let chown = |path: &str, id| std::os::unix::fs::lchown(top.join(path), Some(id), Some(id + 1)).expect("given");
    std::fs::create_dir_all(top.join("data/base/5")).expect("made");
    std::fs::write(top.join("data/PG_VERSION"), "15\n").expect("written");
    std::fs::write(top.join(format!("data/{}", "n".repeat(200))), "long").expect("written");
    std::fs::write(top.join("data/.wh.gone"), "no whiteout").expect("written");
    let holes = [(1 << 20, &b"page"[..]), (3 << 20, &b"x"[..])];
    holed(&top.join("data/base/5/1259"), 8 << 20, &holes);
    holed(&top.join("data/base/5/empty"), 2 << 20, &[]);
    std::fs::write(top.join("data/base/5/zeros"), vec![0; 4096]).expect("written");
    std::fs::hard_link(top.join("data/base/5/1259"), top.join("data/linked")).expect("linked");
    symlink("/var/lib//elsewhere/", top.join("data/pg_wal")).expect("linked");
    rustix::fs::mkfifoat(rustix::fs::CWD, top.join("data/pipe"), 0o640.into()).expect("made");
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(top.join("data/PG_VERSION"), name, value, rustix::fs::XattrFlags::empty()).expect("set");
    };
    set("user.note", b"plain");
    set("user.lines", b"one\ntwo\n");
    for (path, id) in [("data", 70), ("data/PG_VERSION", 70), ("data/base/5/1259", 1000), ("data/pg_wal", 65_534)] {
        chown(path, id);
    }
    std::fs::set_permissions(top.join("data"), std::fs::Permissions::from_mode(0o700)).expect("set");
    std::fs::set_permissions(top.join("data/base"), std::fs::Permissions::from_mode(0o2770)).expect("set");
    std::fs::set_permissions(top, std::fs::Permissions::from_mode(0o1750)).expect("set");
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::open(top.join("data/PG_VERSION")).and_then(|file| file.set_modified(old)).expect("set");
}

/// Everything in a folder that an archive must keep.
fn described(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    gantry_linux::walk::walk(&gantry_linux::walk::top(top).expect("opened"), &mut |node| {
        let path = top.join(node.path);
        let about = path.symlink_metadata()?;
        let content = match () {
            () if about.is_file() => format!("{:?}", crc(&std::fs::read(&path)?)),
            () if about.is_symlink() => std::fs::read_link(&path)?.display().to_string(),
            () => String::new(),
        };
        let xattrs = if about.is_symlink() || about.file_type().is_fifo() {
            Vec::new()
        } else {
            gantry_linux::walk::xattrs(node.open()?, |name| name.starts_with("user."))?
        };
        let (size, links) = if about.is_dir() { (0, 0) } else { (about.len(), about.nlink()) };
        found.push(format!(
            "{} {:o} {}:{} {}.{} {size} {links} {content} {xattrs:?}",
            node.path.display(),
            about.mode(),
            about.uid(),
            about.gid(),
            about.mtime(),
            about.mtime_nsec(),
        ));
        Ok(())
    })
    .expect("walked");
    found
}

fn crc(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[test]
fn an_unpacked_volume_equals_its_source() {
    let folder = scratch();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).expect("made");
    database(&from);
    let top = gantry_linux::walk::top(&from).expect("opened");
    let expected = described(&from);
    for compress in [false, true] {
        let mut archive = Vec::new();
        let archived = gantry_image::export(&top, &mut archive, compress).expect("exported");
        assert_eq!((archived.entries, archived.changed), (expected.len() as u64, 0));
        assert!(archive.len() < 100 << 10, "holes were written: {}", archive.len());
        let into = folder.path().join(format!("into-{compress}"));
        std::fs::create_dir(&into).expect("made");
        gantry_image::unpack_volume(archive.as_slice(), &into, Bounds::default()).expect("unpacked");
        assert_eq!(described(&into), expected);
        let holes = std::fs::metadata(into.join("data/base/5/1259")).expect("there").blocks() * 512;
        assert!(holes < 1 << 20, "holes were filled: {holes}");
        if !compress {
            // GNU tar reads the archive too.
            let other = folder.path().join("gnu");
            std::fs::create_dir(&other).expect("made");
            std::fs::write(folder.path().join("a.tar"), &archive).expect("written");
            let mut tar = std::process::Command::new("tar");
            tar.args(["-x", "--numeric-owner", "--xattrs", "--xattrs-include=user.*", "-p", "-f"])
                .arg(folder.path().join("a.tar"))
                .arg("-C")
                .arg(&other);
            assert!(tar.status().expect("tar").success());
            // A list skips the content of each file.
            let mut list = std::process::Command::new("tar");
            list.arg("-tf").arg(folder.path().join("a.tar"));
            let list = list.output().expect("tar");
            let names = String::from_utf8_lossy(&list.stdout).lines().count();
            assert!(list.status.success() && names == expected.len(), "{}", String::from_utf8_lossy(&list.stderr));
            // GNU tar knows no attributes in the dialect of libarchive.
            let without = |lines: &[String]| -> Vec<String> {
                lines.iter().filter(|line| !line.contains("PG_VERSION")).cloned().collect()
            };
            assert_eq!(without(&described(&other)), without(&expected));
        }
    }
}

#[test]
fn an_archive_of_a_volume_that_is_cut_or_has_devices_is_refused() {
    let folder = scratch();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).expect("made");
    database(&from);
    let mut whole = Vec::new();
    gantry_image::export(&gantry_linux::walk::top(&from).expect("opened"), &mut whole, false).expect("exported");
    let refused = |bytes: &[u8]| {
        let into = tempfile::tempdir().expect("a folder");
        gantry_image::unpack_volume(bytes, into.path(), Bounds::default()).expect_err("refused")
    };
    for end in (0..whole.len()).step_by(512).filter(|end| whole.len() - end > 1024) {
        let error = refused(&whole[..end]);
        let told = matches!(error, UnpackError::Cut | UnpackError::Stream(_));
        assert!(told, "cut at {end} of {}: {error}", whole.len());
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Char);
    header.set_size(0);
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header, "kmsg", std::io::empty()).expect("written");
    let error = refused(&tar.into_inner().expect("finished")).to_string();
    assert!(error.contains("kmsg") && error.contains("it is a device"), "{error}");
}
