//! Volumes that begin empty after a restore: the backup has none of their data, and neither has the disk.
//!
//! `gantry restore` leaves a mark for each such volume. The first release that gets the volume writes the release's name
//! into the mark, and the instances of the release carry a warning. The agent removes the mark once data is imported, or
//! once a later release uses the volume.

use std::path::{Path, PathBuf};

use gantry_model::{AllocationId, AppName, InstanceSpec, VolumeName};

use crate::AgentSettings;

fn path_of(data: &Path, app: &AppName, name: &str) -> PathBuf {
    data.join("volumes").join(app.as_str()).join(format!(".lost-{name}"))
}

/// Marks a volume without data.
///
/// # Errors
/// When the mark cannot be written.
pub(super) fn mark(data: &Path, app: &AppName, name: &VolumeName) -> std::io::Result<()> {
    let path = path_of(data, app, name.as_str());
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    gantry_ledger::replace(&path, b"")
}

/// Removes the mark of a volume, whose data is there again or no longer wanted.
pub(super) fn forget(settings: &AgentSettings, app: &AppName, name: &str) {
    let _ = std::fs::remove_file(path_of(&settings.data, app, name));
}

/// Records in the mark, if there is one, that `holder` got the volume.
pub(super) fn bound(settings: &AgentSettings, app: &AppName, name: &str, holder: &str) {
    let path = path_of(&settings.data, app, name);
    let (Ok(known), Some(holder)) = (std::fs::read_to_string(&path), AllocationId::parse(holder)) else { return };
    let release = format!("{}.{}", holder.slot.app, holder.slot.release);
    let changed = match known.as_str() {
        "" => gantry_ledger::replace(&path, release.as_bytes()),
        first if first == release => Ok(()),
        _ => std::fs::remove_file(&path),
    };
    if let Err(error) = changed {
        tracing::warn!(%app, name, %error, "cannot change the mark of an empty volume");
    }
}

/// The warning of an instance that began with an empty volume.
pub(crate) fn warning(settings: &AgentSettings, id: &AllocationId, spec: &InstanceSpec) -> Option<String> {
    let folder = spec.volume_folder(&id.slot.app);
    let name = spec.role.volumes.keys().find(|name| path_of(&settings.data, folder, name).exists())?;
    let (app, role) = (&id.slot.app, &id.slot.role);
    Some(format!(
        "began with an empty volume {name}: the restored backup has no data of it; to bring the data back, run \
         `gantry scale {app} {role}=0 --wait`, then `gantry volume import {app} {name} --replace FILE`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_for_one_release() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = AgentSettings { data: folder.path().to_owned(), ..AgentSettings::for_tests() };
        let (app, name) = (AppName::parse("db").expect("a name"), VolumeName::parse("data").expect("a name"));
        let path = path_of(folder.path(), &app, "data");
        bound(&settings, &app, "data", "db.v3.db-1");
        assert!(!path.exists(), "a volume with data got a mark");
        mark(folder.path(), &app, &name).expect("marked");
        // A one-off is no release.
        bound(&settings, &app, "data", "run-db-1");
        for _ in 0..2 {
            bound(&settings, &app, "data", "db.v3.db-1");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), "db.v3");
        }
        bound(&settings, &app, "data", "db.v4.db-1");
        assert!(!path.exists());
        mark(folder.path(), &app, &name).expect("marked");
        forget(&settings, &app, "data");
        assert!(!path.exists());
    }
}
