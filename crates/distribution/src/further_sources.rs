//! Further sources of transfers that are under way.
//!
//! A machine that sends fewer than [`UPLOADS_MAX`] layers has uploads to spare. The spare uploads go to the receivers with
//! the fewest sources, and go back as soon as a waiting machine needs its first source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::{Digest, MachineName};

use crate::limits::{FURTHER_SOURCES_MAX, SOURCES_MAX, UPLOADS_MAX};
use crate::member::{LayerSource, Member};
use crate::spread::Spread;

/// Uploads of all machines, further ones included.
struct Uploads(BTreeMap<MachineName, usize>);

impl Uploads {
    fn of(&self, machine: &MachineName) -> usize {
        self.0.get(machine).copied().unwrap_or_default()
    }

    fn has_spare(&self, machine: &MachineName) -> bool {
        self.of(machine) < UPLOADS_MAX
    }

    /// Takes a spare upload of a machine. Returns whether there was one.
    fn take(&mut self, machine: &MachineName) -> bool {
        let has_spare = self.has_spare(machine);
        if has_spare {
            *self.0.entry(machine.clone()).or_default() += 1;
        }
        has_spare
    }
}

/// The machines that a receiver cannot use as further sources of a layer.
struct Excluded<'a> {
    first: Option<&'a LayerSource>,
    failed: Option<&'a BTreeSet<MachineName>>,
}

impl<'a> Excluded<'a> {
    fn of(
        members: &'a BTreeMap<MachineName, Member>,
        spread: &'a Spread,
        digest: &Digest,
        machine: &MachineName,
    ) -> Self {
        let want = members.get(machine).and_then(|member| member.report.wants.get(digest));
        Self { first: spread.transfers.get(machine), failed: want.map(|want| &want.failed) }
    }

    /// Returns whether the receiver is to get further sources at all.
    fn allows_any(&self) -> bool {
        self.first.is_some() && self.failed.is_none_or(|failed| failed.len() < SOURCES_MAX)
    }

    fn allows(&self, source: &MachineName) -> bool {
        let is_first = matches!(self.first, Some(LayerSource::Machine(first)) if first == source);
        !is_first && !self.failed.is_some_and(|failed| failed.contains(source))
    }
}

/// Settles the further sources of all transfers. Returns the receivers whose sources changed. `uploads` has the uploads
/// to machines whose first source is the machine.
pub(crate) fn assign(
    spreads: &mut BTreeMap<Digest, Spread>,
    members: &BTreeMap<MachineName, Member>,
    uploads: &BTreeMap<MachineName, usize>,
    now: Duration,
) -> BTreeSet<MachineName> {
    let mut uploads = Uploads(uploads.clone());
    let mut changed = BTreeSet::new();
    let before: Vec<_> = spreads.values_mut().map(|spread| std::mem::take(&mut spread.further_sources)).collect();
    for ((digest, spread), before) in spreads.iter_mut().zip(&before) {
        spread.further_sources = still_valid(digest, spread, before, members, &mut uploads);
    }
    for ((digest, spread), before) in spreads.iter_mut().zip(before) {
        assign_uploads(digest, spread, members, &mut uploads, now);
        let receivers: BTreeSet<&MachineName> = before.keys().chain(spread.further_sources.keys()).collect();
        let differs = |receiver: &&&MachineName| before.get(**receiver) != spread.further_sources.get(**receiver);
        changed.extend(receivers.iter().filter(differs).map(|receiver| (*receiver).clone()));
    }
    changed
}

/// The further sources that stay.
fn still_valid(
    digest: &Digest,
    spread: &Spread,
    before: &BTreeMap<MachineName, BTreeSet<MachineName>>,
    members: &BTreeMap<MachineName, Member>,
    uploads: &mut Uploads,
) -> BTreeMap<MachineName, BTreeSet<MachineName>> {
    let mut further_sources = BTreeMap::new();
    for (receiver, sources) in before {
        let excluded = Excluded::of(members, spread, digest, receiver);
        if !excluded.allows_any() {
            continue;
        }
        let mut stays =
            |source: &&MachineName| spread.holders.contains(*source) && excluded.allows(source) && uploads.take(source);
        let kept: BTreeSet<MachineName> = sources.iter().filter(&mut stays).cloned().collect();
        if !kept.is_empty() {
            further_sources.insert(receiver.clone(), kept);
        }
    }
    further_sources
}

/// Gives the spare uploads of a layer's holders to its receivers, one to each in turn.
fn assign_uploads(
    digest: &Digest,
    spread: &mut Spread,
    members: &BTreeMap<MachineName, Member>,
    uploads: &mut Uploads,
    now: Duration,
) {
    if spread.transfers.is_empty() {
        return;
    }
    let faults = |machine: &MachineName| members.get(machine).map(|member| member.faults.at(now)).unwrap_or_default();
    let rank = |machine: &MachineName, uploads: &Uploads| (faults(machine), uploads.of(machine), machine.clone());
    let counted = &*uploads;
    let mut free: BTreeSet<(u64, usize, MachineName)> =
        spread.holders.iter().filter(|holder| counted.has_spare(holder)).map(|holder| rank(holder, counted)).collect();
    let receivers: Vec<MachineName> = spread.transfers.keys().cloned().collect();
    for round in 0..FURTHER_SOURCES_MAX {
        for receiver in &receivers {
            if free.is_empty() {
                return;
            }
            let excluded = Excluded::of(members, spread, digest, receiver);
            let known = spread.further_sources.get(receiver);
            if known.map_or(0, BTreeSet::len) > round || !excluded.allows_any() {
                continue;
            }
            let is_new = |source: &MachineName| {
                source != receiver && excluded.allows(source) && !known.is_some_and(|known| known.contains(source))
            };
            let Some(best) = free.iter().find(|(_, _, source)| is_new(source)).cloned() else { continue };
            free.remove(&best);
            let source = best.2;
            uploads.take(&source);
            if uploads.has_spare(&source) {
                free.insert(rank(&source, uploads));
            }
            spread.further_sources.entry(receiver.clone()).or_default().insert(source);
        }
    }
}
