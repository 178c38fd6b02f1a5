//! Operations and transactions of a request.

use gantry_coordination::{
    Comparison, Condition, Deletion, KeyRange, LeaseId, Operation, Order, Put, RangeQuery, Revision, SortKey, Subject,
    Transaction,
};
use serde_json::Value;

use crate::GatewayError;
use crate::fields::Fields;

/// Deepest transaction within a transaction.
const DEPTH_MAX: usize = 8;

pub(crate) fn range_of(fields: Fields<'_>) -> Result<KeyRange, GatewayError> {
    Ok(KeyRange::of_pair(fields.bytes("key")?, fields.bytes("range_end")?))
}

pub(crate) fn lease_of(fields: Fields<'_>, name: &str) -> Result<Option<LeaseId>, GatewayError> {
    Ok(Some(fields.number(name)?).filter(|id| *id != 0).map(LeaseId))
}

pub(crate) fn range(fields: Fields<'_>) -> Result<RangeQuery, GatewayError> {
    let revision = |name: &str| -> Result<Option<Revision>, GatewayError> {
        Ok(Some(fields.number(name)?).filter(|revision| *revision > 0))
    };
    let sort = match fields.choice("sort_target", &["KEY", "VERSION", "CREATE", "MOD", "VALUE"])? {
        0 => SortKey::Key,
        1 => SortKey::Version,
        2 => SortKey::Created,
        3 => SortKey::Modified,
        _ => SortKey::Value,
    };
    let order = match fields.choice("sort_order", &["NONE", "ASCEND", "DESCEND"])? {
        2 => Order::Descending,
        _ => Order::Ascending,
    };
    Ok(RangeQuery {
        range: range_of(fields)?,
        limit: usize::try_from(fields.number("limit")?).unwrap_or(0),
        revision: revision("revision")?,
        sort,
        order,
        keys_only: fields.flag("keys_only")?,
        count_only: fields.flag("count_only")?,
        modified: (revision("min_mod_revision")?, revision("max_mod_revision")?),
        created: (revision("min_create_revision")?, revision("max_create_revision")?),
    })
}

pub(crate) fn put(fields: Fields<'_>) -> Result<Put, GatewayError> {
    let (value, lease) = (fields.bytes("value")?, lease_of(fields, "lease")?);
    let (keep_value, keep_lease) = (fields.flag("ignore_value")?, fields.flag("ignore_lease")?);
    if keep_value && !value.is_empty() {
        return Err(GatewayError::invalid("etcdserver: value is provided"));
    }
    if keep_lease && lease.is_some() {
        return Err(GatewayError::invalid("etcdserver: lease is provided"));
    }
    let previous = fields.flag("prev_kv")?;
    let put = Put { lease, keep_lease, previous, ..Put::new(fields.bytes("key")?, value) };
    Ok(if keep_value { Put { value: None, ..put } } else { put })
}

pub(crate) fn deletion(fields: Fields<'_>) -> Result<Deletion, GatewayError> {
    Ok(Deletion { range: range_of(fields)?, previous: fields.flag("prev_kv")? })
}

pub(crate) fn transaction(fields: Fields<'_>, depth: usize) -> Result<Transaction, GatewayError> {
    if depth > DEPTH_MAX {
        return Err(GatewayError::invalid("etcdserver: too many operations in txn request"));
    }
    let operations = |name: &str| -> Result<Vec<Operation>, GatewayError> {
        fields.list(name)?.iter().map(|value| operation(value, depth)).collect()
    };
    Ok(Transaction {
        conditions: fields.list("compare")?.iter().map(condition).collect::<Result<_, _>>()?,
        success: operations("success")?,
        failure: operations("failure")?,
    })
}

fn operation(value: &Value, depth: usize) -> Result<Operation, GatewayError> {
    let fields = Fields::of(value)?;
    if fields.has("request_range") {
        return range(fields.message("request_range")?).map(Operation::Range);
    }
    if fields.has("request_put") {
        return put(fields.message("request_put")?).map(Operation::Put);
    }
    if fields.has("request_delete_range") {
        return deletion(fields.message("request_delete_range")?).map(Operation::Delete);
    }
    if fields.has("request_txn") {
        let nested = transaction(fields.message("request_txn")?, depth + 1)?;
        return Ok(Operation::Nested(Box::new(nested)));
    }
    Err(GatewayError::invalid("etcdserver: key not found"))
}

fn condition(value: &Value) -> Result<Condition, GatewayError> {
    let fields = Fields::of(value)?;
    let comparison = match fields.choice("result", &["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])? {
        0 => Comparison::Equal,
        1 => Comparison::Greater,
        2 => Comparison::Less,
        _ => Comparison::NotEqual,
    };
    let subject = match fields.choice("target", &["VERSION", "CREATE", "MOD", "VALUE", "LEASE"])? {
        0 => Subject::Version(fields.number("version")?),
        1 => Subject::Created(fields.number("create_revision")?),
        2 => Subject::Modified(fields.number("mod_revision")?),
        3 => Subject::Value(fields.bytes("value")?),
        _ => Subject::Lease(fields.number("lease")?),
    };
    let range = range_of(fields)?;
    if range.first().is_empty() {
        return Err(GatewayError::invalid("etcdserver: key is not provided"));
    }
    Ok(Condition { range, comparison, subject })
}
