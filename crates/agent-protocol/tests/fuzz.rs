//! Frames of a hostile agent and of a hostile server: as a stream, whatever its pieces, and as the JSON of one message.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fmt::Debug;

use cassy_agent_protocol::frame::encode;
use cassy_agent_protocol::*;
use cassy_backup_format::{BackupKind, ConfigurationFacts, ObjectKey, TableRef};
use cassy_fuzz::Fuzz;
use serde::Serialize;
use serde::de::DeserializeOwned;

const HOST: &str = "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1";
const BACKUP: &str = "01900000-0000-7000-8000-000000000001";
const TAG: &str = "cassy-01900000-0000-7000-8000-000000000001-1";

fn key() -> ObjectKey {
    format!("cassy/1/c-1/node/{HOST}/manifest/{BACKUP}.jsonl.zst").parse().unwrap()
}

fn directories() -> Vec<String> {
    vec!["/var/lib/cassandra/data".into(), "/d\u{202e}2".into()]
}

fn facts() -> ConfigurationFacts {
    ConfigurationFacts {
        data_directories: directories(),
        num_tokens: Some(16),
        uuid_sstable_identifiers: Some(false),
        ..ConfigurationFacts::default()
    }
}

fn requests() -> Vec<Request> {
    let store = StoreGrant { location: "file:///mnt/backups".into() };
    let manifest = ParentManifest { key: key(), backup_id: BACKUP.parse().unwrap(), blake3: "a".repeat(64) };
    let snapshot = CheckSnapshotRequest {
        data_directories: directories(),
        tag: TAG.parse().unwrap(),
        tables: vec![("ks1".into(), "t1".into())],
    };
    let upload = UploadRequest {
        store: store.clone(),
        cluster_id: "c-1".parse().unwrap(),
        cluster_name: "c".into(),
        host_id: HOST.parse().unwrap(),
        address: "10.0.0.1".into(),
        tokens: vec!["-9223372036854775808".into()],
        datacenter: "dc1".into(),
        rack: "r1".into(),
        cassandra_version: "5.0.9".into(),
        partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".into(),
        backup_id: BACKUP.parse().unwrap(),
        kind: BackupKind::NodeSnapshot,
        created_at_ms: -1,
        session: "00112233445566778899aabb".parse().unwrap(),
        snapshot: snapshot.clone(),
        parent: Some(manifest.clone()),
        base: Some(BACKUP.parse().unwrap()),
        configuration: facts(),
    };
    let superseded = SupersededRequest {
        store: store.clone(),
        cluster_id: "c-1".parse().unwrap(),
        host_id: HOST.parse().unwrap(),
        backup_id: BACKUP.parse().unwrap(),
        data_directories: directories(),
    };
    let included = ClearIncludedRequest {
        store: store.clone(),
        manifest: manifest.clone(),
        cluster_id: "c-1".parse().unwrap(),
        host_id: HOST.parse().unwrap(),
        data_directories: directories(),
    };
    let restore = RestoreRequest {
        store: store.clone(),
        cluster_id: "c-1".parse().unwrap(),
        backup_id: BACKUP.parse().unwrap(),
        manifest,
        host_id: HOST.parse().unwrap(),
        way: RestoreWay::Copy { originals: vec!["10.0.0.3".into()], living: vec!["10.0.0.2".into()] },
        target: "10.0.0.1".into(),
        cassandra_yaml: None,
        scope: RestoreScope::Cluster,
        move_aside: Some("0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3".into()),
    };
    vec![
        Request::Lock(LockRequest { directory: "/d".into(), wait_ms: u64::MAX }),
        Request::Inspect(InspectRequest { data_directories: directories() }),
        Request::CheckStore(CheckStoreRequest { store, key: key(), content: "x".into() }),
        Request::ListSuperseded(superseded.clone()),
        Request::CheckSnapshot(snapshot),
        Request::Upload(Box::new(upload)),
        Request::ClearSuperseded(superseded),
        Request::ClearIncluded(included),
        Request::ListSnapshots(DataDirectories { data_directories: directories() }),
        Request::ReadTokens(ReadTokensRequest { cassandra_yaml: None, recorded: directories() }),
        Request::SweepSnapshots(SweepRequest {
            data_directories: directories(),
            tags: vec![TAG.parse().unwrap()],
        }),
        Request::PlanRestore(Box::new(restore.clone())),
        Request::Restore(Box::new(restore.clone())),
        Request::UndoRestore(Box::new(restore)),
    ]
}

fn relayed() -> Vec<RelayFrame> {
    let piece = |length: u8| Piece::new((0..=length).collect()).unwrap();
    vec![
        RelayFrame::Open { port: u16::MAX },
        RelayFrame::Opened,
        RelayFrame::Data { piece: piece(0) },
        RelayFrame::Data { piece: piece(200) },
        RelayFrame::Taken,
        RelayFrame::Closed { end: RelayEnd::Refused },
        RelayFrame::Closed { end: RelayEnd::Failed("reset".into()) },
    ]
}

fn to_agent() -> Vec<ToAgent> {
    let hello = ServerHello { job_id: "j".into(), epoch: -1, heartbeat_ms: 1000, silence_ms: u64::MAX };
    let requests = requests().into_iter().map(|request| ToAgent::Request { id: 1, request });
    let relayed = relayed().into_iter().map(|frame| ToAgent::Relay { connection: u64::MAX, frame });
    [ToAgent::Hello(hello), ToAgent::Cancel { id: 2 }, ToAgent::Heartbeat]
        .into_iter()
        .chain(requests)
        .chain(relayed)
        .collect()
}

