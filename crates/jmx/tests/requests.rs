//! What is sent: byte for byte what a JVM 17 client sends, but for the id of the called object.

use std::fs;

use cassy_jmx::rmi::ObjId;
use cassy_jmx::rmi::hash;
use cassy_jmx::stream::reader::{self, Outcome};
use cassy_jmx::stream::writer::Writer;
use cassy_jmx::{Argument, Limits, Request, View};
use sha1::{Digest, Sha1};

const STORAGE: &str = "org.apache.cassandra.db:type=StorageService";

fn text(text: &str) -> Argument {
    Argument::String(text.to_owned())
}

#[test]
fn requests_equal_those_of_a_jvm() {
    const STRING: &str = "java.lang.String";
    const STRINGS: &str = "[Ljava.lang.String;";
    let skip_flush = Argument::StringMap(vec![("skipFlush".into(), "true".into())]);
    let mut import = vec![Argument::Set(vec!["/x".into(), "/data/bad".into()])];
    import.extend([false, false, true, true, true, false, true].map(Argument::Bool));
    let import_types =
        ["java.util.Set", "boolean", "boolean", "boolean", "boolean", "boolean", "boolean", "boolean"];
    let cases = [
        ("jvm17-client/00-lookup", Request::lookup(false)),
        ("jvm17-client/02-newClient-null", Request::new_client(None)),
        ("jvm17-client-auth/newClient-credentials-ok", Request::new_client(Some(["controlRole", "s3cret"]))),
        ("jvm17-client/05-getAttribute-ClusterName", Request::get(STORAGE, "ClusterName")),
        (
            "jvm17-client/06-invoke-takeSnapshot-Map-StringArray",
            Request::invoke(
                STORAGE,
                "takeSnapshot",
                &[text("snapA"), skip_flush, Argument::Strings(vec!["ks1".into(), "ks2".into()])],
                &[STRING, "java.util.Map", STRINGS],
            ),
        ),
        (
            "jvm17-client/07-invoke-clearSnapshot",
            Request::invoke(
                STORAGE,
                "clearSnapshot",
                &[text("snapA"), Argument::Strings(vec![])],
                &[STRING, STRINGS],
            ),
        ),
        ("jvm17-client/08-getAttribute-SnapshotDetails", Request::get(STORAGE, "SnapshotDetails")),
        ("jvm17-client/09-getAttributes", Request::get_many(STORAGE, &["ClusterName", "LiveNodes", "Nope"])),
        (
            "jvm17-client/10-setAttribute-boolean",
            Request::set(STORAGE, "IncrementalBackupsEnabled", &Argument::Bool(true)),
        ),
        ("jvm17-client/11-queryNames", Request::query_names("org.apache.cassandra.db:*")),
        ("jvm17-client/12-isRegistered", Request::is_registered(STORAGE)),
        ("jvm17-client/13-getMBeanInfo", Request::mbean_info(STORAGE)),
        (
            "jvm17-client/14-invoke-testThrowIO-exception",
            Request::invoke(STORAGE, "testThrowIO", &[text("boom")], &[STRING]),
        ),
        (
            "jvm17-client/15-invoke-importNewSSTables-Set-7xboolean",
            Request::invoke(
                "org.apache.cassandra.db:type=ColumnFamilies,keyspace=ks1,columnfamily=t1",
                "importNewSSTables",
                &import,
                &import_types,
            ),
        ),
        ("jvm17-client/20-close", Request::close()),
        (
            "jvm17-client/21-invoke-repairAsync",
            Request::invoke(
                STORAGE,
                "repairAsync",
                &[text("ks1"), Argument::StringMap(vec![])],
                &[STRING, "java.util.Map"],
            ),
        ),
    ];
    for (name, mut request) in cases {
        let file = format!("{}/tests/vectors/{name}.req.bin", env!("CARGO_MANIFEST_DIR"));
        let mut golden = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        golden[7..29].fill(7);
        assert_eq!(hex(request.aim(ObjId([7; 22]))), hex(&golden), "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn method_hashes_are_those_of_the_specification() {
    for method in hash::ALL {
        let length = u16::try_from(method.signature.len()).expect("short");
        let digest = Sha1::new().chain_update(length.to_be_bytes()).chain_update(method.signature).finalize();
        let start: [u8; 8] = digest[..8].try_into().expect("20 bytes");
        assert_eq!((i64::from_le_bytes(start), method.operation), (method.hash, -1), "{}", method.signature);
    }
}

/// Everything the writer writes, the reader reads: also where strings get long and maps big.
#[test]
fn what_is_written_can_be_read() {
    let long = "é😀\0".repeat(30_000);
    let many: Vec<String> = (0..1000).map(|index| format!("item {index}")).collect();
    let pairs: Vec<(String, String)> = many.iter().map(|item| (item.clone(), "same".to_owned())).collect();
    let read = |write: &dyn Fn(&mut Writer), check: &dyn Fn(View<'_>)| {
        for mut writer in [Writer::rmi(Vec::new()), Writer::marshalled()] {
            write(&mut writer);
            let (graph, outcome) =
                reader::parse(&writer.into_bytes(), &Limits::default()).expect("legal").expect("complete");
            let Outcome::Value(value) = outcome else { panic!("{outcome:?}") };
            check(View::new(&graph, value));
        }
    };
    read(&|writer| writer.string(&long), &|view| assert_eq!(view.as_str(), Ok(long.as_str())));
    read(&|writer| writer.boolean(true), &|view| assert_eq!(view.as_bool(), Ok(true)));
    read(&|writer| writer.integer(-5), &|view| assert_eq!(view.as_i64(), Ok(-5)));
    read(&|writer| writer.long(i64::MIN), &|view| assert_eq!(view.as_i64(), Ok(i64::MIN)));
    read(&|writer| writer.strings(&many), &|view| assert_eq!(view.strings().expect("array"), many));
    read(&|writer| writer.string_list(&many), &|view| assert_eq!(view.strings().expect("list"), many));
    read(&|writer| writer.string_set(&many), &|view| assert_eq!(view.strings().expect("set"), many));
    read(&|writer| writer.string_map(&pairs), &|view| {
        assert_eq!(view.string_pairs().expect("map").len(), 1000);
    });
    read(&|writer| writer.object_name("d:k=v"), &|view| assert_eq!(view.as_object_name(), Ok("d:k=v")));
}
