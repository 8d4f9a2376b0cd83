//! The time in which this server is the one that writes to its database: it keeps the lease, and drives jobs only
//! while it has it.
//!
//! When the lease was not renewed for its whole time (the database is locked, out of reach, full or read-only, or
//! this process was suspended), another server may have taken it over. So no job is driven from then on, requests
//! are answered with "unavailable", and the lease is tried for again. If nobody else had it in between, everything
//! goes on as at a start, with a new epoch: whatever the time before has left under way writes nothing any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cassy_catalog::{Catalog, Lease, LeaseError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::operations::{
    BackupAnswer, BackupRequest, CancelAnswer, Cluster, ClusterSelector, HistorySelector, JobSelector,
    NodeEntry, OperationError, OperationErrorKind, Operations, RestoreAnswer, RestoreRequest,
};
use crate::perform::chain;
use crate::service::{Service, ServiceParts};

/// A lease is renewed so many times within its own time.
const RENEWALS: u32 = 5;
/// Giving the lease back may take so long; it also runs out by itself.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// See the module.
pub struct Tenure {
    parts: ServiceParts,
    state: watch::Sender<State>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<Result<Lease, LeaseError>>>>,
}

#[derive(Clone)]
enum State {
    /// Jobs are driven, requests are answered.
    Held(Arc<Service>),
    /// The lease may have run out; why.
    Suspended(String),
    /// Another server has it.
    Lost,
}

impl Tenure {
    /// Takes up the unfinished jobs, and keeps the lease from now on.
    pub async fn begin(parts: ServiceParts, lease: Lease) -> Result<Arc<Self>, OperationError> {
        let service = Service::start(parts.clone()).await?;
        let tenure = Arc::new(Self {
            parts,
            state: watch::channel(State::Held(service)).0,
            stop: CancellationToken::new(),
            keeper: Mutex::default(),
        });
        let keeper = tokio::spawn(Arc::clone(&tenure).keep(lease));
        *tenure.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(tenure)
    }

    /// Returns when another server has the lease.
    pub async fn lost(&self) {
        let mut state = self.state.subscribe();
        // The sender is our own: that it is gone cannot be the answer.
        state.wait_for(|state| matches!(state, State::Lost)).await.ok();
    }

    /// Stops driving jobs, which go on at the next start, and gives the lease back; an error when another server
    /// has it.
    pub async fn end(&self) -> Result<(), LeaseError> {
        self.stop.cancel();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match keeper {
            Some(keeper) => keeper.await.map_err(|error| tracing::error!(%error, "the lease was not kept")),
            None => return Ok(()),
        };
        self.suspend("the server is stopping".to_owned()).await;
        let Ok(kept) = kept else { return Ok(()) };
        let lease = kept?;
        let released = timeout(RELEASE_LIMIT, self.catalog().release(&lease)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!("the lease was not given back; it runs out by itself");
        }
        Ok(())
    }

    fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    fn parts_of(&self, lease: &Lease) -> ServiceParts {
        ServiceParts { epoch: lease.epoch, ..self.parts.clone() }
    }

    /// Until told to stop: then the lease is given out. An error when another server has it.
    async fn keep(self: Arc<Self>, mut lease: Lease) -> Result<Lease, LeaseError> {
        loop {
            let why = match self.stop.run_until_cancelled(self.hold(&lease)).await {
                None => return Ok(lease),
                Some(Ok(why)) => why,
                Some(Err(error)) => return Err(self.lose(error).await),
            };
            tracing::error!(why, "the lease may have run out: no job is driven until it is taken again");
            self.suspend(why).await;
            lease = match self.stop.run_until_cancelled(self.retake(&lease)).await {
                None => return Ok(lease),
                Some(Ok(lease)) => lease,
                Some(Err(error)) => return Err(self.lose(error).await),
            };
            tracing::info!(epoch = lease.epoch, "the lease is taken again: unfinished jobs go on");
        }
    }

