//! A real node's incremental files and truncations, by the requests that a server sends to an agent.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cassy_agent_protocol::frame::encode;
use cassy_agent_protocol::{
    AgentError, CheckSnapshotRequest, ClearIncludedRequest, FrameDecoder, FromAgent, LockRequest, PREAMBLE,
    ParentManifest, Reply, Request, ServerHello, StoreGrant, ToAgent, UploadRequest, UploadSummary,
};
use cassy_backup_format::{
    BackupId, BackupKind, ConfigurationFacts, Header, ManifestReader, NodeManifestName, SessionId,
};
use cassy_testkit::{Cassandra, Cql, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

type Failed = Box<dyn std::error::Error>;

const LIMIT: Duration = Duration::from_secs(120);

/// The server's end of an agent in this process.
struct Agent {
    input: DuplexStream,
    output: DuplexStream,
    decoder: FrameDecoder,
    last: u64,
}

impl Agent {
    async fn start() -> Result<Self, Failed> {
        let (mut input, stdin) = duplex(1 << 20);
        let (output, stdout) = duplex(1 << 20);
        let identity = cassy_agent::Identity { build: "b".repeat(64), version: "0".to_owned() };
        tokio::spawn(cassy_agent::run(stdin, stdout, identity));
        let hello = ServerHello { job_id: "j".to_owned(), epoch: 1, heartbeat_ms: 1000, silence_ms: 600_000 };
        input.write_all(&[PREAMBLE, &encode(&ToAgent::Hello(hello))?].concat()).await?;
        Ok(Self { input, output, decoder: FrameDecoder::new(), last: 0 })
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, Failed> {
        self.last += 1;
        self.input.write_all(&encode(&ToAgent::Request { id: self.last, request })?).await?;
        Ok(tokio::time::timeout(LIMIT, self.answer()).await???)
    }

    async fn answer(&mut self) -> Result<Result<Reply, AgentError>, Failed> {
        let mut bytes = [0; 4096];
        loop {
            while let Some(message) = self.decoder.next()? {
                match message {
                    FromAgent::Reply { id, outcome } if id == self.last => return Ok(outcome),
                    _ => {}
                }
            }
            let count = self.output.read(&mut bytes).await?;
            assert!(count > 0, "the agent has ended");
            self.decoder.push(&bytes[..count]);
        }
    }
}

/// A node, its agent, and a store.
struct Scene {
    node: Cassandra,
    agent: Agent,
    store: PathBuf,
    backups: i64,
}

impl Scene {
    /// Flushes, takes a snapshot and sends what it has; an increment when it is given a parent.
    async fn back_up(
        &mut self,
        parent: Option<(&UploadSummary, BackupId)>,
    ) -> Result<(UploadSummary, Header), Failed> {
        self.backups += 1;
        let tag = format!("cassy-0193b0a0-0000-7000-8000-{:012}-1", self.backups);
        self.node.flush(&["ks", "system"]).await?;
        self.node.nodetool(&["snapshot", "-t", &tag]).await?;
        let data_directories: Vec<String> =
            self.node.data_directories().iter().map(|path| path.display().to_string()).collect();
        let directory = data_directories[0].clone();
        self.agent.ask(Request::Lock(LockRequest { directory, wait_ms: 0 })).await?;
        let tables = ["one", "two", "three"].map(|table| ("ks".to_owned(), table.to_owned())).to_vec();
        let request = UploadRequest {
            store: self.grant(),
            cluster_id: "Test-1".parse()?,
            cluster_name: "Test".to_owned(),
            host_id: "0193b0a0-0000-7000-8000-0000000000ff".parse()?,
            address: "127.0.0.1".to_owned(),
            tokens: Vec::new(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            cassandra_version: "5.0.9".to_owned(),
            partitioner: "Murmur3Partitioner".to_owned(),
            backup_id: BackupId::at(self.backups),
            kind: parent.map_or(BackupKind::NodeSnapshot, |_| BackupKind::Incremental),
            created_at_ms: now_ms()?,
            session: SessionId::random(),
            configuration: ConfigurationFacts {
                data_directories: data_directories.clone(),
                ..Default::default()
            },
            snapshot: CheckSnapshotRequest { data_directories, tag: tag.parse()?, tables },
            parent: parent.map(|(parent, _)| named(parent)),
            base: parent.map(|(_, base)| base),
        };
        let Reply::Uploaded(summary) = self.agent.ask(Request::Upload(Box::new(request))).await? else {
            panic!("another answer");
        };
        let stored = std::fs::read(self.store.join(summary.manifest.as_str()))?;
        let header = ManifestReader::open(stored.as_slice())?.header().clone();
        Ok((summary, header))
    }

    fn grant(&self) -> StoreGrant {
        StoreGrant { location: format!("file://{}", self.store.display()) }
    }

    /// The names in the `backups/` of a table.
    fn incremental(&self, table: &str) -> Result<Vec<String>, Failed> {
        let mut names = Vec::new();
        for data in self.node.data_directories() {
            for entry in std::fs::read_dir(data.join("ks"))? {
                let path = entry?.path();
                if path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{table}-")))
                {
                    names.extend(files(&path.join("backups"))?);
                }
            }
        }
        Ok(names)
    }
}

fn files(directory: &Path) -> Result<Vec<String>, Failed> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn named(summary: &UploadSummary) -> ParentManifest {
    let name = NodeManifestName::of(&summary.manifest).expect("a whole one");
    ParentManifest {
        key: summary.manifest.clone(),
        backup_id: name.backup_id,
        blake3: summary.blake3.clone(),
    }
}

fn now_ms() -> Result<i64, Failed> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// When the table was truncated last, as the manifest has it.
fn truncated(header: &Header, table: &str) -> Option<i64> {
    let known =
        header.tables.iter().find(|known| (known.keyspace.as_str(), known.table.as_str()) == ("ks", table));
    let id = &known.expect("in the backup").id;
    let truncations = header.truncations.as_ref().expect("recorded");
    truncations.iter().find(|truncation| truncation.id == *id).map(|truncation| truncation.at_ms)
}

async fn truncate(cql: &Cql, table: &str) -> Result<std::ops::RangeInclusive<i64>, Failed> {
    let before = now_ms()?;
    cql.execute(&format!("TRUNCATE ks.{table}")).await?;
    Ok(before..=now_ms()?)
}

async fn write(scene: &Scene, cql: &Cql, table: &str, id: u32) -> Result<(), Failed> {
    cql.execute(&format!("INSERT INTO ks.{table} (id, value) VALUES ({id}, 'x')")).await?;
    Ok(scene.node.flush(&["ks"]).await?)
}

#[tokio::test]
async fn truncations_and_incremental_files_of_a_real_node_are_understood() -> Result<(), Failed> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let builder = Cassandra::builder(&runtime, directory.path().join("node")).data_directories(2);
    let mut node = builder.build()?;
    node.start().await?;
    let store = directory.path().join("store");
    std::fs::create_dir(&store)?;
    let mut scene = Scene { node, agent: Agent::start().await?, store, backups: 0 };
    let cql = Cql::connect(&scene.node).await?;
    cql.execute("CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
        .await?;
    for table in ["one", "two", "three"] {
        cql.execute(&format!("CREATE TABLE ks.{table} (id int PRIMARY KEY, value text)")).await?;
        write(&scene, &cql, table, 1).await?;
    }

    // Once, twice, never; and again after a restart.
    truncate(&cql, "one").await?;
    let once = truncate(&cql, "two").await?;
    write(&scene, &cql, "one", 2).await?;
    let twice = truncate(&cql, "one").await?;
    let (_, header) = scene.back_up(None).await?;
    assert!(
        twice.contains(&truncated(&header, "one").expect("truncated")),
        "{:?} in {twice:?}",
        header.truncations
    );
    assert!(
        once.contains(&truncated(&header, "two").expect("truncated")),
        "{:?} in {once:?}",
        header.truncations
    );
    assert_eq!(truncated(&header, "three"), None);
    scene.node.stop().await?;
    scene.node.start().await?;
    let cql = Cql::connect(&scene.node).await?;
    let (base, again) = scene.back_up(None).await?;
    assert_eq!(truncated(&again, "one"), truncated(&header, "one"));
    let base_id = again.backup_id;

    // What was flushed since is taken, but for what was truncated since.
    write(&scene, &cql, "two", 3).await?;
    write(&scene, &cql, "three", 3).await?;
    let later = truncate(&cql, "three").await?;
    write(&scene, &cql, "three", 4).await?;
    let (first, header) = scene.back_up(Some((&base, base_id))).await?;
    assert!(
        later.contains(&truncated(&header, "three").expect("truncated")),
        "{:?} in {later:?}",
        header.truncations
    );
    let stored = std::fs::read(scene.store.join(first.manifest.as_str()))?;
    let lines: Vec<_> = ManifestReader::open(stored.as_slice())?.collect::<Result<_, _>>()?;
    let of = |table: &str| {
        lines.iter().filter(|line| line.table.keyspace == "ks" && line.table.table == table).count()
    };
    assert_eq!(
        (of("one"), of("two"), of("three")),
        (0, 1, 1),
        "of three only what came after its truncation"
    );

    // And cleared afterwards, but for what was truncated: it may have come meanwhile.
    let clear = ClearIncludedRequest {
        store: scene.grant(),
        manifest: named(&first),
        cluster_id: "Test-1".parse()?,
        host_id: "0193b0a0-0000-7000-8000-0000000000ff".parse()?,
        data_directories: scene
            .node
            .data_directories()
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
    };
    let before = scene.incremental("two")?;
    assert!(!before.is_empty());
    let Reply::Cleared { files } = scene.agent.ask(Request::ClearIncluded(clear)).await? else {
        panic!("another answer");
    };
    assert!(files > 0);
    let of_two = lines.iter().find(|line| line.table.keyspace == "ks" && line.table.table == "two");
    let held = format!("{}-Data.db", of_two.expect("one line").name);
    assert!(before.contains(&held) && !scene.incremental("two")?.contains(&held), "{held} of {before:?}");
    let (second, _) = scene.back_up(Some((&first, base_id))).await?;
    let stored = std::fs::read(scene.store.join(second.manifest.as_str()))?;
    let lines: Vec<_> = ManifestReader::open(stored.as_slice())?.collect::<Result<_, _>>()?;
    let of = |table: &str| {
        lines.iter().filter(|line| line.table.keyspace == "ks" && line.table.table == table).count()
    };
    assert_eq!((of("one"), of("two"), of("three")), (0, 1, 1));
    Ok(scene.node.stop().await?)
}
