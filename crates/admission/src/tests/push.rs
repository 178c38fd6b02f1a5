use gantry_model::deploy::DeployOrder;

use super::*;
use crate::{AncestorQuestion, PushBase, check_history};

/// Judges a push of commit `c` by a client that knew `old`, after the hook's answers.
fn judge(records: &RecordIndex, answers: &[(&str, bool)], old: &str) -> Result<Vec<AncestorQuestion>, Refusal> {
    let answers = answers.iter().map(|(commit, contained)| ((*commit).to_owned(), *contained)).collect();
    let base = PushBase { new: "c".to_owned(), old: old.to_owned(), answers };
    check_history(records, &shop(), &base)
}

/// Asks about commit `b`.
fn question(accepted: bool) -> Result<Vec<AncestorQuestion>, Refusal> {
    Ok(vec![AncestorQuestion { commit: "b".to_owned(), accepted }])
}

/// Returns records in which a push of `b` is being deployed, and its deploy.
fn pushing() -> (RecordIndex, DeployNumber) {
    let mut records = released(&[push_of("a")]);
    let number = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    (records, number)
}

fn in_state(
    records: &RecordIndex,
    number: DeployNumber,
    state: DeployState,
    order: Option<DeployOrder>,
) -> RecordIndex {
    let mut records = records.clone();
    edit_deploy(&mut records, number, |deploy| (deploy.state, deploy.order) = (state, order));
    records
}

#[test]
fn refuses_a_push_that_would_drop_another_commit() {
    let (records, number) = pushing();
    assert_eq!(judge(&records, &[], "a"), question(false));
    assert_eq!(judge(&records, &[("b", true)], "a"), Ok(vec![]));
    let lost =
        Refusal::DeployInProgress { app: shop(), deploy: number, by: "alice".to_owned(), commit: "b".to_owned() };
    assert_eq!(judge(&records, &[("b", false)], "a"), Err(lost.clone()));
    assert_eq!(lost.to_string(), "deploy #2 of alice is under way with b, which this is not built on");
    let hint = "fetch and push again once the deploy is done, or `gantry abort shop` first";
    assert_eq!(lost.hint().as_deref(), Some(hint));
    // The deploy serves, and its push has a verdict or waits for one. Only a client that knows the commit may remove
    // that commit.
    let draining = in_state(&records, number, DeployState::Draining, None);
    assert_eq!(judge(&draining, &[], "a"), question(false));
    assert_eq!(judge(&draining, &[("b", false)], "a"), Err(lost));
    assert_eq!(judge(&draining, &[], "b"), Ok(vec![]));
}

#[test]
fn a_commit_that_did_not_reach_the_branch_blocks_no_push() {
    let (records, number) = pushing();
    for (state, order) in [(DeployState::Reverting, None), (DeployState::Verifying, Some(DeployOrder::Abort))] {
        let records = in_state(&records, number, state, order);
        assert_eq!(judge(&records, &[], "a"), Ok(vec![]), "{state}");
    }
}

#[test]
fn after_an_accepted_push_the_hook_compares_the_branch_again() {
    let (records, number) = pushing();
    for state in [DeployState::Held, DeployState::Done] {
        let accepted = in_state(&records, number, state, None);
        assert_eq!(judge(&accepted, &[], "a"), question(true), "{state}");
        assert_eq!(judge(&accepted, &[("b", true)], "a"), Ok(vec![]), "{state}");
        assert_eq!(judge(&accepted, &[("b", false)], "a"), Ok(vec![]), "the branch never moved to b");
        assert_eq!(judge(&accepted, &[], "b"), Ok(vec![]), "a client that knows the commit may remove it");
    }
}

#[test]
fn a_second_push_of_the_same_commit_needs_no_answer() {
    let (mut records, _) = pushing();
    run(&mut records, |actor| actor.start_deploy(&shop(), push_of("c"), false)).expect("a deploy");
    assert_eq!(judge(&records, &[("b", true)], "a"), Ok(vec![]));
}

#[test]
fn deploys_without_a_push_block_no_push() {
    let mut records = released(&[push_of("a")]);
    run(&mut records, |actor| actor.start_deploy(&shop(), back_to(1), false)).expect("a deploy");
    assert_eq!(judge(&records, &[], "a"), Ok(vec![]));
    assert_eq!(judge(&with_app(), &[], "0"), Ok(vec![]), "the first push");
}
