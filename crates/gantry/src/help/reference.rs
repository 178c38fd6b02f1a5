//! Writes `docs/cli.md`, the reference page of the command line, from the same source as the help.
//! GANTRY_TEST_BLESS=1 rewrites the page.

use clap::{Arg, Args as _, Command};

use super::groups::GROUPS;
use crate::args::{Machine, Remote};

const HEAD: &str = "\
# The command line

Every command, its flags, and examples. `gantry COMMAND --help` shows the same text. A test keeps this page equal to the program.

- `--json` prints the API's response, on every command that reads.
- Data goes to standard output, progress and messages to standard error.
- Exit codes: 0 done, 1 failed, 2 wrong usage, 70 timed out. `exec` and `run` end with the exit code of their process.
";

/// The page.
fn page() -> String {
    let command = super::command();
    let remote = Remote::augment_args(Command::new(""));
    let machine = Machine::augment_args(Command::new(""));
    let mut page = HEAD.to_owned();
    page.push_str("\n## Commands by purpose\n\n| purpose | commands |\n|---|---|\n");
    for group in &GROUPS {
        let names: Vec<String> = group.commands.iter().map(|name| format!("`{name}`")).collect();
        page.push_str(&format!("| {} | {} |\n", group.title, names.join(", ")));
    }
    page.push_str("\n## Flags of every command\n\n");
    page.push_str(&flags(remote.get_arguments()));
    page.push_str("\n## Flags of a machine\n\nThe commands that run on a server's machine have these flags: ");
    let of_machine = leaf_commands(&command, "").into_iter().filter(|(_, sub)| has_machine(sub));
    let names: Vec<String> = of_machine.map(|(path, _)| format!("`{path}`")).collect();
    page.push_str(&format!("{}.\n\n", names.join(", ")));
    page.push_str(&flags(machine.get_arguments()));
    for (path, sub) in leaf_commands(&command, "") {
        page.push_str(&entry(&path, sub, &machine));
    }
    page
}

/// Every visible command that runs by itself, with its path.
fn leaf_commands<'a>(command: &'a Command, path: &str) -> Vec<(String, &'a Command)> {
    let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let leaves = visible.flat_map(|sub| {
        let path = super::joined(path, sub.get_name());
        let runs = !sub.has_subcommands() || sub.is_args_conflicts_with_subcommands_set();
        let below = leaf_commands(sub, &path);
        runs.then_some((path, sub)).into_iter().chain(below).collect::<Vec<_>>()
    });
    leaves.collect()
}

fn has_machine(command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == "data")
}

fn entry(path: &str, command: &Command, machine: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let examples = super::own_examples(path).join("\n");
    let own: Vec<&Arg> =
        command.get_arguments().filter(|arg| machine.get_arguments().all(|of| of.get_id() != arg.get_id())).collect();
    let flags = if own.is_empty() { String::new() } else { format!("\n{}", flags(own.into_iter())) };
    let more = if has_machine(command) { "\nAnd the [flags of a machine](#flags-of-a-machine).\n" } else { "" };
    format!("\n## gantry {path}\n\n{about}\n\n```\n{examples}\n```\n{flags}{more}")
}

/// A table of arguments.
fn flags<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut table = "| argument | meaning |\n|---|---|\n".to_owned();
    for arg in arguments {
        let mut meaning = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let default: Vec<String> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if !default.is_empty() && arg.get_action().takes_values() {
            meaning.push_str(&format!("; default `{}`", default.join(" ")));
        }
        if let Some(variable) = arg.get_env() {
            meaning.push_str(&format!("; variable `{}`", variable.to_string_lossy()));
        }
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
        // A bar would end the table's cell.
        table.push_str(&format!("| `{}` | {} |\n", name(arg).replace('|', "\\|"), escaped(&meaning)));
    }
    table
}

/// Escapes what Markdown reads as the end of a cell, or as HTML.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;")
}

/// An argument as it is written: `-n, --lines LINES`, or `APP`.
fn name(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().iter().map(|name| name.to_string());
    let value = values.collect::<Vec<_>>().join(" ");
    let takes = arg.get_action().takes_values();
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    match arg.get_long() {
        Some(long) if takes => format!("{short}--{long} {value}"),
        Some(long) => format!("{short}--{long}"),
        None if arg.is_required_set() => value,
        None => format!("[{value}]"),
    }
}

#[test]
fn the_reference_page_matches_the_program() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = page();
    if std::env::var_os("GANTRY_TEST_BLESS").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    let known = std::fs::read_to_string(&path).expect("docs/cli.md");
    assert!(known == page, "docs/cli.md is old: GANTRY_TEST_BLESS=1 cargo test -p gantry reference");
}
