//! The stream grammar as a machine that stops at any byte: push what arrived, poll for what is complete.
//!
//! Sans-IO, linear in the bytes whatever the chunks: no byte is looked at twice, except those of the one small item that
//! the input ended in. Every limit holds before memory is spent. The same machine serves the client, the tests and the
//! fuzzers.

use super::graph::{Graph, Item, Part, Value};
use super::limits::Limits;
use super::objects::next_class;
use super::states::{Construct, DescStage, Frame, Handle, Input, ObjectStage, Step, Stop, cost};
use super::{FIRST_HANDLE, StreamError, graph, tag};

/// How a value ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// The value is complete.
    Value(Value),
    /// The peer failed while it wrote the value, and sent this throwable instead (`TC_EXCEPTION`). The value around it
    /// is incomplete and the stream ends here.
    Aborted(Value),
}

/// Reads one stream. After an error every further poll gives the same error.
#[derive(Debug)]
pub struct Reader {
    pub(crate) input: Input,
    pub(in crate::stream) graph: Graph,
    pub(super) limits: Limits,
    pub(super) handles: Vec<Handle>,
    pub(super) stack: Vec<Frame>,
    memory_bytes: u64,
    outcome: Option<Outcome>,
    refused: Option<StreamError>,
}

impl Reader {
    /// A reader that has seen no byte.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let graph = Graph { view_values_left: limits.view_values.into(), ..Graph::default() };
        Self {
            input: Input::new(limits.reply_bytes),
            graph,
            limits: *limits,
            handles: Vec::new(),
            stack: Vec::new(),
            memory_bytes: 0,
            outcome: None,
            refused: None,
        }
    }

    /// Adds bytes that arrived.
    ///
    /// # Errors
    /// More bytes than a reply may have.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.input.push(bytes)
    }

    /// Bytes that have arrived and were not needed yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.input.unread()
    }

    /// The values read so far.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Ends the reading.
    #[must_use]
    pub fn into_graph(self) -> Graph {
        self.graph
    }

    /// Reads one byte outside the stream.
    ///
    /// # Errors
    /// The stream was refused before.
    pub fn poll_byte(&mut self) -> Result<Option<u8>, StreamError> {
        self.poll(|reader| reader.input.byte())
    }

    /// Reads the stream header.
    ///
    /// # Errors
    /// Anything but `aced0005`.
    pub fn poll_header(&mut self) -> Result<Option<()>, StreamError> {
        self.poll(|reader| {
            if reader.input.array::<4>()? == super::HEADER {
                return Ok(());
            }
            Err(reader.malformed("no serialization stream (aced0005) where one belongs"))
        })
    }

    /// Reads one block of raw data at the top level.
    ///
    /// # Errors
    /// Anything but a block.
    pub fn poll_block(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        self.poll(|reader| match reader.input.byte()? {
            kind @ (tag::BLOCK_DATA | tag::BLOCK_DATA_LONG) => reader.block(kind),
            _ => Err(reader.malformed("no block of data where one belongs")),
        })
    }

    /// Reads one value with everything in it.
    ///
    /// # Errors
    /// [`StreamError`], for good.
    pub fn poll_value(&mut self) -> Result<Option<Outcome>, StreamError> {
        if self.stack.is_empty() && self.outcome.is_none() {
            self.stack.push(Frame::Root);
        }
        while self.outcome.is_none() {
            if self.poll(Self::step)?.is_none() {
                return Ok(None);
            }
        }
        self.stack.clear();
        Ok(self.outcome.take())
    }

    fn poll<T>(&mut self, read: impl FnOnce(&mut Self) -> Step<T>) -> Result<Option<T>, StreamError> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let mark = self.input.mark();
        match read(self) {
            Ok(done) => Ok(Some(done)),
            Err(Stop::NeedMore) => {
                self.input.rewind(mark);
                Ok(None)
            }
            Err(Stop::Refused(error)) => {
                self.refused = Some(error.clone());
                Err(error)
            }
        }
    }

    fn step(&mut self) -> Step<()> {
        match self.stack.last() {
            Some(Frame::Root) => match self.input.byte()? {
                tag::RESET => {
                    self.handles.clear();
                    self.charge(cost::RESET)
                }
                other => self.value(other),
            },
            Some(Frame::Abort | Frame::EnumName(_)) => {
                let tag = self.input.byte()?;
                self.value(tag)
            }
            Some(Frame::Construct(_)) => self.class_desc(),
            Some(Frame::Desc(frame)) => match frame.stage {
                DescStage::Fields { left } => self.desc_field(left),
                DescStage::Annotation => self.content(),
                DescStage::Super => self.class_desc(),
            },
            Some(Frame::Object(_)) => self.object_step(),
            Some(Frame::Array(_)) => self.array_step(),
            None => Err(self.malformed("nothing is being read")),
        }
    }

    pub(super) fn value(&mut self, tag: u8) -> Step<()> {
        match tag {
            tag::NULL => self.deliver(Value::Null),
            tag::REFERENCE => match self.handle()? {
                Handle::Value(value) => self.deliver(value),
                Handle::Desc(_) => {
                    Err(self.malformed("a reference to a class descriptor where a value belongs"))
                }
            },
            tag::STRING | tag::LONG_STRING => {
                let value = self.string(tag)?;
                self.deliver(value)
            }
            tag::OBJECT => self.enter(Frame::Construct(Construct::Object)),
            tag::ARRAY => self.enter(Frame::Construct(Construct::Array)),
            tag::ENUM => self.enter(Frame::Construct(Construct::Enum)),
            tag::CLASS => self.enter(Frame::Construct(Construct::Class)),
            tag::EXCEPTION => {
                if self.stack.iter().any(|frame| matches!(frame, Frame::Abort)) {
                    return Err(self.malformed("an exception inside an exception"));
                }
                self.handles.clear();
                self.enter(Frame::Abort)
            }
            _ => Err(self.malformed("a tag that is no value")),
        }
    }

    pub(super) fn string(&mut self, kind: u8) -> Step<Value> {
        let length = if kind == tag::STRING { i64::from(self.input.u16()?) } else { self.input.i64()? };
        let Ok(length) = u64::try_from(length) else {
            return Err(self.malformed("a string of negative length"));
        };
        if length > self.limits.string_bytes {
            return Err(self.input.over("bytes in one string", self.limits.string_bytes).into());
        }
        let Ok(bytes) = usize::try_from(length) else {
            return Err(self.malformed("a string longer than the address space"));
        };
        let text = self.input.text(bytes)?;
        // A lone surrogate grows by nothing: three bytes become the three of U+FFFD.
        self.charge(cost::STRING + length)?;
        let id = graph::StringId(self.index(self.graph.strings.len())?);
        self.graph.strings.push(text.into_boxed_str());
        self.give_handle(Handle::Value(Value::String(id)))?;
        Ok(Value::String(id))
    }

    fn block(&mut self, kind: u8) -> Step<Vec<u8>> {
        let length =
            if kind == tag::BLOCK_DATA { i32::from(self.input.byte()?) } else { self.input.i32()? };
        let Ok(length) = usize::try_from(length) else {
            return Err(self.malformed("a block of negative length"));
        };
        if length as u64 > self.limits.string_bytes {
            return Err(self.input.over("bytes in one block", self.limits.string_bytes).into());
        }
        let block = self.input.take(length)?.to_vec();
        self.charge(cost::BLOCK + length as u64)?;
        Ok(block)
    }

    /// A piece of an annotation, or its end.
    pub(super) fn content(&mut self) -> Step<()> {
        match self.input.byte()? {
            tag::END_BLOCK_DATA => {
                match self.stack.last_mut() {
                    Some(Frame::Desc(frame)) => frame.stage = DescStage::Super,
                    Some(Frame::Object(frame)) => next_class(frame),
                    _ => return Err(self.malformed("the end of an annotation outside one")),
                }
                Ok(())
            }
            kind @ (tag::BLOCK_DATA | tag::BLOCK_DATA_LONG) => {
                let block = self.block(kind)?;
                if let Some(part) = self.current_part() {
                    part.annotation.push(Item::Block(block));
                }
                Ok(())
            }
            tag => self.value(tag),
        }
    }

    pub(super) fn charge(&mut self, bytes: u64) -> Step<()> {
        self.memory_bytes = self.memory_bytes.saturating_add(bytes);
        if self.memory_bytes > self.limits.memory_bytes {
            return Err(self.input.over("bytes of memory for one reply", self.limits.memory_bytes).into());
        }
        Ok(())
    }

    pub(super) fn malformed(&self, problem: &'static str) -> Stop {
        self.input.malformed(problem).into()
    }

    pub(super) fn index(&self, length: usize) -> Step<u32> {
        u32::try_from(length)
            .map_err(|_too_many| self.input.over("values in one reply", u32::MAX.into()).into())
    }

    pub(super) fn give_handle(&mut self, handle: Handle) -> Step<()> {
        self.charge(cost::HANDLE)?;
        self.handles.push(handle);
        Ok(())
    }

    pub(super) fn handle(&mut self) -> Step<Handle> {
        let wire = self.input.u32()?;
        let found = wire.checked_sub(FIRST_HANDLE).and_then(|index| self.handles.get(index as usize));
        found.copied().ok_or_else(|| self.malformed("a reference to nothing"))
    }

    pub(super) fn enter(&mut self, frame: Frame) -> Step<()> {
        if self.stack.len() >= self.limits.depth {
            return Err(self.input.over("levels of nesting", self.limits.depth as u64).into());
        }
        self.stack.push(frame);
        Ok(())
    }

    pub(super) fn current_part(&mut self) -> Option<&mut Part> {
        let Some(Frame::Object(frame)) = self.stack.last() else { return None };
        let object = self.graph.objects.get_mut(frame.id.0 as usize)?;
        object.parts.last_mut()
    }

    /// Hands a value to whatever waits for it.
    pub(super) fn deliver(&mut self, value: Value) -> Step<()> {
        self.charge(cost::VALUE)?;
        match self.stack.last_mut() {
            Some(Frame::Root) => self.outcome = Some(Outcome::Value(value)),
            Some(Frame::Abort) => self.outcome = Some(Outcome::Aborted(value)),
            // What annotates a class descriptor (a code base) is never looked at.
            Some(Frame::Desc(_)) => {}
            Some(Frame::EnumName(id)) => {
                let id = *id;
                let Value::String(name) = value else {
                    return Err(self.malformed("an enum constant whose name is not a string"));
                };
                if let Some(constant) = self.graph.enums.get_mut(id.0 as usize) {
                    constant.name = name;
                }
                self.stack.pop();
                return self.deliver(Value::Enum(id));
            }
            Some(Frame::Object(frame)) => {
                let in_field = matches!(frame.stage, ObjectStage::Field(_));
                if let ObjectStage::Field(index) = &mut frame.stage {
                    *index += 1;
                }
                if let Some(part) = self.current_part() {
                    if in_field { part.fields.push(value) } else { part.annotation.push(Item::Value(value)) }
                }
            }
            Some(Frame::Array(_)) => self.array_element(value),
            Some(Frame::Construct(_)) | None => return Err(self.malformed("a value that nobody needs")),
        }
        Ok(())
    }
}

/// Reads a whole stream of one value from bytes that are at hand: `None` when they end too early.
///
/// # Errors
/// [`StreamError`].
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<(Graph, Outcome)>, StreamError> {
    let mut reader = Reader::new(limits);
    reader.push(bytes)?;
    if reader.poll_header()?.is_none() {
        return Ok(None);
    }
    let outcome = reader.poll_value()?;
    Ok(outcome.map(|outcome| (reader.into_graph(), outcome)))
}
