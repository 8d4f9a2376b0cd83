//! The incremental files that a coming snapshot supersedes: noted before it, deleted after its backup is durable.
//!
//! Cassandra links each flushed SSTable into `backups/` and never cleans there. Only files that have the name of
//! a component are ever noted, and a noted file is deleted only while it is still the same one (device, inode).
//! The list is kept in a spool file, as a node may have very many.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::{AgentError, AgentErrorKind};
use cassy_sstable::{BACKUPS_DIRECTORY, ComponentName, TableDirectory, is_index_directory};
use serde::{Deserialize, Serialize};

use crate::directory::{Directory, FileError, Kind};
use crate::failure::{IntoAgentError, agent_error};

/// Why the files cannot be noted or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupersededError {
    /// A file or directory of the node.
    #[error("cannot deal with the incremental files in {BACKUPS_DIRECTORY}/")]
    File {
        #[source]
        source: FileError,
    },
    /// The agent's own list.
    #[error("cannot {operation} the list {}", .path.display())]
    Spool {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl IntoAgentError for SupersededError {
    fn into_agent_error(self) -> AgentError {
        match &self {
            Self::File { source } => AgentError { hint: source.hint(), ..agent_error(&self, source.kind()) },
            Self::Spool { .. } => agent_error(&self, AgentErrorKind::Transient),
        }
    }
}

/// The noted files. Dropping it removes the list.
#[derive(Debug)]
pub(crate) struct Superseded {
    list: PathBuf,
    files: u64,
}

impl Drop for Superseded {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.list);
    }
}

/// A line of the list: a directory and one of its files.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    data: PathBuf,
    directory: Vec<String>,
    file: String,
    device: (u32, u32),
    inode: u64,
}

