//! What an MBean says about itself (`javax.management.MBeanInfo`): which overloads of an operation exist.

use crate::stream::view::{View, ViewError};

/// An MBean's attributes and operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MBeanInfo {
    /// `MBeanAttributeInfo`s.
    pub attributes: Vec<AttributeInfo>,
    /// `MBeanOperationInfo`s.
    pub operations: Vec<OperationInfo>,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeInfo {
    /// Name, as in `getAttribute`.
    pub name: String,
    /// Java type name.
    pub type_name: String,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
}

/// An operation; overloads are entries of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationInfo {
    /// Name.
    pub name: String,
    /// Java type names of the parameters, as `invoke` wants them.
    pub signature: Vec<String>,
    /// Java type name of the result.
    pub returns: String,
}

impl MBeanInfo {
    /// Reads an `MBeanInfo`.
    ///
    /// # Errors
    /// [`ViewError`] when it is none.
    pub fn read(view: View<'_>) -> Result<Self, ViewError> {
        let attributes =
            view.field("attributes")?.items()?.into_iter().map(attribute).collect::<Result<_, _>>()?;
        let operations =
            view.field("operations")?.items()?.into_iter().map(operation).collect::<Result<_, _>>()?;
        Ok(Self { attributes, operations })
    }

    /// Whether an operation with exactly these parameter types exists.
    #[must_use]
    pub fn has_operation(&self, name: &str, signature: &[&str]) -> bool {
        self.operations.iter().any(|operation| operation.name == name && operation.signature == signature)
    }

    /// Whether an attribute exists and can be read.
    #[must_use]
    pub fn has_attribute(&self, name: &str) -> bool {
        self.attributes.iter().any(|attribute| attribute.name == name && attribute.readable)
    }
}

fn attribute(view: View<'_>) -> Result<AttributeInfo, ViewError> {
    Ok(AttributeInfo {
        name: view.field("name")?.as_str()?.to_owned(),
        type_name: view.field("attributeType")?.as_str()?.to_owned(),
        readable: view.field("isRead")?.as_bool()?,
        writable: view.field("isWrite")?.as_bool()?,
    })
}

fn operation(view: View<'_>) -> Result<OperationInfo, ViewError> {
    let parameters = view.field("signature")?.items()?;
    let signature = parameters.into_iter().map(|parameter| Ok(parameter.field("type")?.as_str()?.to_owned()));
    Ok(OperationInfo {
        name: view.field("name")?.as_str()?.to_owned(),
        signature: signature.collect::<Result<_, ViewError>>()?,
        returns: view.field("type")?.as_str()?.to_owned(),
    })
}
