//! Source archive (the output of `git archive`): reads the input of the recipe and makes the two layers. Gantry never
//! unpacks the archive on the machine: entries go from tar to tar.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};

use gantry_blobs::DigestHasher;
use gantry_image::{Layer, LayerWriter, Looked, Merged, Meta, Metered, members};
use gantry_model::BuildPhase;
use tar::{Entry, EntryType};

use crate::BuildError;
use crate::lookalike::{LOOKALIKES_MAX, Lookalike};
use crate::recipe::{Found, TEXTS};
use crate::script::{self, Compile};
use crate::text::{self, TEXT_MAX};
use crate::times::{Print, Times};
use crate::tree::{Kind, Leads, Tree, half, print_of};

/// Folder with files for the root of the image.
const FILES: &str = "container/files";

/// Path of the compile step.
const COMPILE: &str = "container/compile";

/// Folder of the source in the image.
const APP: &str = "app";

/// File with the commit, which Gantry adds to the source.
const REVISION: &str = "REVISION";

/// User that owns the source and runs the app. Base images by Gantry have this user (see `bases`). A container on
/// another base image gets passwd and group entries for the user.
pub(crate) use gantry_image::APP_USER;

/// Most entries of a source tree.
const ENTRIES_MAX: usize = 500_000;

/// A git-lfs pointer is smaller than this, by the git-lfs specification.
const POINTER_MAX: u64 = 1024;

/// Most paths that a note lists.
const NAMED_MAX: usize = 8;

fn failed(error: &io::Error) -> BuildError {
    BuildError::new(BuildPhase::Source, format!("the source cannot be read: {error}"))
}

