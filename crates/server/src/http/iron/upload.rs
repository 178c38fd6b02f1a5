//! Uploads of code by clients of IronWorker: `POST codes`, a multipart form with a zip archive.
//!
//! The form has a field `data` (JSON) and a field `file`. The published Python client sends the printed form of the
//! archive's bytes, `b'PK\x03\x04…'`, which is undone.

use std::io::Write;

use gantry_api::{ErrorCode, Problem};
use gantry_build::code;
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::HttpResult;
use super::super::codes::NewCode;
use super::{IronCall, answer};

/// Maximum number of fields of a form.
const FIELDS_MAX: usize = 16;

/// Stacks by the beginning of a runtime's name.
const RUNTIMES: [(&str, &str); 5] =
    [("python", "python"), ("node", "node"), ("ruby", "ruby"), ("go", "tiny"), ("binary", "tiny")];

/// The field `data`.
#[derive(Deserialize)]
struct UploadData {
    name: Option<String>,
    runtime: Option<String>,
    file_name: Option<String>,
    command: Option<String>,
    stack: Option<String>,
    #[serde(flatten)]
    others: std::collections::BTreeMap<String, Value>,
}

/// Fields that change how a code runs, and that this API does not have.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("image", "deploy the image with `gantry deploy APP --image REF`, or run it with `gantry job run --image REF`"),
    ("config", "set the app's configuration with `gantry config set APP NAME=VALUE`"),
    ("env_vars", "set the app's configuration with `gantry config set APP NAME=VALUE`"),
    ("max_concurrency", "limit the queue with `gantry queue limit QUEUE COUNT`"),
];

fn invalid(why: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidCode, why)
}

/// Makes an uploaded archive the current revision of its code.
pub(super) async fn upload(call: &IronCall) -> HttpResult {
    call.may_change()?;
    let kind = call.parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let form = fields(kind, &call.body)?;
    let field = |name: &str| form.iter().find(|(known, _)| *known == name).map(|(_, content)| *content);
    let data = field("data").ok_or_else(|| invalid("the form has no field data"))?;
    let data: UploadData =
        serde_json::from_slice(data).map_err(|error| invalid(format!("the field data is not JSON: {error}")))?;
    let file = field("file").ok_or_else(|| {
        invalid("the form has no field file")
            .hint("an image is no upload: `gantry deploy APP --image REF` brings images")
    })?;
    let new = new_code(call, data)?;
    new.base(&call.server)?;
    let mut archive = tempfile::tempfile_in(call.server.images.scratch())
        .map_err(|error| Problem::internal(format!("cannot keep the upload: {error}")))?;
    archive.write_all(&undo_printed(file)).map_err(|error| Problem::internal(error.to_string()))?;
    let _pin = call.server.gc_pins.take();
    let code = new.store(&call.server, &call.caller, archive).await?;
    Ok(answer(json!({
        "msg": "Upload successful.",
        "id": code.name,
        "project_id": code.project,
        "name": code.name,
        "rev": code.current.number,
    })))
}

fn new_code(call: &IronCall, data: UploadData) -> HttpResult<NewCode> {
    let UploadData { name, runtime, file_name, command, stack, others } = data;
    let is_set = |value: &Value| !(value.is_null() || *value == json!("") || *value == json!({}));
    if let Some((field, hint)) = UNSUPPORTED.iter().find(|(field, _)| others.get(*field).is_some_and(is_set)) {
        return Err(invalid(format!("the field {field} is not supported")).hint(*hint).into());
    }
    let name = name.ok_or_else(|| invalid("the field data has no name"))?;
    let name = name.parse().map_err(|error| invalid(format!("{error}")))?;
    let runtime = runtime.unwrap_or_default();
    let known = RUNTIMES.iter().find(|(prefix, _)| runtime.starts_with(prefix)).map(|(_, stack)| *stack);
    let stack = stack.as_deref().or(known).ok_or_else(|| {
        let known: Vec<&str> = RUNTIMES.iter().map(|(prefix, _)| *prefix).collect();
        let runtime: String = runtime.chars().take(40).collect();
        invalid(format!("the runtime {runtime:?} has no stack; those that have one are {}", known.join(", ")))
    })?;
    let stack = stack.parse().map_err(|error| invalid(format!("{error}")))?;
    let command = match (command.filter(|command| !command.trim().is_empty()), file_name) {
        (Some(command), _) => Some(code::words_of(&command)),
        (None, Some(file)) => Some(code::command_of_file(&file).ok_or_else(|| {
            invalid(format!("{file:?} is not a file that can run")).hint("name a command in the field command")
        })?),
        (None, None) => None,
    };
    Ok(NewCode { app: call.project.clone(), name, stack, command })
}

