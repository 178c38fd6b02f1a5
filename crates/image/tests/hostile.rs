//! Tests with hostile layers and manifests: every escape from a folder with every kind of entry, and streams with false
//! claims. Each must be refused or harmless.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_image::{Bounds, Config, Descriptor, Index, Layers, Manifest, UnpackError, unpack};
use gantry_model::Digest;
use proptest::prelude::*;
use sha2::Digest as _;
use tar::EntryType::{self, Block, Char, Directory, Fifo, Link, Regular, Symlink};

/// Builds a header and its content. The paths are written raw, since `tar` itself would refuse them.
fn entry(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().expect("gnu");
    gnu.name[..path.len()].copy_from_slice(path.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o777);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// A folder to unpack into, beside a folder that must not change.
struct UnpackFixture {
    folder: tempfile::TempDir,
}

impl UnpackFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("outside/victims")).expect("made");
        std::fs::create_dir(folder.path().join("into")).expect("made");
        std::fs::write(folder.path().join("outside/victim"), "untouched").expect("written");
        Self { folder }
    }

    fn unpack(&self, layer: impl Read) -> Result<(), UnpackError> {
        unpack(layer, &self.folder.path().join("into"), Bounds::default()).map(|_| ())
    }

    /// Lists everything outside, with permissions and link counts.
    fn outside(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["", "outside", "outside/victims"] {
            for entry in std::fs::read_dir(self.folder.path().join(folder)).expect("read") {
                let path = entry.expect("an entry").path();
                let about = std::fs::symlink_metadata(&path).expect("there");
                let nodes = std::os::unix::fs::MetadataExt::nlink(&about) * u64::from(!about.is_dir());
                found.push(format!("{} {:?} {nodes}", path.display(), about.permissions()));
            }
        }
        found.sort();
        found
    }
}

/// Kind, path and target of each entry.
type Entries<'a> = &'a [(EntryType, &'a str, &'a str)];