/// An entry of the archive.
type Member<'a, 'r> = Entry<'a, Metered<&'r mut (dyn Read + 'r)>>;

/// Path of an entry, made of names only. Refuses a path that leads out of the tree.
fn path_of(entry: &Entry<'_, impl Read>) -> Result<PathBuf, BuildError> {
    let path = entry.path().map_err(|error| failed(&error))?.into_owned();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(BuildError::new(BuildPhase::Source, format!("{:?} leads out of the source tree", path.display())));
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

/// Calls `visit` with each entry and its path.
fn each(
    mut archive: impl Read,
    mut visit: impl FnMut(&Path, &mut Member<'_, '_>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let reader: &mut (dyn Read + '_) = &mut archive;
    let mut count = 0;
    members(
        reader,
        |error| failed(&error),
        |entry| {
            count += 1;
            if count > ENTRIES_MAX {
                return Err(BuildError::new(
                    BuildPhase::Source,
                    format!("the source has more than {ENTRIES_MAX} files"),
                ));
            }
            if entry.header().entry_type() == EntryType::XGlobalHeader {
                return Ok(());
            }
            let path = path_of(entry)?;
            if path.as_os_str().is_empty() { Ok(()) } else { visit(&path, entry) }
        },
    )
}

/// Result of scanning an archive: input for the recipe and for the layers.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) found: Found,
    pub(crate) contents: Contents,
}

/// Input for the layers of a source tree.
#[derive(Debug)]
pub(crate) struct Contents {
    tree: Tree,
    /// The folder to copy onto `/`, with links followed.
    files: Option<PathBuf>,
    /// Date of the commit, which git gives to every entry.
    pub(crate) committed: u64,
}

impl Contents {
    /// Returns whether the tree has a folder to copy onto `/`.
    pub(crate) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Fingerprints of everything with a recorded time, by path: the entries, the commit's file and the build itself.
    pub(crate) fn prints(&self, commit: &str, base: &str) -> HashMap<Print, Print> {
        let mut prints = self.tree.prints();
        prints.insert(print_of(Path::new(REVISION)), print_of(Path::new(commit)));
        prints.insert(build_print(), print_of(Path::new(&format!("{commit} {base}"))));
        prints
    }
}

/// Fingerprint of the path that stands for the build itself: `/`, because no path of a tree is absolute.
#[must_use]
pub fn build_print() -> Print {
    print_of(Path::new("/"))
}

/// Scans an archive for the input of the recipe and of the layers.
pub(crate) fn scan(archive: &mut (impl Read + Seek)) -> Result<Scanned, BuildError> {
    let mut first = FirstPass::default();
    archive.rewind().map_err(|error| failed(&error))?;
    each(&mut *archive, |path, entry| first.entry(path, entry).map_err(|error| failed(&error)))?;
    first.leave_folder(Path::new(""));
    let FirstPass { tree, committed, mut heads, modules, pointers, lookalikes, .. } = first;
    let mut wanted = BTreeMap::new();
    for name in TEXTS {
        if let Some(path) = followed(&tree, name, BuildPhase::Roles)? {
            wanted.insert(name, path);
        }
    }
    // An absolute link leads to a program that the base image may have.
    let in_image = matches!(tree.follow(Path::new(COMPILE)), Leads::Outside(target) if target.is_absolute());
    let compile = if in_image { None } else { followed(&tree, COMPILE, BuildPhase::Compile)? };
    let linked: BTreeSet<&PathBuf> =
        wanted.values().chain(&compile).filter(|path| !heads.contains_key(*path)).collect();
    if !linked.is_empty() {
        archive.rewind().map_err(|error| failed(&error))?;
        let mut read = HashMap::new();
        each(&mut *archive, |path, entry| {
            if linked.contains(&path.to_owned()) {
                read.insert(path.to_owned(), head(entry).map_err(|error| failed(&error))?);
            }
            Ok(())
        })?;
        heads.extend(read);
    }
    let mut found = Found { lookalikes, ..Found::default() };
    for (name, path) in wanted {
        let bytes = heads.get(&path).map(Vec::as_slice).unwrap_or_default();
        let text = text::decode(bytes)
            .map_err(|why| BuildError::new(BuildPhase::Roles, format!("{name} cannot be read: {why}")))?;
        found.texts.insert(name.to_owned(), text);
    }
    found.compile = match compile {
        Some(path) => Some(compile_step(&tree, &path, heads.get(&path).map(Vec::as_slice).unwrap_or_default())?),
        None => in_image.then_some(Compile::Program),
    };
    found.notes.extend(modules.note(|which, one| {
        let (is, them) = if one { ("is a submodule", "it") } else { ("are submodules", "them") };
        format!(
            "{which} {is}: the commit does not hold the files, and Gantry does not fetch {them}; \
                 add the files to the repository (git subtree add), or fetch {them} in {COMPILE}"
        )
    }));
    found.notes.extend(pointers.note(|which, one| {
        let is = if one { "is a pointer" } else { "are pointers" };
        format!(
            "{which} {is} of git-lfs, not the content, which the push does not bring; \
                 take it into git (git lfs migrate export --include=PATTERN), or fetch it in {COMPILE}"
        )
    }));
    let files = match tree.follow(Path::new(FILES)) {
        Leads::Folder(path) => Some(path),
        Leads::Nowhere => None,
        other => return Err(BuildError::new(BuildPhase::Source, format!("{FILES} {}", why_not(&other, "a folder")))),
    };
    found.files = files.is_some();
    Ok(Scanned { found, contents: Contents { tree, files, committed } })
}

/// Path of a recipe's file, with links within the tree followed; `None` if the tree has no such file.
fn followed(tree: &Tree, name: &'static str, phase: BuildPhase) -> Result<Option<PathBuf>, BuildError> {
    match tree.follow(Path::new(name)) {
        Leads::Nowhere => Ok(None),
        Leads::File(path) => Ok(Some(path)),
        other => Err(BuildError::new(phase, format!("{name} {}", why_not(&other, "a plain file")))),
    }
}

fn why_not(leads: &Leads, wanted: &str) -> String {
    match leads {
        Leads::Broken(target) => {
            format!("is a link to {}, which is not in the repository; commit what it leads to", shown(target))
        }
        Leads::Outside(target) => {
            format!("is a link to {}, which leads out of the repository; commit the file itself", shown(target))
        }
        Leads::Endless => "is a link that leads to itself; commit the file itself".to_owned(),
        _ => format!("is not {wanted}"),
    }
}

fn compile_step(tree: &Tree, path: &Path, head: &[u8]) -> Result<Compile, BuildError> {
    let is_linked = path != Path::new(COMPILE);
    let name = if is_linked { format!("{COMPILE} leads to {}, which", shown(path)) } else { COMPILE.to_owned() };
    if tree.kind(path) != Some(Kind::File(true)) {
        let why =
            format!("{name} cannot be executed; make it executable (git update-index --chmod=+x {})", shown(path));
        return Err(BuildError::new(BuildPhase::Compile, why));
    }
    script::inspect(&head[..head.len().min(script::HEAD)])
        .map_err(|why| BuildError::new(BuildPhase::Compile, format!("{name} {why}")))
}

/// Formats a path for people.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(|c| c.is_control() || c == '"') { format!("{text:?}") } else { text.into_owned() }
}

/// Reads the beginning of a file.
fn head(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(TEXT_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Paths for a note: the first few paths, and the number of all paths.
#[derive(Debug, Default)]
struct Named {
    first: Vec<String>,
    count: usize,
}

impl Named {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(shown(path));
        }
    }

    fn note(&self, text: impl FnOnce(String, bool) -> String) -> Option<String> {
        let more = self.count - self.first.len();
        let which = self.first.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
        (self.count > 0).then(|| text(which, self.count == 1))
    }
}

/// State of the first pass over an archive.
#[derive(Debug, Default)]
struct FirstPass {
    tree: Tree,
    committed: u64,
    /// Beginning of each file of the recipe, by path.
    heads: HashMap<PathBuf, Vec<u8>>,
    /// The last folder, while the folder has no entry yet. git has no empty folders, so an empty folder is a submodule.
    empty: Option<PathBuf>,
    modules: Named,
    pointers: Named,
    lookalikes: Vec<Lookalike>,
}

impl FirstPass {
    fn entry(&mut self, path: &Path, entry: &mut Member<'_, '_>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        self.committed = self.committed.max(entry.header().mtime().unwrap_or(0));
        self.leave_folder(path);
        if kind == EntryType::Directory {
            self.tree.folder(path);
            self.empty = Some(path.to_owned());
        } else if kind == EntryType::Symlink {
            let target = entry.link_name()?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            self.tree.link(path, &target);
        } else if kind.is_file() {
            if self.lookalikes.len() < LOOKALIKES_MAX {
                self.lookalikes.extend(Lookalike::of(path));
            }
            let executable = entry.header().mode()? & 0o100 != 0;
            let mut hasher = DigestHasher::default();
            let is_special = path == Path::new(COMPILE) || TEXTS.iter().any(|name| path == Path::new(name));
            let size = entry.size();
            if is_special || size < POINTER_MAX {
                let begins = head(entry)?;
                hasher.update(&begins);
                if size < POINTER_MAX && is_pointer(&begins) {
                    self.pointers.add(path);
                }
                if is_special {
                    self.heads.insert(path.to_owned(), begins);
                }
            }
            io::copy(entry, &mut hasher)?;
            self.tree.file(path, executable, half(hasher.finish()));
        }
        Ok(())
    }

    /// Notes the last folder as a submodule, if the folder is empty and the next entry at `next` is outside.
    fn leave_folder(&mut self, next: &Path) {
        if let Some(folder) = self.empty.take().filter(|folder| !next.starts_with(folder)) {
            self.modules.add(&folder);
        }
    }
}

/// Returns whether the bytes are a pointer file of git-lfs, or of hawser, the first name of git-lfs.
fn is_pointer(bytes: &[u8]) -> bool {
    let versions = [&b"version https://git-lfs.github.com/spec/"[..], b"version https://hawser.github.com/spec/"];
    versions.iter().any(|version| bytes.starts_with(version)) && bytes.windows(11).any(|part| part == b"oid sha256:")
}

/// Parameters of the layers of a source tree.
pub(crate) struct LayerInput<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) times: &'a Times,
    /// Full SHA of the commit.
    pub(crate) commit: &'a str,
    /// Root of the base image, if the tree has a folder to copy onto `/`.
    pub(crate) base: Option<&'a Merged>,
    pub(crate) scratch: &'a Path,
}

