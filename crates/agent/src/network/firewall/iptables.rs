//! Parser of the output of `iptables-save`. A condition that the parser does not know becomes [`Pattern::Unknown`].

use super::packet::{Hook, Protocol, State};
use super::ruleset::{Action, Chain, Pattern, Rule, Table, Test, Tool, Verdict};

/// Parses the output; `command` is the program that changes these rules.
pub(super) fn read(command: &str, text: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_ascii_whitespace();
            let (Some(name), policy) = (words.next(), words.next()) else { continue };
            let tool = Tool::Iptables { command: command.to_owned() };
            chains.push(Chain {
                table: Table { tool, name: table.clone() },
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

fn hook(name: &str) -> Option<Hook> {
    Some(match name {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
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
const GO_ON: [&str; 13] = [
    "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "CT", "NOTRACK", "TRACE", "TOS", "DSCP", "CLASSIFY",
    "CHECKSUM",
];

fn rule(line: &str, words: &[String]) -> Rule {
    let mut rule = Rule { text: line.to_owned(), tests: Vec::new(), action: Action::Nothing };
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
            rule.tests.push(if is_negated { Test::IsNot(patterns) } else { Test::Is(patterns) });
        }
        while words.next_if(|next| !next.starts_with('-') && *next != "!").is_some() {}
        is_negated = false;
    }
    rule
}

fn target(is_goto: bool, name: &str) -> Action {
    match name {
        "ACCEPT" => Action::Verdict(Verdict::Accept),
        "DROP" | "REJECT" => Action::Verdict(Verdict::Drop),
        "RETURN" => Action::Verdict(Verdict::Return),
        "QUEUE" | "NFQUEUE" | "SYNPROXY" | "TPROXY" => Action::Verdict(Verdict::Unknown),
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => Action::Verdict(Verdict::Accept),
        name if GO_ON.contains(&name) => Action::Nothing,
        name if is_goto => Action::Verdict(Verdict::Goto(name.to_owned())),
        name => Action::Verdict(Verdict::Jump(name.to_owned())),
    }
}

/// The condition of an option; `None` if the option is no condition.
fn patterns(option: &str, value: &str) -> Option<Vec<Pattern>> {
    let unknown = || vec![Pattern::Unknown];
    let listed = |read: fn(&str) -> Option<Pattern>| {
        value.split(',').map(|part| read(part).unwrap_or(Pattern::Unknown)).collect::<Vec<_>>()
    };
    Some(match option {
        "-m" | "--match" | "--comment" | "-c" => return None,
        "-i" => vec![Pattern::From(value.to_owned())],
        "-o" => vec![Pattern::To(value.to_owned())],
        "-s" => net(value).map_or_else(unknown, |(net, prefix)| vec![Pattern::Source(net, prefix)]),
        "-d" => net(value).map_or_else(unknown, |(net, prefix)| vec![Pattern::Destination(net, prefix)]),
        "-p" => vec![protocol(value)],
        "--dport" | "--dports" => listed(|part| range(part).map(|(first, last)| Pattern::Port(first, last))),
        "--sport" | "--sports" => listed(|part| range(part).map(|(first, last)| Pattern::SourcePort(first, last))),
        "--ctstate" | "--state" => listed(state),
        "--ctstatus" if value == "DNAT" => vec![Pattern::Never],
        "--dst-type" => listed(kind),
        // Matches only the first packet of a connection.
        "--syn" => vec![Pattern::State(State::New)],
        "--icmp-type" => vec![Pattern::Never],
        _ => unknown(),
    })
}

fn kind(name: &str) -> Option<Pattern> {
    match name {
        "LOCAL" => Some(Pattern::Local),
        "BROADCAST" | "MULTICAST" | "ANYCAST" => Some(Pattern::Never),
        _ => None,
    }
}

fn state(name: &str) -> Option<Pattern> {
    Some(match name {
        "NEW" => Pattern::State(State::New),
        "ESTABLISHED" => Pattern::State(State::Established),
        "RELATED" | "INVALID" | "UNTRACKED" | "SNAT" | "DNAT" => Pattern::Never,
        _ => return None,
    })
}

fn protocol(name: &str) -> Pattern {
    match name {
        "tcp" | "6" => Pattern::Protocol(Protocol::Tcp),
        "udp" | "17" => Pattern::Protocol(Protocol::Udp),
        "all" | "0" => Pattern::Source([0, 0, 0, 0].into(), 0),
        _ => Pattern::Never,
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
