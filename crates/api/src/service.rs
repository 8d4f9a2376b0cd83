//! The handlers: check the request, ask the operations, put the answer into wire types.

use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc};

use cassy_control::{OperationError, Operations};
use futures::FutureExt;
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    Limits, proto,
    proto::cassy_ops_server::{CassyOps, CassyOpsServer},
    proto::cassy_server::{Cassy, CassyServer},
    request, status,
};

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
            Ok(proto::BackupListingResponse { entries: wire(entries) })
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
            Ok(proto::RestoreStatusListingResponse { cluster_id, entries: wire(entries) })
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
