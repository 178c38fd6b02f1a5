//! The tables, and their parts.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::ClusterId;

use super::failure::Failure;
use super::session::Session;
use crate::sql::value::bound;
use crate::sql::{Database, Fault, NumberedTable};

/// The newest format.
pub(super) const FORMAT: i64 = 5;

/// The first format whose queues belong to a cluster.
const HAS_CLUSTER: i64 = 4;

/// Numbers of jobs or messages in a part, unless a test chooses otherwise. A full part has a few hundred megabytes.
pub(super) const PART: i64 = 1_000_000;

/// Tables in parts, and the numbers by which they are divided.
const PARTED: [(&str, NumberedTable); 5] = [
    ("jobs", NumberedTable::Jobs),
    ("bodies", NumberedTable::Jobs),
    ("results", NumberedTable::Jobs),
    ("messages", NumberedTable::Messages),
    ("deliveries", NumberedTable::Deliveries),
];

/// `gantry_queue` has one row: the server that writes, and its last transaction. See the module above.
///
/// Texts that users choose are bytes, because PostgreSQL's texts contain no NUL. The order of texts is that of their bytes.
const SCHEMA: &str = "
    CREATE TABLE owner (format BIGINT NOT NULL, part BIGINT NOT NULL, epoch BIGINT NOT NULL, batch BIGINT NOT NULL)
        WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
    CREATE TABLE queues (id BIGINT PRIMARY KEY, project TEXT COLLATE \"C\" NOT NULL, code TEXT COLLATE \"C\" NOT NULL,
                         paused BIGINT NOT NULL DEFAULT 0, most BIGINT, extra BIGINT NOT NULL DEFAULT 0,
                         UNIQUE (project, code));
    CREATE TABLE jobs (id BIGINT PRIMARY KEY, queue BIGINT NOT NULL, state BIGINT NOT NULL, place BIGINT NOT NULL,
                       fence BIGINT NOT NULL, failures BIGINT NOT NULL, lost BIGINT NOT NULL, submitted BIGINT NOT NULL,
                       expiry BIGINT, key BYTEA, idempotency BYTEA, machine TEXT, cancelling BIGINT NOT NULL DEFAULT 0,
                       ended BIGINT, percent BIGINT, message BYTEA, settings TEXT NOT NULL) PARTITION BY RANGE (id);
    CREATE INDEX jobs_delayed ON jobs (place) WHERE state = 0;
    CREATE INDEX jobs_held ON jobs (queue, key, place) WHERE state = 1;
    CREATE INDEX jobs_ready ON jobs (queue, place, id) WHERE state = 2;
    CREATE INDEX jobs_leased ON jobs (queue) WHERE state = 3;
    CREATE INDEX jobs_ended ON jobs (place) WHERE state = 4;
    CREATE INDEX jobs_dead ON jobs (queue, id) WHERE state = 4 AND ended IN (1, 2, 4, 5);
    CREATE INDEX jobs_expiry ON jobs (expiry) WHERE state < 3 AND expiry IS NOT NULL;
    CREATE INDEX jobs_key ON jobs (queue, key) WHERE key IS NOT NULL AND state IN (2, 3);
    CREATE INDEX jobs_idempotency ON jobs (queue, idempotency) WHERE idempotency IS NOT NULL;
    CREATE TABLE bodies (job BIGINT PRIMARY KEY, work BYTEA NOT NULL, payload BYTEA NOT NULL, submitter BYTEA NOT NULL)
        PARTITION BY RANGE (job);
    CREATE TABLE results (job BIGINT PRIMARY KEY, details BYTEA NOT NULL, output BYTEA NOT NULL) PARTITION BY RANGE (job);
    CREATE TABLE schedules (id BIGINT PRIMARY KEY, project TEXT COLLATE \"C\" NOT NULL, name TEXT COLLATE \"C\" NOT NULL,
                            schedule TEXT NOT NULL, template BYTEA NOT NULL, of_release BIGINT NOT NULL,
                            creator BYTEA NOT NULL, paused BIGINT NOT NULL DEFAULT 0, created BIGINT NOT NULL,
                            handled BIGINT NOT NULL, runs BIGINT NOT NULL DEFAULT 0, skipped BIGINT NOT NULL DEFAULT 0,
                            last_run BIGINT, last_job BIGINT, note BYTEA, next BIGINT, UNIQUE (project, name));
    CREATE INDEX schedules_next ON schedules (next) WHERE next IS NOT NULL AND paused = 0;
    CREATE TABLE message_queues (id BIGINT PRIMARY KEY, project TEXT COLLATE \"C\" NOT NULL, name BYTEA NOT NULL,
                                 settings TEXT NOT NULL, size BIGINT NOT NULL DEFAULT 0, total BIGINT NOT NULL DEFAULT 0,
                                 UNIQUE (project, name)) WITH (fillfactor = 50);
    CREATE TABLE messages (id BIGINT PRIMARY KEY, queue BIGINT NOT NULL, body BYTEA NOT NULL, waiting BIGINT NOT NULL,
                           due BIGINT NOT NULL, reserved BIGINT NOT NULL, reservation BIGINT NOT NULL,
                           reservations BIGINT NOT NULL, expires BIGINT NOT NULL) PARTITION BY RANGE (id);
    CREATE INDEX messages_waiting ON messages (queue, id) WHERE waiting = 1;
    CREATE INDEX messages_due ON messages (queue, due) WHERE waiting = 0;
    CREATE INDEX messages_of_queue ON messages (queue, id);
    CREATE INDEX messages_expiry ON messages (expires);
    CREATE FUNCTION message_added() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE message_queues SET size = size + 1, total = total + 1 WHERE id = NEW.queue; RETURN NULL; END $$;
    CREATE FUNCTION message_removed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE message_queues SET size = size - 1 WHERE id = OLD.queue; RETURN NULL; END $$;
    CREATE TRIGGER message_added AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION message_added();
    CREATE TRIGGER message_removed AFTER DELETE ON messages FOR EACH ROW EXECUTE FUNCTION message_removed();
    CREATE SEQUENCE jobs_numbers INCREMENT BY 100 MINVALUE 1;
    CREATE SEQUENCE messages_numbers INCREMENT BY 100 MINVALUE 1;
    CREATE SEQUENCE queues_numbers;
    CREATE SEQUENCE schedules_numbers;
    CREATE SEQUENCE message_queues_numbers;
