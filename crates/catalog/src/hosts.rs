//! SSH host keys as they were seen at registration.

use crate::error::during;
use crate::{Catalog, CatalogError};

const PUT: &str = "remember a host key";
const GET: &str = "look up a host key";

impl Catalog {
    /// The key that was remembered for this host and port, as OpenSSH writes it (type and base64).
    pub async fn host_key(&self, host: &str, port: u16) -> Result<Option<String>, CatalogError> {
        sqlx::query_scalar("SELECT key FROM host_key WHERE host = $1 AND port = $2")
            .bind(host)
            .bind(i64::from(port))
            .fetch_optional(&self.reads)
            .await
            .map_err(during(GET))
    }

    /// Remembers a key, in place of an earlier one. Whether a changed key may be taken is the caller's decision.
    pub async fn put_host_key(&self, host: &str, port: u16, key: &str) -> Result<(), CatalogError> {
        let mut tx = self.writes.begin().await.map_err(during(PUT))?;
        let updated = sqlx::query("UPDATE host_key SET key = $1 WHERE host = $2 AND port = $3")
            .bind(key)
            .bind(host)
            .bind(i64::from(port))
            .execute(&mut *tx)
            .await
            .map_err(during(PUT))?;
        if updated.rows_affected() == 0 {
            sqlx::query("INSERT INTO host_key (host, port, key) VALUES ($1, $2, $3)")
                .bind(host)
                .bind(i64::from(port))
                .bind(key)
                .execute(&mut *tx)
                .await
                .map_err(during(PUT))?;
        }
        tx.commit().await.map_err(during(PUT))
    }
}
