//! The incremental files that a coming snapshot supersedes: noted before it, deleted after its backup is durable.
//!
//! Cassandra links each flushed SSTable into `backups/` and never cleans there. Only files that have the name of
//! a component are ever noted, and a noted file is deleted only while it is still the same one: device, inode, and
//! time of birth where it is known, and only when the backup holds its table: of one that was dropped it may be all that
//! is left. The list is an object of the store, so that it outlives this agent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;

use cassy_agent_protocol::{AgentError, AgentErrorKind, SupersededRequest};
use cassy_backup_format::{
    FORMAT, Header, KeyError, Keys, LEAST_READER, ManifestError, ManifestReader, ObjectKey, SupersededFile,
    SupersededHeader, SupersededList, SupersededWriter, TableRef,
};
use cassy_sstable::{BACKUPS_DIRECTORY, ComponentName, TableDirectory, is_index_directory};
use cassy_store::{Store, StoreAccess, StoreError};

use crate::context::Context;
use crate::directory::{Directory, FileError, Kind};
use crate::failure::{IntoAgentError, agent_error};
use crate::upload::{Hashing, SpoolFile, UploadError, download, put};

/// Why the files cannot be noted or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupersededError {
    /// A file or directory of the node.
    #[error("cannot deal with the incremental files in {BACKUPS_DIRECTORY}/")]
    File {
        #[source]
        source: FileError,
    },
    /// The list cannot be written or is not believed.
    #[error("cannot {operation} the list {key} of superseded files")]
    List {
        operation: &'static str,
        key: ObjectKey,
        #[source]
        source: ManifestError,
    },
    /// The list is one of something else, or names what is no incremental file.
    #[error("the list {key} of superseded files is not to be trusted: {what}")]
    Foreign { key: ObjectKey, what: String },
    /// What the backup holds cannot be read.
    #[error("cannot tell from the manifest {key} which tables the backup holds")]
    Manifest {
        key: ObjectKey,
        #[source]
        source: ManifestError,
    },
    /// It is that of something else.
    #[error("the manifest {key} is of another cluster, node or backup than its key says")]
    OtherManifest { key: ObjectKey },
    /// The cluster's id makes no key.
    #[error("cannot name the list of superseded files")]
    Key {
        #[source]
        source: KeyError,
    },
    /// Between the store and the agent's own files.
    #[error("cannot keep the list of superseded files")]
    Transfer {
        #[source]
        source: UploadError,
    },
}

impl IntoAgentError for SupersededError {
    fn into_agent_error(self) -> AgentError {
        let (kind, hint) = match &self {
            Self::File { source } => (source.kind(), source.hint()),
            Self::Transfer { source } => (source.kind(), source.hint()),
            Self::List { .. }
            | Self::Foreign { .. }
            | Self::Manifest { .. }
            | Self::OtherManifest { .. }
            | Self::Key { .. } => (AgentErrorKind::Permanent, None),
        };
        AgentError { hint, ..agent_error(&self, kind) }
    }
}

/// Notes every component in a `backups/` directory of the node; answers how many. A list that an earlier try has
/// stored stays: what it names lay there before the snapshot as well.
pub(crate) async fn list(
    ctx: &Context,
    request: &SupersededRequest,
    spool_dir: &Path,
) -> Result<u64, SupersededError> {
    let (store, key) = open(request)?;
    let (spool, file) = SpoolFile::create(spool_dir, "superseded").map_err(transfer)?;
    let (work, wanted, name) = (ctx.clone(), request.clone(), key.clone());
    let written = on_thread(move || {
        let header = header(&wanted);
        let file = Hashing::new(BufWriter::new(file));
        let mut notes =
            Notes { ctx: work, lines: SupersededWriter::new(file, &header).map_err(unwritten(&name))? };
        for data in &wanted.data_directories {
            notes.data(data, &name)?;
        }
        notes.lines.finish().map_err(unwritten(&name))
    });
    let (written, files) = written.await?;
    match put(store.as_ref(), &key, "store the list", &spool, (&written.blake3(), written.bytes())).await {
        Ok(()) => Ok(files),
        Err(UploadError::Store { source: StoreError::AlreadyExists { .. }, .. }) => {
            Ok(fetch(ctx, store.as_ref(), request, key, spool_dir).await?.map_or(0, |list| list.files))
        }
        Err(source) => Err(transfer(source)),
    }
}

/// Deletes those of the list that are still the same files, and of tables that the durable backup holds; answers how
/// many. Directories stay. Nothing is deleted unless the whole list and the whole manifest are believed; when there is no
/// list, there is nothing to delete.
pub(crate) async fn clear(
    ctx: &Context,
    request: &SupersededRequest,
    spool_dir: &Path,
) -> Result<u64, SupersededError> {
    let (store, key) = open(request)?;
    let Some(list) = fetch(ctx, store.as_ref(), request, key, spool_dir).await? else { return Ok(0) };
    if list.files == 0 {
        return Ok(0);
    }
    let held = held(ctx, store.as_ref(), request, spool_dir).await?;
    let (ctx, directories) = (ctx.clone(), request.data_directories.clone());
    on_thread(move || remove_all(&ctx, &list, &held, &directories)).await
}

