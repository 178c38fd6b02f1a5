//! Commands on images in the registry.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AppName, AuditAction, Digest};
use gantry_records::{EventRecord, PushedManifest, RecordChange, RecordIndex, StoreRecord, manifest_key, tag_key};

use crate::{Actor, Admitted, FullList, REFERRERS_MAX, REPOSITORY_MAX, Refusal};

/// A pushed manifest whose blobs are all present.
#[derive(Debug, Clone)]
pub struct NewManifest {
    /// Repository of the manifest.
    pub repository: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Image to which the manifest refers.
    pub subject: Option<Digest>,
    /// Tags of the manifest.
    pub tags: BTreeSet<String>,
}

impl Actor<'_> {
    /// Records a pushed manifest and its tags.
    ///
    /// # Errors
    /// [`Refusal::RepositoryFull`].
    pub fn push_manifest(&self, new: NewManifest) -> Admitted<()> {
        let NewManifest { repository, digest, subject, tags } = new;
        let full = |list| Err(Refusal::RepositoryFull { list });
        let manifests = self.records.manifests.get(&repository);
        if manifests.is_none_or(|all| !all.contains_key(&digest)) {
            if manifests.map_or(0, BTreeMap::len) >= REPOSITORY_MAX {
                return full(FullList::Manifests { repository, most: REPOSITORY_MAX });
            }
            let siblings = manifests.into_iter().flat_map(BTreeMap::values).filter(|other| other.subject == subject);
            if subject.is_some() && siblings.count() >= REFERRERS_MAX {
                return full(FullList::Referrers { most: REFERRERS_MAX });
            }
        }
        let mut changes = Vec::new();
        let known = self.records.tags.get(&repository);
        let new_tags = tags.iter().filter(|tag| known.is_none_or(|known| !known.contains_key(*tag))).count();
        if new_tags > 0 && known.map_or(0, BTreeMap::len) + new_tags > REPOSITORY_MAX {
            return full(FullList::Tags { repository, most: REPOSITORY_MAX });
        }
        let without_app = app_of_repository_is_missing(self.records, &repository).is_some();
        let app = AppName::parse(&repository).ok();
        for (number, tag) in (self.records.next_event()..).zip(tags) {
            let action = AuditAction::ImagePushed { repository: repository.clone(), tag: tag.clone(), without_app };
            let event = EventRecord::new(number, self.now, self.name, app.clone(), action);
            changes.push(StoreRecord::Event(event).into());
            changes.push(StoreRecord::Tag { repository: repository.clone(), tag, digest: digest.clone() }.into());
        }
        let pushed = PushedManifest { at: self.now, subject };
        changes.push(StoreRecord::Manifest { repository, digest, pushed }.into());
        Ok((changes, ()))
    }

    /// Removes a tag, or a manifest with all its tags. Images of releases stay.
    ///
    /// # Errors
    /// [`Refusal::ImageNotFound`].
    pub fn remove_image(&self, repository: &str, reference: &str) -> Admitted<()> {
        let digest = reference.parse::<Digest>().ok();
        let is_meant = |(tag, known): &(&String, &Digest)| match &digest {
            Some(digest) => digest == *known,
            None => **tag == reference,
        };
        let tags = self.records.tags.get(repository).into_iter().flatten().filter(is_meant);
        let mut changes: Vec<RecordChange> =
            tags.map(|(tag, _)| RecordChange::Remove(tag_key(repository, tag))).collect();
        let manifests = self.records.manifests.get(repository);
        let pushed = digest.as_ref().filter(|digest| manifests.is_some_and(|all| all.contains_key(digest)));
        changes.extend(pushed.map(|digest| RecordChange::Remove(manifest_key(repository, digest))));
        let (repository, reference) = (repository.to_owned(), reference.to_owned());
        if changes.is_empty() {
            return Err(Refusal::ImageNotFound { repository, reference });
        }
        let app = AppName::parse(&repository).ok();
        changes.push(self.event(app.as_ref(), AuditAction::ImageRemoved { repository, reference }));
        Ok((changes, ()))
    }

    /// Records an image that was pulled into an app's own repository. `tag` is the image's own tag, so garbage
    /// collection keeps it like any pushed image.
    ///
    /// # Errors
    /// Never; the result has the form of a command.
    pub fn keep_pulled_image(&self, app: &AppName, digest: Digest, tag: String, reference: String) -> Admitted<()> {
        let event = self.event(Some(app), AuditAction::ImagePulled { reference });
        Ok((vec![event, StoreRecord::Tag { repository: app.to_string(), tag, digest }.into()], ()))
    }
}

/// Returns the app whose name a repository has, if no such app exists. Other repositories may hold images for any app.
#[must_use]
pub fn app_of_repository_is_missing(records: &RecordIndex, repository: &str) -> Option<AppName> {
    AppName::parse(repository).ok().filter(|app| !records.apps.contains_key(app))
}
