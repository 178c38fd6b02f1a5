use gantry_records::PushedManifest;

use super::*;
use crate::{FullList, NewManifest, REFERRERS_MAX, REPOSITORY_MAX, app_of_repository_is_missing};

fn manifest(repository: &str, image: &Digest, tag: Option<&str>) -> NewManifest {
    let tags = tag.map(str::to_owned).into_iter().collect();
    NewManifest { repository: repository.to_owned(), digest: image.clone(), subject: None, tags }
}

fn numbered(number: usize) -> Digest {
    Digest::from_hex(&format!("{number:064x}")).expect("a digest")
}

fn push(records: &mut RecordIndex, new: NewManifest) -> Result<(), Refusal> {
    let (changes, ()) = alice(records).push_manifest(new)?;
    changes.into_iter().for_each(|change| records.apply(change));
    Ok(())
}

#[test]
fn a_pushed_manifest_has_its_tag_and_its_time() {
    let mut records = with_app();
    assert_eq!(push(&mut records, manifest("shop", &digest("01"), Some("1.0"))), Ok(()));
    assert_eq!(records.tags["shop"]["1.0"], digest("01"));
    assert_eq!(records.manifests["shop"][&digest("01")], PushedManifest { at: NOW, subject: None });
    assert_eq!(newest_action(&records).to_string(), "pushed image shop:1.0");
    assert_eq!(push(&mut records, manifest("shop", &digest("02"), Some("1.0"))), Ok(()), "a tag moves");
    assert_eq!(records.tags["shop"]["1.0"], digest("02"));
    let several =
        NewManifest { tags: ["a".to_owned(), "b".to_owned()].into(), ..manifest("shop", &digest("02"), None) };
    assert_eq!(push(&mut records, several), Ok(()));
    assert_eq!(["a", "b"].map(|tag| &records.tags["shop"][tag]), [&digest("02"), &digest("02")]);
    let events = records.events.len();
    assert_eq!(push(&mut records, manifest("shop", &digest("03"), None)), Ok(()));
    assert_eq!(records.events.len(), events, "a manifest without a tag is no news");
    assert!(records.has_image("shop", &digest("03")));
}

#[test]
fn reports_an_image_push_to_the_name_of_no_app() {
    let mut records = with_app();
    for (repository, missing) in [("shop", None), ("shpo", Some(app_name("shpo"))), ("team/tool", None)] {
        assert_eq!(app_of_repository_is_missing(&records, repository), missing);
        push(&mut records, manifest(repository, &digest("01"), Some("1"))).expect("pushed");
        let text = newest_action(&records).to_string();
        assert_eq!(text.ends_with(" (there is no app of this name)"), missing.is_some(), "{text}");
    }
}

#[test]
fn a_full_repository_takes_no_more_names() {
    let mut records = with_app();
    for number in 0..REPOSITORY_MAX {
        push(&mut records, manifest("shop", &numbered(number), None)).expect("pushed");
    }
    let list = FullList::Manifests { repository: "shop".to_owned(), most: REPOSITORY_MAX };
    let another = manifest("shop", &numbered(REPOSITORY_MAX), None);
    assert_eq!(push(&mut records, another.clone()), Err(Refusal::RepositoryFull { list }));
    assert_eq!(push(&mut records, manifest("shop", &numbered(1), None)), Ok(()), "a known one again");
    assert_eq!(push(&mut records, NewManifest { repository: "blog".to_owned(), ..another }), Ok(()));
    let mut records = with_app();
    for number in 0..REPOSITORY_MAX {
        let digest = digest("01");
        put(&mut records, StoreRecord::Tag { repository: "shop".to_owned(), tag: format!("t{number}"), digest });
    }
    let list = FullList::Tags { repository: "shop".to_owned(), most: REPOSITORY_MAX };
    let tagged = |tag| manifest("shop", &digest("01"), Some(tag));
    assert_eq!(push(&mut records, tagged("new")), Err(Refusal::RepositoryFull { list }));
    assert_eq!(push(&mut records, tagged("t7")), Ok(()), "a known tag may move");
}

#[test]
fn the_manifests_that_refer_to_an_image_are_limited() {
    let mut records = with_app();
    let referrer = |number| NewManifest { subject: Some(digest("01")), ..manifest("shop", &numbered(number), None) };
    for number in 0..REFERRERS_MAX {
        push(&mut records, referrer(number)).expect("pushed");
    }
    let full = Refusal::RepositoryFull { list: FullList::Referrers { most: REFERRERS_MAX } };
    assert_eq!(push(&mut records, referrer(REFERRERS_MAX)), Err(full.clone()));
    assert_eq!(push(&mut records, referrer(0)), Ok(()), "a known one again");
    let other = NewManifest { subject: Some(digest("02")), ..referrer(REFERRERS_MAX) };
    assert_eq!(push(&mut records, other), Ok(()), "of another image");
    assert_eq!(full.hint().as_deref(), Some("remove what is no longer used, then push again"));
}

#[test]
fn a_tag_or_a_manifest_with_its_tags_is_removed() {
    let mut records = with_app();
    for (byte, tag) in [("01", "a"), ("01", "b"), ("02", "c")] {
        push(&mut records, manifest("shop", &digest(byte), Some(tag))).expect("pushed");
    }
    let remove =
        |records: &mut RecordIndex, reference: &str| run(records, |actor| actor.remove_image("shop", reference));
    assert_eq!(remove(&mut records, "b"), Ok(()));
    assert_eq!(records.tags["shop"].keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(records.manifests["shop"].len(), 2, "the manifest stays with its other tag");
    assert_eq!(remove(&mut records, &digest("01").to_string()), Ok(()));
    assert_eq!(records.tags["shop"].keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!(records.manifests["shop"].keys().collect::<Vec<_>>(), [&digest("02")]);
    let before = records.clone();
    for gone in ["b".to_owned(), digest("01").to_string()] {
        let missing = Refusal::ImageNotFound { repository: "shop".to_owned(), reference: gone.clone() };
        assert_eq!(remove(&mut records, &gone), Err(missing));
    }
    assert_eq!(records, before);
}

#[test]
fn a_pulled_image_has_a_tag_of_its_own() {
    let mut records = with_app();
    let kept = run(&mut records, |actor| {
        actor.keep_pulled_image(&shop(), digest("01"), "pulled-01".to_owned(), "registry.example/shop:1".to_owned())
    });
    assert_eq!(kept, Ok(()));
    assert_eq!(records.tags["shop"]["pulled-01"], digest("01"));
    assert_eq!(newest_action(&records).to_string(), "pulled image registry.example/shop:1");
}
