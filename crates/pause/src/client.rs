//! Many instances at once.

use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use futures::future::join_all;
use tokio::time::Instant;

use crate::admin::{Connection, Way};
use crate::dial::Dial;
use crate::error::InstanceError;
use crate::pausing::Pausing;
use crate::tls::Tls;
use crate::unpausing::{Unpaused, Unpausing};

/// For a connection: an instance that takes longer is out of reach.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Pauses and unpauses instances. Clones share what they dial with.
#[derive(Clone)]
pub struct PauseClient {
    way: Way,
}

impl PauseClient {
    /// A client whose connections are dialled by this.
    pub fn new(dial: impl Dial) -> Self {
        Self { way: Way { dial: Arc::new(dial), tls: None } }
    }

    /// The same, by TLS on each connection.
    #[must_use]
    pub fn over_tls(&self, tls: Tls) -> Self {
        Self { way: Way { dial: Arc::clone(&self.way.dial), tls: Some(tls) } }
    }

    /// Asks all at once to pause; ends when each has answered, or `within` has passed. Each may take somewhat less than
    /// what is left of it for its requests under way.
    pub async fn pause(&self, instances: &[Instance], within: Duration) -> Pausing {
        Pausing::begin(self.way.clone(), instances, Instant::now() + within).await
    }

    /// Unpauses all at once, again and again, until each has acknowledged it or `within` has passed; what came of each,
    /// in their order.
    ///
    /// `late` is how long a Pause that somebody has sent may still take effect, zero if none can: as long, what is
    /// acknowledged is asked again, and once more at its end. Nobody listening counts only after it, too.
    pub async fn unpause(
        &self,
        instances: &[Instance],
        late: Duration,
        within: Duration,
    ) -> Vec<Result<Unpaused, InstanceError>> {
        let now = Instant::now();
        let unpausing = |instance| Unpausing {
            way: &self.way,
            instance,
            connection: None,
            late_until: now + late,
            deadline: now + within,
        };
        join_all(instances.iter().map(|instance| unpausing(instance).run())).await
    }

    /// Those that cannot be connected to now. Asks them nothing.
    pub async fn unreachable(&self, instances: &[Instance], within: Duration) -> Vec<InstanceError> {
        let deadline = Instant::now() + within;
        let reach = async |instance: &Instance| {
            let opened = Connection::open(&self.way, instance, deadline).await;
            opened.err().map(|problem| InstanceError::new(instance, problem))
        };
        join_all(instances.iter().map(reach)).await.into_iter().flatten().collect()
    }
}
