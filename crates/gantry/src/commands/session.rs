//! `gantry exec` and `gantry run`: connect this process's streams to a remote process.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};

use gantry_api::endpoints::sessions;
use gantry_api::frame::Frame;
use gantry_api::types::{OpensReport, StartExec, StartRun};
use gantry_api::{Client, ErrorCode, Session};
use gantry_model::{AppName, VolumeName};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::coded::coded;
use crate::exit::Exit;

pub(crate) async fn exec(
    client: &Client,
    app: &AppName,
    instance: Option<String>,
    command: Vec<String>,
    input: bool,
) -> anyhow::Result<Exit> {
    let command = if command.is_empty() { vec!["/bin/sh".to_owned()] } else { command };
    let terminal = wants_terminal();
    let body = StartExec { instance, command, terminal };
    relay(client.open(&sessions::Exec { app: app.clone() }, &body).await?, terminal, input).await
}

pub(crate) async fn run(
    client: &Client,
    app: &AppName,
    command: Vec<String>,
    volumes: Vec<(VolumeName, Option<String>)>,
    input: bool,
) -> anyhow::Result<Exit> {
    let terminal = wants_terminal();
    let body = StartRun { command, terminal, volumes: volumes.into_iter().collect(), image: None, trace: false };
    relay(client.open(&sessions::Run { app: app.clone() }, &body).await?, terminal, input).await
}

/// Runs a command in an image, and returns which files of the image its processes opened. The command has no input, and
/// its output goes to standard error.
pub(crate) async fn trace(client: &Client, image: String, command: Vec<String>) -> anyhow::Result<(Exit, OpensReport)> {
    let repository = image.split(['@', ':']).next().unwrap_or_default();
    let app: AppName = repository.parse()?;
    let body = StartRun { command, terminal: false, volumes: BTreeMap::new(), image: Some(image.clone()), trace: true };
    let session = client.open(&sessions::Run { app }, &body).await?;
    let mut answer = Vec::new();
    let exit = relay_to(session, false, false, &mut std::io::stderr(), &mut answer).await?;
    Ok((exit, serde_json::from_slice(&answer)?))
}

/// Returns whether both standard input and standard output are terminals.
fn wants_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Raw mode of the terminal, until dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn size() -> Option<Frame> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some(Frame::Size(size.ws_col, size.ws_row))
}

/// Reads standard input on a thread of its own, because a read cannot be cancelled.
fn read_input() -> mpsc::Receiver<Frame> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            let frame = match std::io::stdin().lock().read(&mut buffer) {
                Ok(count @ 1..) => Frame::Input(buffer[..count].to_vec()),
                _ => Frame::InputEnd,
            };
            let ended = frame == Frame::InputEnd;
            if sender.blocking_send(frame).is_err() || ended {
                return;
            }
        }
    });
    receiver
}

/// An empty input.
fn no_input() -> mpsc::Receiver<Frame> {
    let (sender, receiver) = mpsc::channel(1);
    let _ = sender.try_send(Frame::InputEnd);
    receiver
}

/// Connects the streams until the remote process ends. Reads standard input only with `input` or a terminal: in a
/// caller's loop, standard input may be the list that the loop reads.
async fn relay(session: Session, terminal: bool, input: bool) -> anyhow::Result<Exit> {
    relay_to(session, terminal, input, &mut std::io::stdout(), &mut Vec::new()).await
}

/// Does the same as [`relay`], with another place for standard output, and adds the session's answer to `answer`.
async fn relay_to(
    session: Session,
    terminal: bool,
    input: bool,
    out: &mut impl Write,
    answer: &mut Vec<u8>,
) -> anyhow::Result<Exit> {
    let raw = if terminal { RawTerminal::enter() } else { None };
    let (mut reader, mut writer) = tokio::io::split(session);
    let mut input = if terminal || input { read_input() } else { no_input() };
    let mut resized = signal(SignalKind::window_change())?;
    if terminal && let Some(frame) = size() {
        frame.write(&mut writer).await?;
    }
    let sending = async {
        loop {
            let frame = tokio::select! {
                Some(frame) = input.recv() => Some(frame),
                _ = resized.recv(), if terminal => size(),
                else => std::future::pending().await,
            };
            if let Some(frame) = frame
                && frame.write(&mut writer).await.is_err()
            {
                std::future::pending::<()>().await;
            }
        }
    };
    let receiving = async {
        while let Some(frame) = Frame::read(&mut reader).await? {
            match frame {
                Frame::Output(bytes) => {
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                Frame::Error(bytes) => std::io::stderr().lock().write_all(&bytes)?,
                Frame::Answer(bytes) => answer.extend(bytes),
                Frame::Exit(status) => return Ok(Exit(u8::try_from(status & 0xff).unwrap_or(1))),
                Frame::Failed(message) => return Err(coded(ErrorCode::SessionFailed, message)),
                _ => {}
            }
        }
        let message = "the connection to the server ended before the exit code of the command was known; check what the \
                       command did before you repeat it";
        Err(coded(ErrorCode::ConnectionLost, message))
    };
    let outcome = tokio::select! {
        never = sending => never,
        outcome = receiving => outcome,
    };
    drop(raw);
    outcome
}
