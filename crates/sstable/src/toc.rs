//! TOC.txt: the names of an SSTable's components, one per line.

use std::collections::BTreeSet;

use crate::name::is_component;
use crate::plain::excerpt;

/// The component that holds the rows; no SSTable is without.
pub const DATA_COMPONENT: &str = "Data.db";
/// The component that lists the components.
pub const TOC_COMPONENT: &str = "TOC.txt";

/// Room for the components of some ten thousand indexes.
const LIMIT_BYTES: usize = 4 << 20;

/// Why a TOC.txt is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TocError {
    /// It is too long.
    #[error("TOC.txt is longer than {LIMIT_BYTES} bytes")]
    TooLarge,
    /// It is not text.
    #[error("TOC.txt is not UTF-8")]
    NotText,
    /// It names nothing.
    #[error("TOC.txt names no component")]
    Empty,
    /// It names what cannot be a component.
    #[error("TOC.txt names {0}, which cannot be a component")]
    NotAComponent(String),
}

/// The components that a TOC.txt names; its order means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// `Data.db`, `TOC.txt`, `SAI+aa+index+Meta.db`.
    pub components: BTreeSet<String>,
}

impl Toc {
    /// Takes the file's content. Blank lines and ends of lines of other systems do no harm.
    pub fn parse(content: &[u8]) -> Result<Self, TocError> {
        if content.len() > LIMIT_BYTES {
            return Err(TocError::TooLarge);
        }
        let text = std::str::from_utf8(content).ok().ok_or(TocError::NotText)?;
        let mut components = BTreeSet::new();
        for line in text.lines().map(str::trim_ascii).filter(|line| !line.is_empty()) {
            if !is_component(line) {
                return Err(TocError::NotAComponent(excerpt(line)));
            }
            components.insert(line.to_owned());
        }
        if components.is_empty() {
            return Err(TocError::Empty);
        }
        Ok(Self { components })
    }
}

/// Which components of an SSTable are missing: those that the TOC names, and always Data.db and TOC.txt.
pub fn missing_components(toc: &Toc, present: &BTreeSet<String>) -> Vec<String> {
    let mut needed: BTreeSet<&str> = toc.components.iter().map(String::as_str).collect();
    needed.extend([DATA_COMPONENT, TOC_COMPONENT]);
    needed.into_iter().filter(|component| !present.contains(*component)).map(str::to_owned).collect()
}

/// True for a component of an index that is attached to SSTables (SAI, SASI). Cassandra builds it from the rows, also for
/// an SSTable that is there already, and then adds it to the SSTable's TOC in place.
pub fn is_attached_index(component: &str) -> bool {
    component.starts_with("SAI+") || component.starts_with("SI_")
}
