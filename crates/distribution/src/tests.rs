//! Tables of decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::{Digest, MachineName};

use super::*;

fn machine(number: usize) -> MachineName {
    MachineName::parse(&format!("m{number}")).expect("a name")
}

fn layer(number: u8) -> Digest {
    Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wants(layers: &[u8]) -> LayerReport {
    let wants = layers.iter().map(|number| (layer(*number), WantedLayer::default()));
    LayerReport { has: BTreeSet::new(), wants: wants.collect() }
}

fn has(layers: &[u8]) -> LayerReport {
    LayerReport { has: layers.iter().map(|number| layer(*number)).collect(), wants: BTreeMap::new() }
}

fn failed(sources: &[usize]) -> LayerReport {
    let want = WantedLayer { failed: sources.iter().map(|number| machine(*number)).collect(), from: None };
    LayerReport { has: BTreeSet::new(), wants: BTreeMap::from([(layer(1), want)]) }
}

/// The source of layer 1 for a machine, as text.
fn source(distribution: &Distribution, number: usize) -> String {
    match distribution.grants(&machine(number)).get(&layer(1)) {
        None => "unknown".to_owned(),
        Some(None) => "waits".to_owned(),
        Some(Some(LayerSource::Server)) => "server".to_owned(),
        Some(Some(LayerSource::Machine(from))) => from.to_string(),
    }
}

/// Applies reports at second 0, and returns the sources of layer 1 of all machines that reported.
fn sources(reports: &[(usize, LayerReport)]) -> Vec<String> {
    let mut distribution = Distribution::default();
    for (number, report) in reports {
        distribution.report(&machine(*number), report.clone(), at(0));
    }
    let numbers: BTreeSet<usize> = reports.iter().map(|(number, _)| *number).collect();
    numbers.into_iter().map(|number| source(&distribution, number)).collect()
}

#[test]
fn chooses_sources() {
    let want = || wants(&[1]);
    for (what, reports, expected) in [
        ("alone", vec![(1, want())], vec!["server"]),
        (
            "two copies from the servers",
            (1..=4).map(|n| (n, want())).collect(),
            vec!["server", "server", "waits", "waits"],
        ),
        ("a machine has it", vec![(1, has(&[1])), (2, want())], vec!["unknown", "m1"]),
        (
            "a machine sends two at once",
            vec![(1, has(&[1])), (2, want()), (3, want()), (4, want())],
            vec!["unknown", "m1", "m1", "waits"],
        ),
        (
            "the load is shared",
            vec![(1, has(&[1])), (2, has(&[1])), (3, want()), (4, want())],
            vec!["unknown", "unknown", "m1", "m2"],
        ),
        ("another layer", vec![(1, has(&[2])), (2, want())], vec!["unknown", "server"]),
        ("its source failed", vec![(1, has(&[1])), (2, failed(&[1]))], vec!["unknown", "server"]),
        (
            "another source is left",
            vec![(1, has(&[1])), (2, has(&[1])), (3, failed(&[1]))],
            vec!["unknown", "unknown", "m2"],
        ),
        (
            "three sources failed",
            vec![(1, has(&[1])), (2, has(&[1])), (3, has(&[1])), (4, has(&[1])), (5, failed(&[1, 2, 3]))],
            vec!["unknown", "unknown", "unknown", "unknown", "server"],
        ),
        ("what a machine lost", vec![(1, has(&[1])), (1, has(&[])), (2, want())], vec!["unknown", "server"]),
    ] {
        assert_eq!(sources(&reports), expected, "{what}");
    }
}

#[test]
fn a_receiver_is_a_source_once_it_has_the_layer() {
    let mut distribution = Distribution::default();
    for number in 1..=5 {
        distribution.report(&machine(number), wants(&[1]), at(0));
    }
    let changed = distribution.report(&machine(1), has(&[1]), at(1));
    assert_eq!(changed, BTreeSet::from([machine(3), machine(4)]));
    assert_eq!([3, 4, 5].map(|number| source(&distribution, number)), ["m1", "m1", "waits"]);
    let changed = distribution.report(&machine(3), has(&[1]), at(2));
    // The uploads that machines 1 and 3 have to spare are further sources of the other receivers.
    assert_eq!((changed, source(&distribution, 5)), ([2, 4, 5].map(machine).into(), "m3".to_owned()));
    assert_eq!([2, 4, 5].map(|number| further_sources(&distribution, number)), ["m1", "m3", ""]);
    assert_eq!(distribution.under_way(), (1, 2));
}

#[test]
fn a_layer_that_is_both_had_and_wanted_counts_as_had() {
    let mut distribution = Distribution::default();
    for number in 1..=3 {
        distribution.report(&machine(number), wants(&[1]), at(0));
    }
    distribution.forget(&machine(2));
    // The report between the end of the transfer and the end of the want.
    let both = LayerReport { wants: wants(&[1]).wants, ..has(&[1]) };
    distribution.report(&machine(1), both, at(1));
    assert_eq!(source(&distribution, 3), "m1");
    distribution.report(&machine(1), has(&[1]), at(1));
    assert_eq!((source(&distribution, 3), distribution.under_way()), ("m1".to_owned(), (0, 1)));
}

#[test]
fn a_lost_receiver_frees_its_slot() {
    let mut distribution = Distribution::default();
    for number in 1..=3 {
        distribution.report(&machine(number), wants(&[1]), at(0));
    }
    assert_eq!(distribution.forget(&machine(1)), BTreeSet::new(), "the second copy is on its way");
    assert_eq!(distribution.forget(&machine(2)), BTreeSet::from([machine(3)]));
    assert_eq!(source(&distribution, 3), "server");
}

#[test]
fn a_machine_that_failed_is_a_source_like_others_after_a_while() {
    for (later, expected) in [(1, "m2"), (599, "m2"), (600, "m1")] {
        let mut distribution = Distribution::default();
        for number in [1, 2] {
            distribution.report(&machine(number), has(&[1]), at(0));
        }
        distribution.report(&machine(3), failed(&[1]), at(0));
        distribution.report(&machine(4), wants(&[1]), at(later));
        assert_eq!(source(&distribution, 4), expected, "after {later} s");
    }
}

#[test]
fn a_silent_machine_is_no_source_until_it_speaks() {
    let mut distribution = Distribution::default();
    distribution.report(&machine(1), has(&[1]), at(0));
    distribution.mark_alive(&machine(1), at(4));
    assert_eq!(distribution.expire(at(9)), BTreeSet::new());
    distribution.expire(at(10));
    distribution.report(&machine(2), wants(&[1]), at(10));
    assert_eq!(source(&distribution, 2), "server");
    distribution.mark_alive(&machine(1), at(11));
    distribution.report(&machine(3), wants(&[1]), at(11));
    assert_eq!(source(&distribution, 3), "m1");
}

#[test]
fn a_new_leader_adopts_running_transfers() {
    let mut distribution = Distribution::default();
    let from = |source| {
        let want = WantedLayer { failed: BTreeSet::new(), from: Some(source) };
        LayerReport { has: BTreeSet::new(), wants: BTreeMap::from([(layer(1), want)]) }
    };
    distribution.report(&machine(1), from(LayerSource::Server), at(0));
    distribution.report(&machine(2), from(LayerSource::Machine(machine(9))), at(0));
    distribution.report(&machine(3), from(LayerSource::Server), at(0));
    distribution.report(&machine(4), wants(&[1]), at(0));
    assert_eq!([1, 2, 3, 4].map(|number| source(&distribution, number)), ["server", "m9", "server", "waits"]);
}

#[test]
fn a_failed_source_is_chosen_last() {
    let mut distribution = Distribution::default();
    for number in [1, 2] {
        distribution.report(&machine(number), has(&[1]), at(0));
    }
    distribution.report(&machine(3), failed(&[1]), at(0));
    distribution.report(&machine(3), has(&[]), at(1));
    for number in [4, 5] {
        distribution.report(&machine(number), wants(&[1]), at(2));
    }
    assert_eq!([4, 5].map(|number| source(&distribution, number)), ["m2", "m2"]);
}

#[test]
fn forgets_ended_transfers() {
    let mut distribution = Distribution::default();
    distribution.report(&machine(1), wants(&[1, 2]), at(0));
    distribution.report(&machine(2), has(&[1]), at(0));
    distribution.report(&machine(1), has(&[]), at(0));
    distribution.forget(&machine(2));
    distribution.forget(&machine(1));
    let text = format!("{distribution:?}");
    assert!(!text.contains("sha256") && !text.contains("m1"), "{text}");
}

/// The further sources of layer 1 for a machine, as text.
fn further_sources(distribution: &Distribution, number: usize) -> String {
    let further_sources = distribution.further_sources(&machine(number)).remove(&layer(1)).unwrap_or_default();
    further_sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn spare_uploads_are_further_sources() {
    let want = || wants(&[1]);
    for (what, reports, expected) in [
        ("no machine has it", vec![(1, want()), (2, want())], vec!["", ""]),
        ("one machine has it", vec![(1, has(&[1])), (2, want())], vec!["", ""]),
        (
            "three machines have it",
            vec![(1, has(&[1])), (2, has(&[1])), (3, has(&[1])), (4, want())],
            vec!["", "", "", "m2 m3"],
        ),
        (
            "at most two further ones",
            (1..=4).map(|n| (n, has(&[1]))).chain([(5, want())]).collect(),
            vec!["", "", "", "", "m2 m3"],
        ),
        (
            "one to each in turn",
            vec![(1, has(&[1])), (2, has(&[1])), (3, want()), (4, want())],
            vec!["", "", "m2", "m1"],
        ),
        (
            "uploads for first sources alone",
            vec![(1, has(&[1])), (2, want()), (3, want()), (4, want())],
            vec!["", "", "", ""],
        ),
        ("one failed", vec![(1, has(&[1])), (2, has(&[1])), (3, has(&[1])), (4, failed(&[2]))], vec!["", "", "", "m3"]),
        (
            "too many failed",
            (1..=4).map(|n| (n, has(&[1]))).chain([(5, failed(&[1, 2, 3]))]).collect(),
            vec!["", "", "", "", ""],
        ),
    ] {
        let mut distribution = Distribution::default();
        for (number, report) in &reports {
            distribution.report(&machine(*number), report.clone(), at(0));
        }
        let found: Vec<String> = reports.iter().map(|(number, _)| further_sources(&distribution, *number)).collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn a_first_source_takes_the_upload_of_a_further_one() {
    let mut distribution = Distribution::default();
    for number in [1, 2] {
        distribution.report(&machine(number), has(&[1]), at(0));
    }
    for number in 3..=6 {
        distribution.report(&machine(number), wants(&[1]), at(0));
        let with_more: Vec<usize> =
            (3..=number).filter(|number| !further_sources(&distribution, *number).is_empty()).collect();
        // Two machines send two layers each.
        assert_eq!(with_more.len(), (number - 2).min(6 - number), "{with_more:?} after m{number}");
        assert_ne!(source(&distribution, number), "waits");
    }
    // A machine that goes away is removed from the further sources, and the receiver gets the new list.
    let changed = distribution.report(&machine(6), has(&[1]), at(0));
    assert!((3..6).any(|number| changed.contains(&machine(number))), "{changed:?}");
    let told = distribution.forget(&machine(6));
    assert!(
        !told.is_empty() && (3..6).all(|number| !further_sources(&distribution, number).contains("m6")),
        "{told:?}"
    );
}
