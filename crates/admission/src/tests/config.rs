use gantry_model::deploy::DeployOrder;

use super::*;
use crate::{RequestedConfigError, RequestedValue, requested_config};

type ConfigChanges = BTreeMap<String, Option<String>>;

fn set(values: &[(&str, &str)]) -> ConfigChanges {
    values.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect()
}

fn unset(keys: &[&str]) -> ConfigChanges {
    keys.iter().map(|key| ((*key).to_owned(), None)).collect()
}

fn change(records: &mut RecordIndex, changes: ConfigChanges) -> Result<Option<DeployNumber>, Refusal> {
    run(records, |actor| actor.change_config(&shop(), changes, &[]))
}

#[test]
fn before_the_first_release_a_change_starts_no_deploy() {
    let mut records = with_app();
    assert_eq!(change(&mut records, set(&[("COLOR", "blue"), ("SIZE", "1")])), Ok(None));
    assert_eq!(records.apps[&shop()].config["COLOR"], "blue");
    assert!(records.deploys.is_empty());
    let keys = vec!["COLOR".to_owned(), "SIZE".to_owned()];
    assert_eq!(newest_action(&records), AuditAction::ConfigChanged { keys });
    assert_eq!(change(&mut records, unset(&["COLOR", "NONE"])), Ok(None));
    assert_eq!(records.apps[&shop()].config.keys().collect::<Vec<_>>(), ["SIZE"]);
}

#[test]
fn a_change_of_a_served_app_is_a_deploy() {
    let mut records = released(&[push_of("a")]);
    assert_eq!(change(&mut records, set(&[("COLOR", "blue")])), Ok(Some(DeployNumber(2))));
    let deploy = &records.deploys[&shop()][&DeployNumber(2)];
    assert_eq!(deploy.cause, DeployCause::Config { keys: vec!["COLOR".to_owned()] });
    assert_eq!((deploy.by.as_str(), deploy.state, deploy.hold), ("alice", DeployState::Queued, false));
    assert_eq!(records.apps[&shop()].last_deploy, 2);
    assert_eq!(newest_action(&records).to_string(), "deploy #2 asked for: config COLOR");
}

#[test]
fn an_unchanged_configuration_starts_no_deploy() {
    let mut records = released(&[push_of("a")]);
    assert_eq!(change(&mut records, unset(&["NONE"])), Ok(None));
    assert_eq!(change(&mut records, ConfigChanges::new()), Ok(None));
    assert!(records.events.is_empty(), "nothing happened");
}

#[test]
fn configuration_that_failed_is_deployed_when_it_is_set_again() {
    let mut records = released(&[push_of("a")]);
    let set_it = |records: &mut RecordIndex| change(records, set(&[("COLOR", "blue")])).expect("taken");
    let first = set_it(&mut records).expect("a deploy");
    assert_eq!(set_it(&mut records), None, "the deploy under way has it");
    edit_deploy(&mut records, first, |deploy| deploy.order = Some(DeployOrder::Abort));
    assert!(set_it(&mut records.clone()).is_some(), "the deploy is being aborted");
    edit_deploy(&mut records, first, |deploy| (deploy.order, deploy.state) = (None, DeployState::Reverting));
    assert!(set_it(&mut records.clone()).is_some(), "the deploy is being taken back");
    edit_deploy(&mut records, first, |deploy| deploy.state = DeployState::Reverted);
    assert!(set_it(&mut records).is_some(), "nothing that serves has it");
}

#[test]
fn refuses_names_and_values_unusable_in_an_environment() {
    let mut records = released(&[push_of("a")]);
    for (key, value, expected) in [
        ("", "x", Refusal::InvalidVariableName { key: String::new() }),
        ("1A", "x", Refusal::InvalidVariableName { key: "1A".to_owned() }),
        ("A=B", "x", Refusal::InvalidVariableName { key: "A=B".to_owned() }),
        ("PORT", "x", Refusal::ReservedVariable { key: "PORT".to_owned() }),
        ("REVISION", "x", Refusal::ReservedVariable { key: "REVISION".to_owned() }),
        ("GANTRY_X", "x", Refusal::ReservedVariable { key: "GANTRY_X".to_owned() }),
        ("A", "x\0y", Refusal::InvalidVariableValue { key: "A".to_owned() }),
    ] {
        let before = records.clone();
        assert_eq!(change(&mut records, set(&[("OK", "1"), (key, value)])), Err(expected));
        assert_eq!(records, before);
    }
    let unset_reserved = Refusal::ReservedVariable { key: "PORT".to_owned() };
    assert_eq!(change(&mut records, unset(&["PORT"])), Err(unset_reserved));
    for good in ["A", "_a", "a.b-c_D1", "PORTS", "GANTRY"] {
        assert!(change(&mut records, set(&[(good, "")])).is_ok(), "{good}");
    }
}

