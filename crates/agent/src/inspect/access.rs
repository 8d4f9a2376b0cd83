//! Whether the agent's user may read the data: asked before anything is touched, so that a backup is not refused in its
//! middle.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Machine;
use super::account::Accounts;

/// What is in a table's directory beside its files; the snapshot will be in one of them.
const SUBDIRECTORIES: [&str; 2] = ["backups", "snapshots"];

/// What the agent's user may not read.
#[derive(Debug, thiserror::Error)]
#[error("user {user} must not read data directory {}: {source} ({})", .directory.display(), .place.display())]
pub(crate) struct Unreadable {
    directory: PathBuf,
    place: PathBuf,
    user: String,
    owner: String,
    // Told with the rest, on one line.
    source: io::Error,
}

impl Unreadable {
    /// The names of both users are looked up.
    pub(crate) fn of(machine: &Machine, directory: &Path, place: &Path, source: io::Error) -> Self {
        let accounts = Accounts::read(&machine.passwd);
        let owner = fs::metadata(directory).map(|metadata| accounts.name(metadata.uid()));
        Self {
            directory: directory.to_owned(),
            place: place.to_owned(),
            user: accounts.name(rustix::process::geteuid().as_raw()),
            owner: owner.unwrap_or_else(|_hidden| "the user who runs Cassandra".to_owned()),
            source,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        let owner = &self.owner;
        format!(
            "Let ssh_user be {owner} or root, or set ssh_command_prefix so that the agent runs as one of them, for \
             example to: sudo -n -u {owner}"
        )
    }
}

/// Lists every directory of every table and opens one file of each. What vanishes meanwhile is of no matter, and what is
/// wrong otherwise is found by those who need it.
pub(crate) fn check(machine: &Machine, directories: &[String]) -> Result<(), Unreadable> {
    for directory in directories.iter().map(Path::new) {
        if let Err(Denied { place, source }) = walk(directory) {
            return Err(Unreadable::of(machine, directory, &place, source));
        }
    }
    Ok(())
}

struct Denied {
    place: PathBuf,
    source: io::Error,
}

fn walk(directory: &Path) -> Result<(), Denied> {
    for keyspace in list(directory)?.filter(|path| path.is_dir()) {
        for table in list(&keyspace)?.filter(|path| path.is_dir()) {
            let file = list(&table)?.find(|path| path.is_file());
            if let Some(file) = file {
                denied(&file, fs::File::open(&file).map(drop))?;
            }
            for subdirectory in SUBDIRECTORIES {
                drop(list(&table.join(subdirectory))?);
            }
        }
    }
    Ok(())
}

/// What is in the directory, as far as it can be seen.
fn list(directory: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>, Denied> {
    let entries = denied(directory, fs::read_dir(directory))?;
    // A directory that can be listed and not entered hides what its entries are.
    if entries.is_some() {
        denied(directory, fs::metadata(directory.join(".")).map(drop))?;
    }
    Ok(entries.into_iter().flatten().flatten().map(|entry| entry.path()))
}

fn denied<T>(place: &Path, outcome: io::Result<T>) -> Result<Option<T>, Denied> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(source) if source.kind() == ErrorKind::PermissionDenied => {
            Err(Denied { place: place.to_owned(), source })
        }
        Err(_other) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_or_is_not_there_is_no_matter() {
        let root = tempfile::tempdir().unwrap();
        let table = root.path().join("data/ks/t-1");
        fs::create_dir_all(table.join("backups")).unwrap();
        fs::write(table.join("nb-1-big-Data.db"), "x").unwrap();
        fs::write(root.path().join("data/a-file"), "x").unwrap();
        let data = root.path().join("data").to_str().unwrap().to_owned();
        assert!(check(&Machine::default(), &[data, "/nonexistent/data".to_owned()]).is_ok());
    }

    #[test]
    fn a_refusal_names_directory_place_users_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let passwd = root.path().join("passwd");
        let own = rustix::process::geteuid().as_raw();
        fs::write(&passwd, format!("backup:x:{own}:{own}::/:/bin/sh\n")).unwrap();
        let machine = Machine { passwd, ..Machine::default() };
        let place = root.path().join("ks/t-1");
        let refused = Unreadable::of(&machine, root.path(), &place, ErrorKind::PermissionDenied.into());
        let told = format!("{refused} [{}]", refused.hint());
        let directory = root.path().display();
        assert_eq!(
            told,
            format!(
                "user backup must not read data directory {directory}: permission denied ({directory}/ks/t-1) [Let \
                 ssh_user be backup or root, or set ssh_command_prefix so that the agent runs as one of them, for \
                 example to: sudo -n -u backup]"
            )
        );
    }
}
