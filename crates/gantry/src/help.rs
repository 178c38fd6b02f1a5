//! The program's help, which lists the commands by group, and the end of each command's help: examples, and the
//! settings that the command reads. The reference page of the manual and the manual pages come from the same source.

#[cfg(test)]
mod command_lines;
mod examples;
mod groups;
mod man;
#[cfg(test)]
mod reference;

use clap::{Arg, Command, CommandFactory};

use crate::args::Args;
use examples::EXAMPLES;
pub(crate) use man::man_pages;

/// The settings that each command reads, besides its flags.
const LOCAL: &str = "";
const CLIENT: &str = "\
Settings:
  GANTRY_URL, or --url                the server that is asked
  GANTRY_TOKEN, GANTRY_TOKEN_FILE     the token, or the file that holds it; ~/.config/gantry/token by default
  GANTRY_CONFIG, or --config          the settings file; its keys url and token-file are read";
const REGISTRY: &str = "
  GANTRY_REGISTRY_USER,
  GANTRY_REGISTRY_PASSWORD            the login for another registry";
const MACHINE: &str = "\
Settings:
  GANTRY_<FLAG>                       each flag, such as GANTRY_HOST_PORTS for --host-ports
  GANTRY_CONFIG, or --config          the settings file; each of its keys is a flag without dashes";
const SERVICE: &str = "
  GANTRY_LOG=debug                    log more";

/// The command line, with examples and settings at the end of each command's help.
pub(crate) fn command() -> Command {
    with_help(Args::command(), "")
}

/// Adds the end of the help to a command and to its subcommands. `path` is the command's path: `app create`.
fn with_help(mut command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in &names {
        command = command.mut_subcommand(name, |sub| with_help(sub, &joined(path, name)));
    }
    let end = end(&command, path);
    let command = command.mut_args(|arg| named(arg, path)).after_help(end);
    if !path.is_empty() {
        return command;
    }
    let template = groups::template(&command);
    command.help_template(template)
}

/// Position of the flags of every command in a help: after the command's own flags, which count from 0.
const GLOBAL_FLAGS: usize = 900;

/// Describes an argument that is only a name, and moves a flag of every command to the end.
fn named(arg: Arg, path: &str) -> Arg {
    let arg = if arg.is_global_set() { arg.display_order(GLOBAL_FLAGS) } else { arg };
    let group = path.split(' ').next().unwrap_or_default();
    match arg.get_id().as_str() {
        "app" if arg.get_help().is_none() => arg.help("Name of the app"),
        "name" if arg.get_help().is_none() => arg.help(format!("Name of the {group}")),
        _ => arg,
    }
}

/// Path of a subcommand.
fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path} {name}") }
}

/// Examples of a command: its own, and the first example of each subcommand.
fn examples(command: &Command, path: &str) -> Vec<&'static str> {
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let first = subcommands.filter_map(|sub| examples(sub, &joined(path, sub.get_name())).first().copied());
    own_examples(path).into_iter().chain(first).collect()
}

/// Examples of a command without those of its subcommands.
fn own_examples(path: &str) -> Vec<&'static str> {
    EXAMPLES.iter().find(|(of, _)| *of == path).map(|(_, lines)| lines.to_vec()).unwrap_or_default()
}

fn end(command: &Command, path: &str) -> String {
    // The list of all commands is long enough without an example of each.
    let examples = if path.is_empty() { examples::FIRST.to_vec() } else { examples(command, path) };
    let examples = examples.iter().map(|line| format!("\n  {line}")).collect::<String>();
    let settings = settings(command, path);
    let between = if settings.is_empty() { "" } else { "\n\n" };
    format!("Examples:{examples}{between}{settings}")
}

fn settings(command: &Command, path: &str) -> String {
    let has_data = command.get_arguments().any(|arg| arg.get_id() == "data");
    match path {
        "docs" | "explain" | "completions" | "man" | "store" => LOCAL.to_owned(),
        "up" | "server" | "agent" | "router" => format!("{MACHINE}{SERVICE}"),
        _ if has_data => MACHINE.to_owned(),
        "deploy" | "base import" => format!("{CLIENT}{REGISTRY}"),
        _ => CLIENT.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    /// Calls `visit` with each visible command below the program, and its path.
    pub(super) fn for_each_command(command: &Command, path: &str, visit: &mut impl FnMut(&Command, &str)) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = joined(path, sub.get_name());
            visit(sub, &path);
            for_each_command(sub, &path, visit);
        }
    }

    /// The words of a command line that `gantry` itself gets: without quotes, redirections and what follows a pipe.
    pub(super) fn words(line: &str) -> Vec<String> {
        let own = line.split(" | ").find(|part| part.trim_start().starts_with("gantry ")).unwrap_or_default();
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in own.trim().chars() {
            match (c, quote) {
                ('\'' | '"', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (' ', None) => words.push(String::new()),
                (c, _) => words.last_mut().expect("a word").push(c),
            }
        }
        words.into_iter().filter(|word| !word.starts_with(['<', '>'])).collect()
    }

    #[test]
    fn every_help_has_a_purpose_and_examples() {
        for_each_command(&command(), "", &mut |command, path| {
            let mut command = command.clone();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  gantry "), "{path}\n{help}");
            let purpose = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!purpose.is_empty() && !purpose.contains('\n') && purpose.len() <= 110, "{path}: {purpose:?}");
            for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
                assert!(arg.get_help().is_some(), "{path}: {}", arg.get_id());
            }
        });
        let help = command().render_long_help().to_string();
        assert!(help.contains("Examples:\n  gantry up"), "{help}");
    }

    #[test]
    fn every_example_is_a_command_line_of_its_command() {
        let mut left: Vec<&str> = EXAMPLES.iter().map(|(path, _)| *path).collect();
        for_each_command(&command(), "", &mut |command, path| {
            // `gantry server` runs by itself, too.
            if command.has_subcommands() && !command.is_args_conflicts_with_subcommands_set() {
                return;
            }
            left.retain(|of| *of != path);
            for line in own_examples(path) {
                let parsed = super::command().try_get_matches_from(words(line));
                let parsed = parsed.and_then(|matches| Args::from_arg_matches(&matches).map(|_| matches));
                let matches = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                let mut found = String::new();
                let mut matches = &matches;
                while let Some((name, sub)) = matches.subcommand() {
                    (found, matches) = (joined(&found, name), sub);
                }
                assert_eq!(found, path, "{line}");
            }
        });
        assert!(left.is_empty(), "examples of no command: {left:?}");
        for line in examples::FIRST {
            assert!(super::command().try_get_matches_from(words(line)).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_command_names_the_variables_that_it_reads() {
        let help = |words: &[&str]| {
            let mut command = command();
            command.build();
            let found = words.iter().fold(&mut command, |command, word| {
                command.find_subcommand_mut(word).unwrap_or_else(|| panic!("{words:?}"))
            });
            found.render_help().to_string()
        };
        assert!(help(&["deploy"]).contains("GANTRY_REGISTRY_PASSWORD"));
        assert!(help(&["app", "create"]).contains("GANTRY_TOKEN_FILE"));
        assert!(help(&["up"]).contains("GANTRY_LOG") && !help(&["up"]).contains("GANTRY_REGISTRY"));
        assert!(help(&["store", "check"]).contains("GANTRY_<FLAG>"));
        assert!(!help(&["completions"]).contains("Settings:"));
    }
}
