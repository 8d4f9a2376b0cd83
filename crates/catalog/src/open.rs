//! Opening the database: the file is checked, created, migrated, and set up for durable writes.

use crate::MetadataUrl;
use crate::error::{ErrorClass, SQLITE_CORRUPT, SQLITE_NOT_A_DATABASE, class_of, sqlite_code};
use rustix::fs::Access;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, Executor};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How many readers there may be at once. SQLite has one writer at a time, so has [`Catalog`].
const READERS: u32 = 4;
/// How long a call waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a statement waits for another process that writes (milliseconds, as the pragma takes it),
/// before anything else. A commit is on disk when it returns: `FULL` in WAL mode.
const SETTINGS: [&str; 4] = [
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
];
/// The columns of Java Cassy's tables: an early version of it had fewer.
const EXPECTED: [&str; 3] = [
    "SELECT cluster_id, target_ip, snapshot_id, created_at, updated_at, backup_type, status FROM backup_history LIMIT 0",
    "SELECT cluster_id, target_ip, snapshot_id, created_at, updated_at, restore_type, status FROM restore_history LIMIT 0",
    "SELECT cluster_id, cluster_name, target_ips, keyspaces, data_dir, created_at, updated_at FROM cluster_info LIMIT 0",
];

/// The metadata database, opened. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// One connection: writers of this process queue here, not in SQLite's busy handler.
    pub(crate) writes: AnyPool,
    pub(crate) reads: AnyPool,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is never created: a mistyped path would silently begin an empty history.
    #[error("cannot open the metadata database {}: its directory does not exist", path.display())]
    NoDirectory {
        /// The database file.
        path: PathBuf,
    },
    /// A directory, a device, a pipe.
    #[error("cannot open the metadata database {}: it is not a regular file", path.display())]
    NotAFile {
        /// What was there in its place.
        path: PathBuf,
    },
    /// The file, or the directory it would be created in, cannot be read and written.
    #[error("cannot open the metadata database {} for reading and writing", path.display())]
    NoAccess {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something else has this name.
    #[error("cannot open the metadata database {}: it is not an SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// SQLite says that the file is damaged.
    #[error("cannot open the metadata database {location}: it is damaged")]
    Damaged {
        /// File or `:memory:`.
        location: String,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// Made by a version that we do not know.
    #[error(
        "cannot open the metadata database {location}: a newer version of cassy has changed it \
         (schema {found}, this version knows up to {known})"
    )]
    Newer {
        /// File or `:memory:`.
        location: String,
        /// The unknown schema version.
        found: i64,
        /// Our newest.
        known: i64,
    },
    /// The tables of Java Cassy are there, but not as its last versions have them.
    #[error(
        "cannot use the metadata database {location}: its tables are not those of Java Cassy's last version"
    )]
    OtherTables {
        /// File or `:memory:`.
        location: String,
        /// What SQLite said, naming the column.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be created or changed; nothing of it remains.
    #[error("cannot create or upgrade the tables of the metadata database {location}")]
    Migrate {
        /// File or `:memory:`.
        location: String,
        /// What went wrong.
        #[source]
        source: MigrateError,
    },
    /// Anything else that SQLite says.
    #[error("cannot open the metadata database {location}")]
    Database {
        /// File or `:memory:`.
        location: String,
        /// What it says.
        #[source]
        source: sqlx::Error,
    },
}

impl OpenError {
    /// Whether trying again can help.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Database { source, .. } | Self::Migrate { source: MigrateError::Execute(source), .. } => {
                class_of(source)
            }
            _ => ErrorClass::Permanent,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoDirectory { .. } => Some("Create the directory, or correct metadata_db_url."),
            Self::NotAFile { .. } | Self::NotADatabase { .. } => {
                Some("Let metadata_db_url name another file: it is created when it does not exist.")
            }
            Self::NoAccess { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("The file system is mounted read-only: mount it read-write.")
            }
            Self::NoAccess { .. } => Some("Let the server's user write the file and its directory."),
            Self::Damaged { .. } => {
                Some("Let metadata_db_url name a new file, and keep this one for a closer look.")
            }
            Self::Newer { .. } => {
                Some("Start the newer version of cassy, or let metadata_db_url name another file.")
            }
            Self::OtherTables { .. } => {
                Some("Let metadata_db_url name a new file; this one is left as it is.")
            }
            Self::Migrate { .. } | Self::Database { .. } => None,
        }
    }

    fn of(location: &str, source: sqlx::Error) -> Self {
        let location = location.to_owned();
        match sqlite_code(&source) {
            Some(SQLITE_CORRUPT) => Self::Damaged { location, source },
            Some(SQLITE_NOT_A_DATABASE) => Self::NotADatabase { path: PathBuf::from(location) },
            _ => Self::Database { location, source },
        }
    }
}

