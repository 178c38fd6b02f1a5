//! The state of all layers and machines, and its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::{Digest, MachineName};

use crate::further_sources;
use crate::limits::{LAST_RESORT, SILENCE_TIMEOUT, SOURCES_MAX, UPLOADS_MAX};
use crate::member::{LayerReport, LayerSource, Member, WantedLayer};
use crate::spread::Spread;

/// Decides the sources of layers. Each change returns the machines whose grants changed.
#[derive(Debug, Default)]
pub struct Distribution {
    members: BTreeMap<MachineName, Member>,
    spreads: BTreeMap<Digest, Spread>,
    /// Transfers under way from each machine.
    uploads: BTreeMap<MachineName, usize>,
    /// The last ticket of a queue.
    ticket: u64,
    /// The time of the last change.
    now: Duration,
}

impl Distribution {
    /// Takes over a machine's report.
    pub fn report(&mut self, machine: &MachineName, report: LayerReport, now: Duration) -> BTreeSet<MachineName> {
        self.now = self.now.max(now);
        let report = report.bounded();
        let member = self.members.entry(machine.clone()).or_default();
        member.seen = now;
        member.is_silent = false;
        let before = std::mem::replace(&mut member.report, report.clone());
        for digest in before.has.difference(&report.has) {
            self.spread(digest).holders.remove(machine);
        }
        for digest in before.wants.keys().filter(|digest| !report.wants.contains_key(*digest)) {
            self.end(machine, digest);
        }
        for digest in &report.has {
            self.spread(digest).holders.insert(machine.clone());
        }
        for (digest, want) in &report.wants {
            let known = before.wants.get(digest);
            for failed in want.failed.iter().filter(|failed| !known.is_some_and(|want| want.failed.contains(*failed))) {
                self.members.entry(failed.clone()).and_modify(|member| member.faults.add(now));
            }
            self.want(machine, digest, want);
        }
        self.settle()
    }

    /// Takes note that a machine lives. A machine that had fallen silent counts again with its last report.
    pub fn mark_alive(&mut self, machine: &MachineName, now: Duration) -> BTreeSet<MachineName> {
        let Some(member) = self.members.get_mut(machine) else { return BTreeSet::new() };
        member.seen = now;
        if !member.is_silent {
            return BTreeSet::new();
        }
        let report = std::mem::take(&mut member.report);
        self.report(machine, report, now)
    }

    /// Forgets a machine whose connection has ended.
    pub fn forget(&mut self, machine: &MachineName) -> BTreeSet<MachineName> {
        self.withdraw(machine);
        self.members.remove(machine);
        self.settle()
    }

    /// Counts machines as gone that have been silent for [`SILENCE_TIMEOUT`].
    pub fn expire(&mut self, now: Duration) -> BTreeSet<MachineName> {
        self.now = self.now.max(now);
        let is_late = |member: &Member| !member.is_silent && now.saturating_sub(member.seen) > SILENCE_TIMEOUT;
        let late: Vec<MachineName> =
            self.members.iter().filter(|(_, member)| is_late(member)).map(|(name, _)| name.clone()).collect();
        if late.is_empty() {
            return BTreeSet::new();
        }
        for machine in &late {
            self.withdraw(machine);
            self.members.entry(machine.clone()).and_modify(|member| member.is_silent = true);
        }
        self.settle()
    }

    /// The layers that a machine wants, each with its source; none while the machine waits for one.
    #[must_use]
    pub fn grants(&self, machine: &MachineName) -> BTreeMap<Digest, Option<LayerSource>> {
        let Some(member) = self.members.get(machine) else { return BTreeMap::new() };
        let source = |digest: &Digest| self.spreads.get(digest)?.transfers.get(machine).cloned();
        member.report.wants.keys().map(|digest| (digest.clone(), source(digest))).collect()
    }

    /// The further sources of the layers that a machine receives. Such a source has the layer and an upload to spare. The
    /// next change may take the source away again.
    #[must_use]
    pub fn further_sources(&self, machine: &MachineName) -> BTreeMap<Digest, BTreeSet<MachineName>> {
        let Some(member) = self.members.get(machine) else { return BTreeMap::new() };
        let further_sources =
            |digest: &Digest| Some((digest.clone(), self.spreads.get(digest)?.further_sources.get(machine)?.clone()));
        member.report.wants.keys().filter_map(further_sources).collect()
    }

    /// Returns the number of transfers from the servers, and from machines.
    #[must_use]
    pub fn under_way(&self) -> (usize, usize) {
        let all: usize = self.spreads.values().map(|spread| spread.transfers.len()).sum();
        let servers = self.spreads.values().map(Spread::server_transfers).sum();
        (servers, all - servers)
    }

    fn spread(&mut self, digest: &Digest) -> &mut Spread {
        self.spreads.entry(digest.clone()).or_default()
    }

