//! The reader's part for objects and arrays.

use super::graph::{
    Array, ArrayId, DescId, Elements, EnumConstant, EnumId, Object, ObjectId, Part, StringId, Value,
};
use super::reader::Reader;
use super::states::{ArrayFrame, Construct, Frame, Handle, ObjectFrame, ObjectStage, Step, cost};
use super::{StreamError, flag};

impl Reader {
    pub(super) fn construct(&mut self, construct: Construct, class: DescId) -> Step<()> {
        match construct {
            Construct::Object => self.new_object(class),
            Construct::Array => self.new_array(class),
            Construct::Enum => {
                let id = EnumId(self.index(self.graph.enums.len())?);
                self.graph.enums.push(EnumConstant { class, name: StringId(u32::MAX) });
                self.give_handle(Handle::Value(Value::Enum(id)))?;
                self.enter(Frame::EnumName(id))
            }
            Construct::Class => {
                self.give_handle(Handle::Value(Value::Class(class)))?;
                self.deliver(Value::Class(class))
            }
        }
    }

    fn new_object(&mut self, class: DescId) -> Step<()> {
        let chain = self.graph.desc(class).map(|desc| desc.chain.clone()).unwrap_or_default();
        self.charge(cost::OBJECT + cost::CLASS_OF_CHAIN * chain.len() as u64)?;
        let id = ObjectId(self.index(self.graph.objects.len())?);
        self.graph.objects.push(Object { class, parts: Vec::new() });
        self.give_handle(Handle::Value(Value::Object(id)))?;
        self.enter(Frame::Object(ObjectFrame { id, chain, class: 0, stage: ObjectStage::Begin }))
    }

    fn new_array(&mut self, class: DescId) -> Step<()> {
        let name = self.graph.desc(class).map_or("", |desc| desc.name.as_str());
        let code = match name.as_bytes() {
            [b'[', code, ..] => *code,
            _ => return Err(self.malformed("an array whose class is no array class")),
        };
        self.charge(cost::ARRAY)?;
        let elements = if code == b'B' { Elements::Bytes(Vec::new()) } else { Elements::Values(Vec::new()) };
        let id = ArrayId(self.index(self.graph.arrays.len())?);
        self.graph.arrays.push(Array { class, elements });
        self.give_handle(Handle::Value(Value::Array(id)))?;
        self.enter(Frame::Array(ArrayFrame { id, code, left: None }))
    }

    pub(super) fn object_step(&mut self) -> Step<()> {
        let Some(Frame::Object(frame)) = self.stack.last() else {
            return Err(self.malformed("no object is being read"));
        };
        let (id, stage) = (frame.id, frame.stage);
        let Some(class) = frame.chain.get(frame.class).copied() else {
            self.stack.pop();
            return self.deliver(Value::Object(id));
        };
        let Some(desc) = self.graph.desc(class) else {
            return Err(self.malformed("a class that does not exist"));
        };
        let flags = desc.flags;
        match stage {
            ObjectStage::Begin => self.begin_class(id, class),
            ObjectStage::Annotation => self.content(),
            ObjectStage::Field(index) => match desc.fields.get(index).map(|field| field.code) {
                Some(b'L' | b'[') => {
                    let tag = self.input.byte()?;
                    self.value(tag)
                }
                Some(code) => {
                    let value = self.primitive(code)?;
                    self.deliver(value)
                }
                None => {
                    if let Some(Frame::Object(frame)) = self.stack.last_mut() {
                        if flags & flag::WRITE_METHOD != 0 {
                            frame.stage = ObjectStage::Annotation;
                        } else {
                            next_class(frame);
                        }
                    }
                    Ok(())
                }
            },
        }
    }

