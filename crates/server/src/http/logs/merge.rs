//! The order of the lines of several machines: by time.
//!
//! The lines that are there at first are merged exactly. Of a followed log, the lines of all machines wait for
//! [`REORDER`], so that lines that arrive late from one machine still come before younger lines of another.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gantry_api::types::{LogItem, LogLine, UnreachableMachine};
use gantry_model::{MachineName, Moment};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::source::{LogSource, SourceItem};

/// Time that a followed line waits for older lines of other machines: twice the poll interval of an agent.
const REORDER: Duration = Duration::from_millis(200);

/// Longest silence of a machine before its history has ended. One machine in trouble must not stop the others.
const HISTORY_SILENCE: Duration = Duration::from_secs(10);

/// The next line of a source, with its place in the order.
struct Head {
    line: Option<(Moment, LogLine)>,
    source: LogSource,
    end: HeadEnd,
}

/// Reason why a source has no next line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HeadEnd {
    /// Everything that was there has been sent; new lines may follow.
    Complete,
    /// The session has ended.
    Closed,
    /// The session failed, for this reason.
    Failed(String),
    /// The machine fell silent.
    Silent,
}

impl HeadEnd {
    /// Returns the reason why lines of the machine are missing; none if no line is missing.
    fn missing(self, machine: &MachineName) -> Option<String> {
        match self {
            Self::Complete | Self::Closed => None,
            Self::Failed(reason) => Some(reason),
            Self::Silent => {
                Some(format!("the agent of machine {machine} sent nothing for {} s", HISTORY_SILENCE.as_secs()))
            }
        }
    }
}

impl Head {
    /// Reads the next line of the history.
    async fn advance(&mut self) {
        self.line = None;
        self.end = match timeout(HISTORY_SILENCE, self.source.next()).await {
            Ok(Some(SourceItem::Line(line))) => {
                self.line = Some((self.source.order(&line), line));
                return;
            }
            Ok(Some(SourceItem::HistoryEnd)) => HeadEnd::Complete,
            Ok(Some(SourceItem::Failed(reason))) => HeadEnd::Failed(reason),
            Ok(None) => HeadEnd::Closed,
            Err(_) => HeadEnd::Silent,
        };
    }
}

/// Sends the lines that are there: the newest `most` of all machines. Returns the sources that go on, or none if the
/// client has left. Without `follow`, no source goes on.
pub(super) async fn send_history(
    sources: Vec<LogSource>,
    most: Option<usize>,
    follow: bool,
    sender: &mpsc::Sender<LogItem>,
) -> Option<Vec<LogSource>> {
    let mut heads: Vec<Head> =
        sources.into_iter().map(|source| Head { line: None, source, end: HeadEnd::Complete }).collect();
    futures_util::future::join_all(heads.iter_mut().map(Head::advance)).await;
    let mut newest = VecDeque::new();
    loop {
        let next = heads
            .iter_mut()
            .filter(|head| head.line.is_some())
            .min_by_key(|head| head.line.as_ref().map(|(at, _)| *at));
        let Some(head) = next else { break };
        let line = head.line.take();
        head.advance().await;
        let Some((_, line)) = line else { break };
        match most {
            // Each machine sent its newest lines, which are more than the newest of all.
            Some(most) => {
                newest.push_back(line);
                newest.drain(..newest.len().saturating_sub(most));
            }
            None => sender.send(LogItem::Line(line)).await.ok()?,
        }
    }
    for line in newest {
        sender.send(LogItem::Line(line)).await.ok()?;
    }
    let (going_on, ended): (Vec<Head>, Vec<Head>) =
        heads.into_iter().partition(|head| follow && matches!(head.end, HeadEnd::Complete | HeadEnd::Silent));
    for Head { source: LogSource { machine, .. }, end, .. } in ended {
        if let Some(reason) = end.missing(&machine) {
            sender.send(LogItem::Unreachable(UnreachableMachine { machine, reason })).await.ok()?;
        }
    }
    Some(going_on.into_iter().map(|head| head.source).collect())
}

/// A line that waits for older ones, ordered by time, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Moment,
    arrival: u64,
}

