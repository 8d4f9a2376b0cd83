//! Prints decoded values on one line, to be compared with `vectors/expected.txt`.
//!
//! Notation: null, true, 12, 0.5, "text"; [a, b] list, set or array; {k: v} map; row {..} composite data; table "type"
//! index [..] rows [..] tabular data; Class{field: value} other object; throws Class("message") <- wrapped.

use cassy_jmx::View;
use cassy_jmx::rmi::reply::{Ending, Reply};
use cassy_jmx::stream::graph::{Elements, Graph, Item, Value};

/// A reply.
pub(crate) fn reply(reply: &Reply, boolean: bool, void: bool) -> String {
    let printer = &mut Printer { graph: reply.graph(), active: Vec::new() };
    match reply.ending() {
        Ending::Returned(_) if void => "void".to_owned(),
        Ending::Returned(value) if boolean => format!("boolean {}", printer.show(value)),
        Ending::Returned(value) => printer.show(value),
        Ending::Threw(value) => format!("throws {}", printer.show(value)),
        Ending::Aborted(value) => format!("aborted by {}", printer.show(value)),
    }
}

/// As in the file: cut after 240 characters.
pub(crate) fn cut(text: &str) -> String {
    if text.chars().count() <= 240 {
        text.to_owned()
    } else {
        text.chars().take(240).chain(" ...".chars()).collect()
    }
}

struct Printer<'a> {
    graph: &'a Graph,
    active: Vec<Value>,
}

impl<'a> Printer<'a> {
    fn view(&self, value: Value) -> View<'a> {
        View::new(self.graph, value)
    }

    fn show(&mut self, value: Value) -> String {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return self.show_one(value);
        }
        if self.active.contains(&value) {
            return "<cycle>".to_owned();
        }
        self.active.push(value);
        let text = self.show_one(value);
        self.active.pop();
        text
    }

    fn show_one(&mut self, value: Value) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Byte(value) => value.to_string(),
            Value::Char(value) => value.to_string(),
            Value::Short(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Long(value) => value.to_string(),
            Value::Float(value) => format!("{:?}", f64::from(value)),
            Value::Double(value) => format!("{value:?}"),
            Value::String(_) => quoted(self.view(value).as_str().expect("a string")),
            Value::Enum(_) => {
                let view = self.view(value);
                format!("enum {}.{}", short(view.class_name().expect("class")), view.as_enum().expect("name"))
            }
            Value::Class(id) => format!("class {}", self.graph.desc(id).expect("class").name),
            Value::Array(id) => match &self.graph.array(id).expect("array").elements {
                Elements::Bytes(bytes) => {
                    let signed: Vec<String> =
                        bytes.iter().map(|byte| i8::from_be_bytes([*byte]).to_string()).collect();
                    format!("[{}]", signed.join(", "))
                }
                Elements::Values(values) => self.listing(values),
            },
            Value::Object(_) => self.object(value),
        }
    }

    fn object(&mut self, value: Value) -> String {
        let view = self.view(value);
        if view.is_a("java.lang.Throwable") {
            return throwable(view, &mut Vec::new());
        }
        if let Some(stub) = stub(view) {
            return stub;
        }
        if view.is_a("javax.management.openmbean.CompositeDataSupport") {
            return format!("row {}", self.show(view.field("contents").expect("contents").value()));
        }
        if view.is_a("javax.management.openmbean.TabularDataSupport") {
            let kind = view.field("tabularType").expect("type");
            let name = self.show(kind.field("typeName").expect("name").value());
            let index = self.show(kind.field("indexNames").expect("index").value());
            let rows: Vec<Value> = view.rows().expect("rows").into_iter().map(View::value).collect();
            return format!("table {name} index {index} rows {}", self.listing(&rows));
        }
        if let Ok(name) = view.as_object_name() {
            return format!("name {}", quoted(name));
        }
        if view.class_name() == Some("javax.management.Attribute") {
            let value = view.field("value").expect("value").value();
            return format!(
                "{} = {}",
                view.field("name").expect("name").as_str().expect("text"),
                self.show(value)
            );
        }
        if let Ok(pairs) = view.pairs() {
            let pairs: Vec<String> = pairs
                .into_iter()
                .map(|(key, value)| format!("{}: {}", self.show(key.value()), self.show(value.value())))
                .collect();
            return format!("{{{}}}", pairs.join(", "));
        }
        if let Ok(items) = view.items() {
            let items: Vec<Value> = items.into_iter().map(View::value).collect();
            return self.listing(&items);
        }
        self.any_object(value)
    }

    fn any_object(&mut self, value: Value) -> String {
        let Value::Object(id) = value else { unreachable!("only objects come here") };
        let object = self.graph.object(id).expect("object");
        let (mut fields, mut annotation) = (Vec::new(), Vec::new());
        for part in &object.parts {
            let names = &self.graph.desc(part.class).expect("class").fields;
            fields.extend(names.iter().map(|field| field.name.as_str()).zip(part.fields.iter().copied()));
            annotation.extend(&part.annotation);
        }
        if let [("value", value)] = fields.as_slice() {
            return self.show(*value);
        }
        let class = short(&self.graph.desc(object.class).expect("class").name).to_owned();
        let fields: Vec<String> =
            fields.into_iter().map(|(name, value)| format!("{name}: {}", self.show(value))).collect();
        let annotation: Vec<String> = annotation.into_iter().map(|item| self.item(item)).collect();
        let data = if annotation.is_empty() {
            String::new()
        } else {
            format!(" + annotation [{}]", annotation.join(", "))
        };
        format!("{class}{{{}}}{data}", fields.join(", "))
    }

    fn item(&mut self, item: &Item) -> String {
        match item {
            Item::Block(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            Item::Value(value) => self.show(*value),
        }
    }

    fn listing(&mut self, values: &[Value]) -> String {
        let items: Vec<String> = values.iter().map(|value| self.show(*value)).collect();
        format!("[{}]", items.join(", "))
    }
}

