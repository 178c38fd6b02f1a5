//! Base images for app images, made of Debian packages by mmdebstrap.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_image::{Config, Layer, LayerWriter, Manifest, Runtime};
use gantry_model::Digest;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_util::io::ReaderStream;

use crate::builder::Builder;
use crate::output::Output;
use crate::source::APP_USER;
use crate::times::EARLIEST;
use crate::{BuildError, text};

/// Timeout of making a base image.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

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

impl BaseRecipe {
    /// Parses the bytes of `base.toml`: UTF-8, with or without a byte order mark.
    ///
    /// # Errors
    /// The apparent encoding, or an error of [`BaseRecipe::parse`].
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(&text::decode(bytes)?)
    }

    /// Parses the text of `base.toml`.
    ///
    /// # Errors
    /// Line, column and cause.
    pub fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:=~_".contains(c))
        };
        if !word(&recipe.suite) {
            return Err(format!("{:?} is not a suite; write for example \"bookworm\"", recipe.suite));
        }
        if let Some(package) = recipe.packages.iter().find(|package| !word(package)) {
            return Err(format!("{package:?} is not a package's name"));
        }
        let plain = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        match recipe.files.keys().find(|path| !plain(path)) {
            Some(path) => Err(format!("{path:?} is not an absolute path")),
            None => Ok(recipe),
        }
    }
}

impl Builder {
    /// Makes a base image and stores the image.
    ///
    /// # Errors
    /// An error in phase `base`, with the last lines of mmdebstrap's output.
    pub async fn make_base(&self, recipe: &BaseRecipe, output: &Arc<Output>) -> Result<Digest, BuildError> {
        let fail = |error: &dyn std::fmt::Display| BuildError::new("base", error);
        output.step(&format!("Making a base of {} with {} packages", recipe.suite, recipe.packages.len()));
        let hooks = tempfile::tempdir_in(&self.folders.scratch).map_err(|error| fail(&error))?;
        write_hooks(recipe, hooks.path()).map_err(|error| fail(&error))?;
        let archive = hooks.path().join("base.tar");
        bootstrap(recipe, hooks.path(), &archive, output).await?;
        output.step("Keeping the base");
        let scratch = self.folders.scratch.clone();
        let layer = tokio::task::spawn_blocking(move || repack(&archive, &scratch))
            .await
            .map_err(|error| fail(&error))?
            .map_err(|error| fail(&error))?;
        self.keep_base(layer).await.map_err(|error| fail(&error))
    }

    async fn keep_base(&self, layer: Layer) -> Result<Digest, Box<dyn std::error::Error + Send + Sync>> {
        let (descriptor, diff_id) = (layer.descriptor(), layer.diff_id.clone());
        let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(layer.file), 256 << 10).boxed();
        self.blobs.put_stream(stream, Some(&descriptor.digest)).await?;
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let runtime = Runtime { env: Some(vec![path, "LANG=C.UTF-8".to_owned()]), ..Runtime::default() };
        let config = Bytes::from(serde_json::to_vec(&Config::new(vec![diff_id], runtime))?);
        let size = config.len() as u64;
        let config = self.blobs.put(config).await?;
        let manifest = Manifest::new((config, size), vec![descriptor]);
        Ok(self.blobs.put(Bytes::from(serde_json::to_vec(&manifest)?)).await?)
    }
}

/// Writes the hook script. mmdebstrap runs the script with the new root as the argument.
fn write_hooks(recipe: &BaseRecipe, folder: &Path) -> std::io::Result<()> {
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

async fn bootstrap(recipe: &BaseRecipe, hooks: &Path, archive: &Path, output: &Arc<Output>) -> Result<(), BuildError> {
    // mmdebstrap mounts file systems. The mounts and any leftover processes are in private namespaces and end with
    // mmdebstrap, even after a crash or a kill.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation=private", "--pid", "--mount-proc", "--fork", "--kill-child", "mmdebstrap"])
        .args(["--variant=minbase", "--mode=root", "--format=tar"])
        .arg(format!("--customize-hook={}", hooks.join("hook").display()))
        .args(MANUAL_FOLDERS.map(|folder| format!("--setup-hook=mkdir -p \"$1{folder}\"")))
        .args(PATHS.map(|path| format!("--dpkgopt=path-{path}")));
    if !recipe.packages.is_empty() {
        command.arg(format!("--include={}", recipe.packages.join(",")));
    }
    // With this time, the same packages always give the same bytes. A zip file can hold the time.
    command.arg(&recipe.suite).arg(archive).env("SOURCE_DATE_EPOCH", EARLIEST.to_string()).env("TMPDIR", hooks);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            BuildError::new("base", format!("unshare cannot be run: {error}; install it (apt-get install util-linux)"))
        })?;
    let stderr = child.stderr.take();
    let reading = async {
        if let Some(stderr) = stderr {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                output.program(&line);
            }
        }
        child.wait().await
    };
    let status = tokio::time::timeout(TIMEOUT, reading)
        .await
        .map_err(|_| BuildError::new("base", "mmdebstrap did not end in 30 minutes"))?
        .map_err(|error| BuildError::new("base", error))?;
    if status.success() {
        return Ok(());
    }
    let missing = status.code() == Some(127);
    let hint = if missing { "; install it (apt-get install mmdebstrap)" } else { "" };
    Err(BuildError { phase: "base", message: format!("mmdebstrap failed ({status}){hint}"), tail: output.shown(20) })
}

/// Converts the archive into a layer.
fn repack(archive: &Path, scratch: &Path) -> std::io::Result<Layer> {
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
        let marked = BaseRecipe::read(b"\xef\xbb\xbfsuite = 'bookworm'\n").expect("a recipe");
        assert_eq!(marked.suite, "bookworm");
        assert!(BaseRecipe::read(b"\xff\xfes\0").expect_err("refused").contains("UTF-16"));
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
