//! `gantry code`.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Context;
use gantry_api::codes::{CodeInfo, CodeRevision};
use gantry_api::endpoints::codes::{self, CodesQuery, UploadQuery};
use gantry_api::endpoints::{apps, stacks};
use gantry_api::types::CreateApp;
use gantry_api::{Client, ClientError, ErrorCode};
use gantry_model::{AppName, BaseName, Bytes};
use gantry_queue::QueueName;

use super::stacks as stack_commands;
use crate::args::{CODES_APP, Code};
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::printer::{age, json as print_json, out, status, table};

/// Folders that belong to version control, and to no code.
const IGNORED_FOLDERS: [&str; 3] = [".git", ".hg", ".svn"];

pub(crate) async fn run(client: &Client, command: Code, json: bool) -> anyhow::Result<Exit> {
    match command {
        Code::Upload { code, path, stack, command } => {
            let archive = archive(&path).with_context(|| format!("cannot read {}", path.display()));
            let archive = archive.with_code(ErrorCode::FileUnreadable)?;
            let query = UploadQuery { stack: Some(stack), command };
            show(&upload(client, &code, &query, &archive).await?, json)
        }
        Code::Ls { app } => list(client, app, json).await,
        Code::Show { code } => {
            let QueueName { project, code } = code;
            show(&client.fetch(&codes::Show { project, code }).await?, json)
        }
        Code::Rm { code } => {
            let QueueName { project, code } = code;
            client.fetch(&codes::Remove { project: project.clone(), code: code.clone() }).await?;
            status!("Removed code {project}/{code}; jobs that are queued still run");
            Ok(DONE)
        }
    }
}

/// Opens an archive, or packs a folder into a temporary file.
fn archive(path: &Path) -> std::io::Result<File> {
    if !path.is_dir() {
        return File::open(path);
    }
    let mut packed = tar::Builder::new(tempfile::tempfile()?);
    packed.follow_symlinks(false);
    pack(&mut packed, path, Path::new(""))?;
    let mut file = packed.into_inner()?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

/// Adds the entries of a folder, in the order of names.
fn pack(packed: &mut tar::Builder<File>, folder: &Path, inside: &Path) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), inside.join(entry.file_name()));
        if !entry.file_type()?.is_dir() {
            packed.append_path_with_name(&path, &name)?;
        } else if !IGNORED_FOLDERS.iter().any(|left_out| entry.file_name() == *left_out) {
            packed.append_dir(&name, &path)?;
            pack(packed, &path, &name)?;
        }
    }
    Ok(())
}

/// Uploads an archive. Makes the missing stack first, and the app for codes without an app.
async fn upload(client: &Client, code: &QueueName, query: &UploadQuery, archive: &File) -> anyhow::Result<CodeInfo> {
    let mut made = Vec::new();
    loop {
        let at = codes::Upload { project: code.project.clone(), code: code.code.clone() };
        let mut file = archive.try_clone()?;
        file.rewind()?;
        let error = match client.send_file_with(&at, query, file).await {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        let missing = match &error {
            ClientError::Problem(problem) => problem.code.known(),
            _ => None,
        };
        match (missing, &query.stack) {
            // Each is made once: a second refusal of the same kind is the user's to read.
            (Some(missing), _) if made.contains(&missing) => return Err(error.into()),
            (Some(missing @ ErrorCode::StackNotMade), Some(stack)) => {
                make_stack(client, stack, error).await?;
                made.push(missing);
            }
            (Some(missing @ ErrorCode::AppNotFound), _) if code.project.as_str() == CODES_APP => {
                let new = CreateApp { name: code.project.clone(), base: None, branch: None, hosts: Vec::new() };
                client.submit(&apps::Create {}, &new).await?;
                status!("Created app {CODES_APP} for codes without an app of their own");
                made.push(missing);
            }
            _ => return Err(error.into()),
        }
    }
}

/// Makes a stack at first need. A user who may not make it learns who may: `refused` says so.
async fn make_stack(client: &Client, stack: &BaseName, refused: ClientError) -> anyhow::Result<()> {
    status!("Making stack {stack}, once for all codes");
    match client.submit_and_follow(&stacks::Create { name: stack.clone() }, &()).await {
        Ok(events) => stack_commands::made(events).await,
        Err(ClientError::Problem(problem)) if problem.code.known() == Some(ErrorCode::ScopeInsufficient) => {
            Err(refused.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn list(client: &Client, project: Option<AppName>, json: bool) -> anyhow::Result<Exit> {
    let found = client.fetch_with(&codes::List {}, &CodesQuery { project }).await?;
    if json {
        print_json(&found)?;
        return Ok(DONE);
    }
    let rows = found.iter().map(|code| {
        let mut row = vec![format!("{}/{}", code.project, code.name)];
        row.extend(cells(&code.current));
        row
    });
    table(&["code", "revision", "stack", "size", "files", "by", "when", "command"], rows);
    Ok(DONE)
}

fn cells(revision: &CodeRevision) -> Vec<String> {
    vec![
        revision.number.to_string(),
        revision.stack.to_string(),
        Bytes(revision.size).to_string(),
        revision.files.to_string(),
        revision.by.clone(),
        format!("{} ago", age(revision.created)),
        revision.command.join(" "),
    ]
}

fn show(code: &CodeInfo, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(code)?;
        return Ok(DONE);
    }
    out!("{}/{} revision {}", code.project, code.name, code.current.number);
    out!("image    {}@{}", code.project, code.current.image);
    table(&["revision", "stack", "size", "files", "by", "when", "command"], code.revisions.iter().map(cells));
    Ok(DONE)
}
