//! Base images for app images, made of Debian packages by mmdebstrap.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use gantry_image::{Config, Layer, LayerWriter, Runtime};
use serde::{Deserialize, Serialize};

use crate::image_draft::{ImageDocuments, documents};
use crate::source::APP_USER;
use crate::text::{self, TextError};
use crate::times::EARLIEST;

/// Path filters of dpkg. The filters exclude documentation, which is a third of a base image and useless in a
/// container. `locale-gen` reads a single file among the translations; the filters include this file.
const PATHS: [&str; 5] = [
    "exclude=/usr/share/doc/*",
    "exclude=/usr/share/man/*",
    "exclude=/usr/share/info/*",
    "exclude=/usr/share/locale/*",
    "include=/usr/share/locale/locale.alias",
];

/// Folders of manual pages. Packages with alternatives, such as a JDK, fail if dpkg cannot link their manual pages.
const MANUAL_FOLDERS: [&str; 8] = [
    "/usr/share/man/man1",
    "/usr/share/man/man2",
    "/usr/share/man/man3",
    "/usr/share/man/man4",
    "/usr/share/man/man5",
    "/usr/share/man/man6",
    "/usr/share/man/man7",
    "/usr/share/man/man8",
];

/// Folder of mmdebstrap's hooks that make a root with a merged `/usr` before the first package is unpacked. Without these
/// hooks Debian 12 installs the package `usrmerge`, which needs the whole of Perl: 47 MB in every base.
pub const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

/// Recipe of a base image: `base.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecipe {
    /// Suite of Debian, such as `bookworm`.
    pub suite: String,
    /// Names of Debian packages.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Content of extra files, by absolute path.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Shell script that runs last, as root inside the new root.
    #[serde(default)]
    pub script: Option<String>,
}

/// Reason why a text is no recipe of a base image.
#[derive(Debug, thiserror::Error)]
pub enum BaseRecipeError {
    /// The file is no text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text is no TOML, or has an unknown key.
    #[error("{}", .0.to_string().trim())]
    Syntax(Box<toml::de::Error>),
    /// The suite has a wrong form.
    #[error("{0:?} is not a suite; write for example \"bookworm\"")]
    Suite(String),
    /// The name of a package has a wrong form.
    #[error("{0:?} is not a package's name")]
    Package(String),
    /// The path of a file is not absolute.
    #[error("{0:?} is not an absolute path")]
    Path(String),
}

impl BaseRecipe {
    /// Decodes and parses the bytes of `base.toml`: UTF-8, with or without a byte order mark. Returns the text, too.
    ///
    /// # Errors
    /// The apparent encoding, or an error of [`BaseRecipe::parse`].
    pub fn read(bytes: &[u8]) -> Result<(String, Self), BaseRecipeError> {
        let text = text::decode(bytes)?;
        let recipe = Self::parse(&text)?;
        Ok((text, recipe))
    }

    /// Parses the text of `base.toml`.
    ///
    /// # Errors
    /// Line, column and cause.
    pub fn parse(text: &str) -> Result<Self, BaseRecipeError> {
        let recipe: Self = toml::from_str(text).map_err(|error| BaseRecipeError::Syntax(error.into()))?;
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:=~_".contains(c))
        };
        if !word(&recipe.suite) {
            return Err(BaseRecipeError::Suite(recipe.suite));
        }
        if let Some(package) = recipe.packages.iter().find(|package| !word(package)) {
            return Err(BaseRecipeError::Package(package.clone()));
        }
        let plain = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        match recipe.files.keys().find(|path| !plain(path)) {
            Some(path) => Err(BaseRecipeError::Path(path.clone())),
            None => Ok(recipe),
        }
    }
}

impl BaseRecipe {
    /// Formats the recipe as the text of `base.toml`.
    ///
    /// # Errors
    /// When the recipe has no form in TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Describes the recipe in a few words, such as `bookworm with 8 packages`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = self.packages.len();
        format!("{} with {count} {}", self.suite, if count == 1 { "package" } else { "packages" })
    }
}

/// Makes the documents of a base image with this layer.
///
/// # Errors
/// When a document cannot be serialized.
pub fn base_documents(layer: &Layer) -> serde_json::Result<ImageDocuments> {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let runtime = Runtime { env: Some(vec![path, "LANG=C.UTF-8".to_owned()]), ..Runtime::default() };
    documents(&Config::new(vec![layer.diff_id.clone()], runtime), vec![layer.descriptor()])
}

