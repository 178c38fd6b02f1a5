//! Snapshots: copies of a volume in a folder beside the volume. A file system with clones (btrfs, XFS) shares the blocks
//! of both; any other file system copies them.
//!
//! A snapshot stops nothing. Files are copied one after the other, so that the snapshot of a volume in use has files of
//! different moments. Only a volume that no container has gives a snapshot of one moment.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use gantry_api::volumes::{CreateSnapshot, SnapshotInfo, VolumeAnswer, VolumeReport};
use gantry_api::{ErrorCode, Problem};
use gantry_image::volume_may_carry;
use gantry_linux::{copy, walk};
use gantry_model::VolumeName;

use super::{Key, TemporaryFolder, describe, failed, folder_of, in_use, moment, room, subfolders};
use crate::{AgentContext, AgentSettings};

/// Folder of all snapshots of an app's volumes.
pub(super) const FOLDER: &str = ".snapshots";

/// Maximum number of snapshots of one volume.
const SNAPSHOTS_MAX: usize = 20;

/// Folder of a volume's snapshots.
pub(super) fn folder(settings: &AgentSettings, (app, name): &Key) -> PathBuf {
    folder_of(settings, app).join(FOLDER).join(name.as_str())
}

/// All snapshots of a volume, oldest first.
pub(super) fn list(settings: &AgentSettings, key: &Key) -> Vec<SnapshotInfo> {
    let paths = subfolders(&folder(settings, key));
    let mut found: Vec<SnapshotInfo> = paths
        .iter()
        .filter_map(|path| {
            let name = VolumeName::parse(path.file_name()?.to_str()?).ok()?;
            // The other times of the folder are those of the volume.
            let changed = std::fs::metadata(path).ok()?.ctime().unsigned_abs();
            Some(SnapshotInfo { name, at: moment(UNIX_EPOCH + Duration::from_secs(changed)) })
        })
        .collect();
    found.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
    found
}

fn unknown((app, name): &Key, snapshot: &VolumeName) -> Problem {
    Problem::new(ErrorCode::SnapshotNotFound, format!("volume {name} of {app} has no snapshot {snapshot}"))
        .hint(format!("`gantry volume snapshot {app} {name} ls` lists the snapshots"))
}

/// Makes a snapshot.
pub(super) fn create(agent: &AgentContext, key: &Key, request: CreateSnapshot) -> Result<VolumeAnswer, Problem> {
    let settings = &agent.settings;
    let (app, name) = key;
    let (_reading, top) = agent.volumes.read(settings, key)?;
    let known = list(settings, key);
    if known.len() >= SNAPSHOTS_MAX {
        let oldest = known.first().map(|snapshot| snapshot.name.to_string()).unwrap_or_default();
        let message = format!("volume {name} of {app} has {SNAPSHOTS_MAX} snapshots, and may have no more");
        return Err(Problem::new(ErrorCode::TooManySnapshots, message)
            .hint(format!("remove one: gantry volume snapshot {app} {name} rm {oldest}")));
    }
    let snapshot = match request.name {
        Some(name) => name,
        None => name_of_now(&known)?,
    };
    if known.iter().any(|known| known.name == snapshot) {
        let message = format!("volume {name} of {app} has a snapshot {snapshot} already");
        return Err(Problem::new(ErrorCode::SnapshotExists, message));
    }
    let users = in_use(settings, app, name.as_str());
    let folder = folder(settings, key);
    let made = |error: &std::io::Error| failed("make a snapshot of", key, error);
    std::fs::create_dir_all(&folder).map_err(|error| made(&error))?;
    let half = TemporaryFolder::make(settings, app).map_err(|error| made(&error))?;
    let copied = duplicate(agent, &top, &half).map_err(|error| made(&error))?;
    gantry_failpoint::failpoint!("snapshot.copied");
    std::fs::rename(&half.path, folder.join(snapshot.as_str())).map_err(|error| made(&error))?;
    gantry_failpoint::failpoint!("snapshot.named");
    gantry_ledger::sync(&folder).map_err(|error| made(&error))?;
    let info = list(settings, key).into_iter().find(|known| known.name == snapshot);
    let snapshot = info.ok_or_else(|| unknown(key, &snapshot))?;
    Ok(VolumeAnswer::Snapshot { snapshot, files: copied.entries - 1, cloned: copied.bytes == 0, in_use: users })
}

/// Copies a folder into the folder `into`, durably.
fn duplicate(
    agent: &AgentContext,
    from: &std::os::fd::OwnedFd,
    into: &TemporaryFolder,
) -> std::io::Result<copy::Copied> {
    let copied = copy::copy(from, &walk::top(&into.path)?, &volume_may_carry, &mut room(agent))?;
    gantry_ledger::sync_file_system(&into.path)?;
    Ok(copied)
}

/// A name for a snapshot made now: `at-20261129-061500`, with a number if that name is taken.
fn name_of_now(known: &[SnapshotInfo]) -> Result<VolumeName, Problem> {
    let seconds = crate::status::wall().0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let base = format!("at-{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60);
    let names = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
    let free = names.take(SNAPSHOTS_MAX + 1).find(|name| known.iter().all(|known| known.name.as_str() != name));
    VolumeName::parse(&free.unwrap_or(base)).map_err(|error| Problem::internal(error.to_string()))
}

/// The date in UTC of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let part = (5 * of_year + 2) / 153;
    let month = if part < 10 { part + 3 } else { part - 9 };
    (year + era * 400 + u64::from(month <= 2), month, of_year - (153 * part + 2) / 5 + 1)
}

/// Removes a snapshot. Its files are removed in the background.
pub(super) fn remove(agent: &AgentContext, key: &Key, snapshot: &VolumeName) -> Result<VolumeReport, Problem> {
    let settings = &agent.settings;
    let half = TemporaryFolder::named(settings, &key.0);
    std::fs::rename(folder(settings, key).join(snapshot.as_str()), &half.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => unknown(key, snapshot),
        _ => failed("remove a snapshot of", key, &error),
    })?;
    drop(tokio::task::spawn_blocking(move || drop(half)));
    describe(agent, key)
}

/// Replaces the content of a volume with a copy of a snapshot, in one step. The snapshot stays.
pub(super) fn restore(agent: &AgentContext, key: &Key, snapshot: &VolumeName) -> Result<VolumeReport, Problem> {
    let settings = &agent.settings;
    let top = walk::top(&folder(settings, key).join(snapshot.as_str())).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => unknown(key, snapshot),
        _ => failed("open a snapshot of", key, &error),
    })?;
    super::refuse_busy(settings, key, &agent.volumes.lock(), "replaced")?;
    let made = |error: std::io::Error| failed("restore a snapshot of", key, &error);
    let half = TemporaryFolder::make(settings, &key.0).map_err(made)?;
    duplicate(agent, &top, &half).map_err(made)?;
    drop(agent.volumes.put(settings, key, half, true)?);
    describe(agent, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, expected) in
            [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_786, (2026, 11, 29))]
        {
            assert_eq!(date(days), expected, "{days}");
        }
    }
}
