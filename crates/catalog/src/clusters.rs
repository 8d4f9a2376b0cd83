//! Registered clusters, and the ring of each as it was seen last.

use crate::error::during;
use crate::history::LISTED_MOST;
use crate::lenient::{self, Column, Lenient};
use crate::{Catalog, CatalogError};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// A registered cluster. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ClusterRow {
    pub cluster_id: String,
    pub cluster_name: String,
    pub target_ips: Vec<String>,
    pub keyspaces: Vec<String>,
    pub data_dir: String,
    /// A cluster that is registered again keeps its first one.
    pub created_at: i64,
    pub updated_at: i64,
}

/// One node of a cluster's ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct ClusterNode {
    pub address: String,
    pub host_id: String,
    pub datacenter: String,
    pub rack: String,
}

/// Which clusters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSelector {
    /// Only this one.
    pub cluster_id: Option<String>,
    /// At most so many; `None` means all.
    pub limit: Option<u32>,
}

const TEXTS: [Column<'static>; 5] = [
    ("cluster_id", "cluster_id"),
    ("cluster_name", "cluster_name"),
    ("target_ips", "target_ips"),
    ("keyspaces", "keyspaces"),
    ("data_dir", "data_dir"),
];
const NUMBERS: [Column<'static>; 2] = [("created_at", "created_at"), ("updated_at", "updated_at")];

const REGISTER: &str = "store a cluster";
const FIND: &str = "look up a cluster by its nodes";
const LIST: &str = "list clusters";
const NODES: &str = "list the nodes of a cluster";

impl Catalog {
    /// Stores a new cluster, or refreshes a known one. `nodes` replaces what was known of its ring.
    pub async fn register_cluster(
        &self,
        epoch: i64,
        cluster: &ClusterRow,
        nodes: &[ClusterNode],
    ) -> Result<(), CatalogError> {
        let target_ips = joined("target_ips", &cluster.target_ips)?;
        let keyspaces = joined("keyspaces", &cluster.keyspaces)?;
        let mut tx = self.begin_guarded(REGISTER, epoch).await?;
        if update(&mut tx, cluster, &target_ips, &keyspaces).await? == 0 {
            insert(&mut tx, cluster, &target_ips, &keyspaces).await?;
        }
        replace_nodes(&mut tx, &cluster.cluster_id, nodes).await?;
        tx.commit().await.map_err(during(REGISTER))
    }

    /// The registered cluster of this name that has had one of these nodes: the one with most of them, the
    /// newest of several. Clusters that Java Cassy registered have no host ids, and are not found.
    pub async fn find_cluster_by_nodes(
        &self,
        cluster_name: &str,
        host_ids: &[String],
    ) -> Result<Option<String>, CatalogError> {
        let rows = sqlx::query(
            "SELECT c.cluster_id, n.host_id FROM cluster_info c JOIN cluster_node n ON n.cluster_id = c.cluster_id \
             WHERE c.cluster_name = $1 ORDER BY c.created_at, c.cluster_id",
        )
        .bind(cluster_name)
        .fetch_all(&self.reads)
        .await
        .map_err(during(FIND))?;
        let wanted: BTreeSet<&str> = host_ids.iter().map(String::as_str).collect();
        // Positions grow with the time of registration.
        let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (position, row) in rows.iter().enumerate() {
            let host_id: String = row.try_get(1).map_err(during(FIND))?;
            if wanted.contains(host_id.as_str()) {
                let matches = found.entry(row.try_get(0).map_err(during(FIND))?).or_default();
                *matches = (matches.0 + 1, position);
            }
        }
        Ok(found.into_iter().max_by_key(|(_, matches)| *matches).map(|(cluster_id, _)| cluster_id))
    }

    /// One cluster.
    pub async fn cluster(&self, cluster_id: &str) -> Result<Option<ClusterRow>, CatalogError> {
        let selector = ClusterSelector { cluster_id: Some(cluster_id.to_owned()), limit: None };
        Ok(self.clusters(&selector).await?.pop())
    }

    /// Newest first.
    pub async fn clusters(&self, selector: &ClusterSelector) -> Result<Vec<ClusterRow>, CatalogError> {
        let limit = i64::from(selector.limit.unwrap_or(LISTED_MOST).min(LISTED_MOST));
        let selection = lenient::selection(&TEXTS, &NUMBERS);
        let sql = match &selector.cluster_id {
            Some(_) => format!("SELECT {selection} FROM cluster_info WHERE cluster_id = $1 LIMIT $2"),
            None => {
                format!("SELECT {selection} FROM cluster_info ORDER BY created_at DESC, cluster_id LIMIT $1")
            }
        };
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = match &selector.cluster_id {
            Some(cluster_id) => query.bind(cluster_id),
            None => query,
        };
        let rows = query.bind(limit).fetch_all(&self.reads).await.map_err(during(LIST))?;
        rows.iter().map(cluster).collect::<Result<_, _>>().map_err(during(LIST))
    }

    /// The ring as it was seen last, by address. Empty for a cluster that Java Cassy registered.
    pub async fn cluster_nodes(&self, cluster_id: &str) -> Result<Vec<ClusterNode>, CatalogError> {
        let rows = sqlx::query(
            "SELECT address, host_id, datacenter, rack FROM cluster_node WHERE cluster_id = $1 ORDER BY address",
        )
        .bind(cluster_id)
        .fetch_all(&self.reads)
        .await
        .map_err(during(NODES))?;
        rows.iter().map(node).collect::<Result<_, _>>().map_err(during(NODES))
    }
}

async fn update(
    tx: &mut Transaction<'static, Any>,
    cluster: &ClusterRow,
    target_ips: &str,
    keyspaces: &str,
) -> Result<u64, CatalogError> {
    let updated = sqlx::query(
        "UPDATE cluster_info SET cluster_name = $1, target_ips = $2, keyspaces = $3, data_dir = $4, updated_at = $5 \
         WHERE cluster_id = $6",
    )
    .bind(&cluster.cluster_name)
    .bind(target_ips)
    .bind(keyspaces)
    .bind(&cluster.data_dir)
    .bind(cluster.updated_at)
    .bind(&cluster.cluster_id)
    .execute(&mut **tx)
    .await
    .map_err(during(REGISTER))?;
    Ok(updated.rows_affected())
}

async fn insert(
    tx: &mut Transaction<'static, Any>,
    cluster: &ClusterRow,
    target_ips: &str,
    keyspaces: &str,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO cluster_info (cluster_id, cluster_name, target_ips, keyspaces, data_dir, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&cluster.cluster_id)
    .bind(&cluster.cluster_name)
    .bind(target_ips)
    .bind(keyspaces)
    .bind(&cluster.data_dir)
    .bind(cluster.created_at)
    .bind(cluster.updated_at)
    .execute(&mut **tx)
    .await
    .map_err(during(REGISTER))?;
    Ok(())
}

async fn replace_nodes(
    tx: &mut Transaction<'static, Any>,
    cluster_id: &str,
    nodes: &[ClusterNode],
) -> Result<(), CatalogError> {
    sqlx::query("DELETE FROM cluster_node WHERE cluster_id = $1")
        .bind(cluster_id)
        .execute(&mut **tx)
        .await
        .map_err(during(REGISTER))?;
    for node in nodes {
        sqlx::query(
            "INSERT INTO cluster_node (cluster_id, address, host_id, datacenter, rack) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(cluster_id)
        .bind(&node.address)
        .bind(&node.host_id)
        .bind(&node.datacenter)
        .bind(&node.rack)
        .execute(&mut **tx)
        .await
        .map_err(during(REGISTER))?;
    }
    Ok(())
}

/// A row that nobody of ours has written is shown as far as it goes.
fn cluster(row: &AnyRow) -> Result<ClusterRow, sqlx::Error> {
    let mut row = Lenient::of(row)?;
    let mut text = |column| Ok::<_, sqlx::Error>(row.text(column)?.unwrap_or_default());
    let (cluster_id, cluster_name) = (text("cluster_id")?, text("cluster_name")?);
    let (target_ips, keyspaces) = (split(&text("target_ips")?), split(&text("keyspaces")?));
    let data_dir = text("data_dir")?;
    let created_at = row.number("created_at")?.unwrap_or(0);
    let updated_at = row.number("updated_at")?.unwrap_or(created_at);
    Ok(ClusterRow { cluster_id, cluster_name, target_ips, keyspaces, data_dir, created_at, updated_at })
}

fn node(row: &AnyRow) -> Result<ClusterNode, sqlx::Error> {
    Ok(ClusterNode {
        address: row.try_get(0)?,
        host_id: row.try_get(1)?,
        datacenter: row.try_get(2)?,
        rack: row.try_get(3)?,
    })
}

/// Java Cassy's form of a list. No address and no keyspace name of Cassandra's holds a comma.
fn joined(field: &'static str, values: &[String]) -> Result<String, CatalogError> {
    let refused = values.iter().find(|value| value.is_empty() || value.contains(','));
    if let Some(value) = refused {
        let problem = "is empty or holds a comma, which separates the values of this list";
        return Err(CatalogError::InvalidValue { operation: REGISTER, field, value: value.clone(), problem });
    }
    Ok(values.join(","))
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
}
