//! Requests: the bytes of the remote calls that a JMX client makes. Byte for byte what a JVM 17 client sends.

use crate::rmi::hash::{self, Method};
use crate::rmi::reply::Returns;
use crate::rmi::{ObjId, transport};
use crate::stream::writer::Writer;

/// Where the id of the called object is in a request: behind the call byte, the stream header and the block header.
const TARGET: std::ops::Range<usize> = 7..29;

/// An argument of an MBean operation. Primitive parameters take their boxed type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// Null.
    Null,
    /// `java.lang.String`.
    String(String),
    /// `boolean`.
    Bool(bool),
    /// `int`.
    Int(i32),
    /// `long`.
    Long(i64),
    /// `String[]`.
    Strings(Vec<String>),
    /// `java.util.HashMap` of strings.
    StringMap(Vec<(String, String)>),
    /// `java.util.ArrayList` of strings.
    List(Vec<String>),
    /// `java.util.HashSet` of strings.
    Set(Vec<String>),
}

/// A call, ready to be sent to any object.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    /// What the reply holds.
    pub returns: Returns,
    /// The call in words, for messages.
    pub label: String,
    /// Whether it may be sent again when its outcome is unknown.
    pub idempotent: bool,
}

impl Request {
    /// Registry `lookup("jmxrmi")`, by operation number or, for a registry without skeleton, by method hash.
    #[must_use]
    pub fn lookup(by_hash: bool) -> Self {
        let method = if by_hash { hash::LOOKUP_BY_HASH } else { hash::LOOKUP };
        let mut writer = start(method);
        writer.string("jmxrmi");
        done(writer, Returns::Object, "look up jmxrmi".to_owned(), true)
    }

    /// `RMIServer.newClient`: a `String[2]` or null, the only types that servers accept here.
    #[must_use]
    pub fn new_client(credentials: Option<[&str; 2]>) -> Self {
        let mut writer = start(hash::NEW_CLIENT);
        match credentials {
            Some(pair) => writer.strings(&pair),
            None => writer.null(),
        }
        done(writer, Returns::Object, "log in".to_owned(), false)
    }

    /// `RMIConnection.close`.
    #[must_use]
    pub fn close() -> Self {
        done(start(hash::CLOSE), Returns::Void, "close the session".to_owned(), false)
    }

    /// `getDefaultDomain`: the cheapest call.
    #[must_use]
    pub fn default_domain() -> Self {
        let mut writer = start(hash::GET_DEFAULT_DOMAIN);
        writer.null();
        done(writer, Returns::Object, "keep the session alive".to_owned(), true)
    }

    /// `getAttribute`.
    #[must_use]
    pub fn get(object_name: &str, attribute: &str) -> Self {
        let mut writer = start(hash::GET_ATTRIBUTE);
        writer.object_name(object_name);
        writer.string(attribute);
        writer.null();
        done(writer, Returns::Object, format!("read {attribute} of {object_name}"), true)
    }

    /// `getAttributes`: leaves out what cannot be read.
    #[must_use]
    pub fn get_many(object_name: &str, attributes: &[&str]) -> Self {
        let mut writer = start(hash::GET_ATTRIBUTES);
        writer.object_name(object_name);
        writer.strings(attributes);
        writer.null();
        done(writer, Returns::Object, format!("read {} of {object_name}", attributes.join(", ")), true)
    }

    /// `setAttribute`.
    #[must_use]
    pub fn set(object_name: &str, attribute: &str, value: &Argument) -> Self {
        let mut inner = Writer::marshalled();
        inner.attribute(attribute);
        write_argument(&mut inner, value);
        let mut writer = start(hash::SET_ATTRIBUTE);
        writer.object_name(object_name);
        writer.marshalled_object(Some(&inner.into_bytes()));
        writer.null();
        done(writer, Returns::Void, format!("set {attribute} of {object_name}"), false)
    }

    /// `invoke`: the parameters travel in a stream of their own.
    #[must_use]
    pub fn invoke(object_name: &str, operation: &str, arguments: &[Argument], signature: &[&str]) -> Self {
        let mut inner = Writer::marshalled();
        inner.objects(arguments.len());
        for argument in arguments {
            write_argument(&mut inner, argument);
        }
        let mut writer = start(hash::INVOKE);
        writer.object_name(object_name);
        writer.string(operation);
        writer.marshalled_object(Some(&inner.into_bytes()));
        writer.strings(signature);
        writer.null();
        done(
            writer,
            Returns::Object,
            format!("{operation}({}) on {object_name}", signature.join(", ")),
            false,
        )
    }

    /// `queryNames`.
    #[must_use]
    pub fn query_names(pattern: &str) -> Self {
        let mut writer = start(hash::QUERY_NAMES);
        writer.object_name(pattern);
        writer.marshalled_object(None);
        writer.null();
        done(writer, Returns::Object, format!("list the MBeans {pattern}"), true)
    }

    /// `isRegistered`.
    #[must_use]
    pub fn is_registered(object_name: &str) -> Self {
        let mut writer = start(hash::IS_REGISTERED);
        writer.object_name(object_name);
        writer.null();
        done(writer, Returns::Boolean, format!("find the MBean {object_name}"), true)
    }

    /// `getMBeanInfo`.
    #[must_use]
    pub fn mbean_info(object_name: &str) -> Self {
        let mut writer = start(hash::GET_MBEAN_INFO);
        writer.object_name(object_name);
        writer.null();
        done(writer, Returns::Object, format!("describe the MBean {object_name}"), true)
    }

    /// The bytes of the call on this object.
    pub fn aim(&mut self, target: ObjId) -> &[u8] {
        if let Some(bytes) = self.bytes.get_mut(TARGET) {
            bytes.copy_from_slice(&target.0);
        }
        &self.bytes
    }

    /// Overwrites the bytes, which held a password.
    pub(crate) fn wipe(&mut self) {
        self.bytes.fill(0);
        std::hint::black_box(&self.bytes);
    }
}

fn start(method: Method) -> Writer {
    let mut writer = Writer::rmi(vec![transport::CALL]);
    let mut block = [0; 34];
    let (target, rest) = block.split_at_mut(22);
    target.copy_from_slice(&ObjId::REGISTRY.0);
    let (operation, hash) = rest.split_at_mut(4);
    operation.copy_from_slice(&method.operation.to_be_bytes());
    hash.copy_from_slice(&method.hash.to_be_bytes());
    writer.block(&block);
    writer
}

fn done(writer: Writer, returns: Returns, label: String, idempotent: bool) -> Request {
    Request { bytes: writer.into_bytes(), returns, label, idempotent }
}

fn write_argument(writer: &mut Writer, argument: &Argument) {
    match argument {
        Argument::Null => writer.null(),
        Argument::String(text) => writer.string(text),
        Argument::Bool(value) => writer.boolean(*value),
        Argument::Int(value) => writer.integer(*value),
        Argument::Long(value) => writer.long(*value),
        Argument::Strings(items) => writer.strings(items),
        Argument::StringMap(pairs) => writer.string_map(pairs),
        Argument::List(items) => writer.string_list(items),
        Argument::Set(items) => writer.string_set(items),
    }
}
