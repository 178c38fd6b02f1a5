//! Properties of the decisions under any order of reports, failures and deaths.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_distribution::{
    Distribution, FURTHER_SOURCES_MAX, LAST_RESORT, LayerReport, LayerSource, SOURCES_MAX, UPLOADS_MAX, WantedLayer,
};
use gantry_model::{Digest, MachineName};
use proptest::prelude::*;

const MACHINES: usize = 6;
const LAYERS: u8 = 2;

fn machine(number: usize) -> MachineName {
    MachineName::parse(&format!("m{number}")).expect("a name")
}

fn layer(number: u8) -> Digest {
    Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
}

#[derive(Debug, Clone)]
enum Event {
    Want(usize, u8),
    Done(usize, u8),
    Fail(usize, u8),
    Drop(usize, u8),
    Die(usize),
    Silence(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let place = || (0..MACHINES, 0..LAYERS);
    prop_oneof![
        4 => place().prop_map(|(m, l)| Event::Want(m, l)),
        4 => place().prop_map(|(m, l)| Event::Done(m, l)),
        2 => place().prop_map(|(m, l)| Event::Fail(m, l)),
        1 => place().prop_map(|(m, l)| Event::Drop(m, l)),
        1 => (0..MACHINES).prop_map(Event::Die),
        1 => (0..MACHINES).prop_map(Event::Silence),
    ]
}

/// Reports of the machines, kept beside the decider.
#[derive(Default)]
struct DistributionModel {
    distribution: Distribution,
    reports: BTreeMap<usize, LayerReport>,
    now: Duration,
}

impl DistributionModel {
    fn grant(&self, number: usize, digest: &Digest) -> Option<LayerSource> {
        self.distribution.grants(&machine(number)).get(digest).cloned().flatten()
    }

    fn report_state(&mut self, number: usize) {
        let report = self.reports.entry(number).or_default().clone();
        self.distribution.report(&machine(number), report, self.now);
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Want(number, layer_number) => {
                let report = self.reports.entry(*number).or_default();
                if !report.has.contains(&layer(*layer_number)) {
                    report.wants.entry(layer(*layer_number)).or_default();
                }
                self.report_state(*number);
            }
            Event::Done(number, done) if self.grant(*number, &layer(*done)).is_some() => {
                let report = self.reports.entry(*number).or_default();
                report.wants.remove(&layer(*done));
                report.has.insert(layer(*done));
                self.report_state(*number);
            }
            Event::Fail(number, layer_number) => {
                if let Some(LayerSource::Machine(source)) = self.grant(*number, &layer(*layer_number)) {
                    let report = self.reports.entry(*number).or_default();
                    report.wants.entry(layer(*layer_number)).or_default().failed.insert(source);
                    self.report_state(*number);
                }
            }
            Event::Drop(number, dropped) => {
                let report = self.reports.entry(*number).or_default();
                report.has.remove(&layer(*dropped));
                report.wants.remove(&layer(*dropped));
                self.report_state(*number);
            }
            Event::Die(number) => {
                self.reports.remove(number);
                self.distribution.forget(&machine(*number));
            }
            Event::Silence(number) => {
                self.now += Duration::from_secs(6);
                let others: Vec<usize> = self.reports.keys().copied().filter(|other| other != number).collect();
                for other in others {
                    self.distribution.mark_alive(&machine(other), self.now);
                }
                self.distribution.expire(self.now);
                self.distribution.mark_alive(&machine(*number), self.now);
            }
            Event::Done(..) => {}
        }
    }

    fn check(&self) {
        let mut uploads: BTreeMap<MachineName, usize> = BTreeMap::new();
        for layer_digest in (0..LAYERS).map(layer) {
            let mut from_servers = 0;
            let (mut waiting, mut receiving) = (Vec::new(), 0);
            for (number, report) in &self.reports {
                let Some(want) = report.wants.get(&layer_digest) else { continue };
                for source in self.check_more(*number, &layer_digest, want) {
                    *uploads.entry(source).or_default() += 1;
                }
                match self.grant(*number, &layer_digest) {
                    None => waiting.push((*number, want.clone())),
                    Some(LayerSource::Server) => {
                        from_servers += 1;
                        receiving += 1;
                    }
                    Some(LayerSource::Machine(source)) => {
                        assert_ne!(source, machine(*number), "its own source");
                        assert!(!want.failed.contains(&source), "a source that failed");
                        *uploads.entry(source).or_default() += 1;
                        receiving += 1;
                    }
                }
            }
            assert!(from_servers <= LAST_RESORT, "{from_servers} transfers from the servers");
            for (number, want) in waiting {
                self.check_wait(number, &layer_digest, &want, receiving);
            }
        }
        assert!(uploads.values().all(|count| *count <= UPLOADS_MAX), "{uploads:?}");
    }

    /// Further sources are other machines that have the layer and did not fail. Returns them.
    fn check_more(&self, number: usize, layer_digest: &Digest, want: &WantedLayer) -> BTreeSet<MachineName> {
        let further_sources =
            self.distribution.further_sources(&machine(number)).remove(layer_digest).unwrap_or_default();
        let first = self.grant(number, layer_digest);
        assert!(
            further_sources.len() <= FURTHER_SOURCES_MAX && (further_sources.is_empty() || first.is_some()),
            "{further_sources:?} beside {first:?}"
        );
        for source in &further_sources {
            let has_layer = |(other, report): (&usize, &LayerReport)| {
                *other != number && machine(*other) == *source && report.has.contains(layer_digest)
            };
            assert!(self.reports.iter().any(has_layer), "{source} has no layer to send");
            assert!(!want.failed.contains(source), "a source that failed");
            assert_ne!(first, Some(LayerSource::Machine(source.clone())), "a source twice");
        }
        further_sources
    }

    /// A machine waits only for a transfer that is under way: of this layer, or from a machine that has the layer.
    fn check_wait(&self, number: usize, layer_digest: &Digest, want: &WantedLayer, receiving: usize) {
        let holder = |(other, report): (&usize, &LayerReport)| {
            (report.has.contains(layer_digest) && *other != number).then(|| machine(*other))
        };
        let holders: BTreeSet<MachineName> = self.reports.iter().filter_map(holder).collect();
        let has_usable = want.failed.len() < SOURCES_MAX && holders.difference(&want.failed).next().is_some();
        assert!(receiving > 0 || has_usable, "m{number} waits for nothing: {:?}", self.distribution);
    }
}

proptest! {
    #[test]
    fn every_wanted_layer_arrives(events in prop::collection::vec(event(), 1..60)) {
        let mut model = DistributionModel::default();
        for event in &events {
            model.apply(event);
            model.check();
        }
        // Every transfer ends: then every machine has what it wants.
        for round in 0.. {
            assert!(round < 100, "still under way: {:?}", model.distribution);
            let wants: Vec<(usize, Digest)> =
                model.reports.iter().flat_map(|(n, report)| report.wants.keys().map(|d| (*n, d.clone()))).collect();
            if wants.is_empty() {
                break;
            }
            for (number, digest) in wants {
                let done = (0..LAYERS).find(|number| layer(*number) == digest).expect("a layer");
                model.apply(&Event::Done(number, done));
                model.check();
            }
        }
        assert_eq!(model.distribution.under_way(), (0, 0));
    }
}
