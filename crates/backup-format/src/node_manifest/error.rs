//! Why a manifest, a pin or a trash list cannot be written or is not believed.

use std::io;

/// Why a manifest, a pin or a trash list cannot be written or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The stored bytes cannot be had, or are not a whole zstd frame.
    #[error("the stored bytes cannot be read or decompressed")]
    Read(#[source] io::Error),
    /// The bytes cannot be stored.
    #[error("the bytes cannot be written")]
    Write(#[source] io::Error),
    /// The value cannot be written as JSON.
    #[error("it cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// Not the JSON that belongs there.
    #[error("line {line} is not what it should be")]
    Json {
        /// From 1.
        line: u64,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A line or document is too long.
    #[error("{what} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// A line, a document.
        what: &'static str,
        /// The limit.
        limit_bytes: usize,
    },
    /// Written by a later version.
    #[error("it has format {format} and needs a reader of version {least_reader}; this is version {reader}", reader = crate::LEAST_READER)]
    Unsupported {
        /// The writer's format.
        format: u32,
        /// The least version of a reader.
        least_reader: u32,
    },
    /// A value that no writer of ours writes.
    #[error("line {line} is not valid: {reason}")]
    Invalid {
        /// From 1; in what is to be written, the line that it would have been.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The footer is missing.
    #[error("it is truncated: it ends before its footer")]
    Truncated,
    /// Something follows the footer.
    #[error("something follows its footer")]
    TrailingData,
    /// The footer says something else than the lines before it.
    #[error("its footer and its lines differ in {what}")]
    Mismatch {
        /// Which field.
        what: &'static str,
    },
}
