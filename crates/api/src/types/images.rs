//! Bases, and images of other registries.

use gantry_model::{BaseName, Digest, Moment};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// Name of the base image.
    pub name: BaseName,
    /// Manifest of the image.
    pub image: Digest,
    /// Sources of the base image, such as `bookworm with 8 packages`.
    pub from: String,
    /// Time of creation.
    pub created: Moment,
}

/// A stack: a base with a well-known recipe, for code that is uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackInfo {
    /// Name of the stack, and of its base.
    pub name: BaseName,
    /// Purpose of the stack.
    pub about: String,
    /// Debian packages of the stack.
    pub packages: Vec<String>,
    /// The base of this name; none until the stack is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseInfo>,
    /// An operator made the base of this name. Code on the stack runs on this base, and the stack cannot be made.
    #[serde(default)]
    pub of_operator: bool,
}

/// Sizes of an image, and what could be left out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// The image.
    pub image: Digest,
    /// Bytes that a machine transfers for the image.
    pub packed: u64,
    /// Size of all files in bytes, hidden ones too.
    pub size: u64,
    /// The layers, from the bottom up.
    pub layers: Vec<LayerReport>,
    /// Files that a program mostly does not need, by kind.
    pub surplus: Vec<SurplusReport>,
    /// The largest files, largest first.
    pub largest: Vec<FileReport>,
}

/// Files of an image, by whether a command opened them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpensReport {
    /// Files that a process opened.
    pub opened: FileCount,
    /// Files that no process opened.
    pub unopened: FileCount,
    /// Folders with files that no process opened, the largest first.
    pub folders: Vec<FolderReport>,
    /// False if the kernel did not report every open.
    pub is_whole: bool,
}

/// Number and size of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCount {
    /// Number of files.
    pub files: u64,
    /// Size of all files in bytes.
    pub size: u64,
}

impl FileCount {
    /// Adds a file with its size in bytes.
    pub fn add(&mut self, size: u64) {
        self.files += 1;
        self.size = self.size.saturating_add(size);
    }
}

/// A folder of an image, with everything below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderReport {
    /// Path in the image.
    pub path: String,
    /// Files that no process opened.
    pub unopened: FileCount,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Digest of the layer.
    pub digest: Digest,
    /// Bytes that a machine transfers for the layer.
    pub packed: u64,
    /// Size of all files in bytes.
    pub size: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes that upper layers replace or remove.
    pub hidden: u64,
}

/// Files of a kind that a program mostly does not need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurplusReport {
    /// Kind of the files.
    pub kind: SurplusKind,
    /// Size of the files in bytes.
    pub size: u64,
}

/// A kind of files that a program mostly does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SurplusKind {
    /// Package lists, and caches of package managers.
    PackageCache,
    /// Documentation, manual pages and translations.
    Documentation,
    /// Compilers, header files and static libraries.
    Compilers,
    /// Caches of a user, and compiled Python files.
    Caches,
    /// Repositories of version control.
    Repositories,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// A large file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Path in the image.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Number of the layer, from 1 at the bottom.
    pub layer: u64,
}

/// Body of `POST /v1/apps/{app}/pull` and `/v1/bases/{name}/pull`, which copy an image of another registry into this
/// registry.
#[derive(Clone, Serialize, Deserialize)]
pub struct PullImage {
    /// Reference of the image: `registry.example/team/shop:1.2`.
    pub reference: String,
    /// User name at the other registry, if the registry wants a login. Gantry uses the credentials once and does not
    /// store them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password or token at the other registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// A progress event while the server makes a base image or pulls an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageProgress {
    /// A line of output.
    Line {
        /// Text of the line.
        text: String,
    },
    /// The last event: the base image is complete.
    Base {
        /// The base image.
        base: BaseInfo,
    },
    /// The last event: the image is complete.
    Image {
        /// Reference of the image in this registry: `shop@sha256:…`.
        reference: String,
    },
    /// The last event: the operation failed.
    Failed {
        /// Cause of the failure.
        problem: Problem,
    },
}
