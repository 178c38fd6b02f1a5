//! Types of volumes: of the public API, and of the sessions in which an agent works on a volume.

use gantry_model::{AllocationId, AppName, Bytes, MachineName, Moment, RoleName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::Problem;
use crate::types::UnreachableMachine;

/// A volume, as shown by the public API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// The app that the volume belongs to. A volume outlives its app.
    pub app: AppName,
    /// Name of the volume.
    pub name: VolumeName,
    /// The machine that has the volume.
    pub machine: MachineName,
    /// Disk space that the volume takes, without its snapshots.
    pub size: Bytes,
    /// Owner of the volume's folder, as a container sees the owner.
    pub owner: VolumeOwner,
    /// The last time at which a container got the volume or gave it back; `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Moment>,
    /// Containers that have the volume now: instances, and one-offs of `gantry run`.
    #[serde(default)]
    pub in_use: Vec<String>,
    /// Roles of the current release that name the volume.
    #[serde(default)]
    pub roles: Vec<VolumeRole>,
    /// Number of files, folders and links. Lists leave this number out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Snapshots of the volume, oldest first.
    #[serde(default)]
    pub snapshots: Vec<SnapshotInfo>,
}

/// Volumes of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeList {
    /// The volumes of the machines that could be asked.
    pub volumes: Vec<VolumeInfo>,
    /// Machines that could not be asked. Their volumes are missing.
    #[serde(default)]
    pub unreachable: Vec<UnreachableMachine>,
}

/// Owner of a volume's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOwner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

impl From<VolumeReport> for VolumeInfo {
    fn from(report: VolumeReport) -> Self {
        let VolumeReport { app, name, machine, size, owner, used, in_use, files, snapshots } = report;
        let roles = Vec::new();
        Self { app, name, machine, size, owner, used, in_use, roles, files, snapshots }
    }
}

/// A volume, as its machine's agent reports the volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// The app that the volume belongs to. A volume outlives its app.
    pub app: AppName,
    /// Name of the volume.
    pub name: VolumeName,
    /// The machine that has the volume.
    pub machine: MachineName,
    /// Disk space that the volume takes, without its snapshots.
    pub size: Bytes,
    /// Owner of the volume's folder, as a container sees the owner.
    #[serde(with = "owner_pair")]
    pub owner: VolumeOwner,
    /// The last time at which a container got the volume or gave it back; `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Moment>,
    /// Containers that have the volume now: instances, and one-offs of `gantry run`.
    #[serde(default)]
    pub in_use: Vec<String>,
    /// Number of files, folders and links. Lists leave this number out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Snapshots of the volume, oldest first.
    #[serde(default)]
    pub snapshots: Vec<SnapshotInfo>,
}

/// The form of an owner between agent and server: user id and group id. Earlier versions know this form alone. The form
/// of the public API is read, too, so that a later version can send it.
mod owner_pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::VolumeOwner;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OwnerForm {
        Pair(u32, u32),
        Fields(VolumeOwner),
    }

    pub(super) fn serialize<S: Serializer>(owner: &VolumeOwner, serializer: S) -> Result<S::Ok, S::Error> {
        (owner.user, owner.group).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VolumeOwner, D::Error> {
        Ok(match OwnerForm::deserialize(deserializer)? {
            OwnerForm::Pair(user, group) => VolumeOwner { user, group },
            OwnerForm::Fields(owner) => owner,
        })
    }
}

/// A role that names a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeRole {
    /// The role.
    pub role: RoleName,
    /// Path of the volume in containers of the role.
    pub path: String,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Name of the snapshot.
    pub name: VolumeName,
    /// Time of the snapshot.
    pub at: Moment,
}

/// Body of `POST /v1/apps/{app}/volumes/{name}/export`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportVolume {
    /// True if the archive is compressed with zstd.
    #[serde(default)]
    pub zstd: bool,
}

/// Body of `POST /v1/apps/{app}/volumes/{name}/import`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportVolume {
    /// True if the archive replaces the content of the volume.
    #[serde(default)]
    pub replace: bool,
    /// Limit on the unpacked archive; by default the disk limit of the role that names the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Bytes>,
}

/// Body of `POST /v1/apps/{app}/volumes/{name}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Name of the snapshot; by default made from the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
}

/// Work on volumes that the server requests from an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum VolumeRequest {
    /// All volumes of an app, or of all apps.
    List {
        /// Folder of the app's volumes: the name that the app had first.
        app: Option<AppName>,
    },
    /// Work on one volume.
    One {
        /// Folder of the app's volumes: the name that the app had first.
        app: AppName,
        /// Name of the volume.
        name: VolumeName,
        /// The action.
        what: VolumeAction,
    },
}

/// Work on one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum VolumeAction {
    /// Describe the volume.
    Show,
    /// Remove the volume with its snapshots.
    Remove,
    /// Send the volume as a tar stream.
    Export(ExportVolume),
    /// Receive a tar stream, and make the volume of it.
    Import {
        /// True if the archive replaces the content of the volume.
        replace: bool,
        /// Limit on the unpacked archive.
        limit: Bytes,
    },
    /// Make a snapshot.
    Snapshot(CreateSnapshot),
    /// Remove a snapshot.
    RemoveSnapshot {
        /// The snapshot.
        snapshot: VolumeName,
    },
    /// Replace the content of the volume with a copy of a snapshot.
    Restore {
        /// The snapshot.
        snapshot: VolumeName,
    },
}

/// Result of a [`VolumeRequest`], in the output of its session. After an export, the archive is the output instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum VolumeAnswer {
    /// The volumes of a list.
    List {
        /// The volumes.
        volumes: Vec<VolumeReport>,
    },
    /// The volume after the work, or before its removal.
    One {
        /// The volume.
        volume: Box<VolumeReport>,
    },
    /// A new snapshot.
    Snapshot {
        /// The snapshot.
        snapshot: SnapshotInfo,
        /// Number of files, folders and links.
        files: u64,
        /// True if every file was cloned, so that the snapshot takes no space of its own.
        cloned: bool,
        /// Containers that had the volume meanwhile. The files are then of different moments.
        in_use: Vec<String>,
    },
    /// The work was refused, or failed.
    Refused {
        /// The cause.
        problem: Problem,
    },
}

/// The instances among `in_use`: their app can be scaled to free the volume. All others are one-offs, which end by
/// themselves.
#[must_use]
pub fn instances(in_use: &[String]) -> Vec<AllocationId> {
    in_use.iter().filter_map(|name| AllocationId::parse(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_s_report_is_read_with_both_forms_of_the_owner() {
        let report = VolumeReport {
            app: "shop".parse().expect("a name"),
            name: "data".parse().expect("a name"),
            machine: "m1".parse().expect("a name"),
            size: Bytes(7),
            owner: VolumeOwner { user: 1000, group: 100 },
            used: None,
            in_use: Vec::new(),
            files: None,
            snapshots: Vec::new(),
        };
        let mut sent = serde_json::to_value(&report).expect("JSON");
        assert_eq!(sent["owner"], serde_json::json!([1000, 100]), "the form of earlier versions");
        assert_eq!(serde_json::from_value::<VolumeReport>(sent.clone()).expect("read"), report);
        sent["owner"] = serde_json::json!({ "user": 1000, "group": 100 });
        assert_eq!(serde_json::from_value::<VolumeReport>(sent.clone()).expect("read"), report);
        sent["owner"] = serde_json::json!([1000]);
        assert!(serde_json::from_value::<VolumeReport>(sent).is_err());
    }
}
