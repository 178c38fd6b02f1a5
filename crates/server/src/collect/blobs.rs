//! Garbage collection of blobs and pushed manifests that no record and no image names.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use gantry_blobs::{BlobError, BlobStore};
use gantry_image::{Index, Manifest};
use gantry_linux::clock::file_time;
use gantry_model::{DeployCause, Digest, Moment};
use gantry_records::{PushedManifest, RecordChange, RecordIndex, StoreRecord, manifest_key};

use crate::Server;
use crate::clock::reading;
use crate::collect::job_pins::JobPins;
use crate::servers::collect_copies;

/// Removes unused blobs and the records of unused manifests. Returns the number of bytes freed.
pub(super) async fn collect(server: &Server, pins: &JobPins) -> Result<u64, BlobError> {
    let held = server.gc_pins.oldest().unwrap_or_else(file_time);
    let grace = {
        let view = server.core.view();
        let grace = Duration::from_millis(view.records.policy.collect_grace().millis());
        // After the wall clock jumped forward, files seem older than they are.
        grace.saturating_add(view.jumps.forward_within(reading().awake, grace))
    };
    let before = held.min(file_time()).checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
    // Lists the blobs before marking the used blobs, so blobs written from here on are not in the list.
    let all = server.blobs.list().await?;
    let mut used = UsedBlobs::find_in_records(server, pins.images.clone()).await?;
    if used.is_incomplete && server.servers.as_ref().is_some_and(|servers| !servers.unavailable().is_empty()) {
        tracing::warn!(
            "a server is away and may have blobs that no other server has; no blob is removed until it is back"
        );
        return Ok(0);
    }
    let (forgotten, manifests) = {
        let view = server.core.view();
        let manifests = view.records.manifests.values().flat_map(|all| all.keys()).cloned().collect();
        (used.forgotten(&view.records, before), manifests)
    };
    // Keeps the blobs of forgotten manifests for one more round: a client may have asked for one of them before now.
    used.follow(&server.blobs, manifests).await?;
    let forget = |records: &RecordIndex, now: Moment| {
        Ok((unchanged(records, forgotten).into_iter().chain(of_the_future(records, now)).collect(), ()))
    };
    let forget = server.core.mutate(forget).await;
    if let Err(error) = forget {
        tracing::error!(%error, "cannot remove the records of unused manifests; the next round tries again");
    }
    let mut bytes = 0;
    for (digest, size) in all {
        if !used.contains(&digest) && server.blobs.delete_older(&digest, before).await? {
            bytes += size;
        }
    }
    Ok(bytes + collect_copies(server, &used, before).await)
}

/// Digests named by records: the roots of the search.
fn roots(records: &RecordIndex) -> BTreeSet<Digest> {
    let releases =
        records.releases.values().flat_map(|releases| releases.values()).map(|release| release.image.clone());
    let builds = records.builds.values().flat_map(|build| [build.image.clone(), build.base.clone()]);
    let bases = records.bases.values().map(|base| base.image.clone());
    let codes = records.codes.values().flat_map(|codes| codes.values()).flat_map(|code| &code.revisions);
    let codes = codes.map(|revision| revision.image.clone());
    let tags = records.tags.values().flat_map(|tags| tags.values()).cloned();
    let deploys =
        records.apps.keys().flat_map(|app| records.open_deploys(app)).filter_map(|deploy| match &deploy.cause {
            DeployCause::Push { source, .. } => Some(source.clone()),
            DeployCause::Image { image, .. } => Some(image.clone()),
            _ => None,
        });
    let packs = records.packs.values().flat_map(|packs| &packs.packs).map(|pack| pack.pack.clone());
    let logs = records.deploys.values().flat_map(|deploys| deploys.values()).filter_map(|deploy| deploy.log.clone());
    releases.chain(packs).chain(logs).chain(builds).chain(bases).chain(codes).chain(tags).chain(deploys).collect()
}

/// Digests in use.
#[derive(Default)]
pub(crate) struct UsedBlobs {
    /// Manifests and archives named by a record or by an index. Everything reachable from these digests is in use
    /// too.
    named: BTreeSet<Digest>,
    /// Configurations and layers of images. A hostile image may name another image's manifest as a layer. Such a
    /// manifest is still followed when a record or an index names it.
    parts: BTreeSet<Digest>,
    /// A named digest is on no live server, so the blobs that this digest names in turn are unknown.
    is_incomplete: bool,
}

