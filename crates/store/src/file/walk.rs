//! Listing: a walk over the directories in the order of the keys, holding one directory's names per level.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use cassy_backup_format::ObjectKey;
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::part;
use super::tree::{Root, open_directory};
use crate::{IncompleteObject, ObjectMeta, StoreError};

const BATCH: usize = 512;

/// What a walk finds.
pub(super) enum Found {
    Object(ObjectMeta),
    Incomplete(IncompleteObject),
}

/// A walk under way.
pub(super) struct Walk {
    root: Root,
    prefix: String,
    /// None before the first step.
    levels: Option<Vec<Level>>,
}

struct Level {
    directory: OwnedFd,
    /// The key's begin that this directory stands for: empty, or with a slash at its end.
    path: String,
    /// Backwards, so that the next one is popped. Those of directories end in a slash, which is also what puts
    /// them into the order of the keys.
    names: Vec<String>,
}

impl Walk {
    pub(super) fn new(root: Root, prefix: String) -> Self {
        Self { root, prefix, levels: None }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The next ones, none at the end.
    pub(super) fn batch(&mut self) -> Result<Vec<Found>, StoreError> {
        let mut levels = match self.levels.take() {
            Some(levels) => levels,
            None => self.first_level()?.into_iter().collect(),
        };
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(level) = levels.last_mut() else {
                break;
            };
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            if let Some(directory) = name.strip_suffix('/') {
                let entered = self.enter(level, directory)?;
                levels.extend(entered);
            } else {
                batch.extend(self.file(level, &name)?);
            }
        }
        self.levels = Some(levels);
        Ok(batch)
    }

    /// The directory that holds all of the prefix, and of its names those that begin with the prefix's rest.
    fn first_level(&self) -> Result<Option<Level>, StoreError> {
        let (path, begin) = match self.prefix.rfind('/') {
            Some(slash) => self.prefix.split_at(slash + 1),
            None => ("", self.prefix.as_str()),
        };
        let mut directory = self.root.open("list")?;
        if !path.is_empty() {
            for segment in path.trim_end_matches('/').split('/') {
                self.check_segment(segment)?;
                directory = match open_directory(&directory, segment) {
                    Ok(directory) => directory,
                    Err(Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(self.error(path, errno)),
                };
            }
        }
        let mut level = self.read(directory, path.to_owned())?;
        level.names.retain(|name| name.starts_with(begin));
        Ok(Some(level))
    }

    fn check_segment(&self, segment: &str) -> Result<(), StoreError> {
        if !matches!(segment, "" | "." | "..") && !segment.contains('\0') {
            return Ok(());
        }
        let reason = "a prefix has no empty, . or .. segment";
        Err(StoreError::Refused { operation: "list", key: self.prefix.clone(), reason })
    }

    fn error(&self, path: &str, errno: Errno) -> StoreError {
        StoreError::io("list", path, errno)
    }

    /// None when it has vanished, or is a symbolic link, which is never followed.
    fn enter(&self, parent: &Level, name: &str) -> Result<Option<Level>, StoreError> {
        let path = format!("{}{name}/", parent.path);
        match open_directory(&parent.directory, name) {
            Ok(directory) => self.read(directory, path).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.error(&path, errno)),
        }
    }

    fn read(&self, directory: OwnedFd, path: String) -> Result<Level, StoreError> {
        let error = |errno| self.error(&path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(error)? {
            let entry = entry.map_err(error)?;
            names.extend(self.name(&directory, entry.file_name(), entry.file_type()));
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level { directory, path, names })
    }

    /// None for what can be no object and hold none: special files, links, names that no key has.
    fn name(&self, directory: &OwnedFd, name: &CStr, kind: FileType) -> Option<String> {
        let text = name.to_str().ok().filter(|text| !matches!(*text, "." | ".."))?;
        let kind = match kind {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        match kind {
            FileType::Directory => Some(format!("{text}/")),
            FileType::RegularFile => Some(text.to_owned()),
            _ => None,
        }
    }

    fn file(&self, level: &Level, name: &str) -> Result<Option<Found>, StoreError> {
        let stem = part::stem(name);
        let Ok(key) = format!("{}{}", level.path, stem.unwrap_or(name)).parse::<ObjectKey>() else {
            return Ok(None);
        };
        if stem.is_some() {
            return Ok(Some(Found::Incomplete(IncompleteObject { key, upload: name.to_owned() })));
        }
        match rustix::fs::statat(&level.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                Ok(Some(Found::Object(ObjectMeta { key, size: u64::try_from(stat.st_size).unwrap_or(0) })))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("list", &key, errno)),
        }
    }
}
