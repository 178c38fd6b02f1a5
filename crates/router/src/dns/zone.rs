//! Answers from the routing table. Pure.

use std::net::Ipv4Addr;
use std::str::FromStr;

use gantry_model::{AppName, RoleName, RoutingTable};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// The zone of the resolver.
const ZONE: &str = "gantry.internal.";

/// Time to live of an answer in seconds; short, because instances come and go.
const TTL: u32 = 1;

/// Result of looking up a question in the table alone.
pub(crate) enum LocalAnswer {
    Answer(Vec<u8>),
    /// The message is not a question.
    Invalid,
    Foreign,
}

pub(crate) fn local_answer(table: &RoutingTable, bytes: &[u8], size_max: usize) -> LocalAnswer {
    let Ok(question) = Message::from_vec(bytes) else {
        return LocalAnswer::Invalid;
    };
    // A message may have only one question (RFC 9619).
    let ([query], Ok(zone)) = (question.queries.as_slice(), Name::from_str(ZONE)) else {
        return LocalAnswer::Invalid;
    };
    if question.metadata.message_type != MessageType::Query {
        return LocalAnswer::Invalid;
    }
    if !zone.zone_of(query.name()) {
        return LocalAnswer::Foreign;
    }
    let mut answer = own(&question, table, &zone);
    let whole = answer.to_vec().unwrap_or_default();
    if whole.len() <= size_max {
        return LocalAnswer::Answer(whole);
    }
    // The answer is too long for a datagram: the resolver asks again over TCP.
    answer.answers.clear();
    answer.metadata.truncation = true;
    LocalAnswer::Answer(answer.to_vec().unwrap_or_default())
}

/// Makes an answer without records.
pub(super) fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.clone());
    reply
}

/// Answers from the table. For a known name without an address of the requested kind, the answer is empty. Some
/// resolvers take `NXDOMAIN` for AAAA to mean that the whole name does not exist.
fn own(question: &Message, table: &RoutingTable, zone: &Name) -> Message {
    let Some(query) = question.queries.first() else {
        return reply(question, ResponseCode::FormErr);
    };
    let Some(addresses) = addresses(table, &query.name().to_string()) else {
        let mut reply = reply(question, ResponseCode::NXDomain);
        reply.add_authority(authority(zone));
        return reply;
    };
    let mut reply = reply(question, ResponseCode::NoError);
    if query.query_type() == RecordType::A && !addresses.is_empty() {
        let records = addresses.iter().map(|ip| Record::from_rdata(query.name().clone(), TTL, RData::A(A(*ip))));
        reply.add_answers(records.collect::<Vec<_>>());
    } else {
        reply.add_authority(authority(zone));
    }
    reply
}

fn authority(zone: &Name) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, TTL);
    Record::from_rdata(zone.clone(), TTL, RData::SOA(soa))
}

/// First label of a name that asks for every instance. No role has this name, because role names have no underscore.
const ALL: &str = "_all.";

/// Returns the addresses for a name; none if the name does not exist.
///
/// An answer names one instance, chosen at random. Clients that sort several addresses by RFC 6724, as `getaddrinfo`
/// does, would all take the same instance of a subnet.
fn addresses(table: &RoutingTable, name: &str) -> Option<Vec<Ipv4Addr>> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(ZONE)?.trim_end_matches('.');
    if let Some(name) = name.strip_prefix(ALL) {
        return instances(table, name);
    }
    let all = instances(table, name)?;
    Some(if all.is_empty() { all } else { vec![all[rand::random_range(0..all.len())]] })
}

/// Returns the instances behind `app` or `role.app`. An app's own name means its web role, or else the role with the
/// app's name, or else all roles.
fn instances(table: &RoutingTable, name: &str) -> Option<Vec<Ipv4Addr>> {
    let labels: Vec<&str> = name.split('.').collect();
    match labels.as_slice() {
        [app] => {
            let app = AppName::parse(app).ok()?;
            let roles = table.names.get(&app)?;
            let chosen = roles
                .iter()
                .find(|(role, _)| role.is_web())
                .or_else(|| roles.iter().find(|(role, _)| role.as_str() == app.as_str()));
            Some(match chosen {
                Some((_, addresses)) => addresses.clone(),
                None => roles.values().flatten().copied().collect(),
            })
        }
        [role, app] => {
            let roles = table.names.get(&AppName::parse(app).ok()?)?;
            // A role without a ready instance still has a name.
            Some(roles.get(&RoleName::parse(role).ok()?).cloned().unwrap_or_default())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use std::collections::BTreeMap;

    fn table() -> RoutingTable {
        let name = |text: &str| RoleName::parse(text).expect("a name");
        let shop = BTreeMap::from([
            (name("web"), vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]),
            (name("worker"), vec![Ipv4Addr::new(10, 0, 0, 4)]),
        ]);
        let redis = BTreeMap::from([(name("server"), vec![Ipv4Addr::new(10, 0, 0, 5)])]);
        let app = |text: &str| AppName::parse(text).expect("a name");
        RoutingTable { names: BTreeMap::from([(app("shop"), shop), (app("redis"), redis)]), ..RoutingTable::default() }
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
        own(&question, &table(), &Name::from_str(ZONE).expect("a zone"))
    }

    #[test]
    fn resolves_apps_and_roles() {
        assert_eq!(ask("shop.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(ask("_all.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(ask("_ALL.web.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(ask("worker.SHOP.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(ask("redis.gantry.internal.", RecordType::A).answers.len(), 1);
        let none = ask("shop.gantry.internal.", RecordType::AAAA);
        assert_eq!(
            (none.metadata.response_code, none.answers.len(), none.authorities.len()),
            (ResponseCode::NoError, 0, 1)
        );
        let idle = ask("cron.shop.gantry.internal.", RecordType::A);
        assert_eq!((idle.metadata.response_code, idle.answers.len()), (ResponseCode::NoError, 0));
        for unknown in [
            "ghost.gantry.internal.",
            "_all.gantry.internal.",
            "_all._all.shop.gantry.internal.",
            "a.b.shop.gantry.internal.",
            "gantry.internal.",
        ] {
            assert_eq!(ask(unknown, RecordType::A).metadata.response_code, ResponseCode::NXDomain, "{unknown}");
        }
    }

    #[test]
    fn spreads_answers_over_all_copies() {
        let first = |_| ask("shop.gantry.internal.", RecordType::A).answers[0].data.to_string();
        let answers: Vec<String> = (0..200).map(first).collect();
        for copy in ["10.0.0.2", "10.0.0.3"] {
            let share = answers.iter().filter(|answer| *answer == copy).count();
            assert!((50..=150).contains(&share), "{copy} has {share} of 200");
        }
    }
}
