//! Parser of the output of `iptables-save`. A condition that the parser does not know becomes [`PacketPattern::Unknown`].

use super::packet::{ConnectionState, NetfilterHook, PacketProtocol};
use super::ruleset::{FirewallRule, FirewallTool, PacketPattern, RuleAction, RuleChain, RuleTable, RuleTest, Verdict};

/// Parses the output; `command` is the program that changes these rules.
pub(super) fn read(command: &str, text: &str) -> Vec<RuleChain> {
    let mut chains: Vec<RuleChain> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_ascii_whitespace();
            let (Some(name), policy) = (words.next(), words.next()) else { continue };
            let tool = FirewallTool::Iptables { command: command.to_owned() };
            chains.push(RuleChain {
                table: RuleTable { tool, name: table.clone() },
                name: name.to_owned(),
                // Only base chains have a policy.
                hook: policy.filter(|policy| *policy != "-").and_then(|_| hook(name)),
                drops: policy == Some("DROP"),
                rules: Vec::new(),
            });
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words = words(rest);
            let Some((name, words)) = words.split_first() else { continue };
            if let Some(chain) = chains.iter_mut().find(|chain| chain.table.name == table && chain.name == *name) {
                chain.rules.push(rule(line, words));
            }
        }
    }
    chains
}

fn hook(name: &str) -> Option<NetfilterHook> {
    Some(match name {
        "PREROUTING" => NetfilterHook::Prerouting,
        "INPUT" => NetfilterHook::Input,
        "FORWARD" => NetfilterHook::Forward,
        "OUTPUT" => NetfilterHook::Output,
        "POSTROUTING" => NetfilterHook::Postrouting,
        _ => return None,
    })
}

/// Splits a line into words; a word with spaces is in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_word, mut is_quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (is_quoted, is_word) = (!is_quoted, true),
            '\\' if is_quoted => word.extend(chars.next()),
            c if c.is_whitespace() && !is_quoted => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

/// Targets after which the next rule follows.
const PASSING_TARGETS: [&str; 13] = [
    "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "CT", "NOTRACK", "TRACE", "TOS", "DSCP", "CLASSIFY",
    "CHECKSUM",
];

fn rule(line: &str, words: &[String]) -> FirewallRule {
    let mut rule = FirewallRule { text: line.to_owned(), tests: Vec::new(), action: RuleAction::Nothing };
    let mut words = words.iter().map(String::as_str).peekable();
    let mut is_negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            is_negated = true;
            continue;
        }
        if matches!(word, "-j" | "-g") {
            rule.action = target(word == "-g", words.next().unwrap_or_default());
            // The remaining words are options of the target.
            break;
        }
        // A module's name is no condition; its options are.
        let value = words.next_if(|next| !next.starts_with('-') && *next != "!").unwrap_or_default();
        if let Some(patterns) = patterns(word, value) {
            rule.tests.push(if is_negated { RuleTest::IsNot(patterns) } else { RuleTest::Is(patterns) });
        }
        while words.next_if(|next| !next.starts_with('-') && *next != "!").is_some() {}
        is_negated = false;
    }
    rule
}

fn target(is_goto: bool, name: &str) -> RuleAction {
    match name {
        "ACCEPT" => RuleAction::Verdict(Verdict::Accept),
        "DROP" | "REJECT" => RuleAction::Verdict(Verdict::Drop),
        "RETURN" => RuleAction::Verdict(Verdict::Return),
        "QUEUE" | "NFQUEUE" | "SYNPROXY" | "TPROXY" => RuleAction::Verdict(Verdict::Unknown),
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => RuleAction::Verdict(Verdict::Accept),
        name if PASSING_TARGETS.contains(&name) => RuleAction::Nothing,
        name if is_goto => RuleAction::Verdict(Verdict::Goto(name.to_owned())),
        name => RuleAction::Verdict(Verdict::Jump(name.to_owned())),
    }
}

/// The condition of an option; `None` if the option is no condition.
fn patterns(option: &str, value: &str) -> Option<Vec<PacketPattern>> {
    let unknown = || vec![PacketPattern::Unknown];
    let listed = |read: fn(&str) -> Option<PacketPattern>| {
        value.split(',').map(|part| read(part).unwrap_or(PacketPattern::Unknown)).collect::<Vec<_>>()
    };
    Some(match option {
        "-m" | "--match" | "--comment" | "-c" => return None,
        "-i" => vec![PacketPattern::From(value.to_owned())],
        "-o" => vec![PacketPattern::To(value.to_owned())],
        "-s" => net(value).map_or_else(unknown, |(net, prefix)| vec![PacketPattern::Source(net, prefix)]),
        "-d" => net(value).map_or_else(unknown, |(net, prefix)| vec![PacketPattern::Destination(net, prefix)]),
        "-p" => vec![protocol(value)],
        "--dport" | "--dports" => listed(|part| range(part).map(|(first, last)| PacketPattern::Port(first, last))),
        "--sport" | "--sports" => {
            listed(|part| range(part).map(|(first, last)| PacketPattern::SourcePort(first, last)))
        }
        "--ctstate" | "--state" => listed(state),
        "--ctstatus" if value == "DNAT" => vec![PacketPattern::Never],
        "--dst-type" => listed(kind),
        // Matches only the first packet of a connection.
        "--syn" => vec![PacketPattern::State(ConnectionState::New)],
        "--icmp-type" => vec![PacketPattern::Never],
        _ => unknown(),
    })
}

fn kind(name: &str) -> Option<PacketPattern> {
    match name {
        "LOCAL" => Some(PacketPattern::Local),
        "BROADCAST" | "MULTICAST" | "ANYCAST" => Some(PacketPattern::Never),
        _ => None,
    }
}

fn state(name: &str) -> Option<PacketPattern> {
    Some(match name {
        "NEW" => PacketPattern::State(ConnectionState::New),
        "ESTABLISHED" => PacketPattern::State(ConnectionState::Established),
        "RELATED" | "INVALID" | "UNTRACKED" | "SNAT" | "DNAT" => PacketPattern::Never,
        _ => return None,
    })
}

fn protocol(name: &str) -> PacketPattern {
    match name {
        "tcp" | "6" => PacketPattern::Protocol(PacketProtocol::Tcp),
        "udp" | "17" => PacketPattern::Protocol(PacketProtocol::Udp),
        "all" | "0" => PacketPattern::Source([0, 0, 0, 0].into(), 0),
        _ => PacketPattern::Never,
    }
}

fn net(text: &str) -> Option<(std::net::Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let first = if first.is_empty() { 0 } else { first.parse().ok()? };
    let last = if last.is_empty() { u16::MAX } else { last.parse().ok()? };
    Some((first, last))
}
