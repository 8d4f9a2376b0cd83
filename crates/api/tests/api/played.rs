//! Operations that are played, and a server over them.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cassy_api::{Limits, proto::cassy_client::CassyClient};
use cassy_control::{
    BackupAnswer, BackupRequest, CancelAnswer, CancelledNode, Cluster, ClusterSelector, HistorySelector,
    JobSelector, NodeEntry, OperationError, Operations, Progress, RestoreAnswer, RestoreRequest, Status,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

pub(crate) const SNAPSHOT: &str = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";
/// Of a restore; a backup's job has the snapshot's id.
pub(crate) const JOB: &str = "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3";
pub(crate) const CLUSTER: &str = "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f";
pub(crate) const CREATED: i64 = 1_622_505_600_123;

/// What the operations do with a call.
#[derive(Debug, Clone, Default)]
pub(crate) enum Part {
    #[default]
    Answer,
    AnswerNothing,
    AnswerMuch,
    Refuse(OperationError),
    Panic,
    Wait,
}

/// Operations that note what they are asked, and play their part.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) part: Mutex<Part>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) under_way: AtomicUsize,
    pub(crate) release: Semaphore,
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Played {
    pub(crate) fn plays(&self, part: Part) {
        *self.part.lock().unwrap() = part;
    }

    pub(crate) fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// How many entries to answer.
    async fn play(&self, call: String) -> Result<usize, OperationError> {
        self.calls.lock().unwrap().push(call);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way);
        let part = self.part.lock().unwrap().clone();
        match part {
            Part::Answer => Ok(1),
            Part::AnswerNothing => Ok(0),
            Part::AnswerMuch => Ok(20_000),
            Part::Refuse(error) => Err(error),
            Part::Panic => panic!("a secret of the database"),
            Part::Wait => {
                self.release.acquire().await.expect("never closed").forget();
                Ok(1)
            }
        }
    }
}

fn cluster() -> Cluster {
    Cluster {
        cluster_id: CLUSTER.into(),
        cluster_name: "Test Cluster".into(),
        target_ips: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        keyspaces: vec!["ks1".into()],
        data_dir: "/var/lib/cassandra/data".into(),
        created_at: CREATED,
        updated_at: CREATED + 1,
    }
}

fn backup_entry() -> NodeEntry {
    NodeEntry {
        cluster_id: CLUSTER.into(),
        target_ip: "10.0.0.1".into(),
        snapshot_id: SNAPSHOT.into(),
        created_at: CREATED,
        updated_at: CREATED + 1,
        operation_type: 2,
        status: Status::Failed,
        progress: Progress { bytes_done: 5_000_000_000, bytes_total: 6_000_000_000 },
        message: "the disk is full".into(),
        freeze: None,
        job_id: Some(SNAPSHOT.into()),
    }
}

fn restore_entry() -> NodeEntry {
    NodeEntry {
        cluster_id: CLUSTER.into(),
        target_ip: "10.0.0.1".into(),
        snapshot_id: SNAPSHOT.into(),
        created_at: CREATED,
        updated_at: CREATED + 1,
        operation_type: 2,
        status: Status::Completed,
        progress: Progress::default(),
        message: String::new(),
        freeze: None,
        job_id: Some(JOB.into()),
    }
}

#[async_trait]
impl Operations for Played {
    async fn register_cluster(&self, cassandra_host: &str) -> Result<Cluster, OperationError> {
        self.play(format!("register {cassandra_host}")).await.map(|_| cluster())
    }

    async fn list_clusters(&self, selector: ClusterSelector) -> Result<Vec<Cluster>, OperationError> {
        Ok(vec![cluster(); self.play(format!("{selector:?}")).await?])
    }

    async fn take_backup(&self, request: BackupRequest) -> Result<BackupAnswer, OperationError> {
        self.play(format!("{request:?}")).await?;
        Ok(BackupAnswer {
            status: Status::Started,
            cluster_id: request.cluster_id,
            target_ips: request.target_ips,
            snapshot_id: SNAPSHOT.into(),
            created_at: CREATED,
            backup_type: request.backup_type,
            message: String::new(),
            job_id: SNAPSHOT.into(),
        })
    }

    async fn list_backups(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        Ok(vec![backup_entry(); self.play(format!("{selector:?}")).await?])
    }

    async fn restore_backup(&self, request: RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        self.play(format!("{request:?}")).await?;
        Ok(RestoreAnswer {
            status: Status::Started,
            cluster_id: request.cluster_id,
            target_ips: request.target_ips,
            snapshot_id: request.snapshot_id,
            restore_type: request.restore_type,
            snapshot_only: request.snapshot_only,
            message: "start the seeds first".into(),
            job_id: Some(JOB.into()),
        })
    }

    async fn list_restores(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        Ok(vec![restore_entry(); self.play(format!("{selector:?}")).await?])
    }

    async fn cancel_job(&self, selector: JobSelector) -> Result<CancelAnswer, OperationError> {
        self.play(format!("{selector:?}")).await?;
        Ok(CancelAnswer {
            job_id: JOB.into(),
            snapshot_id: SNAPSHOT.into(),
            status: Status::Failed,
            message: "cancelled while upload: 1 of 2 nodes had finished".into(),
            nodes: vec![CancelledNode {
                target_ip: "10.0.0.1".into(),
                status: Status::Completed,
                message: "7 files".into(),
            }],
        })
    }
}

/// A server on a port of its own. Ends with its test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) played: Arc<Played>,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), cassy_api::ServeError>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let played = Arc::new(Played {
            part: Mutex::default(),
            calls: Mutex::default(),
            under_way: AtomicUsize::new(0),
            release: Semaphore::new(0),
        });
        let stop = CancellationToken::new();
        let ended = tokio::spawn(cassy_api::serve(
            listener,
            Arc::clone(&played) as Arc<dyn Operations>,
            stop.clone().cancelled_owned(),
            limits,
        ));
        Self { address, played, stop, ended }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::new(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> CassyClient<Channel> {
        CassyClient::new(self.channel().await).max_decoding_message_size(1 << 30)
    }
}

/// Waits for a condition; a test that waits for ever is a failed one.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The future's outcome, which must come soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("never: {what}"))
}
