//! The parts of `gantry check` that look at a machine's data: unpacked layers and volumes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gantry_agent::StoredVolume;
use gantry_image::{Layers, LayersError};
use gantry_linux::process::USERS;
use gantry_linux::walk;
use serde_json::Value;

use crate::args::Machine;
use crate::damage::{BlobReferences, Damage, Fault, path_of};
use crate::printer::status;
use crate::role_volumes::{RoleVolume, role_volumes};
use crate::server_files::ServerFiles;

/// Compares every unpacked layer with its blob. Returns the number of compared layers and the damaged ones; with `repair`,
/// puts these aside. A layer whose image is in no record is left to garbage collection.
pub(crate) fn check_layers(
    machine: &Machine,
    files: &ServerFiles,
    needed: &BlobReferences,
    repair: bool,
) -> anyhow::Result<(usize, Vec<Damage>)> {
    let folder = machine.data.join("layers");
    if !folder.exists() {
        return Ok((0, Vec::new()));
    }
    let layers = Layers::in_folder(&folder, 0)?;
    let (mut count, mut damaged) = (0, Vec::new());
    for diff_id in layers.list() {
        let Some(digest) = needed.blob_of_layer(&diff_id) else { continue };
        let Ok(blob) = files.open(&path_of(&files.path("blobs"), digest.hex())) else { continue };
        match layers.first_difference(&diff_id, blob) {
            Ok(None) => count += 1,
            Ok(Some(difference)) => {
                let file = format!("layers/{}", diff_id.hex());
                let fault = Fault::Wrong(format!("is damaged: {difference}"));
                damaged.push(Damage { file: file.clone(), fault, needed_by: needed.by(digest.hex()) });
                if repair {
                    layers.set_aside(&diff_id)?;
                    status!("put aside {file}; the next start of its containers unpacks it again");
                }
            }
            // The damaged blob is named already.
            Err(LayersError::Unpack(_) | LayersError::WrongDigest { .. }) => {
                status!(
                    "layer {} was not compared with its blob: the blob is damaged, or the disk is full",
                    diff_id.short()
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((count, damaged))
}

/// Reads every volume, and looks for those that the records name. Returns the number of volumes and the damage.
pub(crate) fn check_volumes(machine: &Machine, records: &[(&str, Value)]) -> anyhow::Result<(usize, Vec<Damage>)> {
    let volumes = gantry_agent::stored_volumes(&machine.data);
    let mut damaged = Vec::new();
    // A server without an agent beside it has no volumes.
    let has_agent = machine.data.join("containers").exists();
    let named = role_volumes(records.iter().map(|(key, value)| (*key, value)));
    // The data of other machines is checked there.
    let own = machine.name()?;
    let is_here = |role: &RoleVolume| has_agent && role.machine.as_ref().is_none_or(|machine| *machine == own);
    for RoleVolume { app, role, volume, .. } in named.into_iter().filter(is_here) {
        if !machine.data.join(volume.path()).exists() {
            let needed_by = vec![format!("role {role} of {app}")];
            damaged.push(Damage { file: volume.path().display().to_string(), fault: Fault::Missing, needed_by });
        }
    }
    for volume in &volumes {
        let fault = match check_volume(&machine.data, volume) {
            Ok(fault) => fault,
            Err(error) => Some(Fault::Unreadable(error.to_string())),
        };
        let file = volume.path().display().to_string();
        damaged.extend(fault.map(|fault| Damage { file, fault, needed_by: Vec::new() }));
    }
    Ok((volumes.len(), damaged))
}

/// Reads all files of a volume. A container may change the volume meanwhile. Returns what is wrong with the volume's
/// folder.
fn check_volume(data: &Path, volume: &StoredVolume) -> io::Result<Option<Fault>> {
    let path = data.join(volume.path());
    for folder in [data.join("volumes"), data.join("volumes").join(volume.app.as_str())] {
        let about = std::fs::symlink_metadata(&folder)?;
        if about.uid() != 0 || about.mode() & 0o022 != 0 {
            let fault = format!("is in a folder that others than root may change: {}", folder.display());
            return Ok(Some(Fault::Wrong(fault)));
        }
    }
    let about = std::fs::symlink_metadata(&path)?;
    let wrong = |what: String| Ok(Some(Fault::Wrong(what)));
    if about.uid() >= USERS || about.gid() >= USERS {
        return wrong(format!("belongs to {}:{}, which no container has", about.uid(), about.gid()));
    }
    if about.mode() & 0o700 != 0o700 {
        return wrong(format!("has the mode {:o}: its owner cannot write there", about.mode() & 0o7777));
    }
    let top = walk::top(&path)?;
    walk::walk(&top, &mut |node| {
        if node.kind().is_file() {
            io::copy(&mut File::from(node.open()?), &mut io::sink())?;
        }
        Ok(())
    })?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_no_container_can_use_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("volumes/db/data");
        std::fs::create_dir_all(&path).expect("made");
        std::fs::write(path.join("file"), "content").expect("written");
        let volumes = gantry_agent::stored_volumes(folder.path());
        let check = || match check_volume(folder.path(), &volumes[0]).expect("read") {
            None => String::new(),
            Some(fault) => Damage { file: "volumes/db/data".to_owned(), fault, needed_by: Vec::new() }.to_string(),
        };
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).expect("given");
        assert_eq!(check(), "");
        mode(&path, 0o500);
        assert_eq!(check(), "volumes/db/data has the mode 500: its owner cannot write there");
        mode(&path, 0o750);
        std::os::unix::fs::chown(&path, Some(100_000), None).expect("given");
        assert_eq!(check(), "volumes/db/data belongs to 100000:1000, which no container has");
        std::os::unix::fs::chown(&path, Some(70), None).expect("given");
        mode(&folder.path().join("volumes/db"), 0o777);
        assert!(check().starts_with("volumes/db/data is in a folder that others than root may change: "));
    }
}
