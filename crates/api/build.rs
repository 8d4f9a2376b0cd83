//! Compiles `proto/` without protoc: the Rust types and services, and the descriptors that reflection serves.

#![allow(clippy::print_stdout)] // This is how a build script speaks to cargo.

use std::{env, error::Error, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, DynamicMessage, Value, prost::Message};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file("cassy.proto")?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    let reflected = without_default_json_names(&compiler.encode_file_descriptor_set())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("reflected.bin"), reflected)?;
    Ok(())
}

/// grpcurl names a field by its `json_name`, or by its own name when there is none. Scripts read `.cluster_id`, so the
/// lowerCamelCase names that every compiler fills in are taken out again; those that the source spells out stay.
///
/// Works on dynamic messages, as decoding into the generated types of `descriptor.proto` would drop the custom options.
fn without_default_json_names(descriptors: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let kind = DescriptorPool::global()
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .ok_or("the well-known types lack descriptor.proto")?;
    let mut set = DynamicMessage::decode(kind, descriptors)?;
    for_each(&mut set, "file", &mut |file| for_each(file, "message_type", &mut strip_message));
    Ok(set.encode_to_vec())
}

fn strip_message(message: &mut DynamicMessage) {
    for_each(message, "field", &mut strip_field);
    for_each(message, "nested_type", &mut strip_message);
}

fn strip_field(field: &mut DynamicMessage) {
    let text = |name| field.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
    if text("json_name") == text("name").as_deref().map(lower_camel_case) {
        field.clear_field_by_name("json_name");
    }
}

fn for_each(parent: &mut DynamicMessage, list: &str, visit: &mut dyn FnMut(&mut DynamicMessage)) {
    let Some(Value::List(children)) = parent.get_field_by_name_mut(list) else {
        return;
    };
    children.iter_mut().filter_map(Value::as_message_mut).for_each(visit);
}

/// The `json_name` that protoc gives a field of this name.
fn lower_camel_case(name: &str) -> String {
    let mut camel = String::new();
    let mut raise = false;
    for letter in name.chars() {
        if letter == '_' {
            raise = true;
        } else {
            camel.push(if raise { letter.to_ascii_uppercase() } else { letter });
            raise = false;
        }
    }
    camel
}
