//! What the reader remembers between two steps: its input, and a stack of half-read things. An explicit stack instead of
//! recursion, so that a reader can stop at any byte and go on later, and so that depth is a number.

use std::sync::Arc;

use super::StreamError;
use super::graph::{ArrayId, DescId, EnumId, ObjectId, Value};

/// Why a step did not complete.
#[derive(Debug)]
pub(super) enum Stop {
    /// The input ended inside the step; nothing was changed.
    NeedMore,
    /// The stream is refused.
    Refused(StreamError),
}

impl From<StreamError> for Stop {
    fn from(error: StreamError) -> Self {
        Self::Refused(error)
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// What a back-reference can mean.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handle {
    Desc(DescId),
    Value(Value),
}

/// Something half read.
#[derive(Debug)]
pub(super) enum Frame {
    /// The value that was asked for.
    Root,
    /// The throwable behind `TC_EXCEPTION`.
    Abort,
    /// Its class descriptor comes next.
    Construct(Construct),
    /// Its name comes next.
    EnumName(EnumId),
    Desc(DescFrame),
    Object(ObjectFrame),
    Array(ArrayFrame),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Construct {
    Object,
    Array,
    Enum,
    Class,
}

#[derive(Debug)]
pub(super) struct DescFrame {
    pub(super) id: DescId,
    pub(super) stage: DescStage,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum DescStage {
    Fields { left: u16 },
    Annotation,
    Super,
}

#[derive(Debug)]
pub(super) struct ObjectFrame {
    pub(super) id: ObjectId,
    pub(super) chain: Arc<[DescId]>,
    /// Index in `chain`.
    pub(super) class: usize,
    pub(super) stage: ObjectStage,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ObjectStage {
    Begin,
    Field(usize),
    Annotation,
}

#[derive(Debug)]
pub(super) struct ArrayFrame {
    pub(super) id: ArrayId,
    /// Type code of the elements.
    pub(super) code: u8,
    /// `None` until the length has been read.
    pub(super) left: Option<u32>,
}

/// Bytes that have arrived and were not consumed.
#[derive(Debug)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    position: usize,
    /// Offset of `bytes[0]` in the message.
    base: u64,
    limit: u64,
}

impl Input {
    pub(super) fn new(limit: u64) -> Self {
        Self { bytes: Vec::new(), position: 0, base: 0, limit }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.bytes.extend_from_slice(bytes);
        let total = self.base.saturating_add(self.bytes.len() as u64);
        if total > self.limit {
            return Err(self.over("bytes in one reply", self.limit));
        }
        Ok(())
    }

    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.position as u64)
    }

    pub(crate) fn malformed(&self, problem: &'static str) -> StreamError {
        StreamError::Malformed { offset: self.offset(), problem }
    }

    pub(super) fn over(&self, what: &'static str, allowed: u64) -> StreamError {
        StreamError::Limit { offset: self.offset(), what, allowed }
    }

    pub(super) fn mark(&self) -> usize {
        self.position
    }

    /// Back to a mark, and forget what lies before it.
    pub(super) fn rewind(&mut self, mark: usize) {
        self.bytes.drain(..mark);
        self.base = self.base.saturating_add(mark as u64);
        self.position = 0;
    }

    pub(super) fn unread(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    pub(super) fn take(&mut self, count: usize) -> Step<&[u8]> {
        let end = self.position.checked_add(count).ok_or(Stop::NeedMore)?;
        let slice = self.bytes.get(self.position..end).ok_or(Stop::NeedMore)?;
        self.position = end;
        Ok(slice)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_length: std::array::TryFromSliceError| Stop::NeedMore)
    }

    pub(super) fn byte(&mut self) -> Step<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Step<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Step<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Step<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Step<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A string with a two-byte length.
    pub(super) fn utf(&mut self) -> Step<String> {
        let length = self.u16()?;
        self.text(usize::from(length))
    }

    pub(super) fn text(&mut self, length: usize) -> Step<String> {
        let text = super::mutf8::decode(self.take(length)?);
        text.map_err(|_refused| self.malformed("a string that is not modified UTF-8").into())
    }
}

/// Estimated bytes of memory; see [`Limits::memory_bytes`].
pub(super) mod cost {
    pub(in crate::stream) const VALUE: u64 = 16;
    pub(in crate::stream) const HANDLE: u64 = 24;
    pub(in crate::stream) const STRING: u64 = 16;
    pub(in crate::stream) const BLOCK: u64 = 32;
    pub(in crate::stream) const ARRAY: u64 = 40;
    pub(in crate::stream) const OBJECT: u64 = 32;
    pub(in crate::stream) const PART: u64 = 56;
    pub(in crate::stream) const CLASS_OF_CHAIN: u64 = 16;
    pub(in crate::stream) const DESC: u64 = 96;
    pub(in crate::stream) const FIELD: u64 = 32;
    pub(in crate::stream) const RESET: u64 = 64;
}
