//! A queue in Redis: a list of waiting jobs, and a list of the jobs of each client, so that no job is lost with its client.

use super::lines::Lines;
use super::{Client, Outcome, PAYLOAD};

/// A client with its connection.
pub(crate) struct ListClient {
    connection: Lines,
    own: Vec<u8>,
}

/// Connects the clients.
pub(crate) async fn connect(place: &str, clients: u32) -> Outcome<Vec<ListClient>> {
    let mut connected = Vec::new();
    for number in 0..clients {
        connected
            .push(ListClient { connection: Lines::connect(place).await?, own: format!("own-{number}").into_bytes() });
    }
    Ok(connected)
}

impl ListClient {
    fn add(&mut self, words: &[&[u8]]) {
        let requests = &mut self.connection.requests;
        requests.extend(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            requests.extend(format!("${}\r\n", word.len()).as_bytes());
            requests.extend(*word);
            requests.extend(b"\r\n");
        }
    }

    /// Sends the requests; returns their answers, each a number or a text.
    async fn answers(&mut self, count: usize) -> Outcome<Vec<Option<Vec<u8>>>> {
        self.connection.send().await?;
        let mut answers = Vec::new();
        for _ in 0..count {
            let line = self.connection.line().await?;
            answers.push(match line.split_at_checked(1) {
                Some(("$", "-1")) => None,
                Some(("$", length)) => Some(self.connection.bytes(length.parse()?).await?),
                Some((":", number)) => Some(number.as_bytes().to_vec()),
                _ => return Err(format!("redis: {line}").into()),
            });
        }
        Ok(answers)
    }
}

impl Client for ListClient {
    async fn lifecycles(&mut self, batch: usize) -> Outcome<usize> {
        let payloads = vec![&PAYLOAD[..]; batch];
        self.add(&[&[&b"RPUSH"[..], b"waiting"], &payloads[..]].concat());
        self.answers(1).await?;
        let own = self.own.clone();
        for _ in 0..batch {
            self.add(&[b"LMOVE", b"waiting", &own, b"LEFT", b"RIGHT"]);
        }
        let claimed: Vec<_> = self.answers(batch).await?.into_iter().flatten().collect();
        for job in &claimed {
            self.add(&[b"LREM", &own, b"1", job]);
        }
        self.answers(claimed.len()).await?;
        Ok(claimed.len())
    }
}