/// Makes the layers of a source tree: `container/files` onto `/`, if the folder has files, and everything onto `/app`.
pub(crate) fn layers(archive: &mut (impl Read + Seek), making: &LayerInput<'_>) -> Result<Vec<Layer>, BuildError> {
    let mut layers = Vec::new();
    if let Some(files) = &making.contents.files {
        archive.rewind().map_err(|error| failed(&error))?;
        layers.extend(files_layer(&mut *archive, files, making)?);
    }
    archive.rewind().map_err(|error| failed(&error))?;
    layers.push(app_layer(archive, making)?);
    Ok(layers)
}

/// Folders of the layer that goes onto `/`.
///
/// A folder of the base image keeps its metadata. A base image's link to a folder is followed: `container/files/bin/x`
/// lands in `/usr/bin` if `/bin` leads there.
struct Onto<'a> {
    base: Option<&'a Merged>,
    /// Folder in the image, by folder in the source.
    known: HashMap<PathBuf, PathBuf>,
    made: BTreeSet<PathBuf>,
}

impl Onto<'_> {
    /// Maps a folder of the source to a folder of the image, and adds the folder to the layer.
    fn folder(
        &mut self,
        inside: &Path,
        writer: &mut LayerWriter,
        fresh: &dyn Fn(&Path) -> Meta,
    ) -> io::Result<PathBuf> {
        let Some((parent, name)) = inside.parent().zip(inside.file_name()) else { return Ok(PathBuf::new()) };
        if let Some(known) = self.known.get(inside) {
            return Ok(known.clone());
        }
        let wanted = self.folder(parent, writer, fresh)?.join(name);
        let place = match self.base.map(|base| base.look(&wanted)).transpose()? {
            Some(Looked::Folder { path, .. }) => {
                for above in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
                    let of_base = self.base.map(|base| base.look(above)).transpose()?;
                    if let Some(Looked::Folder { meta, .. }) = of_base
                        && self.made.insert(above.to_owned())
                    {
                        writer.folder(above, meta)?;
                    }
                }
                path
            }
            _ => {
                if self.made.insert(wanted.clone()) {
                    writer.folder(&wanted, fresh(inside))?;
                }
                wanted
            }
        };
        self.known.insert(inside.to_owned(), place.clone());
        Ok(place)
    }
}

