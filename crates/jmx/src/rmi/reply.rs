//! A reply (`ReturnData`): bytes in, a decoded value or the remote exception out.
//!
//! There is no length prefix: the grammar alone says where a reply ends, so the reader must be told whether the method
//! returns nothing, a boolean or an object.

use super::Uid;
use super::transport::RETURN_DATA;
use crate::stream::graph::{Graph, Value};
use crate::stream::limits::Limits;
use crate::stream::reader::{Outcome, Reader};
use crate::stream::view::View;
use crate::stream::{StreamError, graph};

/// What the method returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// Nothing.
    Void,
    /// A primitive boolean, which travels in the header block.
    Boolean,
    /// An object or null.
    Object,
}

/// How the call ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ending {
    /// The method returned. Void counts as null.
    Returned(Value),
    /// The method, or the dispatch of the call, threw this.
    Threw(Value),
    /// The server failed to write its result and sent this exception. The connection cannot be used any more.
    Aborted(Value),
}

/// A complete reply.
#[derive(Debug)]
pub struct Reply {
    graph: Graph,
    ending: Ending,
    uid: Uid,
}

impl Reply {
    /// The value that was returned (null for void); the exception when one was thrown.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        let (Ending::Returned(value) | Ending::Threw(value) | Ending::Aborted(value)) = self.ending;
        View::new(&self.graph, value)
    }

    /// How the call ended.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Identifies the reply in an acknowledgement.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// The graph that the views look at.
    #[must_use]
    pub fn graph(&self) -> &graph::Graph {
        &self.graph
    }
}

/// Reads one reply, in whatever pieces it arrives.
#[derive(Debug)]
pub struct ReplyReader {
    reader: Reader,
    returns: Returns,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Start,
    Header,
    Block,
    Value { threw: bool, uid: Uid },
    Done { ending: Ending, uid: Uid },
}

impl ReplyReader {
    /// A reader for the reply of a method that returns this.
    #[must_use]
    pub fn new(returns: Returns, limits: &Limits) -> Self {
        Self { reader: Reader::new(limits), returns, stage: Stage::Start }
    }

    /// Takes bytes that arrived; true when the reply is complete.
    ///
    /// # Errors
    /// [`StreamError`]; also for bytes behind the end of the reply, which nobody asked for.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, StreamError> {
        self.reader.push(bytes)?;
        while !matches!(self.stage, Stage::Done { .. }) {
            match self.next_stage()? {
                Some(stage) => self.stage = stage,
                None => return Ok(false),
            }
        }
        if self.reader.unread() > 0 {
            return Err(self.reader.input.malformed("bytes after the end of the reply"));
        }
        Ok(true)
    }

    /// The reply; `None` when it is not complete.
    #[must_use]
    pub fn finish(self) -> Option<Reply> {
        match self.stage {
            Stage::Done { ending, uid } => Some(Reply { graph: self.reader.into_graph(), ending, uid }),
            _ => None,
        }
    }

    fn next_stage(&mut self) -> Result<Option<Stage>, StreamError> {
        match self.stage {
            Stage::Start => match self.reader.poll_byte()? {
                None => Ok(None),
                Some(RETURN_DATA) => Ok(Some(Stage::Header)),
                Some(_) => Err(self.malformed("no reply (51) where one belongs")),
            },
            Stage::Header => Ok(self.reader.poll_header()?.map(|()| Stage::Block)),
            Stage::Block => match self.reader.poll_block()? {
                None => Ok(None),
                Some(block) => self.read_block(&block).map(Some),
            },
            Stage::Value { threw, uid } => Ok(self.reader.poll_value()?.map(|outcome| {
                let ending = match outcome {
                    Outcome::Aborted(value) => Ending::Aborted(value),
                    Outcome::Value(value) if threw => Ending::Threw(value),
                    Outcome::Value(value) => Ending::Returned(value),
                };
                Stage::Done { ending, uid }
            })),
            Stage::Done { .. } => Ok(Some(self.stage)),
        }
    }

    fn read_block(&self, block: &[u8]) -> Result<Stage, StreamError> {
        let Some((kind, rest)) = block.split_first() else {
            return Err(self.malformed("a reply without a type"));
        };
        let Some((uid, primitive)) = rest.split_first_chunk::<14>() else {
            return Err(self.malformed("a reply without an id"));
        };
        let uid = *uid;
        match (kind, self.returns, primitive) {
            (1, Returns::Void, []) => Ok(Stage::Done { ending: Ending::Returned(Value::Null), uid }),
            (1, Returns::Boolean, [value @ (0 | 1)]) => {
                Ok(Stage::Done { ending: Ending::Returned(Value::Bool(*value == 1)), uid })
            }
            (1, Returns::Object, []) => Ok(Stage::Value { threw: false, uid }),
            (2, _, []) => Ok(Stage::Value { threw: true, uid }),
            (1 | 2, ..) => Err(self.malformed("a reply whose block has the wrong length")),
            _ => Err(self.malformed("a reply that is neither a result nor an exception")),
        }
    }

    fn malformed(&self, problem: &'static str) -> StreamError {
        self.reader.input.malformed(problem)
    }
}

/// Reads a reply from bytes that are at hand: `None` when they end too early.
///
/// # Errors
/// [`StreamError`].
pub fn parse(bytes: &[u8], returns: Returns, limits: &Limits) -> Result<Option<Reply>, StreamError> {
    let mut reader = ReplyReader::new(returns, limits);
    reader.push(bytes)?;
    Ok(reader.finish())
}
