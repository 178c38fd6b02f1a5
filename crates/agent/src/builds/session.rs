//! Carries the events of a build or a pull to the server, and the end of the session to the work.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::frame::Frame;
use gantry_build::{Output, OutputEvent};
use gantry_control::builds::BuildEvent;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Interval of empty frames, which tell the server that the build goes on.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Runs a build or a pull, whose result is its last event, and sends its events as lines of JSON in output frames. When the
/// session ends, cancels the work and waits for its end.
pub(super) async fn run_session<F>(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    build: impl FnOnce(Arc<Output>) -> F,
) where
    F: Future<Output = BuildEvent>,
{
    let (output, mut events) = Output::forwarded();
    let mut build = std::pin::pin!(build(Arc::clone(&output)));
    let mut hung_up = std::pin::pin!(async { while let Ok(Some(_)) = Frame::read(&mut reader).await {} });
    let mut alive = tokio::time::interval(KEEPALIVE);
    let last = loop {
        let sent = tokio::select! {
            last = &mut build => break last,
            () = &mut hung_up, if !output.is_cancelled() => {
                output.cancel();
                continue;
            }
            Some(event) = events.recv() => send(&mut writer, &event_of(event)).await,
            _ = alive.tick() => Frame::Output(Vec::new()).write(&mut writer).await,
        };
        if sent.is_err() {
            output.cancel();
        }
    };
    while let Ok(event) = events.try_recv() {
        let _ = send(&mut writer, &event_of(event)).await;
    }
    let _ = send(&mut writer, &last).await;
    let _ = Frame::Exit(0).write(&mut writer).await;
    let _ = writer.shutdown().await;
}

fn event_of(event: OutputEvent) -> BuildEvent {
    match event {
        OutputEvent::Step(text) => BuildEvent::Step { text },
        OutputEvent::Note(text) => BuildEvent::Note { text },
        OutputEvent::Program(text) => BuildEvent::Program { text },
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), event: &BuildEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Frame::Output(line).write(writer).await
}

#[cfg(test)]
mod tests {
    use gantry_model::BuildPhase;

    use super::*;

    /// Reads all events until the end of the session.
    async fn events(mut from: impl AsyncRead + Unpin) -> Vec<BuildEvent> {
        let mut bytes = Vec::new();
        while let Ok(Some(frame)) = Frame::read(&mut from).await {
            if let Frame::Output(piece) = frame {
                bytes.extend(piece);
            }
        }
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("an event")).collect()
    }

    #[tokio::test]
    async fn sends_every_line_before_the_verdict() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(near);
        let (mut keep, reading) = tokio::io::split(far);
        let _ = &mut keep;
        let build = |output: Arc<Output>| async move {
            output.step("one");
            output.program("two");
            BuildEvent::Failed { phase: BuildPhase::Image, message: "no".into(), tail: Vec::new() }
        };
        let read = async {
            drop(reading);
            events(keep).await
        };
        let ((), found) = tokio::join!(run_session(reader, writer, build), read);
        let failed = BuildEvent::Failed { phase: BuildPhase::Image, message: "no".into(), tail: Vec::new() };
        assert_eq!(
            found,
            [BuildEvent::Step { text: "one".into() }, BuildEvent::Program { text: "two".into() }, failed]
        );
    }

    #[tokio::test]
    async fn cancels_the_build_when_the_session_ends() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(near);
        drop(far);
        let build = |output: Arc<Output>| async move {
            output.cancelled().await;
            BuildEvent::OwnRegistry
        };
        tokio::time::timeout(Duration::from_secs(10), run_session(reader, writer, build)).await.expect("ended");
    }
}
