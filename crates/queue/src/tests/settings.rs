use crate::{CodeName, ConcurrencyKey, InvalidSettings, JobSettings, QueueName, RetryPolicy};

fn refused(settings: JobSettings) -> String {
    settings.check().expect_err("out of limits").to_string()
}

#[test]
fn the_defaults_are_within_the_limits() {
    let defaults = JobSettings::default();
    assert_eq!(defaults.check(), Ok(()));
    assert_eq!((defaults.timeout, defaults.retries.most, defaults.delay), (3600, 0, 0));
    assert_eq!(serde_json::from_str::<JobSettings>("{}").expect("all defaults"), defaults);
}

#[test]
fn names_the_field_that_is_out_of_its_limits() {
    let key = |name: &str, limit| Some(ConcurrencyKey { name: name.to_owned(), limit });
    let retries = |most, delay| RetryPolicy { most, delay };
    let of = JobSettings::default;
    for (settings, words) in [
        (JobSettings { delay: 604_801, ..of() }, "delay is 604801; choose 0 to 604800"),
        (JobSettings { timeout: 0, ..of() }, "timeout is 0; choose 1 to 86400"),
        (JobSettings { timeout: 86_401, ..of() }, "timeout is 86401"),
        (JobSettings { retries: retries(101, 1), ..of() }, "retries.most is 101"),
        (JobSettings { retries: retries(1, 86_401), ..of() }, "retries.delay is 86401"),
        (JobSettings { expires: Some(0), ..of() }, "expires is 0; choose 1"),
        (JobSettings { expires: Some(600), delay: 600, ..of() }, "expires is 600 s and delay is 600 s"),
        (JobSettings { key: key("", 1), ..of() }, "key.name has 0 bytes"),
        (JobSettings { key: key("a", 0), ..of() }, "key.limit is 0; choose 1"),
        (JobSettings { idempotency: Some("x".repeat(201)), ..of() }, "idempotency has 201 bytes; choose 1 to 200"),
    ] {
        let error = refused(settings);
        assert!(error.contains(words), "{error}");
    }
    let most = JobSettings { delay: 604_800, timeout: 86_400, retries: retries(100, 86_400), ..of() };
    assert_eq!(JobSettings { expires: Some(601), delay: 600, ..of() }.check(), Ok(()));
    assert_eq!(most.check(), Ok::<(), InvalidSettings>(()));
}

#[test]
fn unknown_fields_are_refused() {
    for text in
        [r#"{"priorty":1}"#, r#"{"retries":{"max":1}}"#, r#"{"key":{"name":"a","most":1}}"#, r#"{"timeout":-1}"#]
    {
        assert!(serde_json::from_str::<JobSettings>(text).is_err(), "{text}");
    }
    let key: JobSettings = serde_json::from_str(r#"{"key":{"name":"a"}}"#).expect("a key");
    assert_eq!(key.key.map(|key| key.limit), Some(1));
}

#[test]
fn parses_names_of_queues() {
    let queue: QueueName = "shop/report".parse().expect("a queue");
    assert_eq!(
        (queue.project.as_str(), queue.code.as_str(), queue.to_string().as_str()),
        ("shop", "report", "shop/report")
    );
    for wrong in ["shop", "shop/", "/report", "shop/a/b", "Shop/report", "shop/Report", "shop/-x", ""] {
        let error = wrong.parse::<QueueName>().expect_err(wrong);
        assert!(error.to_string().contains("APP/ROLE"), "{error}");
    }
    assert!("x".repeat(64).parse::<CodeName>().is_err() && "x".repeat(63).parse::<CodeName>().is_ok());
    assert!(serde_json::from_str::<CodeName>("\"a b\"").is_err());
}