impl Catalog {
    /// Opens the database: the file is created when it is not there (its directory must be), and its tables are
    /// created or upgraded, all or none. A file that Java Cassy or `scripts/db.schema` has made keeps its rows.
    pub async fn open(url: &MetadataUrl) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let location = url.file().map_or_else(|| ":memory:".to_owned(), |path| path.display().to_string());
        if let Some(path) = url.file() {
            check_place(path)?;
            create(path)?;
        }
        let options = connect_options(url, &location)?;
        if let MetadataUrl::SqliteMemory = url {
            // Every further connection would have a memory of its own.
            let only = pool_options(1).connect_lazy_with(options);
            let mut connection = only.acquire().await.map_err(|e| OpenError::of(&location, e))?;
            migrate(&mut connection, &location).await?;
            return Ok(Self { writes: only.clone(), reads: only });
        }
        first_connection(&options, &location).await?;
        Ok(Self {
            writes: pool_options(1).connect_lazy_with(options.clone()),
            reads: pool_options(READERS).connect_lazy_with(options),
        })
    }

    /// Opens it with one connection, for readers and writers, that waits for nobody else: calls are answered in the order
    /// in which they were made, and a locked database refuses them at once. So a simulation can be played again.
    pub async fn open_in_order(url: &MetadataUrl) -> Result<Self, OpenError> {
        let opened = Self::open(url).await?;
        opened.close().await;
        let location = url.file().map_or_else(|| ":memory:".to_owned(), |path| path.display().to_string());
        let only = pool_options(1).after_connect(|connection, _| Box::pin(set_up_impatient(connection)));
        let only = only.connect_lazy_with(connect_options(url, &location)?);
        Ok(Self { writes: only.clone(), reads: only })
    }

    /// Whether a call is under way. With it a simulation knows when its clock may go on.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        [&self.writes, &self.reads].into_iter().any(|pool| pool.size() as usize > pool.num_idle())
    }

    /// Closes all connections, after the calls that are under way.
    pub async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }
}

fn pool_options(max_connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Connections to a file do not age, and one to the memory must not be closed.
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| Box::pin(set_up(connection)))
        // One whose COMMIT failed, on a disk that is full or breaks, and whose ROLLBACK did too: what was written
        // through it from then on would be part of a transaction that nobody commits.
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
}

async fn set_up(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    for setting in SETTINGS {
        connection.execute(setting).await?;
    }
    Ok(())
}

async fn set_up_impatient(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    set_up(connection).await?;
    connection.execute("PRAGMA busy_timeout = 0").await.map(|_| ())
}

/// Creates or upgrades the file. Without a pool, which would hide the reason of a failure.
async fn first_connection(options: &AnyConnectOptions, location: &str) -> Result<(), OpenError> {
    let failed = |source| OpenError::of(location, source);
    let mut connection = AnyConnection::connect_with(options).await.map_err(failed)?;
    set_up_patiently(&mut connection).await.map_err(failed)?;
    migrate(&mut connection, location).await?;
    connection.close().await.map_err(failed)
}

