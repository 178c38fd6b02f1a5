//! Volumes in `gantry restore`.
//!
//! A restore replaces no data without an order to. [`plan`] decides what happens to each volume before anything
//! changes; [`VolumePlacement`] puts the volumes in place. A restore that is killed starts over: a file beside volumes
//! names those that it put in place, so that the next restore does not take them for older data.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_agent::{AgentSettings, StoredVolume};
use gantry_api::ErrorCode;
use gantry_linux::{copy, walk};
use gantry_model::{AppName, Bytes, VolumeName};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

/// The choice of a person: which volumes of a backup come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VolumeChoice {
    /// Volumes that this machine does not have
    Missing,
    /// All volumes; those of this machine are replaced
    All,
    /// No volumes
    None,
}

/// State of a volume on this machine before the restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct VolumeState {
    /// True if the volume has content that the restore did not put there itself.
    pub(crate) has_content: bool,
    /// Containers that run and have the volume.
    pub(crate) users: Vec<String>,
}

/// Decision of a restore about the volumes of a backup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VolumePlan {
    /// Volumes to put in place.
    pub(crate) place: Vec<StoredVolume>,
    /// Volumes of the backup that stay as they are on this machine.
    pub(crate) keep: Vec<StoredVolume>,
}

/// Refusal of a restore with volumes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumesRefused {
    #[error(
        "this machine has data in {}, which the backup has too; add `--volumes missing` to keep this data, \
         `--volumes all` to replace it, or `--volumes none` to restore no volumes", listed(.0)
    )]
    Exist(Vec<StoredVolume>),
    #[error("volume {} of {} is in use by {}; stop its containers with `gantry down`", .0.name, .0.app, .1.join(", "))]
    InUse(StoredVolume, Vec<String>),
}

impl VolumesRefused {
    /// The stable code.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Exist(_) => ErrorCode::VolumeNotEmpty,
            Self::InUse(..) => ErrorCode::VolumeInUse,
        }
    }
}

/// Number of volumes that a message names.
const NAMED: usize = 5;

fn listed(volumes: &[StoredVolume]) -> String {
    let named: Vec<String> = volumes.iter().take(NAMED).map(|volume| volume.path().display().to_string()).collect();
    match volumes.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more volumes", named.join(", ")),
    }
}

/// Decides what happens to the volumes of a backup.
pub(crate) fn plan(
    volumes: Vec<StoredVolume>,
    choice: Option<VolumeChoice>,
    state: impl Fn(&StoredVolume) -> VolumeState,
) -> Result<VolumePlan, VolumesRefused> {
    let mut plan = VolumePlan { place: Vec::new(), keep: Vec::new() };
    if choice == Some(VolumeChoice::None) {
        return Ok(VolumePlan { keep: volumes, ..plan });
    }
    let mut exist = Vec::new();
    for volume in volumes {
        let VolumeState { has_content, users } = state(&volume);
        match (has_content, choice) {
            (true, None) => exist.push(volume),
            (true, Some(VolumeChoice::Missing)) => plan.keep.push(volume),
            _ if !users.is_empty() => return Err(VolumesRefused::InUse(volume, users)),
            _ => plan.place.push(volume),
        }
    }
    if exist.is_empty() { Ok(plan) } else { Err(VolumesRefused::Exist(exist)) }
}

/// A volume that a restore put in place, by its folder on the disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct PlacedVolume {
    app: AppName,
    name: VolumeName,
    device: u64,
    inode: u64,
}

/// Puts volumes in place.
pub(crate) struct VolumePlacement<'a> {
    settings: &'a AgentSettings,
    placed: BTreeSet<PlacedVolume>,
}