    fn begin_class(&mut self, object: ObjectId, class: DescId) -> Step<()> {
        let Some(desc) = self.graph.descs.get(class.0 as usize) else {
            return Err(self.malformed("a class that does not exist"));
        };
        let external = desc.flags & flag::EXTERNALIZABLE != 0;
        if external && desc.flags & flag::BLOCK_DATA == 0 {
            // Protocol version 1, which RMI uses: no end marker (measured).
            let class = super::shown(&desc.name);
            return Err(StreamError::Unsupported { offset: self.input.offset(), class }.into());
        }
        if !external && desc.flags & flag::SERIALIZABLE == 0 {
            return Err(self.malformed("an object of a class that is not serializable"));
        }
        let wrote = external || desc.flags & flag::WRITE_METHOD != 0 || !desc.fields.is_empty();
        if wrote {
            self.charge(cost::PART)?;
            if let Some(object) = self.graph.objects.get_mut(object.0 as usize) {
                object.parts.push(Part { class, fields: Vec::new(), annotation: Vec::new() });
            }
        }
        if let Some(Frame::Object(frame)) = self.stack.last_mut() {
            frame.stage = if external { ObjectStage::Annotation } else { ObjectStage::Field(0) };
        }
        Ok(())
    }

    pub(super) fn array_step(&mut self) -> Step<()> {
        let Some(Frame::Array(frame)) = self.stack.last() else {
            return Err(self.malformed("no array is being read"));
        };
        let (id, code) = (frame.id, frame.code);
        match frame.left {
            None => self.array_length(),
            Some(0) => {
                self.stack.pop();
                self.deliver(Value::Array(id))
            }
            Some(left) if code == b'B' => self.array_bytes(id, left),
            Some(_) if matches!(code, b'L' | b'[') => {
                let tag = self.input.byte()?;
                self.value(tag)
            }
            Some(_) => {
                let value = self.primitive(code)?;
                self.deliver(value)
            }
        }
    }

    fn array_length(&mut self) -> Step<()> {
        let Ok(length) = u32::try_from(self.input.i32()?) else {
            return Err(self.malformed("an array of negative length"));
        };
        if length > self.limits.array_elements {
            return Err(self.input.over("elements in one array", self.limits.array_elements.into()).into());
        }
        if let Some(Frame::Array(frame)) = self.stack.last_mut() {
            frame.left = Some(length);
        }
        Ok(())
    }

    /// Takes as many of the missing bytes as have arrived.
    fn array_bytes(&mut self, id: ArrayId, left: u32) -> Step<()> {
        let count = self.input.unread().min(left as usize).max(1);
        let bytes = self.input.take(count)?.to_vec();
        self.charge(count as u64)?;
        if let Some(Array { elements: Elements::Bytes(all), .. }) = self.graph.arrays.get_mut(id.0 as usize) {
            all.extend_from_slice(&bytes);
        }
        if let Some(Frame::Array(frame)) = self.stack.last_mut() {
            frame.left = Some(left.saturating_sub(u32::try_from(count).unwrap_or(left)));
        }
        Ok(())
    }

    /// Takes an element that was delivered.
    pub(super) fn array_element(&mut self, value: Value) {
        let Some(Frame::Array(frame)) = self.stack.last_mut() else { return };
        frame.left = frame.left.and_then(|left| left.checked_sub(1));
        if let Some(Array { elements: Elements::Values(all), .. }) =
            self.graph.arrays.get_mut(frame.id.0 as usize)
        {
            all.push(value);
        }
    }

    fn primitive(&mut self, code: u8) -> Step<Value> {
        Ok(match code {
            b'B' => Value::Byte(i8::from_be_bytes(self.input.array()?)),
            b'C' => Value::Char(self.input.u16()?),
            b'D' => Value::Double(f64::from_be_bytes(self.input.array()?)),
            b'F' => Value::Float(f32::from_be_bytes(self.input.array()?)),
            b'I' => Value::Int(self.input.i32()?),
            b'J' => Value::Long(self.input.i64()?),
            b'S' => Value::Short(i16::from_be_bytes(self.input.array()?)),
            b'Z' => Value::Bool(self.input.byte()? != 0),
            _ => return Err(self.malformed("a type that does not exist")),
        })
    }
}

pub(super) fn next_class(frame: &mut ObjectFrame) {
    frame.class += 1;
    frame.stage = ObjectStage::Begin;
}
