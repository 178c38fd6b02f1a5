use std::collections::BTreeSet;

use super::*;

/// `GANTRY_TEST_BLESS=1` writes the page again.
#[test]
fn the_manual_s_page_is_made_from_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    if std::env::var_os("GANTRY_TEST_BLESS").is_some() {
        std::fs::write(&path, manual()).expect("written");
    }
    let page = std::fs::read_to_string(&path).expect("the page");
    assert!(page == manual(), "docs/errors.md differs from the table; GANTRY_TEST_BLESS=1 writes the page again");
}

#[test]
fn every_code_has_one_row_and_both_its_forms_are_parsed() {
    let rows: Vec<&CodeDescription> = all().collect();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "a name is there twice");
    for row in rows {
        assert!(row.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", row.name);
        assert!(!row.name.starts_with("e_"), "{}", row.name);
        assert_eq!(row.code.description().name, row.name);
        for text in [row.name.to_owned(), row.code.to_string(), row.name.to_uppercase(), row.name.replace('_', "-")] {
            assert_eq!(ErrorCode::parse(&text), Some(row.code), "{text}");
        }
        assert!(row.status == 0 || (400..600).contains(&row.status), "{}", row.name);
        for text in [row.meaning, row.cause, row.remedy] {
            assert!(text.ends_with('.') && !text.contains('\n') && text.len() < 400, "{}: {text}", row.name);
            assert!(text.starts_with(|c: char| c.is_uppercase() || c == '`'), "{}: {text}", row.name);
        }
    }
}

#[test]
fn a_misspelled_code_finds_the_right_one() {
    for (text, expected) in [
        ("E_DEPLOY_IN_PROGRES", Some("deploy_in_progress")),
        ("deploy-in-progess", Some("deploy_in_progress")),
        ("E_APP_NOTFOUND", Some("app_not_found")),
        ("disk", Some("disk_full")),
        ("zebra", None),
        ("", None),
    ] {
        assert_eq!(similar(text, all().map(|row| row.name)), expected, "{text}");
        assert_eq!(ErrorCode::parse(text), None, "{text}");
    }
}

#[test]
fn a_code_of_a_newer_server_is_kept() {
    let known: ReceivedCode = serde_json::from_str("\"app_not_found\"").expect("a code");
    assert_eq!(known, ErrorCode::AppNotFound.into());
    assert_eq!((known.known(), known.to_string()), (Some(ErrorCode::AppNotFound), "E_APP_NOT_FOUND".to_owned()));
    let newer: ReceivedCode = serde_json::from_str("\"quota_used_up\"").expect("a code");
    assert_eq!((newer.known(), newer.to_string()), (None, "E_QUOTA_USED_UP".to_owned()));
    assert_eq!(serde_json::to_string(&newer).expect("JSON"), "\"quota_used_up\"");
    assert_eq!(ReceivedCode::default().to_string(), "E_UNKNOWN");
}