impl UsedBlobs {
    /// Finds the digests in use on this server.
    pub(crate) async fn of(server: &Server) -> Result<Self, BlobError> {
        let pins = JobPins::read(server).await.unwrap_or_default();
        Self::find_in_records(server, pins.images).await
    }

    /// Finds the digests in use by the records of each step. A manifest that is pushed meanwhile only adds digests.
    async fn find_in_records(server: &Server, more: Vec<Digest>) -> Result<Self, BlobError> {
        let roots = roots(&server.core.view().records);
        let referrers = |used: &Self| used.referrers(&server.core.view().records);
        Self::find(&server.blobs, roots.into_iter().chain(more), referrers).await
    }

    /// Returns the digests in use.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Digest> {
        self.named.union(&self.parts)
    }

    /// Finds the roots, everything reachable from the roots, and the referrers of all of these.
    async fn find(
        blobs: &BlobStore,
        roots: impl IntoIterator<Item = Digest>,
        referrers: impl Fn(&Self) -> Vec<Digest>,
    ) -> Result<Self, BlobError> {
        let mut used = Self::default();
        let mut next: Vec<Digest> = roots.into_iter().collect();
        while !next.is_empty() {
            used.follow(blobs, next).await?;
            next = referrers(&used);
        }
        Ok(used)
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.named.contains(digest) || self.parts.contains(digest)
    }

    /// Marks the digests in `next` and everything reachable from these digests. A source archive, or any other blob
    /// that is not a manifest, leads to nothing.
    async fn follow(&mut self, blobs: &BlobStore, mut next: Vec<Digest>) -> Result<(), BlobError> {
        while let Some(digest) = next.pop() {
            if !self.named.insert(digest.clone()) {
                continue;
            }
            let text = match blobs.read(&digest).await {
                Ok(text) => text,
                // An unreadable manifest may name many used blobs, so the round stops.
                Err(error @ BlobError::Backend { .. }) => return Err(error),
                Err(BlobError::Missing(_)) => {
                    self.is_incomplete = true;
                    continue;
                }
                Err(_) => continue,
            };
            if let Some(index) = Index::parse(&text) {
                next.extend(index.manifests.iter().map(|descriptor| descriptor.digest.clone()));
            } else if let Ok(manifest) = Manifest::parse(&text) {
                self.parts.extend(manifest.blobs().map(|descriptor| descriptor.digest.clone()));
            }
        }
        Ok(())
    }

    /// Pushed manifests that refer to a used digest and are not followed yet.
    fn referrers(&self, records: &RecordIndex) -> Vec<Digest> {
        let refers = |pushed: &PushedManifest| pushed.subject.as_ref().is_some_and(|subject| self.contains(subject));
        let all = records.manifests.values().flatten();
        let new = all.filter(|(digest, pushed)| refers(pushed) && !self.named.contains(*digest));
        new.map(|(digest, _)| digest.clone()).collect()
    }

    /// Manifests pushed before that time that are not in use.
    fn forgotten(&self, records: &RecordIndex, before: SystemTime) -> Vec<(String, Digest, PushedManifest)> {
        let before = before.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let all = records.manifests.iter().flat_map(|(repository, all)| all.iter().map(move |one| (repository, one)));
        all.filter(|(_, (digest, pushed))| pushed.at.0 < before && !self.contains(digest))
            .map(|(repository, (digest, pushed))| (repository.clone(), digest.clone(), pushed.clone()))
            .collect()
    }
}

/// Changes that remove forgotten manifests, except manifests pushed again meanwhile.
fn unchanged(records: &RecordIndex, forgotten: Vec<(String, Digest, PushedManifest)>) -> Vec<RecordChange> {
    let known = |repository: &str, digest: &Digest| records.manifests.get(repository)?.get(digest);
    let same = forgotten.into_iter().filter(|(repository, digest, pushed)| known(repository, digest) == Some(pushed));
    same.map(|(repository, digest, _)| RecordChange::Remove(manifest_key(&repository, &digest))).collect()
}

