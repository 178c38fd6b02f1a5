//! `Procfile` parser: a role per line, as `name: command line`.

use std::collections::BTreeMap;

use gantry_model::RoleName;
use gantry_model::role::{Role, RoleCommand};

use crate::roles::check_command;

/// Parses the file.
///
/// # Errors
/// A message with the line number.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<RoleName, Role>, String> {
    let mut roles = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |why: String| format!("{why} at line {}", number + 1);
        let (name, command) =
            line.split_once(':').ok_or_else(|| at("no role; write for example `web: bin/server`".to_owned()))?;
        let name = RoleName::parse(name.trim()).map_err(|error| at(error.to_string()))?;
        check_command(command).map_err(at)?;
        if roles.insert(name.clone(), Role::new(RoleCommand::Shell(command.trim().to_owned()))).is_some() {
            return Err(at(format!("role {name} is there twice")));
        }
    }
    if roles.is_empty() {
        return Err("it names no role; write for example `web: bin/server`".to_owned());
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_become_roles() {
        let roles = parse("# shop\nweb: node server.js --port $PORT\n\nworker:  work : hard\n").expect("roles");
        let web = &roles[&RoleName::parse("web").expect("a name")];
        assert_eq!(web.command, RoleCommand::Shell("node server.js --port $PORT".into()));
        assert_eq!(roles.len(), 2);
        for (bad, wanted) in
            [("", "names no role"), ("web", "line 1"), ("web: a\nweb: b", "twice at line 2"), ("web:", "empty")]
        {
            assert!(parse(bad).expect_err(bad).contains(wanted), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop_oneof!["\\PC{0,200}", "([a-z0-9._-]{0,9} ?:? ?[ -~]{0,20}\n){0,6}"]) {
            let _ = parse(&text);
        }
    }
}