/// The change to WAL mode does not wait for others as all else does: it fails at once while one of them is
/// opening the same new file.
async fn set_up_patiently(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let give_up = Instant::now() + ACQUIRE_TIMEOUT;
    loop {
        match set_up(connection).await {
            Err(error) if class_of(&error) == ErrorClass::Transient && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

fn connect_options(url: &MetadataUrl, location: &str) -> Result<AnyConnectOptions, OpenError> {
    let failed = |source| OpenError::Database { location: location.to_owned(), source };
    let text = match url {
        MetadataUrl::SqliteMemory => "sqlite::memory:".to_owned(),
        MetadataUrl::SqliteFile(path) => {
            let absolute = std::path::absolute(path).map_err(|e| failed(sqlx::Error::Io(e)))?;
            format!("sqlite://{}?mode=rwc", percent_encoded(&absolute))
        }
    };
    text.parse().map_err(failed)
}

/// Every byte of a path but the plainest, so that no character of it means anything in a URL.
fn percent_encoded(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_');
    let encoded = |byte: &u8| {
        if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
    };
    path.as_os_str().as_encoded_bytes().iter().map(encoded).collect()
}

/// What SQLite would only answer with "unable to open database file", said in detail. Changes nothing.
pub(crate) fn check_place(path: &Path) -> Result<(), OpenError> {
    let path_buf = || path.to_path_buf();
    let no_access = |source| OpenError::NoAccess { path: path_buf(), source };
    let Ok(metadata) = path.metadata() else {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        if !directory.is_dir() {
            return Err(OpenError::NoDirectory { path: path_buf() });
        }
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        return rustix::fs::access(directory, wanted).map_err(|errno| no_access(errno.into()));
    };
    if !metadata.is_file() {
        return Err(OpenError::NotAFile { path: path_buf() });
    }
    let mut file = File::options().read(true).write(true).open(path).map_err(no_access)?;
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).map_err(no_access)?;
    match start.as_slice() {
        b"" | b"SQLite format 3\0" => Ok(()),
        _ => Err(OpenError::NotADatabase { path: path_buf() }),
    }
}

/// Ours from the beginning: what SQLite would say of a failure is less.
fn create(path: &Path) -> Result<(), OpenError> {
    let created = File::options().append(true).create(true).open(path);
    created.map(|_file| ()).map_err(|source| OpenError::NoAccess { path: path.to_path_buf(), source })
}

/// All steps in one transaction, which a second server waits for: they happen once, and completely.
async fn migrate(connection: &mut AnyConnection, location: &str) -> Result<(), OpenError> {
    let failed = |source| OpenError::of(location, source);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    // Not `run`, whose future is not `Send` on a borrowed connection.
    MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(|source| migrate_error(location, source))?;
    check_tables(&mut tx, location).await?;
    tx.commit().await.map_err(failed)
}

async fn check_tables(connection: &mut AnyConnection, location: &str) -> Result<(), OpenError> {
    for query in EXPECTED {
        connection
            .execute(query)
            .await
            .map_err(|source| OpenError::OtherTables { location: location.to_owned(), source })?;
    }
    Ok(())
}

fn migrate_error(location: &str, source: MigrateError) -> OpenError {
    let location = location.to_owned();
    match source {
        MigrateError::VersionMissing(found) => {
            let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
            OpenError::Newer { location, found, known }
        }
        source => OpenError::Migrate { location, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_migration_is_the_schema_that_we_ship() {
        let first = MIGRATIONS.iter().next().unwrap();
        assert_eq!(first.version, 1);
        assert_eq!(first.sql.as_str(), include_str!("../../../scripts/db.schema"));
    }

    #[test]
    fn a_path_means_nothing_in_a_url() {
        assert_eq!(percent_encoded(Path::new("/a b/%20?x=#ü.db")), "/a%20b/%2520%3Fx%3D%23%C3%BC.db");
    }

    #[tokio::test]
    async fn every_connection_is_set_up() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&MetadataUrl::SqliteFile(dir.path().join("c.db"))).await.unwrap();
        for pool in [&catalog.writes, &catalog.reads] {
            for (pragma, expected) in
                [("PRAGMA synchronous", 2_i64), ("PRAGMA foreign_keys", 1), ("PRAGMA busy_timeout", 10_000)]
            {
                assert_eq!(
                    sqlx::query_scalar::<_, i64>(pragma).fetch_one(pool).await.unwrap(),
                    expected,
                    "{pragma}"
                );
            }
        }
    }

    /// As on a broken disk: SQLite has ended the transaction by itself, so that COMMIT fails, and ROLLBACK after it.
    #[tokio::test]
    async fn a_connection_whose_commit_failed_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&MetadataUrl::SqliteFile(dir.path().join("c.db"))).await.unwrap();
        catalog.writes.execute("CREATE TEMP TABLE of_this_connection (number INTEGER)").await.unwrap();
        let mut transaction = catalog.writes.begin().await.unwrap();
        transaction.execute("ROLLBACK").await.unwrap();
        transaction.commit().await.unwrap_err();
        let mut next = catalog.writes.acquire().await.unwrap();
        assert!(!next.is_in_transaction());
        next.execute("SELECT number FROM of_this_connection").await.unwrap_err();
        drop(next);
        catalog.put_host_key("a", 22, "key").await.unwrap();
        assert_eq!(catalog.host_key("a", 22).await.unwrap().as_deref(), Some("key"));
    }

    /// The disk is full: SQLite is told so by a limit on the file's pages.
    #[tokio::test]
    async fn a_full_disk_is_transient_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&MetadataUrl::SqliteFile(dir.path().join("c.db"))).await.unwrap();
        catalog.put_host_key("a", 22, "before").await.unwrap();
        catalog.writes.execute("PRAGMA max_page_count = 1").await.unwrap();
        let error = catalog.put_host_key("b", 22, &"x".repeat(1 << 20)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
        catalog.writes.execute("PRAGMA max_page_count = 1000000").await.unwrap();
        assert_eq!(catalog.host_key("a", 22).await.unwrap().as_deref(), Some("before"));
        assert_eq!(catalog.host_key("b", 22).await.unwrap(), None);
        catalog.put_host_key("b", 22, "after").await.unwrap();
    }
}