/// Sends the new lines of the sources as they arrive, until all sessions have ended or the client has left. Names each
/// machine whose session ends.
pub(super) async fn follow(sources: Vec<LogSource>, sender: &mpsc::Sender<LogItem>) -> Option<()> {
    let alone = sources.len() == 1;
    let next = |mut source: LogSource| async move { (source.next().await, source) };
    let mut reading: FuturesUnordered<_> = sources.into_iter().map(next).collect();
    let mut order = BinaryHeap::new();
    let mut lines = std::collections::HashMap::new();
    let mut arrivals: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut count = 0_u64;
    loop {
        let due = arrivals.front().map(|(at, _)| *at + REORDER);
        tokio::select! {
            read = reading.next(), if !reading.is_empty() => match read {
                Some((Some(SourceItem::Line(line)), mut source)) => {
                    let at = source.order(&line);
                    reading.push(next(source));
                    if alone {
                        sender.send(LogItem::Line(line)).await.ok()?;
                        continue;
                    }
                    order.push(Reverse(Waiting { at, arrival: count }));
                    lines.insert(count, line);
                    arrivals.push_back((Instant::now(), count));
                    count += 1;
                }
                Some((Some(SourceItem::HistoryEnd), source)) => reading.push(next(source)),
                Some((Some(SourceItem::Failed(reason)), LogSource { machine, .. })) => {
                    sender.send(LogItem::Unreachable(UnreachableMachine { machine, reason })).await.ok()?;
                }
                Some((None, LogSource { machine, .. })) if !alone => {
                    let reason = format!("the agent of machine {machine} ended the session");
                    sender.send(LogItem::Unreachable(UnreachableMachine { machine, reason })).await.ok()?;
                }
                Some((None, _)) | None => {}
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                // Everything up to the oldest arrival goes out, the younger lines wait on.
                let Some((_, oldest)) = arrivals.pop_front() else { continue };
                while lines.contains_key(&oldest) {
                    let Some(Reverse(first)) = order.pop() else { break };
                    let Some(line) = lines.remove(&first.arrival) else { continue };
                    sender.send(LogItem::Line(line)).await.ok()?;
                }
            }
            else => return Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::frame::Frame;
    use gantry_control::sessions::LogQuery;
    use gantry_model::AllocationId;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    fn source(name: &str) -> (LogSource, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 20);
        (LogSource::of(MachineName::parse(name).expect("a name"), LogQuery::default(), near), far)
    }

    async fn say(session: &mut DuplexStream, lines: &[(u64, &str)]) {
        for (at, text) in lines {
            let instance = AllocationId::parse("shop.v1.web-1").expect("an id");
            let line = LogLine { at: Moment(*at), instance, error: false, text: (*text).to_owned() };
            let mut bytes = serde_json::to_vec(&line).expect("JSON");
            bytes.push(b'\n');
            Frame::Output(bytes).write(session).await.expect("sent");
        }
    }

    fn text(item: LogItem) -> String {
        match item {
            LogItem::Line(line) => line.text,
            LogItem::Unreachable(machine) => format!("without {}", machine.machine),
        }
    }

    async fn history(most: Option<usize>) -> Vec<String> {
        let ((a, mut at_a), (b, mut at_b)) = (source("a"), source("b"));
        say(&mut at_a, &[(1, "a1"), (4, "a4"), (3, "after a4"), (9, "a9")]).await;
        say(&mut at_b, &[(2, "b2"), (5, "b5")]).await;
        drop((at_a, at_b));
        let (sender, mut receiver) = mpsc::channel(64);
        assert!(send_history(vec![a, b], most, false, &sender).await.is_some_and(|left| left.is_empty()));
        drop(sender);
        let mut found = Vec::new();
        while let Some(item) = receiver.recv().await {
            found.push(text(item));
        }
        found
    }

    #[tokio::test]
    async fn merges_the_lines_of_machines_by_time() {
        assert_eq!(history(None).await, ["a1", "b2", "a4", "after a4", "b5", "a9"]);
        assert_eq!(history(Some(3)).await, ["after a4", "b5", "a9"]);
        assert_eq!(history(Some(0)).await, Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn follows_all_machines_and_names_one_that_leaves() {
        let ((a, mut at_a), (b, mut at_b)) = (source("a"), source("b"));
        for session in [&mut at_a, &mut at_b] {
            Frame::Output(Vec::new()).write(session).await.expect("sent");
        }
        let (sender, mut receiver) = mpsc::channel(64);
        let followed = tokio::spawn(async move {
            let sources = send_history(vec![a, b], None, true, &sender).await.expect("a client");
            assert_eq!(sources.len(), 2);
            follow(sources, &sender).await
        });
        say(&mut at_a, &[(7, "young")]).await;
        tokio::time::sleep(REORDER / 2).await;
        say(&mut at_b, &[(6, "old")]).await;
        for expected in ["old", "young"] {
            assert_eq!(text(receiver.recv().await.expect("a line")), expected);
        }
        at_a.shutdown().await.expect("closed");
        assert_eq!(text(receiver.recv().await.expect("an item")), "without a");
        say(&mut at_b, &[(8, "more")]).await;
        assert_eq!(text(receiver.recv().await.expect("a line")), "more");
        drop(at_b);
        assert_eq!(text(receiver.recv().await.expect("an item")), "without b");
        assert!(followed.await.expect("ended").is_some());
    }

    #[tokio::test]
    async fn a_machine_that_refuses_the_session_is_named_with_its_reason() {
        for follows in [false, true] {
            let ((a, mut at_a), (b, mut at_b)) = (source("a"), source("b"));
            Frame::Failed("update the machine".to_owned()).write(&mut at_a).await.expect("sent");
            say(&mut at_b, &[(1, "b1")]).await;
            drop((at_a, at_b));
            let (sender, mut receiver) = mpsc::channel(64);
            let left = send_history(vec![a, b], None, follows, &sender).await.expect("a client");
            assert!(left.is_empty());
            assert_eq!(receiver.recv().await.map(text).as_deref(), Some("b1"));
            let Some(LogItem::Unreachable(machine)) = receiver.recv().await else { panic!("a machine is missing") };
            assert_eq!((machine.machine.as_str(), machine.reason.as_str()), ("a", "update the machine"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_hangs_is_named_after_the_lines_of_the_others() {
        let ((a, _hangs), (b, mut at_b)) = (source("a"), source("b"));
        say(&mut at_b, &[(1, "b1")]).await;
        drop(at_b);
        let (sender, mut receiver) = mpsc::channel(64);
        let begun = Instant::now();
        send_history(vec![a, b], None, false, &sender).await.expect("a client");
        for expected in ["b1", "without a"] {
            assert_eq!(receiver.recv().await.map(text).as_deref(), Some(expected));
        }
        assert!(begun.elapsed() <= HISTORY_SILENCE);
    }
}
