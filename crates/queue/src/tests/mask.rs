use proptest::prelude::*;
use serde_json::{Value, json};

use crate::masked;

fn shown(payload: Value) -> Value {
    serde_json::from_str(&masked(payload.to_string().as_bytes()).expect("JSON")).expect("JSON")
}

#[test]
fn masks_values_of_keys_that_look_like_secrets() {
    let payload = json!({
        "url": "https://a.example",
        "api_key": "k1", "API-Key": "k2", "apiKey": "k3",
        "db": {"password": "p", "port": 5432},
        "Authorization": "Bearer x",
        "users": [{"name": "a", "sessionToken": 7}],
        "credentials": {"user": "u", "list": ["v", null]},
        "tokens": ["t1", "t2"],
        "empty_secret": null,
    });
    let expected = json!({
        "url": "https://a.example",
        "api_key": "[masked]", "API-Key": "[masked]", "apiKey": "[masked]",
        "db": {"password": "[masked]", "port": 5432},
        "Authorization": "[masked]",
        "users": [{"name": "a", "sessionToken": "[masked]"}],
        "credentials": {"user": "[masked]", "list": ["[masked]", null]},
        "tokens": ["[masked]", "[masked]"],
        "empty_secret": null,
    });
    assert_eq!(shown(payload), expected);
}

#[test]
fn shows_no_payload_that_is_not_json() {
    for payload in ["password=x", "", "{", "{\"a\":}", "\u{0}"] {
        assert_eq!(masked(payload.as_bytes()), None, "{payload:?}");
    }
    assert_eq!(masked(&[0xff]), None);
    assert_eq!(masked(b"[1, \"two\"]").as_deref(), Some("[1,\"two\"]"));
    let deep = "[".repeat(100_000);
    assert_eq!(masked(deep.as_bytes()), None, "a parser without a limit overflows its stack");
}

proptest! {
    #[test]
    fn never_shows_a_value_below_a_secret_key(secret in "[a-z]{12,20}", depth in 0_usize..4) {
        let mut value = json!(secret);
        for _ in 0..depth {
            value = json!([{ "inner": value }]);
        }
        let text = masked(json!({ "user_password": value }).to_string().as_bytes()).expect("JSON");
        prop_assert!(!text.contains(&secret));
    }

    #[test]
    fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = masked(&bytes);
    }
}
