//! A health check by a command in the container.

use std::pin::pin;
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_sandbox::{Container, ExecOutcome, ExecSpec, exec};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::{BODY_SHOWN, CheckFailure};

/// Number of bytes kept of a command's output; further output is read and dropped.
const OUTPUT_READ: usize = 64 << 10;

/// Time that the rest of the output may take after the command has ended.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Runs the command. Dropping the future kills the process.
pub(super) async fn run_command(container: &Container, spec: ExecSpec) -> Result<(), CheckFailure> {
    let mut session =
        exec(container, spec).await.map_err(|error| CheckFailure::because(ErrorChain(&error).to_string()))?;
    let mut streams = std::mem::take(&mut session.descriptors).into_iter();
    // The command's standard input is at its end from the start.
    drop(streams.next());
    let outputs: Result<Vec<Receiver>, _> = streams.map(Receiver::from_owned_fd).collect();
    let mut outputs = outputs.map_err(|error| CheckFailure::because(error.to_string()))?.into_iter();
    let (output, errors) = (outputs.next(), outputs.next());
    let mut reading = pin!(async { tokio::join!(read_stream(output), read_stream(errors)) });
    let (outcome, received) = tokio::select! {
        received = &mut reading => (session.outcome().await, Some(received)),
        // Processes that the command leaves running may keep its streams open, so the command's end counts.
        outcome = session.outcome() => (outcome, tokio::time::timeout(OUTPUT_GRACE, &mut reading).await.ok()),
    };
    let received = received.map(|(output, errors)| [output, errors].concat()).unwrap_or_default();
    let why = match outcome {
        ExecOutcome::Exited(0) => return Ok(()),
        ExecOutcome::Exited(code) => format!("exit status {code}"),
        ExecOutcome::Failed(why) => why,
    };
    let end = received.len().saturating_sub(BODY_SHOWN);
    Err(CheckFailure {
        body: String::from_utf8_lossy(&received[end..]).trim().to_owned(),
        remedy: Some("let the command exit with 0, or change `health.command` of the role".to_owned()),
        ..CheckFailure::because(why)
    })
}

/// Reads a stream to its end, and keeps its first part.
async fn read_stream(stream: Option<Receiver>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if kept.len() < OUTPUT_READ {
            kept.extend_from_slice(&buffer[..length]);
        }
    }
    kept
}
