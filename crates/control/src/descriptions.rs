//! What nodes say of themselves and of the ring. Every request asks before it is checked, and each question may be a
//! login and an agent on the node: so one at a time asks a node, and its answer is for all who had come before it was
//! asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::timeout;

use crate::nodes::{NodeAccess, NodeDescription, NodeErrorKind};
use crate::operations::{OperationError, OperationErrorKind};

/// To connect to one node, its agent pushed first if need be, and read what it says of itself.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(180);
/// For the question under way, and for one more.
const TURN_LIMIT: Duration = Duration::from_secs(400);

type Answer = Result<NodeDescription, OperationError>;

/// See the module.
pub(crate) struct Descriptions {
    access: Arc<dyn NodeAccess>,
    /// By address.
    nodes: Mutex<HashMap<String, Weak<Node>>>,
}

/// What was asked of one node, as long as somebody waits for it.
#[derive(Default)]
struct Node {
    /// Questions that have begun.
    begun: AtomicU64,
    /// The last answer, and the number of its question.
    last: tokio::sync::Mutex<Option<(u64, Answer)>>,
}

impl Descriptions {
    pub(crate) fn new(access: Arc<dyn NodeAccess>) -> Self {
        Self { access, nodes: Mutex::default() }
    }

    /// What a node says of itself and of the ring, asked no earlier than now.
    pub(crate) async fn of(&self, host: &str) -> Answer {
        let node = self.node(host);
        let begun_before = node.begun.load(Ordering::SeqCst);
        let Ok(mut last) = timeout(TURN_LIMIT, node.last.lock()).await else { return Err(crowded(host)) };
        if let Some((number, answer)) = &*last
            && *number > begun_before
        {
            return answer.clone();
        }
        let number = node.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = self.ask(host).await;
        *last = Some((number, answer.clone()));
        answer
    }

    async fn ask(&self, host: &str) -> Answer {
        let asked = async { self.access.cassandra(host).await?.describe().await };
        match timeout(DESCRIBE_LIMIT, asked).await {
            Ok(Ok(described)) => Ok(described),
            Ok(Err(error)) => {
                let kind = match error.kind {
                    NodeErrorKind::Permanent => OperationErrorKind::FailedPrecondition,
                    _ => OperationErrorKind::Unavailable,
                };
                Err(OperationError { kind, message: error.message, hints: error.hint.into_iter().collect() })
            }
            Err(_elapsed) => {
                let message =
                    format!("{host}: its Cassandra did not answer within {} s", DESCRIBE_LIMIT.as_secs());
                Err(OperationError::new(OperationErrorKind::Unavailable, message))
            }
        }
    }

    fn node(&self, host: &str) -> Arc<Node> {
        let mut all = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, node| node.strong_count() > 0);
        let known = all.get(host).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let node = Arc::<Node>::default();
            all.insert(host.to_owned(), Arc::downgrade(&node));
            node
        })
    }
}

/// Those before it have hung up one after another, each in the middle of its question.
fn crowded(host: &str) -> OperationError {
    let message = format!(
        "{host}: too many requests want to ask this node; this one has waited {} s for its turn",
        TURN_LIMIT.as_secs()
    );
    OperationError::new(OperationErrorKind::Exhausted, message)
        .hint("send the request again when others have ended")
}
