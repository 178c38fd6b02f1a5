//! `gantry explain`: the meaning and remedy of the code of an error, or of a cause that `gantry why` names.

use gantry_api::types::{CauseCode, CauseDescription};
use gantry_error_codes::{CodeDescription, ErrorCode, GROUPS, all, similar};
use serde_json::{Value, json};

use crate::coded::coded;
use crate::exit::{DONE, Exit};
use crate::printer::{self, out};

/// Title of the causes in the list of all codes.
const CAUSES: &str = "Causes that `gantry why` names";

/// The rows of a code. Some names are the code of an error and of a cause.
struct FoundCode {
    error: Option<&'static CodeDescription>,
    cause: Option<&'static CauseDescription>,
}

impl FoundCode {
    fn find(text: &str) -> Self {
        Self { error: ErrorCode::parse(text).map(ErrorCode::description), cause: CauseCode::find(text) }
    }

    fn is_empty(&self) -> bool {
        self.error.is_none() && self.cause.is_none()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = self.error.map(error_lines).unwrap_or_default();
        if let Some(cause) = self.cause {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("{}, a cause that `gantry why` names: {}", cause.name, cause.meaning));
            lines.push(format!("What to do: {}", cause.remedy));
        }
        lines
    }

    /// The entry of the error, with that of the cause as its field `also`; or the entry of the cause alone.
    fn json(&self) -> Value {
        let cause = self.cause.map(cause_entry);
        match (self.error.map(error_entry), cause) {
            (Some(mut error), Some(cause)) => {
                error["also"] = cause;
                error
            }
            (error, cause) => error.or(cause).unwrap_or_default(),
        }
    }
}

pub(crate) fn run(code: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    let Some(text) = code else {
        if json {
            let causes = CauseCode::ALL.iter().map(cause_entry);
            printer::json(&all().map(error_entry).chain(causes).collect::<Vec<Value>>())?;
        } else {
            list();
        }
        return Ok(DONE);
    };
    let found = FoundCode::find(text);
    if found.is_empty() {
        let remedy = suggestion(text);
        return Err(coded(ErrorCode::ErrorCodeUnknown, format!("there is no code {text:?}; {remedy}")));
    }
    if json {
        printer::json(&found.json())?;
        return Ok(DONE);
    }
    for line in found.lines() {
        out!("{line}");
    }
    Ok(DONE)
}

/// The remedy for an unknown code.
fn suggestion(text: &str) -> String {
    let names = all().map(|row| row.name).chain(CauseCode::ALL.iter().map(|row| row.name));
    match similar(text, names) {
        Some(name) => {
            let near = ErrorCode::parse(name).map_or_else(|| name.to_owned(), |code| code.to_string());
            format!("did you mean {near}?")
        }
        None => "`gantry explain` lists all codes".to_owned(),
    }
}

fn error_lines(row: &CodeDescription) -> Vec<String> {
    let CodeDescription { code, name, status, meaning, cause, remedy } = row;
    let mut lines =
        vec![format!("{code}: {meaning}"), String::new(), format!("Why: {cause}"), format!("What to do: {remedy}")];
    if *status != 0 {
        lines.push(format!("In the API: code {name}, HTTP status {status}."));
    }
    lines
}

fn list() {
    for group in GROUPS {
        let rows: Vec<(String, &str)> = group.rows.iter().map(|row| (row.code.to_string(), row.meaning)).collect();
        list_group(group.title, &rows);
    }
    let rows: Vec<(String, &str)> = CauseCode::ALL.iter().map(|row| (row.name.to_owned(), row.meaning)).collect();
    list_group(CAUSES, &rows);
}

fn list_group(title: &str, rows: &[(String, &str)]) {
    out!("{title}");
    let width = rows.iter().map(|(code, _)| code.len()).max().unwrap_or_default();
    for (code, meaning) in rows {
        out!("  {code:<width$}  {meaning}");
    }
}

fn error_entry(row: &CodeDescription) -> Value {
    let CodeDescription { name, status, meaning, cause, remedy, .. } = row;
    json!({
        "kind": "error",
        "code": name,
        "status": Some(status).filter(|status| **status != 0),
        "meaning": meaning,
        "cause": cause,
        "remedy": remedy,
    })
}

fn cause_entry(row: &CauseDescription) -> Value {
    let CauseDescription { name, meaning, remedy, .. } = row;
    json!({ "kind": "cause", "code": name, "meaning": meaning, "remedy": remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explains_every_code_of_an_error_and_of_a_cause() {
        for row in all() {
            let first = FoundCode::find(&row.code.to_string()).lines().remove(0);
            assert_eq!(first, format!("{}: {}", row.code, row.meaning));
        }
        for row in CauseCode::ALL {
            let lines = FoundCode::find(row.name).lines();
            assert!(lines.contains(&format!("{}, a cause that `gantry why` names: {}", row.name, row.meaning)));
            assert!(lines.contains(&format!("What to do: {}", row.remedy)), "{}", row.name);
        }
        assert!(FoundCode::find("moon_rose").is_empty());
    }

    #[test]
    fn a_name_of_an_error_and_of_a_cause_has_both_entries() {
        let both = FoundCode::find("disk_full");
        let lines = both.lines();
        assert!(
            lines[0].starts_with("E_DISK_FULL: ") && lines.iter().any(|line| line.starts_with("disk_full, a cause "))
        );
        let json = both.json();
        assert_eq!((&json["kind"], &json["also"]["kind"]), (&json!("error"), &json!("cause")));
        // The prefix names the error alone.
        assert_eq!(FoundCode::find("E_DISK_FULL").json()["also"], Value::Null);
        assert_eq!(FoundCode::find("checks_fail").json()["kind"], "cause");
    }

    #[test]
    fn suggests_the_form_of_the_code_that_exists() {
        for (text, expected) in [
            ("E_APP_NOTFOUND", "did you mean E_APP_NOT_FOUND?"),
            ("check_fails", "did you mean checks_fail?"),
            ("E_CHECKS_FAIL", "did you mean checks_fail?"),
            ("zebra", "`gantry explain` lists all codes"),
        ] {
            assert_eq!(suggestion(text), expected, "{text}");
        }
    }
}
