//! Typed views over a decoded graph. They borrow, never unfold the graph, and together hand out no more than
//! [`Limits::view_values`](super::limits::Limits::view_values): a string that a hostile peer refers to a million times
//! is charged a million times, because a caller may copy it each time.

use super::graph::{Array, Desc, Elements, Graph, Item, Object, Part, Value};

/// A value is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Another type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What was asked for.
        expected: &'static str,
        /// What is there; class names with control characters escaped.
        found: String,
    },
    /// An object without a field that its class should have.
    #[error("{class} has no field or key {name}")]
    Missing {
        /// The class, control characters escaped.
        class: String,
        /// The field or key.
        name: String,
    },
    /// The values of the reply unfold to too many, or into a circle.
    #[error("a value that unfolds to too many values")]
    TooMany,
}

/// As many bytes of text, or fields to search, are charged as one value.
const BYTES_PER_VALUE: usize = 16;

/// A value in its graph. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    graph: &'a Graph,
    value: Value,
}

impl<'a> View<'a> {
    /// A view of `value`, which must come from `graph`.
    #[must_use]
    pub fn new(graph: &'a Graph, value: Value) -> Self {
        Self { graph, value }
    }

    /// The bare value.
    #[must_use]
    pub fn value(self) -> Value {
        self.value
    }