fn replies() -> Vec<Reply> {
    let table = TableRef { keyspace: "ks1".into(), table: "t1".into(), id: "0".repeat(32) };
    let uploaded = UploadSummary {
        manifest: key(),
        blake3: "b".repeat(64),
        size: 1,
        sstables: 2,
        files: 3,
        bytes: u64::MAX,
        sent_bytes: 5,
        left_orphans: true,
        taken: 1,
        left: u64::MAX,
        tables: vec![table],
        corrupt: vec!["ks1.t1/nb-1-big: its CRC-32 differs".into()],
    };
    let plan = RestorePlan { findings: vec!["a".into()], free_bytes: vec![1, 2], ..RestorePlan::default() };
    vec![
        Reply::Done,
        Reply::Inspected(Box::new(NodeFacts {
            pid: Some(7),
            configuration: facts(),
            yaml_age_ms: 8,
            free_bytes: vec![u64::MAX],
        })),
        Reply::Superseded { files: 1 },
        Reply::SnapshotChecked { broken: vec!["ks1.t1: no Data.db".into()] },
        Reply::Uploaded(uploaded),
        Reply::Cleared { files: 0 },
        Reply::Planned(plan),
        Reply::Undone { left: Some("x".into()) },
        Reply::Restored(RestoreSummary { files: 1, bytes: 2, notes: vec!["n".into()] }),
    ]
}

fn from_agent() -> Vec<FromAgent> {
    let hello =
        AgentHello { build: "b".into(), version: "1".into(), hostname: "h".into(), pid: 1, user: "u".into() };
    let error =
        AgentError { kind: AgentErrorKind::Busy, message: "locked".into(), hint: Some("wait".into()) };
    let replies = replies().into_iter().map(|reply| FromAgent::Reply { id: 1, outcome: Ok(reply) });
    let others = [
        FromAgent::Hello(hello),
        FromAgent::Progress { id: 1, progress: Progress::default() },
        FromAgent::Reply { id: 1, outcome: Err(error) },
        FromAgent::Heartbeat,
    ];
    let relayed = relayed().into_iter().map(|frame| FromAgent::Relay { connection: 0, frame });
    others.into_iter().chain(replies).chain(relayed).collect()
}

fn words() -> Vec<&'static str> {
    vec![
        "null",
        "true",
        "{}",
        "[]",
        "\"\"",
        "\"type\":\"hello\"",
        "\"type\":\"request\",",
        "\"request\":\"lock\",",
        "\"reply\":\"done\"",
        "\"relay\":\"data\",\"piece\":\"AAAA\"",
        "\"end\":{\"failed\":\"x\"}",
        "\"Ok\":",
        "\"Err\":",
        "\\u0000",
        "\\ud800",
        "../",
        "[[[[[[[[",
        "1e308",
    ]
}

/// All whole messages; the last error or the kind of end.
fn read<T: DeserializeOwned>(bytes: &[u8], pieces: usize) -> (Vec<T>, Result<(), String>) {
    let mut decoder = FrameDecoder::new();
    let mut messages = Vec::new();
    for piece in bytes.chunks(pieces) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    let again = decoder.next::<T>().map(drop).expect_err("an error comes again").to_string();
                    assert_eq!(error.to_string(), again);
                    // How much of a wrong beginning had come depends on the pieces.
                    let text = error.to_string();
                    return (messages, Err(text.split('"').next().unwrap().to_owned()));
                }
            }
        }
    }
    (messages, decoder.end().map_err(|error| error.to_string().split('"').next().unwrap().to_owned()))
}

fn fuzz_stream<T>(name: &'static str, all: &[T])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let frames: Vec<Vec<u8>> = all.iter().map(|message| encode(message).unwrap()).collect();
    let each = frames.iter().map(|frame| [PREAMBLE, frame].concat());
    let seeds: Vec<_> = each.chain([[PREAMBLE, &frames.concat()].concat()]).collect();
    Fuzz::new(name).seeds(seeds).words(words()).words([PREAMBLE]).cost(2).run(|bytes| {
        let (whole, end) = read::<T>(bytes, usize::MAX);
        let (split, split_end) = read::<T>(bytes, 1 + bytes.len() % 61);
        assert_eq!((&whole, &end), (&split, &split_end));
        end.is_ok()
    });
}

/// Dense messages: every other byte becomes a value before it is known that nobody asked for it.
fn dense() -> [String; 2] {
    ["0,", "[],"].map(|item| {
        let items = item.repeat(60_000 / item.len());
        format!(r#"{{"type":"heartbeat","x":[{}]}}"#, items.trim_end_matches(','))
    })
}

fn fuzz_messages<T>(name: &'static str, all: &[T])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let seeds = all.iter().map(|message| serde_json::to_vec(message).unwrap());
    let fuzz = Fuzz::new(name).seeds(seeds).seeds(dense()).words(words()).cost(2).memory_bytes(8 << 20);
    fuzz.run(|json| {
        let length = u32::try_from(json.len()).unwrap().to_be_bytes();
        let (messages, end) = read::<T>(&[PREAMBLE, &length, json].concat(), usize::MAX);
        for message in &messages {
            let (again, _) = read::<T>(&[PREAMBLE, &encode(message).unwrap()].concat(), usize::MAX);
            assert_eq!(&messages, &again);
        }
        end.is_ok()
    });
}

#[test]
fn a_damaged_stream_to_the_agent_is_read_alike_in_any_pieces() {
    fuzz_stream("frames to the agent", &to_agent());
}

#[test]
fn a_damaged_stream_from_the_agent_is_read_alike_in_any_pieces() {
    fuzz_stream("frames from the agent", &from_agent());
}

#[test]
fn a_message_to_the_agent_that_is_accepted_round_trips() {
    fuzz_messages("messages to the agent", &to_agent());
}

#[test]
fn a_message_from_the_agent_that_is_accepted_round_trips() {
    fuzz_messages("messages from the agent", &from_agent());
}
