//! What `runtime.c` has noted of one program: where its blocks begin, and which have run.

use std::path::{Path, PathBuf};

use cassy_testkit::{Doing, Failure};

/// Of a program.
pub(crate) struct Blocks {
    /// Sorted by address.
    blocks: Vec<(u64, bool)>,
}

impl Blocks {
    /// Every program that has run: its path, and its blocks.
    pub(crate) fn of_all(directory: &Path) -> Result<Vec<(PathBuf, Self)>, Failure> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(directory).doing(|| format!("list {}", directory.display()))? {
            let file = entry.doing(|| format!("list {}", directory.display()))?.path();
            if file.extension().is_none_or(|extension| extension != "program") {
                continue;
            }
            let read = |path: &Path| std::fs::read(path).doing(|| format!("read {}", path.display()));
            let program = String::from_utf8_lossy(&read(&file)?).into_owned();
            let noted = read(&file.with_extension(""))?;
            let blocks = Self::parse(&noted)
                .ok_or_else(|| Failure::new(format!("{} is cut off", file.with_extension("").display())))?;
            all.push((PathBuf::from(program), blocks));
        }
        Ok(all)
    }

    fn parse(noted: &[u8]) -> Option<Self> {
        let word = |place: usize| {
            let bytes = noted.get(place * 8..place * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let count = usize::try_from(word(0)?).ok()?;
        let ran = noted.get(8 + count.checked_mul(16)?..)?;
        let block = |number: usize| Some((word(1 + 2 * number)?, *ran.get(number)? != 0));
        let mut blocks: Vec<_> = (0..count).map(block).collect::<Option<_>>()?;
        blocks.sort_unstable();
        Some(Self { blocks })
    }

    /// Whether the block that has this address has run.
    pub(crate) fn has_run(&self, address: u64) -> bool {
        let after = self.blocks.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).and_then(|place| self.blocks.get(place)).is_some_and(|(_, ran)| *ran)
    }
}
