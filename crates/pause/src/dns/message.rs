//! Messages of RFC 1035, as far as one question and its answers go: the authority and additional sections are not read,
//! so nothing is believed that was not asked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// More answers make no sense; a message of 64 KiB could hold some more.
const ANSWERS_LIMIT: u16 = 4096;
const INTERNET: u16 = 1;
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RCODE: u16 = 0x000f;

/// The types of records that are asked for, and the one that leads to another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Cname,
    Aaaa,
    Srv,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Cname => 5,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

/// One question, and the number that its answer has to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) name: Name,
    pub(crate) kind: Kind,
}

impl Query {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for word in [self.id, RECURSION_DESIRED, 1, 0, 0, 0] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        self.name.write(&mut message);
        message.extend_from_slice(&self.kind.number().to_be_bytes());
        message.extend_from_slice(&INTERNET.to_be_bytes());
        message
    }
}

/// What a server says to a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 is good, 3 is that the name does not exist.
    pub(crate) rcode: u8,
    /// The rest came only over TCP.
    pub(crate) truncated: bool,
    /// None when truncated.
    pub(crate) records: Vec<Record>,
}

/// A record of the answer section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    /// Priority and weight are left out: all targets are instances.
    Srv {
        port: u16,
        target: Name,
    },
    /// Of another type or class.
    Other,
}

impl Data {
    pub(crate) fn is_of(&self, kind: Kind) -> bool {
        let own = match self {
            Self::A(_) => Kind::A,
            Self::Aaaa(_) => Kind::Aaaa,
            Self::Cname(_) => Kind::Cname,
            Self::Srv { .. } => Kind::Srv,
            Self::Other => return false,
        };
        own == kind
    }
}

/// Why a message is not an answer to the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the message is cut off")]
    Short,
    #[error("it is not the answer to this question")]
    Foreign,
    #[error("a name is too long")]
    Name,
    #[error("a name does not lead to an end")]
    Pointer,
    #[error("more than {ANSWERS_LIMIT} answers")]
    TooMany,
    #[error("a record's length is not that of its content")]
    Length,
}

impl Answer {
    /// Reads the answer to this query; anything else is an error.
    pub(crate) fn read(query: &Query, message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader { message, at: 0 };
        let mut words = [0; 6];
        for word in &mut words {
            *word = reader.word()?;
        }
        let [id, flags, questions, answers, _authority, _additional] = words;
        if id != query.id || flags & RESPONSE == 0 || flags & OPCODE != 0 || questions != 1 {
            return Err(MessageError::Foreign);
        }
        let asked = (Name::read(&mut reader)?, reader.word()?, reader.word()?);
        if asked != (query.name.clone(), query.kind.number(), INTERNET) {
            return Err(MessageError::Foreign);
        }
        let truncated = flags & TRUNCATED != 0;
        let rcode = u8::try_from(flags & RCODE).unwrap_or(u8::MAX);
        if answers > ANSWERS_LIMIT {
            return Err(MessageError::TooMany);
        }
        let count = if truncated { 0 } else { answers };
        let records = (0..count).map(|_| Record::read(&mut reader)).collect::<Result<_, _>>()?;
        Ok(Self { rcode, truncated, records })
    }
}

impl Record {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let name = Name::read(reader)?;
        let (kind, class) = (reader.word()?, reader.word()?);
        let _ttl = (reader.word()?, reader.word()?);
        let length = usize::from(reader.word()?);
        let start = reader.position();
        // Looked into with the whole message in sight, as names may point back.
        let mut inside = reader.at(start);
        reader.take(length)?;
        let data = if class == INTERNET { Data::read(kind, &mut inside)? } else { Data::Other };
        if data != Data::Other && inside.position() != reader.position() {
            return Err(MessageError::Length);
        }
        Ok(Self { name, data })
    }
}

impl Data {
    fn read(kind: u16, reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        const A: u16 = Kind::A.number();
        const AAAA: u16 = Kind::Aaaa.number();
        const CNAME: u16 = Kind::Cname.number();
        const SRV: u16 = Kind::Srv.number();
        Ok(match kind {
            A => Self::A(Ipv4Addr::from(reader.array()?)),
            AAAA => Self::Aaaa(Ipv6Addr::from(reader.array()?)),
            CNAME => Self::Cname(Name::read(reader)?),
            SRV => {
                let _priority_and_weight = (reader.word()?, reader.word()?);
                Self::Srv { port: reader.word()?, target: Name::read(reader)? }
            }
            _ => Self::Other,
        })
    }
}

/// A place in a message. Nothing is read behind its end.
pub(super) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Another reader of the same message.
    pub(super) fn at(&self, at: usize) -> Self {
        Self { message: self.message, at }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], MessageError> {
        let end = self.at.checked_add(length).ok_or(MessageError::Short)?;
        let taken = self.message.get(self.at..end).ok_or(MessageError::Short)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, MessageError> {
        self.array().map(|[byte]| byte)
    }

    fn word(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        self.take(N)?.try_into().map_err(|_length| MessageError::Short)
    }
}
