//! Writes the JDK classes that a JMX client has to send. Names, serialVersionUIDs and field order are equal on JDK 17 and
//! 25, and frozen: older JVMs check them.

use std::collections::HashMap;

use super::{FIRST_HANDLE, HEADER, flag, mutf8, tag};

/// A class to write: its descriptor as a table.
struct Class {
    name: &'static str,
    serial_version: u64,
    flags: u8,
    fields: &'static [(u8, &'static str, Option<&'static str>)],
    parent: Option<&'static Class>,
}

const S: u8 = flag::SERIALIZABLE;
const SW: u8 = flag::SERIALIZABLE | flag::WRITE_METHOD;

const fn class(name: &'static str, serial_version: u64, flags: u8) -> Class {
    Class { name, serial_version, flags, fields: &[], parent: None }
}

static BYTES: Class = class("[B", 0xacf3_17f8_0608_54e0, S);
static STRINGS: Class = class("[Ljava.lang.String;", 0xadd2_56e7_e91d_7b47, S);
static OBJECTS: Class = class("[Ljava.lang.Object;", 0x90ce_589f_1073_296c, S);
static OBJECT_NAME: Class = class("javax.management.ObjectName", 0x0f03_a71b_eb6d_15cf, SW);
static NUMBER: Class = class("java.lang.Number", 0x86ac_951d_0b94_e08b, S);
static MARSHALLED: Class = Class {
    fields: &[(b'I', "hash", None), (b'[', "locBytes", Some("[B")), (b'[', "objBytes", Some("[B"))],
    ..class("java.rmi.MarshalledObject", 0x7cbd_1e97_ed63_fc3e, S)
};
static ATTRIBUTE: Class = Class {
    fields: &[(b'L', "name", Some("Ljava/lang/String;")), (b'L', "value", Some("Ljava/lang/Object;"))],
    ..class("javax.management.Attribute", 0x2279_b907_538b_3b0e, S)
};
static BOOLEAN: Class =
    Class { fields: &[(b'Z', "value", None)], ..class("java.lang.Boolean", 0xcd20_7280_d59c_faee, S) };
static INTEGER: Class = Class {
    fields: &[(b'I', "value", None)],
    parent: Some(&NUMBER),
    ..class("java.lang.Integer", 0x12e2_a0a4_f781_8738, S)
};
static LONG: Class = Class {
    fields: &[(b'J', "value", None)],
    parent: Some(&NUMBER),
    ..class("java.lang.Long", 0x3b8b_e490_cc8f_23df, S)
};
static HASH_MAP: Class = Class {
    fields: &[(b'F', "loadFactor", None), (b'I', "threshold", None)],
    ..class("java.util.HashMap", 0x0507_dac1_c316_60d1, SW)
};
static HASH_SET: Class = class("java.util.HashSet", 0xba44_8595_96b8_b734, SW);
static ARRAY_LIST: Class =
    Class { fields: &[(b'I', "size", None)], ..class("java.util.ArrayList", 0x7881_d21d_99c7_619d, SW) };

/// `HashMap` and `HashSet` are written with their default load factor, 0.75.
const LOAD_FACTOR: f32 = 0.75;

/// Writes one stream.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    /// RMI's own streams annotate every class with a code base (always null); marshalled streams do not.
    annotated: bool,
    strings: HashMap<String, u32>,
    classes: HashMap<&'static str, u32>,
    booleans: [Option<u32>; 2],
    next_handle: u32,
}

impl Writer {
    /// A stream of RMI, to be appended to `out`.
    #[must_use]
    pub fn rmi(mut out: Vec<u8>) -> Self {
        out.extend(HEADER);
        Self {
            out,
            annotated: true,
            strings: HashMap::new(),
            classes: HashMap::new(),
            booleans: [None; 2],
            next_handle: FIRST_HANDLE,
        }
    }