#[test]
fn every_way_out_with_every_kind_of_entry_stays_inside() {
    // Entries that make `way` lead outside; OUT is the folder outside.
    let ways: [(&str, Entries); 9] = [
        ("absolute link", &[(Symlink, "way", "OUT")]),
        ("relative link", &[(Symlink, "way", "../outside")]),
        ("chain of links", &[(Symlink, "one", "OUT"), (Symlink, "two", "one"), (Symlink, "way", "two")]),
        ("link through proc", &[(Symlink, "way", "/proc/self/root/OUT")]),
        ("link to its own folder and up", &[(Symlink, "dot", "."), (Symlink, "way", "dot/../../outside")]),
        ("hard link to a link", &[(Symlink, "one", "OUT"), (Link, "way", "one")]),
        ("folder that becomes a link", &[(Directory, "way", ""), (Symlink, "way", "OUT")]),
        (
            "link that becomes a folder and a link again",
            &[(Symlink, "way", "OUT"), (Directory, "way", ""), (Symlink, "way", "OUT")],
        ),
        ("dots in the name", &[(Directory, "x", ""), (Symlink, "way", "x/../../outside")]),
    ];
    let acts: [(&str, Entries); 11] = [
        ("file", &[(Regular, "way/made", "")]),
        ("overwritten file", &[(Regular, "way/victim", "")]),
        ("folder", &[(Directory, "way/made", "")]),
        ("folder of that name", &[(Directory, "way/victims", "")]),
        ("link", &[(Symlink, "way/made", "/")]),
        ("hard link there", &[(Regular, "own", ""), (Link, "way/made", "own")]),
        ("hard link from there", &[(Link, "made", "way/victim"), (Regular, "made", "")]),
        ("pipe", &[(Fifo, "way/made", "")]),
        ("device", &[(Char, "way/made", ""), (Block, "way/disk", "")]),
        ("whiteout", &[(Regular, "way/.wh.victim", "")]),
        ("opaque mark", &[(Regular, "way/victims/.wh..wh..opq", "")]),
    ];
    let mut cases = 0;
    for (way, leading) in ways {
        for (act, acting) in acts {
            let place = UnpackFixture::new();
            let out = place.folder.path().join("outside").display().to_string();
            let before = place.outside();
            let entries: Vec<Vec<u8>> = leading
                .iter()
                .chain(acting)
                .map(|(kind, path, link)| {
                    let content: &[u8] = if *kind == Regular { b"bad" } else { b"" };
                    entry(*kind, path, &link.replace("OUT", &out), content)
                })
                .collect();
            let outcome = place.unpack(archive(&entries).as_slice());
            assert_eq!(before, place.outside(), "{act} by {way}: {outcome:?}");
            let victim = std::fs::read_to_string(place.folder.path().join("outside/victim")).expect("there");
            assert_eq!(victim, "untouched", "{act} by {way}: {outcome:?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 99);
}

/// Formats a record of an extended header, which begins with its own length.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    entry(EntryType::XHeader, "pax", "", format!("{length}{rest}").as_bytes())
}

/// Builds a sparse file with its map in the extended header.
fn sparse(size: &str, map: &str, name: &str, content: &[u8]) -> Vec<u8> {
    let record = |key: &str, value: &str| {
        let rest = format!(" GNU.sparse.{key}={value}\n");
        let length = (1..4).map(|digits| rest.len() + digits).find(|all| all.to_string().len() + rest.len() == *all);
        format!("{}{rest}", length.expect("a length"))
    };
    let records = [record("size", size), record("map", map), record("name", name)].concat();
    [entry(EntryType::XHeader, "pax", "", records.as_bytes()), entry(Regular, "stored", "", content)].concat()
}

fn sized(size: [u8; 12]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("file").expect("a name");
    header.set_mode(0o644);
    header.as_gnu_mut().expect("gnu").size = size;
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("finished")
}

#[test]
fn refuses_or_tolerates_malformed_streams_in_bounded_time() {
    let file = || entry(Regular, "file", "", b"hello");
    let long = |kind, text: &str| entry(kind, "././@LongLink", "", text.as_bytes());
    let whole = archive(&[file()]);
    let deep = "d/".repeat(20_000);
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("nothing at all", Vec::new(), true),
        ("not an archive", b"hello, this is text".repeat(100), false),
        ("cut in a header", whole[..300].to_vec(), false),
        ("cut in a file", [sized(*b"00000010000\0"), vec![7; 100]].concat(), false),
        ("no end", file(), true),
        ("a wrong checksum", [&whole[..148], b"0000000\0", &whole[156..]].concat(), false),
        ("a size beyond the end", sized(*b"77777777777\0"), false),
        ("a size of 2^95", sized([0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), false),
        ("a negative size", sized([0xff; 12]), false),
        ("a size that is no number", sized(*b"not a number"), false),
        ("a pax size that is larger", archive(&[pax("size", "1099511627776"), file()]), false),
        ("a pax size that is no number", archive(&[pax("size", "-1"), file()]), true),
        ("a pax path out", archive(&[pax("path", "../../escaped"), file()]), false),
        ("a pax path that is absolute", archive(&[pax("path", "/escaped/file"), file()]), true),
        ("a pax path with NUL", archive(&[pax("path", "a\0b"), file()]), false),
        ("a pax link out", archive(&[pax("linkpath", "../../outside/victim"), entry(Link, "link", "x", b"")]), false),
        (
            "a pax record whose length lies",
            archive(&[entry(EntryType::XHeader, "pax", "", b"999999 path=x\n"), file()]),
            false,
        ),
        ("a pax record without an end", archive(&[entry(EntryType::XHeader, "pax", "", b"12 path"), file()]), false),
        (
            "a global header",
            archive(&[entry(EntryType::XGlobalHeader, "g", "", b"18 path=../escaped\n"), file()]),
            true,
        ),
        ("a long name out", archive(&[long(EntryType::GNULongName, "../../escaped\0"), file()]), false),
        ("a long name of 40,000 bytes", archive(&[long(EntryType::GNULongName, &deep), file()]), false),
        ("a name of 300 bytes", archive(&[long(EntryType::GNULongName, &"x".repeat(300)), file()]), false),
        ("a long link without an end", archive(&[long(EntryType::GNULongLink, "x")]), false),
        ("a folder by the name of dots", archive(&[entry(Directory, "..", "", b"")]), false),
        ("an empty name", archive(&[entry(Regular, "", "", b"x")]), false),
        ("a file by the root's name", archive(&[entry(Regular, "/", "", b"x")]), false),
        ("a file and something below it", archive(&[file(), entry(Regular, "file/below", "", b"x")]), false),
        (
            "a full folder that becomes a file",
            archive(&[entry(Regular, "d/x", "", b"x"), entry(Regular, "d", "", b"x")]),
            false,
        ),
        ("the same file three times", archive(&[file(), file(), file()]), true),
        ("a link to itself", archive(&[entry(Link, "l", "l", b"")]), false),
        ("a hard link to a folder", archive(&[entry(Directory, "d", "", b""), entry(Link, "l", "d", b"")]), false),
        ("a hard link to nothing", archive(&[entry(Link, "l", "nothing", b"")]), false),
        ("a link without a target", archive(&[entry(Symlink, "l", "", b"")]), false),
        ("a whiteout of nothing", archive(&[entry(Regular, ".wh.", "", b"")]), false),
        ("a whiteout of the folder", archive(&[entry(Regular, "d/.wh..", "", b"")]), false),
        ("a whiteout of its parent", archive(&[entry(Regular, "d/.wh...", "", b"")]), false),
        ("a kind that nobody knows", archive(&[entry(EntryType::new(b'Z'), "z", "", b"")]), false),
        ("a sparse file", archive(&[entry(EntryType::GNUSparse, "s", "", b"")]), false),
        ("a sparse file of 8 EiB", archive(&[sparse("9000000000000000000", "0,1", "s", b"x")]), false),
        ("a whiteout of 16 GiB", archive(&[sparse("17179869184", "0,1", ".wh.s", b"x")]), false),
        ("a sparse file that leads out", archive(&[sparse("1", "0,1", "../../escaped", b"x")]), false),
        ("a sparse file with an absolute name", archive(&[sparse("1", "0,1", "/escaped", b"x")]), true),
        ("a sparse file whose map lies", archive(&[sparse("9", "0,2", "s", b"x")]), false),
        ("a sparse file whose pieces overlap", archive(&[sparse("9", "0,1,0,1", "s", b"xy")]), false),
        ("a sparse file of star's", archive(&[pax("SCHILY.realsize", "9"), entry(Regular, "s", "", b"x")]), false),
        ("a sparse file of version 2", archive(&[pax("GNU.sparse.major", "2"), entry(Regular, "s", "", b"x")]), false),
        ("gzip that is cut", gzip(&whole)[..30].to_vec(), false),
        (
            "gzip with a wrong sum",
            {
                let mut bytes = gzip(&whole);
                let end = bytes.len() - 6;
                bytes[end] ^= 1;
                bytes
            },
            false,
        ),
        ("gzip of gzip", gzip(&gzip(&whole)), false),
        ("zstd that is cut", zstd::encode_all(whole.as_slice(), 1).expect("packed")[..20].to_vec(), false),
        ("zstd with a window of 2 GiB", [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0, 0, 0].to_vec(), false),
        ("70 MB of zeros after its end", gzip(&[whole.clone(), vec![0; 70 << 20]].concat()), false),
    ];
    assert!(cases.len() >= 52);
    for (what, bytes, fine) in cases {
        let place = UnpackFixture::new();
        let before = place.outside();
        let begun = Instant::now();
        let outcome = place.unpack(bytes.as_slice());
        assert_eq!(outcome.is_ok(), fine, "{what}: {outcome:?}");
        assert_eq!(before, place.outside(), "{what}: {outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} took {:?}", begun.elapsed());
        assert!(!Path::new("/escaped").exists(), "{what}");
    }
}

#[test]
fn attributes_that_would_change_the_overlay_are_left_out() {
    let place = UnpackFixture::new();
    let names = ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.redirect", "security.selinux"];
    let entries: Vec<Vec<u8>> = names
        .iter()
        .flat_map(|name| [pax(&format!("SCHILY.xattr.{name}"), "/x"), entry(Regular, &name.replace('.', "-"), "", b"")])
        .collect();
    place.unpack(archive(&entries).as_slice()).expect("harmless");
    for name in names {
        let path = place.folder.path().join("into").join(name.replace('.', "-"));
        let mut value = [0; 10];
        assert!(rustix::fs::getxattr(path, name, &mut value[..]).is_err(), "{name}");
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_hex(&hex::encode(sha2::Sha256::digest(bytes))).expect("a digest")
}

#[tokio::test]
async fn keeps_a_layer_only_if_its_digests_match() {
    let place = UnpackFixture::new();
    let layers = Layers::in_folder(&place.folder.path().join("layers"), 0).expect("a folder");
    let plain = archive(&[entry(Regular, "file", "", b"hello")]);
    let packed = gzip(&plain);
    let (other, size) = (digest_of(b"other"), packed.len() as u64);
    let named = |digest: &Digest| Descriptor {
        media_type: gantry_image::LAYER_GZIP.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
    };
    let stream = |bytes: &[u8]| {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        futures_util::StreamExt::boxed(futures_util::stream::iter([Ok(bytes)]))
    };
    let (digest, diff_id) = (digest_of(&packed), digest_of(&plain));
    for (what, digest, diff_id, bytes) in [
        ("wrong digest", &other, &diff_id, &packed[..]),
        ("wrong tar digest", &digest, &other, &packed[..]),
        ("cut", &digest, &diff_id, &packed[..packed.len() - 3]),
        ("longer", &digest, &diff_id, &[&packed[..], b"more"].concat()[..]),
        ("not packed", &digest, &diff_id, &plain[..]),
    ] {
        let outcome = layers.unpack(&named(digest), diff_id, stream(bytes)).await;
        assert!(outcome.is_err(), "{what}");
        assert!(layers.list().is_empty(), "{what}: something is left");
        let left = std::fs::read_dir(place.folder.path().join("layers")).expect("read").count();
        assert_eq!(left, 0, "{what}: something is left");
    }
    layers.unpack(&named(&digest), &diff_id, stream(&packed)).await.expect("the right one");
}

#[test]
fn refuses_invalid_manifests() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let descriptor = |media: &str| serde_json::json!({ "mediaType": media, "digest": digest, "size": 1 });
    let good = || {
        serde_json::json!({ "schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(gantry_image::LAYER_GZIP)] })
    };
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good();
        change(&mut value);
        value.to_string()
    };
    assert!(Manifest::parse(good().to_string().as_bytes()).is_ok());
    let cases = [
        ("nothing", String::new()),
        ("no JSON", "hello".to_owned()),
        ("cut", good().to_string()[..40].to_owned()),
        ("schema 1", changed(&|m| m["schemaVersion"] = 1.into())),
        ("no layers", changed(&|m| drop(m.as_object_mut().expect("an object").remove("layers")))),
        ("no configuration", changed(&|m| m["config"] = serde_json::Value::Null)),
        ("an index", changed(&|m| m["mediaType"] = gantry_image::INDEX_OCI.into())),
        ("another kind", changed(&|m| m["mediaType"] = "text/html".into())),
        ("a digest of another kind", changed(&|m| m["config"]["digest"] = format!("md5:{}", "0".repeat(32)).into())),
        ("a digest that is a path", changed(&|m| m["config"]["digest"] = "sha256:../../../etc/passwd".into())),
        ("a digest that is short", changed(&|m| m["config"]["digest"] = "sha256:00".into())),
        ("a negative size", changed(&|m| m["config"]["size"] = (-1).into())),
        ("401 layers", changed(&|m| m["layers"] = vec![m["layers"][0].clone(); 401].into())),
        ("nested deeply", "[".repeat(1 << 20)),
        ("100 MB of it", format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(100 << 20))),
    ];
    for (what, text) in cases {
        assert!(Manifest::parse(text.as_bytes()).is_err(), "{what}");
    }
    // An index may name another index; only the outer index's own entries count.
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": gantry_image::INDEX_OCI, "manifests": [descriptor(gantry_image::INDEX_OCI)] });
    let index = Index::parse(index.to_string().as_bytes()).expect("an index");
    assert!(
        Manifest::parse(
            serde_json::to_string(&serde_json::json!({ "schemaVersion": 2, "manifests": [] }))
                .expect("JSON")
                .as_bytes()
        )
        .is_err()
    );
    assert_eq!(index.manifests.len(), 1);
    let manifest = Manifest::parse(good().to_string().as_bytes()).expect("a manifest");
    let config = |os: &str, layers: usize| {
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        serde_json::json!({ "architecture": architecture, "os": os, "rootfs": { "type": "layers", "diff_ids": vec![&digest; layers] } }).to_string()
    };
    assert!(Config::parse(config("linux", 1).as_bytes(), &manifest).is_ok());
    for (what, text) in [("windows", config("windows", 1)), ("fewer", config("linux", 0)), ("more", config("linux", 2))]
    {
        assert!(Config::parse(text.as_bytes(), &manifest).is_err(), "{what}");
    }
}

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Cut(usize),
    Copy(usize, usize, usize),
    Remove(usize, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match *self {
            Self::Set(at, value) => bytes.get_mut(at % length).into_iter().for_each(|byte| *byte = value),
            Self::Cut(at) => bytes.truncate(at % length),
            Self::Copy(from, size, to) => {
                let (from, to) = (from % length, to % length);
                let piece = bytes[from..(from + size).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            Self::Remove(at, size) => drop(bytes.drain(at % length..(at % length + size).min(bytes.len()))),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let (at, size) = (0..20_000usize, prop_oneof![1..16usize, Just(512), Just(1024)]);
    let change = prop_oneof![
        6 => (at.clone(), any::<u8>()).prop_map(|(at, value)| Change::Set(at, value)),
        1 => at.clone().prop_map(Change::Cut),
        2 => (at.clone(), size.clone(), at.clone()).prop_map(|(from, size, to)| Change::Copy(from, size, to)),
        2 => (at, size).prop_map(|(at, size)| Change::Remove(at, size)),
    ];
    prop::collection::vec(change, 0..8)
}

/// Builds a layer with an entry of every kind.
fn one_of_everything() -> Vec<u8> {
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    long.append_data(&mut header, "long/".repeat(60), &b"abc"[..]).expect("appended");
    long.append_pax_extensions([("SCHILY.xattr.user.a", &b"b"[..])]).expect("appended");
    let long = long.into_inner().expect("whole");
    archive(&[
        entry(Directory, "folder", "", b""),
        entry(Regular, "folder/file", "", b"content"),
        entry(Symlink, "link", "../outside", b""),
        entry(Symlink, "inner", "folder", b""),
        entry(Link, "hard", "folder/file", b""),
        entry(Regular, "inner/more", "", &[7; 700]),
        entry(Regular, "folder/.wh.file", "", b""),
        entry(Regular, "folder/.wh..wh..opq", "", b""),
        entry(Fifo, "pipe", "", b""),
        long[..long.len() - 1024].to_vec(),
        entry(Regular, "last", "", b"x"),
    ])
}

/// Corrects the checksums of changed headers. Otherwise most changes would fail only at the checksum.
fn with_right_sums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest! {
    /// No change of a layer causes a panic or a write outside the folder.
    #[test]
    fn a_changed_layer_is_refused_or_stays_inside(before in changes(), sums in any::<bool>(), form in 0..3, after in changes()) {
        let mut bytes = one_of_everything();
        before.iter().for_each(|change| change.apply(&mut bytes));
        if sums {
            with_right_sums(&mut bytes);
        }
        let mut packed = match form {
            0 => bytes,
            1 => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&bytes).expect("written");
                encoder.finish().expect("whole")
            }
            _ => zstd::encode_all(&bytes[..], 1).expect("whole"),
        };
        after.iter().filter(|_| form > 0).for_each(|change| change.apply(&mut packed));
        let place = UnpackFixture::new();
        let into = place.folder.path().join("into");
        // The layer decides the permissions of its own root folder.
        let own = format!("{} ", into.display());
        let outside = || place.outside().into_iter().filter(|line| !line.starts_with(&own)).collect::<Vec<_>>();
        let before = outside();
        let _ = unpack(&packed[..], &into, Bounds { bytes: 1 << 20, entries: 1000 });
        prop_assert_eq!(outside(), before);
        prop_assert!(into.symlink_metadata().is_ok_and(|into| into.is_dir()));
    }

    #[test]
    fn a_changed_manifest_is_refused_or_read(changes in changes()) {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let descriptor = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":7}}"#);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{descriptor},"layers":[{descriptor}]}}"#
        );
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{descriptor}]}}"#
        );
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"User":"a","Env":["A=b"]}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let good = Manifest::parse(manifest.as_bytes()).expect("a manifest");
        prop_assert!(Index::parse(index.as_bytes()).is_some());
        for text in [manifest, index, config] {
            let mut bytes = text.into_bytes();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            let _ = (Manifest::parse(&bytes), Index::parse(&bytes), Config::parse(&bytes, &good));
        }
    }
}
