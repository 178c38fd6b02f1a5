//! Changes of the cluster policy.

use gantry_model::{App, ClusterPolicy, Moment, PolicyKey, RuleError, Seconds};
use gantry_records::{RecordIndex, StoreRecord};

use super::{NOW, app_name, edit_app, host, newest_action, put, run, shop, with_app};
use crate::{PolicyChange, Refusal, adopt_policy};

fn change(records: &mut RecordIndex, rules: &[(PolicyKey, Option<&str>)]) -> Result<ClusterPolicy, Refusal> {
    let change: PolicyChange = rules.iter().map(|(key, value)| (*key, value.map(str::to_owned))).collect();
    run(records, |actor| actor.change_policy(&change))
}

#[test]
fn sets_and_unsets_rules_and_records_the_change() {
    let mut records = with_app();
    let set = [(PolicyKey::Drain, Some("120")), (PolicyKey::TrustedProxies, Some("10.0.0.0/8"))];
    let policy = change(&mut records, &set).expect("taken");
    assert_eq!((policy.drain(), policy.trusted_proxies().len()), (Seconds(120), 1));
    assert_eq!(records.policy, policy);
    assert_eq!(newest_action(&records).to_string(), "cluster policy: drain=2m trusted-proxies=10.0.0.0/8");
    let policy = change(&mut records, &[(PolicyKey::Drain, None)]).expect("taken");
    assert_eq!((policy.drain, policy.trusted_proxies().len()), (None, 1), "a rule that is not named stays");
    assert_eq!(newest_action(&records).to_string(), "cluster policy: drain by default");
}

#[test]
fn refuses_a_wrong_value_and_changes_nothing() {
    let mut records = with_app();
    let refused = change(&mut records, &[(PolicyKey::BakeTime, Some("5")), (PolicyKey::Drain, Some("soon"))]);
    let error = RuleError::Time("soon".to_owned());
    assert_eq!(refused, Err(Refusal::InvalidPolicyValue { rule: PolicyKey::Drain, error }));
    assert_eq!(records.policy, ClusterPolicy::default());
    assert_eq!(change(&mut records, &[]), Ok(ClusterPolicy::default()));
}

#[test]
fn refuses_a_domain_under_which_an_app_gets_the_host_of_another() {
    let mut records = with_app();
    put(&mut records, StoreRecord::App(App::new(app_name("blog"), Moment(0))));
    edit_app(&mut records, |app| app.hosts = vec![host("blog.example"), host("shop.example")]);
    let taken = Refusal::DomainTaken { address: "blog.example".to_owned(), app: app_name("blog"), other: shop() };
    assert_eq!(change(&mut records, &[(PolicyKey::Domain, Some("example"))]), Err(taken));
    let policy = change(&mut records, &[(PolicyKey::Domain, Some("other.example"))]).expect("free");
    assert_eq!(policy.domain(), host("other.example"));
}

#[test]
fn settings_of_a_server_are_the_first_values() {
    let mut records = with_app();
    let mut settings = ClusterPolicy::default();
    settings.set(PolicyKey::Drain, "5").expect("a time");
    adopt_policy(&records, NOW, &settings).into_iter().for_each(|change| records.apply(change));
    assert_eq!((records.policy.adopted, records.policy.drain()), (true, Seconds(5)));
    assert_eq!(newest_action(&records).to_string(), "cluster policy: drain=5s");
    settings.set(PolicyKey::Drain, "9").expect("a time");
    assert!(adopt_policy(&records, NOW, &settings).is_empty(), "the record stays");

    let records = with_app();
    let changes = adopt_policy(&records, NOW, &ClusterPolicy::default());
    assert_eq!(changes.len(), 1, "a cluster without settings has no event");
}