";

/// The changes from format 1: deliveries of push queues and of callbacks, and the keys that sign callbacks.
const DELIVERIES: &str = "
    CREATE TABLE deliveries (id BIGINT PRIMARY KEY, queue BIGINT, message BIGINT, job BIGINT, subscriber BYTEA,
                             host TEXT COLLATE \"C\" NOT NULL, state BIGINT NOT NULL, due BIGINT,
                             reservation BIGINT NOT NULL, attempts BIGINT NOT NULL, status BIGINT, note BYTEA,
                             tried BIGINT) PARTITION BY RANGE (id);
    CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL;
    CREATE INDEX deliveries_host ON deliveries (host, due, id) WHERE due IS NOT NULL;
    CREATE INDEX deliveries_message ON deliveries (message) WHERE message IS NOT NULL;
    CREATE INDEX deliveries_job ON deliveries (job) WHERE job IS NOT NULL;
    ALTER TABLE messages ADD COLUMN headers BYTEA;
    ALTER TABLE message_queues ADD COLUMN deliveries BIGINT NOT NULL DEFAULT 0;
    CREATE FUNCTION delivery_added() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE message_queues SET deliveries = deliveries + 1 WHERE id = NEW.queue; RETURN NULL; END $$;
    CREATE FUNCTION delivery_removed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE message_queues SET deliveries = deliveries - 1 WHERE id = OLD.queue; RETURN NULL; END $$;
    CREATE TRIGGER delivery_added AFTER INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION delivery_added();
    CREATE TRIGGER delivery_removed AFTER DELETE ON deliveries FOR EACH ROW EXECUTE FUNCTION delivery_removed();
    CREATE OR REPLACE FUNCTION message_removed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            UPDATE message_queues SET size = size - 1 WHERE id = OLD.queue;
            DELETE FROM deliveries WHERE message = OLD.id;
            RETURN NULL;
        END $$;
    CREATE TABLE signing_keys (project TEXT COLLATE \"C\" PRIMARY KEY, current TEXT NOT NULL, previous TEXT,
                               rotated BIGINT);
    CREATE SEQUENCE deliveries_numbers INCREMENT BY 100 MINVALUE 1;
";

/// The changes from format 2: the numbers of the contents that are moved into the database, or were. See `target`.
const MOVES: &str = "ALTER TABLE owner ADD COLUMN moving TEXT; ALTER TABLE owner ADD COLUMN moved TEXT";

/// The changes from format 3: the cluster whose servers write the queue. None before the first of them has connected.
const CLUSTER: &str = "ALTER TABLE owner ADD COLUMN cluster_id TEXT";

/// The changes from format 4: the orders of the jobs are in memory. Half of each new page of jobs is left free: a claim and a
/// successful end, which change no indexed column, stay in the page of their job and write no index.
const ORDERS: &str = "
    DROP INDEX IF EXISTS jobs_delayed, jobs_held, jobs_ready, jobs_leased, jobs_ended, jobs_dead, jobs_expiry, jobs_key;
    CREATE INDEX jobs_dead ON jobs (queue, id) WHERE ended IN (1, 2, 4, 5);
    DO $$ DECLARE part regclass; BEGIN
        FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST('jobs' AS regclass) LOOP
            EXECUTE format('ALTER TABLE %s SET (fillfactor = 50)', part);
        END LOOP;
    END $$;
