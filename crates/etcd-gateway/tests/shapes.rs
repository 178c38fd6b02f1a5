//! Requests and responses by example.

use std::sync::Arc;

use gantry_coordination::{
    Command, KeyRange, KeyValue, LeaseId, Operation, OperationReply, Order, RangeReply, Transaction,
};
use gantry_etcd_gateway::{Call, GatewayError, parse, response};
use serde_json::json;

fn call(path: &str, body: &str) -> Result<Call, u8> {
    match parse(path, body.as_bytes()) {
        Ok(call) => Ok(call.expect("a known path")),
        Err(GatewayError { code, .. }) => Err(code),
    }
}

#[test]
fn reads_both_spellings_and_numbers_as_strings() {
    for body in [
        r#"{"key":"YQ==","range_end":"Yg==","limit":"9007199254740993","sort_order":"DESCEND","x":1,"revision":null}"#,
        r#"{"key":"YQ==","rangeEnd":"Yg==","limit":9007199254740993,"sortOrder":2}"#,
    ] {
        let Ok(Call::Command(Command::One(Operation::Range(query)))) = call("kv/range", body) else { panic!("{body}") };
        assert_eq!(query.range, KeyRange::Between(b"a".to_vec(), b"b".to_vec()));
        assert_eq!((query.limit, query.order), (9_007_199_254_740_993, Order::Descending));
    }
    assert_eq!(parse("kv/none", b"{").map(|call| call.is_none()), Ok(true));
    assert_eq!(call("lease/revoke", "").map(|call| call == Call::Command(Command::Revoke(LeaseId(0)))), Ok(true));
}

#[test]
fn refuses_the_requests_that_etcd_refuses() {
    for body in [
        "{",
        "[]",
        "1",
        r#"{"key":"YQ"}"#,
        r#"{"key":"_-=="}"#,
        r#"{"key":1}"#,
        r#"{"key":"YQ==","lease":100.0}"#,
        r#"{"key":"YQ==","lease":1e2}"#,
        r#"{"key":"YQ==","prev_kv":1}"#,
        r#"{"key":"YQ==","lease":"x"}"#,
    ] {
        assert_eq!(call("kv/put", body).map(drop), Err(3), "{body}");
    }
    assert_eq!(call("kv/range", r#"{"key":"YQ==","sort_target":"NONE"}"#).map(drop), Err(3));
    assert_eq!(call("kv/txn", r#"{"success":[{}]}"#).map(drop), Err(3));
    let deep = format!("{}{{}}{}", r#"{"success":[{"request_txn":"#.repeat(20), "}]}".repeat(20));
    assert_eq!(call("kv/txn", &deep).map(drop), Err(3));
    let many = r#"{"create_request":{"key":"YQ=="}}"#.repeat(100);
    assert_eq!(call("watch", &many).map(drop), Err(3));
}

#[test]
fn a_body_may_create_several_watches() {
    let body = r#"{"create_request":{"key":"YQ==","filters":["NODELETE",0]}} {"progress_request":{}}
        {"createRequest":{"key":"Yg==","start_revision":"5"}}"#;
    let Ok(Call::Watch(watches)) = call("watch", body) else { panic!("no watch") };
    let starts: Vec<_> = watches.iter().map(|watch| (watch.start, watch.no_put, watch.no_delete)).collect();
    assert_eq!(starts, [(0, true, true), (5, false, false)]);
}

#[test]
fn an_empty_transaction_and_an_empty_value_have_no_fields() {
    assert_eq!(call("kv/txn", ""), Ok(Call::Command(Command::Transact(Transaction::default()))));
    let entry =
        Arc::new(KeyValue { key: b"a".to_vec(), value: Vec::new(), created: 2, modified: 3, version: 1, lease: None });
    let reply = OperationReply::Range(RangeReply { entries: vec![entry], count: 1, more: false });
    let text = response::operation(&reply, 3);
    assert_eq!(text["kvs"], json!([{ "key": "YQ==", "create_revision": "2", "mod_revision": "3", "version": "1" }]));
    assert_eq!((&text["count"], &text["header"]["revision"], text.get("more")), (&json!("1"), &json!("3"), None));
    assert_eq!(response::watch_created(0, 3)["result"].get("watch_id"), None);
}
