//! What is of no use any more on the server: old releases and deploys, blobs that nothing names, caches, repositories and
//! logs of builds whose app or deploy is gone.
//!
//! What a rollback needs is kept: the release that serves, the one before it, whatever a deploy under way names, the last
//! [`RELEASES_KEPT`], and the last [`GOOD_KEPT`] that served, however old they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use gantry_api::Problem;
use gantry_blobs::{BlobError, Blobs};
use gantry_image::{Index, Manifest};
use gantry_model::{AppName, Cause, DeployNumber, Digest, Release, ReleaseNumber};

use crate::mirror::{Change, Mirror, Pushed, build_key, deploy_key, manifest_key, release_key, tag_key};
use crate::{Server, Settings};

/// Releases kept for each app.
const RELEASES_KEPT: usize = 20;

/// Of those that once served.
const GOOD_KEPT: usize = 5;

/// Ended deploys kept for each app.
const DEPLOYS_KEPT: usize = 50;

/// The largest cache of an app's builds; a larger one is begun anew.
const CACHE_MAX: u64 = 4 << 30;

/// Looks now and then, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        tokio::time::sleep(server.settings.collect.every).await;
        round(&server).await;
    }
}

/// One round. What goes wrong with one kind holds none of the others up: where the disk is full no record can be written, and
/// that is when the space is wanted most.
async fn round(server: &Arc<Server>) {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        tracing::error!(%error, "{what} cannot be collected; it is tried again");
    };
    let surplus = server.core.mutate(|mirror, _| Ok((surplus(mirror), ()))).await;
    surplus.unwrap_or_else(|problem| wrong("records", &problem.message));
    server.uploads.prune();
    match blobs(server).await {
        Ok(0) => {}
        Ok(bytes) => tracing::info!(freed = %gantry_model::Bytes(bytes), "removed blobs that nothing names"),
        Err(error) => wrong("blobs", &error),
    }
    let own = Arc::clone(server);
    tokio::task::spawn_blocking(move || folders(&own)).await.unwrap_or_else(|error| wrong("folders", &error));
    server.core.compact().await.unwrap_or_else(|error| wrong("old revisions", &error));
    for app in server.core.view().mirror.apps.keys() {
        server.repositories.tidy(app).await.unwrap_or_else(|error| wrong("a repository", &error));
    }
}

/// Removes blobs that nothing names, and forgets manifests that nobody needs; the bytes that are free now.
async fn blobs(server: &Server) -> Result<u64, BlobError> {
    let held = server.holds.oldest().unwrap_or_else(SystemTime::now);
    let before = held.min(SystemTime::now()) - server.settings.collect.grace;
    // Listed before anything is marked: what comes to be from here on is not in the list.
    let all = server.blobs.list().await?;
    let mirror = server.core.view().mirror;
    let mut used = Used::find(&server.blobs, &mirror).await?;
    let forgotten = used.forgotten(&mirror, before);
    // What they are made of goes a round after them: until then somebody may have asked for one of them.
    used.follow(&server.blobs, mirror.manifests.values().flat_map(|all| all.keys()).cloned().collect()).await?;
    let forget = server.core.mutate(|mirror, _| Ok((unchanged(mirror, forgotten), ()))).await;
    if let Err(Problem { message, .. }) = forget {
        tracing::error!(message, "manifests that nobody needs cannot be forgotten; it is tried again");
    }
    let mut bytes = 0;
    for (digest, size) in all {
        if !used.contains(&digest) && server.blobs.delete_older(&digest, before).await? {
            bytes += size;
        }
    }
    Ok(bytes)
}

/// Records that are of no use any more.
fn surplus(mirror: &Mirror) -> Vec<Change> {
    let mut changes = Vec::new();
    for app in mirror.apps.keys() {
        let kept = kept_releases(mirror, app);
        let (stay, go): (Vec<_>, Vec<_>) = mirror
            .releases
            .get(app)
            .into_iter()
            .flat_map(|releases| releases.values())
            .partition(|release| kept.contains(&release.number));
        changes.extend(go.iter().map(|release| release_key(app, release.number)));
        changes.extend(surplus_tags(mirror, app, &stay, &go).into_iter().map(|tag| tag_key(app.as_str(), &tag)));
        let images: BTreeSet<&Digest> = kept.iter().filter_map(|n| mirror.release(app, *n)).map(|r| &r.image).collect();
        let builds = mirror.builds.iter().filter(|((of, _), build)| of == app && !images.contains(&build.image));
        // A build whose release is being made is younger than any release.
        let idle = mirror.open_deploys(app).next().is_none();
        changes.extend(builds.filter(|_| idle).map(|((_, commit), _)| build_key(app, commit)));
        let deploys = mirror.deploys.get(app).into_iter().flatten();
        // A deploy is what tells that its release once served.
        let told = |deploy: &gantry_model::Deploy| deploy.release.is_some_and(|number| kept.contains(&number));
        let ended = deploys.rev().skip(DEPLOYS_KEPT).filter(|(_, deploy)| deploy.state.is_final() && !told(deploy));
        changes.extend(ended.map(|(number, _)| deploy_key(app, *number)));
    }
    changes.into_iter().map(Change::Remove).collect()
}

