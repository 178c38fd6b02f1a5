//! The walk of a packet through a base chain.

use std::fmt;

use super::packet::Packet;
use super::ruleset::{FirewallRule, RuleAction, RuleChain, Ruleset, Verdict};

/// The policy or rule that certainly drops a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CertainDrop {
    Policy,
    Rule { chain: String, text: String },
}

impl fmt::Display for CertainDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("its policy"),
            Self::Rule { chain, text } => write!(f, "the rule `{text}` of chain {chain}"),
        }
    }
}

/// Maximum depth of jumps; the kernel allows 16.
const DEPTH: usize = 20;

/// Maximum number of rules evaluated for one packet.
const RULES: usize = 100_000;

enum PacketFate {
    Accepted,
    Dropped(CertainDrop),
    /// The calling chain continues.
    Returned,
    /// The packet may be accepted or dropped.
    Unknown,
}

/// Walks the packet through the chain; returns the policy or rule that certainly drops the packet, if any.
pub(super) fn walk(ruleset: &Ruleset, chain: &RuleChain, packet: &Packet) -> Option<CertainDrop> {
    let mut walker = ChainWalker { ruleset, packet, left: RULES };
    match walker.chain(chain, DEPTH) {
        PacketFate::Dropped(drop) => Some(drop),
        PacketFate::Returned if chain.drops => Some(CertainDrop::Policy),
        PacketFate::Returned | PacketFate::Accepted | PacketFate::Unknown => None,
    }
}

struct ChainWalker<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    left: usize,
}

impl ChainWalker<'_> {
    fn chain(&mut self, chain: &RuleChain, depth: usize) -> PacketFate {
        for rule in &chain.rules {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 || depth == 0 {
                return PacketFate::Unknown;
            }
            let (verdict, is_certain) = match self.verdict(rule) {
                Some(found) => found,
                None => continue,
            };
            match self.follow(chain, rule, &verdict, depth) {
                WalkStep::Next => {}
                WalkStep::End(fate) if is_certain => return fate,
                // The rule may drop the packet. If it does not, the next rule decides.
                WalkStep::End(PacketFate::Dropped(_)) => {}
                WalkStep::End(_) => return PacketFate::Unknown,
            }
        }
        PacketFate::Returned
    }

    /// The verdict of a rule for the packet, and whether the verdict is certain; `None` if the rule does not apply.
    fn verdict(&self, rule: &FirewallRule) -> Option<(Verdict, bool)> {
        let is_certain = rule.tests.iter().try_fold(true, |is_certain, test| match test.of(self.packet) {
            Some(true) => Some(is_certain),
            // One false condition decides, even if others are unknown.
            Some(false) => None,
            None => Some(false),
        })?;
        match &rule.action {
            RuleAction::Nothing => None,
            RuleAction::Verdict(verdict) => Some((verdict.clone(), is_certain)),
            RuleAction::Map(choices) => choices.iter().find_map(|(test, verdict)| match test.of(self.packet) {
                Some(true) => Some((verdict.clone(), is_certain)),
                Some(false) => None,
                None => Some((Verdict::Unknown, false)),
            }),
        }
    }

    fn follow(&mut self, chain: &RuleChain, rule: &FirewallRule, verdict: &Verdict, depth: usize) -> WalkStep {
        let (name, goes_back) = match verdict {
            Verdict::Accept => return WalkStep::End(PacketFate::Accepted),
            Verdict::Drop => {
                return WalkStep::End(PacketFate::Dropped(CertainDrop::Rule {
                    chain: chain.name.clone(),
                    text: rule.text.clone(),
                }));
            }
            Verdict::Return => return WalkStep::End(PacketFate::Returned),
            Verdict::Unknown => return WalkStep::End(PacketFate::Unknown),
            Verdict::Jump(name) => (name, true),
            Verdict::Goto(name) => (name, false),
        };
        let Some(next) = self.ruleset.beside(chain, name) else { return WalkStep::End(PacketFate::Unknown) };
        match self.chain(next, depth - 1) {
            PacketFate::Returned if goes_back => WalkStep::Next,
            fate => WalkStep::End(fate),
        }
    }
}

enum WalkStep {
    Next,
    End(PacketFate),
}
