//! Volumes and their snapshots.

use gantry_model::{AppName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, SessionStart, endpoints};
use crate::volumes::{CreateSnapshot, ExportVolume, ImportVolume, VolumeInfo, VolumeList};

/// Query of a removal.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RemoveQuery {
    /// True to remove the volume even if a role of the current release names it.
    #[serde(default)]
    pub force: bool,
}

impl QueryParameters for RemoveQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] =
        &[("force", "`true` to remove the volume even if a role has it")];
}

endpoints! {
    /// All volumes
    ListAll: GET "/v1/volumes", Read, NoBody => Json<VolumeList>, [];
    /// List the volumes of an app
    List { app: AppName }: GET "/v1/apps/{app}/volumes", Read, NoBody => Json<VolumeList>,
        [AppNotFound, AppBeingDestroyed];
    /// A volume
    Show { app: AppName, name: VolumeName }: GET "/v1/apps/{app}/volumes/{name}", Read, NoBody => Json<VolumeInfo>,
        [AppNotFound, VolumeNotFound, VolumeAmbiguous];
    /// Remove a volume with its snapshots
    Remove { app: AppName, name: VolumeName }: DELETE "/v1/apps/{app}/volumes/{name}" ? RemoveQuery, Deploy,
        NoBody => Json<VolumeInfo>, [AppNotFound, VolumeNotFound, VolumeOfRole, VolumeInUse, VolumeAmbiguous];
    /// A volume as a tar stream
    Export { app: AppName, name: VolumeName }: POST "/v1/apps/{app}/volumes/{name}/export", Deploy,
        Json<ExportVolume> => SessionStart, [AppNotFound, VolumeAmbiguous, SessionRequired];
    /// Make a volume of a tar stream
    Import { app: AppName, name: VolumeName }: POST "/v1/apps/{app}/volumes/{name}/import", Deploy,
        Json<ImportVolume> => SessionStart, [AppNotFound, AppBeingDestroyed, VolumeAmbiguous, SessionRequired];
    /// Make a snapshot of a volume
    Snapshot { app: AppName, name: VolumeName }: POST "/v1/apps/{app}/volumes/{name}/snapshots", Deploy,
        Json<CreateSnapshot> => SessionStart, [AppNotFound, VolumeAmbiguous, SessionRequired];
    /// Remove a snapshot
    RemoveSnapshot { app: AppName, name: VolumeName, snapshot: VolumeName }:
        DELETE "/v1/apps/{app}/volumes/{name}/snapshots/{snapshot}", Deploy, NoBody => Json<VolumeInfo>,
        [AppNotFound, VolumeNotFound, SnapshotNotFound, VolumeAmbiguous];
    /// Replace the content of a volume with a copy of a snapshot
    Restore { app: AppName, name: VolumeName, snapshot: VolumeName }:
        POST "/v1/apps/{app}/volumes/{name}/snapshots/{snapshot}/restore", Deploy, NoBody => SessionStart,
        [AppNotFound, VolumeAmbiguous, SessionRequired];
}