    /// Whether it is Java's null.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.value == Value::Null
    }

    /// None for null, otherwise the value itself.
    #[must_use]
    pub fn non_null(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }

    /// A string.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_str(self) -> Result<&'a str, ViewError> {
        match self.value {
            Value::String(id) => {
                let text = self.graph.string(id).ok_or_else(|| self.wrong("a string"))?;
                self.spend(text.len() / BYTES_PER_VALUE)?;
                Ok(text)
            }
            _ => Err(self.wrong("a string")),
        }
    }

    /// A boolean or a `java.lang.Boolean`.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_bool(self) -> Result<bool, ViewError> {
        match self.unboxed() {
            Value::Bool(value) => Ok(value),
            _ => Err(self.wrong("a boolean")),
        }
    }

    /// An integer of any width, boxed or not.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_i64(self) -> Result<i64, ViewError> {
        match self.unboxed() {
            Value::Byte(value) => Ok(value.into()),
            Value::Short(value) => Ok(value.into()),
            Value::Int(value) => Ok(value.into()),
            Value::Long(value) => Ok(value),
            _ => Err(self.wrong("an integer")),
        }
    }

    /// A floating point number, boxed or not.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_f64(self) -> Result<f64, ViewError> {
        match self.unboxed() {
            Value::Float(value) => Ok(value.into()),
            Value::Double(value) => Ok(value),
            _ => Err(self.wrong("a floating point number")),
        }
    }

    /// The canonical name of a `javax.management.ObjectName`: the only string its `writeObject` writes.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_object_name(self) -> Result<&'a str, ViewError> {
        if self.class_name() != Some("javax.management.ObjectName") {
            return Err(self.wrong("an object name"));
        }
        let name = self.parts().iter().flat_map(|part| self.values_of(part)).next();
        name.ok_or_else(|| self.wrong("an object name"))?.as_str()
    }

    /// The name of an enum constant.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_enum(self) -> Result<&'a str, ViewError> {
        let Value::Enum(id) = self.value else { return Err(self.wrong("an enum constant")) };
        let constant = self.graph.enum_constant(id).ok_or_else(|| self.wrong("an enum constant"))?;
        self.with(Value::String(constant.name)).as_str()
    }

    /// A `byte[]`.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn as_bytes(self) -> Result<&'a [u8], ViewError> {
        match self.array() {
            Some(Array { elements: Elements::Bytes(bytes), .. }) => Ok(bytes),
            _ => Err(self.wrong("an array of bytes")),
        }
    }

    /// The class of an object, array or enum constant; text from the peer.
    #[must_use]
    pub fn class_name(self) -> Option<&'a str> {
        self.desc().map(|desc| desc.name.as_str())
    }

    /// Whether the class or one of its super classes has this name.
    #[must_use]
    pub fn is_a(self, class: &str) -> bool {
        self.desc().is_some_and(|desc| {
            desc.chain.iter().any(|id| self.graph.desc(*id).is_some_and(|desc| desc.name == class))
        })
    }

    /// A field of an object, looked up from the topmost class down.
    ///
    /// # Errors
    /// [`ViewError::Missing`] when there is none, [`ViewError::Type`] when this is no object.
    pub fn field(self, name: &str) -> Result<View<'a>, ViewError> {
        let object = self.object().ok_or_else(|| self.wrong("an object"))?;
        let fields: usize = object.parts.iter().map(|part| part.fields.len()).sum();
        self.spend(fields / BYTES_PER_VALUE)?;
        let found = object.parts.iter().find_map(|part| {
            let index = self.graph.desc(part.class)?.fields.iter().position(|field| field.name == name)?;
            part.fields.get(index)
        });
        match found {
            Some(value) => Ok(self.with(*value)),
            None => Err(self.missing(name)),
        }
    }

    /// The raw bytes and the values that the `writeObject` of `class` added to this object.
    #[must_use]
    pub fn annotation(self, class: &str) -> Option<&'a [Item]> {
        let part = self
            .parts()
            .iter()
            .find(|part| self.graph.desc(part.class).is_some_and(|desc| desc.name == class))?;
        Some(&part.annotation)
    }

    pub(super) fn annotated_values(self, class: &str) -> Result<Option<Vec<View<'a>>>, ViewError> {
        let part = self
            .parts()
            .iter()
            .find(|part| self.graph.desc(part.class).is_some_and(|desc| desc.name == class));
        let Some(part) = part else { return Ok(None) };
        self.spend(part.annotation.len())?;
        Ok(Some(self.values_of(part).collect()))
    }

    pub(super) fn elements(self) -> Result<Option<Vec<View<'a>>>, ViewError> {
        let Some(array) = self.array() else { return Ok(None) };
        let Elements::Values(values) = &array.elements else { return Err(self.wrong("an array of values")) };
        self.spend(values.len())?;
        Ok(Some(values.iter().map(|value| self.with(*value)).collect()))
    }

    pub(super) fn spend(self, count: usize) -> Result<(), ViewError> {
        if self.graph.spend(count.saturating_add(1)) { Ok(()) } else { Err(ViewError::TooMany) }
    }

    pub(super) fn wrong(self, expected: &'static str) -> ViewError {
        ViewError::Type { expected, found: self.describe() }
    }

    pub(super) fn missing(self, name: &str) -> ViewError {
        ViewError::Missing { class: self.describe(), name: name.to_owned() }
    }

    fn values_of(self, part: &'a Part) -> impl Iterator<Item = View<'a>> {
        part.annotation.iter().filter_map(move |item| match item {
            Item::Value(value) => Some(self.with(*value)),
            Item::Block(_) => None,
        })
    }

    fn unboxed(self) -> Value {
        const BOXES: [&str; 8] =
            ["Boolean", "Byte", "Character", "Double", "Float", "Integer", "Long", "Short"];
        let boxed = self
            .class_name()
            .and_then(|name| name.strip_prefix("java.lang."))
            .is_some_and(|name| BOXES.contains(&name));
        if !boxed {
            return self.value;
        }
        self.field("value").map_or(self.value, View::value)
    }

    fn describe(self) -> String {
        match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "a boolean".to_owned(),
            Value::Byte(_) | Value::Char(_) | Value::Short(_) | Value::Int(_) | Value::Long(_) => {
                "an integer".to_owned()
            }
            Value::Float(_) | Value::Double(_) => "a floating point number".to_owned(),
            Value::String(_) => "a string".to_owned(),
            Value::Class(_) => "a class".to_owned(),
            Value::Array(_) | Value::Object(_) | Value::Enum(_) => {
                let name = self.class_name().unwrap_or("an unknown class");
                super::shown(name)
            }
        }
    }

    /// A view of another value of the same graph.
    #[must_use]
    pub fn sibling(self, value: Value) -> View<'a> {
        self.with(value)
    }

    fn with(self, value: Value) -> View<'a> {
        View { graph: self.graph, value }
    }

    fn parts(self) -> &'a [Part] {
        self.object().map_or(&[], |object| &object.parts)
    }

    fn object(self) -> Option<&'a Object> {
        match self.value {
            Value::Object(id) => self.graph.object(id),
            _ => None,
        }
    }

    fn array(self) -> Option<&'a Array> {
        match self.value {
            Value::Array(id) => self.graph.array(id),
            _ => None,
        }
    }

    fn desc(self) -> Option<&'a Desc> {
        let class = match self.value {
            Value::Object(id) => self.graph.object(id)?.class,
            Value::Array(id) => self.graph.array(id)?.class,
            Value::Enum(id) => self.graph.enum_constant(id)?.class,
            _ => return None,
        };
        self.graph.desc(class)
    }
}
