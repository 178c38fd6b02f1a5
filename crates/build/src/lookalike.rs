//! Files that resemble a file of the recipe, such as `procfile` or `container/roles.yaml`. Gantry does not read them, and
//! the author may not notice. Pure.

use std::path::Path;

/// Maximum number of lookalikes that a recipe keeps.
pub(crate) const LOOKALIKES_MAX: usize = 8;

/// Files of other tools, which Gantry does not read.
const FOREIGN: [&str; 6] =
    ["dockerfile", "containerfile", "docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml"];

/// Extensions that authors add to a name.
const EXTENSIONS: [&str; 8] = ["txt", "json5", "json", "yaml", "yml", "toml", "sh", "py"];

/// File in the tree that resembles a file of the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookalike {
    /// Path of the file.
    pub path: String,
    /// Path that the recipe reads; `None` for a file of a tool that builds images.
    pub meant: Option<&'static str>,
}

impl Lookalike {
    /// Compares a path with the files of the recipe.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        let lower = text.to_ascii_lowercase();
        let meant = match lower.rsplit_once('/') {
            _ if FOREIGN.contains(&lower.as_str()) => None,
            None => Some(in_root(&lower)?),
            Some((folder, name)) if is_container(folder) => Some(in_container(name)?),
            Some(_) => return None,
        };
        (meant != Some(text)).then(|| Self { path: text.to_owned(), meant })
    }

    /// Remark for an author whose repository lacks the file of the recipe.
    pub(crate) fn remark(&self) -> String {
        let path = &self.path;
        match self.meant {
            Some(meant) => format!("{path} is not read; rename it to {meant}"),
            None => format!(
                "{path} is not read; build the image elsewhere, push it to Gantry's registry and run `gantry deploy APP --image`"
            ),
        }
    }
}

/// A folder name that resembles `container`.
fn is_container(folder: &str) -> bool {
    !folder.contains('/') && strsim::damerau_levenshtein(folder.trim_start_matches('.'), "container") <= 2
}

/// The name without an extension that authors add.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').filter(|(_, extension)| EXTENSIONS.contains(extension)).map_or(name, |(stem, _)| stem)
}

fn in_root(name: &str) -> Option<&'static str> {
    let stem = stem(name);
    if name.starts_with("procfile.") || strsim::damerau_levenshtein(stem, "procfile") <= 1 {
        return Some("Procfile");
    }
    match (name, stem) {
        (_, "roles") => Some("container/roles.json"),
        ("compile" | "compile.sh", _) => Some("container/compile"),
        ("app.json", _) => Some("app.json"),
        _ => None,
    }
}

fn in_container(name: &str) -> Option<&'static str> {
    match (name, stem(name)) {
        ("app.json", _) => Some("app.json"),
        (_, "procfile") => Some("Procfile"),
        (_, "roles" | "role") => Some("container/roles.json"),
        (_, "compile" | "complie" | "build") => Some("container/compile"),
        (_, "base") => Some("container/base"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_file_that_the_author_meant() {
        for (path, meant) in [
            ("procfile", Some("Procfile")),
            ("ProcFile", Some("Procfile")),
            ("Profile", Some("Procfile")),
            ("Procfile.txt", Some("Procfile")),
            ("container/Procfile", Some("Procfile")),
            ("roles.json", Some("container/roles.json")),
            ("container/roles.yaml", Some("container/roles.json")),
            ("Container/roles.json", Some("container/roles.json")),
            (".containers/roles.json", Some("container/roles.json")),
            ("container/compile.sh", Some("container/compile")),
            ("compile", Some("container/compile")),
            ("container/Base", Some("container/base")),
            ("container/base.txt", Some("container/base")),
            ("App.json", Some("app.json")),
            ("Dockerfile", None),
            ("docker-compose.yml", None),
        ] {
            let found = Lookalike::of(Path::new(path)).expect(path);
            assert_eq!((found.path.as_str(), found.meant), (path, meant));
        }
    }

    #[test]
    fn leaves_other_files_alone() {
        for path in [
            "Procfile",
            "container/roles.json",
            "container/base",
            "container/compile",
            "app.json",
            "Makefile",
            "Pipfile",
            "Rakefile",
            "package.json",
            "src/Procfile",
            "container/files/procfile",
            "bin/compile",
            "base",
            "container/help.sh",
        ] {
            assert_eq!(Lookalike::of(Path::new(path)), None, "{path}");
        }
    }
}
