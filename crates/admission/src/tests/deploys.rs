use gantry_model::deploy::DeployOrder;

use super::*;
use crate::rollback_target;

#[test]
fn deploys_are_numbered_and_named_after_their_actor() {
    let mut records = released(&[push_of("a")]);
    for (number, hold) in [(2, false), (3, true)] {
        let started = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), hold));
        assert_eq!(started, Ok(DeployNumber(number)));
        let deploy = &records.deploys[&shop()][&DeployNumber(number)];
        assert_eq!((deploy.by.as_str(), deploy.hold, deploy.created), ("alice", hold, NOW));
        assert_eq!(deploy.state, DeployState::Queued);
        assert_eq!(records.apps[&shop()].last_deploy, number);
    }
    let refused = run(&mut records, |actor| actor.start_deploy(&app_name("ghost"), push_of("b"), false));
    assert_eq!(refused, Err(Refusal::AppNotFound { app: app_name("ghost") }));
}

#[test]
fn a_second_rollback_goes_to_an_older_release() {
    let pushes = [push_of("a"), push_of("b"), push_of("c")];
    let target = |more: &[DeployCause]| {
        let records = released(&[&pushes[..], more].concat());
        rollback_target(&records, &shop(), None).map(|number| number.0)
    };
    let none_before = |number| Err(Refusal::NoEarlierRelease { app: shop(), current: ReleaseNumber(number) });
    assert_eq!(target(&[]), Ok(2));
    assert_eq!(target(&[back_to(2)]), Ok(1));
    assert_eq!(target(&[back_to(2), back_to(1)]), none_before(5));
    // A push after the rollbacks starts a new chain.
    assert_eq!(target(&[back_to(1), push_of("d")]), Ok(4));
}

#[test]
fn a_rollback_passes_over_releases_that_never_served() {
    let mut records = released(&[push_of("a"), push_of("b"), push_of("c")]);
    edit_deploy(&mut records, DeployNumber(2), |deploy| deploy.state = DeployState::Reverted);
    assert_eq!(rollback_target(&records, &shop(), None), Ok(ReleaseNumber(1)));
    edit_deploy(&mut records, DeployNumber(1), |deploy| deploy.state = DeployState::Reverted);
    let refused = Refusal::NoEarlierRelease { app: shop(), current: ReleaseNumber(3) };
    assert_eq!(rollback_target(&records, &shop(), None), Err(refused));
}

#[test]
fn a_rollback_goes_to_the_release_that_is_named() {
    let mut records = released(&[push_of("a"), push_of("b")]);
    edit_deploy(&mut records, DeployNumber(1), |deploy| deploy.state = DeployState::Reverted);
    assert_eq!(rollback_target(&records, &shop(), Some(ReleaseNumber(1))), Ok(ReleaseNumber(1)));
    let missing = Refusal::ReleaseNotFound { app: shop(), release: ReleaseNumber(7) };
    assert_eq!(rollback_target(&records, &shop(), Some(ReleaseNumber(7))), Err(missing));
    assert_eq!(rollback_target(&with_app(), &shop(), None), Err(Refusal::NoRelease { app: shop() }));
}

#[test]
fn refuses_orders_to_a_deploy_in_another_state() {
    let no_held = || Refusal::NoHeldDeploy { app: shop() };
    let none = || Refusal::NoDeployInProgress { app: shop() };
    use DeployState::*;
    for (state, hold, promote, abort) in [
        (Queued, false, false, true),
        (Queued, true, false, true),
        (Building, true, true, true),
        (Verifying, false, false, true),
        (Held, true, true, true),
        (Draining, true, true, true),
        (Reverting, true, true, false),
        (Reverting, false, false, false),
        (Done, true, false, false),
        (Reverted, true, false, false),
        (Superseded, true, false, false),
    ] {
        let mut records = released(&[push_of("a")]);
        let started = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), hold));
        let number = started.expect("a deploy");
        edit_deploy(&mut records, number, |deploy| deploy.state = state);
        for (order, takes, refusal) in [(DeployOrder::Promote, promote, no_held()), (DeployOrder::Abort, abort, none())]
        {
            let mut records = records.clone();
            let given = run(&mut records, |actor| actor.order(&shop(), order));
            assert_eq!(given, if takes { Ok(number) } else { Err(refusal) }, "{state} {hold} {order:?}");
            let known = records.deploys[&shop()][&number].order;
            assert_eq!(known, takes.then_some(order), "{state} {hold} {order:?}");
            if takes {
                assert_eq!(newest_action(&records), AuditAction::DeployOrdered { deploy: number, order });
            }
        }
    }
}
