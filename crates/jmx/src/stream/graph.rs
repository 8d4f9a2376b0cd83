//! The decoded values: an arena. A stream is a graph (shared values, cycles), not a tree, so values refer to each other
//! by index and are never unfolded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Index of a class descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescId(pub(super) u32);
/// Index of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringId(pub(super) u32);
/// Index of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayId(pub(super) u32);
/// Index of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectId(pub(super) u32);
/// Index of an enum constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnumId(pub(super) u32);

/// One value: a primitive, or the index of something in the [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Null,
    Bool(bool),
    Byte(i8),
    Char(u16),
    Short(i16),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    String(StringId),
    Array(ArrayId),
    Object(ObjectId),
    Enum(EnumId),
    Class(DescId),
}

/// A field of a class descriptor.
#[derive(Debug)]
pub struct Field {
    /// Type code as in a class file: `B C D F I J S Z L [`.
    pub code: u8,
    /// Field name.
    pub name: String,
}

/// A class descriptor.
#[derive(Debug)]
pub struct Desc {
    /// Class name; for a proxy class `proxy` and its interfaces, separated by commas.
    pub name: String,
    /// `SC_*` flags.
    pub flags: u8,
    /// Fields in wire order.
    pub fields: Vec<Field>,
    /// This class and its super classes, the topmost first. Empty while the descriptor is being read.
    pub chain: Arc<[DescId]>,
}

/// What one class of a hierarchy wrote of an object. Classes that wrote nothing have no part.
#[derive(Debug)]
pub struct Part {
    /// The class.
    pub class: DescId,
    /// Field values in the order of the descriptor.
    pub fields: Vec<Value>,
    /// What the class's `writeObject` added.
    pub annotation: Vec<Item>,
}

/// A piece of an annotation.
#[derive(Debug)]
pub enum Item {
    /// Raw bytes.
    Block(Vec<u8>),
    /// A value.
    Value(Value),
}

/// An object.
#[derive(Debug)]
pub struct Object {
    /// Its class.
    pub class: DescId,
    /// What each class of the hierarchy wrote, the topmost first.
    pub parts: Vec<Part>,
}

/// Array elements.
#[derive(Debug)]
pub enum Elements {
    /// A `byte[]`.
    Bytes(Vec<u8>),
    /// Any other array.
    Values(Vec<Value>),
}

/// An array.
#[derive(Debug)]
pub struct Array {
    /// Its class, such as `[Ljava.lang.String;`.
    pub class: DescId,
    /// Its elements.
    pub elements: Elements,
}

/// An enum constant.
#[derive(Debug)]
pub struct EnumConstant {
    /// Its class.
    pub class: DescId,
    /// Its name.
    pub name: StringId,
}

/// Everything that one stream held.
#[derive(Debug, Default)]
pub struct Graph {
    pub(super) descs: Vec<Desc>,
    pub(super) strings: Vec<Box<str>>,
    pub(super) arrays: Vec<Array>,
    pub(super) objects: Vec<Object>,
    pub(super) enums: Vec<EnumConstant>,
    pub(super) view_values_left: AtomicU64,
}

impl Graph {
    /// The descriptor with this index.
    #[must_use]
    pub fn desc(&self, id: DescId) -> Option<&Desc> {
        self.descs.get(id.0 as usize)
    }

    /// The string with this index.
    #[must_use]
    pub fn string(&self, id: StringId) -> Option<&str> {
        self.strings.get(id.0 as usize).map(|text| &**text)
    }

    /// The array with this index.
    #[must_use]
    pub fn array(&self, id: ArrayId) -> Option<&Array> {
        self.arrays.get(id.0 as usize)
    }

    /// The object with this index.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.0 as usize)
    }

    /// The enum constant with this index.
    #[must_use]
    pub fn enum_constant(&self, id: EnumId) -> Option<&EnumConstant> {
        self.enums.get(id.0 as usize)
    }

    /// Takes `count` from what views may still hand out; false when there is not so much left.
    pub(super) fn spend(&self, count: usize) -> bool {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.view_values_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
            .is_ok()
    }
}