impl<'a> VolumePlacement<'a> {
    /// Reads which volumes an interrupted restore put in place.
    pub(crate) fn begin(settings: &'a AgentSettings) -> Self {
        let known = std::fs::read(note(&settings.data)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { settings, placed: known.unwrap_or_default() }
    }

    /// The state of a volume. A volume that an interrupted restore put in place, and that no container has had since,
    /// counts as one without content.
    pub(crate) fn state(&self, volume: &StoredVolume) -> VolumeState {
        let data = &self.settings.data;
        let path = data.join(volume.path());
        let is_own = placed(&path, volume).is_ok_and(|placed| self.placed.contains(&placed)) && !volume.was_used(data);
        VolumeState { has_content: !is_own && !is_empty(&path), users: volume.users(self.settings) }
    }

    /// Puts volumes from the folder `unpacked` in place, each in one step. An old volume of the same name goes into
    /// `unpacked`, which the caller removes.
    pub(crate) fn place(&mut self, unpacked: &Path, volumes: &[StoredVolume]) -> anyhow::Result<()> {
        for volume in volumes {
            let failed = || format!("cannot put volume {} of {} in place", volume.name, volume.app);
            let (source, target) = (unpacked.join(volume.path()), self.settings.data.join(volume.path()));
            let source = self.on_disk_of(&target, &source).with_context(failed)?;
            self.placed.insert(placed(&source, volume).with_context(failed)?);
            gantry_ledger::replace_json(&note(&self.settings.data), &self.placed).with_context(failed)?;
            volume.forget_use(&self.settings.data).with_context(failed)?;
            let flags = if target.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            renameat_with(CWD, &source, CWD, &target, flags).with_context(failed)?;
            if source.starts_with(self.settings.data.join("volumes")) {
                gantry_linux::tree::remove(&source).with_context(failed)?;
            }
        }
        Ok(())
    }

    /// Returns the unpacked volume on the file system of its place. Volumes may be on a disk of their own; the volume
    /// is then copied. The agent removes a copy that stays after a kill.
    fn on_disk_of(&self, target: &Path, source: &Path) -> anyhow::Result<PathBuf> {
        let folder = target.parent().unwrap_or(target);
        std::fs::create_dir_all(folder)?;
        if std::fs::metadata(folder)?.dev() == std::fs::symlink_metadata(source)?.dev() {
            return Ok(source.to_owned());
        }
        let copied = folder.join(format!(".half-restored-{}", target.file_name().unwrap_or_default().display()));
        gantry_linux::tree::remove(&copied)?;
        std::fs::create_dir(&copied)?;
        let mut room = |bytes| match gantry_linux::disk::free(folder) {
            free if free > bytes => Ok(()),
            free => Err(io::Error::other(format!("the disk has {} free", Bytes(free)))),
        };
        copy::copy(&walk::top(source)?, &walk::top(&copied)?, &gantry_image::volume_may_carry, &mut room)?;
        gantry_ledger::sync_file_system(&copied)?;
        Ok(copied)
    }

    /// Forgets which volumes were put in place: the restore is complete.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let path = note(&self.settings.data);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// File with the volumes that an unfinished restore has put in place.
fn note(data: &Path) -> PathBuf {
    data.join("restored-volumes.json")
}

fn placed(path: &Path, volume: &StoredVolume) -> io::Result<PlacedVolume> {
    let about = std::fs::symlink_metadata(path)?;
    Ok(PlacedVolume { app: volume.app.clone(), name: volume.name.clone(), device: about.dev(), inode: about.ino() })
}

/// Reports whether there is nothing at `path`, or an empty folder.
fn is_empty(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> StoredVolume {
        StoredVolume { app: "db".parse().expect("a name"), name: name.parse().expect("a name") }
    }

    #[test]
    fn data_of_this_machine_is_replaced_only_if_that_is_chosen() {
        use VolumeChoice::{All, Missing, None as Nothing};
        let state = |volume: &StoredVolume| VolumeState {
            has_content: volume.name.as_str().starts_with("full"),
            users: volume.name.as_str().ends_with("used").then(|| "db.v3.db-1".to_owned()).into_iter().collect(),
        };
        let decide = |names: &[&str], choice| plan(names.iter().map(|name| volume(name)).collect(), choice, state);
        let both = ["new", "full"];
        let planned = |place: &[&str], keep: &[&str]| {
            let volumes = |names: &[&str]| names.iter().map(|name| volume(name)).collect();
            Ok(VolumePlan { place: volumes(place), keep: volumes(keep) })
        };
        assert_eq!(decide(&both, None), Err(VolumesRefused::Exist(vec![volume("full")])));
        assert_eq!(decide(&["new"], None), planned(&["new"], &[]));
        assert_eq!(decide(&both, Some(Missing)), planned(&["new"], &["full"]));
        assert_eq!(decide(&both, Some(All)), planned(&both, &[]));
        assert_eq!(decide(&both, Some(Nothing)), planned(&[], &both));
        let in_use = |name: &str| Err(VolumesRefused::InUse(volume(name), vec!["db.v3.db-1".to_owned()]));
        assert_eq!(decide(&["full-used"], Some(All)), in_use("full-used"));
        assert_eq!(decide(&["new-used"], None), in_use("new-used"));
        assert_eq!(decide(&["full-used"], Some(Missing)), planned(&[], &["full-used"]));
        let text = VolumesRefused::Exist((1..8).map(|number| volume(&format!("v{number}"))).collect()).to_string();
        assert!(text.contains("volumes/db/v5 and 2 more volumes") && text.contains("--volumes missing"), "{text}");
    }

    fn unpacked(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(volume(name).path());
            std::fs::create_dir_all(&path).expect("made");
            std::fs::write(path.join("file"), format!("{name} of the backup")).expect("written");
        }
    }

    /// A restore is killed after each of its volumes, and starts over. The second restore ends the work, although the
    /// volumes of the first are there.
    #[test]
    fn a_killed_restore_starts_over() {
        let names = ["one", "two", "three"];
        let all: Vec<StoredVolume> = names.iter().map(|name| volume(name)).collect();
        for done in 0..=names.len() {
            let folder = tempfile::tempdir().expect("a folder");
            let settings = AgentSettings { data: folder.path().to_owned(), ..settings() };
            let scratch = folder.path().join("restoring");
            unpacked(&scratch, &names);
            let mut first = VolumePlacement::begin(&settings);
            first.place(&scratch, &all[..done]).expect("placed");
            drop(first);
            std::fs::remove_dir_all(&scratch).expect("removed");
            unpacked(&scratch, &names);
            let mut second = VolumePlacement::begin(&settings);
            let planned = plan(all.clone(), None, |volume| second.state(volume)).expect("no data of others");
            assert_eq!(planned.place, all, "after {done}");
            second.place(&scratch, &planned.place).expect("placed");
            for name in names {
                let content = std::fs::read_to_string(folder.path().join(volume(name).path()).join("file"));
                assert_eq!(content.expect("there"), format!("{name} of the backup"));
            }
            // Data that a container may have written since is not replaced.
            let third = VolumePlacement::begin(&settings);
            std::fs::write(folder.path().join("volumes/db/.used-two"), "").expect("written");
            let refused = plan(all.clone(), None, |volume| third.state(volume));
            assert_eq!(refused, Err(VolumesRefused::Exist(vec![volume("two")])));
            third.finish().expect("finished");
            let other = VolumePlacement::begin(&settings);
            assert_eq!(plan(all.clone(), None, |volume| other.state(volume)), Err(VolumesRefused::Exist(all.clone())));
        }
    }

    #[test]
    fn an_older_volume_gives_way_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = AgentSettings { data: folder.path().to_owned(), ..settings() };
        let target = folder.path().join(volume("data").path());
        std::fs::create_dir_all(&target).expect("made");
        std::fs::write(target.join("older"), "").expect("written");
        let scratch = folder.path().join("restoring");
        unpacked(&scratch, &["data"]);
        VolumePlacement::begin(&settings).place(&scratch, &[volume("data")]).expect("placed");
        assert!(target.join("file").exists() && !target.join("older").exists());
        assert!(scratch.join(volume("data").path()).join("older").exists());
    }

    fn settings() -> AgentSettings {
        let args = <crate::args::Args as clap::Parser>::parse_from(["gantry", "backup", "--machine", "m1", "file"]);
        match args.command {
            crate::args::Command::Backup { machine, .. } => machine.agent().expect("settings"),
            other => panic!("{other:?}"),
        }
    }
}
