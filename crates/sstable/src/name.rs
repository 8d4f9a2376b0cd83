//! Names of SSTables (`nb-1-big`, `da-3h5q_1oih_3aqow23nzcs57htqnl-bti`) and of their components.
//!
//! The form is that of Cassandra 2.2 and later, `<version>-<identifier>-<format>-<component>`. Names of 2.1 and
//! before, which begin with keyspace and table, are not names here.

use std::fmt;

use crate::plain::is_plain_name;

/// Two lower-case letters: the first counts incompatible changes, the second compatible ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SstableVersion([u8; 2]);

impl SstableVersion {
    /// `None` unless it is two letters from a to z.
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_lowercase).then_some(Self(letters))
    }

    /// The letter that counts incompatible changes. A Cassandra reads no SSTable whose letter is above its own
    /// (`Version.isCompatible`).
    pub fn major(self) -> char {
        char::from(self.0[0])
    }
}

impl fmt::Display for SstableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor] = self.0.map(char::from);
        write!(f, "{major}{minor}")
    }
}

/// What makes an SSTable's name its own within a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SstableIdentifier {
    /// A number that counts up, as a Java `int`.
    Generation(u32),
    /// Cassandra 4.1 and later, where `uuid_sstable_identifiers_enabled` is on: a UUID by time, written as
    /// `dddd_ssss_tttttrrrrrrrrrrrrr` in digits of base 36, kept as on disk. A Cassandra with the setting off
    /// refuses to start on it.
    Uuid(String),
}

impl SstableIdentifier {
    /// A generation without leading zeros, or 28 characters as above.
    pub fn parse(text: &str) -> Option<Self> {
        if is_uuid_identifier(text) {
            return Some(Self::Uuid(text.to_owned()));
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        if !digits || (text.len() > 1 && text.starts_with('0')) {
            return None;
        }
        let generation = text.parse().ok().filter(|generation| *generation <= i32::MAX.unsigned_abs())?;
        Some(Self::Generation(generation))
    }

    /// A new identifier of the UUID form: for this time (milliseconds since 1970), made unique by 62 of the
    /// random bits. The form is that of Cassandra's `UUIDBasedSSTableId`.
    pub fn uuid(unix_ms: u64, random: u64) -> Self {
        const TICKS_PER_SECOND: u64 = 10_000_000;
        /// From 1582-10-15, where UUIDs by time begin, to 1970.
        const EPOCH_SECONDS: u64 = 12_219_292_800;
        let seconds = EPOCH_SECONDS + unix_ms / 1000;
        let ticks = unix_ms % 1000 * (TICKS_PER_SECOND / 1000);
        let variant = (random & (u64::MAX >> 2)) | (1 << 63);
        Self::Uuid(format!(
            "{}_{}_{}{}",
            base36::<4>(seconds / 86_400),
            base36::<4>(seconds % 86_400),
            base36::<5>(ticks),
            base36::<13>(variant),
        ))
    }
}

fn is_uuid_identifier(text: &str) -> bool {
    text.len() == 28
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 9 => byte == b'_',
            _ => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
        })
}

/// The lowest `N` digits of base 36.
fn base36<const N: usize>(mut number: u64) -> String {
    let mut digits = ['0'; N];
    for digit in digits.iter_mut().rev() {
        let value = u32::try_from(number % 36).expect("below 36");
        *digit = char::from_digit(value, 36).expect("below 36");
        number /= 36;
    }
    digits.iter().collect()
}

impl fmt::Display for SstableIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(generation) => generation.fmt(f),
            Self::Uuid(text) => f.write_str(text),
        }
    }
}

/// A generation that none of these has; `None` when the numbers are used up.
pub fn next_generation<'a>(
    taken: impl IntoIterator<Item = &'a SstableIdentifier>,
) -> Option<SstableIdentifier> {
    let highest = taken.into_iter().fold(0, |highest, identifier| match identifier {
        SstableIdentifier::Generation(generation) => highest.max(*generation),
        SstableIdentifier::Uuid(_) => highest,
    });
    (highest < i32::MAX.unsigned_abs()).then(|| SstableIdentifier::Generation(highest + 1))
}

/// How an SSTable is laid out inside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SstableFormat {
    /// Index.db and Summary.db.
    Big,
    /// Partitions.db and Rows.db; Cassandra 5.0 and later.
    Bti,
    /// One that is not known yet: lower-case letters and digits, a letter first.
    Other(String),
}

impl SstableFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "big" => return Some(Self::Big),
            "bti" => return Some(Self::Bti),
            _ => {}
        }
        let rest_fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let fits = rest_fits && text.len() <= 16 && text.starts_with(|c: char| c.is_ascii_lowercase());
        fits.then(|| Self::Other(text.to_owned()))
    }
}

impl fmt::Display for SstableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Big => "big",
            Self::Bti => "bti",
            Self::Other(name) => name,
        })
    }
}

/// The name that all components of an SSTable share: `nb-1-big`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SstableName {
    /// `nb`
    pub version: SstableVersion,
    /// `1`
    pub identifier: SstableIdentifier,
    /// `big`
    pub format: SstableFormat,
}

impl SstableName {
    /// `None` when it is not exactly such a name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let name = Self {
            version: SstableVersion::parse(parts.next()?)?,
            identifier: SstableIdentifier::parse(parts.next()?)?,
            format: SstableFormat::parse(parts.next()?)?,
        };
        parts.next().is_none().then_some(name)
    }

    /// The same SSTable under another identifier: nothing inside its files depends on it.
    #[must_use]
    pub fn renumber(&self, identifier: SstableIdentifier) -> Self {
        Self { identifier, ..self.clone() }
    }

    /// The file name of a component.
    pub fn component(&self, component: &str) -> String {
        format!("{self}-{component}")
    }

    /// True when no Cassandra up to 5.0 reads it: its format is unknown, or the first letter of its version is
    /// above that of 5.0 (`oa` for big, `da` for bti).
    pub fn is_future_version(&self) -> bool {
        match self.format {
            SstableFormat::Big => self.version.major() > 'o',
            SstableFormat::Bti => self.version.major() > 'd',
            SstableFormat::Other(_) => true,
        }
    }
}

impl fmt::Display for SstableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, identifier, format } = self;
        write!(f, "{version}-{identifier}-{format}")
    }
}

/// The file name of a component: `nb-1-big-Data.db`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentName {
    /// `nb-1-big`
    pub sstable: SstableName,
    /// `Data.db`; also one that nobody here has heard of, as it is.
    pub component: String,
}

impl ComponentName {
    /// `None` when it is not the file name of a component, or cannot be a file name at all.
    pub fn parse(file_name: &str) -> Option<Self> {
        if !is_plain_name(file_name) {
            return None;
        }
        let (dash, _) = file_name.match_indices('-').nth(2)?;
        let (sstable, component) = (file_name.get(..dash)?, file_name.get(dash + 1..)?);
        if !is_component(component) {
            return None;
        }
        Some(Self { sstable: SstableName::parse(sstable)?, component: component.to_owned() })
    }

    /// The same component of the SSTable under another identifier.
    #[must_use]
    pub fn renumber(&self, identifier: SstableIdentifier) -> Self {
        Self { sstable: self.sstable.renumber(identifier), component: self.component.clone() }
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sstable, self.component)
    }
}

/// What can stand behind an SSTable's name.
pub(crate) fn is_component(text: &str) -> bool {
    is_plain_name(text) && !text.starts_with(['-', '.'])
}
