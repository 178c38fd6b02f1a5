use super::*;
use crate::{REVISIONS_KEPT, UploadedCode, check_stack, decided_renames, finish_rename};

fn code(name: &str, image: &str) -> UploadedCode {
    UploadedCode {
        app: shop(),
        name: role_name(name),
        image: digest(image),
        stack: base_name("debian"),
        base: digest("ba"),
        command: vec!["python3".to_owned(), "report.py".to_owned()],
        files: 2,
        size: 100,
    }
}

fn numbers(records: &RecordIndex) -> Vec<u64> {
    let code = records.code(&shop(), &role_name("report")).expect("a code");
    code.revisions.iter().map(|revision| revision.number).collect()
}

#[test]
fn an_upload_adds_a_revision_unless_its_content_is_unchanged() {
    let mut records = with_app();
    for (image, expected) in [("01", vec![1]), ("01", vec![1]), ("02", vec![1, 2]), ("01", vec![1, 2, 3])] {
        let stored = run(&mut records, |actor| actor.upload_code(code("report", image))).expect("stored");
        assert_eq!(numbers(&records), expected);
        assert_eq!(**records.code(&shop(), &role_name("report")).expect("a code"), stored);
    }
    assert_eq!(newest_action(&records).to_string(), "uploaded code report, revision 3");
    assert!(records.has_image("shop", &digest("02")) && !records.has_image("books", &digest("02")));
    for number in 10..10 + REVISIONS_KEPT as u64 {
        run(&mut records, |actor| actor.upload_code(code("report", &number.to_string()))).expect("stored");
    }
    assert_eq!(numbers(&records), (4..4 + REVISIONS_KEPT as u64).collect::<Vec<_>>());
    assert_eq!(run(&mut records, |actor| actor.remove_code(&shop(), &role_name("report"))), Ok(()));
    let again = run(&mut records, |actor| actor.remove_code(&shop(), &role_name("report")));
    assert_eq!(again, Err(Refusal::CodeNotFound { app: shop(), code: role_name("report") }));
}

#[test]
fn an_upload_names_an_app_a_free_name_and_the_base_as_it_is() {
    let mut records = released(&[push_of("a")]);
    put(&mut records, StoreRecord::Base(base_record("debian")));
    let refused = |records: &RecordIndex, code| alice(records).upload_code(code).expect_err("refused");
    let (role, app) = (role_name("web"), shop());
    assert_eq!(refused(&records, code("web", "01")), Refusal::CodeIsRole { app, role });
    let other = UploadedCode { app: AppName::parse("none").expect("a name"), ..code("report", "01") };
    assert!(matches!(refused(&records, other), Refusal::AppNotFound { .. }));
    let changed = UploadedCode { base: digest("bb"), ..code("report", "01") };
    assert_eq!(refused(&records, changed), Refusal::BaseChanged { base: base_name("debian") });
    run(&mut records, |actor| actor.upload_code(code("report", "01"))).expect("stored");
    edit_app(&mut records, |app| app.destroying = true);
    assert!(matches!(refused(&records, code("report", "02")), Refusal::AppBeingDestroyed { .. }));
}

#[test]
fn a_renamed_app_keeps_its_codes() {
    let mut records = with_app();
    run(&mut records, |actor| actor.upload_code(code("report", "01"))).expect("stored");
    let boutique = AppName::parse("boutique").expect("a name");
    run(&mut records, |actor| actor.begin_rename(&shop(), &boutique, None)).expect("begun");
    for rename in decided_renames(&records) {
        finish_rename(&records, NOW, &rename).into_iter().for_each(|change| records.apply(change));
    }
    assert_eq!(records.code(&boutique, &role_name("report")).expect("a code").app, boutique);
}

#[test]
fn a_stack_replaces_only_a_stack() {
    use gantry_model::BaseSource;
    let mut records = with_app();
    let stack = |name: &str| {
        let name = base_name(name);
        move |actor: &Actor<'_>| actor.store_base(name, digest("cd"), String::new(), BaseSource::Stack)
    };
    assert_eq!(
        run(&mut records, |actor| stack("debian")(&actor)),
        Err(Refusal::StackNameTaken { base: base_name("debian") })
    );
    assert!(run(&mut records, |actor| stack("python")(&actor)).expect("made").stack);
    assert_eq!(check_stack(&records, &base_name("python")), Ok(()));
    run(&mut records, |actor| stack("python")(&actor)).expect("made again");
}
