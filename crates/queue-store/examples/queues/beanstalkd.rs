//! A queue in beanstalkd.

use super::lines::Lines;
use super::{Client, Outcome, PAYLOAD};

/// A client with its connection.
pub(crate) struct TubeClient(Lines);

/// Connects the clients.
pub(crate) async fn connect(place: &str, clients: u32) -> Outcome<Vec<TubeClient>> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(TubeClient(Lines::connect(place).await?));
    }
    Ok(connected)
}

impl TubeClient {
    fn add(&mut self, request: &str) {
        self.0.requests.extend(request.as_bytes());
    }

    /// Reads a line that begins with `word`; returns the rest.
    async fn expect(&mut self, word: &str) -> Outcome<String> {
        let line = self.0.line().await?;
        let rest = line.strip_prefix(word).ok_or_else(|| format!("beanstalkd: {line}"))?;
        Ok(rest.trim_start().to_owned())
    }
}

impl Client for TubeClient {
    async fn lifecycles(&mut self, batch: usize) -> Outcome<usize> {
        for _ in 0..batch {
            self.add(&format!("put 0 0 60 {}\r\n", PAYLOAD.len()));
            self.0.requests.extend(PAYLOAD);
            self.add("\r\n");
        }
        self.0.send().await?;
        for _ in 0..batch {
            self.expect("INSERTED").await?;
        }
        self.add(&"reserve\r\n".repeat(batch));
        self.0.send().await?;
        for _ in 0..batch {
            let job = self.expect("RESERVED").await?;
            let (id, length) = job.split_once(' ').ok_or("beanstalkd: no length")?;
            let request = format!("delete {id}\r\n");
            self.0.bytes(length.parse()?).await?;
            self.add(&request);
        }
        self.0.send().await?;
        for _ in 0..batch {
            self.expect("DELETED").await?;
        }
        Ok(batch)
    }
}
