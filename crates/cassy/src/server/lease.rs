//! One server at a time writes to a metadata database.
//!
//! A lease lives [`TTL`] by the database's clock; `cassy_control::Tenure` renews it well before that. Its holder says
//! which process it is, so that a server that was killed and started again on the same machine need not wait.

use std::path::Path;
use std::time::Duration;

use cassy_catalog::{Catalog, Lease, LeaseError, SERVER_LEASE};

/// How long a lease lives without being renewed.
const TTL: Duration = Duration::from_secs(20);

/// Why the server may not write.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseProblem {
    #[error("another server works with this metadata database: {holder}")]
    Held { holder: String },
    #[error("the lease on the metadata database is lost")]
    Lost(#[source] LeaseError),
    #[error("cannot take the lease on the metadata database")]
    Failed(#[source] LeaseError),
}

impl LeaseProblem {
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Held { .. } | Self::Lost(_) => {
                "Stop that server, or give this one a metadata_db_url of its own."
            }
            Self::Failed(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// Takes the lease. One whose holder may be dead is waited for until it has run out.
pub(super) async fn take(catalog: &Catalog) -> Result<Lease, LeaseProblem> {
    let holder = Holder::own().to_string();
    match catalog.take_lease(SERVER_LEASE, &holder, TTL, is_dead).await {
        Ok(lease) => return Ok(lease),
        Err(LeaseError::HeldBy { holder, expires_in, .. }) if !is_here(&holder) => {
            tracing::info!(holder, "waiting until the lease of another server has run out, or is renewed");
            tokio::time::sleep(expires_in + Duration::from_millis(500)).await;
        }
        Err(error) => return Err(problem(error)),
    }
    catalog.take_lease(SERVER_LEASE, &holder, TTL, is_dead).await.map_err(problem)
}

fn problem(error: LeaseError) -> LeaseProblem {
    match error {
        LeaseError::HeldBy { holder, .. } => LeaseProblem::Held { holder },
        error => LeaseProblem::Failed(error),
    }
}

/// A process, by everything that tells it from another one: host, boot, process namespace, id and start.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    host: String,
    boot: String,
    namespace: String,
    pid: u32,
    started: String,
}

impl Holder {
    fn own() -> Self {
        let pid = std::process::id();
        Self {
            host: read("/proc/sys/kernel/hostname"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            namespace: namespace(),
            pid,
            started: start_of(pid).unwrap_or_default(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let holder = Self {
            host: parts.next()?,
            boot: parts.next()?,
            namespace: parts.next()?,
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?,
        };
        parts.next().is_none().then_some(holder)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, boot, namespace, pid, started } = self;
        write!(f, "{host}/{boot}/{namespace}/{pid}/{started}")
    }
}

/// Whether the holder is a process of this machine that has ended for certain.
fn is_dead(holder: &str) -> bool {
    let (Some(holder), own) = (Holder::parse(holder), Holder::own()) else { return false };
    if holder.host != own.host {
        return false;
    }
    if holder.boot != own.boot {
        return true;
    }
    holder.namespace == own.namespace && start_of(holder.pid).is_none_or(|started| started != holder.started)
}

/// Whether the holder is a running process of this machine.
fn is_here(holder: &str) -> bool {
    let (Some(holder), own) = (Holder::parse(holder), Holder::own()) else { return false };
    (&holder.host, &holder.boot, &holder.namespace) == (&own.host, &own.boot, &own.namespace)
        && start_of(holder.pid).is_some_and(|started| started == holder.started)
}

/// When a process started, in clock ticks since the boot (proc(5), field 22 of `stat`).
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if fields.next() == Some("Z") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn namespace() -> String {
    let link = std::fs::read_link(Path::new("/proc/self/ns/pid"));
    link.map(|target| target.display().to_string().replace('/', "")).unwrap_or_default()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().replace('/', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_past_ones_are_not() {
        let own = Holder::own();
        assert_eq!(Holder::parse(&own.to_string()), Some(Holder::own()));
        assert!(is_here(&own.to_string()) && !is_dead(&own.to_string()));
        let reused = Holder { started: "1".to_owned(), ..Holder::own() };
        assert!(is_dead(&reused.to_string()) && !is_here(&reused.to_string()));
        let rebooted = Holder { boot: "another".to_owned(), ..Holder::own() };
        assert!(is_dead(&rebooted.to_string()));
    }

    #[test]
    fn of_another_machine_or_namespace_nothing_is_known() {
        let elsewhere = Holder { host: "elsewhere".to_owned(), ..Holder::own() };
        let contained = Holder { namespace: "pid:[1]".to_owned(), started: "1".to_owned(), ..Holder::own() };
        for holder in [elsewhere.to_string(), contained.to_string(), "nonsense".to_owned()] {
            assert!(!is_dead(&holder) && !is_here(&holder), "{holder}");
        }
    }
}
