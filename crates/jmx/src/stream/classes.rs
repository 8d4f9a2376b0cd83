//! The reader's part for class descriptors.

use super::graph::{Desc, DescId, Field, Value};
use super::reader::Reader;
use super::states::{DescFrame, DescStage, Frame, Handle, Step, cost};
use super::{flag, tag};

/// Interfaces of a proxy class: a JVM allows 65,535, real ones have one to four.
const PROXY_INTERFACES: i32 = 64;

impl Reader {
    pub(super) fn desc_field(&mut self, left: u16) -> Step<()> {
        let Some(left) = left.checked_sub(1) else {
            return self.desc_stage(DescStage::Annotation);
        };
        let code = self.input.byte()?;
        let name = self.input.utf()?;
        match code {
            b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' | b'Z' => {}
            b'L' | b'[' => self.type_string()?,
            _ => return Err(self.malformed("a field type that does not exist")),
        }
        self.charge(cost::FIELD + name.len() as u64)?;
        let id = match self.stack.last() {
            Some(Frame::Desc(frame)) => frame.id,
            _ => return Err(self.malformed("a field outside a class descriptor")),
        };
        if let Some(desc) = self.graph.descs.get_mut(id.0 as usize) {
            desc.fields.push(Field { code, name });
        }
        self.desc_stage(DescStage::Fields { left })
    }

    fn type_string(&mut self) -> Step<()> {
        match self.input.byte()? {
            kind @ (tag::STRING | tag::LONG_STRING) => self.string(kind).map(drop),
            tag::REFERENCE => match self.handle()? {
                Handle::Value(Value::String(_)) => Ok(()),
                _ => Err(self.malformed("a field type that is not a string")),
            },
            _ => Err(self.malformed("a field type that is not a string")),
        }
    }

    fn desc_stage(&mut self, stage: DescStage) -> Step<()> {
        match self.stack.last_mut() {
            Some(Frame::Desc(frame)) => frame.stage = stage,
            _ => return Err(self.malformed("a class descriptor outside one")),
        }
        Ok(())
    }

    pub(super) fn class_desc(&mut self) -> Step<()> {
        match self.input.byte()? {
            tag::NULL => self.deliver_desc(None),
            tag::REFERENCE => match self.handle()? {
                // An incomplete descriptor as its own super class would make an endless hierarchy.
                Handle::Desc(id) if self.graph.desc(id).is_some_and(|desc| !desc.chain.is_empty()) => {
                    self.deliver_desc(Some(id))
                }
                Handle::Desc(_) => Err(self.malformed("a reference to an incomplete class descriptor")),
                Handle::Value(_) => {
                    Err(self.malformed("a reference to a value where a class descriptor belongs"))
                }
            },
            tag::CLASS_DESC => {
                let name = self.input.utf()?;
                let _serial_version = self.input.i64()?;
                let flags = self.input.byte()?;
                let left = self.input.u16()?;
                self.new_desc(name, flags, DescStage::Fields { left })
            }
            tag::PROXY_CLASS_DESC => {
                let name = self.proxy_interfaces()?;
                self.new_desc(name, flag::SERIALIZABLE, DescStage::Annotation)
            }
            _ => Err(self.malformed("a tag that is no class descriptor")),
        }
    }

    fn proxy_interfaces(&mut self) -> Step<String> {
        let count = self.input.i32()?;
        if count < 0 {
            return Err(self.malformed("a negative number of interfaces"));
        }
        if count > PROXY_INTERFACES {
            return Err(self
                .input
                .over("interfaces of a proxy class", PROXY_INTERFACES.unsigned_abs().into())
                .into());
        }
        let names = (0..count).map(|_| self.input.utf()).collect::<Step<Vec<_>>>()?;
        // The prefix keeps it from passing for a class of that name.
        Ok(format!("proxy {}", names.join(", ")))
    }

    fn new_desc(&mut self, name: String, flags: u8, stage: DescStage) -> Step<()> {
        if flags & flag::EXTERNALIZABLE != 0 && flags & flag::SERIALIZABLE != 0 {
            return Err(self.malformed("a class that is both serializable and externalizable"));
        }
        self.charge(cost::DESC + name.len() as u64)?;
        let id = DescId(self.index(self.graph.descs.len())?);
        self.graph.descs.push(Desc { name, flags, fields: Vec::new(), chain: [].into() });
        self.give_handle(Handle::Desc(id))?;
        self.enter(Frame::Desc(DescFrame { id, stage }))
    }

    /// Hands a class descriptor to whatever waits for it.
    fn deliver_desc(&mut self, mut given: Option<DescId>) -> Step<()> {
        loop {
            match self.stack.pop() {
                Some(Frame::Desc(frame)) => {
                    self.complete_desc(frame.id, given)?;
                    given = Some(frame.id);
                }
                Some(Frame::Construct(construct)) => {
                    let Some(id) = given else {
                        return Err(self.malformed("no class where one belongs"));
                    };
                    return self.construct(construct, id);
                }
                _ => return Err(self.malformed("a class descriptor that nobody needs")),
            }
        }
    }

    fn complete_desc(&mut self, id: DescId, parent: Option<DescId>) -> Step<()> {
        let mut chain = match parent {
            Some(parent) => self.graph.desc(parent).map(|desc| desc.chain.to_vec()).unwrap_or_default(),
            None => Vec::new(),
        };
        chain.push(id);
        if chain.len() > self.limits.class_chain {
            return Err(self.input.over("classes in one hierarchy", self.limits.class_chain as u64).into());
        }
        self.charge(cost::CLASS_OF_CHAIN * chain.len() as u64)?;
        if let Some(desc) = self.graph.descs.get_mut(id.0 as usize) {
            desc.chain = chain.into();
        }
        Ok(())
    }
}