fn throwable(view: View<'_>, seen: &mut Vec<Value>) -> String {
    seen.push(view.value());
    let message = view.field("detailMessage").ok().and_then(View::non_null);
    let message = message.map_or("null".to_owned(), |message| quoted(message.as_str().expect("message")));
    let text = format!("{}({message})", view.class_name().expect("class"));
    let inner = ["exception", "runtimeException", "error", "detail", "cause"].iter().find_map(|field| {
        let inner = view.field(field).ok()?;
        (matches!(inner.value(), Value::Object(_)) && !seen.contains(&inner.value())).then_some(inner)
    });
    inner.map_or(text.clone(), |inner| format!("{text} <- {}", throwable(inner, seen)))
}

fn stub(view: View<'_>) -> Option<String> {
    let found = cassy_jmx::rmi::stub::remote_ref(view).ok()?;
    let mut inner = view;
    let mut class = short_or_proxy(view);
    while inner.annotation("java.rmi.server.RemoteObject").is_none() {
        inner = inner.field("h").ok()?;
        class = format!("{class} via {}", short_or_proxy(inner));
    }
    let annotation = inner.annotation("java.rmi.server.RemoteObject")?;
    let Item::Block(block) = annotation.first()? else { return None };
    let kind = if block.starts_with(b"\0\x0aUnicastRef") {
        "UnicastRef".to_owned()
    } else {
        format!("UnicastRef2 format {}", block[13])
    };
    let id = found.object.0;
    let (number, rest) = id.split_first_chunk().expect("8 bytes");
    let (unique, rest) = rest.split_first_chunk().expect("4 bytes");
    let (time, rest) = rest.split_first_chunk().expect("8 bytes");
    let (count, _) = rest.split_first_chunk().expect("2 bytes");
    let factory = found.socket_factory.map(|class| format!(" factory {class}")).unwrap_or_default();
    Some(format!(
        "stub {class} {kind} {}:{} ObjID({}, {}, {}, {}){factory}",
        found.advertised_host,
        found.port,
        i64::from_be_bytes(*number),
        i32::from_be_bytes(*unique),
        i64::from_be_bytes(*time),
        i16::from_be_bytes(*count)
    ))
}

fn short_or_proxy(view: View<'_>) -> String {
    let name = view.class_name().expect("class");
    if name.starts_with("proxy ") { name.to_owned() } else { short(name).to_owned() }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // What a lone surrogate became.
            '\u{fffd}' => out.push_str("\\ud800"),
            control if control.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
