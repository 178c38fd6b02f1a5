//! Parser of the output of `nft -j list ruleset`. A condition that the parser does not know becomes
//! [`PacketPattern::Unknown`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::packet::{ConnectionState, NetfilterHook, PacketProtocol};
use super::ruleset::{
    FirewallRule, FirewallTool, PacketPattern, RuleAction, RuleChain, RuleTable, RuleTest, Ruleset, Verdict,
};

/// Named sets by family, table and name. Their patterns are parsed on use.
type Sets<'a> = BTreeMap<(String, String, String), &'a Value>;

/// Parses the output. Skips the tables of `iptables` if `iptables-save` was read as well, because nft does not show the
/// conditions of these rules.
pub(super) fn read(text: &str, without_iptables: bool) -> Ruleset {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let objects: Vec<&Value> = answer["nftables"].as_array().into_iter().flatten().collect();
    let mut sets = Sets::new();
    for kind in ["set", "map"] {
        for set in objects.iter().filter_map(|object| object.get(kind)) {
            sets.insert((word(&set["family"]), word(&set["table"]), word(&set["name"])), set);
        }
    }
    let mut chains: Vec<RuleChain> =
        objects.iter().filter_map(|object| object.get("chain")).filter_map(chain).collect();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let (table, name) = (table(rule), word(&rule["chain"]));
        if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == name) {
            chain.rules.push(self::rule(rule, &sets));
        }
    }
    if without_iptables {
        chains.retain(|chain| !is_of_iptables(chain));
    }
    Ruleset { chains }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn table(value: &Value) -> RuleTable {
    RuleTable { tool: FirewallTool::Nft { family: word(&value["family"]) }, name: word(&value["table"]) }
}

fn chain(value: &Value) -> Option<RuleChain> {
    let family = word(&value["family"]);
    if family != "ip" && family != "inet" {
        return None;
    }
    let hook = match value["hook"].as_str() {
        Some("prerouting") => Some(NetfilterHook::Prerouting),
        Some("input") => Some(NetfilterHook::Input),
        Some("forward") => Some(NetfilterHook::Forward),
        Some("output") => Some(NetfilterHook::Output),
        Some("postrouting") => Some(NetfilterHook::Postrouting),
        _ => None,
    };
    let drops = value["policy"] == "drop";
    Some(RuleChain { table: table(value), name: word(&value["name"]), hook, drops, rules: Vec::new() })
}

/// The table names that iptables uses.
const OF_IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

fn is_of_iptables(chain: &RuleChain) -> bool {
    let is_ip = matches!(&chain.table.tool, FirewallTool::Nft { family } if family == "ip");
    is_ip && OF_IPTABLES.contains(&chain.table.name.as_str())
}

fn rule(value: &Value, sets: &Sets<'_>) -> FirewallRule {
    let mut rule =
        FirewallRule { text: format!("handle {}", value["handle"]), tests: Vec::new(), action: RuleAction::Nothing };
    let place = (word(&value["family"]), word(&value["table"]));
    for statement in value["expr"].as_array().into_iter().flatten() {
        let Some((kind, inner)) = statement.as_object().and_then(|object| object.iter().next()) else { continue };
        match kind.as_str() {
            "match" => {
                rule.tests.extend(protocol_of(&inner["left"]));
                rule.tests.push(test(inner, &place, sets));
            }
            "vmap" => rule.action = map(inner, &place, sets),
            "counter" | "log" | "comment" | "mangle" | "notrack" | "set" | "ct helper" | "ct timeout" | "flow" => {}
            "masquerade" | "snat" | "dnat" | "redirect" => rule.action = RuleAction::Verdict(Verdict::Accept),
            _ => match verdict(kind, inner) {
                Some(Verdict::Unknown) | None => {
                    // An unknown condition or target.
                    rule.tests.push(RuleTest::Is(vec![PacketPattern::Unknown]));
                    if rule.action == RuleAction::Nothing && kind == "xt" && inner["type"] == "target" {
                        rule.action = RuleAction::Verdict(Verdict::Unknown);
                    }
                }
                Some(verdict) => rule.action = RuleAction::Verdict(verdict),
            },
        }
    }
    rule
}

fn verdict(kind: &str, inner: &Value) -> Option<Verdict> {
    Some(match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(word(&inner["target"])),
        "goto" => Verdict::Goto(word(&inner["target"])),
        "queue" => Verdict::Unknown,
        _ => return None,
    })
}

/// The protocol test in a payload match: `tcp dport 53` also tests the protocol.
fn protocol_of(left: &Value) -> Option<RuleTest> {
    let protocol = match left.pointer("/payload/protocol")?.as_str()? {
        "tcp" => PacketProtocol::Tcp,
        "udp" => PacketProtocol::Udp,
        _ => return None,
    };
    Some(RuleTest::Is(vec![PacketPattern::Protocol(protocol)]))
}

fn test(value: &Value, place: &(String, String), sets: &Sets<'_>) -> RuleTest {
    let patterns = patterns(&value["left"], &value["right"], place, sets);
    match value["op"].as_str() {
        Some("==" | "in") => RuleTest::Is(patterns),
        Some("!=") => RuleTest::IsNot(patterns),
        _ => RuleTest::Is(vec![PacketPattern::Unknown]),
    }
}