fn files_layer(archive: impl Read, files: &Path, making: &LayerInput<'_>) -> Result<Option<Layer>, BuildError> {
    let mut writer = LayerWriter::new(making.scratch).map_err(|error| failed(&error))?;
    let mut any = false;
    let mut onto = Onto { base: making.base, known: HashMap::new(), made: BTreeSet::new() };
    let time = |inside: &Path| making.times.of(print_of(&files.join(inside)));
    let fresh = |inside: &Path| Meta { mode: 0o755, uid: 0, gid: 0, mtime: time(inside) };
    each(archive, |path, entry| {
        let Ok(inside) = path.strip_prefix(files) else {
            return Ok(());
        };
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Ok(());
        };
        not_the_kernel_s(inside)?;
        any = true;
        let is_folder = entry.header().entry_type() == EntryType::Directory;
        let into = onto.folder(if is_folder { inside } else { parent }, &mut writer, &fresh);
        let into = into.map_err(|error| failed(&error))?;
        if is_folder {
            return not_the_kernel_s(&into);
        }
        let target = into.join(name);
        not_the_kernel_s(&target)?;
        copy(&mut writer, &target, entry, 0, time(inside)).map_err(|error| failed(&error))
    })?;
    if any { writer.finish().map(Some).map_err(|error| failed(&error)) } else { Ok(None) }
}

fn not_the_kernel_s(path: &Path) -> Result<(), BuildError> {
    if ["proc", "sys", "dev", ".gantry"].iter().any(|name| path.starts_with(name)) {
        let why = format!("{} cannot be put into an image: the kernel's own is mounted there", path.display());
        return Err(BuildError::new(BuildPhase::Source, why));
    }
    Ok(())
}

fn app_layer(archive: impl Read, making: &LayerInput<'_>) -> Result<Layer, BuildError> {
    let mut writer = LayerWriter::new(making.scratch).map_err(|error| failed(&error))?;
    let time = |path: &Path| making.times.of(print_of(path));
    let meta = |mode, path: &Path| Meta { mode, uid: APP_USER, gid: APP_USER, mtime: time(path) };
    writer.folder(Path::new(APP), meta(0o755, Path::new(""))).map_err(|error| failed(&error))?;
    let mut folders = BTreeSet::new();
    each(archive, |path, entry| {
        // Gantry writes this file below and ignores a file of this name in the tree.
        if path == Path::new(REVISION) {
            return Ok(());
        }
        let target = Path::new(APP).join(path);
        // Without an entry in the layer, a folder that the archive leaves out would belong to root.
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            if folders.insert(folder.to_owned()) && !entry.header().entry_type().is_dir() {
                let meta = meta(0o755, folder);
                writer.folder(&Path::new(APP).join(folder), meta).map_err(|error| failed(&error))?;
            }
        }
        if entry.header().entry_type().is_dir() {
            folders.insert(path.to_owned());
        }
        copy(&mut writer, &target, entry, APP_USER, time(path)).map_err(|error| failed(&error))
    })?;
    let revision = format!("{}\n", making.commit);
    let meta = meta(0o644, Path::new(REVISION));
    writer
        .file(&Path::new(APP).join(REVISION), meta, revision.len() as u64, revision.as_bytes())
        .and_then(|()| writer.finish())
        .map_err(|error| failed(&error))
}

