//! The handlers: check the request, ask the operations, put the answer into wire types.

use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc};

use cassy_control::{LISTED_MOST, NodeEntry, OperationError, Operations};
use futures::FutureExt;
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    Limits, proto,
    proto::cassy_ops_server::{CassyOps, CassyOpsServer},
    proto::cassy_server::{Cassy, CassyServer},
    request, status,
};

/// Of a listing: clients take no more than 4 MiB unless they are told to.
const LISTING_BYTES: usize = 3 << 20;
/// Of an entry within a listing: its key and its length.
const ENTRY_OVERHEAD_BYTES: usize = 6;
/// A reflection request is a name.
const REFLECTION_REQUEST_BYTES: usize = 64 << 10;

/// The services `rpc.Cassy` and `rpc.CassyOps`.
#[derive(Clone)]
pub struct CassyService {
    operations: Arc<dyn Operations>,
}

/// The service `rpc.Cassy` over these operations, with the default limit of a request's size.
pub fn service(operations: Arc<dyn Operations>) -> CassyServer<CassyService> {
    CassyServer::new(CassyService { operations }).max_decoding_message_size(Limits::default().request_bytes)
}

/// All services of the port: `rpc.Cassy`, `rpc.CassyOps`, and reflection in both versions.
pub(crate) fn routes(
    operations: Arc<dyn Operations>,
    limits: &Limits,
) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(proto::REFLECTED_DESCRIPTORS)
    };
    let ops = CassyOpsServer::new(CassyService { operations: Arc::clone(&operations) });
    Ok(Routes::new(service(operations).max_decoding_message_size(limits.request_bytes))
        .add_service(ops.max_decoding_message_size(limits.request_bytes))
        .add_service(reflection().build_v1()?.max_decoding_message_size(REFLECTION_REQUEST_BYTES))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(REFLECTION_REQUEST_BYTES))
        .prepare())
}

#[tonic::async_trait]
impl Cassy for CassyService {
    async fn register_cluster(
        &self,
        request: Request<proto::ClusterRegistrationRequest>,
    ) -> Result<Response<proto::ClusterRegistrationResponse>, Status> {
        answer("RegisterCluster", async {
            let host = request::cassandra_host(request.get_ref())?;
            Ok(self.operations.register_cluster(&host).await?.into())
        })
        .await
    }

    async fn list_clusters(
        &self,
        request: Request<proto::ClusterListingRequest>,
    ) -> Result<Response<proto::ClusterListingResponse>, Status> {
        answer("ListClusters", async {
            let selector = request::clusters(request.into_inner())?;
            let clusters = self.operations.list_clusters(selector).await?;
            Ok(proto::ClusterListingResponse { entries: wire(clusters) })
        })
        .await
    }

    async fn list_backups(
        &self,
        request: Request<proto::BackupListingRequest>,
    ) -> Result<Response<proto::BackupListingResponse>, Status> {
        answer("ListBackups", async {
            let entries = match request::backup_history(request.into_inner())? {
                Some(selector) => self.operations.list_backups(selector).await?,
                None => Vec::new(),
            };
            let (entries, truncated) = newest(entries);
            Ok(proto::BackupListingResponse { entries, truncated })
        })
        .await
    }

    async fn take_backup(
        &self,
        request: Request<proto::BackupRequest>,
    ) -> Result<Response<proto::BackupResponse>, Status> {
        answer("TakeBackup", async {
            let request = request::backup(request.into_inner())?;
            Ok(self.operations.take_backup(request).await?.into())
        })
        .await
    }

    async fn restore_backup(
        &self,
        request: Request<proto::RestoreRequest>,
    ) -> Result<Response<proto::RestoreResponse>, Status> {
        answer("RestoreBackup", async {
            let request = request::restore(request.into_inner())?;
            Ok(self.operations.restore_backup(request).await?.into())
        })
        .await
    }