";

/// Makes missing tables, in one transaction; refuses those of a newer version or of another cluster. Two servers may do it
/// at the same time.
pub(super) fn prepare(session: &Session, part: i64, cluster: Option<ClusterId>) -> Result<(), Fault> {
    session.batch("BEGIN; SELECT pg_advisory_xact_lock(1196315729)")?;
    session.batch("CREATE SCHEMA IF NOT EXISTS gantry_queue")?;
    let found = session
        .number("SELECT count(*) FROM pg_tables WHERE schemaname = 'gantry_queue' AND tablename = 'owner'", &[])?;
    if found == 0 {
        session.batch(SCHEMA)?;
        session.execute("INSERT INTO owner (format, part, epoch, batch) VALUES (1, ?1, 0, 0)", bound![part])?;
    }
    let format = session.one("SELECT format FROM owner", &[])?;
    let format: i64 = format.ok_or_else(|| Fault::Row("the table owner has no row".to_owned()))?.get(0)?;
    if format > FORMAT {
        return Err(Failure::Newer(format).into());
    }
    if format >= HAS_CLUSTER {
        session.check_cluster(cluster)?;
    }
    if format < 2 {
        session.batch(DELIVERIES)?;
    }
    if format < 3 {
        session.batch(MOVES)?;
    }
    if format < HAS_CLUSTER {
        session.batch(CLUSTER)?;
    }
    if format < FORMAT {
        session.batch(ORDERS)?;
        session.execute("UPDATE owner SET format = ?1", bound![FORMAT])?;
    }
    session.batch("COMMIT")
}

/// The parts of each table, by their places.
#[derive(Debug, Default)]
pub(super) struct TablePartitions {
    /// Numbers in a part.
    pub(super) size: i64,
    known: BTreeMap<&'static str, BTreeSet<i64>>,
}

impl TablePartitions {
    /// Reads which parts there are.
    pub(super) fn read(session: &Session, size: i64) -> Result<Self, Fault> {
        let mut parts = Self { size, known: BTreeMap::new() };
        let sql = "SELECT CAST(part.relname AS TEXT) FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid \
                   JOIN pg_class whole ON whole.oid = inhparent \
                   WHERE whole.relkind = 'p' AND whole.relnamespace = CAST('gantry_queue' AS regnamespace)";
        for mut row in session.query(sql, &[])? {
            let name: String = row.get(0)?;
            let Some((table, place)) = name.rsplit_once("_p") else { continue };
            let table = PARTED.iter().map(|(table, _)| *table).find(|known| *known == table);
            if let (Some(table), Ok(place)) = (table, place.parse()) {
                parts.known.entry(table).or_default().insert(place);
            }
        }
        Ok(parts)
    }

    /// Statements that make the parts in which a number lies; none if they are there.
    pub(super) fn make(&mut self, of: NumberedTable, number: i64) -> Vec<String> {
        let place = number / self.size;
        let (from, to) = (place * self.size, (place + 1) * self.size);
        let tables = PARTED.iter().filter(|(_, by)| *by == of).map(|(table, _)| *table);
        let missing = tables.filter(|table| self.known.entry(table).or_default().insert(place));
        let statement = |table: &str| {
            let filled = if table == "jobs" { 50 } else { 100 };
            format!(
                "CREATE TABLE {table}_p{place} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to}) \
                 WITH (fillfactor = {filled}, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, \
                 autovacuum_vacuum_cost_delay = 0)"
            )
        };
        missing.map(statement).collect()
    }

    /// The places of whole parts below a number.
    pub(super) fn below(&self, of: NumberedTable, number: i64) -> BTreeSet<i64> {
        let tables = PARTED.iter().filter(|(_, by)| *by == of);
        let places = tables.filter_map(|(table, _)| self.known.get(table)).flatten();
        places.copied().filter(|place| (place + 1) * self.size <= number).collect()
    }

    /// The tables of a part.
    pub(super) fn tables(&self, of: NumberedTable, place: i64) -> Vec<String> {
        let tables = PARTED
            .iter()
            .filter(|(table, by)| *by == of && self.known.get(table).is_some_and(|places| places.contains(&place)));
        tables.map(|(table, _)| format!("{table}_p{place}")).collect()
    }

    /// Forgets a part that was removed.
    pub(super) fn forget(&mut self, of: NumberedTable, place: i64) {
        for (table, _) in PARTED.iter().filter(|(_, by)| *by == of) {
            if let Some(places) = self.known.get_mut(table) {
                places.remove(&place);
            }
        }
    }
}