/// Changes that restamp manifests pushed before the wall clock went back. Their age counts from now.
fn of_the_future(records: &RecordIndex, now: Moment) -> Vec<RecordChange> {
    let all = records.manifests.iter().flat_map(|(repository, all)| all.iter().map(move |one| (repository, one)));
    let future = all.filter(|(_, (_, pushed))| pushed.at > now);
    let restamped = future.map(|(repository, (digest, pushed))| {
        let pushed = PushedManifest { at: now, ..pushed.clone() };
        StoreRecord::Manifest { repository: repository.clone(), digest: digest.clone(), pushed }.into()
    });
    restamped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u64) -> Digest {
        Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
    }

    fn manifest(config: &Digest, layer: &Digest, subject: Option<&Digest>) -> bytes::Bytes {
        let named = |digest: &Digest| serde_json::json!({ "mediaType": "x", "digest": digest, "size": 1 });
        let mut text = serde_json::json!({ "schemaVersion": 2, "config": named(config), "layers": [named(layer)] });
        if let Some(subject) = subject {
            text["subject"] = named(subject);
        }
        text.to_string().into()
    }

    #[tokio::test]
    async fn keeps_and_forgets_referrers_with_their_image() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = BlobStore::in_folder(folder.path()).expect("blobs");
        let mut records = RecordIndex::default();
        let shop = || "shop".to_owned();
        let push = async |records: &mut RecordIndex, at, layer: u64, subject: Option<&Digest>| {
            let digest = blobs.put(manifest(&image(1), &image(layer), subject)).await.expect("kept");
            let pushed = PushedManifest { at: Moment(at), subject: subject.cloned() };
            records.apply(StoreRecord::Manifest { repository: shop(), digest: digest.clone(), pushed }.into());
            digest
        };
        let tagged = push(&mut records, 0, 2, None).await;
        let signature = push(&mut records, 0, 3, Some(&tagged)).await;
        let of_signature = push(&mut records, 0, 4, Some(&signature)).await;
        let forgotten = push(&mut records, 0, 5, None).await;
        let of_forgotten = push(&mut records, 0, 6, Some(&forgotten)).await;
        let young = push(&mut records, 2000, 7, None).await;
        records.apply(StoreRecord::Tag { repository: shop(), tag: "one".into(), digest: tagged.clone() }.into());

        let used = UsedBlobs::find(&blobs, roots(&records), |used| used.referrers(&records)).await.expect("read");
        for kept in [&tagged, &signature, &of_signature, &image(2), &image(3), &image(4)] {
            assert!(used.contains(kept), "{kept}");
        }
        assert!(!used.contains(&image(5)) && !used.contains(&image(6)));
        let gone = used.forgotten(&records, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
        let digests: BTreeSet<&Digest> = gone.iter().map(|(_, digest, _)| digest).collect();
        assert_eq!(digests, BTreeSet::from([&forgotten, &of_forgotten]));

        // A manifest from the future is restamped to now.
        for change in of_the_future(&records, Moment(1500)) {
            records.apply(change);
        }
        assert_eq!(
            (records.manifests["shop"][&young].at, records.manifests["shop"][&tagged].at),
            (Moment(1500), Moment(0))
        );

        // A forgotten manifest is pushed again before its removal.
        let pushed = PushedManifest { at: Moment(3000), subject: None };
        records.apply(StoreRecord::Manifest { repository: shop(), digest: forgotten.clone(), pushed }.into());
        unchanged(&records, gone).into_iter().for_each(|change| records.apply(change));
        let left: BTreeSet<&Digest> = records.manifests["shop"].keys().collect();
        assert_eq!(left, BTreeSet::from([&tagged, &signature, &of_signature, &forgotten, &young]));
    }

    #[tokio::test]
    async fn keeps_an_image_whose_manifest_another_image_names_as_a_layer() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = BlobStore::in_folder(folder.path()).expect("blobs");
        let mut records = RecordIndex::default();
        let victim = blobs.put(manifest(&image(1), &image(2), None)).await.expect("kept");
        let hostile = blobs.put(manifest(&image(3), &victim, None)).await.expect("kept");
        for (repository, digest) in [("shop", &victim), ("other", &hostile)] {
            let (repository, tag) = (repository.to_owned(), "one".to_owned());
            records.apply(StoreRecord::Tag { repository, tag, digest: digest.clone() }.into());
        }
        let mut used = UsedBlobs::default();
        used.follow(&blobs, vec![victim, hostile]).await.expect("read");
        assert!(used.contains(&image(2)));
        let used = UsedBlobs::find(&blobs, roots(&records), |used| used.referrers(&records)).await.expect("read");
        assert!(used.contains(&image(2)));
    }
}