/// Tags that were made with what goes, and name nothing that stays. Those that people made are theirs.
fn surplus_tags(mirror: &Mirror, app: &AppName, stay: &[&Arc<Release>], go: &[&Arc<Release>]) -> Vec<String> {
    let open: Vec<&Digest> = mirror.open_deploys(app).filter_map(|deploy| deploy.cause.image()).collect();
    let is_named = |image: &Digest| open.contains(&image) || stay.iter().any(|release| release.image == *image);
    let made_with = |tag: &str, image: &Digest| {
        let pulled = tag == pulled_tag(image);
        pulled || go.iter().any(|release| release.commit.as_deref() == Some(tag) && release.image == *image)
    };
    let tags = mirror.tags.get(app.as_str()).into_iter().flatten();
    tags.filter(|(tag, image)| !is_named(image) && made_with(tag, image)).map(|(tag, _)| tag.clone()).collect()
}

/// The tag of an image that was pulled to be deployed.
pub(crate) fn pulled_tag(image: &Digest) -> String {
    format!("pulled-{}", image.short())
}

fn kept_releases(mirror: &Mirror, app: &AppName) -> BTreeSet<ReleaseNumber> {
    let Some(releases) = mirror.releases.get(app) else {
        return BTreeSet::new();
    };
    let newest = releases.keys().rev().take(RELEASES_KEPT).copied();
    let good =
        releases.iter().rev().filter(|(_, release)| mirror.is_good(release)).take(GOOD_KEPT).map(|(number, _)| *number);
    let current = mirror.apps.get(app).and_then(|app| app.current);
    let deploys = mirror.open_deploys(app).flat_map(|deploy| {
        let target = match deploy.cause {
            Cause::Rollback { to } => Some(to),
            _ => None,
        };
        [deploy.release, deploy.previous, target]
    });
    let running = mirror.plan.assignments().filter(|(_, id, _)| id.app == *app).map(|(_, id, _)| id.release);
    newest.chain(good).chain(current).chain(deploys.flatten()).chain(running).collect()
}

/// Digests that the records name.
fn roots(mirror: &Mirror) -> BTreeSet<Digest> {
    let releases = mirror.releases.values().flat_map(|releases| releases.values()).map(|release| release.image.clone());
    let builds = mirror.builds.values().flat_map(|build| [build.image.clone(), build.base.clone()]);
    let bases = mirror.bases.values().map(|base| base.image.clone());
    let tags = mirror.tags.values().flat_map(|tags| tags.values()).cloned();
    let deploys =
        mirror.apps.keys().flat_map(|app| mirror.open_deploys(app)).filter_map(|deploy| match &deploy.cause {
            Cause::Push { source, .. } => Some(source.clone()),
            Cause::Image { image, .. } => Some(image.clone()),
            _ => None,
        });
    releases.chain(builds).chain(bases).chain(tags).chain(deploys).collect()
}

/// What is of use.
#[derive(Default)]
struct Used {
    /// Named by a record, or by an index: what these lead to is of use too.
    named: BTreeSet<Digest>,
    /// What images are made of. A manifest may be among them, where somebody's image says so; it is followed all the same
    /// when it is named itself.
    parts: BTreeSet<Digest>,
}

impl Used {
    /// The roots, everything that they lead to, and what refers to any of that.
    async fn find(blobs: &Blobs, mirror: &Mirror) -> Result<Self, BlobError> {
        let mut used = Self::default();
        let mut next: Vec<Digest> = roots(mirror).into_iter().collect();
        while !next.is_empty() {
            used.follow(blobs, next).await?;
            next = used.referrers(mirror);
        }
        Ok(used)
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.named.contains(digest) || self.parts.contains(digest)
    }

