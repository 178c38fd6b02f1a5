//! A check by a command in the container.

use std::pin::pin;
use std::time::Duration;

use gantry_sandbox::{Container, ExecOutcome, ExecSpec, exec};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::{BODY_SHOWN, Failed};

/// Output that is read of one command; what is beyond that is read and dropped.
const OUTPUT_READ: usize = 64 << 10;

/// How long the rest of the output may take once the command has ended.
const REST: Duration = Duration::from_millis(200);

/// Runs the command. It ends with the caller: a dropped check kills the process.
pub(super) async fn run(container: &Container, spec: ExecSpec) -> Result<(), Failed> {
    let mut session = exec(container, spec).await.map_err(|error| Failed::because(error.to_string()))?;
    let mut streams = std::mem::take(&mut session.descriptors).into_iter();
    // The command reads the end of its input at once.
    drop(streams.next());
    let outputs: Result<Vec<Receiver>, _> = streams.map(Receiver::from_owned_fd).collect();
    let mut outputs = outputs.map_err(|error| Failed::because(error.to_string()))?.into_iter();
    let (output, errors) = (outputs.next(), outputs.next());
    let mut reading = pin!(async { tokio::join!(all_of(output), all_of(errors)) });
    let (outcome, said) = tokio::select! {
        said = &mut reading => (session.outcome().await, Some(said)),
        // What the command leaves running may keep its streams open: the command's end counts.
        outcome = session.outcome() => (outcome, tokio::time::timeout(REST, &mut reading).await.ok()),
    };
    let said = said.map(|(output, errors)| [output, errors].concat()).unwrap_or_default();
    let why = match outcome {
        ExecOutcome::Exited(0) => return Ok(()),
        ExecOutcome::Exited(code) => format!("exit status {code}"),
        ExecOutcome::Failed(why) => why,
    };
    let end = said.len().saturating_sub(BODY_SHOWN);
    Err(Failed {
        body: String::from_utf8_lossy(&said[end..]).trim().to_owned(),
        remedy: Some("let the command exit with 0, or change `health.command` of the role".to_owned()),
        ..Failed::because(why)
    })
}

/// What a stream says, to its end; its first part is kept.
async fn all_of(stream: Option<Receiver>) -> Vec<u8> {
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