    /// Enters a wanted layer: the transfer under way, or a place in the queue.
    fn want(&mut self, machine: &MachineName, digest: &Digest, want: &WantedLayer) {
        let has_failed = |source: &LayerSource| match source {
            LayerSource::Server => false,
            LayerSource::Machine(source) => want.failed.contains(source),
        };
        let current = self.spread(digest).transfers.get(machine);
        match (current.is_some_and(has_failed), current.is_some()) {
            (true, _) => self.end(machine, digest),
            (false, true) => return,
            (false, false) => {
                // A leader adopts the transfers of the previous leader.
                if let Some(from) = want.from.clone().filter(|from| !has_failed(from)) {
                    self.spread(digest).leave_queue(machine);
                    return self.begin(machine, digest, from);
                }
            }
        }
        let ticket = self.ticket + 1;
        let spread = self.spread(digest);
        if !spread.queue.values().any(|waiting| waiting == machine) {
            spread.queue.insert(ticket, machine.clone());
            self.ticket = ticket;
        }
    }

    fn begin(&mut self, machine: &MachineName, digest: &Digest, source: LayerSource) {
        match &source {
            LayerSource::Server => self.spread(digest).seeds += 1,
            LayerSource::Machine(from) => {
                *self.uploads.entry(from.clone()).or_default() += 1;
                self.members.entry(from.clone()).and_modify(|member| member.sent += 1);
            }
        }
        self.spread(digest).transfers.insert(machine.clone(), source);
    }

    /// Ends a machine's transfer of a layer, or its wait.
    fn end(&mut self, machine: &MachineName, digest: &Digest) {
        let spread = self.spread(digest);
        spread.leave_queue(machine);
        if let Some(LayerSource::Machine(from)) = spread.transfers.remove(machine)
            && let Some(uploads) = self.uploads.get_mut(&from)
        {
            *uploads = uploads.saturating_sub(1);
            if *uploads == 0 {
                self.uploads.remove(&from);
            }
        }
    }

    /// Takes a machine and its wants from all layers.
    fn withdraw(&mut self, machine: &MachineName) {
        let Some(member) = self.members.get(machine) else { return };
        let report = member.report.clone();
        for digest in &report.has {
            self.spread(digest).holders.remove(machine);
        }
        for digest in report.wants.keys() {
            self.end(machine, digest);
        }
    }

    /// Gives sources to waiting machines, as far as there are any.
    fn settle(&mut self) -> BTreeSet<MachineName> {
        self.spreads.retain(|_, spread| !spread.is_over());
        let waiting = self.spreads.iter().filter(|(_, spread)| !spread.queue.is_empty());
        let waiting: Vec<Digest> = waiting.map(|(digest, _)| digest.clone()).collect();
        let mut granted = BTreeSet::new();
        for digest in waiting {
            self.settle_layer(&digest, &mut granted);
        }
        granted.extend(further_sources::assign(&mut self.spreads, &self.members, &self.uploads, self.now));
        granted
    }

    fn settle_layer(&mut self, digest: &Digest, granted: &mut BTreeSet<MachineName>) {
        let tickets: Vec<u64> = self.spread(digest).queue.keys().copied().collect();
        // All machines without a failed source have the same choice.
        let mut others_wait = false;
        for ticket in tickets {
            let Some(machine) = self.spreads.get(digest).and_then(|spread| spread.queue.get(&ticket)).cloned() else {
                continue;
            };
            let want = self.members.get(&machine).and_then(|member| member.report.wants.get(digest));
            let failed = want.map(|want| want.failed.clone()).unwrap_or_default();
            if others_wait && failed.is_empty() {
                continue;
            }
            match self.choose(digest, &machine, &failed) {
                Some(source) => {
                    self.spread(digest).queue.remove(&ticket);
                    self.begin(&machine, digest, source);
                    granted.insert(machine);
                }
                None => others_wait |= failed.is_empty(),
            }
        }
    }

    /// Chooses the source of a layer; none if the machine has to wait.
    fn choose(&self, digest: &Digest, machine: &MachineName, failed: &BTreeSet<MachineName>) -> Option<LayerSource> {
        let spread = self.spreads.get(digest)?;
        if failed.len() < SOURCES_MAX {
            let usable = || spread.holders.iter().filter(|holder| *holder != machine && !failed.contains(*holder));
            let free = usable().filter(|holder| self.uploads_of(holder) < UPLOADS_MAX);
            if let Some(best) = free.min_by_key(|holder| self.rank(holder)) {
                return Some(LayerSource::Machine(best.clone()));
            }
            if usable().next().is_some() {
                return None;
            }
            if spread.needs_seed() {
                return Some(LayerSource::Server);
            }
            if spread.is_coming(machine, failed) {
                return None;
            }
        }
        (spread.server_transfers() < LAST_RESORT).then_some(LayerSource::Server)
    }

    fn uploads_of(&self, machine: &MachineName) -> usize {
        self.uploads.get(machine).copied().unwrap_or_default()
    }

    /// Rank of a source: machines that failed others come last, and the load is shared.
    fn rank(&self, machine: &MachineName) -> (u64, usize, u64) {
        let counts = |member: &Member| (member.faults.at(self.now), member.sent);
        let (faults, sent) = self.members.get(machine).map(counts).unwrap_or_default();
        (faults, self.uploads_of(machine), sent)
    }
}
