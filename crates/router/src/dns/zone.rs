//! Answers from the routing table. Pure.

use std::net::Ipv4Addr;
use std::str::FromStr;

use gantry_model::{AppName, AppNames, MachineName, RoleName, RoutingTable, VirtualAddresses};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, SRV};
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

/// Names and addresses from which the resolver answers.
#[derive(Clone, Copy)]
pub(crate) struct ZoneData<'a> {
    pub(crate) table: &'a RoutingTable,
    /// Virtual addresses of the roles; none without tunnels to other machines.
    pub(crate) services: &'a VirtualAddresses,
    /// The resolver's machine.
    pub(crate) here: &'a MachineName,
}

pub(crate) fn local_answer(data: ZoneData<'_>, bytes: &[u8], size_max: usize) -> LocalAnswer {
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
    let mut answer = own(&question, data, &zone);
    let whole = answer.to_vec().unwrap_or_default();
    if whole.len() <= size_max {
        return LocalAnswer::Answer(whole);
    }
    // The addresses beside the answer may be left out. An answer that is too long all the same is asked for again over
    // TCP.
    answer.additionals.clear();
    let whole = answer.to_vec().unwrap_or_default();
    if whole.len() <= size_max {
        return LocalAnswer::Answer(whole);
    }
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
fn own(question: &Message, data: ZoneData<'_>, zone: &Name) -> Message {
    let Some(query) = question.queries.first() else {
        return reply(question, ResponseCode::FormErr);
    };
    let name = query.name().to_string().to_ascii_lowercase();
    let name = name.strip_suffix(ZONE).unwrap_or_default().trim_end_matches('.');
    if let Some((role, app)) = service_of(name)
        && data.table.names.contains_key(&app)
    {
        let mut reply = reply(question, ResponseCode::NoError);
        if query.query_type() == RecordType::SRV {
            add_services(&mut reply, query.name(), data, &app, &role);
        }
        if reply.answers.is_empty() {
            reply.add_authority(authority(zone));
        }
        return reply;
    }
    let Some(addresses) = addresses(data, name) else {
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

/// Returns the role and app of a service's name, `_role._tcp.app` (RFC 2782).
fn service_of(name: &str) -> Option<(RoleName, AppName)> {
    let (role, app) = name.strip_prefix('_')?.split_once("._tcp.")?;
    Some((RoleName::parse(role).ok()?, AppName::parse(app).ok()?))
}

/// Adds the port of each copy of a role, and the addresses of the copies. A copy has the name `10-0-0-2.role.app`.
fn add_services(reply: &mut Message, owner: &Name, data: ZoneData<'_>, app: &AppName, role: &RoleName) {
    let Some(port) = data.table.names.get(app).and_then(|names| names.ports.get(role)) else { return };
    for address in instances(data, &format!("{role}.{app}")).unwrap_or_default() {
        let Ok(copy) = Name::from_str(&format!("{}.{role}.{app}.{ZONE}", copy_label(address))) else { continue };
        let service = SRV::new(0, 0, *port, copy.clone());
        reply.add_answer(Record::from_rdata(owner.clone(), TTL, RData::SRV(service)));
        reply.add_additional(Record::from_rdata(copy, TTL, RData::A(A(address))));
    }
}

/// First label of the name of a copy.
fn copy_label(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

fn authority(zone: &Name) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, TTL);
    Record::from_rdata(zone.clone(), TTL, RData::SOA(soa))
}

/// First label of a name that asks for every instance. No role has this name, because role names have no underscore.
const ALL: &str = "_all.";

/// Returns the addresses for a name of the zone; none if the name does not exist.
///
/// An answer names one instance, chosen at random. Clients that sort several addresses by RFC 6724, as `getaddrinfo`
/// does, would all take the same instance of a subnet.
fn addresses(data: ZoneData<'_>, name: &str) -> Option<Vec<Ipv4Addr>> {
    if let Some(name) = name.strip_prefix(ALL) {
        return instances(data, name);
    }
    let all = instances(data, name)?;
    Some(if all.is_empty() { all } else { vec![all[rand::random_range(0..all.len())]] })
}

/// Returns the addresses behind `app`, `role.app` or the name of a copy: the instances, if this machine has all that are ready. Addresses of
/// other machines lead nowhere here, so a role with an instance elsewhere, or with none at all, is at its virtual
/// address.
fn instances(data: ZoneData<'_>, name: &str) -> Option<Vec<Ipv4Addr>> {
    let ZoneData { table, services, here } = data;
    let labels: Vec<&str> = name.split('.').collect();
    let of = |app: &AppName, names: &AppNames, role: &RoleName| -> Vec<Ipv4Addr> {
        let Some(all) = names.roles.get(role) else { return Vec::new() };
        let own: Vec<Ipv4Addr> = all.iter().filter_map(|address| address.address_on(here)).collect();
        match services.of_role(app, role) {
            Some(address) if own.is_empty() || own.len() < all.len() => vec![address],
            _ => own,
        }
    };
    match labels.as_slice() {
        [app] => {
            let (app, names) = table.names.get_key_value(&AppName::parse(app).ok()?)?;
            Some(match &names.main {
                Some(role) => of(app, names, role),
                None => names.roles.keys().flat_map(|role| of(app, names, role)).collect(),
            })
        }
        [role, app] => {
            let (app, names) = table.names.get_key_value(&AppName::parse(app).ok()?)?;
            // A role without a ready instance still has a name.
            Some(of(app, names, &RoleName::parse(role).ok()?))
        }
        [copy, role, app] => {
            let copies = instances(data, &format!("{role}.{app}"))?;
            copies.into_iter().find(|address| copy_label(*address) == *copy).map(|address| vec![address])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::MachineAddress;
    use hickory_proto::op::Query;
    use std::collections::BTreeMap;

    fn on(machine: &str, last: u8) -> MachineAddress {
        MachineAddress::new(MachineName::parse(machine).expect("a name"), Ipv4Addr::new(10, 0, 0, last))
    }

    fn table() -> RoutingTable {
        let name = |text: &str| RoleName::parse(text).expect("a name");
        let shop = BTreeMap::from([
            (name("web"), vec![on("m", 2), on("m", 3), on("other", 3)]),
            (name("worker"), vec![on("m", 4)]),
        ]);
        let redis = BTreeMap::from([(name("server"), vec![on("m", 5)])]);
        let ports = BTreeMap::from([(name("web"), 8080), (name("idle"), 7)]);
        let shop = AppNames { main: Some(name("web")), roles: shop, ports };
        let redis = AppNames { roles: redis, ..AppNames::default() };
        let app = |text: &str| AppName::parse(text).expect("a name");
        RoutingTable { names: BTreeMap::from([(app("shop"), shop), (app("redis"), redis)]), ..RoutingTable::default() }
    }

    fn resolved(name: &str, kind: RecordType) -> Message {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
        answer(&question, &VirtualAddresses::default())
    }

    fn answer(question: &Message, services: &VirtualAddresses) -> Message {
        let here = MachineName::parse("m").expect("a name");
        let data = ZoneData { table: &table(), services, here: &here };
        own(question, data, &Name::from_str(ZONE).expect("a zone"))
    }

    #[test]
    fn a_role_with_a_copy_elsewhere_is_at_its_virtual_address() {
        let services = VirtualAddresses::of(&table().names);
        let app = AppName::parse("shop").expect("a name");
        let of_role =
            |role: &str| services.of_role(&app, &RoleName::parse(role).expect("a name")).map(|ip| ip.to_string());
        for (name, expected) in [
            ("shop.gantry.internal.", of_role("web")),
            ("web.shop.gantry.internal.", of_role("web")),
            ("_all.web.shop.gantry.internal.", of_role("web")),
            ("worker.shop.gantry.internal.", Some("10.0.0.4".to_owned())),
            ("redis.gantry.internal.", Some("10.0.0.5".to_owned())),
        ] {
            let mut question = Message::new(7, MessageType::Query, OpCode::Query);
            question.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
            let found: Vec<String> = answer(&question, &services).answers.iter().map(|a| a.data.to_string()).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn resolves_apps_and_roles() {
        assert_eq!(resolved("shop.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(resolved("_all.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(resolved("_ALL.web.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(resolved("worker.SHOP.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(resolved("redis.gantry.internal.", RecordType::A).answers.len(), 1);
        let none = resolved("shop.gantry.internal.", RecordType::AAAA);
        assert_eq!(
            (none.metadata.response_code, none.answers.len(), none.authorities.len()),
            (ResponseCode::NoError, 0, 1)
        );
        let idle = resolved("cron.shop.gantry.internal.", RecordType::A);
        assert_eq!((idle.metadata.response_code, idle.answers.len()), (ResponseCode::NoError, 0));
        for unknown in [
            "ghost.gantry.internal.",
            "_all.gantry.internal.",
            "_all._all.shop.gantry.internal.",
            "a.b.shop.gantry.internal.",
            "gantry.internal.",
        ] {
            assert_eq!(resolved(unknown, RecordType::A).metadata.response_code, ResponseCode::NXDomain, "{unknown}");
        }
    }

    #[test]
    fn services_name_the_port_and_the_address_of_each_copy() {
        let reply = resolved("_WEB._tcp.shop.gantry.internal.", RecordType::SRV);
        let services: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        let expected = [2, 3].map(|copy| format!("0 0 8080 10-0-0-{copy}.web.shop.gantry.internal."));
        assert_eq!(services, expected);
        // Each copy's name leads to the address beside the answer.
        for beside in &reply.additionals {
            let found = resolved(&beside.name.to_string(), RecordType::A);
            assert_eq!(found.answers.iter().map(|record| &record.data).collect::<Vec<_>>(), [&beside.data]);
        }
        assert_eq!(reply.additionals.len(), 2);
        // No copy, no port, no such role, another kind of record.
        for (known, kind) in [
            ("_idle._tcp.shop.gantry.internal.", RecordType::SRV),
            ("_worker._tcp.shop.gantry.internal.", RecordType::SRV),
            ("_cron._tcp.shop.gantry.internal.", RecordType::SRV),
            ("_web._tcp.shop.gantry.internal.", RecordType::A),
            ("web.shop.gantry.internal.", RecordType::SRV),
        ] {
            let empty = resolved(known, kind);
            let found = (empty.metadata.response_code, empty.answers.len(), empty.authorities.len());
            assert_eq!(found, (ResponseCode::NoError, 0, 1), "{known}");
        }
        for unknown in [
            "_web._tcp.ghost.gantry.internal.",
            "_web._udp.shop.gantry.internal.",
            "_tcp.shop.gantry.internal.",
            "10-0-0-4.web.shop.gantry.internal.",
        ] {
            assert_eq!(resolved(unknown, RecordType::SRV).metadata.response_code, ResponseCode::NXDomain, "{unknown}");
        }
    }

    #[test]
    fn a_service_with_a_copy_elsewhere_is_at_its_virtual_address() {
        let services = VirtualAddresses::of(&table().names);
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_str("_web._tcp.shop.gantry.internal.").expect("a name");
        question.add_query(Query::query(name, RecordType::SRV));
        let reply = answer(&question, &services);
        let (app, role) = (AppName::parse("shop").expect("a name"), RoleName::parse("web").expect("a name"));
        let address = services.of_role(&app, &role).expect("an address");
        assert_eq!(reply.additionals.iter().map(|a| a.data.to_string()).collect::<Vec<_>>(), [address.to_string()]);
        assert_eq!(reply.answers.len(), 1);
    }

    #[test]
    fn an_answer_too_long_for_a_datagram_loses_its_addresses_first() {
        let mut table = table();
        let copies = |count: u8| (0..count).map(|copy| on("m", copy)).collect();
        for (count, is_whole) in [(8, true), (40, false)] {
            let shop = table.names.values_mut().find(|names| names.main.is_some()).expect("shop");
            shop.roles.values_mut().for_each(|role| *role = copies(count));
            let mut question = Message::new(7, MessageType::Query, OpCode::Query);
            let name = Name::from_str("_web._tcp.shop.gantry.internal.").expect("a name");
            question.add_query(Query::query(name, RecordType::SRV));
            let here = MachineName::parse("m").expect("a name");
            let data = ZoneData { table: &table, services: &VirtualAddresses::default(), here: &here };
            let LocalAnswer::Answer(reply) = local_answer(data, &question.to_vec().expect("bytes"), 512) else {
                panic!("it is answered")
            };
            let reply = Message::from_vec(&reply).expect("a message");
            assert_eq!((reply.answers.len(), reply.additionals.len()), (if is_whole { 8 } else { 0 }, 0));
            assert_eq!(reply.metadata.truncation, !is_whole);
        }
    }

    #[test]
    fn spreads_answers_over_all_copies() {
        let first = |_| resolved("shop.gantry.internal.", RecordType::A).answers[0].data.to_string();
        let answers: Vec<String> = (0..200).map(first).collect();
        for copy in ["10.0.0.2", "10.0.0.3"] {
            let share = answers.iter().filter(|answer| *answer == copy).count();
            assert!((50..=150).contains(&share), "{copy} has {share} of 200");
        }
    }
}
