//! Applications over a cluster: instances that an SRV record names, on an address that the cluster's nodes reach as well,
//! so that nodes can guard their pause.

use std::sync::Arc;

use cassy_api::proto::backup_listing_response::Entry;
use cassy_api::proto::{BackupListingRequest, BackupRequest, BackupResponse};
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{Cluster, ClusterBuilder, Doing, Failure};
use tonic::Status;

const SERVICE: &str = "_app._tcp.shop.test";

/// See the module.
pub(crate) struct Applications {
    dns: DnsServer,
    pub(crate) instances: Vec<Arc<FakeApplication>>,
}

impl Applications {
    /// A name, and nobody whom it names.
    pub(crate) async fn start() -> Result<Self, Failure> {
        Ok(Self { dns: DnsServer::start().await?, instances: Vec::new() })
    }

    /// The cluster's server knows the name.
    pub(crate) fn under(&self, builder: ClusterBuilder) -> ClusterBuilder {
        let dns = self.dns.address().to_string();
        builder.property("srv_service_url", SERVICE).property("dns_server", dns)
    }

    /// One instance more, over this cluster.
    pub(crate) async fn listen(&mut self, cluster: &Cluster) -> Result<Arc<FakeApplication>, Failure> {
        let address = (cluster.host_address(), 0).into();
        let instance = FakeApplication::listen(Behaviour::default(), address).await?;
        let host = format!("app{}.shop.test", self.instances.len() + 1);
        self.dns.srv(SERVICE, &host, instance.address().port());
        self.dns.address_of(&host, instance.address().ip());
        self.instances.push(Arc::clone(&instance));
        Ok(instance)
    }

    pub(crate) fn all_go_on(&self) -> bool {
        self.instances.iter().all(|instance| !instance.is_paused())
    }
}

/// Takes a cluster-wide backup, and answers when its snapshots are taken.
pub(crate) async fn freeze(cluster: &Cluster, id: &str) -> Result<BackupResponse, Status> {
    let request = BackupRequest { cluster_id: id.to_owned(), backup_type: 1, ..BackupRequest::default() };
    let mut client = cluster.server.client().expect("the server runs");
    client.take_backup(request).await.map(tonic::Response::into_inner)
}

/// The rows of cluster-wide backups, the newest first.
pub(crate) async fn frozen(cluster: &Cluster, id: &str) -> Result<Vec<Entry>, Failure> {
    let mut client = cluster.server.client()?;
    let request = BackupListingRequest { cluster_id: id.to_owned(), ..BackupListingRequest::default() };
    let listed = client.list_backups(request).await.doing(|| "ListBackups")?.into_inner();
    Ok(listed.entries.into_iter().filter(|entry| entry.backup_type == 1).collect())
}