fn map(value: &Value, place: &(String, String), sets: &Sets<'_>) -> RuleAction {
    let data = &value["data"];
    let elements = match data.as_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => named(name, place, sets).map(|map| &map["elem"]),
        None => data.get("set"),
    };
    let Some(elements) = elements.and_then(Value::as_array) else { return RuleAction::Verdict(Verdict::Unknown) };
    let choice = |element: &Value| {
        let verdict = element[1].as_object().and_then(|object| object.iter().next());
        let verdict = verdict.and_then(|(kind, inner)| self::verdict(kind, inner)).unwrap_or(Verdict::Unknown);
        (RuleTest::Is(patterns(&value["key"], &element[0], place, sets)), verdict)
    };
    RuleAction::Map(elements.iter().map(choice).collect())
}

fn named<'a>(name: &str, (family, table): &(String, String), sets: &Sets<'a>) -> Option<&'a Value> {
    sets.get(&(family.clone(), table.clone(), name.to_owned())).copied()
}

/// The patterns of a match: the left side tested against every value of the right side.
fn patterns(left: &Value, right: &Value, place: &(String, String), sets: &Sets<'_>) -> Vec<PacketPattern> {
    let values: Vec<&Value> = match right {
        Value::Array(values) => values.iter().collect(),
        Value::Object(object) if object.contains_key("set") => object["set"].as_array().into_iter().flatten().collect(),
        Value::String(name) if name.starts_with('@') => {
            let Some(set) = named(&name[1..], place, sets) else { return vec![PacketPattern::Unknown] };
            set["elem"].as_array().into_iter().flatten().collect()
        }
        value => vec![value],
    };
    // An element with a counter or a timeout is wrapped in an object.
    values.into_iter().map(|value| pattern(left, value.pointer("/elem/val").unwrap_or(value))).collect()
}

fn pattern(left: &Value, right: &Value) -> PacketPattern {
    let meta = left.pointer("/meta/key").and_then(Value::as_str);
    let payload = (left.pointer("/payload/protocol"), left.pointer("/payload/field"));
    let payload = (payload.0.and_then(Value::as_str), payload.1.and_then(Value::as_str));
    let text = right.as_str();
    match (meta, payload) {
        (Some("iifname" | "iif"), _) => {
            text.map_or(PacketPattern::Unknown, |name| PacketPattern::From(name.to_owned()))
        }
        (Some("oifname" | "oif"), _) => text.map_or(PacketPattern::Unknown, |name| PacketPattern::To(name.to_owned())),
        (Some("l4proto"), _) => protocol(right),
        (Some("nfproto"), _) => match text {
            Some("ipv4") => PacketPattern::Source([0, 0, 0, 0].into(), 0),
            Some("ipv6") => PacketPattern::Never,
            _ => PacketPattern::Unknown,
        },
        (None, (Some("ip"), Some("saddr"))) => {
            net(right).map_or(PacketPattern::Unknown, |(net, length)| PacketPattern::Source(net, length))
        }
        (None, (Some("ip"), Some("daddr"))) => {
            net(right).map_or(PacketPattern::Unknown, |(net, length)| PacketPattern::Destination(net, length))
        }
        (None, (Some("ip"), Some("protocol"))) => protocol(right),
        (None, (Some("tcp" | "udp" | "th"), Some("dport"))) => {
            range(right).map_or(PacketPattern::Unknown, |(first, last)| PacketPattern::Port(first, last))
        }
        (None, (Some("tcp" | "udp" | "th"), Some("sport"))) => {
            range(right).map_or(PacketPattern::Unknown, |(first, last)| PacketPattern::SourcePort(first, last))
        }
        (None, (Some("ip6" | "icmp" | "icmpv6" | "sctp" | "dccp" | "ah" | "esp"), _)) => PacketPattern::Never,
        _ => other(left, text),
    }
}

fn other(left: &Value, text: Option<&str>) -> PacketPattern {
    let connection = left.pointer("/ct/key").and_then(Value::as_str);
    let fib = left.pointer("/fib/result").and_then(Value::as_str);
    match (connection, fib, text) {
        (Some("state"), _, Some("new")) => PacketPattern::State(ConnectionState::New),
        (Some("state"), _, Some("established")) => PacketPattern::State(ConnectionState::Established),
        (Some("state"), _, Some(_)) | (Some("status"), _, Some("dnat")) => PacketPattern::Never,
        (_, Some("type"), Some("local")) if left.pointer("/fib/flags") == Some(&Value::from("daddr")) => {
            PacketPattern::Local
        }
        _ => PacketPattern::Unknown,
    }
}

fn protocol(value: &Value) -> PacketPattern {
    match (value.as_str(), value.as_u64()) {
        (Some("tcp"), _) | (_, Some(6)) => PacketPattern::Protocol(PacketProtocol::Tcp),
        (Some("udp"), _) | (_, Some(17)) => PacketPattern::Protocol(PacketProtocol::Udp),
        (Some(_), _) | (_, Some(_)) => PacketPattern::Never,
        (None, None) => PacketPattern::Unknown,
    }
}

fn net(value: &Value) -> Option<(std::net::Ipv4Addr, u8)> {
    match value.as_str() {
        Some(text) => Some((text.parse().ok()?, 32)),
        None => {
            let prefix = value.get("prefix")?;
            Some((prefix["addr"].as_str()?.parse().ok()?, u8::try_from(prefix["len"].as_u64()?).ok()?))
        }
    }
}

fn range(value: &Value) -> Option<(u16, u16)> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    match value.get("range") {
        Some(range) => Some((port(&range[0])?, port(&range[1])?)),
        None => port(value).map(|port| (port, port)),
    }
}