/// The tables of the backup's node manifest, which was read to its footer.
async fn held(
    ctx: &Context,
    store: &dyn Store,
    request: &SupersededRequest,
    spool_dir: &Path,
) -> Result<BTreeSet<TableRef>, SupersededError> {
    let key = keys(request)?.node_manifest(&request.host_id, &request.backup_id);
    let (spool, _) = download(ctx, store, &key, spool_dir, "manifest").await.map_err(transfer)?;
    let (ctx, wanted) = (ctx.clone(), header(request));
    on_thread(move || {
        let unread = |source| SupersededError::Manifest { key: key.clone(), source };
        let file = BufReader::new(spool.open().map_err(transfer)?);
        let lines = ManifestReader::open(file).map_err(unread)?;
        let Header { cluster_id, host_id, backup_id, tables, .. } = lines.header().clone();
        if (cluster_id, host_id, backup_id) != (wanted.cluster_id, wanted.host_id, wanted.backup_id) {
            return Err(SupersededError::OtherManifest { key });
        }
        let tables = tables.into_iter().collect();
        for line in lines {
            ctx.check().map_err(transfer)?;
            line.map_err(unread)?;
        }
        Ok(tables)
    })
    .await
}

fn open(request: &SupersededRequest) -> Result<(Arc<dyn Store>, ObjectKey), SupersededError> {
    let access = StoreAccess::new(request.store.location.clone());
    let store = cassy_store::open(&access)
        .map_err(|source| transfer(UploadError::Store { what: "open the store", source }))?;
    Ok((store, keys(request)?.superseded(&request.host_id, &request.backup_id)))
}

fn keys(request: &SupersededRequest) -> Result<Keys, SupersededError> {
    Keys::new(request.cluster_id.clone()).map_err(|source| SupersededError::Key { source })
}

fn header(request: &SupersededRequest) -> SupersededHeader {
    SupersededHeader {
        format: FORMAT,
        least_reader: LEAST_READER,
        cluster_id: request.cluster_id.clone(),
        host_id: request.host_id,
        backup_id: request.backup_id,
    }
}

/// A list that was read to its end.
struct Fetched {
    key: ObjectKey,
    spool: SpoolFile,
    files: u64,
}

impl Fetched {
    fn lines(&self) -> Result<SupersededList<BufReader<File>>, SupersededError> {
        let file = BufReader::new(self.spool.open().map_err(transfer)?);
        SupersededList::open(file).map_err(unread(&self.key))
    }
}

async fn fetch(
    ctx: &Context,
    store: &dyn Store,
    request: &SupersededRequest,
    key: ObjectKey,
    spool_dir: &Path,
) -> Result<Option<Fetched>, SupersededError> {
    let spool = match download(ctx, store, &key, spool_dir, "superseded").await {
        Ok((spool, _)) => spool,
        Err(UploadError::Store { source: StoreError::NotFound { .. }, .. }) => return Ok(None),
        Err(source) => return Err(transfer(source)),
    };
    let (ctx, wanted) = (ctx.clone(), header(request));
    on_thread(move || {
        let mut list = Fetched { key, spool, files: 0 };
        let lines = list.lines()?;
        let SupersededHeader { cluster_id, host_id, backup_id, .. } = lines.header();
        if (cluster_id, host_id, backup_id) != (&wanted.cluster_id, &wanted.host_id, &wanted.backup_id) {
            let what = "it is of another cluster, node or backup".to_owned();
            return Err(SupersededError::Foreign { key: list.key, what });
        }
        for file in lines {
            ctx.check().map_err(transfer)?;
            let file = file.map_err(unread(&list.key))?;
            if names(&file).is_none() {
                let what = format!("{:?} is no component of an SSTable in {BACKUPS_DIRECTORY}/", file.name);
                return Err(SupersededError::Foreign { key: list.key, what });
            }
            list.files += 1;
        }
        Ok(Some(list))
    })
    .await
}

/// From the data directory to the directory of a noted file; `None` when it is not where incremental files lie.
fn names(file: &SupersededFile) -> Option<Vec<String>> {
    let TableRef { keyspace, table, id } = &file.table;
    let table = format!("{table}-{id}");
    TableDirectory::parse(&table)?;
    ComponentName::parse(&file.name)?;
    if !file.index.iter().all(|index| is_index_directory(index)) {
        return None;
    }
    let path = [keyspace.clone(), table, BACKUPS_DIRECTORY.to_owned()];
    Some(path.into_iter().chain(file.index.clone()).collect())
}

