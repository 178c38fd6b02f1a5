//! Bounds of execve(2) on arguments and environment, and checks that name the variable or command over a bound.
//!
//! The kernel refuses larger arguments with "Argument list too long", and names no culprit. Such a release can never
//! start, so Gantry refuses the value when a user sets it.

use std::collections::BTreeMap;

use crate::{Role, RoleCommand};

/// The longest argument or `NAME=value`, in bytes: 32 pages (the kernel's `MAX_ARG_STRLEN`), less the NUL at its end.
pub const STRING_MAX: usize = 32 * 4096 - 1;

/// Bound on the sum of all strings, each with its NUL and its pointer: a quarter of an 8 MiB stack, Linux's default.
pub const TOTAL_MAX: usize = 2 << 20;

/// Share of [`TOTAL_MAX`] for Gantry and the shell: `PORT`, `REVISION`, `GANTRY_…`, `/bin/sh -c`, the program's name.
const RESERVED: usize = 16 << 10;

/// A value that is too long for execve(2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLong {
    /// A single variable is too long.
    #[error(
        "{name} is too long: {bytes} bytes as \"{name}=value\", and a process accepts at most {STRING_MAX}; put the value into a file"
    )]
    Variable {
        /// Name of the variable, shortened if necessary.
        name: String,
        /// Length of `NAME=value`.
        bytes: usize,
    },
    /// A command, or one word of a command, is too long.
    #[error(
        "the command of {role} is too long: {bytes} bytes, and a process accepts at most {STRING_MAX}; put the command into a script"
    )]
    Command {
        /// The role.
        role: String,
        /// Length of the longest word.
        bytes: usize,
    },
    /// A role's environment and command are too long together.
    #[error(
        "the environment and command of {role} are too long: {bytes} bytes in {count} values, and a process accepts at \
         most {}; the longest is {longest} with {longest_bytes} bytes; put its value into a file",
        TOTAL_MAX - RESERVED
    )]
    Total {
        /// The role.
        role: String,
        /// Sum of all lengths, including the NUL and the pointer of each string.
        bytes: usize,
        /// Number of variables and arguments.
        count: usize,
        /// The variable with the longest value.
        longest: String,
        /// Length of the longest value.
        longest_bytes: usize,
    },
}

/// Number of characters of a name that an error shows.
const NAME_SHOWN_MAX: usize = 60;

/// Checks the length of a variable.
///
/// # Errors
/// Returns [`TooLong::Variable`].
pub fn check_variable(name: &str, value: &str) -> Result<(), TooLong> {
    match name.len() + 1 + value.len() {
        bytes if bytes <= STRING_MAX => Ok(()),
        bytes => Err(TooLong::Variable { name: name.chars().take(NAME_SHOWN_MAX).collect(), bytes }),
    }
}

/// Checks that a role can start with the variables of its image, the role itself and the configuration. Later sources
/// override earlier ones in this order.
///
/// # Errors
/// Returns the first value that is too long.
pub fn check_role(name: &str, role: &Role, image: &[String], config: &BTreeMap<String, String>) -> Result<(), TooLong> {
    let of_image = image.iter().filter_map(|pair| pair.split_once('='));
    let mut all: BTreeMap<&str, &str> = of_image.collect();
    all.extend(role.env.iter().chain(config).map(|(name, value)| (name.as_str(), value.as_str())));
    all.iter().try_for_each(|(name, value)| check_variable(name, value))?;
    let words: Vec<&str> = match &role.command {
        RoleCommand::Shell(line) => vec![line],
        RoleCommand::Argv(words) => words.iter().map(String::as_str).collect(),
    };
    // The start of a plain command line prepends "exec ".
    let longest = words.iter().map(|word| word.len() + "exec ".len()).max().unwrap_or_default();
    if longest > STRING_MAX {
        return Err(TooLong::Command { role: name.to_owned(), bytes: longest });
    }
    let pointer = size_of::<usize>();
    let variables = all.iter().map(|(name, value)| name.len() + 1 + value.len());
    let bytes: usize = variables.chain(words.iter().map(|word| word.len())).map(|length| length + 1 + pointer).sum();
    if bytes <= TOTAL_MAX - RESERVED {
        return Ok(());
    }
    let longest = all.iter().max_by_key(|(_, value)| value.len());
    Err(TooLong::Total {
        role: name.to_owned(),
        bytes,
        count: all.len() + words.len(),
        longest: longest.map_or_else(String::new, |(name, _)| name.chars().take(NAME_SHOWN_MAX).collect()),
        longest_bytes: longest.map_or(0, |(_, value)| value.len()),
    })
}

