//! User id ranges. Each app has its own range on this machine. Root in one app's containers is no user of the host, and
//! no user of another app's containers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gantry_model::AppName;

/// The first user id that is assigned. Above the ids that systems give to people, services and subordinate users.
const FIRST: u32 = 0x7000_0000;

/// Size of a range: the user ids that an image may name.
const RANGE: u32 = 65_536;

/// Number of ranges. Their ids stay below 2^31, since some programs read larger ids as negative numbers.
const RANGES: u32 = 0x0fff;

/// The assigned ranges, by app. Kept on disk, so that an app's range stays the same.
pub(crate) struct UserRanges {
    path: PathBuf,
    given: Mutex<BTreeMap<String, u32>>,
    /// True if this machine's file system supports idmapped mounts.
    mapped: bool,
}

impl UserRanges {
    /// Reads the assigned ranges. Frees the range of each app that is not in `apps`: no file on the disk belongs to
    /// that app.
    pub(crate) fn load(data: &Path, mapped: bool, apps: &BTreeSet<String>) -> Self {
        let path = data.join("users.json");
        let mut given = read(&path, data);
        given.retain(|app, _| apps.contains(app));
        Self { path, given: Mutex::new(given), mapped }
    }

    /// Reports whether this machine's file system supports idmapped mounts.
    pub(crate) fn mapped(&self) -> bool {
        self.mapped
    }

    /// The first user id of an app's range; `None` where idmapped mounts are unsupported. When all ranges are assigned,
    /// frees the ranges of apps that are not in `apps`, the apps with files on this machine.
    pub(crate) fn of(&self, app: &AppName, apps: impl FnOnce() -> BTreeSet<String>) -> io::Result<Option<u32>> {
        if !self.mapped {
            return Ok(None);
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match given.get(app.as_str()) {
            Some(place) => *place,
            None => {
                let mut with_it = given.clone();
                if given.len() >= RANGES as usize {
                    let apps = apps();
                    with_it.retain(|app, _| apps.contains(app));
                }
                let taken: BTreeSet<u32> = with_it.values().copied().collect();
                let free = (0..RANGES).find(|place| !taken.contains(place));
                let place = free.ok_or_else(|| {
                    io::Error::other(format!(
                        "cannot assign user ids: {RANGES} apps have files on this machine, the most that it can hold"
                    ))
                })?;
                with_it.insert(app.to_string(), place);
                crate::records::write_file(&self.path, &with_it)?;
                *given = with_it;
                place
            }
        };
        Ok(Some(FIRST + place * RANGE))
    }
}

/// Reads the ranges. A damaged file is made again from the containers: no app may get the range of a container that
/// runs.
fn read(path: &Path, data: &Path) -> BTreeMap<String, u32> {
    let Ok(text) = std::fs::read(path) else { return BTreeMap::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the ranges of user ids cannot be read; taking those of the containers");
        let in_use = crate::records::first_users(data).into_iter();
        in_use.filter_map(|(app, first)| Some((app, first.checked_sub(FIRST)? / RANGE))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_distinct_range_for_each_app() {
        let folder = tempfile::tempdir().expect("a folder");
        let app = |name| AppName::parse(name).expect("a name");
        let apps = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let users = UserRanges::load(folder.path(), true, &apps(&[]));
        let none = BTreeSet::new;
        let first = users.of(&app("one"), none).expect("given").expect("mapped");
        let second = users.of(&app("two"), none).expect("given").expect("mapped");
        assert!(second >= first + RANGE && u64::from(FIRST) + u64::from(RANGES) * u64::from(RANGE) < 1 << 31);
        let again = UserRanges::load(folder.path(), true, &apps(&["two"]));
        assert_eq!(again.of(&app("two"), none).expect("given"), Some(second));
        assert_eq!(again.of(&app("three"), none).expect("given"), Some(first), "nothing is left of the first");
        assert_eq!(UserRanges::load(folder.path(), false, &apps(&[])).of(&app("one"), none).expect("none"), None);
    }

    #[test]
    fn a_damaged_file_gives_no_range_of_a_container_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let app = |name| AppName::parse(name).expect("a name");
        let apps = BTreeSet::from(["one".to_owned(), "two".to_owned()]);
        let users = UserRanges::load(folder.path(), true, &apps);
        users.of(&app("one"), BTreeSet::new).expect("given");
        let second = users.of(&app("two"), BTreeSet::new).expect("given").expect("mapped");
        for (container, owner) in [("two.v1.web-1", second), ("root-owns-this.v1.web-1", 0)] {
            let upper = folder.path().join("containers").join(container).join("upper");
            std::fs::create_dir_all(&upper).expect("made");
            std::os::unix::fs::chown(&upper, Some(owner), Some(owner)).expect("given");
        }
        std::fs::write(folder.path().join("users.json"), "{ torn").expect("damaged");
        let again = UserRanges::load(folder.path(), true, &apps);
        assert_ne!(again.of(&app("three"), BTreeSet::new).expect("given"), Some(second));
        assert_eq!(again.of(&app("two"), BTreeSet::new).expect("given"), Some(second));
    }

    #[test]
    fn reuses_ranges_of_deleted_apps_once_all_are_assigned() {
        let folder = tempfile::tempdir().expect("a folder");
        let all: BTreeMap<String, u32> = (0..RANGES).map(|place| (format!("app-{place}"), place)).collect();
        std::fs::write(folder.path().join("users.json"), serde_json::to_vec(&all).expect("JSON")).expect("written");
        let names = || all.keys().cloned().collect::<BTreeSet<_>>();
        let users = UserRanges::load(folder.path(), true, &names());
        let one = AppName::parse("one").expect("a name");
        let full = users.of(&one, names).expect_err("all have something here");
        assert!(full.to_string().contains("4095 apps have files"), "{full}");
        let free = || names().into_iter().filter(|name| name != "app-7").collect();
        assert_eq!(users.of(&one, free).expect("given"), Some(FIRST + 7 * RANGE));
    }
}
