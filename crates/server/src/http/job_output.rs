//! The output of a running job, from its machine to the client.

use gantry_api::frame::Frame;
use gantry_api::jobs::JobLine;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// Size limit of a line from the agent. The log relay cuts the program's own lines far below this limit.
const LINE_MAX: usize = 4 << 20;

/// Relays an agent's lines until either side ends.
pub(super) async fn relay(mut agent: impl AsyncRead + Unpin, sender: mpsc::Sender<JobLine>) {
    let mut line_bytes = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = Frame::read(&mut agent) => frame,
            // The client disconnected; the closed session tells the agent.
            () = sender.closed() => return,
        };
        let Ok(Some(Frame::Output(text))) = frame else { return };
        // The agent sends a long line in several frames.
        line_bytes.extend_from_slice(&text);
        if !line_bytes.ends_with(b"\n") && line_bytes.len() < LINE_MAX {
            continue;
        }
        let line = serde_json::from_slice(&line_bytes);
        line_bytes.clear();
        if let Ok(line) = line
            && sender.send(line).await.is_err()
        {
            return;
        }
    }
}