    /// Renews the lease until that has not succeeded for its whole time; says why.
    async fn hold(&self, lease: &Lease) -> Result<String, LeaseError> {
        let mut renewed = Instant::now();
        let mut why = "this process did not run".to_owned();
        loop {
            sleep(lease.ttl / RENEWALS).await;
            // From before the request: the database counts from when it has it.
            let asked = Instant::now();
            let left = lease.ttl.saturating_sub(renewed.elapsed());
            if left.is_zero() {
                return Ok(why);
            }
            match timeout(left, self.catalog().renew(lease)).await {
                Ok(Ok(())) => renewed = asked,
                Ok(Err(LeaseError::Catalog(error))) => {
                    why = chain(&error);
                    tracing::warn!(error = why, "the lease was not renewed; trying again");
                }
                Ok(Err(lost)) => return Err(lost),
                Err(_elapsed) => return Ok("the metadata database does not answer".to_owned()),
            }
        }
    }

    /// Ends what runs. The answer to requests comes first, so that none of them finds a service that is ending.
    async fn suspend(&self, why: String) {
        let before = self.state.send_replace(State::Suspended(why));
        if let State::Held(service) = before {
            service.shut_down().await;
        }
    }

    async fn lose(&self, error: LeaseError) -> LeaseError {
        self.suspend(chain(&error)).await;
        self.state.send_replace(State::Lost);
        error
    }

    /// Tries until the lease is ours again and the unfinished jobs are taken up, or another server has it.
    async fn retake(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut known = String::new();
        loop {
            let why = match self.catalog().retake(lease).await {
                Ok(lease) => match Service::start(self.parts_of(&lease)).await {
                    Ok(service) => {
                        self.state.send_replace(State::Held(service));
                        return Ok(lease);
                    }
                    Err(error) => error.to_string(),
                },
                Err(LeaseError::Catalog(error)) => chain(&error),
                Err(error) => return Err(error),
            };
            if known != why {
                tracing::warn!(why, "the lease is not taken again; trying on");
                known.clone_from(&why);
            }
            self.state.send_replace(State::Suspended(why));
            sleep(lease.ttl / RENEWALS).await;
        }
    }

    /// Does it with the service of the moment, until that ends.
    async fn serve<T, F>(&self, work: impl FnOnce(Arc<Service>) -> F) -> Result<T, OperationError>
    where
        F: Future<Output = Result<T, OperationError>>,
    {
        let mut state = self.state.subscribe();
        let now = state.borrow_and_update().clone();
        let State::Held(service) = now else { return Err(unavailable(&now)) };
        tokio::select! {
            done = work(service) => done,
            _ = state.changed() => Err(unavailable(&state.borrow())),
        }
    }
}

fn unavailable(state: &State) -> OperationError {
    let message = match state {
        State::Suspended(why) => {
            format!("the server's lease on its metadata database may have run out: {why}")
        }
        State::Held(_) => "the server's lease on its metadata database was interrupted".to_owned(),
        State::Lost => "another server works with the metadata database of this one".to_owned(),
    };
    OperationError::new(OperationErrorKind::Unavailable, message).hint(
        "check the metadata database (metadata_db_url): its disk, its permissions, who else has it open; \
         unfinished jobs go on when it answers, and the lists show them",
    )
}

#[async_trait]
impl Operations for Tenure {
    async fn register_cluster(&self, cassandra_host: &str) -> Result<Cluster, OperationError> {
        self.serve(|service| async move { service.register_cluster(cassandra_host).await }).await
    }

    async fn list_clusters(&self, selector: ClusterSelector) -> Result<Vec<Cluster>, OperationError> {
        self.serve(|service| async move { service.list_clusters(selector).await }).await
    }

    async fn take_backup(&self, request: BackupRequest) -> Result<BackupAnswer, OperationError> {
        self.serve(|service| async move { service.take_backup(request).await }).await
    }

    async fn list_backups(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        self.serve(|service| async move { service.list_backups(selector).await }).await
    }

    async fn restore_backup(&self, request: RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        self.serve(|service| async move { service.restore_backup(request).await }).await
    }

    async fn list_restores(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        self.serve(|service| async move { service.list_restores(selector).await }).await
    }
    async fn cancel_job(&self, selector: JobSelector) -> Result<CancelAnswer, OperationError> {
        self.serve(|service| async move { service.cancel_job(selector).await }).await
    }
}
