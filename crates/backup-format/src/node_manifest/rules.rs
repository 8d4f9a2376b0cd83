//! What is true of every manifest, whoever wrote it. Reader and writer feed the same [`Rules`].

use std::collections::BTreeSet;

use super::{BackupKind, Footer, Header, ObjectEntry, SstableEntry, TableRef, Truncation};
use crate::check::{excerpt, is_lower_hex, plain_name};
use crate::keys::Keys;

type Check = Result<(), String>;

/// Checks one line after the other and counts; a refused line is not counted.
#[derive(Debug)]
pub(super) struct Rules {
    tables: BTreeSet<TableRef>,
    data_prefix: String,
    last: Option<(TableRef, Option<String>, String, u32)>,
    sstables: u64,
    files: u64,
    bytes: u64,
    corrupt: u64,
}

impl Rules {
    /// The header's format and least reader are checked elsewhere.
    pub(super) fn new(header: &Header) -> Result<Self, String> {
        let keys = Keys::new(header.cluster_id.clone()).map_err(|error| error.to_string())?;
        let mut tables = BTreeSet::new();
        for table in &header.tables {
            check_table(table)?;
            if !tables.insert(table.clone()) {
                return Err(format!("table {} is there twice", describe(table)));
            }
        }
        let mut schemas = BTreeSet::new();
        for schema in &header.schema {
            if !tables.contains(&schema.table) {
                return Err(format!(
                    "it has the schema of {}, which is not one of its tables",
                    describe(&schema.table)
                ));
            }
            if !schemas.insert(&schema.table) {
                return Err(format!("it has the schema of {} twice", describe(&schema.table)));
            }
        }
        if let Some(parent) = &header.parent {
            check_blake3("the parent", &parent.blake3)?;
        }
        check_chain(&keys, header)?;
        check_truncations(header.truncations.as_deref().unwrap_or_default())?;
        Ok(Self {
            tables,
            data_prefix: keys.data_prefix(&header.host_id),
            last: None,
            sstables: 0,
            files: 0,
            bytes: 0,
            corrupt: 0,
        })
    }

    pub(super) fn admit(&mut self, entry: &SstableEntry) -> Check {
        let place = (entry.table.clone(), entry.index.clone(), entry.name.clone(), entry.directory);
        match &self.last {
            Some(last) if *last == place => {
                return Err(format!("SSTable {} is there twice", excerpt(&entry.name)));
            }
            Some(last) if *last > place => {
                return Err(format!("SSTable {} is not in its order", excerpt(&entry.name)));
            }
            _ => {}
        }
        if !self.tables.contains(&entry.table) {
            return Err(format!("table {} is not among those of the header", describe(&entry.table)));
        }
        check_name("SSTable", &entry.name)?;
        if let Some(index) = &entry.index {
            check_name("index directory", index)?;
            if !index.starts_with('.') {
                return Err(format!("index directory {} does not begin with a dot", excerpt(index)));
            }
        }
        self.check_objects(&entry.objects)?;
        let bytes = check_files(entry)?;
        let bytes = self.bytes.checked_add(bytes).ok_or("the sizes exceed 2^64 bytes in sum")?;
        self.bytes = bytes;
        self.files += entry.files.len() as u64;
        self.sstables += 1;
        self.corrupt += u64::from(entry.corrupt);
        self.last = Some(place);
        Ok(())
    }

    fn check_objects(&self, objects: &[ObjectEntry]) -> Check {
        let mut keys = BTreeSet::new();
        for object in objects {
            let key = object.key.as_str();
            if !key.starts_with(&self.data_prefix) {
                return Err(format!("object {} is not one of this node", excerpt(key)));
            }
            if !keys.insert(key) {
                return Err(format!("object {} is there twice", excerpt(key)));
            }
            check_blake3("object", &object.blake3)?;
        }
        Ok(())
    }

    /// The footer that belongs to the lines so far.
    pub(super) fn footer(&self, blake3: String) -> Footer {
        Footer {
            footer: true,
            sstables: self.sstables,
            files: self.files,
            bytes: self.bytes,
            corrupt: self.corrupt,
            blake3,
        }
    }
}

/// An increment continues its base, or another increment on the same base; nothing else has a base.
fn check_chain(keys: &Keys, header: &Header) -> Check {
    let (parent, base) = match (header.kind, &header.parent, header.base) {
        (BackupKind::Incremental, None, _) => return Err("an increment has no parent".to_owned()),
        (BackupKind::Incremental, Some(_), None) => return Err("an increment has no base".to_owned()),
        (BackupKind::Incremental, Some(parent), Some(base)) => (parent, base),
        (_, _, Some(_)) => return Err("it has a base, and is no increment".to_owned()),
        (_, _, None) => return Ok(()),
    };
    if [base, parent.backup_id].contains(&header.backup_id) {
        return Err("an increment is its own parent".to_owned());
    }
    let expected = match parent.backup_id == base {
        true => keys.node_manifest(&header.host_id, &base),
        false => keys.increment_manifest(&header.host_id, &parent.backup_id, &base),
    };
    if parent.key == expected {
        return Ok(());
    }
    Err(format!("the parent {} is neither the base nor an increment on it", excerpt(parent.key.as_str())))
}

fn check_truncations(truncations: &[Truncation]) -> Check {
    let mut ids = BTreeSet::new();
    for Truncation { id, .. } in truncations {
        check_table_id(id)?;
        if !ids.insert(id) {
            return Err(format!("the truncation of table {id} is there twice"));
        }
    }
    Ok(())
}

/// Gives the sum of the files' sizes.
fn check_files(entry: &SstableEntry) -> Result<u64, String> {
    if entry.files.is_empty() {
        return Err(format!("SSTable {} has no files", excerpt(&entry.name)));
    }
    let mut names = BTreeSet::new();
    let mut bytes = 0u64;
    for file in &entry.files {
        check_name("file", &file.name)?;
        if !names.insert(&file.name) {
            return Err(format!("file {} is there twice", excerpt(&file.name)));
        }
        check_blake3("file", &file.blake3)?;
        let object = usize::try_from(file.object).ok().and_then(|index| entry.objects.get(index));
        let object = object
            .ok_or_else(|| format!("file {} is in an object that is not there", excerpt(&file.name)))?;
        if file.offset.checked_add(file.size).is_none_or(|end| end > object.size) {
            return Err(format!("file {} reaches beyond the end of its object", excerpt(&file.name)));
        }
        bytes = bytes.checked_add(file.size).ok_or("the sizes exceed 2^64 bytes in sum")?;
    }
    Ok(bytes)
}

fn check_table(table: &TableRef) -> Check {
    check_name("keyspace", &table.keyspace)?;
    check_name("table", &table.table)?;
    check_table_id(&table.id)
}

fn check_table_id(id: &str) -> Check {
    if is_lower_hex(id, 32) {
        Ok(())
    } else {
        Err(format!("table id {} is not 32 lower-case hex digits", excerpt(id)))
    }
}

fn check_name(what: &str, name: &str) -> Check {
    plain_name(name).map_err(|reason| format!("{what} {}: {reason}", excerpt(name)))
}

fn check_blake3(what: &str, text: &str) -> Check {
    if is_lower_hex(text, 64) {
        Ok(())
    } else {
        Err(format!("the digest of {what} is not 64 lower-case hex digits: {}", excerpt(text)))
    }
}

fn describe(table: &TableRef) -> String {
    excerpt(&format!("{}.{}-{}", table.keyspace, table.table, table.id))
}