    /// A source archive leads nowhere, and neither does what is no manifest.
    async fn follow(&mut self, blobs: &Blobs, mut next: Vec<Digest>) -> Result<(), BlobError> {
        while let Some(digest) = next.pop() {
            if !self.named.insert(digest.clone()) {
                continue;
            }
            let text = match blobs.read(&digest).await {
                Ok(text) => text,
                // One that cannot be read now may name much that is used.
                Err(error @ BlobError::Backend { .. }) => return Err(error),
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

    /// What was pushed, refers to something of use, and is not yet followed.
    fn referrers(&self, mirror: &Mirror) -> Vec<Digest> {
        let refers = |pushed: &Pushed| pushed.subject.as_ref().is_some_and(|subject| self.contains(subject));
        let all = mirror.manifests.values().flatten();
        let new = all.filter(|(digest, pushed)| refers(pushed) && !self.named.contains(*digest));
        new.map(|(digest, _)| digest.clone()).collect()
    }

    /// What was pushed before that moment, and nothing names.
    fn forgotten(&self, mirror: &Mirror, before: SystemTime) -> Vec<(String, Digest, Pushed)> {
        let before = before.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let all = mirror.manifests.iter().flat_map(|(repository, all)| all.iter().map(move |one| (repository, one)));
        all.filter(|(_, (digest, pushed))| pushed.at.0 < before && !self.contains(digest))
            .map(|(repository, (digest, pushed))| (repository.clone(), digest.clone(), pushed.clone()))
            .collect()
    }
}

/// The removal of those that nobody pushed again meanwhile.
fn unchanged(mirror: &Mirror, forgotten: Vec<(String, Digest, Pushed)>) -> Vec<Change> {
    let known = |repository: &str, digest: &Digest| mirror.manifests.get(repository)?.get(digest);
    let same = forgotten.into_iter().filter(|(repository, digest, pushed)| known(repository, digest) == Some(pushed));
    same.map(|(repository, digest, _)| Change::Remove(manifest_key(&repository, &digest))).collect()
}

fn folders(server: &Server) {
    let data = &server.settings.data;
    let [caches, repositories, logs] = ["caches", "git", "builds"].map(|folder| names(&data.join(folder)));
    // Asked for each, after the names are read: what they belong to is in the records before it is on the disk, and to count
    // and remove what is before it takes its time.
    let mirror = || server.core.view().mirror;
    let is_app = |name: &str| AppName::parse(name).is_ok_and(|app| mirror().apps.contains_key(&app));
    for name in caches {
        let path = data.join("caches").join(&name);
        // Asked last: counting takes its time.
        let is_idle = || AppName::parse(&name).is_ok_and(|app| mirror().open_deploys(&app).next().is_none());
        let too_large = || gantry_linux::tree::usage(&path, CACHE_MAX).is_ok_and(|size| size > CACHE_MAX);
        if is_app(&name) && !(too_large() && is_idle()) {
            continue;
        }
        match take_cache(&server.settings, &name) {
            Ok(away) => remove(&away),
            Err(error) => tracing::warn!(%error, path = %path.display(), "what is of no use stays"),
        }
    }
    for name in repositories {
        if name.strip_suffix(".git").is_some_and(|app| !is_app(app)) {
            remove(&data.join("git").join(&name));
        }
    }
    for name in logs {
        let Some((app, number)) = log_of(&name) else { continue };
        let mirror = mirror();
        let known = AppName::parse(app).ok().and_then(|app| mirror.deploys.get(&app));
        let kept = known.is_some_and(|deploys| deploys.contains_key(&number));
        if !kept {
            remove(&data.join("builds").join(&name));
        }
    }
}

/// Takes a build cache away at once, by another name: a build that begins meanwhile begins with an empty one. Gives that name.
fn take_cache(settings: &Settings, name: &str) -> std::io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let away = settings.data.join("scratch").join(format!("cache-{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    match std::fs::rename(settings.data.join("caches").join(name), &away) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(away),
        renamed => renamed.map(|()| away),
    }
}

/// What stays of it, for a build that is called off may write there still, goes when the server starts.
fn remove(path: &Path) {
    if let Err(error) = gantry_linux::tree::remove(path) {
        tracing::warn!(%error, "what is of no use stays");
    }
}

/// Removes what an app has on the server's disk besides its records: repository, build cache, and what its builds said. Another
/// app of its name has nothing of it.
///
/// # Errors
/// When something of it cannot be removed.
pub(crate) async fn forget_app(server: &Arc<Server>, app: AppName) -> Result<(), Problem> {
    let server = Arc::clone(server);
    let forget = move || {
        server.repositories.remove(&app).map_err(std::io::Error::other)?;
        gantry_linux::step!("forget.repository");
        let cache = take_cache(&server.settings, app.as_str())?;
        gantry_linux::step!("forget.cache");
        let logs = server.settings.data.join("builds");
        for name in names(&logs).iter().filter(|name| log_of(name).is_some_and(|(of, _)| of == app.as_str())) {
            gantry_linux::tree::remove(&logs.join(name))?;
        }
        gantry_linux::step!("forget.logs");
        // It takes its time, which nobody waits for.
        tokio::task::spawn_blocking(move || remove(&cache));
        Ok(())
    };
    let forgotten: std::io::Result<()> =
        tokio::task::spawn_blocking(forget).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    forgotten.map_err(|error| Problem::internal(error.to_string()))
}

/// Which app's and which deploy's a log of a build is, by its name.
fn log_of(name: &str) -> Option<(&str, DeployNumber)> {
    let (app, number) = name.strip_suffix(".log")?.rsplit_once('-')?;
    Some((app, DeployNumber(number.parse().ok()?)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Refuses what would fill the disk, with the numbers. `what` is about to keep `more` bytes, as far as that is known.
pub(crate) fn has_room(settings: &Settings, what: &str, more: u64) -> Result<(), Problem> {
    let data = &settings.data;
    let needed = settings.collect.reserve.saturating_add(more);
    let (free, size) = gantry_linux::disk::space(data).map_err(|error| {
        Problem::internal(format!("cannot tell how much of the disk of {} is free: {error}", data.display()))
    })?;
    if free >= needed {
        return Ok(());
    }
    let bytes = gantry_model::Bytes;
    let refused = format!(
        "the disk of {} has {} free of {}, and {what} needs {}",
        data.display(),
        bytes(free),
        bytes(size),
        bytes(needed)
    );
    let hint = "`gantry status` tells what takes the space; `gantry app destroy` and `gantry base rm` free some";
    Err(Problem::new(507, refused).hint(hint))
}

/// Between two looks at the disk while something comes of which nobody said how large it is.
const ROOM_STEP: u64 = 64 << 20;

/// Asks for room again and again while something comes.
pub(crate) struct Room {
    what: &'static str,
    since: u64,
}

impl Room {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: 0 }
    }

    /// Notes that so many bytes came.
    pub(crate) fn take(&mut self, settings: &Settings, bytes: usize) -> Result<(), Problem> {
        self.since += bytes as u64;
        if self.since < ROOM_STEP {
            return Ok(());
        }
        self.since = 0;
        has_room(settings, self.what, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gantry_model::{App, Deploy, DeployNumber, DeployState, Moment};

    use super::*;
    use crate::mirror::Record;

    fn image(number: u64) -> Digest {
        Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
    }

    fn release(app: &AppName, number: u64) -> Release {
        Release {
            app: app.clone(),
            number: ReleaseNumber(number),
            image: image(number),
            commit: Some(format!("{number:040x}")),
            config: BTreeMap::new(),
            roles: BTreeMap::new(),
            deploy: DeployNumber(number),
            created: Moment(0),
            by: "test".into(),
            cause: Cause::Config { keys: Vec::new() },
        }
    }

    #[test]
    fn a_release_that_goes_takes_its_tag_and_nobody_else_s() {
        let app = AppName::parse("shop").expect("a name");
        let mut mirror = Mirror::default();
        let tag = |mirror: &mut Mirror, tag: &str, digest| {
            mirror.apply(Record::Tag { repository: app.to_string(), tag: tag.to_owned(), digest }.into());
        };
        mirror.apply(Record::App(App::new(app.clone(), Moment(0))).into());
        for number in 1..=RELEASES_KEPT as u64 + 2 {
            let release = release(&app, number);
            tag(&mut mirror, release.commit.as_deref().expect("a commit"), release.image.clone());
            mirror.apply(Record::Release(release).into());
        }
        tag(&mut mirror, "mine", image(1));
        tag(&mut mirror, &pulled_tag(&image(2)), image(2));
        tag(&mut mirror, &pulled_tag(&image(9)), image(9));
        let keys: BTreeSet<String> = surplus(&mirror)
            .into_iter()
            .map(|change| match change {
                Change::Remove(key) => key,
                Change::Put(_) => panic!("nothing is written"),
            })
            .collect();
        let tags = [format!("{:040x}", 1), format!("{:040x}", 2), pulled_tag(&image(2))];
        let releases = [1, 2].map(|number| release_key(&app, ReleaseNumber(number)));
        assert_eq!(keys, tags.iter().map(|tag| tag_key("shop", tag)).chain(releases).collect());
    }

    /// What a rollback needs: of 80 releases the first seven served, all since then failed.
    #[test]
    fn the_last_five_that_served_are_kept_however_many_failed_since() {
        let app = AppName::parse("shop").expect("a name");
        let mut mirror = Mirror::default();
        mirror.apply(Record::App(App { current: Some(ReleaseNumber(7)), ..App::new(app.clone(), Moment(0)) }).into());
        for number in 1..=80 {
            let release = release(&app, number);
            let cause = release.cause.clone();
            let mut deploy = Deploy::new(app.clone(), release.deploy, cause, "test".into(), false, Moment(0));
            deploy.release = Some(release.number);
            deploy.state = if number <= 7 { DeployState::Done } else { DeployState::Reverted };
            mirror.apply(Record::Deploy(deploy).into());
            mirror.apply(Record::Release(release).into());
        }
        let kept: Vec<u64> = kept_releases(&mirror, &app).into_iter().map(|number| number.0).collect();
        assert_eq!(kept, (3..=7).chain(61..=80).collect::<Vec<_>>());
        // With each of them the deploy that tells that it served; of the others the last fifty.
        let removed = surplus(&mirror);
        let is_removed =
            |key: &String| removed.iter().any(|change| matches!(change, Change::Remove(removed) if removed == key));
        let deploys: Vec<u64> = (1..=80).filter(|n| is_removed(&deploy_key(&app, DeployNumber(*n)))).collect();
        assert_eq!(deploys, [1, 2].into_iter().chain(8..=30).collect::<Vec<_>>());
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
    async fn what_refers_to_an_image_is_kept_with_it_and_forgotten_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::in_folder(folder.path()).expect("blobs");
        let mut mirror = Mirror::default();
        let shop = || "shop".to_owned();
        let push = async |mirror: &mut Mirror, at, layer: u64, subject: Option<&Digest>| {
            let digest = blobs.put(manifest(&image(1), &image(layer), subject)).await.expect("kept");
            let pushed = Pushed { at: Moment(at), subject: subject.cloned() };
            mirror.apply(Record::Manifest { repository: shop(), digest: digest.clone(), pushed }.into());
            digest
        };
        let tagged = push(&mut mirror, 0, 2, None).await;
        let signature = push(&mut mirror, 0, 3, Some(&tagged)).await;
        let of_signature = push(&mut mirror, 0, 4, Some(&signature)).await;
        let forgotten = push(&mut mirror, 0, 5, None).await;
        let of_forgotten = push(&mut mirror, 0, 6, Some(&forgotten)).await;
        let young = push(&mut mirror, 2000, 7, None).await;
        mirror.apply(Record::Tag { repository: shop(), tag: "one".into(), digest: tagged.clone() }.into());

        let used = Used::find(&blobs, &mirror).await.expect("read");
        for kept in [&tagged, &signature, &of_signature, &image(2), &image(3), &image(4)] {
            assert!(used.contains(kept), "{kept}");
        }
        assert!(!used.contains(&image(5)) && !used.contains(&image(6)));
        let gone = used.forgotten(&mirror, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
        let digests: BTreeSet<&Digest> = gone.iter().map(|(_, digest, _)| digest).collect();
        assert_eq!(digests, BTreeSet::from([&forgotten, &of_forgotten]));

        // One of them is pushed again before it is removed.
        let pushed = Pushed { at: Moment(3000), subject: None };
        mirror.apply(Record::Manifest { repository: shop(), digest: forgotten.clone(), pushed }.into());
        unchanged(&mirror, gone).into_iter().for_each(|change| mirror.apply(change));
        let left: BTreeSet<&Digest> = mirror.manifests["shop"].keys().collect();
        assert_eq!(left, BTreeSet::from([&tagged, &signature, &of_signature, &forgotten, &young]));
    }

    #[tokio::test]
    async fn an_image_is_whole_though_another_calls_its_manifest_a_layer() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::in_folder(folder.path()).expect("blobs");
        let mut mirror = Mirror::default();
        let victim = blobs.put(manifest(&image(1), &image(2), None)).await.expect("kept");
        let hostile = blobs.put(manifest(&image(3), &victim, None)).await.expect("kept");
        for (repository, digest) in [("shop", &victim), ("other", &hostile)] {
            let (repository, tag) = (repository.to_owned(), "one".to_owned());
            mirror.apply(Record::Tag { repository, tag, digest: digest.clone() }.into());
        }
        let mut used = Used::default();
        used.follow(&blobs, vec![victim, hostile]).await.expect("read");
        assert!(used.contains(&image(2)));
        assert!(Used::find(&blobs, &mirror).await.expect("read").contains(&image(2)));
    }
}
