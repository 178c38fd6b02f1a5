use gantry_model::Kind;

use super::*;

fn scale(records: &mut RecordIndex, counts: &[(&str, u32)]) -> Result<(), Refusal> {
    let roles = counts.iter().map(|(role, count)| (role_name(role), *count)).collect();
    run(records, |actor| actor.change_scale(&shop(), roles))
}

#[test]
fn counts_are_kept_by_role() {
    let mut records = released(&[push_of("a")]);
    edit_release(&mut records, |release| {
        release.roles.insert(role_name("worker"), Role::new(RoleCommand::Shell("work".into())));
    });
    assert_eq!(scale(&mut records, &[("web", 3)]), Ok(()));
    assert_eq!(scale(&mut records, &[("worker", 0), ("web", 1000)]), Ok(()));
    let kept = BTreeMap::from([(role_name("web"), 1000), (role_name("worker"), 0)]);
    assert_eq!(records.apps[&shop()].scale, kept);
    assert_eq!(newest_action(&records).to_string(), "scaled web=1000 worker=0");
}

#[test]
fn refuses_invalid_copy_counts() {
    let mut records = released(&[push_of("a")]);
    edit_release(&mut records, |release| {
        let mut data = Role::new(RoleCommand::Shell("db".into()));
        data.volumes.insert("data".to_owned(), "/data".to_owned());
        release.roles.insert(role_name("db"), data);
        release
            .roles
            .insert(role_name("release"), Role { kind: Kind::Job, ..Role::new(RoleCommand::Shell("migrate".into())) });
    });
    let known = vec![role_name("db"), role_name("web")];
    let unknown = |role: &str| Refusal::RoleNotFound { app: shop(), role: role_name(role), known: known.clone() };
    for (counts, expected) in [
        (&[("web", 2), ("ghost", 1)][..], unknown("ghost")),
        (&[("release", 1)], unknown("release")),
        (&[("db", 2)], Refusal::SingleWriter { role: role_name("db") }),
        (&[("web", 1001)], Refusal::TooManyCopies { role: role_name("web"), count: 1001, most: 1000 }),
    ] {
        let before = records.clone();
        assert_eq!(scale(&mut records, counts), Err(expected));
        assert_eq!(records, before);
    }
    assert_eq!(unknown("ghost").hint().as_deref(), Some("the roles are db, web"));
    for count in [0, 1] {
        assert_eq!(scale(&mut records, &[("db", count)]), Ok(()), "one copy is a single writer");
    }
}

#[test]
fn before_the_first_release_any_role_can_be_scaled_up_to_a_limit() {
    let mut records = with_app();
    assert_eq!(scale(&mut records, &[("anything", 2)]), Ok(()));
    let roles: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    let counts: Vec<(&str, u32)> = roles.iter().map(|role| (role.as_str(), 1)).collect();
    assert_eq!(scale(&mut records, &counts), Err(Refusal::TooManyRoles { count: 101, most: 100 }));
    assert_eq!(scale(&mut records, &counts[..99]), Ok(()));
    assert_eq!(scale(&mut records, &[("anything", 3)]), Ok(()), "a known role may change");
}
