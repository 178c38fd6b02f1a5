//! `gantry volume`.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use anyhow::Context;
use gantry_api::endpoints::volumes::{self, RemoveQuery};
use gantry_api::frame::{Frame, PAYLOAD_MAX};
use gantry_api::volumes::{
    CreateSnapshot, ExportVolume, ImportVolume, SnapshotInfo, VolumeAnswer, VolumeInfo, VolumeList,
};
use gantry_api::{Client, ErrorCode, Session};
use gantry_model::{AppName, VolumeName};
use tokio::sync::mpsc;

use crate::args::{Snapshot, Volume};
use crate::coded::{WithCode, coded, require};
use crate::exit::{DONE, Exit};
use crate::new_file::NewFile;
use crate::printer::{age, clock, json as print_json, or_dash, out, status, table};

pub(crate) async fn run(client: &Client, command: Volume, json: bool) -> anyhow::Result<Exit> {
    match command {
        Volume::Ls { app } => {
            let volumes = match app {
                Some(app) => client.fetch(&volumes::List { app }).await?,
                None => client.fetch(&volumes::ListAll {}).await?,
            };
            if json { print_json(&volumes)? } else { list(&volumes) }
        }
        Volume::Show { app, name } => {
            let volume = client.fetch(&volumes::Show { app, name }).await?;
            if json { print_json(&volume)? } else { show(&volume) }
        }
        Volume::Rm { app, name, force } => {
            let at = volumes::Remove { app: app.clone(), name: name.clone() };
            let removed = client.fetch_with(&at, &RemoveQuery { force }).await?;
            let snapshots = match removed.snapshots.len() {
                0 => String::new(),
                1 => " and its snapshot".to_owned(),
                count => format!(" and its {count} snapshots"),
            };
            status!("removed volume {name} of {app}{snapshots}: {}", removed.size);
        }
        Volume::Export { app, name, output } => export(client, &app, &name, output.as_deref()).await?,
        Volume::Import { app, name, replace, limit, file } => {
            let input: Box<dyn Read + Send> = match &file {
                Some(file) => {
                    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()));
                    Box::new(opened.with_code(ErrorCode::FileUnreadable)?)
                }
                None => {
                    require!(
                        !std::io::stdin().is_terminal(),
                        InvalidArguments,
                        "name the archive, or send it to standard input"
                    );
                    Box::new(std::io::stdin())
                }
            };
            let at = volumes::Import { app: app.clone(), name: name.clone() };
            let session = client.open(&at, &ImportVolume { replace, limit }).await?;
            match converse(session, Some(input), None).await? {
                Some(VolumeAnswer::One { volume }) if json => print_json(&VolumeInfo::from(*volume))?,
                Some(VolumeAnswer::One { volume }) => {
                    status!("volume {name} of {app} has {} files, {}", or_dash(volume.files), volume.size);
                }
                answer => return Err(unexpected(answer.as_ref())),
            }
        }
        Volume::Snapshot { app, name, what } => {
            snapshot(client, &app, &name, what.unwrap_or(Snapshot::Create { snapshot: None }), json).await?;
        }
    }
    Ok(DONE)
}

fn users(volume: &VolumeInfo) -> String {
    or_dash((!volume.in_use.is_empty()).then(|| volume.in_use.join(", ")))
}

fn list(VolumeList { volumes, unreachable }: &VolumeList) {
    let row = |volume: &VolumeInfo| {
        let used = if volume.in_use.is_empty() { or_dash(volume.used.map(age)) } else { "now".to_owned() };
        let (app, name, machine) = (volume.app.to_string(), volume.name.to_string(), volume.machine.to_string());
        vec![app, name, machine, volume.size.to_string(), used, users(volume)]
    };
    table(&["app", "name", "machine", "size", "last used", "in use by"], volumes.iter().map(row));
    for machine in unreachable {
        status!("volumes of machine {} are missing: {}", machine.machine, machine.reason);
    }
}

fn show(volume: &VolumeInfo) {
    let roles: Vec<String> = volume.roles.iter().map(|role| format!("{} at {}", role.role, role.path)).collect();
    let used = if volume.in_use.is_empty() {
        volume.used.map(|used| format!("{} ago", age(used)))
    } else {
        Some("now".to_owned())
    };
    out!("volume:    {} of {}", volume.name, volume.app);
    out!("machine:   {}", volume.machine);
    out!("roles:     {}", or_dash((!roles.is_empty()).then(|| roles.join(", "))));
    out!("owner:     {}:{} inside", volume.owner.user, volume.owner.group);
    out!("size:      {}", volume.size);
    out!("files:     {}", or_dash(volume.files));
    out!("last used: {}", or_dash(used));
    out!("in use by: {}", users(volume));
    out!("snapshots: {}", volume.snapshots.len());
    for snapshot in &volume.snapshots {
        out!("  {}  {}", snapshot.name, clock(snapshot.at));
    }
}

async fn export(client: &Client, app: &AppName, name: &VolumeName, output: Option<&Path>) -> anyhow::Result<()> {
    let zstd = output.is_some_and(|path| path.extension().is_some_and(|end| end == "zst"));
    let to_terminal = output.is_none() && std::io::stdout().is_terminal();
    require!(
        !to_terminal,
        InvalidArguments,
        "cannot write an archive to a terminal; write it into a file with -o FILE, or into a pipe"
    );
    let mut file = output.map(NewFile::create).transpose()?;
    let at = volumes::Export { app: app.clone(), name: name.clone() };
    let session = client.open(&at, &ExportVolume { zstd }).await?;
    let mut stdout = std::io::stdout();
    let out: &mut (dyn Write + Send) = match &mut file {
        Some((_, file)) => file,
        None => &mut stdout,
    };
    converse(session, None, Some(out)).await?;
    file.map_or(Ok(()), |(new, file)| new.finish(&file))
}

