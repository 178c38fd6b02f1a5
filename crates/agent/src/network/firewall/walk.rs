//! The walk of a packet through a base chain.

use std::fmt;

use super::packet::Packet;
use super::ruleset::{Action, Chain, Rule, Ruleset, Verdict};

/// The policy or rule that certainly drops a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drop {
    Policy,
    Rule { chain: String, text: String },
}

impl fmt::Display for Drop {
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

enum Fate {
    Accepted,
    Dropped(Drop),
    /// The calling chain continues.
    Returned,
    /// The packet may be accepted or dropped.
    Unknown,
}

/// Walks the packet through the chain; returns the policy or rule that certainly drops the packet, if any.
pub(super) fn walk(ruleset: &Ruleset, chain: &Chain, packet: &Packet) -> Option<Drop> {
    let mut walker = Walker { ruleset, packet, left: RULES };
    match walker.chain(chain, DEPTH) {
        Fate::Dropped(drop) => Some(drop),
        Fate::Returned if chain.drops => Some(Drop::Policy),
        Fate::Returned | Fate::Accepted | Fate::Unknown => None,
    }
}

struct Walker<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    left: usize,
}

impl Walker<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> Fate {
        for rule in &chain.rules {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 || depth == 0 {
                return Fate::Unknown;
            }
            let (verdict, is_certain) = match self.verdict(rule) {
                Some(found) => found,
                None => continue,
            };
            match self.follow(chain, rule, &verdict, depth) {
                Step::Next => {}
                Step::End(fate) if is_certain => return fate,
                // The rule may drop the packet. If it does not, the next rule decides.
                Step::End(Fate::Dropped(_)) => {}
                Step::End(_) => return Fate::Unknown,
            }
        }
        Fate::Returned
    }

    /// The verdict of a rule for the packet, and whether the verdict is certain; `None` if the rule does not apply.
    fn verdict(&self, rule: &Rule) -> Option<(Verdict, bool)> {
        let is_certain = rule.tests.iter().try_fold(true, |is_certain, test| match test.of(self.packet) {
            Some(true) => Some(is_certain),
            // One false condition decides, even if others are unknown.
            Some(false) => None,
            None => Some(false),
        })?;
        match &rule.action {
            Action::Nothing => None,
            Action::Verdict(verdict) => Some((verdict.clone(), is_certain)),
            Action::Map(choices) => choices.iter().find_map(|(test, verdict)| match test.of(self.packet) {
                Some(true) => Some((verdict.clone(), is_certain)),
                Some(false) => None,
                None => Some((Verdict::Unknown, false)),
            }),
        }
    }

    fn follow(&mut self, chain: &Chain, rule: &Rule, verdict: &Verdict, depth: usize) -> Step {
        let (name, goes_back) = match verdict {
            Verdict::Accept => return Step::End(Fate::Accepted),
            Verdict::Drop => {
                return Step::End(Fate::Dropped(Drop::Rule { chain: chain.name.clone(), text: rule.text.clone() }));
            }
            Verdict::Return => return Step::End(Fate::Returned),
            Verdict::Unknown => return Step::End(Fate::Unknown),
            Verdict::Jump(name) => (name, true),
            Verdict::Goto(name) => (name, false),
        };
        let Some(next) = self.ruleset.beside(chain, name) else { return Step::End(Fate::Unknown) };
        match self.chain(next, depth - 1) {
            Fate::Returned if goes_back => Step::Next,
            fate => Step::End(fate),
        }
    }
}

enum Step {
    Next,
    End(Fate),
}