/// The longest name of an environment variable, in bytes.
const NAME_MAX: usize = 200;

/// Reports whether an environment variable may have this name. Programs accept any name without `=`. Shells ignore
/// names with a dot or a hyphen; [`is_shell_name`] tests for those.
#[must_use]
pub fn is_variable_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) && name.len() <= NAME_MAX
}

/// Reports whether shells can read the name, too (POSIX, 2018, section 3.235).
#[must_use]
pub fn is_shell_name(name: &str) -> bool {
    is_variable_name(name) && !name.contains(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(command: RoleCommand, env: &[(&str, usize)]) -> Role {
        let mut role = Role::new(command);
        role.env = env.iter().map(|(name, length)| ((*name).to_owned(), "a".repeat(*length))).collect();
        role
    }

    fn config(count: usize, length: usize) -> BTreeMap<String, String> {
        (0..count).map(|number| (format!("C{number:03}"), "a".repeat(length))).collect()
    }

    #[test]
    fn refuses_a_variable_over_the_bound_by_name() {
        assert_eq!(check_variable("CA", &"a".repeat(131_068)), Ok(()));
        let refused = check_variable("CA", &"a".repeat(131_069)).expect_err("too long");
        assert!(refused.to_string().starts_with("CA is too long: 131072 bytes"), "{refused}");
        // A character may have several bytes.
        assert!(check_variable("CA", &"ü".repeat(65_535)).is_err());
        assert_eq!(check_variable("CA", &"ü".repeat(65_534)), Ok(()));
    }

    #[test]
    fn names_a_long_variable_from_image_role_or_configuration() {
        let shell = || RoleCommand::Shell("bin/server".to_owned());
        let none = BTreeMap::new();
        let name = |result: Result<(), TooLong>| match result {
            Err(TooLong::Variable { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        let long = format!("IMAGE={}", "a".repeat(140_000));
        assert_eq!(name(check_role("web", &role(shell(), &[]), std::slice::from_ref(&long), &none)), "IMAGE");
        assert_eq!(name(check_role("web", &role(shell(), &[("ROLE", 140_000)]), &[], &none)), "ROLE");
        assert_eq!(name(check_role("web", &role(shell(), &[]), &[], &config(1, 140_000))), "C000");
        // The configuration overrides the image's long value with a short one.
        let short = BTreeMap::from([("IMAGE".to_owned(), "x".to_owned())]);
        assert_eq!(check_role("web", &role(shell(), &[]), &[long], &short), Ok(()));
    }

    #[test]
    fn bounds_the_command_and_the_sum_of_all_strings() {
        let none = BTreeMap::new();
        for command in
            [RoleCommand::Shell("x".repeat(140_000)), RoleCommand::Argv(vec!["sh".into(), "x".repeat(140_000)])]
        {
            let refused = check_role("web", &role(command, &[]), &[], &none);
            assert!(matches!(refused, Err(TooLong::Command { .. })), "{refused:?}");
        }
        let role = role(RoleCommand::Shell("x".to_owned()), &[("BIG", 120_000)]);
        assert_eq!(check_role("web", &role, &[], &config(15, 120_000)), Ok(()));
        let refused = check_role("web", &role, &[], &config(17, 120_000)).expect_err("too long").to_string();
        assert!(refused.contains("the environment and command of web are too long: 2160"), "{refused}");
        assert!(refused.contains("in 19 values") && refused.contains("accepts at most 2080768"), "{refused}");
        // Many short strings are over the bound because each adds a pointer.
        let many: BTreeMap<String, String> =
            (0..130_000).map(|number| (format!("{number:06}"), String::new())).collect();
        assert!(check_role("web", &role, &[], &many).is_err());
    }

    #[test]
    fn accepts_dots_in_variable_names_but_not_in_shell_names() {
        for (name, is_variable, is_shell) in [
            ("COLOR", true, true),
            ("_x1", true, true),
            ("discovery.type", true, false),
            ("spring.datasource-url", true, false),
            ("1A", false, false),
            (".a", false, false),
            ("-a", false, false),
            ("", false, false),
            ("A=B", false, false),
            ("A B", false, false),
            ("ü", false, false),
        ] {
            assert_eq!((is_variable_name(name), is_shell_name(name)), (is_variable, is_shell), "{name:?}");
        }
        assert!(!is_variable_name(&"a".repeat(NAME_MAX + 1)));
    }
}
