//! `gantry explain`: the meaning, cause and remedy of an error code.

use gantry_error_codes::{CodeDescription, ErrorCode, GROUPS, all, similar};
use serde_json::{Value, json};

use crate::coded::coded;
use crate::exit::{DONE, Exit};
use crate::printer::{self, out};

pub(crate) fn run(code: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    let Some(text) = code else {
        if json {
            printer::json(&all().map(entry).collect::<Vec<Value>>())?;
        } else {
            list();
        }
        return Ok(DONE);
    };
    let Some(code) = ErrorCode::parse(text) else {
        let remedy = match similar(text) {
            Some(near) => format!("did you mean {near}?"),
            None => "`gantry explain` lists all codes".to_owned(),
        };
        return Err(coded(ErrorCode::ErrorCodeUnknown, format!("there is no error code {text:?}; {remedy}")));
    };
    let CodeDescription { name, status, meaning, cause, remedy, .. } = code.description();
    if json {
        printer::json(&entry(code.description()))?;
        return Ok(DONE);
    }
    out!("{code}: {meaning}");
    out!("");
    out!("Why: {cause}");
    out!("What to do: {remedy}");
    if *status != 0 {
        out!("In the API: code {name}, HTTP status {status}.");
    }
    Ok(DONE)
}

fn list() {
    for group in GROUPS {
        out!("{}", group.title);
        let width = group.rows.iter().map(|row| row.code.to_string().len()).max().unwrap_or_default();
        for row in group.rows {
            out!("  {:<width$}  {}", row.code.to_string(), row.meaning);
        }
    }
}

fn entry(row: &CodeDescription) -> Value {
    let CodeDescription { name, status, meaning, cause, remedy, .. } = row;
    json!({
        "code": name,
        "status": Some(status).filter(|status| **status != 0),
        "meaning": meaning,
        "cause": cause,
        "remedy": remedy,
    })
}