#[test]
fn refuses_values_unusable_in_an_environment_by_name() {
    let mut records = released(&[push_of("a")]);
    let try_set = |records: &RecordIndex, values: &[(&str, usize)], image: &[String]| {
        let changes = values.iter().map(|(key, length)| ((*key).to_owned(), Some("a".repeat(*length)))).collect();
        alice(records).change_config(&shop(), changes, image).map(drop).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(try_set(&records, &[("CA", 131_060)], &[]), Ok(()));
    assert_eq!(try_set(&records, &[("CA", 131_068)], &[]), Ok(()));
    for length in [131_069, 140_000] {
        let refused = try_set(&records, &[("OK", 1), ("CA", length)], &[]).expect_err("too long");
        assert!(refused.starts_with(&format!("CA is too long: {} bytes", length + 3)), "{refused}");
    }
    // With the environment of the serving release's image.
    edit_release(&mut records, |release| {
        release.roles.insert(role_name("web"), Role::new(RoleCommand::Shell("x".into())));
    });
    let image: Vec<String> = (0..15).map(|number| format!("I{number}={}", "a".repeat(130_000))).collect();
    assert_eq!(try_set(&records, &[("CA", 100_000)], &image), Ok(()));
    let refused = try_set(&records, &[("CA", 130_000), ("CB", 120_000)], &image).expect_err("too long");
    assert!(refused.starts_with("the environment and command of web are too long"), "{refused}");
}

#[test]
fn the_size_of_a_configuration_is_limited() {
    let mut records = with_app();
    let many: ConfigChanges = (0..500).map(|number| (format!("K{number}"), Some(String::new()))).collect();
    assert_eq!(change(&mut records, many), Ok(None));
    let bytes: usize = records.apps[&shop()].config.keys().map(String::len).sum();
    let full = |count, bytes| Refusal::ConfigTooLarge { count, bytes, most_values: 500, most_bytes: 256 << 10 };
    assert_eq!(change(&mut records, set(&[("X", "")])), Err(full(501, bytes + 1)));
    assert_eq!(change(&mut records, set(&[("K0", "changed")])), Ok(None), "a value may change");
    let mut records = with_app();
    let half = "a".repeat(131_000);
    assert_eq!(change(&mut records, set(&[("A", &half), ("B", &half)])), Ok(None));
    assert_eq!(change(&mut records, set(&[("C", &"a".repeat(143))])), Err(full(3, (256 << 10) + 2)));
    assert_eq!(change(&mut records, set(&[("C", &"a".repeat(141))])), Ok(None));
}

#[test]
fn no_configuration_changes_during_a_rollback() {
    let mut records = released(&[push_of("a"), push_of("b")]);
    let number = run(&mut records, |actor| actor.start_deploy(&shop(), back_to(1), false)).expect("a deploy");
    let refused = Refusal::RollbackInProgress { app: shop() };
    assert_eq!(change(&mut records, set(&[("A", "1")])), Err(refused));
    edit_deploy(&mut records, number, |deploy| deploy.state = DeployState::Done);
    assert!(change(&mut records, set(&[("A", "1")])).is_ok());
}

fn requests(values: &[(&str, RequestedValue)]) -> BTreeMap<String, RequestedValue> {
    values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

#[test]
fn an_app_gets_the_configuration_that_it_requests_and_does_not_have() {
    let mut app = App::new(shop(), Moment(0));
    app.config.insert("SIZE".to_owned(), "9".to_owned());
    let requested_values = requests(&[
        ("COLOR", RequestedValue::Default("blue".to_owned())),
        ("SIZE", RequestedValue::Default("1".to_owned())),
        ("KEY", RequestedValue::Secret),
    ]);
    let requested = requested_config(&app, &requested_values, || "made".to_owned()).expect("provided");
    let values = BTreeMap::from([("COLOR".to_owned(), "blue".to_owned()), ("KEY".to_owned(), "made".to_owned())]);
    assert_eq!(requested.values, values, "SIZE is set already");
    assert_eq!(requested.brought.iter().collect::<Vec<_>>(), ["COLOR"], "a secret does not stand in app.json");
}

#[test]
fn refuses_missing_required_configuration() {
    let mut app = App::new(shop(), Moment(0));
    let provide =
        |requested_values: &[(&str, RequestedValue)]| requested_config(&app, &requests(requested_values), String::new);
    let error = provide(&[("DATABASE", RequestedValue::Required)]).expect_err("required");
    assert_eq!(error, RequestedConfigError::Missing { app: shop(), key: "DATABASE".to_owned() });
    assert_eq!(error.to_string(), "app.json requires DATABASE; set it with `gantry config set shop DATABASE=…`");
    let error = provide(&[("LONG", RequestedValue::Default("a".repeat(140_000)))]).expect_err("too long");
    assert!(error.to_string().starts_with("in app.json, LONG is too long: 140005 bytes"), "{error}");
    app.config.extend((0..500).map(|number| (format!("K{number}"), String::new())));
    let error = requested_config(&app, &requests(&[("KEY", RequestedValue::Secret)]), String::new);
    let error = error.expect_err("too large");
    assert!(
        error.to_string().starts_with("with the values that app.json requests, the configuration is too large"),
        "{error}"
    );
    app.config.insert("DATABASE".to_owned(), "x".to_owned());
    let required = requests(&[("DATABASE", RequestedValue::Required)]);
    app.config.remove("K0");
    assert_eq!(requested_config(&app, &required, String::new), Ok(crate::RequestedConfig::default()));
}

#[test]
fn debug_leaves_out_requested_secrets() {
    let requests = [("SECRET_KEY".to_owned(), RequestedValue::Secret)].into();
    let app = with_app().apps[&shop()].clone();
    let requested = requested_config(&app, &requests, || "made-secret".to_owned()).expect("a secret");
    assert_eq!(requested.values["SECRET_KEY"], "made-secret");
    assert_eq!(format!("{requested:?}"), r#"{"SECRET_KEY"}"#);
}