/// Writes the hook script. mmdebstrap runs the script with the new root as the argument.
///
/// # Errors
/// When a file cannot be written.
pub fn write_hooks(recipe: &BaseRecipe, folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut hook = String::from("#!/bin/sh\nset -eu\nroot=$1\nhere=$(dirname \"$0\")\n");
    let _ = writeln!(hook, "echo 'app:x:{APP_USER}:{APP_USER}::/app:/bin/sh' >> \"$root/etc/passwd\"");
    let _ = writeln!(hook, "echo 'app:x:{APP_USER}:' >> \"$root/etc/group\"");
    let _ = writeln!(hook, "rm -rf \"$root\"/var/cache/apt/* \"$root\"/var/lib/apt/lists/* \"$root\"/var/log/*.log");
    for (number, (path, content)) in recipe.files.iter().enumerate() {
        std::fs::write(folder.join(format!("file-{number}")), content)?;
        // The path is in a quoted variable, so the shell never interprets the path.
        let quoted = path.replace('\'', "'\\''");
        let _ = writeln!(hook, "path='{quoted}'");
        let _ = writeln!(hook, "mkdir -p \"$root$(dirname \"$path\")\"; cp \"$here/file-{number}\" \"$root$path\"");
    }
    if let Some(script) = &recipe.script {
        std::fs::write(folder.join("script"), script)?;
        hook.push_str("cp \"$here/script\" \"$root/.gantry-script\"\nchroot \"$root\" /bin/sh -eu /.gantry-script\n");
        hook.push_str("rm \"$root/.gantry-script\"\n");
    }
    let path = folder.join("hook");
    std::fs::write(&path, hook)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Arguments of mmdebstrap: makes the root of a recipe as the tar file `archive`, with the hooks in the folder `hooks`.
/// `has_merged_usr` tells that the machine has the folder [`MERGED_USR`].
#[must_use]
pub fn bootstrap_arguments(recipe: &BaseRecipe, hooks: &Path, archive: &Path, has_merged_usr: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["--variant=minbase", "--mode=root", "--format=tar"].map(ToOwned::to_owned).into();
    if has_merged_usr {
        arguments.push(format!("--hook-dir={MERGED_USR}"));
    }
    arguments.push(format!("--customize-hook={}", hooks.join("hook").display()));
    arguments.extend(MANUAL_FOLDERS.map(|folder| format!("--setup-hook=mkdir -p \"$1{folder}\"")));
    arguments.extend(PATHS.map(|path| format!("--dpkgopt=path-{path}")));
    if !recipe.packages.is_empty() {
        arguments.push(format!("--include={}", recipe.packages.join(",")));
    }
    arguments.extend([recipe.suite.clone(), archive.display().to_string()]);
    arguments
}

/// The time of all files of a base. With this time, the same packages always give the same bytes. A zip file can hold
/// the time.
#[must_use]
pub fn base_time() -> u64 {
    EARLIEST
}

/// Converts mmdebstrap's archive into a layer. Blocks.
///
/// # Errors
/// When a file cannot be read or written.
pub fn repack(archive: &Path, scratch: &Path) -> std::io::Result<Layer> {
    LayerWriter::from_tar(std::io::BufReader::new(std::fs::File::open(archive)?), scratch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_recipe_is_read_strictly() {
        let recipe = BaseRecipe::parse("suite = 'bookworm'\npackages = ['ruby', 'g++']\n[files]\n'/etc/x' = 'y'")
            .expect("a recipe");
        assert_eq!(recipe.packages, ["ruby", "g++"]);
        assert_eq!(recipe.summary(), "bookworm with 2 packages");
        let (_, marked) = BaseRecipe::read(b"\xef\xbb\xbfsuite = 'bookworm'\n").expect("a recipe");
        assert_eq!(marked.suite, "bookworm");
        let one = BaseRecipe { packages: vec!["ruby".to_owned()], ..marked };
        assert_eq!(one.summary(), "bookworm with 1 package");
        assert!(BaseRecipe::read(b"\xff\xfes\0").expect_err("refused").to_string().contains("UTF-16"));
        for bad in [
            "",
            "suite = '--help'",
            "suite = 'bookworm'\npackages = ['a,b']",
            "suite = 'bookworm'\npackages = ['--x']",
            "suite = 'bookworm'\npackges = []",
            "suite = 'bookworm'\n[files]\n'../x' = 'y'",
        ] {
            assert!(BaseRecipe::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mmdebstrap_merges_usr_by_its_hooks_where_it_has_them() {
        let recipe = BaseRecipe::parse("suite = 'bookworm'\npackages = ['ruby', 'g++']").expect("a recipe");
        let arguments = |has_merged_usr| {
            bootstrap_arguments(&recipe, Path::new("/scratch"), Path::new("/scratch/base.tar"), has_merged_usr)
        };
        let (with, without) = (arguments(true), arguments(false));
        let hooks = format!("--hook-dir={MERGED_USR}");
        assert_eq!(with.iter().filter(|argument| **argument == hooks).count(), 1, "{with:?}");
        assert_eq!(with.into_iter().filter(|argument| *argument != hooks).collect::<Vec<_>>(), without);
        let end = ["--include=ruby,g++", "bookworm", "/scratch/base.tar"];
        assert!(without.iter().rev().zip(end.iter().rev()).all(|(found, expected)| found == expected), "{without:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop_oneof![
            "\\PC{0,200}",
            "(suite|packages|script|\\[files\\])? ?=? ?['\"\\[]?[a-z0-9./,'-]{0,12}['\"\\]]?\n(suite = 'bookworm')?",
        ]) {
            let _ = BaseRecipe::parse(&text);
        }
    }
}
