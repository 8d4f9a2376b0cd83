//! What an agent says of its upload, compared with what it was asked for. It goes into the cluster manifest, which is
//! refused as a whole when one node's part of it cannot be: what a node may not say fails that node alone.

use std::collections::BTreeSet;

use cassy_agent_protocol::{Reply, UploadRequest, UploadSummary};
use cassy_backup_format::{Keys, ObjectKey};

use super::{permanent, unexpected};
use crate::nodes::NodeError;

/// A UUID in hex, without dashes.
const TABLE_ID_BYTES: usize = 32;

/// The answer to this request, when it can be one. Of its tables those that were asked for are kept, each once.
pub(super) fn summary(
    keys: &Keys,
    request: &UploadRequest,
    reply: Reply,
) -> Result<UploadSummary, NodeError> {
    let mut summary = match reply {
        Reply::Uploaded(summary) => summary,
        other => return Err(unexpected(&request.address, &other)),
    };
    let expected = manifest_key(keys, request, !summary.corrupt.is_empty());
    if summary.manifest != expected {
        return Err(unbelievable(request, &format!("its manifest is {}, not {expected}", summary.manifest)));
    }
    let is_digest =
        blake3::Hash::from_hex(&summary.blake3).is_ok_and(|hash| *hash.to_hex() == *summary.blake3);
    if !is_digest {
        let problem = "the digest of its manifest is not 64 lower-case hex digits";
        return Err(unbelievable(request, problem));
    }
    let mut wanted: BTreeSet<_> = request.snapshot.tables.iter().cloned().collect();
    summary.tables.retain(|told| {
        told.id.len() <= TABLE_ID_BYTES && wanted.remove(&(told.keyspace.clone(), told.table.clone()))
    });
    Ok(summary)
}

fn manifest_key(keys: &Keys, request: &UploadRequest, is_corrupt: bool) -> ObjectKey {
    let (host_id, backup_id) = (&request.host_id, &request.backup_id);
    match (&request.base, is_corrupt) {
        (None, false) => keys.node_manifest(host_id, backup_id),
        (None, true) => keys.corrupt_node_manifest(host_id, backup_id),
        (Some(base), false) => keys.increment_manifest(host_id, backup_id, base),
        (Some(base), true) => keys.corrupt_increment_manifest(host_id, backup_id, base),
    }
}

fn unbelievable(request: &UploadRequest, problem: &str) -> NodeError {
    let error =
        permanent(format!("{}: what the agent says of its upload cannot be: {problem}", request.address));
    let hint =
        "find out what answers on this node in the agent's place; the other nodes' parts are not concerned";
    NodeError { hint: Some(hint.to_owned()), ..error }
}

#[cfg(test)]
mod tests {
    use cassy_agent_protocol::{CheckSnapshotRequest, SnapshotTag, StoreGrant};
    use cassy_backup_format::{BackupId, BackupKind, SessionId, TableRef};

    use super::*;

    fn request(base: Option<BackupId>) -> UploadRequest {
        UploadRequest {
            store: StoreGrant { location: "file:///s".to_owned() },
            cluster_id: "c".parse().expect("an id"),
            cluster_name: "c".to_owned(),
            host_id: "6a5c7f0e-0000-4000-8000-000000000001".parse().expect("an id"),
            address: "10.0.0.1".to_owned(),
            tokens: Vec::new(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            cassandra_version: "5.0.9".to_owned(),
            partitioner: "Murmur3Partitioner".to_owned(),
            backup_id: BackupId::at(1),
            kind: BackupKind::NodeSnapshot,
            base,
            created_at_ms: 1,
            session: SessionId::random(),
            snapshot: CheckSnapshotRequest {
                data_directories: Vec::new(),
                tag: SnapshotTag::of(BackupId::at(1), 1),
                tables: ["a", "b"].map(|table| ("ks".to_owned(), table.to_owned())).to_vec(),
            },
            parent: None,
            configuration: Default::default(),
        }
    }

    fn told(manifest: ObjectKey) -> UploadSummary {
        UploadSummary {
            manifest,
            blake3: "0a".repeat(32),
            size: 1,
            sstables: 1,
            files: 1,
            bytes: 1,
            sent_bytes: 1,
            left_orphans: false,
            taken: 0,
            left: 0,
            tables: Vec::new(),
            corrupt: Vec::new(),
        }
    }

    fn keys() -> Keys {
        Keys::new("c".parse().expect("an id")).expect("keys")
    }

    fn answer(request: &UploadRequest, told: UploadSummary) -> Result<UploadSummary, NodeError> {
        summary(&keys(), request, Reply::Uploaded(told))
    }

    #[test]
    fn a_manifest_is_believed_at_the_one_key_that_it_can_have() {
        let (keys, base) = (keys(), BackupId::at(7));
        let (alone, increment) = (request(None), request(Some(base)));
        let (host_id, backup_id) = (alone.host_id, alone.backup_id);
        let possible = [
            (&alone, false, keys.node_manifest(&host_id, &backup_id)),
            (&alone, true, keys.corrupt_node_manifest(&host_id, &backup_id)),
            (&increment, false, keys.increment_manifest(&host_id, &increment.backup_id, &base)),
            (&increment, true, keys.corrupt_increment_manifest(&host_id, &increment.backup_id, &base)),
        ];
        for (request, is_corrupt, key) in &possible {
            let corrupt = if *is_corrupt { vec!["ks.a/nb-1-big: damaged".to_owned()] } else { Vec::new() };
            for (other_request, other_corrupt, told_key) in &possible {
                let told = UploadSummary { corrupt: corrupt.clone(), ..told(told_key.clone()) };
                let is_own = std::ptr::eq(*other_request, *request) && other_corrupt == is_corrupt;
                let outcome = answer(request, told);
                assert_eq!(outcome.is_ok(), is_own, "{told_key} for {key}");
                if let Err(error) = outcome {
                    let told = format!("its manifest is {told_key}, not {key}");
                    assert!(
                        error.message.starts_with("10.0.0.1: ") && error.message.ends_with(&told),
                        "{error}"
                    );
                    assert!(!error.is_transient() && error.hint.is_some());
                }
            }
        }
    }

    #[test]
    fn a_digest_is_64_lower_case_hex_digits() {
        let request = request(None);
        let key = keys().node_manifest(&request.host_id, &request.backup_id);
        for blake3 in ["", "0", &"0A".repeat(32), &"0g".repeat(32), &"0a".repeat(33), &"\u{e9}".repeat(32)] {
            let told = UploadSummary { blake3: blake3.to_owned(), ..told(key.clone()) };
            let error = answer(&request, told).expect_err(blake3);
            assert!(error.message.ends_with("is not 64 lower-case hex digits"), "{error}");
        }
    }

    #[test]
    fn of_its_tables_those_that_were_asked_for_are_kept_each_once() {
        let request = request(None);
        let key = keys().node_manifest(&request.host_id, &request.backup_id);
        let table = |keyspace: &str, table: &str, id: usize| TableRef {
            keyspace: keyspace.to_owned(),
            table: table.to_owned(),
            id: format!("{id:032x}"),
        };
        let many = (0..100_000).map(|number| table("ks", "b", number));
        let long = TableRef { id: "0".repeat(1 << 20), ..table("ks", "a", 0) };
        let others = [table("x", "a", 1), table("ks", "c", 1), long, table("ks", "a", 1)];
        let tables = many.chain(others).collect();
        let kept = answer(&request, UploadSummary { tables, ..told(key) }).expect("it can be").tables;
        assert_eq!(kept, [table("ks", "b", 0), table("ks", "a", 1)]);
    }
}