fn copy(writer: &mut LayerWriter, path: &Path, entry: &mut Member<'_, '_>, owner: u32, mtime: u64) -> io::Result<()> {
    let header = entry.header();
    // git knows two modes. The archive's umask must not reach the image.
    let executable = header.mode()? & 0o100 != 0;
    let mode = if executable || header.entry_type().is_dir() { 0o755 } else { 0o644 };
    let meta = Meta { mode, uid: owner, gid: owner, mtime };
    match header.entry_type() {
        EntryType::Directory => writer.folder(path, meta),
        EntryType::Regular => {
            let size = entry.size();
            writer.file(path, meta, size, entry)
        }
        EntryType::Symlink => match entry.link_name()? {
            Some(target) => writer.symlink(path, Meta { mode: 0o777, ..meta }, &target),
            None => Ok(()),
        },
        kind => Err(io::Error::other(format!("{} is a {kind:?}, which git does not have", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const COMMITTED: u64 = 1_700_000_000;

    /// Content of an entry in a test archive.
    enum Put<'a> {
        File(&'a [u8]),
        Program(&'a [u8]),
        Link(&'a str),
        Folder,
    }

    fn archive(entries: &[(&str, Put<'_>)]) -> Cursor<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, put) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(COMMITTED);
            header.set_mode(if matches!(put, Put::Program(_) | Put::Folder) { 0o775 } else { 0o664 });
            match put {
                Put::File(content) | Put::Program(content) => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, *content).expect("added");
                }
                Put::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target).expect("added");
                }
                Put::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_size(0);
                    tar.append_data(&mut header, path, io::empty()).expect("added");
                }
            }
        }
        Cursor::new(tar.into_inner().expect("an archive"))
    }

    fn refusal(entries: &[(&str, Put<'_>)]) -> String {
        scan(&mut archive(entries)).expect_err("refused").message
    }

    const SH: Put<'static> = Put::Program(b"#!/bin/sh\n");

    #[test]
    fn files_of_the_recipe_may_be_links_within_the_tree() {
        let linked = [
            ("Procfile", Put::Link("deploy/Procfile")),
            ("app.json", Put::Link("/app/deploy/app.json")),
            ("bin/build", SH),
            ("container", Put::Link("deploy/container")),
            ("deploy/Procfile", Put::File(b"web: a")),
            ("deploy/app.json", Put::File(b"{}")),
            ("deploy/container/base", Put::File(b"\xef\xbb\xbfdebian\n")),
            ("deploy/container/compile", Put::Link("../../bin/build")),
            ("deploy/container/files/etc/motd", Put::File(b"x")),
        ];
        let found = scan(&mut archive(&linked)).expect("read").found;
        let text = |name: &str| found.texts.get(name).map(String::as_str);
        assert_eq!(
            (text("Procfile"), text("app.json"), text("container/base")),
            (Some("web: a"), Some("{}"), Some("debian\n"))
        );
        assert_eq!(found.compile, Some(Compile::Script { interpreter: "/bin/sh".to_owned() }));
        assert!(found.files && found.notes.is_empty());
        let in_image = [("container/compile", Put::Link("/usr/local/bin/build"))];
        assert_eq!(scan(&mut archive(&in_image)).expect("read").found.compile, Some(Compile::Program));
    }

    #[test]
    fn a_link_that_leads_to_nothing_is_refused_by_name() {
        for name in
            ["container/roles.json", "container/base", "Procfile", "app.json", "container/compile", "container/files"]
        {
            let error = refusal(&[(name, Put::Link("gone"))]);
            assert!(error.contains(&format!("{name} is a link to gone, which is not in the repository")), "{error}");
            let error = refusal(&[(name, Put::Link("../../../etc/passwd"))]);
            assert!(error.contains(name) && error.contains("leads out of the repository"), "{error}");
        }
        assert!(refusal(&[("Procfile", Put::Link("/etc/passwd"))]).contains("leads out"));
        assert!(refusal(&[("Procfile", Put::Link("Procfile"))]).contains("leads to itself"));
        assert!(refusal(&[("Procfile", Put::Folder)]).contains("Procfile is not a plain file"));
        assert!(refusal(&[("container/files", Put::File(b""))]).contains("container/files is not a folder"));
    }

    #[test]
    fn a_compile_step_that_could_not_run_is_refused_by_name() {
        let compile = |put: Put<'_>| refusal(&[("container/compile", put)]);
        assert!(
            compile(Put::File(b"#!/bin/sh\n")).contains("container/compile cannot be executed; make it executable")
        );
        assert!(compile(Put::Program(b"#!/bin/sh\r\n")).contains("CR LF"));
        let error = refusal(&[("bin/b", Put::File(b"#!/bin/sh\n")), ("container/compile", Put::Link("../bin/b"))]);
        assert!(error.contains("leads to bin/b") && error.contains("--chmod=+x bin/b"), "{error}");
        let shell = scan(&mut archive(&[("container/compile", Put::Program(b"echo hi\n"))])).expect("read");
        assert_eq!(shell.found.compile, Some(Compile::Shell));
    }

    #[test]
    fn other_encodings_are_named_with_the_file() {
        for name in TEXTS {
            let error = refusal(&[(name, Put::File(b"\xff\xfew\0e\0b\0"))]);
            assert!(error.contains(name) && error.contains("UTF-16"), "{error}");
        }
    }

    #[test]
    fn what_the_tree_does_not_hold_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        let entries = [
            ("a.bin", Put::File(pointer)),
            ("docs/about.txt", Put::File(b"version https://git-lfs.github.com/spec/v1 is what pointers begin with")),
            ("lib", Put::Folder),
            ("media", Put::Folder),
            ("media/b \u{1b}.bin", Put::File(pointer)),
            ("vendor", Put::Folder),
            ("vendor/x", Put::Folder),
        ];
        let notes = scan(&mut archive(&entries)).expect("read").found.notes;
        assert!(notes[0].starts_with("lib, vendor/x are submodules: "), "{notes:?}");
        assert!(notes[1].starts_with("a.bin, \"media/b \\u{1b}.bin\" are pointers of git-lfs"), "{notes:?}");
        let many: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
        let entries: Vec<_> = many.iter().map(|name| (name.as_str(), Put::Folder)).collect();
        let notes = scan(&mut archive(&entries)).expect("read").found.notes;
        assert!(notes[0].contains("m07 and 12 more are submodules"), "{notes:?}");
    }

    fn made(entries: &[(&str, Put<'_>)], times: &Times, now: u64, base: Option<&Merged>) -> (Vec<Layer>, Times) {
        let mut archive = archive(entries);
        let contents = scan(&mut archive).expect("read").contents;
        let commit = "c".repeat(40);
        let times = times.next(&contents.prints(&commit, "base"), contents.committed, now, false);
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
        let one = [("page", Put::File(b"one")), ("same", Put::File(b"same"))];
        let (now, none) = (COMMITTED + 1000, Times::default());
        let (mut first, times) = made(&one, &none, now, None);
        let (mut elsewhere, _) = made(&one, &none, now + 77, None);
        let (mut again, _) = made(&one, &times, now + 99, None);
        let layer = first.remove(0);
        assert_eq!(layer.digest, elsewhere.remove(0).digest);
        assert_eq!(layer.digest, again.remove(0).digest);
        assert!(listed(layer).iter().all(|(_, _, _, time)| *time == COMMITTED));
        let two = [("page", Put::File(b"two")), ("same", Put::File(b"same"))];
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
        let merged = Merged::of(&[root.to_owned()]).expect("opened");
        let entries = [
            ("container/files/bin/tool", Put::Program(b"x")),
            ("container/files/root", Put::Folder),
            ("container/files/root/.profile", Put::File(b"x")),
            ("container/files/srv/www/page", Put::File(b"x")),
            ("container/files/tmp/seed", Put::File(b"x")),
        ];
        let (mut layers, _) = made(&entries, &Times::default(), COMMITTED + 9, Some(&merged));
        let list = listed(layers.remove(0));
        let modes: Vec<(&str, u32)> = list.iter().map(|(path, mode, ..)| (path.trim_end_matches('/'), *mode)).collect();
        let wanted = [
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
        assert_eq!(modes, wanted);
        symlink("/proc", root.join("etc")).expect("a link");
        std::fs::create_dir(root.join("proc")).expect("made");
        let mut hostile = archive(&[("container/files/etc/x", Put::File(b"x"))]);
        let contents = scan(&mut hostile).expect("read").contents;
        let times = Times::default();
        let making =
            LayerInput { contents: &contents, times: &times, commit: "c", base: Some(&merged), scratch: base.path() };
        assert!(layers_error(&mut hostile, &making).contains("the kernel's own"));
    }

    fn layers_error(archive: &mut Cursor<Vec<u8>>, making: &LayerInput<'_>) -> String {
        layers(archive, making).err().map(|error| error.message).unwrap_or_default()
    }
}
