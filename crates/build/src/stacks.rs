//! Stacks: bases with well-known recipes, for code that is uploaded without a build.
//!
//! The program carries the recipes, so that every cluster has the same stacks. A stack is made like any other base, at
//! first need. An operator who wants other packages makes a base of his own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use gantry_image::{APP_USER, Layer, LayerWriter, Meta};

use crate::bases::BaseRecipe;
use crate::times::EARLIEST;

/// Suite of Debian from which stacks are made.
const SUITE: &str = "bookworm";

/// A base with a well-known recipe.
#[derive(Debug)]
pub struct Stack {
    /// Name of the stack, and of its base.
    pub name: &'static str,
    /// Purpose of the stack, for people.
    pub about: &'static str,
    /// Debian packages of the stack. Without packages, the stack has no file of Debian.
    pub packages: &'static [&'static str],
}

/// All stacks.
pub const STACKS: [Stack; 4] = [
    Stack { name: "node", about: "JavaScript with Node.js", packages: &["nodejs", "ca-certificates", "tzdata"] },
    Stack { name: "python", about: "Python 3", packages: &["python3", "ca-certificates", "tzdata"] },
    Stack { name: "ruby", about: "Ruby", packages: &["ruby", "ca-certificates", "tzdata"] },
    Stack { name: "tiny", about: "static programs: no shell, no libraries", packages: &[] },
];

impl Stack {
    /// Finds a stack by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        STACKS.iter().find(|stack| stack.name == name)
    }

    /// Recipe of the stack's base. None for the stack without packages, whose layer is [`tiny_layer`].
    #[must_use]
    pub fn recipe(&self) -> Option<BaseRecipe> {
        if self.packages.is_empty() {
            return None;
        }
        let packages = self.packages.iter().map(|package| (*package).to_owned()).collect();
        Some(BaseRecipe { suite: SUITE.to_owned(), packages, files: BTreeMap::new(), script: None })
    }
}

/// Makes the layer of the stack `tiny`: the accounts, and an empty `/tmp`. Blocks. `scratch` is a folder for temporary
/// files.
///
/// # Errors
/// When a temporary file cannot be written.
pub fn tiny_layer(scratch: &Path) -> io::Result<Layer> {
    let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: EARLIEST };
    let passwd = format!("root:x:0:0:root:/root:/sbin/nologin\napp:x:{APP_USER}:{APP_USER}::/app:/sbin/nologin\n");
    let group = format!("root:x:0:\napp:x:{APP_USER}:\n");
    let mut writer = LayerWriter::new(scratch)?;
    writer.folder(Path::new("etc"), meta(0o755))?;
    for (name, text) in [("etc/group", &group), ("etc/passwd", &passwd)] {
        writer.file(Path::new(name), meta(0o644), text.len() as u64, text.as_bytes())?;
    }
    writer.folder(Path::new("tmp"), meta(0o1777))?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_valid() {
        for stack in &STACKS {
            assert!(gantry_model::BaseName::parse(stack.name).is_ok(), "{}", stack.name);
            let Some(recipe) = stack.recipe() else { continue };
            let text = recipe.to_toml().expect("text");
            assert_eq!(BaseRecipe::parse(&text).expect("a recipe"), recipe);
        }
        assert!(Stack::named("tiny").expect("a stack").recipe().is_none());
        assert!(Stack::named("perl").is_none());
    }

    #[test]
    fn the_tiny_layer_is_the_same_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two] = [(), ()].map(|()| tiny_layer(folder.path()).expect("a layer"));
        assert_eq!((&one.digest, &one.diff_id), (&two.digest, &two.diff_id));
        assert!(one.size < 1024, "{}", one.size);
    }
}
