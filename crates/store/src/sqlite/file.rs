//! The store's file: creates it, opens it, and refuses a damaged or foreign file.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use super::{checksum, high_water_mark, lease};
use crate::StoreError;

/// `GNTR`, the mark of Gantry's files. A file without this id is not a store.
const APPLICATION_ID: i64 = 0x474e_5452;

/// The newest format this code knows.
const FORMAT: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE head (revision INTEGER NOT NULL, compacted INTEGER NOT NULL, seal INTEGER NOT NULL);
    INSERT INTO head VALUES (1, 0, 0);
    CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL,
                          modified INTEGER NOT NULL, lease INTEGER, seal INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE changes (revision INTEGER NOT NULL, step INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
                          created INTEGER NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (revision, step)) WITHOUT ROWID;
    CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER NOT NULL, expires INTEGER NOT NULL,
                         boot TEXT NOT NULL DEFAULT '');
";

/// Opens the file for writing, making it first when there is none.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    if !exists(path)? {
        create(path)?;
    }
    if check(path)?.is_none() {
        upgrade(path)?;
    }
    let mut connection = connect(path)?;
    lease::prepare(&mut connection).map_err(|error| explain("upgrade", path, error))?;
    Ok(connection)
}

/// Reports whether the store's file exists. A write-ahead log or a high-water mark without the file is an error: the
/// file was lost, and a new file would hide the loss.
fn exists(path: &Path) -> Result<bool, StoreError> {
    if path.exists() {
        return Ok(true);
    }
    let log = path.with_extension(format!("{}-wal", path.extension().unwrap_or_default().display()));
    match [log, high_water_mark::path(path)].into_iter().find(|part| part.exists()) {
        None => Ok(false),
        Some(part) => {
            let detail = format!("the file is missing, but {} exists", part.display());
            Err(StoreError::Damaged { path: path.display().to_string(), detail })
        }
    }
}

/// Creates the file under another name and links it into place, so that a file with the store's name is always whole.
fn create(path: &Path) -> Result<(), StoreError> {
    let fail = |error| explain("create", path, error);
    let io = |source: std::io::Error| StoreError::File {
        action: "create",
        path: path.display().to_string(),
        source: source.into(),
    };
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let connection = Connection::open(&fresh).map_err(fail)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
    connection.pragma_update(None, "user_version", FORMAT).map_err(fail)?;
    connection.execute_batch(SCHEMA).map_err(fail)?;
    checksum::set_head(&connection, 1, 0).map_err(fail)?;
    connection.close().map_err(|(_, error)| fail(error))?;
    std::fs::File::open(&fresh).and_then(|file| file.sync_all()).map_err(io)?;
    // A hard link fails where a rename would replace the target: of two processes, only the first creates the file.
    match std::fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    std::fs::remove_file(&fresh).map_err(io)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Adds checksums to a file of format 1, in one transaction.
fn upgrade(path: &Path) -> Result<(), StoreError> {
    let mut connection = connect(path)?;
    let mut work = || -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        checksum::upgrade(&transaction)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()
    };
    work().map_err(|error| explain("upgrade", path, error))
}

/// Checks every page and every record of a store's file without changing the file. Returns the number of entries, or
/// none for a file of format 1, whose records have no checksums yet.
///
/// # Errors
/// [`StoreError::Damaged`], [`StoreError::Newer`], [`StoreError::Locked`] or [`StoreError::File`].
pub fn check(path: &Path) -> Result<Option<usize>, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    check_by(path, || Connection::open_with_flags(path, flags))
}

/// Does the same checks as [`check`], over a connection that `open` makes.
fn check_by(path: &Path, open: impl FnOnce() -> rusqlite::Result<Connection>) -> Result<Option<usize>, StoreError> {
    let damaged = |detail: String| StoreError::Damaged { path: path.display().to_string(), detail };
    // A store's file has known tables and types: a table or type that SQLite does not find was lost.
    let fail = |error: rusqlite::Error| match error.sqlite_error_code() {
        None | Some(ErrorCode::Unknown | ErrorCode::TypeMismatch) => damaged(error.to_string()),
        _ => explain("check", path, error),
    };
    let versions = versions(path).map_err(|source| StoreError::File {
        action: "open",
        path: path.display().to_string(),
        source: source.into(),
    })?;
    match versions {
        None => return Err(damaged("the file is empty, or ends within its header".to_owned())),
        Some([1, 1] | [2, 2]) => {}
        Some([write, read]) => return Err(damaged(format!("the header has the versions {write} and {read}"))),
    }
    // Read the high-water mark before the file, because another process may write in between.
    let acknowledged = high_water_mark::read(path)?;
    let connection = open().map_err(fail)?;
    // Closing the connection must leave a damaged log unchanged.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(fail);
    if number("application_id")? != APPLICATION_ID {
        return Err(damaged("the file is not a Gantry store".to_owned()));
    }
    let found = number("user_version")?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.display().to_string(), found, known: FORMAT });
    }
    let verdict: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0)).map_err(fail)?;
    match (verdict.as_str(), found) {
        ("ok", FORMAT) => {
            let entries = checksum::check(&connection).map_err(fail)?;
            let (revision, _) = checksum::head(&connection).map_err(fail)?;
            if revision < acknowledged {
                return Err(damaged(format!(
                    "revision {acknowledged} was acknowledged, and the file ends with {revision}: the log is damaged, or the \
                     file is an older copy (remove {} to open the file anyway)",
                    high_water_mark::path(path).display()
                )));
            }
            Ok(Some(entries))
        }
        ("ok", 1) => Ok(None),
        ("ok", _) => Err(damaged(format!("the file has the unknown format {found}"))),
        _ => Err(damaged(verdict)),
    }
}