    /// The stream inside a `java.rmi.MarshalledObject`.
    #[must_use]
    pub fn marshalled() -> Self {
        Self { annotated: false, ..Self::rmi(Vec::new()) }
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Raw data.
    pub fn block(&mut self, data: &[u8]) {
        match u8::try_from(data.len()) {
            Ok(length) => self.out.extend([tag::BLOCK_DATA, length]),
            Err(_long) => {
                self.out.push(tag::BLOCK_DATA_LONG);
                self.length(data.len());
            }
        }
        self.out.extend_from_slice(data);
    }

    /// Null.
    pub fn null(&mut self) {
        self.out.push(tag::NULL);
    }

    /// A string; an equal one that was written before is referred to.
    pub fn string(&mut self, text: &str) {
        if let Some(handle) = self.strings.get(text) {
            return self.reference(*handle);
        }
        let mut encoded = Vec::with_capacity(text.len());
        mutf8::encode(text, &mut encoded);
        match u16::try_from(encoded.len()) {
            Ok(length) => {
                self.out.push(tag::STRING);
                self.out.extend(length.to_be_bytes());
            }
            Err(_long) => {
                self.out.push(tag::LONG_STRING);
                self.out.extend((encoded.len() as u64).to_be_bytes());
            }
        }
        self.out.extend(encoded);
        let handle = self.give_handle();
        self.strings.insert(text.to_owned(), handle);
    }

    /// A `String[]`.
    pub fn strings<T: AsRef<str>>(&mut self, items: &[T]) {
        self.array(&STRINGS, items.len());
        for item in items {
            self.string(item.as_ref());
        }
    }

    /// An `Object[]`, whose elements the caller writes next.
    pub fn objects(&mut self, count: usize) {
        self.array(&OBJECTS, count);
    }

    /// A `javax.management.ObjectName`.
    pub fn object_name(&mut self, name: &str) {
        self.object(&OBJECT_NAME);
        self.string(name);
        self.end();
    }

    /// A `java.lang.Boolean`.
    pub fn boolean(&mut self, value: bool) {
        let [no, yes] = self.booleans;
        if let Some(handle) = if value { yes } else { no } {
            return self.reference(handle);
        }
        let handle = self.object(&BOOLEAN);
        self.booleans = if value { [no, Some(handle)] } else { [Some(handle), yes] };
        self.out.push(value.into());
    }

    /// A `java.lang.Integer`.
    pub fn integer(&mut self, value: i32) {
        self.object(&INTEGER);
        self.out.extend(value.to_be_bytes());
    }

    /// A `java.lang.Long`.
    pub fn long(&mut self, value: i64) {
        self.object(&LONG);
        self.out.extend(value.to_be_bytes());
    }

    /// A `java.util.HashMap` of strings. The receiver checks that capacity and load factor are sane.
    pub fn string_map<K: AsRef<str>, V: AsRef<str>>(&mut self, pairs: &[(K, V)]) {
        self.object(&HASH_MAP);
        let buckets = buckets(pairs.len());
        let threshold = if pairs.is_empty() {
            0
        } else {
            (u64::from(buckets) * 3 / 4).try_into().unwrap_or(u32::MAX >> 1)
        };
        self.out.extend(LOAD_FACTOR.to_be_bytes());
        self.out.extend(threshold.to_be_bytes());
        self.out.extend([tag::BLOCK_DATA, 8]);
        self.out.extend(buckets.to_be_bytes());
        self.length(pairs.len());
        for (key, value) in pairs {
            self.string(key.as_ref());
            self.string(value.as_ref());
        }
        self.end();
    }

    /// A `java.util.HashSet` of strings.
    pub fn string_set<T: AsRef<str>>(&mut self, items: &[T]) {
        self.object(&HASH_SET);
        self.out.extend([tag::BLOCK_DATA, 12]);
        self.out.extend(buckets(items.len()).max(16).to_be_bytes());
        self.out.extend(LOAD_FACTOR.to_be_bytes());
        self.length(items.len());
        for item in items {
            self.string(item.as_ref());
        }
        self.end();
    }

    /// A `java.util.ArrayList` of strings.
    pub fn string_list<T: AsRef<str>>(&mut self, items: &[T]) {
        self.object(&ARRAY_LIST);
        self.length(items.len());
        self.out.extend([tag::BLOCK_DATA, 4]);
        self.length(items.len());
        for item in items {
            self.string(item.as_ref());
        }
        self.end();
    }

    /// A `javax.management.Attribute`, whose value the caller writes next.
    pub fn attribute(&mut self, name: &str) {
        self.object(&ATTRIBUTE);
        self.string(name);
    }

    /// A `java.rmi.MarshalledObject` that holds a stream, or null.
    pub fn marshalled_object(&mut self, stream: Option<&[u8]>) {
        self.object(&MARSHALLED);
        // 13 is what the JDK writes for null.
        let hash = stream.map_or(13, marshalled_hash);
        self.out.extend(hash.to_be_bytes());
        self.null();
        match stream {
            Some(stream) => {
                self.array(&BYTES, stream.len());
                self.out.extend_from_slice(stream);
            }
            None => self.null(),
        }
    }

    fn object(&mut self, class: &'static Class) -> u32 {
        self.out.push(tag::OBJECT);
        self.class_desc(class);
        self.give_handle()
    }

    fn array(&mut self, class: &'static Class, count: usize) {
        self.out.push(tag::ARRAY);
        self.class_desc(class);
        self.give_handle();
        self.length(count);
    }

    fn class_desc(&mut self, class: &'static Class) {
        if let Some(handle) = self.classes.get(class.name) {
            return self.reference(*handle);
        }
        self.out.push(tag::CLASS_DESC);
        self.utf(class.name);
        self.out.extend(class.serial_version.to_be_bytes());
        self.out.push(class.flags);
        let handle = self.give_handle();
        self.classes.insert(class.name, handle);
        let count = u16::try_from(class.fields.len()).expect("the tables above have few fields");
        self.out.extend(count.to_be_bytes());
        for (code, name, type_name) in class.fields {
            self.out.push(*code);
            self.utf(name);
            if let Some(type_name) = type_name {
                self.string(type_name);
            }
        }
        if self.annotated {
            self.null();
        }
        self.end();
        match class.parent {
            Some(parent) => self.class_desc(parent),
            None => self.null(),
        }
    }

    fn utf(&mut self, name: &'static str) {
        let length = u16::try_from(name.len()).expect("the names in the tables above are short");
        self.out.extend(length.to_be_bytes());
        self.out.extend(name.as_bytes());
    }

    fn length(&mut self, count: usize) {
        let count = i32::try_from(count).expect("a request is far smaller than 2 GiB");
        self.out.extend(count.to_be_bytes());
    }

    fn reference(&mut self, handle: u32) {
        self.out.push(tag::REFERENCE);
        self.out.extend(handle.to_be_bytes());
    }

    fn end(&mut self) {
        self.out.push(tag::END_BLOCK_DATA);
    }

    fn give_handle(&mut self) -> u32 {
        let handle = self.next_handle;
        self.next_handle = self.next_handle.wrapping_add(1);
        handle
    }
}

/// What `java.util.HashMap` writes as its capacity: 16 when empty, otherwise the power of two not below size / 0.75.
fn buckets(size: usize) -> u32 {
    if size == 0 {
        return 16;
    }
    let least = size.saturating_mul(4).div_ceil(3);
    u32::try_from(least).unwrap_or(1 << 30).next_power_of_two().min(1 << 30)
}

/// `31 * h + signed byte`, from 0, as `java.rmi.MarshalledObject` computes it.
fn marshalled_hash(stream: &[u8]) -> i32 {
    stream
        .iter()
        .fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i8::from_be_bytes([*byte]).into()))
}