    async fn list_restore_statuses(
        &self,
        request: Request<proto::RestoreStatusListingRequest>,
    ) -> Result<Response<proto::RestoreStatusListingResponse>, Status> {
        answer("ListRestoreStatuses", async {
            let request = request.into_inner();
            let cluster_id = request.cluster_id.clone();
            let entries = match request::restore_history(request)? {
                Some(selector) => self.operations.list_restores(selector).await?,
                None => Vec::new(),
            };
            let (entries, truncated) = newest(entries);
            Ok(proto::RestoreStatusListingResponse { cluster_id, entries, truncated })
        })
        .await
    }
}

#[tonic::async_trait]
impl CassyOps for CassyService {
    async fn cancel_job(
        &self,
        request: Request<proto::CancelJobRequest>,
    ) -> Result<Response<proto::CancelJobResponse>, Status> {
        answer("CancelJob", async {
            let selector = request::cancel(request.into_inner())?;
            Ok(self.operations.cancel_job(selector).await?.into())
        })
        .await
    }
}

impl fmt::Debug for CassyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassyService").finish_non_exhaustive()
    }
}

fn wire<T, W: From<T>>(entries: Vec<T>) -> Vec<W> {
    entries.into_iter().map(W::from).collect()
}

/// So many of the entries, which are in order, as every client takes in one answer; whether there are more.
fn newest<W: From<NodeEntry> + prost::Message>(entries: Vec<NodeEntry>) -> (Vec<W>, bool) {
    let all = entries.len();
    let mut bytes = 0;
    let fitting = entries.into_iter().map(W::from).take_while(|entry| {
        bytes += entry.encoded_len() + ENTRY_OVERHEAD_BYTES;
        bytes <= LISTING_BYTES
    });
    let fitting: Vec<W> = fitting.collect();
    let truncated = fitting.len() < all || all >= LISTED_MOST as usize;
    (fitting, truncated)
}

/// Runs a handler's body. A panic in it is this request's INTERNAL and nobody else's trouble.
async fn answer<T>(
    method: &'static str,
    body: impl Future<Output = Result<T, OperationError>> + Send,
) -> Result<Response<T>, Status> {
    // Nothing is seen again that the panic may have left half done: the body is dropped with all that it borrowed
    // mutably, and the operations are shared by reference and look after their own state.
    match AssertUnwindSafe(body).catch_unwind().await {
        Ok(Ok(answer)) => Ok(Response::new(answer)),
        Ok(Err(error)) => {
            tracing::debug!(method, ?error, "refused");
            Err(status::from_error(method, &error))
        }
        Err(panic) => Err(status::internal(method, panic_text(panic.as_ref()))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use cassy_control::{Progress, Status as NodeStatus};
    use prost::Message;

    use super::*;

    fn entries(count: usize, message: &str) -> Vec<NodeEntry> {
        let entry = NodeEntry {
            cluster_id: "c".to_owned(),
            target_ip: "127.0.0.1".to_owned(),
            snapshot_id: "s".to_owned(),
            created_at: 1,
            updated_at: 1,
            operation_type: 2,
            status: NodeStatus::Failed,
            message: message.to_owned(),
            progress: Progress::default(),
            freeze: None,
            job_id: None,
        };
        vec![entry; count]
    }

    #[test]
    fn a_listing_is_what_clients_take_and_says_when_that_is_not_all() {
        let (few, truncated) = newest::<proto::backup_listing_response::Entry>(entries(9_999, "failed"));
        assert_eq!((few.len(), truncated), (9_999, false));
        let (most, truncated) = newest::<proto::backup_listing_response::Entry>(entries(10_000, "failed"));
        assert_eq!((most.len(), truncated), (10_000, true));
        let (fitting, truncated) = newest(entries(2_000, &"failed ".repeat(1_000)));
        assert!(truncated && fitting.len() > 400);
        let answer = proto::BackupListingResponse { entries: fitting, truncated };
        assert!(answer.encoded_len() < 4 << 20, "{}", answer.encoded_len());
    }
}