/// Reads the write and read versions of the file, bytes 18 and 19 of its header (the SQLite file format, section
/// 1.3.3). Both are 2 with a write-ahead log and 1 without. With other values SQLite would not report damage, but open
/// the file read-only. Returns none for a file that is too short.
fn versions(path: &Path) -> std::io::Result<Option<[u8; 2]>> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(20).read_to_end(&mut head)?;
    Ok(head.get(18..).and_then(|versions| versions.try_into().ok()))
}

/// Removes the high-water mark of a store whose file at `path` is gone.
///
/// # Errors
/// [`StoreError::File`].
pub fn remove_high_water_mark(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(high_water_mark::path(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::File {
            action: "remove the high-water mark of",
            path: path.display().to_string(),
            source: error.into(),
        }),
        _ => Ok(()),
    }
}

/// Moves the whole log into its file, so that the file alone is the store. No process may use the file.
///
/// # Errors
/// [`StoreError::Locked`] when a process uses the file, [`StoreError::File`].
pub fn merge_log(path: &Path) -> Result<(), StoreError> {
    let fail = |error| explain("close", path, error);
    let connection = connect(path)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0)).map_err(fail)?;
    if !mode.eq_ignore_ascii_case("delete") {
        return Err(StoreError::Locked { path: path.display().to_string() });
    }
    connection.close().map_err(|(_, error)| fail(error))
}

/// Opens a connection with the settings that make commits durable.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let fail = |error| explain("open", path, error);
    let mut connection = Connection::open(path).map_err(fail)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(fail)?;
    if !mode.eq_ignore_ascii_case("wal") {
        let source = format!("the file system does not support a write-ahead log (journal mode {mode})").into();
        return Err(StoreError::File { action: "open", path: path.display().to_string(), source });
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(connection)
}

/// Opens the file on a disk that takes no writes, after the same checks.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    if check_by(path, || reading(path))?.is_none() {
        // Upgrading from format 1 is a write, so the file cannot be read here.
        return Err(StoreError::ReadOnly { path: path.display().to_string() });
    }
    reading(path).map_err(|error| explain("open", path, error))
}

/// Checks that this code knows the file's format. Another process may use the file meanwhile.
///
/// # Errors
/// [`StoreError::Newer`], [`StoreError::Damaged`] or [`StoreError::File`].
pub fn check_format(path: &Path) -> Result<(), StoreError> {
    let fail = |error| explain("read the format of", path, error);
    let connection = reading(path).map_err(fail)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(fail);
    if number("application_id")? != APPLICATION_ID {
        let detail = "the file is not a Gantry store".to_owned();
        return Err(StoreError::Damaged { path: path.display().to_string(), detail });
    }
    match number("user_version")? {
        found if found > FORMAT => Err(StoreError::Newer { path: path.display().to_string(), found, known: FORMAT }),
        _ => Ok(()),
    }
}

/// Reads the value of one key from a file whose format [`check_format`] knows, and writes nothing. Another process may use
/// the file meanwhile.
///
/// # Errors
/// [`StoreError::File`] or [`StoreError::Damaged`].
pub fn read_value(path: &Path, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let read =
        || reading(path)?.query_row("SELECT value FROM entries WHERE key = ?1", [key], |row| row.get(0)).optional();
    read().map_err(|error| explain("read", path, error))
}

/// Opens a connection that writes nothing. Where there is no log, SQLite would create a log even to read. Without a log
/// the file alone is the whole store, and no process can write to it, so the connection opens the file as immutable.
fn reading(path: &Path) -> rusqlite::Result<Connection> {
    let log = path.with_extension(format!("{}-wal", path.extension().unwrap_or_default().display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if std::fs::metadata(log).is_ok_and(|log| log.len() > 0) {
        return Connection::open_with_flags(path, flags);
    }
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let address = format!("file:{escaped}?immutable=1");
    Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI)
}

/// Converts SQLite's error to [`StoreError`].
pub(super) fn explain(action: &'static str, path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, detail: error.to_string() }
        }
        _ => StoreError::File { action, path, source: error.into() },
    }
}
