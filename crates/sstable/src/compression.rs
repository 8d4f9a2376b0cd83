//! The chunks of a compressed Data.db, by its CompressionInfo.db. For small tables of Cassandra's own: all of it fits
//! into memory, and nothing larger is taken.
//!
//! The layout is that of Cassandra's `CompressionMetadata` (3.0 to 5.0): the compressor's class, its options, the
//! length of a chunk, from version `na` on the length from which a chunk is kept as it is, the length of the data, and
//! the place of each chunk. A CRC-32 follows each chunk.

use crate::name::{SstableFormat, SstableName};
use crate::plain::excerpt;

/// The component; absent when the data is not compressed.
pub const COMPRESSION_INFO_COMPONENT: &str = "CompressionInfo.db";

/// The data of a table that is read here is never longer once it is decompressed.
pub const UNCOMPRESSED_LIMIT_BYTES: u64 = 8 << 20;
/// The longest chunk that Cassandra makes, and room to spare.
const CHUNK_LIMIT_BYTES: u32 = 4 << 20;
const CHECKSUM_BYTES: u64 = 4;

/// Why compressed data is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// No class that is known here.
    #[error(
        "it is compressed with {0}, which Cassy does not read; LZ4Compressor is Cassandra's own choice for its tables"
    )]
    Unsupported(String),
    /// Larger than such a table ever is.
    #[error("it says that it has {0} bytes, more than {UNCOMPRESSED_LIMIT_BYTES}")]
    TooLarge(u64),
    /// It is not what Cassandra writes.
    #[error("{COMPRESSION_INFO_COMPONENT} does not describe this Data.db: {0}")]
    Invalid(&'static str),
    /// A chunk.
    #[error("chunk {number} cannot be decompressed: {reason}")]
    Chunk {
        /// From 0.
        number: usize,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compressor {
    Lz4,
    /// Chunks with checksums, of the data as it is.
    Noop,
}

/// What a CompressionInfo.db says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressionInfo {
    compressor: Compressor,
    chunk_bytes: u32,
    /// A chunk that is not shorter is kept as it is.
    most_compressed_bytes: u64,
    data_bytes: u64,
    offsets: Vec<u64>,
}

impl CompressionInfo {
    /// Takes the content of the component of this SSTable.
    pub fn parse(name: &SstableName, content: &[u8]) -> Result<Self, CompressionError> {
        let mut input = Input(content);
        let class = input.text()?;
        let compressor = match class.rsplit('.').next().unwrap_or_default() {
            "LZ4Compressor" => Compressor::Lz4,
            "NoopCompressor" => Compressor::Noop,
            _ => return Err(CompressionError::Unsupported(excerpt(&class))),
        };
        let options = input.u32()?;
        for _ in 0..options {
            input.text()?;
            input.text()?;
        }
        let chunk_bytes = input.u32()?;
        let most_compressed_bytes = if keeps_long_chunks(name) { input.u32()? } else { u32::MAX };
        let data_bytes = input.u64()?;
        let chunks = input.u32()?;
        if chunk_bytes == 0 || chunk_bytes > CHUNK_LIMIT_BYTES {
            return Err(CompressionError::Invalid("its chunks have an impossible length"));
        }
        if data_bytes > UNCOMPRESSED_LIMIT_BYTES {
            return Err(CompressionError::TooLarge(data_bytes));
        }
        // Where Cassandra has synchronized at the end of the data, a last chunk of nothing follows.
        if u64::from(chunks) < data_bytes.div_ceil(u64::from(chunk_bytes)) {
            return Err(CompressionError::Invalid("so few chunks do not make up the data"));
        }
        let offsets = (0..chunks).map(|_| input.u64()).collect::<Result<_, _>>()?;
        let most_compressed_bytes = u64::from(most_compressed_bytes);
        Ok(Self { compressor, chunk_bytes, most_compressed_bytes, data_bytes, offsets })
    }

    /// All of the data.
    pub fn decompress(&self, data: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut whole = Vec::new();
        let mut left = self.data_bytes;
        for (number, start) in self.offsets.iter().enumerate() {
            let end = self.offsets.get(number + 1).copied().unwrap_or(data.len() as u64);
            let chunk = slice(data, *start, end.saturating_sub(CHECKSUM_BYTES));
            let chunk = chunk.ok_or(CompressionError::Invalid("a chunk is not within the file"))?;
            let wanted = left.min(u64::from(self.chunk_bytes));
            left -= wanted;
            self.chunk(chunk, usize::try_from(wanted).unwrap_or(usize::MAX), &mut whole)
                .map_err(|reason| CompressionError::Chunk { number, reason })?;
        }
        Ok(whole)
    }

    fn chunk(&self, chunk: &[u8], wanted: usize, whole: &mut Vec<u8>) -> Result<(), String> {
        if self.compressor == Compressor::Noop || chunk.len() as u64 >= self.most_compressed_bytes {
            // What is shorter than the limit is filled up to it with zeros.
            whole.extend_from_slice(chunk.get(..wanted).ok_or("it is too short")?);
            return Ok(());
        }
        let (length, chunk) = chunk.split_first_chunk::<4>().ok_or("it is too short")?;
        if usize::try_from(u32::from_le_bytes(*length)) != Ok(wanted) {
            return Err("it does not have the length of a chunk".to_owned());
        }
        let start = whole.len();
        whole.resize(start + wanted, 0);
        let room = whole.get_mut(start..).unwrap_or_default();
        match lz4_flex::block::decompress_into(chunk, room) {
            Ok(filled) if filled == wanted => Ok(()),
            Ok(filled) => Err(format!("it has {filled} bytes instead of {wanted}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// `Version.hasMaxCompressedLength`
fn keeps_long_chunks(name: &SstableName) -> bool {
    name.format != SstableFormat::Big || name.version.to_string().as_str() >= "na"
}

fn slice(data: &[u8], start: u64, end: u64) -> Option<&[u8]> {
    data.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// What is left to read, as Java's `DataInput` reads it.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CompressionError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(CompressionError::Invalid("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CompressionError> {
        self.take(N)?.try_into().map_err(|_cut| CompressionError::Invalid("it is cut off"))
    }

    fn u32(&mut self) -> Result<u32, CompressionError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, CompressionError> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<String, CompressionError> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
