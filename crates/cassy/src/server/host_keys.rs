//! Host keys that were seen before, kept in the metadata database.

use async_trait::async_trait;
use cassy_catalog::Catalog;
use cassy_ssh::{BoxError, HostKeys};

/// See the module.
pub(super) struct RememberedKeys {
    catalog: Catalog,
}

impl RememberedKeys {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }
}

#[async_trait]
impl HostKeys for RememberedKeys {
    async fn known(&self, host: &str, port: u16) -> Result<Option<String>, BoxError> {
        Ok(self.catalog.host_key(host, port).await?)
    }

    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<(), BoxError> {
        Ok(self.catalog.put_host_key(host, port, key).await?)
    }
}
