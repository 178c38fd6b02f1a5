//! `/v1/codes`: uploaded code.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use futures_util::StreamExt;
use gantry_admission::{UploadedCode, check_upload, find_app};
use gantry_api::codes::{CodeInfo, CodeRevision};
use gantry_api::endpoints::codes as endpoints;
use gantry_api::{ErrorCode, Problem};
use gantry_build::code::{self, CodeError, CodeLayer, UPLOAD_MAX};
use gantry_build::stacks::Stack;
use gantry_build::{ImageDocuments, ImageDraft};
use gantry_model::{AppName, BaseName, Digest, RoleName};
use gantry_records::CodeRecord;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::auth::Caller;
use super::call::{Call, Routes};
use super::{HttpResult, parse_name};
use crate::disk_reserve::{ReserveCheck, check_reserve};
use crate::{Server, causes};

/// Name of the stored object in messages about a full disk.
const STORED_OBJECT: &str = "a code";

/// Archives that are unpacked at the same time: each may take a processor and a GiB of the disk.
static UNPACKING: Semaphore = Semaphore::const_new(2);

/// Adds the endpoints of uploaded code.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(show).endpoint(upload).endpoint(remove)
}

async fn list(Call { server, query, .. }: Call<endpoints::List>) -> HttpResult<Vec<CodeInfo>> {
    let view = server.core.view();
    let is_meant = |app: &AppName| query.project.as_ref().is_none_or(|project| project == app);
    let codes = view.records.codes.iter().filter(|(app, _)| is_meant(app)).flat_map(|(_, codes)| codes.values());
    Ok(codes.filter_map(|code| code_info(code)).collect())
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<CodeInfo> {
    let name: RoleName = parse_name(at.code.as_str())?;
    find(&server, &at.project, &name)
}

/// Finds a code.
pub(super) fn find(server: &Server, app: &AppName, name: &RoleName) -> HttpResult<CodeInfo> {
    let view = server.core.view();
    find_app(&view.records, app)?;
    let missing = || {
        Problem::new(ErrorCode::CodeNotFound, format!("{app} has no code {name}"))
            .hint("`gantry code ls` lists the codes")
    };
    Ok(view.records.code(app, name).and_then(|code| code_info(code)).ok_or_else(missing)?)
}

/// Describes a code.
pub(super) fn code_info(code: &CodeRecord) -> Option<CodeInfo> {
    let revisions: Vec<CodeRevision> = code.revisions.iter().rev().cloned().map(revision_info).collect();
    let current = revisions.first()?.clone();
    Some(CodeInfo { project: code.app.clone(), name: code.name.clone(), current, revisions })
}

fn revision_info(revision: gantry_records::CodeRevision) -> CodeRevision {
    let gantry_records::CodeRevision { number, image, stack, command, files, size, by, created } = revision;
    CodeRevision { number, image, stack, command, files, size, by, created }
}

async fn remove(Call { server, caller, at, .. }: Call<endpoints::Remove>) -> HttpResult<()> {
    let name: RoleName = parse_name(at.code.as_str())?;
    caller.mutate(&server, move |actor| actor.remove_code(&at.project, &name)).await
}

async fn upload(Call { server, caller, at, query, body, .. }: Call<endpoints::Upload>) -> HttpResult<CodeInfo> {
    let name: RoleName = parse_name(at.code.as_str())?;
    let stack = query.stack.ok_or_else(|| invalid("an upload names its stack, as ?stack=python"))?;
    let command = query.command.map(|text| code::words_of(&text));
    if command.as_ref().is_some_and(|words| words.is_empty() || words.iter().any(|word| word.contains('\0'))) {
        return Err(invalid("the command is empty, or contains a NUL byte; name a program with its arguments, as ?command=python3 main.py").into());
    }
    let new = NewCode { app: at.project, name, stack, command };
    // Before the body is read: a client learns at once that the upload has no use.
    new.base(&server)?;
    let _pin = server.gc_pins.take();
    let archive = receive(&server, body).await?;
    new.store(&server, &caller, archive).await
}

fn invalid(why: &str) -> Problem {
    Problem::new(ErrorCode::InvalidCode, why.to_owned())
}

/// Writes an upload into a temporary file.
async fn receive(server: &Arc<Server>, body: Body) -> HttpResult<File> {
    check_reserve(server, STORED_OBJECT, 0)?;
    let failed = |error: std::io::Error| Problem::internal(format!("cannot keep the upload: {error}"));
    let file = tempfile::tempfile_in(server.images.scratch()).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let (mut pieces, mut room, mut size) = (body.into_data_stream(), ReserveCheck::new(STORED_OBJECT), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Problem::new(ErrorCode::RequestBroken, causes(&error)))?;
        size += piece.len() as u64;
        if size > UPLOAD_MAX {
            let message = format!("the upload is larger than {} MiB", UPLOAD_MAX >> 20);
            return Err(Problem::new(ErrorCode::RequestTooLarge, message).into());
        }
        room.take(server, piece.len())?;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(file.into_std().await)
}

/// A code that is being uploaded.
pub(super) struct NewCode {
    pub(super) app: AppName,
    pub(super) name: RoleName,
    pub(super) stack: BaseName,
    /// The command, if the upload names one.
    pub(super) command: Option<Vec<String>>,
}

impl NewCode {
    /// The image of the stack. Refuses an upload that cannot become a code.
    pub(super) fn base(&self, server: &Server) -> HttpResult<Digest> {
        let view = server.core.view();
        check_upload(&view.records, &self.app, &self.name)?;
        let stack = &self.stack;
        if let Some(base) = view.records.bases.get(stack) {
            return Ok(base.image.clone());
        }
        let problem = match Stack::named(stack.as_str()) {
            Some(_) => Problem::new(ErrorCode::StackNotMade, format!("stack {stack} is not made yet"))
                .hint(format!("an administrator makes it once with `gantry stack create {stack}`")),
            None => Problem::new(ErrorCode::BaseNotFound, format!("there is no stack {stack} and no base {stack}"))
                .hint("`gantry stack ls` lists the stacks, and `gantry base ls` the bases"),
        };
        Err(problem.into())
    }

    /// Makes the image of an archive, and records it as the code's current revision. The caller has a GC pin.
    pub(super) async fn store(self, server: &Arc<Server>, caller: &Caller, archive: File) -> HttpResult<CodeInfo> {
        let base = self.base(server)?;
        let CodeLayer { layer, files, size, top } = unpack(server, archive).await?;
        let command = self.command.or_else(|| code::default_command(self.name.as_str(), &top)).ok_or_else(|| {
            let shown: Vec<&str> = top.iter().take(10).map(|file| file.name.as_str()).collect();
            let shown = if shown.is_empty() { "no file".to_owned() } else { shown.join(", ") };
            Problem::new(
                ErrorCode::NoCodeCommand,
                format!("the command of {} is not known; at the top: {shown}", self.name),
            )
            .hint("name it with --command")
        })?;
        let failed =
            |why: &dyn std::error::Error| Problem::internal(format!("the image of {}: {}", self.name, causes(why)));
        let (manifest, config) = server.images.image(&base).await.map_err(|error| failed(&error))?;
        let mut draft = ImageDraft::on_base(&manifest, &config);
        draft.push(layer.descriptor(), layer.diff_id.clone());
        let documents: ImageDocuments = draft.finish_code(command.clone()).map_err(|error| failed(&error))?;
        let image = server.images.store(layer, documents).await.map_err(|error| failed(&error))?;
        gantry_failpoint::failpoint!("code.stored");
        let (app, name, stack) = (self.app, self.name, self.stack);
        let new = UploadedCode { app: app.clone(), name: name.clone(), image, stack, base, command, files, size };
        let record = caller.mutate(server, move |actor| actor.upload_code(new)).await?;
        Ok(code_info(&record).ok_or_else(|| Problem::internal(format!("{app} has no revision of {name}")))?)
    }
}

/// Makes the layer of an archive.
async fn unpack(server: &Arc<Server>, archive: File) -> HttpResult<CodeLayer> {
    let _turn = UNPACKING.acquire().await.map_err(|error| Problem::internal(error.to_string()))?;
    let (own, scratch) = (Arc::clone(server), server.images.scratch().to_owned());
    let full = Arc::new(OnceLock::new());
    let refusal = Arc::clone(&full);
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut check = ReserveCheck::new(STORED_OBJECT);
        let mut room = |bytes: usize| {
            check.take(&own, bytes).map_err(|problem| {
                let _ = refusal.set(problem);
                std::io::Error::other("the disk is full")
            })
        };
        code::layer(archive, &scratch, &mut room)
    });
    let unpacked = unpacking.await.map_err(|error| Problem::internal(error.to_string()))?;
    let refused = |error: CodeError| match (full.get(), &error) {
        (Some(problem), _) => problem.clone(),
        (None, CodeError::Disk(_)) => Problem::internal(error.to_string()),
        (None, _) => Problem::new(ErrorCode::InvalidCode, error.to_string()),
    };
    Ok(unpacked.map_err(refused)?)
}
