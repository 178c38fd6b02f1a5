//! `Procfile` parser: a role per line, as `name: command line`.

use std::collections::BTreeMap;

use gantry_model::RoleName;
use gantry_model::role::{Role, RoleCommand};

use crate::roles::{SettingError, check_command};

/// Reason why a `Procfile` cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ProcfileError {
    #[error("no role; write for example `web: bin/server` at line {line}")]
    NoColon { line: usize },
    #[error("{error} at line {line}")]
    Setting { error: SettingError, line: usize },
    #[error("role {name} is there twice at line {line}")]
    Twice { name: RoleName, line: usize },
    #[error("it names no role; write for example `web: bin/server`")]
    NoRole,
}

/// Parses the file.
///
/// # Errors
/// [`ProcfileError`].
pub(crate) fn parse(text: &str) -> Result<BTreeMap<RoleName, Role>, ProcfileError> {
    let mut roles = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |error| ProcfileError::Setting { error, line: number + 1 };
        let (name, command) = line.split_once(':').ok_or(ProcfileError::NoColon { line: number + 1 })?;
        let name = RoleName::parse(name.trim()).map_err(|error| at(error.into()))?;
        check_command(command).map_err(at)?;
        if roles.insert(name.clone(), Role::new(RoleCommand::Shell(command.trim().to_owned()))).is_some() {
            return Err(ProcfileError::Twice { name, line: number + 1 });
        }
    }
    if roles.is_empty() {
        return Err(ProcfileError::NoRole);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_procfile_line_becomes_a_role() {
        let roles = parse("# shop\nweb: node server.js --port $PORT\n\nworker:  work : hard\n").expect("roles");
        let web = &roles[&RoleName::parse("web").expect("a name")];
        assert_eq!(web.command, RoleCommand::Shell("node server.js --port $PORT".into()));
        assert_eq!(roles.len(), 2);
        for (bad, expected) in
            [("", "names no role"), ("web", "line 1"), ("web: a\nweb: b", "twice at line 2"), ("web:", "empty")]
        {
            assert!(parse(bad).expect_err(bad).to_string().contains(expected), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop_oneof!["\\PC{0,200}", "([a-z0-9._-]{0,9} ?:? ?[ -~]{0,20}\n){0,6}"]) {
            let _ = parse(&text);
        }
    }
}