impl Superseded {
    /// Notes every component in a `backups/` directory of these data directories.
    pub(crate) fn list(data_directories: &[PathBuf], spool_dir: &Path) -> Result<Self, SupersededError> {
        let list = spool_dir.join(format!("superseded-{}.jsonl", uuid::Uuid::new_v4().simple()));
        let spool = |source| SupersededError::Spool { operation: "make", path: list.clone(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&list).map_err(spool)?;
        let mut superseded = Self { list: list.clone(), files: 0 };
        let mut lines = BufWriter::new(file);
        for data in data_directories {
            superseded.note_data(data, &mut lines)?;
        }
        lines.flush().map_err(|source| superseded.spool("write", source))?;
        Ok(superseded)
    }

    /// How many were noted.
    pub(crate) fn files(&self) -> u64 {
        self.files
    }

    /// Deletes those that are still the same files; answers how many. Directories stay.
    pub(crate) fn clear(&self) -> Result<u64, SupersededError> {
        let lines = File::open(&self.list).map_err(|source| self.spool("open", source))?;
        let mut open: Option<(PathBuf, Vec<String>, Option<Directory>)> = None;
        let mut removed = 0;
        for line in BufReader::new(lines).lines() {
            let line = line.map_err(|source| self.spool("read", source))?;
            let noted: Noted =
                serde_json::from_str(&line).map_err(|source| self.spool("read", source.into()))?;
            let is_open =
                matches!(&open, Some((data, names, _)) if *data == noted.data && *names == noted.directory);
            if !is_open {
                let directory = below(&noted.data, &noted.directory)?;
                open = Some((noted.data.clone(), noted.directory.clone(), directory));
            }
            if let Some((_, _, Some(directory))) = &open {
                removed += u64::from(noted.remove(directory)?);
            }
        }
        Ok(removed)
    }

    fn note_data(&mut self, data: &Path, lines: &mut impl Write) -> Result<(), SupersededError> {
        let root = Directory::data(data).map_err(file)?;
        for keyspace in root.subdirectories().map_err(file)? {
            let Some(directory) = root.subdirectory(&keyspace).map_err(file)? else { continue };
            for table in directory.subdirectories().map_err(file)? {
                if TableDirectory::parse(&table).is_none() {
                    continue;
                }
                let names = vec![keyspace.clone(), table, BACKUPS_DIRECTORY.to_owned()];
                self.note_backups(data, &names, lines)?;
            }
        }
        Ok(())
    }

    fn note_backups(
        &mut self,
        data: &Path,
        names: &[String],
        lines: &mut impl Write,
    ) -> Result<(), SupersededError> {
        let Some(directory) = below(data, names)? else { return Ok(()) };
        let indexes = directory.subdirectories().map_err(file)?;
        self.note_directory(data, names, &directory, lines)?;
        for index in indexes.into_iter().filter(|name| is_index_directory(name)) {
            let Some(directory) = directory.subdirectory(&index).map_err(file)? else { continue };
            let names: Vec<String> = names.iter().cloned().chain([index]).collect();
            self.note_directory(data, &names, &directory, lines)?;
        }
        Ok(())
    }

    fn note_directory(
        &mut self,
        data: &Path,
        names: &[String],
        directory: &Directory,
        lines: &mut impl Write,
    ) -> Result<(), SupersededError> {
        for entry in directory.each_entry().map_err(file)? {
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
            let (device, inode) = (stat.device, stat.inode);
            let noted = Noted { data: data.to_owned(), directory: names.to_vec(), file: name, device, inode };
            let line = serde_json::to_string(&noted).map_err(|source| self.spool("write", source.into()))?;
            writeln!(lines, "{line}").map_err(|source| self.spool("write", source))?;
            self.files += 1;
        }
        Ok(())
    }

    fn spool(&self, operation: &'static str, source: std::io::Error) -> SupersededError {
        SupersededError::Spool { operation, path: self.list.clone(), source }
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

impl Noted {
    fn remove(&self, directory: &Directory) -> Result<bool, SupersededError> {
        let stat = match directory.stat(&self.file) {
            Ok(stat) => stat,
            Err(FileError::Vanished { .. } | FileError::NotPlain { .. }) => return Ok(false),
            Err(source) => return Err(file(source)),
        };
        if (stat.device, stat.inode) != (self.device, self.inode) {
            return Ok(false);
        }
        directory.remove_file(self.file.as_ref()).map_err(file)
    }
}

fn file(source: FileError) -> SupersededError {
    SupersededError::File { source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, "x").expect("write");
    }

    #[test]
    fn exactly_the_noted_files_go() {
        let base = tempfile::tempdir().expect("tempdir");
        let (one, two, spool) = (base.path().join("one"), base.path().join("two"), base.path().join("spool"));
        fs::create_dir_all(&spool).expect("mkdir");
        for data in [&one, &two] {
            for keyspace in ["ks", "backups", "snapshots"] {
                let table = data.join(keyspace).join(format!("backups-{ID}"));
                write(table.join("backups/nb-1-big-Data.db"));
                write(table.join("backups/nb-1-big-TOC.txt"));
                write(table.join("backups/.idx/nb-1-big-Data.db"));
                write(table.join("backups/README"));
                write(table.join("nb-1-big-Data.db"));
                write(table.join("snapshots/backups/nb-1-big-Data.db"));
            }
        }
        let table = one.join("ks").join(format!("backups-{ID}"));
        let outside = base.path().join("outside");
        write(outside.join("nb-1-big-Data.db"));
        symlink(outside.join("nb-1-big-Data.db"), table.join("backups/nb-3-big-Data.db")).expect("symlink");
        let linked = one.join("ks").join(format!("linked-{ID}"));
        fs::create_dir_all(&linked).expect("mkdir");
        symlink(&outside, linked.join("backups")).expect("symlink");

        let superseded = Superseded::list(&[one.clone(), two.clone()], &spool).expect("list");
        assert_eq!(superseded.files(), 18);
        write(table.join("backups/nb-2-big-Data.db"));
        fs::rename(table.join("backups/nb-1-big-TOC.txt"), table.join("elsewhere")).expect("rename");
        write(table.join("backups/nb-1-big-TOC.txt"));

        assert_eq!(superseded.clear().expect("clear"), 17);
        assert_eq!(superseded.clear().expect("again"), 0);
        for kept in
            ["backups/nb-2-big-Data.db", "backups/nb-1-big-TOC.txt", "backups/README", "nb-1-big-Data.db"]
        {
            assert!(table.join(kept).exists(), "{kept}");
        }
        assert!(table.join("backups/.idx").is_dir());
        assert!(!table.join("backups/.idx/nb-1-big-Data.db").exists());
        assert!(table.join("snapshots/backups/nb-1-big-Data.db").exists());
        assert!(outside.join("nb-1-big-Data.db").exists());
        drop(superseded);
        assert_eq!(fs::read_dir(&spool).expect("list").count(), 0);
    }

    #[test]
    fn a_table_that_is_gone_by_then_is_fine() {
        let base = tempfile::tempdir().expect("tempdir");
        let table = base.path().join("data/ks").join(format!("t-{ID}"));
        write(table.join("backups/nb-1-big-Data.db"));
        let superseded = Superseded::list(&[base.path().join("data")], base.path()).expect("list");
        fs::remove_dir_all(&table).expect("drop");
        assert_eq!(superseded.clear().expect("clear"), 0);
    }

    /// Inodes count within one file system: another one that is mounted there meanwhile has the same numbers.
    #[test]
    fn a_file_of_another_device_stays() {
        let base = tempfile::tempdir().expect("tempdir");
        let file = base.path().join("data/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db"));
        write(file.clone());
        let superseded = Superseded::list(&[base.path().join("data")], base.path()).expect("list");
        let mut noted: Noted =
            serde_json::from_str(&fs::read_to_string(&superseded.list).expect("read")).expect("one line");
        noted.device.1 += 1;
        fs::write(&superseded.list, serde_json::to_string(&noted).expect("json")).expect("write");
        assert_eq!(superseded.clear().expect("clear"), 0);
        assert!(file.exists());
    }
}