fn remove_all(
    ctx: &Context,
    list: &Fetched,
    held: &BTreeSet<TableRef>,
    data_directories: &[String],
) -> Result<u64, SupersededError> {
    let mut open: Option<(String, Vec<String>, Option<Directory>)> = None;
    let mut removed = 0;
    for noted in list.lines()? {
        ctx.check().map_err(transfer)?;
        let noted = noted.map_err(unread(&list.key))?;
        if !held.contains(&noted.table) {
            continue;
        }
        let Some(names) = names(&noted).filter(|_| data_directories.contains(&noted.data_directory)) else {
            continue;
        };
        let is_open =
            matches!(&open, Some((data, path, _)) if *data == noted.data_directory && *path == names);
        if !is_open {
            let directory = below(Path::new(&noted.data_directory), &names)?;
            open = Some((noted.data_directory.clone(), names, directory));
        }
        if let Some((_, _, Some(directory))) = &open {
            removed += u64::from(remove(&noted, directory)?);
        }
    }
    Ok(removed)
}

fn remove(noted: &SupersededFile, directory: &Directory) -> Result<bool, SupersededError> {
    let stat = match directory.stat(&noted.name) {
        Ok(stat) => stat,
        Err(FileError::Vanished { .. } | FileError::NotPlain { .. }) => return Ok(false),
        Err(source) => return Err(file(source)),
    };
    if (stat.device, stat.inode) != (noted.device, noted.inode) {
        return Ok(false);
    }
    if noted.birth_ns.is_some() && noted.birth_ns != stat.birth_ns {
        return Ok(false);
    }
    directory.remove_file(noted.name.as_ref()).map_err(file)
}

/// A list in the making.
struct Notes {
    ctx: Context,
    lines: SupersededWriter<Hashing<BufWriter<File>>>,
}

impl Notes {
    fn data(&mut self, data: &str, key: &ObjectKey) -> Result<(), SupersededError> {
        let root = Directory::data(Path::new(data)).map_err(file)?;
        for keyspace in root.subdirectories().map_err(file)? {
            let Some(directory) = root.subdirectory(&keyspace).map_err(file)? else { continue };
            for table in directory.subdirectories().map_err(file)? {
                self.ctx.check().map_err(transfer)?;
                let Some(TableDirectory { table, id }) = TableDirectory::parse(&table) else { continue };
                self.table(data, &TableRef { keyspace: keyspace.clone(), table, id }, key)?;
            }
        }
        Ok(())
    }

    fn table(&mut self, data: &str, table: &TableRef, key: &ObjectKey) -> Result<(), SupersededError> {
        let path =
            [table.keyspace.clone(), format!("{}-{}", table.table, table.id), BACKUPS_DIRECTORY.to_owned()];
        let Some(directory) = below(Path::new(data), &path)? else { return Ok(()) };
        let indexes = directory.subdirectories().map_err(file)?;
        self.directory(data, table, None, &directory, key)?;
        for index in indexes.into_iter().filter(|name| is_index_directory(name)) {
            let Some(directory) = directory.subdirectory(&index).map_err(file)? else { continue };
            self.directory(data, table, Some(&index), &directory, key)?;
        }
        Ok(())
    }

    fn directory(
        &mut self,
        data: &str,
        table: &TableRef,
        index: Option<&str>,
        directory: &Directory,
        key: &ObjectKey,
    ) -> Result<(), SupersededError> {
        for entry in directory.each_entry().map_err(file)? {
            self.ctx.check().map_err(transfer)?;
            let (name, kind) = entry.map_err(file)?;
            let Some(name) = name.into_string().ok().filter(|name| ComponentName::parse(name).is_some())
            else {
                continue;
            };
            if kind != Kind::File {
                continue;
            }
            let stat = match directory.stat(&name) {
                Ok(stat) => stat,
                Err(FileError::Vanished { .. }) => continue,
                Err(source) => return Err(file(source)),
            };
            let noted = SupersededFile {
                data_directory: data.to_owned(),
                table: table.clone(),
                index: index.map(str::to_owned),
                name,
                device: stat.device,
                inode: stat.inode,
                birth_ns: stat.birth_ns,
            };
            self.lines.push(&noted).map_err(unwritten(key))?;
        }
        Ok(())
    }
}

/// `None` when it is missing, or a link, which is never followed.
fn below(data: &Path, names: &[String]) -> Result<Option<Directory>, SupersededError> {
    match Directory::below(data, names.iter().map(String::as_str)) {
        Ok(directory) => Ok(directory),
        Err(FileError::NotPlain { .. }) => Ok(None),
        Err(source) => Err(file(source)),
    }
}

/// Runs file system calls, which may block for long, off the async threads.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SupersededError> + Send + 'static,
) -> Result<T, SupersededError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|source| Err(transfer(UploadError::CutShort { source })))
}

fn file(source: FileError) -> SupersededError {
    SupersededError::File { source }
}

fn transfer(source: UploadError) -> SupersededError {
    SupersededError::Transfer { source }
}

fn unread(key: &ObjectKey) -> impl Fn(ManifestError) -> SupersededError {
    let key = key.clone();
    move |source| SupersededError::List { operation: "read", key: key.clone(), source }
}

fn unwritten(key: &ObjectKey) -> impl Fn(ManifestError) -> SupersededError {
    let key = key.clone();
    move |source| SupersededError::List { operation: "write", key: key.clone(), source }
}

#[cfg(test)]
mod tests;