async fn snapshot(client: &Client, app: &AppName, name: &VolumeName, what: Snapshot, json: bool) -> anyhow::Result<()> {
    let (app, name) = (app.clone(), name.clone());
    match what {
        Snapshot::Create { snapshot } => {
            let at = volumes::Snapshot { app: app.clone(), name: name.clone() };
            let session = client.open(&at, &CreateSnapshot { name: snapshot }).await?;
            let answer = converse(session, None, None).await?;
            let Some(VolumeAnswer::Snapshot { snapshot, files, cloned, in_use }) = answer else {
                return Err(unexpected(answer.as_ref()));
            };
            if json {
                print_json(&snapshot)?;
            } else {
                out!("{}", snapshot.name);
            }
            let how = if cloned { "cloned, and take no space until they change" } else { "copied" };
            status!("{files} files of volume {name} of {app} were {how}");
            if !in_use.is_empty() {
                let users = in_use.join(", ");
                status!(
                    "{users} may have written meanwhile: the files may be of different moments. For files of one moment, stop it"
                );
                status!("first with `gantry scale {app} ROLE=0 --wait`, or use the program's own dump.");
            }
        }
        Snapshot::Ls => {
            let volume = client.fetch(&volumes::Show { app, name }).await?;
            if json {
                print_json(&volume.snapshots)?;
            } else {
                let row = |snapshot: &SnapshotInfo| vec![snapshot.name.to_string(), clock(snapshot.at)];
                table(&["snapshot", "time"], volume.snapshots.iter().map(row));
            }
        }
        Snapshot::Rm { snapshot } => {
            let message = format!("removed snapshot {snapshot} of volume {name} of {app}");
            client.fetch(&volumes::RemoveSnapshot { app, name, snapshot }).await?;
            status!("{message}");
        }
        Snapshot::Restore { snapshot } => {
            let message = format!("volume {name} of {app} has the content of snapshot {snapshot}");
            let session = client.open(&volumes::Restore { app, name, snapshot }, &()).await?;
            converse(session, None, None).await?;
            status!("{message}");
        }
    }
    Ok(())
}

fn unexpected(answer: Option<&VolumeAnswer>) -> anyhow::Error {
    let message = format!(
        "the machine of the volume sent an unexpected answer: {answer:?}; give this command, the server and the agents \
         the same version"
    );
    coded(ErrorCode::UnexpectedResponse, message)
}

/// Sends `input`, writes the output to `out`, and returns the answer of the agent.
async fn converse(
    session: Session,
    input: Option<Box<dyn Read + Send>>,
    mut out: Option<&mut (dyn Write + Send)>,
) -> anyhow::Result<Option<VolumeAnswer>> {
    let (mut reader, mut writer) = tokio::io::split(session);
    let mut pieces = input.map(pieces);
    let sending = async {
        while let Some(receiver) = &mut pieces {
            let frame = match receiver.recv().await {
                Some(Ok(bytes)) => Frame::Input(bytes),
                Some(Err(error)) => {
                    return Err(error).context("cannot read the archive").with_code(ErrorCode::FileUnreadable);
                }
                None => {
                    pieces = None;
                    Frame::InputEnd
                }
            };
            if frame.write(&mut writer).await.is_err() {
                // The agent says why, or the connection is gone.
                break;
            }
        }
        std::future::pending().await
    };
    let receiving = async {
        let mut answer = Vec::new();
        while let Some(frame) = Frame::read(&mut reader).await? {
            match frame {
                Frame::Output(bytes) => {
                    if let Some(out) = &mut out {
                        out.write_all(&bytes)
                            .context("cannot write the archive")
                            .with_code(ErrorCode::FileUnwritable)?;
                    }
                }
                Frame::Error(bytes) => status!("{}", String::from_utf8_lossy(&bytes).trim_end()),
                Frame::Answer(piece) => answer.extend_from_slice(&piece),
                Frame::Failed(message) => return Err(coded(ErrorCode::SessionFailed, message)),
                Frame::Exit(_) => {
                    if let Some(out) = &mut out {
                        out.flush().context("cannot write the archive").with_code(ErrorCode::FileUnwritable)?;
                    }
                    return Ok(if answer.is_empty() { None } else { Some(serde_json::from_slice(&answer)?) });
                }
                _ => {}
            }
        }
        let message = "the connection to the server ended before the result was known; look at the volume with \
                       `gantry volume ls` before you repeat the command";
        Err(coded(ErrorCode::ConnectionLost, message))
    };
    let answer = tokio::select! {
        failed = sending => failed,
        answer = receiving => answer,
    }?;
    match answer {
        Some(VolumeAnswer::Refused { problem }) => Err(gantry_api::ClientError::from(problem).into()),
        answer => Ok(answer),
    }
}

/// Reads on a thread of its own, because a read cannot be cancelled.
fn pieces(mut input: Box<dyn Read + Send>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PAYLOAD_MAX as usize];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(buffer[..count].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
