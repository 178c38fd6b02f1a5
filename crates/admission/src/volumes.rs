//! Settings of foreign images.

use std::collections::BTreeMap;

use gantry_model::{AppName, DeployCause, ImageSettings};
use gantry_records::RecordIndex;

use crate::{Refusal, find_app};

/// Limit on the volumes of an app's images.
const VOLUMES_MAX: usize = 20;

/// Refuses image settings with unknown or too many volumes, or with two volumes at the same path.
///
/// # Errors
/// When the app is missing, or the settings are refused.
pub fn check_image_settings(records: &RecordIndex, app: &AppName, change: &ImageSettings) -> Result<(), Refusal> {
    let mut all = settings_after_open_deploys(records, app)?;
    let missing = change.volumes.iter().find(|(name, path)| path.is_empty() && !all.volumes.contains_key(*name));
    if let Some((name, _)) = missing {
        return Err(Refusal::VolumeNotFound { volume: name.clone() });
    }
    all.apply(change);
    if all.volumes.len() > VOLUMES_MAX {
        return Err(Refusal::TooManyVolumes { most: VOLUMES_MAX });
    }
    let mut names = BTreeMap::new();
    for (name, path) in &all.volumes {
        let path = path.trim_end_matches('/');
        if let Some(first) = names.insert(path, name) {
            let (first, second, path) = (String::clone(first), name.clone(), path.to_owned());
            return Err(Refusal::VolumePathTaken { first, second, path });
        }
    }
    Ok(())
}

/// Returns the app's image settings as they will be after the open deploys.
fn settings_after_open_deploys(records: &RecordIndex, app: &AppName) -> Result<ImageSettings, Refusal> {
    let mut settings = find_app(records, app)?.image.clone();
    for deploy in records.open_deploys(app) {
        if let DeployCause::Image { change, .. } = &deploy.cause {
            settings.apply(change);
        }
    }
    Ok(settings)
}
