//! A queue in PostgreSQL, as people write it by hand: one table, `FOR UPDATE SKIP LOCKED`, one connection for each client.

use gantry_queue_store::PostgresAddress;
use tokio_postgres::{Client as Connection, Config, NoTls, Statement};

use super::{Client, OUTPUT, Outcome, PAYLOAD};

const TABLE: &str = "
    DROP TABLE IF EXISTS jobs;
    CREATE TABLE jobs (id BIGSERIAL PRIMARY KEY, state SMALLINT NOT NULL DEFAULT 0, payload BYTEA NOT NULL, output BYTEA);
    CREATE INDEX jobs_waiting ON jobs (id) WHERE state = 0;
";

/// A client with its connection.
pub(crate) struct TableClient {
    connection: Connection,
    submit: Statement,
    claim: Statement,
    complete: Statement,
}

/// Makes the table, and connects the clients.
pub(crate) async fn connect(place: &str, clients: u32) -> Outcome<Vec<TableClient>> {
    let address: PostgresAddress = place.parse()?;
    let mut config = Config::new();
    config.user(&address.user).dbname(&address.database);
    for (host, port) in &address.hosts {
        config.host(host).port(*port);
    }
    if let Some(path) = &address.password {
        config.password(std::fs::read_to_string(path)?.trim());
    }
    let mut connected = Vec::new();
    for number in 0..clients {
        let (connection, task) = config.connect(NoTls).await?;
        tokio::spawn(task);
        if number == 0 {
            connection.batch_execute(TABLE).await?;
        }
        let submit = "INSERT INTO jobs (payload) SELECT * FROM unnest($1::bytea[])";
        let claim = "UPDATE jobs SET state = 1 WHERE id = ANY (ARRAY(SELECT id FROM jobs WHERE state = 0 ORDER BY id \
                     LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id, payload";
        let complete = "UPDATE jobs SET state = 2, output = $2 WHERE id = ANY ($1)";
        let (submit, claim) = (connection.prepare(submit).await?, connection.prepare(claim).await?);
        let complete = connection.prepare(complete).await?;
        connected.push(TableClient { connection, submit, claim, complete });
    }
    Ok(connected)
}

impl Client for TableClient {
    async fn lifecycles(&mut self, batch: usize) -> Outcome<usize> {
        let payloads = vec![&PAYLOAD[..]; batch];
        self.connection.execute(&self.submit, &[&payloads]).await?;
        let most = i64::try_from(batch)?;
        let claimed = self.connection.query(&self.claim, &[&most]).await?;
        let claimed: Vec<i64> = claimed.iter().map(|row| row.get(0)).collect();
        self.connection.execute(&self.complete, &[&claimed, &OUTPUT]).await?;
        Ok(claimed.len())
    }
}
