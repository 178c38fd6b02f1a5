//! First pass over an archive: the input of the recipe and of the layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use gantry_blobs::DigestHasher;
use gantry_model::BuildPhase;
use tar::EntryType;

use super::{COMPILE, Contents, FILES, Member, each, failed, shown};
use crate::BuildError;
use crate::lookalike::{LOOKALIKES_MAX, Lookalike};
use crate::recipe::{RecipeInput, TEXTS};
use crate::script::{self, Compile};
use crate::text::{self, TEXT_MAX};
use crate::tree::{PathTarget, Tree, TreeEntryKind, half};

/// A git-lfs pointer is smaller than this, by the git-lfs specification.
const POINTER_MAX: u64 = 1024;

/// Maximum number of paths that a note lists.
const NAMED_MAX: usize = 8;

/// Result of scanning an archive: input for the recipe and for the layers.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) found: RecipeInput,
    pub(crate) contents: Contents,
}

/// Scans an archive for the input of the recipe and of the layers.
pub(crate) fn scan(archive: &mut (impl Read + Seek)) -> Result<Scanned, BuildError> {
    let mut first = FirstPass::default();
    archive.rewind().map_err(|error| failed(&error))?;
    each(&mut *archive, |path, entry| first.entry(path, entry).map_err(|error| failed(&error)))?;
    first.leave_folder(Path::new(""));
    let FirstPass { tree, committed, mut heads, modules, pointers, lookalikes, .. } = first;
    let mut recipe_paths = BTreeMap::new();
    for name in TEXTS {
        if let Some(path) = followed(&tree, name, BuildPhase::Roles)? {
            recipe_paths.insert(name, path);
        }
    }
    // An absolute link leads to a program that the base image may have.
    let in_image = matches!(tree.follow(Path::new(COMPILE)), PathTarget::Outside(target) if target.is_absolute());
    let compile = if in_image { None } else { followed(&tree, COMPILE, BuildPhase::Compile)? };
    let linked: BTreeSet<&PathBuf> =
        recipe_paths.values().chain(&compile).filter(|path| !heads.contains_key(*path)).collect();
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
    let mut found = RecipeInput { lookalikes, ..RecipeInput::default() };
    for (name, path) in recipe_paths {
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
        PathTarget::Folder(path) => Some(path),
        PathTarget::Nowhere => None,
        other => return Err(BuildError::new(BuildPhase::Source, format!("{FILES} {}", why_not(&other, "a folder")))),
    };
    found.files = files.is_some();
    Ok(Scanned { found, contents: Contents { tree, files, committed } })
}

/// Path of a recipe's file, with links within the tree followed; `None` if the tree has no such file.
fn followed(tree: &Tree, name: &'static str, phase: BuildPhase) -> Result<Option<PathBuf>, BuildError> {
    match tree.follow(Path::new(name)) {
        PathTarget::Nowhere => Ok(None),
        PathTarget::File(path) => Ok(Some(path)),
        other => Err(BuildError::new(phase, format!("{name} {}", why_not(&other, "a plain file")))),
    }
}

fn why_not(leads: &PathTarget, expected: &str) -> String {
    match leads {
        PathTarget::Broken(target) => {
            format!("is a link to {}, which is not in the repository; commit what it leads to", shown(target))
        }
        PathTarget::Outside(target) => {
            format!("is a link to {}, which leads out of the repository; commit the file itself", shown(target))
        }
        PathTarget::Endless => "is a link that leads to itself; commit the file itself".to_owned(),
        _ => format!("is not {expected}"),
    }
}

fn compile_step(tree: &Tree, path: &Path, head: &[u8]) -> Result<Compile, BuildError> {
    let is_linked = path != Path::new(COMPILE);
    let name = if is_linked { format!("{COMPILE} leads to {}, which", shown(path)) } else { COMPILE.to_owned() };
    if tree.kind(path) != Some(TreeEntryKind::File(true)) {
        let why =
            format!("{name} cannot be executed; make it executable (git update-index --chmod=+x {})", shown(path));
        return Err(BuildError::new(BuildPhase::Compile, why));
    }
    script::inspect(&head[..head.len().min(script::HEAD)])
        .map_err(|why| BuildError::new(BuildPhase::Compile, format!("{name} {why}")))
}

/// Reads the beginning of a file.
fn head(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(TEXT_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Paths for a note: the first few paths, and the number of all paths.
#[derive(Debug, Default)]
struct PathSample {
    first: Vec<String>,
    count: usize,
}

impl PathSample {
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
    modules: PathSample,
    pointers: PathSample,
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
