//! The groups of the commands, in the order in which a newcomer meets them. The program's help and the reference page
//! of the manual list the commands by group.

use clap::Command;

/// Commands of one purpose.
pub(super) struct CommandGroup {
    /// Title of the group.
    pub(super) title: &'static str,
    /// Names of the commands.
    pub(super) commands: &'static [&'static str],
}

/// All groups. Every visible command of the program is in exactly one of them.
pub(super) const GROUPS: [CommandGroup; 10] = [
    CommandGroup { title: "Begin", commands: &["up", "base", "app", "docs", "down"] },
    CommandGroup { title: "See what runs", commands: &["status", "ps", "logs", "why", "explain", "events"] },
    CommandGroup {
        title: "Deploy, besides git push",
        commands: &["config", "rollback", "releases", "deploy", "promote", "abort", "image"],
    },
    CommandGroup { title: "Copies and their data", commands: &["scale", "exec", "run", "volume"] },
    CommandGroup { title: "Requests", commands: &["pause", "resume", "maintenance", "limit"] },
    CommandGroup { title: "Jobs and locks", commands: &["job", "schedule", "queue", "code", "stack", "lock"] },
    CommandGroup {
        title: "Machines and access",
        commands: &["machine", "join", "login", "token", "cluster", "snapshot"],
    },
    CommandGroup { title: "Backups and checks", commands: &["backup", "restore", "check", "store"] },
    CommandGroup { title: "Services one by one", commands: &["server", "agent", "router"] },
    CommandGroup { title: "Shell and manual pages", commands: &["completions", "man"] },
];

/// The template of the program's help: clap's own template, with the commands by group. Clap itself knows one heading
/// for all commands.
pub(super) fn template(command: &Command) -> String {
    let groups: Vec<String> = GROUPS.iter().map(|group| section(command, group)).collect();
    format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}\n\n\
         `gantry COMMAND --help` shows the flags and examples of a command.\n\n{}\n{{options}}{{after-help}}",
        groups.join("\n\n"),
        heading(command, "Options"),
    )
}

fn heading(command: &Command, title: &str) -> String {
    let style = command.get_styles().get_header();
    format!("{style}{title}:{style:#}")
}

/// The heading of a group, and a line for each of its commands.
fn section(command: &Command, group: &CommandGroup) -> String {
    let style = command.get_styles().get_literal();
    let width = GROUPS.iter().flat_map(|group| group.commands).map(|name| name.len()).max().unwrap_or_default();
    let lines = group.commands.iter().filter_map(|name| {
        let about = command.find_subcommand(name)?.get_about()?;
        Some(format!("\n  {style}{name}{style:#}{:pad$}  {about}", "", pad = width - name.len()))
    });
    format!("{}{}", heading(command, group.title), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::help::command;

    #[test]
    fn every_visible_command_is_in_exactly_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|group| group.commands).copied().collect();
        let once: BTreeSet<&str> = grouped.iter().copied().collect();
        assert_eq!(once.len(), grouped.len(), "a command is in two groups");
        let command = command();
        let visible: BTreeSet<&str> =
            command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(Command::get_name).collect();
        assert_eq!(once, visible);
    }

    #[test]
    fn the_help_lists_the_commands_under_the_headings() {
        let mut command = command();
        for help in [command.render_help(), command.render_long_help()].map(|help| help.to_string()) {
            let mut rest = help.as_str();
            for group in &GROUPS {
                rest = rest.split_once(&format!("\n{}:\n", group.title)).unwrap_or_else(|| panic!("{help}")).1;
                for name in group.commands {
                    let about = command.find_subcommand(name).and_then(Command::get_about).expect("a purpose");
                    let (line, after) = rest.split_once('\n').expect("a line");
                    let words = line.strip_prefix(&format!("  {name} ")).unwrap_or_else(|| panic!("{name}\n{help}"));
                    assert_eq!(words.trim(), about.to_string());
                    rest = after;
                }
            }
            assert!(
                rest.contains("\nOptions:\n") && rest.contains("--json") && rest.contains("\n\nExamples:\n"),
                "{help}"
            );
            assert!(!help.contains("\nCommands:\n") && !help.contains("upgrade-check"), "{help}");
        }
    }
}
