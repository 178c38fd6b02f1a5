use std::io::{self, Cursor};

use gantry_image::{Layer, MergedLayers};
use tar::EntryType;

use super::layers::{LayerInput, layers};
use super::scan::scan;
use crate::recipe::TEXTS;
use crate::script::Compile;
use crate::times::Times;

const COMMITTED: u64 = 1_700_000_000;

/// Content of an entry in a test archive.
enum ArchivedContent<'a> {
    File(&'a [u8]),
    Program(&'a [u8]),
    Link(&'a str),
    Folder,
}

fn archive(entries: &[(&str, ArchivedContent<'_>)]) -> Cursor<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, put) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(COMMITTED);
        header.set_mode(if matches!(put, ArchivedContent::Program(_) | ArchivedContent::Folder) {
            0o775
        } else {
            0o664
        });
        match put {
            ArchivedContent::File(content) | ArchivedContent::Program(content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, *content).expect("added");
            }
            ArchivedContent::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target).expect("added");
            }
            ArchivedContent::Folder => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, path, io::empty()).expect("added");
            }
        }
    }
    Cursor::new(tar.into_inner().expect("an archive"))
}

fn refusal(entries: &[(&str, ArchivedContent<'_>)]) -> String {
    scan(&mut archive(entries)).expect_err("refused").message
}

const SH: ArchivedContent<'static> = ArchivedContent::Program(b"#!/bin/sh\n");

#[test]
fn files_of_the_recipe_may_be_links_within_the_tree() {
    let linked = [
        ("Procfile", ArchivedContent::Link("deploy/Procfile")),
        ("app.json", ArchivedContent::Link("/app/deploy/app.json")),
        ("bin/build", SH),
        ("container", ArchivedContent::Link("deploy/container")),
        ("deploy/Procfile", ArchivedContent::File(b"web: a")),
        ("deploy/app.json", ArchivedContent::File(b"{}")),
        ("deploy/container/base", ArchivedContent::File(b"\xef\xbb\xbfdebian\n")),
        ("deploy/container/compile", ArchivedContent::Link("../../bin/build")),
        ("deploy/container/files/etc/motd", ArchivedContent::File(b"x")),
    ];
    let found = scan(&mut archive(&linked)).expect("read").found;
    let text = |name: &str| found.texts.get(name).map(String::as_str);
    assert_eq!(
        (text("Procfile"), text("app.json"), text("container/base")),
        (Some("web: a"), Some("{}"), Some("debian\n"))
    );
    assert_eq!(found.compile, Some(Compile::Script { interpreter: "/bin/sh".to_owned() }));
    assert!(found.files && found.notes.is_empty());
    let in_image = [("container/compile", ArchivedContent::Link("/usr/local/bin/build"))];
    assert_eq!(scan(&mut archive(&in_image)).expect("read").found.compile, Some(Compile::Program));
}

#[test]
fn a_link_that_leads_to_nothing_is_refused_by_name() {
    for name in
        ["container/roles.json", "container/base", "Procfile", "app.json", "container/compile", "container/files"]
    {
        let error = refusal(&[(name, ArchivedContent::Link("gone"))]);
        assert!(error.contains(&format!("{name} is a link to gone, which is not in the repository")), "{error}");
        let error = refusal(&[(name, ArchivedContent::Link("../../../etc/passwd"))]);
        assert!(error.contains(name) && error.contains("leads out of the repository"), "{error}");
    }
    assert!(refusal(&[("Procfile", ArchivedContent::Link("/etc/passwd"))]).contains("leads out"));
    assert!(refusal(&[("Procfile", ArchivedContent::Link("Procfile"))]).contains("leads to itself"));
    assert!(refusal(&[("Procfile", ArchivedContent::Folder)]).contains("Procfile is not a plain file"));
    assert!(refusal(&[("container/files", ArchivedContent::File(b""))]).contains("container/files is not a folder"));
}

#[test]
fn a_compile_step_that_could_not_run_is_refused_by_name() {
    let compile = |put: ArchivedContent<'_>| refusal(&[("container/compile", put)]);
    assert!(
        compile(ArchivedContent::File(b"#!/bin/sh\n"))
            .contains("container/compile cannot be executed; make it executable")
    );
    assert!(compile(ArchivedContent::Program(b"#!/bin/sh\r\n")).contains("CR LF"));
    let error = refusal(&[
        ("bin/b", ArchivedContent::File(b"#!/bin/sh\n")),
        ("container/compile", ArchivedContent::Link("../bin/b")),
    ]);
    assert!(error.contains("leads to bin/b") && error.contains("--chmod=+x bin/b"), "{error}");
    let shell = scan(&mut archive(&[("container/compile", ArchivedContent::Program(b"echo hi\n"))])).expect("read");
    assert_eq!(shell.found.compile, Some(Compile::Shell));
}

#[test]
fn other_encodings_are_named_with_the_file() {
    for name in TEXTS {
        let error = refusal(&[(name, ArchivedContent::File(b"\xff\xfew\0e\0b\0"))]);
        assert!(error.contains(name) && error.contains("UTF-16"), "{error}");
    }
}

#[test]
fn notes_name_submodules_and_lfs_pointers() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let entries = [
        ("a.bin", ArchivedContent::File(pointer)),
        (
            "docs/about.txt",
            ArchivedContent::File(b"version https://git-lfs.github.com/spec/v1 is what pointers begin with"),
        ),
        ("lib", ArchivedContent::Folder),
        ("media", ArchivedContent::Folder),
        ("media/b \u{1b}.bin", ArchivedContent::File(pointer)),
        ("vendor", ArchivedContent::Folder),
        ("vendor/x", ArchivedContent::Folder),
    ];
    let notes = scan(&mut archive(&entries)).expect("read").found.notes;
    assert!(notes[0].starts_with("lib, vendor/x are submodules: "), "{notes:?}");
    assert!(notes[1].starts_with("a.bin, \"media/b \\u{1b}.bin\" are pointers of git-lfs"), "{notes:?}");
    let many: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
    let entries: Vec<_> = many.iter().map(|name| (name.as_str(), ArchivedContent::Folder)).collect();
    let notes = scan(&mut archive(&entries)).expect("read").found.notes;
    assert!(notes[0].contains("m07 and 12 more are submodules"), "{notes:?}");
}

fn made(
    entries: &[(&str, ArchivedContent<'_>)],
    times: &Times,
    now: u64,
    base: Option<&MergedLayers>,
) -> (Vec<Layer>, Times) {
    let mut archive = archive(entries);
    let contents = scan(&mut archive).expect("read").contents;
    let commit = "c".repeat(40);
    let times = times.next(&contents.fingerprints(&commit, "base"), contents.committed, now, false);
    let scratch = tempfile::tempdir().expect("a folder");
    let making = LayerInput { contents: &contents, times: &times, commit: &commit, base, scratch: scratch.path() };
    (layers(&mut archive, &making).expect("layers"), times)
}

/// Lists path, mode, owner and time of each entry.
fn listed(layer: Layer) -> Vec<(String, u32, u64, u64)> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(layer.file));
    let entries = tar.entries().expect("entries").map(|entry| {
        let entry = entry.expect("an entry");
        let header = entry.header();
        let path = entry.path().expect("a path").display().to_string();
        (path, header.mode().expect("a mode"), header.uid().expect("an owner"), header.mtime().expect("a time"))
    });
    entries.collect()
}

#[test]
fn a_layer_follows_from_the_commit_and_the_builds_before() {
    let one = [("page", ArchivedContent::File(b"one")), ("same", ArchivedContent::File(b"same"))];
    let (now, none) = (COMMITTED + 1000, Times::default());
    let (mut first, times) = made(&one, &none, now, None);
    let (mut elsewhere, _) = made(&one, &none, now + 77, None);
    let (mut again, _) = made(&one, &times, now + 99, None);
    let layer = first.remove(0);
    assert_eq!(layer.digest, elsewhere.remove(0).digest);
    assert_eq!(layer.digest, again.remove(0).digest);
    assert!(listed(layer).iter().all(|(_, _, _, time)| *time == COMMITTED));
    let two = [("page", ArchivedContent::File(b"two")), ("same", ArchivedContent::File(b"same"))];
    let (mut changed, _) = made(&two, &times, now + 100, None);
    let time = |name: &str, list: &[(String, u32, u64, u64)]| {
        list.iter().find(|(path, ..)| path == name).map(|(_, _, _, time)| *time)
    };
    let list = listed(changed.remove(0));
    assert_eq!((time("app/page", &list), time("app/same", &list)), (Some(now + 1), Some(COMMITTED)));
}

#[test]
fn folders_of_the_base_stay_as_they_are() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let base = tempfile::tempdir().expect("a folder");
    let root = base.path();
    for (path, mode) in [("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o751), ("root", 0o700)] {
        std::fs::create_dir(root.join(path)).expect("made");
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).expect("set");
    }
    symlink("usr/bin", root.join("bin")).expect("a link");
    let merged = MergedLayers::of(&[root.to_owned()]).expect("opened");
    let entries = [
        ("container/files/bin/tool", ArchivedContent::Program(b"x")),
        ("container/files/root", ArchivedContent::Folder),
        ("container/files/root/.profile", ArchivedContent::File(b"x")),
        ("container/files/srv/www/page", ArchivedContent::File(b"x")),
        ("container/files/tmp/seed", ArchivedContent::File(b"x")),
    ];
    let (mut layers, _) = made(&entries, &Times::default(), COMMITTED + 9, Some(&merged));
    let list = listed(layers.remove(0));
    let modes: Vec<(&str, u32)> = list.iter().map(|(path, mode, ..)| (path.trim_end_matches('/'), *mode)).collect();
    let expected = [
        ("usr", 0o755),
        ("usr/bin", 0o751),
        ("usr/bin/tool", 0o755),
        ("root", 0o700),
        ("root/.profile", 0o644),
        ("srv", 0o755),
        ("srv/www", 0o755),
        ("srv/www/page", 0o644),
        ("tmp", 0o1777),
        ("tmp/seed", 0o644),
    ];
    assert_eq!(modes, expected);
    symlink("/proc", root.join("etc")).expect("a link");
    std::fs::create_dir(root.join("proc")).expect("made");
    let mut hostile = archive(&[("container/files/etc/x", ArchivedContent::File(b"x"))]);
    let contents = scan(&mut hostile).expect("read").contents;
    let times = Times::default();
    let making =
        LayerInput { contents: &contents, times: &times, commit: "c", base: Some(&merged), scratch: base.path() };
    assert!(layers_error(&mut hostile, &making).contains("the kernel's own"));
}

fn layers_error(archive: &mut Cursor<Vec<u8>>, making: &LayerInput<'_>) -> String {
    layers(archive, making).err().map(|error| error.message).unwrap_or_default()
}
