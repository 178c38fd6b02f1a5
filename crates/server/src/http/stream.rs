//! Streamed responses: newline-delimited JSON, or server-sent events.

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, header};
use tokio::sync::mpsc;

use super::{HttpResult, UNBUFFERED};

/// Streams values as they arrive: as newline-delimited JSON, or as server-sent events if the client accepts them.
pub(crate) fn stream<T: serde::Serialize + Send + 'static>(
    headers: &HeaderMap,
    receiver: mpsc::Receiver<T>,
) -> HttpResult {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let events = accept.contains("text/event-stream");
    let (before, after) = if events { ("data: ", "\n\n") } else { ("", "\n") };
    let line = move |value: T| serde_json::to_string(&value).map(|text| Bytes::from(format!("{before}{text}{after}")));
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let stream = stream.map(line);
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, [UNBUFFERED], Body::from_stream(stream)).into_response())
}
