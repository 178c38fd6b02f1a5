use gantry_model::{ImageSettings, Subnet, TrafficPolicy};

use super::*;
use crate::{TrafficChange, check_image_settings};

fn change(records: &mut RecordIndex, change: TrafficChange) -> Result<TrafficPolicy, Refusal> {
    run(records, |actor| actor.change_traffic(&shop(), change))?;
    Ok(records.apps[&shop()].traffic.clone())
}

fn subnets(count: u8) -> Vec<Subnet> {
    (0..count).map(|number| format!("10.0.{number}.0/24").parse().expect("a range")).collect()
}

#[test]
fn each_traffic_change_keeps_the_other_settings() {
    let mut records = with_app();
    let mut expected = TrafficPolicy::default();
    let message = Some("back at noon".to_owned());
    for (step, apply) in [
        (TrafficChange::Pause, (|traffic| traffic.paused = true) as fn(&mut TrafficPolicy)),
        (TrafficChange::Limit { rate: Some(100), concurrent: None }, |traffic| traffic.rate = Some(100)),
        (TrafficChange::Maintenance(message), |traffic| traffic.maintenance = Some("back at noon".to_owned())),
        (TrafficChange::Resume, |traffic| traffic.paused = false),
        (TrafficChange::Limit { rate: None, concurrent: Some(7) }, |traffic| {
            (traffic.rate, traffic.concurrent) = (None, Some(7));
        }),
        (TrafficChange::Maintenance(None), |traffic| traffic.maintenance = None),
    ] {
        apply(&mut expected);
        assert_eq!(change(&mut records, step.clone()), Ok(expected.clone()), "{step:?}");
        let action = AuditAction::TrafficChanged { app: shop(), traffic: expected.clone() };
        assert_eq!(newest_action(&records), action, "{step:?}");
    }
}

#[test]
fn refuses_invalid_traffic_values() {
    let mut records = with_app();
    let message = |text: &str| TrafficChange::Maintenance(Some(text.to_owned()));
    let wrong_message = |bytes| Refusal::InvalidMaintenanceMessage { bytes, most: 500 };
    for (wrong, wanted) in [
        (TrafficChange::Limit { rate: Some(0), concurrent: None }, Refusal::ZeroLimit),
        (TrafficChange::Limit { rate: Some(5), concurrent: Some(0) }, Refusal::ZeroLimit),
        (message(&"x".repeat(501)), wrong_message(501)),
        (message("two\nlines"), wrong_message(9)),
        (message("\x1b[2J"), wrong_message(4)),
    ] {
        let before = records.clone();
        assert_eq!(change(&mut records, wrong), Err(wanted));
        assert_eq!(records, before);
    }
    assert!(change(&mut records, message(&"x".repeat(500))).is_ok());
    let ghost = app_name("ghost");
    let refused = alice(&records).change_traffic(&ghost, TrafficChange::Pause).map(drop);
    assert_eq!(refused, Err(Refusal::AppNotFound { app: ghost }));
}

#[test]
fn trusted_proxies_of_an_app_are_limited() {
    use gantry_model::proxies::PROXIES_MAX;
    let mut records = with_app();
    let most = u8::try_from(PROXIES_MAX).expect("few");
    let changed = change(&mut records, TrafficChange::TrustedProxies(subnets(most))).expect("taken");
    assert_eq!(changed.trusted_proxies.len(), PROXIES_MAX);
    assert!(newest_action(&records).to_string().starts_with("trusted proxies of shop: 10.0."));
    let too_many = Refusal::TooManyProxies { count: PROXIES_MAX + 1, most: PROXIES_MAX };
    assert_eq!(change(&mut records, TrafficChange::TrustedProxies(subnets(most + 1))), Err(too_many));
}

fn settings(volumes: &[(&str, &str)]) -> ImageSettings {
    let volumes = volumes.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
    ImageSettings { volumes, port: None }
}

#[test]
fn checks_volumes_of_an_image_against_existing_volumes() {
    let mut records = with_app();
    edit_app(&mut records, |app| app.image = settings(&[("data", "/data")]));
    let check = |change: &[(&str, &str)]| check_image_settings(&records, &shop(), &settings(change));
    for good in
        [&[("data", "/var/data")][..], &[("data", "")], &[("cache", "/data/cache")], &[("data", ""), ("new", "/data")]]
    {
        assert_eq!(check(good), Ok(()), "{good:?}");
    }
    let taken =
        Refusal::VolumePathTaken { first: "cache".to_owned(), second: "data".to_owned(), path: "/data".to_owned() };
    assert_eq!(check(&[("cache", "/data/")]), Err(taken.clone()));
    assert_eq!(taken.hint().as_deref(), Some("`--volume cache:` takes the first away; its data stays"));
    assert_eq!(check(&[("cache", "")]), Err(Refusal::VolumeNotFound { volume: "cache".to_owned() }));
    let many: Vec<String> = (0..20).map(|n| format!("v{n}")).collect();
    let paths: Vec<String> = many.iter().map(|name| format!("/{name}")).collect();
    let many: Vec<(&str, &str)> = many.iter().zip(&paths).map(|(name, path)| (name.as_str(), path.as_str())).collect();
    assert_eq!(check(&many), Err(Refusal::TooManyVolumes { most: 20 }));
    assert_eq!(check(&many[..19]), Ok(()));
}

#[test]
fn volumes_of_open_deploys_count() {
    let mut records = with_app();
    let cause = |change: &[(&str, &str)]| DeployCause::Image {
        reference: "shop:1".to_owned(),
        image: digest("ab"),
        change: settings(change),
    };
    run(&mut records, |actor| actor.start_deploy(&shop(), cause(&[("data", "/data")]), false)).expect("a deploy");
    let check =
        |records: &RecordIndex, change: &[(&str, &str)]| check_image_settings(records, &shop(), &settings(change));
    assert!(matches!(check(&records, &[("other", "/data")]), Err(Refusal::VolumePathTaken { .. })));
    assert_eq!(check(&records, &[("data", "")]), Ok(()));
    run(&mut records, |actor| actor.start_deploy(&shop(), cause(&[("data", "")]), false)).expect("a deploy");
    assert_eq!(check(&records, &[("other", "/data")]), Ok(()));
}