/// The fields of a multipart form: name and content.
fn fields<'a>(kind: &str, body: &'a [u8]) -> Result<Vec<(&'a str, &'a [u8])>, Problem> {
    let boundary = kind
        .strip_prefix("multipart/form-data")
        .and_then(|rest| rest.split(';').find_map(|part| part.trim().strip_prefix("boundary=")))
        .map(|boundary| boundary.trim_matches('"'))
        .filter(|boundary| (1..=70).contains(&boundary.len()))
        .ok_or_else(|| invalid("an upload is a form: multipart/form-data with the fields data and file"))?;
    let delimiter = format!("--{boundary}").into_bytes();
    let cut_off = || invalid("the form is cut off");
    let mut rest = body.strip_prefix(&delimiter[..]).ok_or_else(cut_off)?;
    let delimiter = [b"\r\n", &delimiter[..]].concat();
    let mut fields = Vec::new();
    while !rest.starts_with(b"--") {
        if fields.len() >= FIELDS_MAX {
            return Err(invalid(format!("the form has more than {FIELDS_MAX} fields")));
        }
        rest = rest.strip_prefix(b"\r\n").ok_or_else(cut_off)?;
        let head = find(rest, b"\r\n\r\n").ok_or_else(cut_off)?;
        let (head, content) = (&rest[..head], &rest[head + 4..]);
        let end = find(content, &delimiter).ok_or_else(cut_off)?;
        let name = name_of(head).ok_or_else(|| invalid("a field of the form has no name"))?;
        fields.push((name, &content[..end]));
        rest = &content[end + delimiter.len()..];
    }
    Ok(fields)
}

/// The name in the head of a field.
fn name_of(head: &[u8]) -> Option<&str> {
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    disposition.split(';').find_map(|part| part.trim().strip_prefix("name=")).map(|name| name.trim_matches('"'))
}

/// Finds a part of bytes.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut at = 0;
    while let Some(next) = bytes.get(at..)?.iter().position(|byte| *byte == first) {
        at += next;
        if bytes[at..].starts_with(part) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Undoes the printed form of bytes of Python 3. Any other bytes are returned as they are.
fn undo_printed(bytes: &[u8]) -> Vec<u8> {
    printed(bytes).unwrap_or_else(|| bytes.to_vec())
}

fn printed(bytes: &[u8]) -> Option<Vec<u8>> {
    let quoted = bytes.strip_prefix(b"b")?;
    let quote = *quoted.first().filter(|quote| **quote == b'\'' || **quote == b'"')?;
    let mut inner = quoted.get(1..)?.strip_suffix(&[quote])?.iter();
    let mut plain = Vec::with_capacity(inner.len());
    while let Some(byte) = inner.next() {
        if *byte != b'\\' {
            plain.push(*byte);
            continue;
        }
        plain.push(match inner.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = [*inner.next()?, *inner.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte @ (b'\\' | b'\'' | b'"') => *byte,
            _ => return None,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: &str = "multipart/form-data; boundary=----------ThIs_Is_tHe_bouNdaRY_$";

    fn form(file: &[u8]) -> Vec<u8> {
        let mut body =
            b"------------ThIs_Is_tHe_bouNdaRY_$\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n{}\r\n\
            ------------ThIs_Is_tHe_bouNdaRY_$\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.zip\"\r\n\
            Content-Type: application/zip\r\n\r\n"
                .to_vec();
        body.extend(file);
        body.extend(b"\r\n------------ThIs_Is_tHe_bouNdaRY_$--\r\n");
        body
    }

    #[test]
    fn a_form_has_its_fields() {
        let body = form(b"PK\r\n--\r\n");
        let read = fields(KIND, &body).expect("fields");
        assert_eq!(read, [("data", &b"{}"[..]), ("file", b"PK\r\n--\r\n")]);
        for (kind, body) in [
            ("application/json", &body[..]),
            ("multipart/form-data", &body),
            (KIND, b"PK"),
            (KIND, &body[..body.len() - 30]),
            (KIND, b"------------ThIs_Is_tHe_bouNdaRY_$\r\n\r\n\r\nx\r\n------------ThIs_Is_tHe_bouNdaRY_$--"),
        ] {
            assert!(fields(kind, body).is_err(), "{kind}");
        }
    }

    #[test]
    fn the_printed_form_of_bytes_is_undone() {
        assert_eq!(undo_printed(br#"b'PK\x03\x04\n\\\'"'"#), b"PK\x03\x04\n\\'\"");
        assert_eq!(undo_printed(br#"b"it's""#), b"it's");
        for same in [&b"PK\x03\x04"[..], b"b'PK", b"b'\\q'", b"b", b""] {
            assert_eq!(undo_printed(same), same);
        }
    }

    proptest! {
        #[test]
        fn any_form_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200), kind in "\\PC{0,60}") {
            let _ = fields(&kind, &body);
            let _ = fields(KIND, &[b"------------ThIs_Is_tHe_bouNdaRY_$", &body[..]].concat());
            let _ = undo_printed(&body);
        }

        #[test]
        fn any_file_arrives_whole(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            let body = form(&file);
            prop_assert_eq!(fields(KIND, &body).expect("fields")[1].1, &file[..]);
        }
    }
}
