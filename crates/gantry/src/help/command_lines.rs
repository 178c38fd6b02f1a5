//! Tests of the command lines that remedies and the manual name.

use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::ErrorKind;
use gantry_api::types::CauseCode;
use gantry_error_codes::all;

use super::command;
use super::tests::words;

/// The command lines in backticks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|code| code.starts_with("gantry ") && !code.starts_with("gantry COMMAND"))
}

/// Returns clap's error for a command line. Words in capitals stand for values, so a wrong value is no error.
fn error(command: &mut Command, line: &str) -> Option<ErrorKind> {
    let parsed = command.try_get_matches_from_mut(words(&line.to_lowercase()));
    let is_error = |kind: &ErrorKind| {
        !matches!(kind, ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::DisplayHelp)
    };
    parsed.err().map(|error| error.kind()).filter(is_error)
}

/// Reports whether an error is only that arguments are missing: the text names the command, and no command line.
fn is_only_short(kind: ErrorKind) -> bool {
    use ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand};
    matches!(kind, DisplayHelpOnMissingArgumentOrSubcommand | MissingRequiredArgument | MissingSubcommand)
}

/// The README and every page of the manual.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = [root.join("docs"), root.join("docs/howto")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
    let files = entries.map(|entry| entry.expect("a file").path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain([root.join("README.md")]).collect()
}

/// The lines of a page in its code blocks, and its other text.
fn code_and_text(page: &str) -> (Vec<&str>, String) {
    let (mut code, mut text, mut is_code) = (Vec::new(), String::new(), false);
    for line in page.lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            code.push(line.strip_prefix("$ ").unwrap_or(line));
        } else {
            text.push_str(line);
            text.push(' ');
        }
    }
    (code, text)
}

#[test]
fn remedies_name_whole_command_lines() {
    let errors = all().map(|row| (row.name, row.remedy));
    let causes = CauseCode::ALL.iter().map(|row| (row.name, row.remedy));
    let (mut command, mut count) = (command(), 0);
    for (name, remedy) in errors.chain(causes) {
        for line in named(remedy) {
            assert_eq!(error(&mut command, line), None, "{name}: {line}");
            count += 1;
        }
    }
    assert!(count > 50, "{count} command lines");
}

#[test]
fn the_manual_names_commands_and_flags_that_exist() {
    let (mut command, mut count) = (command(), 0);
    for path in pages() {
        let page = std::fs::read_to_string(&path).expect("a page");
        let (code, text) = code_and_text(&page);
        for line in code.into_iter().filter(|line| line.starts_with("gantry ")) {
            let line = line.split(" #").next().unwrap_or_default().trim_end();
            assert_eq!(error(&mut command, line), None, "{}: {line}", path.display());
            count += 1;
        }
        for line in named(&text) {
            let found = error(&mut command, line).filter(|kind| !is_only_short(*kind));
            assert_eq!(found, None, "{}: {line}", path.display());
            count += 1;
        }
    }
    assert!(count > 200, "{count} command lines");
}

#[test]
fn a_command_line_that_is_not_whole_is_found() {
    let mut command = command();
    for line in ["gantry logs", "gantry config set APP", "gantry deploy APP", "gantry queue"] {
        let found = error(&mut command, line);
        assert!(found.is_some_and(is_only_short), "{line}: {found:?}");
    }
    for line in ["gantry log APP", "gantry logs APP --tail", "gantry app create NAME --image REF"] {
        let found = error(&mut command, line);
        assert!(found.is_some_and(|kind| !is_only_short(kind)), "{line}: {found:?}");
    }
    for line in ["gantry logs APP", "gantry scale APP ROLE=COUNT --wait", "gantry up --help", "gantry ps | head"] {
        assert_eq!(error(&mut command, line), None, "{line}");
    }
}
